#!/usr/bin/env bash
# No file includes a header of a later layer, another layer's private header, or a library that
# belongs to another layer. The order is the one in src/CMakeLists.txt.
# usage: check_layers.sh SOURCE BUILD
set -euo pipefail
. "$(dirname "$0")/rules.sh"

layers_of() {
    sed -n 's/^set(REFRACT_LAYERS \(.*\))$/\1/p' "$1/src/CMakeLists.txt"
}

# Lines "file<TAB>line<TAB>header" of all includes of our own code.
includes_of() {
    local files
    mapfile -t files < <(c_files "$1" src include cuda)
    ((${#files[@]} == 0)) && return
    (cd "$1" && awk '/^[ \t]*#[ \t]*include[ \t]*[<"]/ {
        header = $0
        sub(/^[^<"]*[<"]/, "", header)
        sub(/[>"].*/, "", header)
        print FILENAME "\t" FNR "\t" header
    }' "${files[@]}")
}

# Test programs lie in the folder of a layer that exists, or they would not be built; those of other
# folders have CMake files of their own.
check_test_folders() {
    local file layer
    while IFS= read -r file; do
        layer=${file#tests/}
        layer=${layer%%/*}
        [[ $layer == golden || -f $1/tests/$layer/CMakeLists.txt || -d $1/src/$layer ]] || echo "$file:1: there is no layer $layer"
    done < <(c_files "$1" tests)
}

rule_check() {
    check_test_folders "$1"
    includes_of "$1" | awk -F '\t' -v layers="$(layers_of "$1")" '
        BEGIN {
            n = split(layers, name, " ")
            for (i = 1; i <= n; i++) level[name[i]] = i
            if (n == 0) print "src/CMakeLists.txt:1: no line set(REFRACT_LAYERS ...)"
            # Which layers may use a library, by how its headers begin.
            may["mpi.h"] = " comm io cli "
            may["hdf5"] = " io "
            may["H5"] = " io "
            may["dnnl"] = may["oneapi/dnnl"] = " tensor "
            may["yaml.h"] = may["jpeglib"] = may["turbojpeg"] = may["png.h"] = may["webp/"] = " io "
            may["archive"] = may["xxhash"] = " io "
            may["Random123/"] = " base "
        }
        {
            at = $1 ":" $2 ": "
            path = $1
            layer = path
            if (path ~ /^include\/refract\//) {
                sub(/^include\/refract\//, "", layer)
                sub(/\.h$/, "", layer)
                if (!(layer in level)) print at "include/refract holds a header that is no layer"
            } else if (path ~ /^src\/[^\/]*\//) {
                sub(/^src\//, "", layer)
                sub(/\/.*/, "", layer)
                if (!(layer in level)) print at "src/" layer " is no layer"
            } else if (path ~ /^cuda\//) {
                layer = "tensor"
            } else {
                layer = "cli" # src/main.c
            }
            if ($3 ~ /^refract\//) {
                other = $3
                sub(/^refract\//, "", other)
                sub(/\.h$/, "", other)
                if (!(other in level)) print at "refract/" other ".h is no layer"
                else if (level[other] > level[layer])
                    print at layer " includes " $3 ", which is a later layer"
            } else if ($3 ~ /_impl\.h$/ && ($3 ~ /\// || path ~ /^include/)) {
                print at $3 " is private to its folder"
            }
            for (prefix in may)
                if (index($3, prefix) == 1 && index(may[prefix], " " layer " ") == 0)
                    print at layer " includes " $3 ", which belongs to:" may[prefix]
        }'
}

plant_layers() {
    new_tree
    plant src/CMakeLists.txt <<<'set(REFRACT_LAYERS base comm io tensor cli)'
}

rule_self_test() {
    plant_layers
    printf '#include "refract/base.h"\n#include <mpi.h>\n' | plant src/comm/comm.c
    printf '#include "io_impl.h"\n#include "refract/comm.h"\n#include <hdf5.h>\n' | plant src/io/h5.c
    printf '#include "refract/cli.h"\n' | plant src/main.c
    expect_clean
    plant src/io/up.c <<<'#include "refract/tensor.h"'
    expect_caught '^src/io/up.c:1: io includes refract/tensor.h, which is a later layer'
    plant_layers
    plant include/refract/base.h <<<'  #  include "refract/comm.h"'
    expect_caught '^include/refract/base.h:1: base includes refract/comm.h'
    plant_layers
    plant src/tensor/gemm.c <<<'#include "../io/io_impl.h"'
    expect_caught 'io_impl.h is private'
    plant_layers
    plant src/tensor/gemm.c <<<'#include <mpi.h>'
    expect_caught 'tensor includes mpi.h'
    plant_layers
    plant src/io/fast.c <<<'#include <oneapi/dnnl/dnnl.h>'
    expect_caught 'io includes oneapi/dnnl/dnnl.h'
    plant_layers
    plant src/cli/look.c <<<'#include <hdf5.h>'
    expect_caught 'cli includes hdf5.h'
    plant_layers
    plant tests/coder/test_coder.c <<<'int x;'
    expect_caught '^tests/coder/test_coder.c:1: there is no layer coder'
    plant_layers
    plant src/utils/utils.c <<<'#include <string.h>'
    expect_caught 'src/utils is no layer'
}

rules_main "$@"
