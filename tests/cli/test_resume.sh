# n + m steps with a stop between equal n + m steps without, bit for bit, whatever stopped it.
. "$(dirname "$0")/lib.sh"

tiny_run run.yaml run
sed -i 's/epochs: 6/epochs: 800/; s/checkpoint_every: 10/checkpoint_every: 25/' run.yaml
ranks 2 "$refract" train run.yaml output.dir=whole >log.txt 2>&1 || { cat log.txt; fail "whole"; }

same_as_whole() {
    local coder
    for coder in topk relu; do
        cmp whole/$coder/coder.safetensors "$1/$coder/coder.safetensors" || fail "$1: other bits"
    done
    # The log has each step once.
    cmp <(sed 's/"tokens_per_s": *[^,}]*//' whole/metrics.jsonl) <(sed 's/"tokens_per_s": *[^,}]*//' "$1/metrics.jsonl") ||
        fail "$1: another metrics.jsonl"
}

wait_for_checkpoint() {
    local i
    for ((i = 0; i < 3000; i++)); do
        compgen -G "$1/checkpoints/step-*.h5" >/dev/null && return
        sleep 0.01
    done
    cat log.txt
    fail "$1: no checkpoint in 30 s"
}

go_on() {
    ranks 2 "$refract" train run.yaml output.dir=$1 train.resume=auto >log.txt 2>&1 || { cat log.txt; fail "$1: resume"; }
    same_as_whole $1
}

# begin DIR: a run in the background that has saved once; its ranks are in $pids, mpirun is $job.
begin() {
    start_ranks 2 "$refract" train run.yaml output.dir=$1
    wait_for_checkpoint $1
    pids=$(pgrep -P $job -f "output.dir=$1")
}

# Signals to ranks: save, and leave with 0.
for signal in TERM USR1; do
    dir=stopped-$signal
    begin $dir
    kill -$signal $(head -n 1 <<<"$pids") # one hears it, all stop
    wait $job || { cat log.txt; fail "$dir: a stopped run is not a failure"; }
    expect_in log.txt "train.resume=auto goes on"
    go_on $dir
done

# Killed: one rank, then mpirun itself; and mpirun told to end, which kills its ranks soon after.
for victim in rank mpirun told; do
    dir=killed-$victim
    begin $dir
    case $victim in
    rank) kill -KILL $(tail -n 1 <<<"$pids") ;;
    mpirun) kill -KILL $job ;;
    told) kill -TERM $job ;;
    esac
    wait $job 2>/dev/null && fail "$dir: a killed job ended with 0"
    for ((i = 0; i < 100; i++)); do
        kill -0 $pids 2>/dev/null || break
        sleep 0.1
    done
    kill -0 $pids 2>/dev/null && fail "$dir: ranks live on ten seconds later"
    [[ $victim == rank ]] && expect_in log.txt "signal 9"
    go_on $dir
done

# A signal while the model makes the next pool, which is nearly all that this run does.
tiny_run pools.yaml pools '  - {name: topk, input: blocks.2.hook_resid_post, tokens: cls, batch_tokens: 52, architecture: topk, latents: 64, k: 4}'
sed -i 's/group_pictures: 4, pool_groups: 3/group_pictures: 1, pool_groups: 60/; s/epochs: 6/epochs: 300/' pools.yaml
ranks 2 "$refract" train pools.yaml output.dir=pools-whole >log.txt 2>&1 || { cat log.txt; fail "pools"; }
start_ranks 2 "$refract" train pools.yaml output.dir=pools-stopped
wait_for_checkpoint pools-stopped
kill -TERM $(pgrep -P $job -f "output.dir=pools-stopped" | tail -n 1)
wait $job || { cat log.txt; fail "pools: a stopped run is not a failure"; }
expect_in log.txt "train.resume=auto goes on"
ranks 2 "$refract" train pools.yaml output.dir=pools-stopped train.resume=auto >log.txt 2>&1 || { cat log.txt; fail "pools: resume"; }
cmp pools-whole/topk/coder.safetensors pools-stopped/topk/coder.safetensors || fail "pools: other bits"

# Another number of ranks goes on with the same TopK coder.
begin other-ranks
kill -TERM $(head -n 1 <<<"$pids")
wait $job || { cat log.txt; fail "other-ranks: stop"; }
ranks 3 "$refract" train run.yaml output.dir=other-ranks train.resume=auto >log.txt 2>&1 || { cat log.txt; fail "3 ranks: resume"; }
cmp whole/topk/coder.safetensors other-ranks/topk/coder.safetensors || fail "3 ranks: another TopK coder"

# What would change the result is refused by name; what would not may change; a damaged newest checkpoint is set
# aside for the one before it, with the same bits at the end.
begin changed
kill -TERM $(head -n 1 <<<"$pids")
wait $job || { cat log.txt; fail "changed: stop"; }
expect_exit 1 "$refract" train run.yaml output.dir=changed train.resume=auto train.lr=1e-3
expect_in err.txt "train.lr"
expect_exit 1 "$refract" train run.yaml output.dir=changed train.resume=auto coders.0.k=5
expect_in err.txt "k is 5 and was 6"
cp -r pictures more && cp more/blobs/00.png more/blobs/new.png
expect_exit 1 "$refract" train run.yaml output.dir=changed train.resume=auto data.path=more
expect_in err.txt "other pictures"
cp -r model heavier && printf '\001\001\001\077' | dd of=heavier/model.safetensors bs=1 seek=$(($(stat -c %s model/model.safetensors) - 4)) conv=notrunc 2>/dev/null
expect_exit 1 "$refract" train run.yaml output.dir=changed train.resume=auto model.path=heavier
expect_in err.txt "other weights"
newest=$(ls changed/checkpoints/*.h5 | tail -n 1)
[[ $(ls changed/checkpoints/*.h5 | wc -l) == 2 ]] || fail "changed: expected two checkpoints"
truncate -s -1000 "$newest"
ranks 2 "$refract" train run.yaml output.dir=changed train.resume=auto train.checkpoint_every=1000 >log.txt 2>&1 || { cat log.txt; fail "damaged: resume"; }
expect_file "$newest.bad"
same_as_whole changed

# resume=auto starts where there is nothing yet; resume=must says that there is nothing.
expect_exit 1 "$refract" train run.yaml output.dir=nothing train.resume=must
expect_exit 0 "$refract" train run.yaml output.dir=nothing train.resume=auto train.epochs=1
