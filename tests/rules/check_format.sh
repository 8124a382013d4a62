#!/usr/bin/env bash
# Every C file is as clang-format 14 writes it.
# usage: check_format.sh SOURCE BUILD
set -euo pipefail
. "$(dirname "$0")/rules.sh"

# Another version formats otherwise, so only 14 counts.
format_14() {
    local name
    for name in clang-format-14 clang-format; do
        if command -v "$name" >/dev/null && "$name" --version | grep -q 'version 14\.'; then
            echo "$name"
            return
        fi
    done
}

rule_check() {
    local files
    mapfile -t files < <(c_files "$1" src include tests benchmarks cuda)
    ((${#files[@]} == 0)) && return
    { (cd "$1" && "$FORMAT" --dry-run -Werror "${files[@]}" 2>&1) || true; } |
        sed -n 's/: error: code should be clang-formatted.*/: not as clang-format writes it/p' |
        cut -d : -f 1,2,4 | awk -F : '!seen[$1]++' # the first place of each file is enough
}

rule_self_test() {
    new_tree
    plant .clang-format <"$SOURCE/.clang-format"
    printf 'int main(void)\n{\n    return 0;\n}\n' | plant src/right.c
    expect_clean
    printf 'int main(void) {\n  return 0; }\n' | plant src/wrong.c
    expect_caught '^src/wrong.c:1: not as clang-format'
}

SOURCE=$1
FORMAT=$(format_14)
if [[ -z $FORMAT ]]; then
    echo "skipped: there is no clang-format 14 (apt install clang-format-14)"
    exit 77
fi
rules_main "$@"
