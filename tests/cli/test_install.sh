#!/usr/bin/env bash
# The installed library: the programs of docs/hooks.md compile against it and run, through pkg-config
# (shared and static) and through its CMake package, and it exports what its headers declare.
. "$(dirname "$0")/lib.sh"

picture=$(find pictures -name '*.png' | sort | head -n 1)
cmake --install "$build_dir" --prefix "$work/installed" >install.txt || fail "install"
library=$(dirname "$(find installed -name librefract.so)")
export PKG_CONFIG_PATH=$work/$library/pkgconfig LD_LIBRARY_PATH=$work/$library

# The program of docs/hooks.md that begins with "/* NAME.c:".
extract() {
    awk -v want="/* $1.c:" '
        /^```c$/ { inside = 1; text = ""; next }
        /^```$/ { if (inside && index(text, want) == 1) printf "%s", text; inside = 0 }
        inside { text = text $0 "\n" }' "$source_dir/docs/hooks.md" >"$1.c"
    expect_file "$1.c"
    (($(wc -l <"$1.c") < 40)) || fail "$1.c of docs/hooks.md has 40 lines or more"
}

# build NAME KIND: with the flags of a user who is strict.
build() {
    local flags
    read -ra flags < <(pkg-config --cflags --libs "refract$2")
    ${CC:-cc} -std=c11 -Wall -Wextra -Wpedantic -Werror "$1.c" "${flags[@]}" -o "$1$2"
}

for name in load hook cache replace backward; do
    extract "$name"
    build "$name" ""
done
expect_exit 0 ./load model "$picture"
expect_in out.txt "layers, embedding of"
expect_exit 1 ./load no-such-model "$picture"
expect_in err.txt "no-such-model"
expect_exit 1 ./hook no-such-model "$picture"
expect_in err.txt "no-such-model"
expect_exit 0 ./hook model "$picture"
(($(grep -c 'hook_resid_post *norm [0-9]' out.txt) == 2)) || fail "hook: two norms"
expect_exit 0 ./cache model "$picture"
expect_in out.txt "pos_embed"
expect_exit 0 ./load model "$picture"
cp out.txt whole.txt
expect_exit 0 ./replace model "$picture" z0 1
[[ $(grep -o '[^ ]*$' out.txt) != "$(grep -o '[^ ]*$' whole.txt)" ]] || fail "replace: no effect"
expect_exit 1 ./replace model "$picture" z0 99
expect_in err.txt "no head 99"
expect_exit 1 ./backward
expect_in err.txt "usage: backward MODEL PICTURE"
expect_exit 0 ./backward model "$picture"
grep -qE 'pixel: [0-9.e-]+$' out.txt || fail "backward: $(cat out.txt)"

build load -static
env -u LD_LIBRARY_PATH ./load-static model "$picture" >static.txt
cmp static.txt whole.txt || fail "the archive gives other values than the shared library"

mkdir package
cp cache.c load.c package/
cat >package/CMakeLists.txt <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(user C)
find_package(refract 0.1 REQUIRED)
add_executable(shared load.c)
target_link_libraries(shared refract::refract)
add_executable(cached cache.c)
target_link_libraries(cached refract::refract)
add_executable(archive load.c)
target_link_libraries(archive refract::static)
CMAKE
{ cmake -S package -B package/build -DCMAKE_PREFIX_PATH="$work/installed" &&
    cmake --build package/build; } >package.txt 2>&1 || { cat package.txt; fail "the CMake package"; }
for name in shared archive; do
    "package/build/$name" model "$picture" >"$name.txt"
    cmp "$name.txt" whole.txt || fail "$name of the CMake package gives other values"
done

# C++ programs link too.
if command -v c++ >/dev/null; then
    for header in installed/include/refract/*.h; do
        echo "#include <refract/$(basename "$header")>"
    done >all.cc
    echo 'int main() { return rf_registry_count() > 0 ? 0 : 1; }' >>all.cc
    read -ra flags < <(pkg-config --cflags --libs refract)
    c++ -std=c++17 all.cc "${flags[@]}" -o all && ./all || fail "a C++ program"
fi

nm -D --defined-only "$library/librefract.so" | awk '{ print $3 }' | sed 's/@.*//' | sort -u >exported.txt
while IFS= read -r symbol; do
    [[ $symbol == REFRACT_0 ]] || grep -qrw "$symbol" installed/include || fail "$symbol is exported and no header declares it"
done <exported.txt
for symbol in rf_vit_open rf_vit_backward rf_train_run rf_settings_read; do
    grep -qx "$symbol" exported.txt || fail "$symbol is not exported"
done
grep -q '^rf_cpu_' exported.txt && fail "private functions are exported"
exit 0
