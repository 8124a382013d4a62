/* Matryoshka (Bussmann et al. 2025): codes are selected once over all latents, and the first F_1 <
 * F_2 < ... < F of them each reconstruct by themselves, so that early latents stay general. */
#include "coder_impl.h"

#include <math.h>

static rf_status check(const rf_coder_settings *settings, int64_t n_latents)
{
    rf_status status = RF_OK;
    int64_t n = settings->n_prefixes;
    RF_TRY(rf_architecture_check_k(settings, n_latents));
    RF_REQUIRE(n >= 1 && n <= RF_MAX_GROUPS && n <= n_latents,
               "n_prefixes is %" PRId64 ", expected 1 to %" PRId64, n,
               rf_min_i64(RF_MAX_GROUPS, n_latents));
    RF_REQUIRE(settings->random_prefixes || n_latents >> (n - 1) >= 1,
               "n_prefixes: %" PRId64 " latents cannot be halved %" PRId64 " times", n_latents,
               n - 1);
fail:
    return status;
}

static rf_select_rule rule(const rf_coder_settings *settings)
{
    return settings->selection == RF_SELECTION_TOPK ? RF_SELECT_TOPK : RF_SELECT_BATCH_TOPK;
}

/* Draw number `draw` from 1 .. n_latents - 1, where P(end >= i) falls as i^(-1/2): Pareto's density
 * of exponent 0.5, cut off at the size of the dictionary. */
static int64_t draw_end(uint64_t seed, int64_t step, uint64_t draw, int64_t n_latents)
{
    uint32_t u[4];
    rf_random_u32x4(seed, RF_RANDOM_PREFIXES, (uint64_t)step, draw, u);
    double uniform = ((double)u[0] + (double)u[1] * 0x1p-32) * 0x1p-32; /* in [0, 1] */
    double tail = 1.0 / sqrt((double)n_latents);
    double root = 1.0 - uniform * (1.0 - tail); /* end^(-1/2), in [tail, 1] */
    return rf_max_i64(1, rf_min_i64(n_latents - 1, (int64_t)(1.0 / (root * root))));
}

/* Put `end` into its place among the first `n` ends; false where it is there already. */
static bool insert(int64_t *ends, int n, int64_t end)
{
    int at = n;
    for (int i = 0; i < n; i++) {
        if (ends[i] == end) {
            return false;
        }
    }
    while (at > 0 && ends[at - 1] > end) {
        ends[at] = ends[at - 1];
        at--;
    }
    ends[at] = end;
    return true;
}

static void prefixes(const rf_coder_settings *settings, int64_t n_latents, int64_t step,
                     rf_latent_groups *out)
{
    enum { MAX_DRAWS = 4096 };
    int n = (int)rf_min_i64(settings->n_prefixes, RF_MAX_GROUPS), found = 0;
    int64_t next = 1;
    *out = (rf_latent_groups){.n = n};
    if (!settings->random_prefixes) {
        for (int q = 0; q < n; q++) {
            out->end[q] = n_latents >> (n - 1 - q);
        }
        return;
    }
    for (uint64_t draw = 0; found < n - 1 && draw < MAX_DRAWS; draw++) {
        int64_t end = draw_end((uint64_t)settings->seed, step, draw, n_latents);
        found += insert(out->end, found, end);
    }
    while (found < n - 1) { /* as many prefixes as latents: what chance left over */
        found += insert(out->end, found, next++);
    }
    out->end[n - 1] = n_latents;
}

const rf_architecture rf_arch_matryoshka = {
    .name = "matryoshka",
    .help = "Nested dictionaries: prefixes of the latents each reconstruct by themselves.",
    .act = RF_CODER_RELU,
    .may_be_dense = false,
    .penalty = RF_PENALTY_NONE,
    .check = check,
    .rule = rule,
    .row_capacity = rf_architecture_k_capacity,
    .prefixes = prefixes,
};
