/* ReLU with a sparsity penalty: every positive pre-activation is a code. */
#include "coder_impl.h"

const rf_architecture rf_arch_relu = {
    .name = "relu",
    .help = "Every positive pre-activation, kept few by a penalty of the values.",
    .act = RF_CODER_RELU,
    .may_be_dense = true,
    .penalty = RF_PENALTY_L1,
    .check = rf_architecture_check_l1,
    .rule = rf_architecture_positive,
    .row_capacity = rf_architecture_sparse_capacity,
};
