/* TopK with AuxK (Gao et al. 2024): the k largest positive pre-activations; dead latents learn to
 * explain what is left. */
#include "coder_impl.h"

#include <math.h>

static rf_status check(const rf_coder_settings *settings, int64_t n_latents)
{
    rf_status status = RF_OK;
    RF_REQUIRE(settings->k >= 1, "topk: k is %" PRId64 ", expected >= 1", settings->k);
    RF_REQUIRE(settings->k <= n_latents,
               "topk: k is %" PRId64 " but the coder has only %" PRId64 " latents", settings->k,
               n_latents);
fail:
    return status;
}

static int64_t row_capacity(const rf_coder_settings *settings, int64_t n_latents)
{
    return rf_min_i64(settings->k, n_latents);
}

static double no_l1(const rf_coder_settings *settings)
{
    (void)settings;
    return 0.0;
}

/* The power of two nearest to half the width, unless the settings say a number. */
static int64_t aux_k(const rf_coder_settings *settings, int64_t width, int64_t n_dead)
{
    int64_t k = settings->aux_k;
    if (k == 0) {
        k = INT64_C(1) << (int)fmax(0.0, round(log2((double)width / 2.0)));
    }
    return settings->aux_alpha > 0.0 ? rf_min_i64(k, n_dead) : 0;
}

const rf_architecture rf_arch_topk = {
    .name = "topk",
    .help = "The k largest pre-activations of a token; dead latents learn the residual (AuxK).",
    .rule = RF_SELECT_TOPK,
    .may_be_dense = false,
    .check = check,
    .row_capacity = row_capacity,
    .l1 = no_l1,
    .aux_k = aux_k,
};
