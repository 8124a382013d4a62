/* What holds for every architecture and recipe, on one rank. */
#include "step/step_cases.h"

static rf_comm *comm;

enum { ROWS = 400 };

/* All state of coder and optimiser but the counters, one after the other; returns the bytes. */
static size_t copy_everything(const fixture *f, char *out, size_t room)
{
    size_t used = 0;
    for (int i = 0; i < RF_CODER_N_TENSORS + rf_optimiser_n_tensors(f->opt); i++) {
        rf_view v = i < RF_CODER_N_TENSORS
                        ? rf_coder_view(f->coder, i)
                        : rf_optimiser_tensor_view(f->opt, i - RF_CODER_N_TENSORS);
        if (v.data == NULL || i == RF_CODER_COUNTERS) {
            continue;
        }
        size_t n = (size_t)rf_view_n_elems(&v) * rf_dtype_bytes(v.dtype);
        assert_true(used + n <= room);
        memcpy(out + used, v.data, n);
        used += n;
    }
    return used;
}

static void every_coder_learns(void **state)
{
    (void)state;
    for (int i = 0; i < N_STEP_CASES; i++) {
        const step_case *c = &step_cases[i];
        float *x = case_rows(c, 41, ROWS);
        fixture f = case_make(comm, c, x, ROWS, 2);
        rf_token_batch batch = case_batch(comm, c, x, ROWS, NULL);
        rf_step_rates rates = case_rates(c);
        rf_step_metrics first, last;
        case_keep_sparse(c, &f);
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &first));
        assert_true(first.dense_path == !(c->is_exact || c->is_sparse));
        for (int step = 0; step < 150; step++) {
            case_keep_sparse(c, &f);
            OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &last));
            if (last.skipped || !isfinite(last.loss)) {
                fail_msg("%s: step %d was skipped", c->name, step);
            }
        }
        print_message("%-34s loss %9.4f -> %7.4f  EV %6.3f  L0 %5.1f\n", c->name, first.loss,
                      last.loss, last.explained_variance, last.l0);
        if (!(last.loss < 0.8 * first.loss && last.explained_variance > 0.3)) {
            fail_msg("%s: loss %g after %g, explained variance %g", c->name, last.loss, first.loss,
                     last.explained_variance);
        }
        const double sum = last.mse + last.sparsity + last.aux + last.extra;
        assert_true(fabs(last.loss - sum) <= 1e-12 * fabs(sum));
        fixture_destroy(&f);
        rf_free(x);
    }
}

/* Batches of many sizes; what is left must not depend on threads. */
static void the_number_of_threads_leaves_no_trace(void **state)
{
    (void)state;
    enum { ROOM = 1 << 18 };
    static const int n_threads[] = {1, 2, 5};
    static char ends[3][ROOM];
    for (int i = 0; i < N_STEP_CASES; i++) {
        const step_case *c = &step_cases[i];
        size_t n_bytes = 0;
        for (int t = 0; t < 3; t++) {
            float *x = case_rows(c, 42, ROWS);
            fixture f = case_make(comm, c, x, ROWS, n_threads[t]);
            rf_step_rates rates = case_rates(c);
            for (int step = 0; step < 8; step++) {
                rf_token_batch batch = case_batch(comm, c, x, ROWS - 37 * step, NULL);
                case_keep_sparse(c, &f);
                OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, NULL));
            }
            n_bytes = copy_everything(&f, ends[t], ROOM);
            fixture_destroy(&f);
            rf_free(x);
        }
        for (int t = 1; t < 3; t++) {
            if (memcmp(ends[0], ends[t], n_bytes) != 0) {
                fail_msg("%s: %d threads leave other bits than one", c->name, n_threads[t]);
            }
        }
    }
}

static void a_batch_that_is_not_finite_changes_nothing_and_is_counted(void **state)
{
    (void)state;
    enum { ROOM = 1 << 18 };
    static char before[ROOM], after[ROOM];
    static const float bad[] = {NAN, INFINITY, 3e38f};
    for (int i = 0; i < 3 * N_STEP_CASES; i++) {
        const step_case *c = &step_cases[i / 3];
        float *x = case_rows(c, 43, 256);
        fixture f = case_make(comm, c, x, 256, 1);
        rf_token_batch batch = case_batch(comm, c, x, 256, NULL);
        rf_step_rates rates = case_rates(c);
        rf_step_metrics m;
        rf_coder_state st;
        case_keep_sparse(c, &f);
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &m));
        assert_false(m.skipped);
        size_t n_bytes = copy_everything(&f, before, ROOM);
        x[7 * case_columns(c) + 3] = bad[i % 3];
        case_keep_sparse(c, &f);
        OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &m));
        copy_everything(&f, after, ROOM);
        const bool is_tamed = bad[i % 3] > 1.0f && isfinite(bad[i % 3]) && !m.skipped;
        if (is_tamed) { /* a normalisation by token makes a finite token of it */
            assert_true(strstr(c->name, "norm") != NULL);
        } else if (!m.skipped || memcmp(before, after, n_bytes) != 0) {
            fail_msg("%s: %g did not leave everything as it was", c->name, (double)bad[i % 3]);
        }
        OK(rf_coder_get_state(f.coder, f.s, &st));
        assert_int_equal(st.counters[RF_COUNTER_SKIPPED], is_tamed ? 0 : 1);
        fixture_destroy(&f);
        rf_free(x);
    }
}

/* Rows that are not valid might as well not be there, whatever they hold. */
static void rows_that_are_not_valid_do_not_count(void **state)
{
    (void)state;
    enum { N = 256 };
    for (int i = 0; i < N_STEP_CASES; i++) {
        const step_case *c = &step_cases[i];
        const int64_t d = case_columns(c);
        rf_step_metrics m[2];
        float *ends[2], *x = case_rows(c, 44, N);
        for (int with = 0; with < 2; with++) {
            fixture f = case_make(comm, c, x, 2 * N, 1);
            float *rows = rf_calloc(2 * N * d, sizeof *rows);
            uint8_t valid[2 * N], classes[2 * N];
            rf_step_rates rates = case_rates(c);
            for (int b = 0; b < 2 * N; b++) {
                const int source = with == 0 ? b % N : b / 2;
                valid[b] = with == 0 || b % 2 == 0;
                classes[b] = case_classes(0)[source];
                for (int64_t j = 0; j < d; j++) {
                    rows[b * d + j] = valid[b] ? x[source * d + j] : NAN;
                }
            }
            rf_token_batch batch =
                case_batch(comm, c, rows, with == 0 ? N : 2 * N, with == 0 ? NULL : valid);
            batch.classes = classes;
            case_keep_sparse(c, &f);
            OK(rf_step_run(f.step, f.coder, f.opt, &batch, &rates, &m[with]));
            int64_t n = fixture_len(&f, RF_CODER_W_DEC);
            ends[with] = rf_calloc(n, sizeof(float));
            memcpy(ends[with], fixture_floats(&f, RF_CODER_W_DEC), sizeof(float) * (size_t)n);
            rf_free(rows);
            fixture_destroy(&f);
        }
        if (!(m[1].n_tokens == N && m[0].n_fired == m[1].n_fired &&
              fabs(m[0].l0 - m[1].l0) <= 1e-12 &&
              fabs(m[0].loss - m[1].loss) <= 1e-6 * m[0].loss && /* blocks of sums: rounding */
              (c->optimiser == RF_OPTIMISER_SIGNUM || /* the sign of a rounding error is a step */
               fixture_distance(ends[0], ends[1], CASE_LATENTS * CASE_WIDTH) <= 2e-4))) {
            fail_msg("%s: loss %g and %g, L0 %g and %g, W_dec %g apart", c->name, m[0].loss,
                     m[1].loss, m[0].l0, m[1].l0,
                     fixture_distance(ends[0], ends[1], CASE_LATENTS * CASE_WIDTH));
        }
        rf_free(ends[0]);
        rf_free(ends[1]);
        rf_free(x);
    }
}

/* All cases of one shape in one work space: none sees the others. */
static void a_shared_work_space_does_not_change_a_coder(void **state)
{
    (void)state;
    enum { ROOM = 1 << 19 };
    static char ends[2][ROOM];
    for (int shared = 0; shared < 2; shared++) {
        size_t used = 0;
        fixture f[N_STEP_CASES];
        float *x[N_STEP_CASES];
        const rf_coder *coders[N_STEP_CASES];
        rf_step *step = NULL;
        rf_step_opts opts = {.max_rows = 600};
        for (int i = 0; i < N_STEP_CASES; i++) {
            x[i] = case_rows(&step_cases[i], 45, ROWS);
            f[i] = case_make(comm, &step_cases[i], x[i], ROWS, 2);
            coders[i] = f[i].coder;
        }
        OK(rf_step_create(f[0].be, comm, coders, N_STEP_CASES, &opts, &step));
        for (int round = 0; round < 4; round++) {
            for (int i = 0; i < N_STEP_CASES; i++) {
                rf_token_batch batch =
                    case_batch(comm, &step_cases[i], x[i], ROWS - 90 * round, NULL);
                rf_step_rates rates = case_rates(&step_cases[i]);
                case_keep_sparse(&step_cases[i], &f[i]);
                OK(rf_step_run(shared ? step : f[i].step, f[i].coder, f[i].opt, &batch, &rates,
                               NULL));
            }
        }
        for (int i = 0; i < N_STEP_CASES; i++) { /* a part of each will do */
            rf_view w = rf_coder_view(f[i].coder, RF_CODER_W_ENC);
            size_t n = sizeof(float) * (size_t)rf_min_i64(rf_view_n_elems(&w), 1500);
            assert_true(used + n <= ROOM);
            memcpy(ends[shared] + used, w.data, n);
            used += n;
        }
        rf_step_destroy(step);
        for (int i = 0; i < N_STEP_CASES; i++) {
            fixture_destroy(&f[i]);
            rf_free(x[i]);
        }
    }
    assert_memory_equal(ends[0], ends[1], ROOM);
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_coder_learns),
        cmocka_unit_test(the_number_of_threads_leaves_no_trace),
        cmocka_unit_test(a_batch_that_is_not_finite_changes_nothing_and_is_counted),
        cmocka_unit_test(rows_that_are_not_valid_do_not_count),
        cmocka_unit_test(a_shared_work_space_does_not_change_a_coder),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
