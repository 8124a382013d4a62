#!/usr/bin/env bash
# A tiny model's activations, stored once; coders of every architecture trained on them on the CPU, on a
# GPU, by two ranks on one GPU, and on two GPUs where there are two. Those of exact rules have the CPU's bits, whatever multiplies; the
# losses of the others agree.
# usage: train_on_gpu.sh SOURCE BUILD [PROGRAM]
# PROGRAM: what trains on the GPU, when that is not BUILD/bin/refract (tests/emulated builds one).
. "$1/tests/cli/lib.sh"
program=${3:-$refract}

cat >run.yaml <<YAML
model: {path: model}
data: {path: pictures, holdout: 0.2}
activations: {group_pictures: 4, pool_groups: 3, source: store, store: acts.h5}
coders:
  - {name: topk, architecture: topk, k: 6, dead_after_tokens: 500}
  - {name: topk-tf32, architecture: topk, k: 6, products: tf32}
  - {name: topk-bf16, architecture: topk, k: 6, products: bf16}
  - {name: multi, architecture: multi_topk, k: 4}
  - {name: batch, architecture: batch_topk, k: 6}
  - {name: matryoshka, architecture: matryoshka, k: 6}
  - {name: relu, architecture: relu}
  - {name: jump, architecture: jumprelu}
  - {name: gated, architecture: gated}
  - {name: anneal, architecture: p_anneal}
train: {batch_tokens: 128, epochs: 2, lr: 3e-3, warmup_steps: 5, threads: 1, sample_tokens: 256, log_every: 1}
output: {dir: run}
YAML
sed -i 's/architecture:/input: blocks.1.hook_resid_post, latents: 96, architecture:/' run.yaml
exact="topk topk-tf32 topk-bf16 multi batch matryoshka"
others="relu jump gated anneal"

"$refract" cache run.yaml activations.source=live activations.hooks='[blocks.1.hook_resid_post]' \
    train.device=cpu >log.txt 2>&1 || { cat log.txt; fail "cache"; }
"$refract" train run.yaml output.dir=cpu train.device=cpu >log.txt 2>&1 || { cat log.txt; fail "CPU"; }

# losses RUN CODER: of each step.
losses() {
    grep "\"coder\": *\"$2\"" "$1/metrics.jsonl" | sed 's/.*"loss": *\([-0-9.e+]*\).*/\1/'
}

# Losses differ by 1e-4 at most: products and sums of fp32 in another order and another expf, 1e-6 of a
# gradient, and ten steps of Adam, which turns the smallest gradients into whole steps.
agrees() {
    local c
    for c in $exact; do
        cmp "cpu/$c/coder.safetensors" "$1/$c/coder.safetensors" || fail "$1: another coder $c"
    done
    for c in $others; do
        paste <(losses cpu $c) <(losses "$1" $c) | awk -v name="$1, $c" '
            {d = ($1 - $2) / $1; if (d < 0) d = -d; if (!(d <= 1e-4)) {print; bad = 1}; if (d > most) most = d; n++}
            END {printf "%s: losses differ by %.1e at most\n", name, most; exit bad || n < 10}' ||
            fail "$1: the loss of $c differs"
    done
}

"$program" train run.yaml output.dir=gpu train.device=cuda >log.txt 2>&1 || { cat log.txt; fail "GPU"; }
agrees gpu
visible=${CUDA_VISIBLE_DEVICES:-0}
CUDA_VISIBLE_DEVICES=${visible%%,*} ranks 2 "$program" train run.yaml output.dir=two train.device=cuda \
    >log.txt 2>&1 || { cat log.txt; fail "two ranks on one GPU"; }
agrees two
n_gpus=$({ "$build_dir/tests/has_gpu" || true; } 2>/dev/null | grep -c '^GPU [0-9]' || true)
if ((n_gpus > 1)); then
    ranks 2 "$program" train run.yaml output.dir=nccl train.device=cuda >log.txt 2>&1 ||
        { cat log.txt; fail "two GPUs"; }
    agrees nccl
else
    echo "not tried, as there are no two GPUs: NCCL between them"
fi
echo "exact coders have the bits of the CPU's"
