/* BatchTopK's cut over ranks where it falls among equals: rows that are the same stand on every
 * rank, and those of the ranks before come first, of each class. Beside one rank that is given the
 * whole batch. */
#include "step/step_cases.h"

static rf_comm *world, *alone;

enum { ROWS = 320, N_KINDS = 5 };

/* The same few rows again and again, so that each of their values has many equals. */
static void repeat_rows(float *x, int64_t d)
{
    for (int64_t b = N_KINDS; b < ROWS; b++) {
        memcpy(x + b * d, x + b % N_KINDS * d, sizeof *x * (size_t)d);
    }
}

static rf_step_metrics step_of(const rf_comm *comm, const step_case *c, const fixture *f, float *x,
                               int64_t n)
{
    const rf_step_rates rates = case_rates(c);
    rf_token_batch batch = case_batch(comm, c, x, n, NULL);
    rf_step_metrics metrics;
    OK(rf_step_run(f->step, f->coder, f->opt, &batch, &rates, &metrics));
    assert_false(metrics.skipped);
    return metrics;
}

static void check_case(const step_case *c)
{
    float *sample = case_rows(c, 61, ROWS), *x = case_rows(c, 62, ROWS);
    fixture many = case_make(world, c, sample, ROWS, 1), one = case_make(alone, c, sample, ROWS, 2);
    repeat_rows(x, case_columns(c));
    for (int64_t n = ROWS; n >= ROWS - 4; n--) { /* another place of the cut each time */
        const rf_step_metrics m = step_of(world, c, &many, x, n);
        const rf_step_metrics want = step_of(alone, c, &one, x, n);
        const bool is_same = m.l0 <= want.l0 && m.l0 >= want.l0;
        if (!is_same) {
            fail_msg("%s: L0 %.9g, on one rank %.9g", c->name, m.l0, want.l0);
        }
    }
    for (int i = 0; i < RF_CODER_N_TENSORS; i++) {
        const rf_view u = rf_coder_view(many.coder, i), v = rf_coder_view(one.coder, i);
        if (u.data != NULL &&
            memcmp(u.data, v.data, (size_t)rf_view_n_elems(&u) * rf_dtype_bytes(u.dtype)) != 0) {
            fail_msg("%s: %s has other bits on %d ranks", c->name,
                     rf_coder_tensor_at(many.coder, i).name, rf_comm_size(world));
        }
    }
    fixture_destroy(&one);
    fixture_destroy(&many);
    rf_free(x);
    rf_free(sample);
}

static void equals_are_shared_out_as_one_rank_would(void **state)
{
    (void)state;
    int n_tried = 0;
    for (int i = 0; i < N_STEP_CASES; i++) {
        const rf_coder_settings settings = case_settings(&step_cases[i]);
        const rf_architecture *a = rf_architecture_at(settings.architecture);
        if (a->rule(&settings) == RF_SELECT_BATCH_TOPK) {
            check_case(&step_cases[i]);
            n_tried++;
        }
    }
    assert_true(n_tried >= 4);
}

static int start(void **state)
{
    (void)state;
    if (rf_comm_start(NULL, NULL, &world) != RF_OK) {
        return -1;
    }
    return rf_comm_split(world, rf_comm_rank(world), &alone) == RF_OK ? 0 : -1;
}

static int finish(void **state)
{
    (void)state;
    rf_comm_destroy(alone);
    rf_comm_finish(world);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_are_shared_out_as_one_rank_would),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
