# n + m steps with a stop between equal n + m steps without, bit for bit, whatever stopped it.
. "$(dirname "$0")/lib.sh"

tiny_run run.yaml run
sed -i 's/epochs: 6/epochs: 40/; s/checkpoint_every: 10/checkpoint_every: 25/' run.yaml
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
    for ((i = 0; i < 300; i++)); do
        compgen -G "$1/checkpoints/step-*.h5" >/dev/null && return
        sleep 0.1
    done
    cat log.txt
    fail "$1: no checkpoint in 30 s"
}

# A stop by signal: save and leave with 0, then go on with another number of ranks.
for signal in TERM USR1; do
    dir=stopped-$signal
    start_ranks 2 "$refract" train run.yaml output.dir=$dir
    wait_for_checkpoint $dir
    if [[ $signal == TERM ]]; then
        kill -TERM $job
    else
        kill -USR1 $(pgrep -P $job -f "output.dir=$dir" | head -n 1)
    fi
    wait $job || true # mpirun calls a job that it was told to end a failure
    expect_in log.txt "train.resume=auto goes on"
    ranks 2 "$refract" train run.yaml output.dir=$dir train.resume=auto >log.txt 2>&1 || { cat log.txt; fail "$dir: resume"; }
    same_as_whole $dir
done

# Killed: one rank, then mpirun itself.
for victim in rank mpirun; do
    dir=killed-$victim
    start_ranks 2 "$refract" train run.yaml output.dir=$dir
    wait_for_checkpoint $dir
    pids=$(pgrep -P $job -f "output.dir=$dir")
    if [[ $victim == rank ]]; then
        kill -KILL $(tail -n 1 <<<"$pids")
    else
        kill -KILL $job
    fi
    wait $job 2>/dev/null && fail "$dir: a killed job ended with 0"
    for ((i = 0; i < 100; i++)); do
        kill -0 $pids 2>/dev/null || break
        sleep 0.1
    done
    kill -0 $pids 2>/dev/null && fail "$dir: ranks live on ten seconds later"
    [[ $victim == mpirun ]] || expect_in log.txt "signal 9"
    ranks 2 "$refract" train run.yaml output.dir=$dir train.resume=auto >log.txt 2>&1 || { cat log.txt; fail "$dir: resume"; }
    same_as_whole $dir
done

# resume=auto starts where there is nothing yet; resume=must says that there is nothing.
expect_exit 1 "$refract" train run.yaml output.dir=nothing train.resume=must
expect_exit 0 "$refract" train run.yaml output.dir=nothing train.resume=auto train.epochs=1
