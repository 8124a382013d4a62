/* Gated (Rajamanoharan et al. 2024a): one path decides which latents are used and bears the
 * penalty, the other, of the same weights times exp(r), says how much. */
#include "coder_impl.h"

const rf_architecture rf_arch_gated = {
    .name = "gated",
    .help = "A gate decides which latents are used, another bias and gain how much.",
    .act = RF_CODER_GATED,
    .may_be_dense = true,
    .penalty = RF_PENALTY_L1,
    .check = rf_architecture_check_l1,
    .rule = rf_architecture_positive,
    .row_capacity = rf_architecture_sparse_capacity,
};
