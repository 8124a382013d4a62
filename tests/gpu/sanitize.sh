#!/usr/bin/env bash
# A program under compute-sanitizer: any finding, and any failure of the program, fails.
# usage: sanitize.sh SANITIZER memcheck|racecheck|synccheck|initcheck PROGRAM
# SANITIZER: the program, or what CMake says where it found none.
set -euo pipefail
sanitizer=$1 tool=$2 program=$3
if [[ ! -x $sanitizer ]]; then
    sanitizer=$(command -v compute-sanitizer) || {
        echo "skipped: no compute-sanitizer (it comes with the CUDA toolkit)"
        exit 77
    }
fi
exec "$sanitizer" --tool "$tool" --error-exitcode 99 "$program"
