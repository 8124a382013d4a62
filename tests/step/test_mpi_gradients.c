/* The step's gradients on several ranks: three shares of 150 rows, the last a short one, and none
 * for a fourth rank. */
#define NAIVE_ROWS 150
#include "step/gradient_case.h"

/* Every kind of list, exchange and sum over ranks once. */
static const char *const names[] = {
    "topk with k by class",
    "topk with ghost",
    "topk with Prisma's ghost",
    "topk, archetypal",
    "multi_topk",
    "batch_topk",
    "matryoshka",
    "relu with aux",
    "relu with tanh by norm",
    "p_anneal",
    "jumprelu with target_l0",
    "jumprelu, tanh to all",
    "gated with aux",
    "gated with ghost",
    "skip transcoder of gated",
    "transcoder to two sites",
    "crosscoder, l1 by norms",
};
enum { N_NAMES = sizeof names / sizeof names[0] };

static void equals_finite_differences_on_ranks(void **state)
{
    const char *name = *state;
    for (int i = 0; i < N_CASES; i++) {
        if (strcmp(cases[i].name, name) == 0) {
            check_case(&cases[i]);
            return;
        }
    }
    fail_msg("there is no case '%s'", name);
}

static int start(void **state)
{
    (void)state;
    return rf_comm_start(NULL, NULL, &comm) == RF_OK ? 0 : -1;
}

static int finish(void **state)
{
    (void)state;
    rf_comm_finish(comm);
    return 0;
}

int main(void)
{
    static struct CMUnitTest tests[N_NAMES];
    for (int i = 0; i < N_NAMES; i++) {
        tests[i] = (struct CMUnitTest){.name = names[i],
                                       .test_func = equals_finite_differences_on_ranks,
                                       .initial_state = (void *)(uintptr_t)names[i]};
    }
    return _cmocka_run_group_tests("gradients on ranks", tests, N_NAMES, start, finish);
}
