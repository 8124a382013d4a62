#!/usr/bin/env bash
# A rank that dies ends the job within seconds, with its name; ranks do not outlive mpirun.
# usage: test_mpi_death.sh SOURCE BUILD
set -euo pipefail

PROGRAM=$2/tests/helper_endless_sums
LIMIT=20 # seconds; 2 to 3 were seen on an idle machine
WORK=$(mktemp -d)
started=()

# Only what this script started, by its number.
clean_up() {
    local pid
    for pid in "${started[@]}"; do
        kill -9 "$pid" 2>/dev/null || true
    done
    rm -rf "$WORK"
}
trap clean_up EXIT

fail() {
    printf 'FAILED: %s\n' "$*"
    sed 's/^/  | /' "$WORK"/*.txt
    exit 1
}

pids_of_ranks() {
    sed -n 's/^pid \([0-9]*\)$/\1/p' "$WORK/out.txt"
}

# Wait until `$1` ranks have said their number.
await_ranks() {
    local waited=0
    until (($(pids_of_ranks | wc -l) == $1)); do
        ((waited++ < 600)) || fail "$1 ranks did not start within 60 s"
        sleep 0.1
    done
    mapfile -t -O "${#started[@]}" started < <(pids_of_ranks)
}

# Wait until none of the processes is there; a zombie that nobody has collected is not there.
await_end() {
    local end=$((SECONDS + LIMIT)) pid alive
    while ((SECONDS < end)); do
        alive=0
        for pid in "$@"; do
            if [[ -r /proc/$pid/stat && $(cut -d ' ' -f 3 "/proc/$pid/stat" 2>/dev/null) != [ZX]* ]]; then
                alive=1
            fi
        done
        ((alive == 0)) && return
        sleep 0.1
    done
    return 1
}

start() {
    : >"$WORK/out.txt"
    mpirun --bind-to none -n 3 "$PROGRAM" "$@" >"$WORK/out.txt" 2>"$WORK/err.txt" &
    mpirun_pid=$!
    started=("$mpirun_pid")
    await_ranks 3
}

[[ -x $PROGRAM ]] || { echo "no $PROGRAM"; exit 1; }

# A rank dies in the middle of a sum.
start 2
await_end "${started[@]}" || fail "the job hangs after rank 2 died"
status=0
wait "$mpirun_pid" || status=$?
((status != 0)) || fail "mpirun gave exit status 0 after rank 2 died"
grep -q 'rank 2 .*signal 9' "$WORK/err.txt" || fail "mpirun does not name rank 2 and signal 9"
echo "ok: a dead rank ends the job (exit status $status), with its rank and signal named"

# mpirun itself is killed, and cannot tell anybody.
start
kill -9 "$mpirun_pid"
wait "$mpirun_pid" 2>/dev/null || true
await_end "${started[@]:1}" || fail "ranks outlive mpirun"
echo "ok: ranks end when mpirun is killed"
