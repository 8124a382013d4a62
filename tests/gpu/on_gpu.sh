#!/usr/bin/env bash
# A command where there is a GPU; else exit status 77, with the driver's words.
# usage: on_gpu.sh HAS_GPU COMMAND...
set -euo pipefail
status=0
"$1" || status=$?
((status == 0)) || exit "$status"
shift
exec "$@"
