#!/usr/bin/env bash
# The test of the tests: each class of bug is put in, and the emulation must see it; without the bug
# the same program must pass.
# usage: test_emul_bugs.sh SOURCE BUILD
set -euo pipefail

SOURCE=$1
TESTS=$2/tests
OUT=$(mktemp)
trap 'rm -f "$OUT"' EXIT
failed=0
cases="barrier divergent mask exited sync_warp global_write global_read shared_write shared_read
    unset blocks stack static_and_dynamic missing_event missing_wait early_reuse count_of_bytes
    host_touch host_pointer use_after_free"
export ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=exitcode=66:atexit_sleep_ms=0
unset REFRACT_EMUL_ORDER REFRACT_EMUL_SEED REFRACT_EMUL_STREAMS REFRACT_EMUL_RACES

if [[ ! -x $TESTS/emul_bugs ]]; then
    echo "skipped: $TESTS/emul_bugs is not built"
    exit 77
fi

fail() {
    echo "FAILED: $*"
    sed 's/^/    /' "$OUT" | head -30
    failed=1
}

# Runs a case: the exit code is in `code`, what it printed in $OUT.
run_case() {
    code=0
    "$@" >"$OUT" 2>&1 || code=$?
}

# The line of broken_kernels.cu that holds "BUG <case>".
line_of() {
    grep -n "BUG $1\\b" "$SOURCE/tests/emul/broken_kernels.cu" | cut -d: -f1
}

# expect PROGRAM CASE CODE [WORDS]: with its bug it ends with CODE, and says WORDS.
expect() {
    local program=$1 name=$2 want=$3 words=${4-}

    run_case "$TESTS/$program" "$name" broken
    if [[ $code != "$want" ]]; then
        fail "$program $name: exit code $code, expected $want"
    elif [[ -n $words ]] && ! grep -qE -- "$words" "$OUT"; then
        fail "$program $name does not say \"$words\""
    else
        echo "$program: $name: caught, exit code $code${REFRACT_EMUL_ORDER:+, $REFRACT_EMUL_ORDER}"
    fi
}

# A random order finds it with one of some seeds.
expect_random() {
    local seed
    for seed in 1 2 3 4 5 6 7 8; do
        run_case env REFRACT_EMUL_ORDER=random REFRACT_EMUL_SEED="$seed" "$TESTS/emul_bugs" "$1" broken
        if [[ $code == 3 ]]; then
            echo "emul_bugs: $1: caught, exit code 3, random, seed $seed"
            return
        fi
    done
    fail "emul_bugs $1 is right with every seed"
}

expect_right() {
    local program=$1 name
    for name in $cases; do
        run_case "$TESTS/$program" "$name" right
        if [[ $code != 0 ]]; then
            fail "$program $name is right, but ended with $code"
        fi
    done
}

# 3: the result was wrong, 86: the emulation stopped it.
plain() {
    expect emul_bugs divergent 86 'divergent __syncthreads'
    expect emul_bugs mask 86 'deadlock'
    expect emul_bugs exited 86 'a lane that has exited'
    expect emul_bugs global_write 86 'global_write wrote outside .* 0 bytes behind the end of an allocation of 1024'
    expect emul_bugs global_read 3
    expect emul_bugs shared_write 86 'behind the end of a shared array'
    expect emul_bugs shared_read 3
    expect emul_bugs unset 3
    expect emul_bugs stack 86 'stack of a kernel'
    expect emul_bugs static_and_dynamic 86 'more shared memory'
    expect emul_bugs missing_event 3
    expect emul_bugs missing_wait 3
    expect emul_bugs early_reuse 3
    expect emul_bugs count_of_bytes 86 '4096 bytes .* allocation of 1024'
    expect emul_bugs host_touch 86 'the host touched device memory at \+24 of an allocation of 1024'
    expect emul_bugs host_pointer 86 'argument 2 of kernel unset'
    expect emul_bugs use_after_free 86 'argument 2 of kernel global_read'
}

orders="forward reverse random lockstep"

for order in $orders; do
    REFRACT_EMUL_ORDER=$order expect_right emul_bugs
done
for order in forward reverse; do # in lockstep no warp runs ahead: the sum is right
    REFRACT_EMUL_ORDER=$order expect emul_bugs barrier 3
    REFRACT_EMUL_ORDER=$order expect emul_bugs sync_warp 3
done
expect_random barrier
plain

if [[ -x $TESTS/emul_bugs_asan ]]; then
    expect_right emul_bugs_asan
    for name in global_write global_read shared_write shared_read; do
        expect emul_bugs_asan "$name" 1 'AddressSanitizer: use-after-poison'
        grep -q "broken_kernels.cu:$(line_of "$name")" "$OUT" || fail "ASan does not name the line of $name"
    done
else
    echo "note: the compilers have no AddressSanitizer in common, so its part is left out"
fi

# Races alone: the checker sees no bounds, values or streams (they take turns on one thread), and
# its stacks are too large for the case `stack`.
if [[ ! -x $TESTS/emul_bugs_tsan ]]; then
    echo "note: the compilers have no ThreadSanitizer in common, so the race checker is left out"
elif run_case "$TESTS/emul_bugs_tsan" unset right && grep -q 'FATAL: ThreadSanitizer' "$OUT"; then
    echo "note: ThreadSanitizer does not run here, so the race checker is left out:"
    head -2 "$OUT"
else
    for order in $orders; do
        export REFRACT_EMUL_ORDER=$order
        expect_right emul_bugs_tsan
        for name in barrier sync_warp blocks; do
            expect emul_bugs_tsan "$name" 66 'ThreadSanitizer: data race'
            grep -q "broken_kernels.cu:$(line_of "$name")" "$OUT" || fail "TSan does not name the line of $name"
        done
    done
fi
((failed == 0)) && echo ok
exit "$failed"
