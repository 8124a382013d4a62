# The program on an emulated GPU: every architecture trains there on one rank and on two (a GPU each, by
# the stand-in of NCCL, and one GPU for both, through the host's memory). On the same activations coders
# of exact rules have the bits of the CPU's; the others' losses agree. A run that was killed goes on to
# the same bits; evaluation gives the same figures; no GPU and too small a GPU are said in a line.
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
"$refract" cache run.yaml activations.source=live activations.hooks='[blocks.0.hook_resid_post, blocks.1.hook_resid_post]' \
    >log.txt 2>&1 || { cat log.txt; fail "cache"; }
"$refract" train run.yaml output.dir=cpu train.device=cpu >log.txt 2>&1 || { cat log.txt; fail "CPU"; }

# losses RUN CODER: of each step.
losses() {
    grep "\"coder\": *\"$2\"" "$1/metrics.jsonl" | sed 's/.*"loss": *\([-0-9.e+]*\).*/\1/'
}

# agrees RUN: with the CPU's.
agrees() {
    local c
    for c in $exact; do
        cmp cpu/$c/coder.safetensors $1/$c/coder.safetensors || fail "$1: another coder $c"
    done
    for c in $others; do
        paste <(losses cpu $c) <(losses $1 $c) | awk '
            {d = ($1 - $2) / $1; if (d < 0) d = -d; if (!(d <= 2e-5)) {print; exit 1}; n++}
            END {if (n < 10) exit 1}' || fail "$1: the loss of $c differs by more than 2e-5"
    done
}

train() {
    local dir=$1
    shift
    "$@" train run.yaml output.dir=$dir train.device=cuda >log.txt 2>&1 || { tail -n 30 log.txt; fail "$dir"; }
}
train gpu "$emulated"
agrees gpu
for order in reverse random lockstep; do
    REFRACT_EMUL_ORDER=$order train $order "$emulated"
    agrees $order
done
REFRACT_EMUL_DEVICES=2 train two-gpus ranks 2 "$emulated"
agrees two-gpus
train one-gpu ranks 2 "$emulated"
agrees one-gpu

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

# The same figures.
"$refract" eval cpu >cpu.txt 2>log.txt || { cat log.txt; fail "eval on the CPU"; }
"$emulated" eval gpu >gpu.txt 2>log.txt || { cat log.txt; fail "eval on the GPU"; }

# What goes wrong is said in a line.
REFRACT_EMUL_DEVICES=0 expect_exit 1 "$emulated" train run.yaml output.dir=none train.device=cuda
expect_in err.txt "no GPU to compute on"
[[ $(wc -l <err.txt) == 1 ]] || fail "more than a line"
REFRACT_EMUL_MEMORY=40000000 expect_exit 1 "$emulated" train run.yaml output.dir=small train.device=cuda
expect_in err.txt "the GPU is out of memory"
expect_in err.txt "train.coders_at_once"
