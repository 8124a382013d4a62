/* Optimisers of whole coders: what they remember, Muon against its formula
 * (tests/golden/make_optimiser.py), schedule-free's two sets of parameters, sums over batches. */
#include "../../src/step/step_impl.h"
#include "coder/coder_fixture.h"

static rf_comm *comm;

static fixture make_kind(const rf_coder_settings *settings, int64_t width, int64_t max_rows,
                         rf_optimiser_kind kind, int64_t accumulate)
{
    rf_coder_shape shape = rf_coder_shape_of(width);
    rf_optimiser_opts opts = {.kind = (int)kind, .accumulate = accumulate};
    return fixture_make_of(comm, settings, &shape, &opts, max_rows, 2);
}

static void start(fixture *f, float *x, int64_t n)
{
    rf_view sample = rf_view_2d(x, n, f->width);
    OK(rf_coder_init(f->coder, f->s, &sample));
}

static rf_step_metrics run(fixture *f, float *x, int64_t n, const rf_step_rates *rates)
{
    rf_step_metrics metrics;
    rf_token_batch batch = fixture_batch(comm, x, n, f->width, NULL);
    OK(rf_step_run(f->step, f->coder, f->opt, &batch, rates, &metrics));
    assert_false(metrics.skipped);
    return metrics;
}

static const float *part(const fixture *f, rf_optimiser_part which, int idx)
{
    return rf_optimiser_part_view(f->opt, which, idx).data;
}

/* ---- tensors ------------------------------------------------------------------------------- */

static void an_optimiser_has_the_tensors_of_its_kind(void **state)
{
    (void)state;
    static const struct {
        rf_optimiser_kind kind;
        int64_t accumulate;
        const char *names;
    } cases[] = {
        {RF_OPTIMISER_ADAM, 1,
         "m/W_enc m/b_enc m/W_dec m/b_dec v/W_enc v/b_enc v/W_dec v/b_dec updates "},
        {RF_OPTIMISER_SIGNUM, 2,
         "m/W_enc m/b_enc m/W_dec m/b_dec sum/W_enc sum/b_enc sum/W_dec sum/b_dec updates "},
        {RF_OPTIMISER_SCHEDULE_FREE, 0,
         "m/W_enc m/b_enc m/W_dec m/b_dec v/W_enc v/b_enc v/W_dec v/b_dec live/W_enc live/b_enc "
         "live/W_dec live/b_dec rates updates "},
        {RF_OPTIMISER_MUON, 1, "m/W_enc m/b_enc m/W_dec m/b_dec v/b_enc v/b_dec updates "},
    };
    rf_coder_settings settings = fixture_settings("topk", 6, 2);
    for (int c = 0; c < 4; c++) {
        fixture f = make_kind(&settings, 3, 64, cases[c].kind, cases[c].accumulate);
        char names[512] = "";
        for (int i = 0; i < rf_optimiser_n_tensors(f.opt); i++) {
            rf_view v = rf_optimiser_tensor_view(f.opt, i);
            size_t used = strlen(names);
            OK(rf_format(names + used, sizeof names - used, "%s ",
                         rf_optimiser_tensor_name(f.opt, i)));
            assert_true(v.data != NULL && rf_view_n_elems(&v) > 0);
        }
        assert_string_equal(names, cases[c].names);
        fixture_destroy(&f);
    }
    fixture f = make_kind(&settings, 3, 64, RF_OPTIMISER_ADAM, 1);
    rf_optimiser *none = NULL;
    assert_int_equal(rf_optimiser_create(f.be, f.coder, &(rf_optimiser_opts){.kind = 5}, &none),
                     RF_ERR_INVALID_ARG);
    fixture_destroy(&f);
}

/* ---- Muon ---------------------------------------------------------------------------------- */

static float *read_golden(const rf_tensor_file *file, const char *name, const char *what,
                          rf_view *out)
{
    char path[64];
    OK(rf_format(path, sizeof path, "%s/%s", name, what));
    const rf_named_tensor *t = rf_tensor_file_find(file, path);
    assert_non_null(t);
    float *x = rf_calloc(t->n_elems, sizeof *x);
    assert_non_null(x);
    OK(rf_named_tensor_read_f32(t, x));
    *out = rf_view_nd(x, RF_F32, t->n_dims, t->shape);
    return x;
}

static void muon_directions_are_those_of_the_published_iteration(void **state)
{
    (void)state;
    static const char *const names[] = {"muon_tall", "muon_wide", "muon_square"};
    rf_tensor_file *file;
    rf_backend *be;
    rf_stream *s;
    OK(rf_backend_cpu_create(2, &be));
    OK(rf_stream_create(be, &s));
    OK(rf_tensor_file_open(RF_GOLDEN_DIR "/optimiser.safetensors", &file));
    for (int c = 0; c < 3; c++) {
        rf_view shape, unused;
        float *g = read_golden(file, names[c], "g", &shape);
        float *want = read_golden(file, names[c], "directions", &unused);
        float *want_m = read_golden(file, names[c], "m", &unused);
        const int64_t n = shape.shape[1], d = shape.shape[2];
        float *m = rf_calloc(n * d, sizeof *m), *work = rf_calloc(rf_muon_work(n, d), sizeof *work);
        for (int step = 0; step < 3; step++) {
            float *at = g + step * n * d;
            OK(rf_muon_direction(s, &(rf_muon_args){.g = rf_view_2d(at, n, d),
                                                    .momentum = rf_view_2d(m, n, d),
                                                    .beta = 0.9,
                                                    .work = work}));
            /* five iterations in fp32 each of which may triple an error */
            assert_true(fixture_distance(at, want + step * n * d, n * d) <= 2e-5);
        }
        assert_true(fixture_distance(m, want_m, n * d) <= 1e-6); /* fp32 */
        rf_free(g);
        rf_free(want);
        rf_free(want_m);
        rf_free(m);
        rf_free(work);
    }
    rf_tensor_file_close(file);
    rf_stream_destroy(s);
    rf_backend_destroy(be);
}

static void muon_reads_touched_rows_times_the_scale(void **state)
{
    (void)state;
    enum { N = 21, D = 8 };
    rf_backend *be;
    rf_stream *s;
    float *g[2], *m[2], *work = rf_calloc(rf_muon_work(N, D), sizeof *work), scale = 0.5f;
    uint8_t touched[N];
    OK(rf_backend_cpu_create(1, &be));
    OK(rf_stream_create(be, &s));
    for (int k = 0; k < 2; k++) {
        g[k] = fixture_normals(3, N * D, 1.0f);
        m[k] = fixture_normals(4, N * D, 1.0f);
        for (int i = 0; i < N * D; i++) {
            touched[i / D] = i / D % 4 != 1;
            g[k][i] = !touched[i / D] ? (k == 0 ? 0.0f : NAN) : k == 0 ? scale * g[k][i] : g[k][i];
        }
        rf_muon_args args = {
            .g = rf_view_2d(g[k], N, D), .momentum = rf_view_2d(m[k], N, D), .beta = 0.5};
        args.work = work;
        args.touched = k == 0 ? NULL : touched;
        args.grad_scale = k == 0 ? NULL : &scale;
        OK(rf_muon_direction(s, &args));
    }
    assert_memory_equal(g[0], g[1], sizeof *g[0] * N * D);
    assert_memory_equal(m[0], m[1], sizeof *m[0] * N * D);
    for (int k = 0; k < 2; k++) {
        rf_free(g[k]);
        rf_free(m[k]);
    }
    rf_free(work);
    rf_stream_destroy(s);
    rf_backend_destroy(be);
}

/* ---- schedule-free ------------------------------------------------------------------------- */

enum { WIDTH = 12, LATENTS = 40, ROWS = 128, N_WEIGHTS = 4 };
static const int weights[N_WEIGHTS] = {RF_CODER_W_ENC, RF_CODER_B_ENC, RF_CODER_W_DEC,
                                       RF_CODER_B_DEC};

static float *copy_of(const fixture *f, int idx)
{
    int64_t n = fixture_len(f, idx);
    float *copy = rf_calloc(n, sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, fixture_floats(f, idx), sizeof *copy * (size_t)n);
    return copy;
}

static bool is_same(const fixture *f, int idx, const float *want)
{
    return memcmp(fixture_floats(f, idx), want, sizeof *want * (size_t)fixture_len(f, idx)) == 0;
}

static void swapping_twice_changes_no_bit(void **state)
{
    (void)state;
    rf_coder_settings settings = fixture_settings("topk", LATENTS, 4);
    fixture f = make_kind(&settings, WIDTH, ROWS, RF_OPTIMISER_SCHEDULE_FREE, 1);
    float *x = fixture_planted(1, ROWS, WIDTH);
    rf_step_rates rates = rf_step_rates_default();
    rates.lr = 0.01;
    start(&f, x, ROWS);
    for (int round = 0; round < 2; round++) { /* before the first update, and after some */
        for (int i = 0; i < N_WEIGHTS; i++) {
            float *before = copy_of(&f, weights[i]);
            OK(rf_optimiser_swap_live(f.opt, f.coder, f.s));
            /* y is x as long as nothing was learnt */
            assert_true(is_same(&f, weights[i], before) == (round == 0));
            OK(rf_optimiser_swap_live(f.opt, f.coder, f.s));
            assert_true(is_same(&f, weights[i], before));
            rf_free(before);
        }
        for (int step = 0; step < 4; step++) {
            run(&f, x, ROWS, &rates);
        }
    }
    fixture_destroy(&f);
    rf_free(x);
}

static void between_steps_a_schedule_free_coder_is_the_average(void **state)
{
    (void)state;
    rf_coder_settings settings = fixture_settings("topk", LATENTS, 4);
    fixture f = make_kind(&settings, WIDTH, ROWS, RF_OPTIMISER_SCHEDULE_FREE, 1);
    float *x = fixture_planted(2, ROWS, WIDTH);
    rf_step_rates rates = rf_step_rates_default();
    rates.lr = 0.01;
    start(&f, x, ROWS);
    float *first = copy_of(&f, RF_CODER_B_DEC), *w_enc = copy_of(&f, RF_CODER_W_ENC);
    float mean[WIDTH] = {0};
    for (int step = 1; step <= 3; step++) {
        run(&f, x, ROWS, &rates);
        for (int i = 0; step == 1 && i < LATENTS * WIDTH; i++) { /* from the start by lr at most */
            double moved = (double)part(&f, RF_OPTIMISER_M, RF_CODER_W_ENC)[i] - (double)w_enc[i];
            assert_true(fabs(moved) <= 1.001 * rates.lr);
        }
        const float *z = part(&f, RF_OPTIMISER_M, RF_CODER_B_DEC);
        const float *y = part(&f, RF_OPTIMISER_LIVE, RF_CODER_B_DEC);
        const float *average = fixture_floats(&f, RF_CODER_B_DEC);
        for (int j = 0; j < WIDTH; j++) { /* at one lr the average is the mean of the iterates */
            mean[j] += (z[j] - mean[j]) / (float)step;
            assert_true(fabs((double)average[j] - (double)mean[j]) <= 1e-6); /* fp32 */
            double mixed = 0.9 * (double)average[j] + 0.1 * (double)z[j];
            assert_true(fabs((double)y[j] - mixed) <= 1e-6);
        }
    }
    assert_false(is_same(&f, RF_CODER_B_DEC, first));
    rf_free(first);
    rf_free(w_enc);
    fixture_destroy(&f);
    rf_free(x);
}

/* ---- sums over batches --------------------------------------------------------------------- */

/* Clipping sees the sum, and the coder does not move before it is whole. */
static void accumulated_batches_are_one_batch_of_their_tokens(void **state)
{
    (void)state;
    static const char *const architectures[] = {"topk", "relu"};
    for (int c = 0; c < 2; c++) {
        /* in a sparse step most latents are not touched */
        rf_coder_settings settings = fixture_settings(architectures[c], c == 0 ? 300 : LATENTS, 2);
        fixture whole = make_kind(&settings, WIDTH, 3 * ROWS, RF_OPTIMISER_ADAM, 1),
                parts = make_kind(&settings, WIDTH, ROWS, RF_OPTIMISER_ADAM, 3);
        float *x = fixture_planted(3, 3 * ROWS, WIDTH);
        rf_step_rates rates = fixture_gradient_rates();
        rf_step_metrics one, last = {0};
        start(&whole, x, 3 * ROWS);
        start(&parts, x, 3 * ROWS);
        for (int round = 0; round < 2; round++) { /* sums begin anew after an update */
            one = run(&whole, x, 3 * ROWS, &rates);
            for (int b = 0; b < 3; b++) {
                float *before = copy_of(&parts, RF_CODER_W_ENC);
                rates.lr = b < 2 ? 0.1 : 0.0;
                last = run(&parts, x + b * ROWS * WIDTH, ROWS, &rates);
                assert_true(last.updated == (b == 2));
                assert_true(is_same(&parts, RF_CODER_W_ENC, before));
                rf_free(before);
            }
            assert_true(one.updated);
            /* sums of the same terms in another order */
            if (!(fabs(last.grad_norm / one.grad_norm - 1.0) <= 1e-5)) {
                fail_msg("%s: norm %g of the sum, %g of one batch", architectures[c],
                         last.grad_norm, one.grad_norm);
            }
            for (int i = 0; i < N_WEIGHTS; i++) {
                assert_true(fixture_distance(part(&parts, RF_OPTIMISER_M, weights[i]),
                                             part(&whole, RF_OPTIMISER_M, weights[i]),
                                             fixture_len(&whole, weights[i])) <= 1e-5);
            }
        }
        rf_coder_state after;
        OK(rf_coder_get_state(parts.coder, parts.s, &after));
        assert_int_equal(after.counters[RF_COUNTER_ACCUMULATED], 0);
        fixture_destroy(&whole);
        fixture_destroy(&parts);
        rf_free(x);
    }
}

/* ---- a decoder made of points ----------------------------------------------------------------
 */

/* The loss at the coder's parameters: nothing is learnt at lr 0. */
static double loss_of(fixture *f, float *x, const rf_step_rates *rates)
{
    OK(rf_coder_derive(f->coder, f->s));
    return run(f, x, ROWS, rates).mse;
}

/* Along the gradient the loss changes by its norm. */
static void check_gradient(fixture *f, int idx, float *x, const rf_step_rates *rates)
{
    const int64_t n = fixture_len(f, idx);
    const double h = 1e-2;
    float *gradient = fixture_normals(9, n, 0.0f), *w = fixture_floats(f, idx);
    float *before = copy_of(f, idx);
    double along = 0.0, norm = 0.0;
    memcpy(gradient, part(f, RF_OPTIMISER_M, idx), sizeof *gradient * (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        norm += (double)gradient[i] * (double)gradient[i];
    }
    norm = sqrt(norm);
    for (int side = -1; side <= 1; side += 2) {
        for (int64_t i = 0; i < n; i++) {
            w[i] = (float)((double)before[i] + side * h * (double)gradient[i] / norm);
        }
        along += side * loss_of(f, x, rates) / (2.0 * h);
        memcpy(w, before, sizeof *w * (size_t)n); /* rules may have moved it */
    }
    /* fp32 losses of about 1 over 2e-2, and the third derivative */
    if (!(fabs(along / norm - 1.0) <= 1e-2)) {
        fail_msg("parameter %d: %g along the gradient of norm %g", idx, along, norm);
    }
    rf_free(before);
    rf_free(gradient);
}

/* Rows of latents without a gradient are zero, whatever was there before. */
static void check_untouched(const fixture *f)
{
    const float *d_w_enc = part(f, RF_OPTIMISER_M, RF_CODER_W_ENC),
                *d_b_enc = part(f, RF_OPTIMISER_M, RF_CODER_B_ENC);
    int64_t n_untouched = 0;
    for (int64_t i = 0; i < f->latents; i++) {
        for (int64_t j = 0; d_b_enc[i] == 0.0f && j < f->width; j++) {
            assert_true(d_w_enc[i * f->width + j] == 0.0f);
        }
        n_untouched += d_b_enc[i] == 0.0f;
    }
    assert_true(n_untouched > 0);
}

/* On both paths; in a sparse step most latents are not touched. */
static void archetypal_gradients_are_those_of_the_loss(void **state)
{
    (void)state;
    static const char *const architectures[] = {"relu", "topk"};
    for (int c = 0; c < 2; c++) {
        rf_coder_settings settings = fixture_settings(architectures[c], c == 0 ? 24 : 300, 2);
        settings.decoder = RF_DECODER_ARCHETYPAL;
        settings.archetypal_points = 7;
        settings.l1 = 0.0;
        fixture f = make_kind(&settings, WIDTH, ROWS, RF_OPTIMISER_ADAM, 1);
        float *x = fixture_planted(4, 2 * ROWS, WIDTH);
        rf_step_rates rates = fixture_gradient_rates();
        double squares = 0.0;
        start(&f, x, 2 * ROWS);
        loss_of(&f, x + ROWS * WIDTH, &rates); /* leaves gradients of other latents behind */
        double norm = run(&f, x, ROWS, &rates).grad_norm;
        for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
            const float *g = part(&f, RF_OPTIMISER_M, i);
            for (int64_t j = 0; g != NULL && j < fixture_len(&f, i); j++) {
                squares += (double)g[j] * (double)g[j];
            }
        }
        assert_true(fabs(norm / sqrt(squares) - 1.0) <= 1e-5); /* sums in fp32 */
        if (c == 1) {
            check_untouched(&f);
        }
        check_gradient(&f, RF_CODER_ARCHETYPES, x, &rates);
        check_gradient(&f, RF_CODER_ARCHETYPE_OFFSETS, x, &rates);
        check_gradient(&f, RF_CODER_ARCHETYPE_SCALE, x, &rates);
        fixture_destroy(&f);
        rf_free(x);
    }
}

/* ---- all kinds ----------------------------------------------------------------------------- */

static void every_kind_learns_and_keeps_decoder_rows_at_norm_one(void **state)
{
    (void)state;
    static const double lr[] = {5e-3, 5e-3, 2e-3, 2e-2, 1e-2};
    float *x = fixture_planted(5, ROWS * 4, WIDTH);
    for (int kind = RF_OPTIMISER_ADAM; kind <= RF_OPTIMISER_MUON; kind++) {
        rf_coder_settings settings = fixture_settings("topk", LATENTS, 4);
        fixture f = make_kind(&settings, WIDTH, ROWS, (rf_optimiser_kind)kind, 1);
        rf_step_rates rates = rf_step_rates_default();
        double first = 0.0, last = 0.0;
        rates.lr = lr[kind];
        rates.weight_decay = kind == RF_OPTIMISER_ADAM ? 0.0 : 1e-3;
        start(&f, x, ROWS * 4);
        for (int step = 0; step < 80; step++) {
            last = run(&f, x + step % 4 * ROWS * WIDTH, ROWS, &rates).mse;
            first = step == 0 ? last : first;
        }
        if (!(last < 0.7 * first)) {
            fail_msg("kind %d: loss from %g to %g", kind, first, last);
        }
        for (int i = 0; i < LATENTS; i++) {
            const float *w = fixture_floats(&f, RF_CODER_W_DEC) + i * WIDTH;
            assert_true(fabs((double)rf_dot(w, w, WIDTH) - 1.0) <= 1e-6); /* fp32 */
        }
        fixture_destroy(&f);
    }
    rf_free(x);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_optimiser_has_the_tensors_of_its_kind),
        cmocka_unit_test(muon_directions_are_those_of_the_published_iteration),
        cmocka_unit_test(muon_reads_touched_rows_times_the_scale),
        cmocka_unit_test(swapping_twice_changes_no_bit),
        cmocka_unit_test(between_steps_a_schedule_free_coder_is_the_average),
        cmocka_unit_test(accumulated_batches_are_one_batch_of_their_tokens),
        cmocka_unit_test(archetypal_gradients_are_those_of_the_loss),
        cmocka_unit_test(every_kind_learns_and_keeps_decoder_rows_at_norm_one),
    };
    if (rf_comm_start(&argc, &argv, &comm) != RF_OK) {
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rf_comm_finish(comm);
    return failed;
}
