/* Every architecture and recipe on 1 to 4 ranks, beside one rank that is given the whole batch:
 * exact rules bit for bit, the others to rounding. docs/determinism.md says the same in words. */
#include "step/step_cases.h"

static rf_comm *world, *alone;

enum { MAX_ROWS = 500 };

/* Ragged, one past a tile, and so small that ranks have nothing. */
static const int64_t batch_rows[] = {500, 333, 65, 64, 190, 2};
enum { N_BATCHES = sizeof batch_rows / sizeof batch_rows[0] };

static void same_tensors(const step_case *c, const fixture *a, const fixture *b)
{
    for (int i = 0; i < RF_CODER_N_TENSORS; i++) {
        rf_view u = rf_coder_view(a->coder, i), v = rf_coder_view(b->coder, i);
        if (u.data != NULL &&
            memcmp(u.data, v.data, (size_t)rf_view_n_elems(&u) * rf_dtype_bytes(u.dtype)) != 0) {
            fail_msg("%s: %s has other bits on %d ranks", c->name,
                     rf_coder_tensor_at(a->coder, i).name, rf_comm_size(world));
        }
    }
    for (int i = 0; i < rf_optimiser_n_tensors(a->opt); i++) {
        rf_view u = rf_optimiser_tensor_view(a->opt, i), v = rf_optimiser_tensor_view(b->opt, i);
        if (memcmp(u.data, v.data, (size_t)rf_view_n_elems(&u) * rf_dtype_bytes(u.dtype)) != 0) {
            fail_msg("%s: %s has other bits on %d ranks", c->name,
                     rf_optimiser_tensor_name(a->opt, i), rf_comm_size(world));
        }
    }
}

/* One step of both; the largest relative difference of the loss. */
static double one_step(const step_case *c, const fixture *many, const fixture *one, float *x,
                       const uint8_t *valid, int64_t n)
{
    rf_step_rates rates = case_rates(c);
    rf_step_metrics m, want;
    rf_token_batch batch = case_batch(world, c, x, n, valid);
    case_keep_sparse(c, many);
    case_keep_sparse(c, one);
    OK(rf_step_run(many->step, many->coder, many->opt, &batch, &rates, &m));
    batch = case_batch(alone, c, x, n, valid);
    OK(rf_step_run(one->step, one->coder, one->opt, &batch, &rates, &want));
    if (m.n_dead != want.n_dead || m.skipped != want.skipped || m.dense_path != want.dense_path) {
        fail_msg("%s: %d dead, %d on one rank", c->name, (int)m.n_dead, (int)want.n_dead);
    }
    if (c->is_exact && !want.skipped && !(m.loss <= want.loss && m.loss >= want.loss)) {
        fail_msg("%s: loss %.17g, on one rank %.17g", c->name, m.loss, want.loss);
    }
    return want.skipped ? 0.0 : fabs(m.loss - want.loss) / want.loss;
}

static void every_coder_agrees_over_ranks(void **state)
{
    (void)state;
    uint8_t valid[MAX_ROWS];
    for (int b = 0; b < MAX_ROWS; b++) {
        valid[b] = b % 11 != 5;
    }
    for (int i = 0; i < N_STEP_CASES; i++) {
        const step_case *c = &step_cases[i];
        float *x = case_rows(c, 51, MAX_ROWS + 8);
        fixture many = case_make(world, c, x, MAX_ROWS, 1 + rf_comm_rank(world) % 2);
        fixture one = case_make(alone, c, x, MAX_ROWS, 1);
        double worst = 0.0;
        for (int step = 0; step < N_BATCHES + 2; step++) {
            worst =
                fmax(worst, one_step(c, &many, &one, x + (step % 5) * case_columns(c),
                                     step % 2 == 0 ? valid : NULL, batch_rows[step % N_BATCHES]));
        }
        if (c->is_exact) {
            same_tensors(c, &many, &one);
        } else if (rf_comm_rank(world) == 0) {
            print_message("%-34s loss differs by at most %.2g\n", c->name, worst);
        }
        /* fp32 sums in another order; STE windows and gates may take one entry more or less */
        if (!(worst <= 2e-5)) {
            fail_msg("%s: loss differs by %g over ranks", c->name, worst);
        }
        fixture_destroy(&one);
        fixture_destroy(&many);
        rf_free(x);
    }
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
        cmocka_unit_test(every_coder_agrees_over_ranks),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
