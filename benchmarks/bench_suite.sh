#!/usr/bin/env bash
# Read once, train many: one coder on each of the first layers of a model from one reading, against as many separate runs,
# in turns, and the ratio of their times. The coders of both must have the same bits.
# usage: bench_suite.sh REFRACT MODEL PICTURES [name=value ...]
#   layers=12 latents=6144 k=32 tokens=200000 batch=4096 ranks=1 repeats=1
set -euo pipefail
(($# >= 3)) || {
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
}
refract=$(realpath "$1")
model=$(realpath "$2")
pictures=$(realpath "$3")
layers=12 latents=6144 k=32 tokens=200000 batch=4096 ranks=1 repeats=1
for word in "${@:4}"; do
    [[ $word =~ ^(layers|latents|k|tokens|batch|ranks|repeats)=[0-9]+$ ]] || {
        echo "$word: expected layers=, latents=, k=, tokens=, batch=, ranks= or repeats= and a number" >&2
        exit 2
    }
    declare "$word"
done
work=$(mktemp -d "${TMPDIR:-/tmp}/bench-suite.XXXXXX")
trap 'rm -rf "$work"' EXIT

# run NAME LAYERS: seconds of a run over these layers, checkpoints only at its end.
run() {
    cat >"$work/$1.yaml" <<YAML
model: {path: $model}
data: {path: $pictures}
coders:
  - {name: "l{layer}", input: "blocks.{layer}.hook_resid_post", architecture: topk, latents: $latents, k: $k, each: {layer: $2}}
train: {batch_tokens: $batch, total_tokens: $tokens, warmup_steps: 0, checkpoint_every: 1000000}
output: {dir: $work/$1}
YAML
    local start
    start=$(date +%s.%N)
    if ((ranks > 1)); then
        mpirun -n "$ranks" --oversubscribe --bind-to none "$refract" train "$work/$1.yaml"
    else
        "$refract" train "$work/$1.yaml"
    fi >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        exit 1
    }
    awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN {printf "%.3f\n", b - a}'
}

for ((r = 0; r < repeats; r++)); do
    rm -rf "$work"/together* "$work"/alone*
    together=$(run together "0..$((layers - 1))")
    alone=0
    for ((l = 0; l < layers; l++)); do
        seconds=$(run "alone-$l" "[$l]")
        alone=$(awk -v a="$alone" -v b="$seconds" 'BEGIN {printf "%.3f\n", a + b}')
        cmp "$work/together/l$l/coder.safetensors" "$work/alone-$l/l$l/coder.safetensors"
    done
    awk -v t="$together" -v a="$alone" -v n="$layers" -v f="$latents" -v k="$k" -v tokens="$tokens" 'BEGIN {
        printf "%d coders (F %d, k %d, %d tokens each): one reading %.1f s, %d runs %.1f s, ratio %.3f\n",
            n, f, k, tokens, t, n, a, t / a
    }'
done
