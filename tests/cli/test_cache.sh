#!/usr/bin/env bash
# refract cache: the bytes of a store do not depend on ranks or on being stopped, and other tools'
# activations become one.
# usage: test_cache.sh SOURCE BUILD
. "$(dirname "$0")/lib.sh"

golden=$source_dir/tests/golden/import

tiny_run run.yaml run
hooks='activations.hooks=["blocks.{0..1}.hook_resid_post", "hook_pooled"]'

# Of a run, on any number of ranks.
for n in 1 2 3; do
    ranks $n "$refract" cache run.yaml activations.store=by-$n.h5 "$hooks" activations.dtype=bf16 >log.txt 2>&1 ||
        { cat log.txt; fail "cache on $n ranks"; }
    cmp by-1.h5 by-$n.h5 || fail "other bytes on $n ranks"
done
expect_in log.txt "3 hook points of"
expect_in log.txt "wrote "
expect_in log.txt "by-3.h5 has "

# Once more: nothing to do, and nothing is touched.
expect_exit 0 "$refract" cache run.yaml activations.store=by-2.h5 "$hooks" activations.dtype=bf16
expect_in out.txt "by-2.h5 is finished already"
cmp by-1.h5 by-2.h5 || fail "a finished store was changed"

# Another model's or another type's store is not gone on with.
expect_exit 1 "$refract" cache run.yaml activations.store=by-2.h5 "$hooks" activations.dtype=fp16
expect_in err.txt "another activations.dtype"

# Damaged: a run that reads it says where and what to do, and that ends with the bytes it had.
hurt="activations.store=hurt.h5 activations.dtype=bf16"
# shellcheck disable=SC2086
expect_exit 0 "$refract" cache run.yaml $hurt
cp hurt.h5 whole.h5
printf '\x5a\xa5\x5a\xa5\x5a' | dd of=hurt.h5 bs=1 seek=$(($(stat -c %s hurt.h5) / 2)) conv=notrunc status=none
cmp -s whole.h5 hurt.h5 && fail "nothing was damaged"
# shellcheck disable=SC2086
expect_exit 1 "$refract" train run.yaml output.dir=hurt activations.source=store $hurt
expect_in err.txt "with repair=true behind it"
# shellcheck disable=SC2086
ranks 3 "$refract" cache run.yaml $hurt repair=true >log.txt 2>&1 || { cat log.txt; fail "repair"; }
expect_in log.txt "groups checked, 1 damaged, now to be written again"
expect_in log.txt "wrote 1 of"
cmp whole.h5 hurt.h5 || fail "a repaired store has other bytes"
# shellcheck disable=SC2086
expect_exit 0 "$refract" cache run.yaml $hurt repair=true
expect_in out.txt "groups checked, 0 damaged"
expect_exit 1 "$refract" cache run.yaml activations.store=nowhere.h5 repair=true
expect_in err.txt "there is no store 'nowhere.h5' to repair"
expect_exit 2 "$refract" cache run.yaml activations.store=hurt.h5 repair=maybe

# Another job that writes the same store is refused; when the first is gone, nothing is in the way.
exec 9>busy.h5.lock
flock 9
printf '4711 elsewhere\n' >&9
expect_exit 1 "$refract" cache run.yaml activations.store=busy.h5
expect_in err.txt "'busy.h5' is being written by process 4711 on elsewhere"
[[ ! -e busy.h5 ]] || fail "a store was begun under another job's lock"
exec 9>&-
expect_exit 0 "$refract" cache run.yaml activations.store=busy.h5
[[ ! -e busy.h5.lock ]] || fail "the lock of a store stays"

# Stopped by signals and killed, continued on other numbers of ranks.
store=activations.store=stopped.h5
for signal in TERM KILL USR1; do
    start_ranks 2 "$refract" cache run.yaml $store "$hooks" activations.dtype=bf16
    for _ in $(seq 200); do
        [[ -e stopped.h5 ]] && break
        sleep 0.02
    done
    pkill -"$signal" -P "$job" 2>/dev/null || true
    wait "$job" || true
done
ranks 3 "$refract" cache run.yaml $store "$hooks" activations.dtype=bf16 >log.txt 2>&1 || { cat log.txt; fail "going on"; }
cmp by-1.h5 stopped.h5 || fail "a store that was stopped has other bytes"

# A full disk: a clear error, and the same command goes on. (MPI itself needs some room.)
{
    printf '\x93NUMPY\x01\x00\x76\x00%-118s' "{'descr': '<f4', 'fortran_order': False, 'shape': (4000, 1000), }"
    head -c 16000000 /dev/zero
} >zeros.npy
(
    ulimit -f 10000
    expect_exit 1 "$refract" cache zeros.npy out=full.h5
    expect_in err.txt "full.h5"
    expect_in err.txt "File too large"
)
expect_exit 0 "$refract" cache zeros.npy out=full.h5
expect_in out.txt "npy: 1 hook points of 4000 pictures"

# Other tools' activations.
for n in 1 3; do
    ranks $n "$refract" cache "$golden/saev" out=saev-$n.h5 layers=1,11 group_pictures=2 >log.txt 2>&1 ||
        { cat log.txt; fail "import on $n ranks"; }
done
cmp saev-1.h5 saev-3.h5 || fail "an import has other bytes on three ranks"
expect_in log.txt "saev: 2 hook points of 7 pictures"
expect_exit 0 "$refract" cache "$golden/prisma" out=prisma.h5 rows=5 cls=first 'point=blocks.{layer}.hook_mlp_out'
expect_in out.txt "tensors: 2 hook points of 8 pictures"
expect_exit 0 "$refract" cache "$golden/images.npy" out=npy.h5 cls=first "labels=$golden/labels.npy"
expect_in out.txt "npy: 1 hook points of 5 pictures"

# The folder of out= is made, and a damaged import is repaired from its source.
expect_exit 0 "$refract" cache "$golden/images.npy" out=new/folder/x.h5 cls=first "labels=$golden/labels.npy"
cmp npy.h5 new/folder/x.h5 || fail "the same import has other bytes"
expect_exit 0 "$refract" cache "$golden/images.npy" out=npy.h5 cls=first "labels=$golden/labels.npy" repair=true
expect_in out.txt "1 groups checked, 0 damaged"

# A run that was trained from it knows no model: eval says how to name one.
cat >imported.yaml <<'YAML'
data: {holdout: 0}
activations: {source: store, store: npy.h5}
coders: [{name: a, input: activations, architecture: topk, latents: 8, k: 2}]
train: {batch_tokens: 4, epochs: 2, threads: 1, sample_tokens: 16}
output: {dir: imported}
YAML
expect_exit 0 "$refract" train imported.yaml
expect_exit 1 "$refract" eval imported
expect_in err.txt "model.path="

# What is wrong is said, with its place.
expect_exit 1 "$refract" cache "$golden/images.npy" cls=first
expect_in err.txt "out= says which store to write"
expect_exit 1 "$refract" cache "$golden/images.npy" out=x.h5 clss=first
expect_in err.txt "clss"
expect_exit 1 "$refract" cache "$golden/fortran.npy" out=x.h5
expect_in err.txt "fortran.npy"
expect_exit 1 "$refract" cache nowhere.npy out=x.h5
expect_in err.txt "nowhere.npy"
expect_exit 2 "$refract" cache
expect_exit 0 "$refract" cache --help
expect_in out.txt "layers=6,11"
[[ ! -e x.h5 ]] || fail "a refused import left a store"

# Live, out of a store, and live with the store written: one setting apart, and the same coders.
for type in fp32 fp16 bf16; do
    for source in live both store; do
        "$refract" train run.yaml output.dir=$type-$source activations.dtype=$type activations.source=$source \
            activations.store=trained-$type.h5 train.epochs=2 >log.txt 2>&1 || { cat log.txt; fail "train, $source $type"; }
    done
    for coder in "$type"-live/*/coder.safetensors; do
        for source in both store; do
            cmp "$coder" "${coder/live/$source}" || fail "$source gives other coders in $type"
        done
    done
done
if cmp -s fp32-live/relu/coder.safetensors bf16-live/relu/coder.safetensors; then
    fail "bf16 changed nothing"
fi

# A share of the groups leaves the store unfinished, which is said; cache adds the others.
part="activations.store=part.h5 activations.share=0.4 train.epochs=2"
# shellcheck disable=SC2086
expect_exit 0 "$refract" train run.yaml output.dir=part activations.source=both $part
expect_in err.txt "activations.share is 0.4: this run writes"
# shellcheck disable=SC2086
expect_exit 1 "$refract" train run.yaml output.dir=part-2 activations.source=store $part
expect_in err.txt "'refract cache' with the same settings goes on"
# shellcheck disable=SC2086
expect_exit 0 "$refract" cache run.yaml $part
# shellcheck disable=SC2086
expect_exit 0 "$refract" train run.yaml output.dir=part-2 activations.source=store $part
cmp part/topk/coder.safetensors part-2/topk/coder.safetensors || fail "a share gives other coders out of a whole store"
if grep -q "this run writes" err.txt; then
    fail "a store that is whole is called unfinished"
fi
