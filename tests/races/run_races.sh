#!/usr/bin/env bash
# Runs a program that ThreadSanitizer compiled, or says that it does not run on this machine (77).
# usage: run_races.sh PROGRAM
set -euo pipefail
OUT=$(mktemp)
trap 'rm -f "$OUT"' EXIT
export TSAN_OPTIONS=exitcode=66:atexit_sleep_ms=0

code=0
"$1" >"$OUT" 2>&1 || code=$?
if ((code != 0)) && grep -q 'FATAL: ThreadSanitizer' "$OUT"; then
    echo "skipped: ThreadSanitizer does not run here"
    head -2 "$OUT"
    exit 77
fi
head -c 100000 "$OUT"
exit "$code"
