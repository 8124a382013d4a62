# What the scripts of this folder share. Sourced with the arguments SOURCE_DIR BUILD_DIR.
# Each test works in a fresh folder with a tiny model, classifier and pictures (make_tiny.c).
set -euo pipefail
source_dir=$1
build_dir=$2
refract=$build_dir/bin/refract
work=$(mktemp -d "${TMPDIR:-/tmp}/refract-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
"$build_dir/tests/make_tiny" .
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# expect_in FILE WORDS...: the fixed string stands in the file.
expect_in() {
    local file=$1
    shift
    grep -qF -- "$*" "$file" || {
        printf -- '--- %s:\n' "$file" >&2
        tail -n 20 "$file" >&2
        fail "'$*' is not in $file"
    }
}

expect_file() {
    local f
    for f in "$@"; do
        [[ -s $f ]] || fail "$f is missing or empty"
    done
}

# expect_exit CODE COMMAND...: exit code as said; output in out.txt and err.txt.
expect_exit() {
    local want=$1 got=0
    shift
    "$@" >out.txt 2>err.txt </dev/null || got=$?
    [[ $got == "$want" ]] || {
        tail -n 20 out.txt err.txt >&2
        fail "exit $got, expected $want: $*"
    }
}

ranks() {
    local n=$1
    shift
    mpirun -n "$n" --oversubscribe --bind-to none --mca odls_base_sigkill_timeout 5 \
        --mca mpi_yield_when_idle 1 "$@"
}

# start_ranks N COMMAND...: in the background; $job is mpirun itself, so that signals reach it.
start_ranks() {
    local n=$1
    shift
    (exec mpirun -n "$n" --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 "$@") \
        >log.txt 2>&1 &
    job=$!
}

# A run file for the tiny model; arguments: FILE OUTPUT_DIR [lines of the coders' section].
tiny_coders='  - {name: topk, input: blocks.1.hook_resid_post, architecture: topk, latents: 128, k: 6, dead_after_tokens: 2000}
  - {name: relu, input: blocks.1.hook_resid_post, architecture: relu, latents: 96, l1: 1e-3, tokens: patch, batch_tokens: 96}'
tiny_run() {
    cat >"$1" <<YAML
model: {path: model}
data: {path: pictures, holdout: 0.2}
activations: {group_pictures: 4, pool_groups: 3}
coders:
${3:-$tiny_coders}
train: {batch_tokens: 128, epochs: 6, lr: 3e-3, warmup_steps: 5, checkpoint_every: 10, threads: 1, sample_tokens: 512}
output: {dir: $2}
YAML
}
