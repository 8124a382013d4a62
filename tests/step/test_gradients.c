/* The step's gradients on one rank. */
#include "step/gradient_case.h"

static void equals_finite_differences(void **state)
{
    check_case(*state);
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
    static struct CMUnitTest tests[N_CASES];
    for (int i = 0; i < N_CASES; i++) {
        tests[i] = (struct CMUnitTest){.name = cases[i].name,
                                       .test_func = equals_finite_differences,
                                       .initial_state = (void *)(uintptr_t)&cases[i]};
    }
    return _cmocka_run_group_tests("gradients equal finite differences", tests, N_CASES, start,
                                   finish);
}
