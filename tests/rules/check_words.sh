#!/usr/bin/env bash
# Words that must not stand in the code, and shapes that it must not have.
# usage: check_words.sh SOURCE BUILD
set -euo pipefail
. "$(dirname "$0")/rules.sh"

MOST_FILE_LINES=900
MOST_FUNCTION_LINES=100

# All lines of the files as "file:line: code", with comments and the insides of strings left out. A
# line that frees what a library allocated says so in a comment: "allocated by <library>".
code_of() {
    local tree=$1
    shift
    (($# == 0)) && return
    (cd "$tree" && awk '
        FNR == 1 { in_comment = 0 }
        {
            code = ""
            rest = $0
            while (rest != "") {
                if (in_comment) {
                    end = index(rest, "*/")
                    if (end == 0) break
                    rest = substr(rest, end + 2)
                    in_comment = 0
                } else if (match(rest, /\/\*|\/\/|"|\047/)) {
                    mark = substr(rest, RSTART, RLENGTH)
                    code = code substr(rest, 1, RSTART - 1)
                    rest = substr(rest, RSTART + RLENGTH)
                    if (mark == "/*") in_comment = 1
                    else if (mark == "//") rest = ""
                    else {
                        code = code mark mark
                        quote = mark == "\"" ? "^([^\"\\\\]|\\\\.)*\"" : "^([^\047\\\\]|\\\\.)*\047"
                        if (match(rest, quote)) rest = substr(rest, RLENGTH + 1)
                        else rest = ""
                    }
                } else {
                    code = code rest
                    rest = ""
                }
            }
            if ($0 ~ /allocated by/) gsub(/[^a-z_]free *\(/, " ", code)
            if (code ~ /[^ \t]/) print FILENAME ":" FNR ": " code
        }' "$@")
}

# Print the lines of standard input with a match of `$1`, saying why they must not be.
forbid() {
    { grep -E -- "$1" || true; } | awk -v why="$2" '{
        split($0, part, ":")
        print part[1] ":" part[2] ": " why ":" substr($0, length(part[1] part[2]) + 3)
    }'
}

check_calls() {
    local tree=$1 all ours library
    mapfile -t all < <(c_files "$tree" src include tests benchmarks cuda)
    mapfile -t ours < <(c_files "$tree" src include cuda)
    mapfile -t library < <(printf '%s\n' "${ours[@]}" | grep -vE '^src/(cli/|main\.c)')

    code_of "$tree" "${all[@]}" |
        forbid '\<(s?rand|strcpy|strcat|v?sprintf|ato[ilf]|gets|strtok|alloca)[ \t]*\(' 'unsafe or unkeyed'
    code_of "$tree" "${ours[@]}" | grep -v '^src/base/memory\.c:' |
        forbid '(^|[^A-Za-z0-9_.>])(malloc|calloc|realloc|free|aligned_alloc|posix_memalign|strn?dup|v?asprintf)[ \t]*\(' \
            'memory goes through rf_calloc, rf_realloc, rf_free'
    code_of "$tree" "${library[@]}" |
        forbid '\<(exit|_Exit|quick_exit|abort|printf|vprintf|puts|putchar|perror)[ \t]*\(' \
            'below cli nothing exits or prints'
    code_of "$tree" "${library[@]}" |
        forbid '\<v?fprintf[ \t]*\([ \t]*std(out|err)\>' 'below cli nothing prints'
    code_of "$tree" "${ours[@]}" | grep -vE '^(src/(comm|cli)/|src/main\.c)' |
        forbid '\<MPI_COMM_WORLD\>' 'the world belongs to comm and cli'
}

# A sum of floats whose order is the compiler's. A count (its name begins with n_) and a maximum are
# the same in every order.
check_arithmetic() {
    local tree=$1 files
    mapfile -t files < <(c_files "$tree" src include benchmarks cuda)
    code_of "$tree" "${files[@]}" | { grep -E '#[ \t]*pragma.*reduction' || true; } |
        { grep -vE 'reduction\((max|min|&&|\|\||&|\|) ?:|reduction\(\+ ?: ?n_[a-z_0-9]*(, ?n_[a-z_0-9]*)*\)' || true; } |
        forbid 'reduction' 'the order of a float sum must be fixed'
    (cd "$tree" && find . -name build -prune -o -type f \( -name CMakeLists.txt -o -name '*.cmake' \
        -o -name CMakePresets.json -o -name '*.c' -o -name '*.h' -o -name '*.cu' \) -print0 |
        xargs -0 -r grep -nHE -- '-f(fast-math|unsafe-math|associative-math)|-Ofast|--use_fast_math|(GCC optimize|optimize\()' |
        sed -E 's|^\./||; s|^([^:]*:[0-9]+):|\1: arithmetic must mean the same everywhere:|') || true
}

check_names() {
    c_files "$1" src include cuda | awk -F / '
        $NF in seen { print $0 ":1: the name is taken by " seen[$NF] }
        { seen[$NF] = $0 }
        $NF ~ /^(utils?|common|misc)\.[ch]$/ { print $0 ":1: no utils, no common, no misc" }'
}

check_sizes() {
    local files
    mapfile -t files < <(c_files "$1" src include tests benchmarks cuda)
    ((${#files[@]} == 0)) && return
    (
        cd "$1"
        awk -v most="$MOST_FILE_LINES" 'FNR == most + 1 {
            print FILENAME ":" FNR ": the file has more than " most " lines"
        }' "${files[@]}"
        if ctags --version 2>/dev/null | grep -q 'Universal Ctags'; then
            ctags --languages=C --langmap=C:+.cu --kinds-C=f --fields=+ne -f - "${files[@]}" |
                awk -F '\t' -v most="$MOST_FUNCTION_LINES" '{
                    line = end = 0
                    for (i = 4; i <= NF; i++) {
                        if ($i ~ /^line:/) line = substr($i, 6)
                        if ($i ~ /^end:/) end = substr($i, 5)
                    }
                    if (end - line + 1 > most)
                        print $2 ":" line ": " $1 " has " end - line + 1 " lines, more than " most
                }'
        fi
    )
}

rule_check() {
    check_calls "$1"
    check_arithmetic "$1"
    check_names "$1"
    check_sizes "$1"
}

# That many lines of code.
lines() {
    local i
    for ((i = 0; i < $1; i++)); do
        echo '    g();'
    done
}

# Plant one line of code in a file of its own and expect it to be caught.
expect_line_caught() {
    new_tree
    printf 'int x;\n%s\n' "$2" | plant "$1"
    expect_caught "^$1:2: "
}

rule_self_test() {
    new_tree
    plant src/base/memory.c <<<'void f(void) { free(malloc(1)); }'
    plant src/cli/cli.c <<<'void f(void) { printf("x"); exit(0); }'
    plant tests/base/test_x.c <<<'void f(void) { printf("x"); abort(); free(0); }'
    {
        echo '/* rand( and strcpy( in a comment'
        echo ' * free(p) */ int y; // sprintf(x)'
        echo 'const char *s = "abort(\"exit(1)\")"; char q = '"'\"'"'; int brand(int strand(int));'
        echo 'rf_free(p); rf_comm_abort(c, 1); _exit(1); fprintf(file, "x"); snprintf(a, 1, "b");'
        echo ' free(text); /* allocated by jansson */'
        echo 'ops->free(x); ops.free(y);'
        echo '#pragma omp parallel for reduction(+ : n_dead, n_alive) reduction(max : top)'
    } | plant src/io/right.c
    expect_clean

    expect_line_caught src/io/wrong.c 'int y = rand();'
    expect_line_caught tests/io/test_y.c 'strcpy (a, b);'
    expect_line_caught src/io/wrong.c 'char q = '"'\"'"'; sprintf(a, "x");'
    expect_line_caught src/io/wrong.c 'int n = /* text */ atoi(t);'
    expect_line_caught benchmarks/bench_y.c 't = strtok(t, ",");'
    expect_line_caught src/cli/wrong.c 'p = malloc(3);'
    expect_line_caught src/io/wrong.c '    free(p);'
    expect_line_caught src/io/wrong.c 'exit(1);'
    expect_line_caught src/base/wrong.c 'if (x) { abort(); }'
    expect_line_caught src/vit/wrong.c 'printf("hello");'
    expect_line_caught src/vit/wrong.c 'fprintf(stderr, "hello");'
    expect_line_caught src/io/wrong.c 'MPI_Barrier(MPI_COMM_WORLD);'
    expect_line_caught src/coder/wrong.c '#pragma omp parallel for reduction(+ : loss)'
    expect_line_caught cmake/Flags.cmake 'add_compile_options(-ffast-math)'

    new_tree
    plant src/io/same.c <<<'int x;'
    plant src/vit/same.c <<<'int x;'
    expect_caught '^src/vit/same.c:1: the name is taken by src/io/same.c'
    new_tree
    lines $((MOST_FILE_LINES + 1)) | plant src/io/long.c
    expect_caught '^src/io/long.c:.*more than 900 lines'
    if ctags --version 2>/dev/null | grep -q 'Universal Ctags'; then
        new_tree
        { echo 'int f(void)'; echo '{'; lines "$MOST_FUNCTION_LINES"; echo '}'; } |
            plant src/io/tall.c
        expect_caught '^src/io/tall.c:1: f has 103 lines'
    else
        echo "note: there is no universal-ctags, so the length of functions is not checked"
    fi
}

rules_main "$@"
