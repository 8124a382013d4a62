# What `refract plan` says that a run takes of a device, against what the emulated device had in use at
# most: never less, and not much more. With as much memory as predicted the run goes through; with a
# little less than it needs every rank ends, with a line that says what to change; and what plan
# proposes for too small a device is enough.
. "$1/tests/cli/lib.sh"
emulated=$build_dir/emul/bin/refract

cat >run.yaml <<YAML
model: {path: model}
data: {path: pictures, holdout: 0.2}
activations: {group_pictures: 8, pool_groups: 3}
coders:
  - {name: topk, input: blocks.1.hook_resid_post, architecture: topk, latents: 12288, k: 8}
  - {name: batch, input: blocks.1.hook_resid_post, architecture: batch_topk, latents: 12288, k: 8, products: bf16}
  - {name: gated, input: blocks.0.hook_resid_post, architecture: gated, latents: 4096}
train: {batch_tokens: 64, total_tokens: 128, warmup_steps: 1, threads: 1, sample_tokens: 256, device: cuda}
output: {dir: run}
YAML

# bytes_of LABEL FILE: of a line of plan's tables, rounded up.
bytes_of() {
    awk -v label="$1" 'index($0, "  " label) == 1 {
        sub("^  " label " *", ""); unit["B"] = 1; unit["kB"] = 1e3; unit["MB"] = 1e6; unit["GB"] = 1e9
        printf "%.0f\n", ($1 + 0.01) * unit[$2]; exit }' "$2"
}

# A tile of products is planned for a second-level cache of 128 MiB, and a third of it; this device has 50.
tile=$(((128 - 50) * 1048576 / 3))
# For several ranks a library that exchanges is planned, of which the emulation has the buffer for sums alone.
exchange=$(((256 - 32) * 1048576))

# agrees N_RANKS NAME WORDS...: a run with as much memory as plan says; $predicted and $peak are left.
agrees() {
    local n=$1 name=$2 library=$(($1 > 1 ? exchange : 0))
    shift 2
    "$emulated" plan run.yaml ranks=$n "$@" >plan.txt 2>log.txt || { cat log.txt; fail "plan $name"; }
    expect_in plan.txt "that fits"
    predicted=$(bytes_of "on the device, in all" plan.txt)
    local run=("$emulated")
    ((n == 1)) || run=(ranks "$n" "$emulated")
    REFRACT_EMUL_DEVICES=$n REFRACT_EMUL_MEMORY=$predicted REFRACT_EMUL_REPORT=1 \
        "${run[@]}" train run.yaml output.dir="$name" "$@" >log.txt 2>&1 || { grep -v "^[ -]" log.txt | tail -n 30; fail "$name: $predicted bytes are not enough"; }
    peak=$(sed -n 's/^emul: device [0-9]* had \([0-9]*\) bytes.*/\1/p' log.txt | sort -n | tail -n 1)
    ((predicted - library >= peak)) || fail "$name: predicted $predicted ($library of them for exchanges), but $peak were in use"
    ((predicted - library <= peak * 5 / 4 + tile)) || fail "$name: predicted $predicted, only $peak were in use"
    echo "$name: predicted $predicted, in use $peak"
}

"$refract" cache run.yaml activations.source=live activations.store=acts.h5 activations.dtype=bf16 train.device=cpu >log.txt 2>&1 ||
    { cat log.txt; fail "cache"; }
agrees 2 stored activations.source=store activations.store=acts.h5 activations.dtype=bf16
of_second=$(sed -n 's/^emul: device 1 had \([0-9]*\) bytes.*/\1/p' log.txt)
agrees 2 dealt train.ranks_per_coder=1
agrees 1 kept activations.keep_bytes=1000000 train.total_tokens=0 train.epochs=2 train.batch_tokens=700 activations.share=0.3
agrees 1 live

# A little less than is needed, on one rank and on two.
short=$((peak - 100000))
REFRACT_EMUL_MEMORY=$short expect_exit 1 "$emulated" train run.yaml output.dir=short
expect_in err.txt "the GPU is out of memory"
expect_in err.txt "train.coders_at_once"
expect_in err.txt "refract plan"
# On two ranks the second alone has too little, at any point between the first allocation and the last.
cat >second.sh <<SH
[[ \$OMPI_COMM_WORLD_RANK == 0 ]] || export REFRACT_EMUL_MEMORY=\$1
shift
exec "\$@"
SH
for memory in $((of_second - 100000)) $((of_second * 9 / 10)) $((of_second / 2)); do
    got=0
    REFRACT_EMUL_DEVICES=2 ranks 2 timeout 120 bash second.sh $memory "$emulated" train run.yaml output.dir=second \
        activations.source=store activations.store=acts.h5 activations.dtype=bf16 >out.txt 2>err.txt || got=$?
    [[ $got == 1 ]] || { tail -n 20 err.txt; fail "the second rank has $memory bytes: exit $got"; }
    expect_in err.txt "rank 1: "
    expect_in err.txt "the GPU is out of memory"
    rm -rf second
done

# plan says so before, whoever tells it what there is, and what it proposes is enough.
less=$((predicted * 9 / 10))
REFRACT_EMUL_MEMORY=100000000 expect_exit 0 "$emulated" plan run.yaml # too small even to be timed
expect_in out.txt "of 100.00 MB; no change would alone"
expect_exit 0 "$refract" plan run.yaml device_memory=$less
expect_in out.txt "that does NOT fit"
at_once=$(sed -n 's/^  train.coders_at_once=\([0-9]*\)$/\1/p' out.txt)
((at_once >= 1 && at_once <= 2)) || fail "plan proposes coders_at_once=$at_once"
REFRACT_EMUL_MEMORY=$less expect_exit 0 "$emulated" train run.yaml output.dir=passes train.coders_at_once=$at_once
# Too large a batch is halved until it fits.
expect_exit 0 "$refract" plan run.yaml device_memory=2GB train.batch_tokens=1048576
expect_in out.txt "that does NOT fit"
tokens=$(sed -n 's/^  train.batch_tokens=\([0-9]*\),.*/\1/p' out.txt)
expect_exit 0 "$refract" plan run.yaml device_memory=2GB train.batch_tokens=$tokens
expect_in out.txt "that fits"
expect_exit 0 "$refract" plan run.yaml device_memory=2GB train.batch_tokens=$((2 * tokens))
expect_in out.txt "that does NOT fit"

# What cannot be known or meant.
expect_exit 0 "$refract" plan run.yaml
expect_in out.txt "device_memory=80GB says what yours has"
expect_exit 0 "$refract" plan run.yaml device_memory=80GB
expect_in out.txt "of 80.00 GB"
expect_exit 2 "$refract" plan run.yaml device_memory=80GB train.device=cpu
expect_exit 2 "$refract" plan run.yaml device_memory=much
expect_in err.txt "device_memory=much"
expect_exit 2 "$refract" plan run.yaml device_memory=-1GB
expect_exit 0 "$refract" plan run.yaml train.device=cpu
expect_in out.txt "  in all"

# A store that is not read whole is not written whole.
expect_exit 0 "$refract" plan run.yaml activations.source=both activations.share=0.5 train.epochs=1 train.total_tokens=0
expect_in out.txt "the store stays unfinished"
expect_exit 0 "$refract" plan run.yaml activations.source=both train.epochs=1 train.total_tokens=0
! grep -q "stays unfinished" out.txt || fail "a store that is read whole stays unfinished"
