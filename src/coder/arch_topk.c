/* TopK with AuxK (Gao et al. 2024): the k largest positive pre-activations of each token; dead
 * latents learn to explain what is left. */
#include "coder_impl.h"

const rf_architecture rf_arch_topk = {
    .name = "topk",
    .help = "The k largest pre-activations of a token; dead latents learn the residual (AuxK).",
    .act = RF_CODER_RELU,
    .may_be_dense = false,
    .penalty = RF_PENALTY_NONE,
    .check = rf_architecture_check_k,
    .rule = rf_architecture_topk,
    .row_capacity = rf_architecture_k_capacity,
};
