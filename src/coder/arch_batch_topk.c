/* BatchTopK (Bussmann et al. 2024): the k n largest positive pre-activations of a batch of n tokens
 * over all ranks, so that tokens may take more or fewer. In use a token keeps what is above the
 * running mean of the least value kept. With k by class of token each class is such a batch of its
 * own, with a mean of its own. */
#include "coder_impl.h"

const rf_architecture rf_arch_batch_topk = {
    .name = "batch_topk",
    .help = "The largest pre-activations of the whole batch, k a token on average.",
    .act = RF_CODER_RELU,
    .may_be_dense = false,
    .penalty = RF_PENALTY_NONE,
    .check = rf_architecture_check_k,
    .rule = rf_architecture_batch_topk,
    .row_capacity = rf_architecture_k_capacity,
};
