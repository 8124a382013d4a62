# shellcheck shell=bash
# What the rule scripts share. Sourced with SOURCE and BUILD as arguments; a rule defines
# `rule_check TREE`, which prints one line "file:line: what is wrong" for each offence, and
# `rule_self_test`, which plants offences with `plant` and expects them with `expect_caught`.

RULES_TMP=$(mktemp -d)
trap 'rm -rf "$RULES_TMP"' EXIT
rules_failed=0

# Start an empty tree for a planted offence.
new_tree() {
    rm -rf "$RULES_TMP/tree"
    mkdir -p "$RULES_TMP/tree"/{src,include/refract,tests,benchmarks}
}

# Write standard input to a file of the planted tree.
plant() {
    mkdir -p "$(dirname "$RULES_TMP/tree/$1")"
    cat >"$RULES_TMP/tree/$1"
}

# The planted tree must give an offence whose line matches the regular expression.
expect_caught() {
    local got
    got=$(rule_check "$RULES_TMP/tree")
    if ! grep -qE -- "$1" <<<"$got"; then
        printf 'self-test: the rule did not catch "%s"; it said:\n%s\n' "$1" "$got"
        rules_failed=1
    fi
}

expect_clean() {
    local got
    got=$(rule_check "$RULES_TMP/tree")
    if [[ -n $got ]]; then
        printf 'self-test: the rule refuses what is right:\n%s\n' "$got"
        rules_failed=1
    fi
}

# The C files of a tree below the named folders, as paths within it.
c_files() {
    local tree=$1 folder
    shift
    for folder in "$@"; do
        if [[ -d $tree/$folder ]]; then
            (cd "$tree" && find "$folder" -type f \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cpp' \))
        fi
    done | LC_ALL=C sort
}

rules_main() {
    local offences
    rule_self_test
    offences=$(rule_check "$1")
    if [[ -n $offences ]]; then
        printf '%s\n' "$offences"
        rules_failed=1
    fi
    if ((rules_failed == 0)); then
        echo "ok"
    fi
    exit "$rules_failed"
}
