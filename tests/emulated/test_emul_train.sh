# The program on an emulated GPU: every architecture trains there on one rank and on two (a GPU each, by
# the stand-in of NCCL, and one GPU for both, through the host's memory), from a store that the device
# wrote. On the same activations coders of exact rules have the bits of the CPU's, whatever their products
# multiply; the others' losses agree. So do they with activations that the device makes as it trains. A run
# that was killed goes on to the same bits; no GPU and too small a GPU are said in a line.
. "$1/tests/cli/lib.sh"
emulated=$build_dir/emul/bin/refract

cat >run.yaml <<YAML
model: {path: model}
data: {path: pictures, holdout: 0.2}
activations: {group_pictures: 4, pool_groups: 3, source: store, store: acts.h5}
coders:
  - {name: topk, input: blocks.1.hook_resid_post, architecture: topk, latents: 96, k: 6, dead_after_tokens: 500}
  - {name: topk-tf32, input: blocks.1.hook_resid_post, architecture: topk, latents: 96, k: 6, products: tf32}
  - {name: topk-bf16, input: blocks.1.hook_resid_post, architecture: topk, latents: 96, k: 6, products: bf16}
  - {name: multi, input: blocks.1.hook_resid_post, architecture: multi_topk, latents: 96, k: 4}
  - {name: batch, input: blocks.1.hook_resid_post, architecture: batch_topk, latents: 96, k: 6}
  - {name: matryoshka, input: blocks.1.hook_resid_post, architecture: matryoshka, latents: 96, k: 6}
  - {name: transcoder, input: blocks.0.hook_resid_post, target: blocks.1.hook_resid_post, architecture: topk, latents: 96, k: 6}
  - {name: crosscoder, input: [blocks.0.hook_resid_post, blocks.1.hook_resid_post], architecture: topk, latents: 96, k: 6}
  - {name: relu, input: blocks.1.hook_resid_post, architecture: relu, latents: 96}
  - {name: jump, input: blocks.1.hook_resid_post, architecture: jumprelu, latents: 96}
  - {name: gated, input: blocks.1.hook_resid_post, architecture: gated, latents: 96}
  - {name: anneal, input: blocks.1.hook_resid_post, architecture: p_anneal, latents: 96}
train: {batch_tokens: 128, epochs: 2, lr: 3e-3, warmup_steps: 5, checkpoint_every: 5, threads: 1, sample_tokens: 256, log_every: 1}
output: {dir: run}
YAML
exact="topk topk-tf32 topk-bf16 multi batch matryoshka transcoder crosscoder"
others="relu jump gated anneal"
REFRACT_EMUL_DEVICES=2 ranks 2 "$emulated" cache run.yaml train.device=cuda activations.source=live \
    activations.hooks='[blocks.0.hook_resid_post, blocks.1.hook_resid_post]' >log.txt 2>&1 || { cat log.txt; fail "cache"; }
"$refract" train run.yaml output.dir=cpu train.device=cpu >log.txt 2>&1 || { cat log.txt; fail "CPU"; }
"$refract" train run.yaml output.dir=cpu-live train.device=cpu activations.source=live >log.txt 2>&1 || { cat log.txt; fail "CPU, live"; }

# losses RUN CODER: of each step.
losses() {
    grep "\"coder\": *\"$2\"" "$1/metrics.jsonl" | sed 's/.*"loss": *\([-0-9.e+]*\).*/\1/'
}

# near TOLERANCE RUN OF CODERS: the losses of each step.
near() {
    local c
    for c in $4; do
        paste <(losses $3 $c) <(losses $2 $c) | awk -v tolerance=$1 '
            {d = ($1 - $2) / $1; if (d < 0) d = -d; if (!(d <= tolerance)) {print; exit 1}; n++}
            END {if (n < 10) exit 1}' || fail "$2: the loss of $c differs by more than $1"
    done
}

# tensors FILE: what lies behind the header, which names settings.
tensors() {
    tail -c +$(($(od -An -t u8 -N 8 "$1") + 9)) "$1"
}

# same_bits RUN: the coders of exact rules, as the CPU's.
same_bits() {
    local c
    for c in $exact; do
        cmp <(tensors cpu/$c/coder.safetensors) <(tensors $1/$c/coder.safetensors) || fail "$1: another coder $c"
    done
}

agrees() {
    same_bits $1
    near 2e-5 $1 cpu "$others" # sums in another order, an entry more or less where rounding decides
}

# train RUN N_RANKS [SETTINGS...]
train() {
    local dir=$1 n=$2 program=("$emulated")
    shift 2
    ((n == 1)) || program=(ranks $n "$emulated")
    "${program[@]}" train run.yaml output.dir=$dir train.device=cuda "$@" >log.txt 2>&1 || { tail -n 30 log.txt; fail "$dir"; }
}
# figures RUN: every step's, but for what a clock says.
figures() {
    sed 's/, *"tokens_per_s.*//' "$1/metrics.jsonl"
}
train gpu 1
agrees gpu
for order in reverse random; do
    REFRACT_EMUL_ORDER=$order train $order 1
    agrees $order
done

# Two ranks, whose exchange runs ahead of the step where no event holds it.
# The same two ranks on one GPU, through the host's memory, have every figure.
REFRACT_EMUL_DEVICES=2 REFRACT_EMUL_STREAMS=ahead train two-gpus 2
agrees two-gpus
train shared-gpu 2
expect_in log.txt "ranks share a GPU"
cmp <(figures two-gpus) <(figures shared-gpu) || fail "two GPUs and one for two ranks differ"
[[ $(figures two-gpus | grep -c explained_variance) -gt 20 ]] || fail "no figures to compare"

# Every coder with products of TF32, of bf16. The others' operands lose bits that the CPU's keep.
n_coders=$(wc -w <<<"$exact $others")
products() {
    local i
    for ((i = 0; i < n_coders; i++)); do
        echo "coders.$i.products=$1"
    done
}
REFRACT_EMUL_ORDER=lockstep train tf32 1 $(products tf32)
same_bits tf32
near 1e-2 tf32 cpu "$others"
train one-gpu 2 $(products bf16)
same_bits one-gpu
near 1e-2 one-gpu cpu "$others"

# Activations that the device makes: another rounding of each, by which a selection may turn.
REFRACT_EMUL_DEVICES=2 train live 2 activations.source=live
near 1e-3 live cpu-live "$exact $others"
for c in $exact; do
    ! cmp -s cpu-live/$c/coder.safetensors live/$c/coder.safetensors || fail "live: the transformer ran on the CPU"
done

# Killed at a checkpoint, resumed.
"$emulated" train run.yaml output.dir=killed train.device=cuda >log.txt 2>&1 &
job=$!
for ((i = 0; i < 3000; i++)); do
    compgen -G 'killed/checkpoints/*[0-9].h5' >/dev/null && break
    sleep 0.1
done
kill -9 $job
wait $job || true
"$emulated" train run.yaml output.dir=killed train.device=cuda train.resume=must >log.txt 2>&1 || { cat log.txt; fail "resume"; }
expect_in log.txt "going on"
for c in $exact $others; do
    cmp gpu/$c/coder.safetensors killed/$c/coder.safetensors || fail "resumed: another coder $c"
done

# What goes wrong is said in a line.
REFRACT_EMUL_DEVICES=0 expect_exit 1 "$emulated" train run.yaml output.dir=none train.device=cuda
expect_in err.txt "no GPU to compute on"
[[ $(wc -l <err.txt) == 1 ]] || fail "more than a line"
REFRACT_EMUL_MEMORY=35000000 expect_exit 1 "$emulated" train run.yaml output.dir=small train.device=cuda
expect_in err.txt "the GPU is out of memory"
expect_in err.txt "train.coders_at_once"
