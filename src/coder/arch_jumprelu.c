/* JumpReLU (Rajamanoharan et al. 2024b): a latent counts where its pre-activation is above a
 * threshold of its own, which learns by straight-through estimators. */
#include "coder_impl.h"

static rf_status check(const rf_coder_settings *settings, int64_t n_latents)
{
    rf_status status = RF_OK;
    (void)n_latents;
    RF_REQUIRE(settings->l1 >= 0.0 && settings->l0 >= 0.0, "l1 is %g and l0 is %g, expected >= 0",
               settings->l1, settings->l0);
    RF_REQUIRE(settings->threshold_start > 0.0,
               "threshold_start is %g, expected > 0: thresholds learn as logarithms",
               settings->threshold_start);
    RF_REQUIRE(settings->bandwidth > 0.0, "bandwidth is %g, expected > 0", settings->bandwidth);
    RF_REQUIRE(settings->penalty != RF_PENALTY_CHOICE_TARGET_L0 || settings->target_l0 > 0.0,
               "target_l0 is %g, expected > 0", settings->target_l0);
fail:
    return status;
}

const rf_architecture rf_arch_jumprelu = {
    .name = "jumprelu",
    .help = "Pre-activations above a threshold of each latent, which is learnt.",
    .act = RF_CODER_JUMP,
    .may_be_dense = true,
    .penalty = RF_PENALTY_L0,
    .check = check,
    .rule = rf_architecture_positive,
    .row_capacity = rf_architecture_sparse_capacity,
};
