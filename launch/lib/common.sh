# shellcheck shell=bash
# What the scripts of this folder share: words, packages, the build. Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/refract
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

say() {
    printf '%s\n' "$*"
}

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# Run a command with its output kept in a log under the cache; on failure show the end of it.
quietly() {
    local log=$CACHE/log/$1.log
    shift
    mkdir -p "$CACHE/log"
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        printf '%s: failed: %s\n(the whole log is %s)\n' "${0##*/}" "$*" "$log" >&2
        return 1
    fi
}

# ---- packages ----------------------------------------------------------------------------------

# The JPEG headers have another package name on Ubuntu.
jpeg_package() {
    if (. /etc/os-release 2>/dev/null && [[ ${ID:-} == ubuntu ]]); then
        say libjpeg-turbo8-dev
    else
        say libjpeg62-turbo-dev
    fi
}

# What the build stands on, by the names of apt, dnf and conda-forge.
PACKAGE_TABLE="
build-essential       gcc                 c-compiler
cmake                 cmake               cmake
ninja-build           ninja-build         ninja
pkg-config            pkgconf-pkg-config  pkg-config
ccache                ccache              ccache
libopenmpi-dev        openmpi-devel       openmpi
openmpi-bin           openmpi             openmpi
libdnnl-dev           onednn-devel        onednn
libhdf5-openmpi-dev   hdf5-openmpi-devel  hdf5=*=mpi_openmpi*
libyaml-dev           libyaml-devel       yaml
libjansson-dev        jansson-devel       jansson
librandom123-dev      random123-devel     random123
$(jpeg_package)   libjpeg-turbo-devel libjpeg-turbo
libpng-dev            libpng-devel        libpng
libwebp-dev           libwebp-devel       libwebp
libarchive-dev        libarchive-devel    libarchive
libxxhash-dev         xxhash-devel        xxhash
libutf8proc-dev       utf8proc-devel      libutf8proc
libcmocka-dev         libcmocka-devel     cmocka"
mapfile -t BUILD_PACKAGES < <(awk 'NF { print $1 }' <<<"$PACKAGE_TABLE")

# The named apt packages as the three package managers are asked for them.
name_packages() {
    local column command=("apt install" "dnf install" "conda install -c conda-forge")
    for column in 1 2 3; do
        say "  ${command[column - 1]}$(awk -v wanted=" $* " -v column="$column" '
            NF && index(wanted, " " $1 " ") && !seen[$column]++ {
                printf index($column, "*") ? " \"%s\"" : " %s", $column
            }' <<<"$PACKAGE_TABLE")"
    done
}

# Those of the named Debian packages that are not installed.
missing_packages() {
    local installed
    installed=" $(dpkg-query -W -f '${db:Status-Status}:${Package} ' "$@" 2>/dev/null || true)"
    local name
    for name in "$@"; do
        [[ $installed == *" installed:$name "* ]] || say "$name"
    done
}

# Run as root: directly, or through sudo (which may ask on a terminal). Fails where neither works.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif have sudo && { sudo -n true 2>/dev/null || [[ -t 0 && -t 2 ]]; }; then
        sudo "$@"
    else
        return 1
    fi
}

can_install() {
    have apt-get && as_root true
}

apt_run() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 \
        -o Acquire::Retries=3 "$@"
}

apt_install() {
    quietly apt-update apt_run update && quietly apt-install apt_run install -y \
        --no-install-recommends "$@"
}

# Install what is missing of the named packages, or return 1 with their names in MISSING.
need_packages() {
    mapfile -t MISSING < <(missing_packages "$@")
    ((${#MISSING[@]} == 0)) && return 0
    can_install || return 1
    say "installing: ${MISSING[*]}"
    apt_install "${MISSING[@]}"
}

# Where nothing can be installed, name what is missing; the build goes on with what is there.
need_build_packages() {
    if have dpkg-query; then
        need_packages "${BUILD_PACKAGES[@]}" && return
    else
        MISSING=()
        have cc || MISSING+=(build-essential)
        have cmake || MISSING+=(cmake)
        have ninja || MISSING+=(ninja-build)
        have pkg-config || MISSING+=(pkg-config)
    fi
    if ((${#MISSING[@]} > 0)); then
        say "missing, and not to be installed here (that takes root or sudo); building with what is there:"
        name_packages "${MISSING[@]}"
    fi
    if [[ -n ${CONDA_PREFIX:-} ]]; then
        export CMAKE_PREFIX_PATH=$CONDA_PREFIX${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}
        export PKG_CONFIG_PATH=$CONDA_PREFIX/lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
    fi
}

# ---- build -------------------------------------------------------------------------------------

# Configure a preset into build/<preset>; further arguments go to cmake.
configure() {
    local preset=$1 launcher=()
    shift
    have cmake || die "cmake is needed, 3.25 or newer"
    have ninja || die "ninja is needed"
    if have ccache; then
        launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache)
    fi
    quietly "configure-$preset" cmake -S "$ROOT" --preset "$preset" "${launcher[@]}" "$@"
}

# Build targets of a preset (all when none is named).
build() {
    local preset=$1
    shift
    cmake --build "$ROOT/build/$preset" ${1:+--target "$@"}
}

# The program, the libraries and the benchmarks. The tests are left to launch/test.
build_release() {
    local tests=ON
    if ! { have pkg-config && pkg-config --exists cmocka; }; then
        tests=OFF
    fi
    configure release -DREFRACT_TESTS=$tests
    build release src/all benchmarks/all
}

# ---- Python, for the fetchers only -------------------------------------------------------------

# Make the virtual environment and install the named PyPI packages into it, once.
need_python() {
    local venv=$CACHE/venv name wanted=()
    if [[ ! -x $venv/bin/pip ]]; then
        have python3 || need_packages python3 python3-venv || die "python3 is needed to fetch a model"
        rm -rf "$venv"
        mkdir -p "$CACHE"
        if ! python3 -m venv "$venv" >/dev/null 2>&1; then
            need_packages python3-venv || die "python3 has no venv module; install python3-venv"
            rm -rf "$venv"
            quietly venv python3 -m venv "$venv"
        fi
        # A newer pip resumes downloads that break off; an old one will do.
        "$venv/bin/pip" install -q --disable-pip-version-check --upgrade pip >/dev/null 2>&1 || true
    fi
    for name in "$@"; do
        "$venv/bin/python" -c "import $name" >/dev/null 2>&1 || wanted+=("$name")
    done
    if ((${#wanted[@]} > 0)); then
        say "installing into $venv: ${wanted[*]}"
        quietly pip "$venv/bin/pip" install --disable-pip-version-check --retries 3 --timeout 15 \
            "${wanted[@]}"
    fi
}

# ---- ranks -------------------------------------------------------------------------------------

# run_on_ranks N COMMAND...: N ranks on this machine. --bind-to none, because few ranks would be bound to one
# core each; five seconds between SIGTERM and SIGKILL, so that a checkpoint fits in between.
run_on_ranks() {
    local n=$1
    shift
    mpirun -n "$n" --oversubscribe --bind-to none --mca odls_base_sigkill_timeout 5 "$@"
}
