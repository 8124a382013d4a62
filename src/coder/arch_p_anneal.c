/* p-annealing (Karvonen et al. 2024): a ReLU coder with the penalty sum z^p, p falling in stages
 * from 1, where it is convex, towards 0, where it counts. */
#include "coder_impl.h"

static rf_status check(const rf_coder_settings *settings, int64_t n_latents)
{
    rf_status status = RF_OK;
    (void)n_latents;
    RF_REQUIRE(settings->l1 >= 0.0, "l1 is %g, expected >= 0", settings->l1);
    RF_REQUIRE(settings->p_end > 0.0 && settings->p_end <= 1.0,
               "p_end is %g, expected above 0 and at most 1", settings->p_end);
    RF_REQUIRE(settings->p_anneal_from >= 0.0 && settings->p_anneal_from < 1.0,
               "p_anneal_from is %g, expected a share of the steps, in [0, 1)",
               settings->p_anneal_from);
    RF_REQUIRE(settings->p_anneal_stages >= 1, "p_anneal_stages is %" PRId64 ", expected >= 1",
               settings->p_anneal_stages);
fail:
    return status;
}

const rf_architecture rf_arch_p_anneal = {
    .name = "p_anneal",
    .help = "ReLU with the penalty sum z^p, p falling from 1.",
    .act = RF_CODER_RELU,
    .may_be_dense = true,
    .penalty = RF_PENALTY_POWER,
    .check = check,
    .rule = rf_architecture_positive,
    .row_capacity = rf_architecture_sparse_capacity,
};
