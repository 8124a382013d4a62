/* ReLU with L1 and unit-norm decoder rows: every positive pre-activation is a code. */
#include "coder_impl.h"

static rf_status check(const rf_coder_settings *settings, int64_t n_latents)
{
    rf_status status = RF_OK;
    RF_REQUIRE(n_latents >= 1 && settings->l1 >= 0.0, "relu: l1 is %g, expected >= 0",
               settings->l1);
fail:
    return status;
}

/* On average: a sparse step costs less than a dense one where fewer than about 1 latent of 64 is
 * active. */
static int64_t row_capacity(const rf_coder_settings *settings, int64_t n_latents)
{
    (void)settings;
    return rf_min_i64(n_latents, rf_max_i64(32, n_latents / 48));
}

static double l1(const rf_coder_settings *settings)
{
    return settings->l1;
}

static int64_t no_aux(const rf_coder_settings *settings, int64_t width, int64_t n_dead)
{
    (void)settings;
    (void)width;
    (void)n_dead;
    return 0;
}

const rf_architecture rf_arch_relu = {
    .name = "relu",
    .help = "Every positive pre-activation, kept few by an L1 penalty.",
    .rule = RF_SELECT_POSITIVE,
    .may_be_dense = true,
    .check = check,
    .row_capacity = row_capacity,
    .l1 = l1,
    .aux_k = no_aux,
};
