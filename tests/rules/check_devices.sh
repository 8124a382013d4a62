#!/usr/bin/env bash
# Nothing above tensor and comm knows which device there is: no other folder of src, and no public header
# but tensor's, names CUDA, NCCL or cuBLAS. (What settings call devices comes from tensor.)
# usage: check_devices.sh SOURCE BUILD
set -euo pipefail
. "$(dirname "$0")/rules.sh"

# PyTorch calls a storage torch.cuda, wherever its archive is read.
rule_check() {
    local files
    mapfile -t files < <(c_files "$1" src include | grep -vE '^(src/(tensor|comm)/|include/refract/tensor\.h$)' || true)
    ((${#files[@]} == 0)) && return
    { (cd "$1" && grep -niE 'cuda|nccl|cublas' /dev/null "${files[@]}") || true; } |
        { grep -v '"torch\.cuda"' || true; } | sed -E 's/^([^:]*:[0-9]+):(.*)$/\1: names a device: \2/'
}

rule_self_test() {
    new_tree
    echo 'int cudaMalloc(void);' | plant src/train/run.c
    expect_caught '^src/train/run.c:1: names a device'
    new_tree
    echo '#include <nccl.h>' | plant include/refract/train.h
    expect_caught '^include/refract/train.h:1: names a device'
    new_tree
    echo 'rf_status rf_backend_cuda_create(void);' | plant include/refract/tensor.h
    echo 'X("torch.cuda", name)' | plant src/io/torch.c
    expect_clean
}

rules_main "$@"
