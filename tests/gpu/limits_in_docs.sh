#!/usr/bin/env bash
# The tables of docs/gpu.md that are computed are what gpu_limits computes.
# usage: limits_in_docs.sh SOURCE GPU_LIMITS
set -euo pipefail
missing=0
while IFS= read -r line; do
    [[ -z $line ]] || grep -qxF -- "$line" "$1/docs/gpu.md" || {
        echo "not in docs/gpu.md: $line"
        missing=$((missing + 1))
    }
done < <("$2")
((missing == 0)) || {
    echo "FAILED: $missing lines; put what gpu_limits prints into docs/gpu.md"
    exit 1
}
