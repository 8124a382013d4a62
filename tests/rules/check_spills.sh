#!/usr/bin/env bash
# No kernel keeps registers in memory: what nvcc built says so of each, for every architecture.
# usage: check_spills.sh SOURCE BUILD
set -euo pipefail
library=$2/cuda/librefract_cuda.a

[[ -f $library ]] || {
    echo "skipped: this build has no CUDA backend"
    exit 77
}
command -v cuobjdump >/dev/null || {
    echo "skipped: there is no cuobjdump"
    exit 77
}
cuobjdump --dump-resource-usage "$library" | awk '
    /^ *Function/ { name = $2; sub(/:$/, "", name) }
    /REG:/ {
        n++
        for (i = 1; i <= NF; i++) {
            if ($i ~ /^(STACK|LOCAL):/ && $i !~ /:0$/) {
                print name ": " $0
                bad = 1
            }
        }
    }
    END {
        if (n < 100) {
            print "only " n + 0 " kernels were seen"
            exit 1
        }
        if (bad) exit 1
        print n " kernels keep nothing in memory"
    }'
