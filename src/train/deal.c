/* Which ranks train which coder: a function of the coders alone, so that ranks agree without
 * talking and `plan` can say it beforehand. */
#include "run_impl.h"

#include <stdlib.h>

double rf_deal_weight(const rf_coder_cost *cost, const rf_coder_spec *spec, int64_t n_tokens,
                      int n_ranks)
{
    const double FLOP_PER_BYTE = 16; /* of memory; measured ones would differ from rank to rank */
    return rf_coder_cost_seconds(cost, spec, n_tokens, n_ranks, FLOP_PER_BYTE, 1);
}

typedef struct hand {
    double weight;
    int64_t idx;
} hand;

/* Heaviest first, equals in their order. */
static int compare_hands(const void *a, const void *b)
{
    const hand *x = a, *y = b;
    if (x->weight < y->weight || x->weight > y->weight) {
        return x->weight < y->weight ? 1 : -1;
    }
    return (x->idx > y->idx) - (x->idx < y->idx);
}

rf_status rf_deal_append_name(rf_str *out, int64_t idx, int64_t n, const char *name)
{
    enum { FEW = 6 };
    const int64_t n_shown = n <= FEW ? n : FEW - 1; /* not " and 1 more" */
    if (idx < n_shown) {
        return rf_str_append(out, "%s%s", idx > 0 ? ", " : "", name);
    }
    return idx == n - 1 ? rf_str_append(out, " and %" PRId64 " more", n - n_shown) : RF_OK;
}

rf_status rf_deal(const double *weights, int64_t n, int n_groups, int *groups)
{
    rf_status status = RF_OK;
    hand *hands = NULL;
    double *loads = NULL;

    RF_REQUIRE(n >= 0 && n_groups >= 1, "dealing %" PRId64 " coders to %d groups", n, n_groups);
    RF_ALLOC(hands, n);
    RF_ALLOC(loads, n_groups);
    for (int64_t i = 0; i < n; i++) {
        hands[i] = (hand){weights[i], i};
    }
    qsort(hands, (size_t)n, sizeof *hands, compare_hands);
    for (int64_t i = 0; i < n; i++) {
        int least = 0;
        for (int g = 1; g < n_groups; g++) {
            least = loads[g] < loads[least] ? g : least;
        }
        groups[hands[i].idx] = least;
        loads[least] += hands[i].weight;
    }
fail:
    rf_free(loads);
    rf_free(hands);
    return status;
}
