/* MultiTopK (Gao et al. 2024, section 5.3): L(k) + L(4k) / 8, so that a coder also works with more
 * latents than it was trained for. */
#include "coder_impl.h"

static double second(const rf_coder_settings *settings, int64_t k, int64_t *second_k)
{
    *second_k = 4 * k;
    return settings->second_weight;
}

const rf_architecture rf_arch_multi_topk = {
    .name = "multi_topk",
    .help = "TopK whose loss also counts the reconstruction from 4 k latents.",
    .act = RF_CODER_RELU,
    .may_be_dense = false,
    .penalty = RF_PENALTY_NONE,
    .check = rf_architecture_check_k,
    .rule = rf_architecture_topk,
    .row_capacity = rf_architecture_k_capacity,
    .second = second,
};
