/* ReLU with a sparsity penalty: every positive pre-activation is a code. */
#include "coder_impl.h"

static rf_status check(const rf_coder_settings *settings, int64_t n_latents)
{
    rf_status status = RF_OK;
    (void)n_latents;
    RF_REQUIRE(settings->l1 >= 0.0, "l1 is %g, expected >= 0", settings->l1);
fail:
    return status;
}

const rf_architecture rf_arch_relu = {
    .name = "relu",
    .help = "Every positive pre-activation, kept few by a penalty of the values.",
    .act = RF_CODER_RELU,
    .may_be_dense = true,
    .penalty = RF_PENALTY_L1,
    .check = check,
    .rule = rf_architecture_positive,
    .row_capacity = rf_architecture_sparse_capacity,
};
