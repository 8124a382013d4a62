# Copies that run beside the work wait for it where they must: on an emulated GPU, whose streams run as
# late as the rules allow and in any order, every way of reading and writing activations gives the bits
# that it gives where each operation is done at once.
. "$1/tests/cli/lib.sh"
emulated=$build_dir/emul/bin/refract
[[ -x $emulated ]] || {
    echo "skipped: there is no emulated GPU in this build"
    exit 77
}

cat >run.yaml <<YAML
model: {path: model}
data: {path: pictures, holdout: 0.2}
activations: {group_pictures: 4, pool_groups: 3}
coders:
  - {name: one, input: blocks.1.hook_resid_post, architecture: topk, latents: 64, k: 6}
  - {name: two, input: [blocks.0.hook_resid_post, blocks.1.hook_resid_post], architecture: topk, latents: 64, k: 6, tokens: patch, batch_tokens: 96, max_norm: 1000}
  - {name: three, input: blocks.2.hook_resid_post, architecture: topk, latents: 64, k: 6, batch_tokens: 80}
train: {batch_tokens: 128, epochs: 2, lr: 3e-3, threads: 1, sample_tokens: 256, device: cuda}
output: {dir: run}
YAML

# run NAME STREAMS COMMAND SETTING...: on streams of that kind, in folder NAME.
run() {
    local name=$1 streams=$2 command=$3
    shift 3
    REFRACT_EMUL_STREAMS=$streams "$emulated" "$command" run.yaml output.dir="$name" "$@" >log.txt 2>&1 ||
        { tail -n 20 log.txt; fail "$name"; }
}

# same A B: what two runs left.
same() {
    local c
    for c in one two three; do
        cmp "$1/$c/coder.safetensors" "$2/$c/coder.safetensors" || fail "$2: another coder $c than $1"
    done
    if [[ -n $store ]]; then
        cmp "$1.h5" "$2.h5" || fail "$2: another store than $1"
    fi
}

# check NAME ORDERS SETTING...: training with these settings, in the ORDERS of streams.
check() {
    local name=$1 orders=$2 order
    shift 2
    run "$name-eager" eager train "$@" ${store:+activations.store="$name-eager.h5"}
    for order in $orders; do
        run "$name-$order" "$order" train "$@" ${store:+activations.store="$name-$order.h5"}
        same "$name-eager" "$name-$order"
    done
}

store=
check live "newest ahead"
check keep "newest ahead" activations.keep_bytes=1000000000
check some-kept "newest" activations.keep_bytes=80000
store=yes
check both "newest" activations.source=both
check both-half "newest ahead" activations.source=both activations.dtype=bf16

# Groups that are there between groups that are made.
run part eager train activations.source=both activations.pool_groups=1 activations.share=0.5 activations.store=part.h5
for order in eager newest; do
    cp part.h5 mixed-$order.h5
    run mixed-$order $order train activations.source=both activations.pool_groups=1 activations.store=mixed-$order.h5
    same mixed-eager mixed-$order
done

# `cache` writes the store that a run writes beside itself, and the run that reads it has its coders.
for order in newest oldest; do
    REFRACT_EMUL_STREAMS=$order "$emulated" cache run.yaml activations.store=cached-$order.h5 activations.dtype=bf16 \
        >log.txt 2>&1 || { tail -n 20 log.txt; fail "cache"; }
done
cmp cached-newest.h5 cached-oldest.h5 || fail "another store in another order"
store=
for order in newest ahead; do
    run stored-$order $order train activations.source=store activations.store=cached-newest.h5 activations.dtype=bf16
    same both-half-eager stored-$order
done
