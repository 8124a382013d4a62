/* The table of architectures: a new one is a row here and a file of its own. */
#include "coder_impl.h"

#include <math.h>
#include <string.h>

static const rf_architecture *const table[] = {
    &rf_arch_topk,  &rf_arch_relu,       &rf_arch_batch_topk, &rf_arch_jumprelu,
    &rf_arch_gated, &rf_arch_matryoshka, &rf_arch_multi_topk, &rf_arch_p_anneal,
};

/* in the table's order */
const char *const rf_architecture_names[] = {"topk",       "relu",     "batch_topk",
                                             "jumprelu",   "gated",    "matryoshka",
                                             "multi_topk", "p_anneal", NULL};

int rf_architecture_count(void)
{
    return (int)(sizeof table / sizeof table[0]);
}

const rf_architecture *rf_architecture_at(int idx)
{
    return idx >= 0 && idx < rf_architecture_count() ? table[idx] : NULL;
}

const rf_architecture *rf_architecture_find(const char *name)
{
    for (int i = 0; i < rf_architecture_count(); i++) {
        if (strcmp(table[i]->name, name) == 0) {
            return table[i];
        }
    }
    return NULL;
}

rf_select_rule rf_architecture_topk(const rf_coder_settings *settings)
{
    (void)settings;
    return RF_SELECT_TOPK;
}

rf_select_rule rf_architecture_batch_topk(const rf_coder_settings *settings)
{
    (void)settings;
    return RF_SELECT_BATCH_TOPK;
}

rf_select_rule rf_architecture_positive(const rf_coder_settings *settings)
{
    (void)settings;
    return RF_SELECT_POSITIVE;
}

/* The k of the first step, where there are the most. */
static int64_t largest_k(const rf_coder_settings *settings)
{
    double start = settings->k_steps > 0 ? fmax(1.0, settings->k_start) : 1.0;
    return (int64_t)ceil(start * (double)rf_k_max(&settings->k));
}

rf_status rf_architecture_check_k(const rf_coder_settings *settings, int64_t n_latents)
{
    rf_status status = RF_OK;
    int64_t k = rf_k_max(&settings->k);
    RF_REQUIRE(k >= 1, "k is %" PRId64 ", expected >= 1", k);
    RF_REQUIRE(k <= n_latents, "k is %" PRId64 " but the coder has only %" PRId64 " latents", k,
               n_latents);
    RF_REQUIRE(largest_k(settings) <= n_latents,
               "k_start: %g times k = %" PRId64 " is more than the %" PRId64 " latents",
               settings->k_start, k, n_latents);
fail:
    return status;
}

int64_t rf_architecture_k_capacity(const rf_coder_settings *settings, int64_t n_latents)
{
    return rf_min_i64(largest_k(settings), n_latents);
}

int64_t rf_architecture_sparse_capacity(const rf_coder_settings *settings, int64_t n_latents)
{
    (void)settings;
    return rf_min_i64(n_latents, rf_max_i64(32, n_latents / 40)); /* batches differ */
}

rf_status rf_architecture_check_l1(const rf_coder_settings *settings, int64_t n_latents)
{
    rf_status status = RF_OK;
    (void)n_latents;
    RF_REQUIRE(settings->l1 >= 0.0, "l1 is %g, expected >= 0", settings->l1);
fail:
    return status;
}

bool rf_coder_wants_aux(const rf_coder_settings *settings, const rf_architecture *architecture)
{
    return settings->aux_alpha > 0.0 && (settings->aux_k > 0 || !architecture->may_be_dense);
}
