/* What a pre-activation becomes and the way back: on matrices against definitions in double and
 * their differences, on entries of codes against the matrices. */
#include "act_fixture.h"

/* ---- values -------------------------------------------------------------------------------- */

static void check_values(problem *p)
{
    dense_result r[N_THREADS];
    for (int t = 0; t < N_THREADS; t++) {
        r[t] = make_result(p);
        for (int64_t i = 0; i < p->f; i++) {
            r[t].n_active[i] = 7; /* is added to */
        }
        dense_values(p, threads[t].s, &r[t]);
        same_bits(r[t].z, r[0].z, p->n * p->f, "z by threads");
        same_bits(r[t].row_penalty, r[0].row_penalty, p->n, "penalty by threads");
    }
    for (int64_t i = 0; i < p->f; i++) {
        for (int64_t b = 0; b < p->n; b++) {
            const double z = value_of(p, p->dh[b * p->f + i], i);
            near((double)r[0].z[b * p->f + i], p->valid[b] ? z : 0, 1e-6, "z"); /* fp32 */
            r[1].n_active[i] -= p->valid[b] && z > 0;
            r[2].n_active[i] -= p->valid[b] && z > 0;
            r[2].row_active[b] -= p->valid[b] && z > 0;
        }
        assert_int_equal(r[1].n_active[i], 7);
        assert_int_equal(r[2].n_active[i], 7);
    }
    for (int64_t b = 0; b < p->n; b++) {
        const double penalty = p->valid[b] ? penalty_of(p, p->dh + b * p->f) : 0;
        /* Terms within 2e-6 by exp and ln in fp32; NORM squares their sum. */
        near((double)r[0].row_penalty[b], penalty, 5e-6, "penalty");
        assert_int_equal(r[2].row_active[b], 0);
    }
    for (int t = 0; t < N_THREADS; t++) {
        free_result(&r[t]);
    }
}

static void values_counts_and_penalties_are_their_definitions(void **state)
{
    (void)state;
    for_all(check_values, INT64_MAX);
}

static void values_may_take_the_place_of_their_pre_activations(void **state)
{
    (void)state;
    for (int act = RF_CODER_RELU; act <= RF_CODER_JUMP; act++) {
        problem p = make_problem(4, 300, (rf_coder_act)act, RF_PENALTY_L1, true);
        dense_result r = make_result(&p), in_place = r;
        dense_values(&p, threads[0].s, &r);
        in_place.z = p.h;
        dense_values(&p, threads[1].s, &in_place);
        same_bits(p.h, r.z, 4 * 300, "z in place");
        free_result(&r);
        free_problem(&p);
    }
    problem p = make_problem(4, 300, RF_CODER_GATED, RF_PENALTY_L1, true);
    rf_view h = rf_view_2d(p.h, 4, 300);
    assert_int_equal(
        rf_dense_values(threads[0].s, &p.params, &(rf_dense_values_args){.h = h, .z = h}),
        RF_ERR_INVALID_ARG);
    free_problem(&p);
}

static void dense_relu_is_of_valid_rows(void **state)
{
    (void)state;
    problem p = make_problem(7, 600, RF_CODER_RELU, RF_PENALTY_NONE, false);
    dense_result r = make_result(&p);
    rf_view h = rf_view_2d(p.h, p.n, p.f), z = rf_view_2d(r.z, p.n, p.f);
    for (int t = 0; t < N_THREADS; t++) {
        OK(rf_dense_relu(threads[t].s, &h, &z, p.valid));
        for (int64_t e = 0; e < p.n * p.f; e++) {
            assert_true(r.z[e] == (p.valid[e / p.f] && p.h[e] > 0 ? p.h[e] : 0.0f));
        }
    }
    OK(rf_dense_relu(threads[0].s, &h, &h, NULL));
    assert_true(p.h[2 * p.f] >= 0);
    free_result(&r);
    free_problem(&p);
}

/* ---- gradients ----------------------------------------------------------------------------- */

/* fp32 against differences: exp and ln within 2e-6, NORM's factor twice that. */
static const double grad_tol = 2e-5;

static void check_grad(problem *p)
{
    dense_result r = make_result(p);
    dense_values(p, threads[0].s, &r);
    dense_grad(p, threads[0].s, &r, p->f, 0, 0, false);
    for (p->row = 0; p->row < p->n; p->row++) {
        const float *d_h = r.d_h + p->row * p->f;
        if (p->valid[p->row]) {
            check_gradient("d_h", row_loss, p, p->dh + p->row * p->f, p->f, d_h, grad_tol);
        }
        for (int64_t i = 0; !p->valid[p->row] && i < p->f; i++) {
            assert_true(d_h[i] == 0.0f);
        }
    }
    if (p->params.act == RF_CODER_GATED && p->f <= 20) {
        check_gradient("d_b_gate", whole_loss, p, p->db, p->f, r.d_b, grad_tol);
        check_gradient("d_gain", whole_loss, p, p->dr, p->f, r.d_r, grad_tol);
        check_gradient("d_b_mag", whole_loss, p, p->dm, p->f, r.d_m, grad_tol);
    }
    free_result(&r);
}

static void gradients_are_those_of_differences(void **state)
{
    (void)state;
    for_all(check_grad, 257);
}

/* Whatever the threads and tiles, d_h and sums by latent have the same bits. */
static void check_bits(problem *p)
{
    static const int64_t tiles[N_THREADS] = {1000, 100, 16};
    dense_result r[N_THREADS];
    for (int t = 0; t < N_THREADS; t++) {
        r[t] = make_result(p);
        dense_values(p, threads[t].s, &r[t]);
        dense_grad(p, threads[t].s, &r[t], tiles[t], 0.25f, 0.01f, true);
        same_bits(r[t].d_h, r[0].d_h, p->n * p->f, "d_h");
        same_bits(r[t].d_theta, r[0].d_theta, p->f, "d_threshold");
        same_bits(r[t].d_b, r[0].d_b, p->f, "d_b_gate");
        same_bits(r[t].d_r, r[0].d_r, p->f, "d_gain");
        same_bits(r[t].d_m, r[0].d_m, p->f, "d_b_mag");
    }
    for (int t = 0; t < N_THREADS; t++) {
        free_result(&r[t]);
    }
}

static void gradients_do_not_depend_on_threads_or_tiles(void **state)
{
    (void)state;
    for_all(check_bits, INT64_MAX);
}

/* The penalty's derivative by the value of latent i in row b, at 0 from above where that is finite:
 * by differences of the row's penalty. */
static double window_slope(const problem *p, int64_t b, int64_t i)
{
    const double d = 1e-6, z = value_of(p, p->dh[b * p->f + i], i);
    const rf_penalty_kind kind = p->params.penalty;
    double above, below, *h = rf_calloc(p->f, sizeof *h);
    assert_non_null(h);
    if ((z == 0 && kind != RF_PENALTY_L1 && kind != RF_PENALTY_TANH) || kind == RF_PENALTY_L0) {
        rf_free(h);
        return 0;
    }
    memcpy(h, p->dh + b * p->f, sizeof *h * (size_t)p->f);
    if (z == 0) { /* these two are sums over latents: the slope at 0 is the same above it */
        const double w = p->params.weight.data != NULL ? (double)p->w[i] : 1;
        rf_free(h);
        return kind == RF_PENALTY_L1 ? w : w * (double)p->params.p;
    }
    h[i] += d;
    above = penalty_of(p, h);
    h[i] -= 2 * d;
    below = penalty_of(p, h);
    rf_free(h);
    return (above - below) / (2 * d);
}

static void check_window(problem *p)
{
    const float eps = 0.3f, l0 = 0.02f;
    dense_result plain = make_result(p), with = make_result(p);
    dense_values(p, threads[0].s, &plain);
    memcpy(with.row_norm, plain.row_norm, sizeof(float) * (size_t)p->n);
    for (int64_t i = 0; i < p->f; i++) {
        with.d_theta[i] = 2.0f; /* is added to */
    }
    dense_grad(p, threads[0].s, &plain, p->f, eps, l0, false);
    dense_grad(p, threads[1].s, &with, p->f, eps, l0, true);
    for (int64_t i = 0; i < p->f; i++) {
        double sum = 0, theta = (double)p->theta[i];
        for (int64_t b = 0; b < p->n; b++) {
            const int64_t e = b * p->f + i;
            double reach = 0;
            if (fabs(p->dh[e] - theta) < 0.5 * (double)eps && p->valid[b]) {
                const double d_z = (double)p->d_z[e] + p->scale * window_slope(p, b, i);
                reach = (theta * d_z + (double)l0) / (double)eps;
            }
            sum -= reach;
            near((double)with.d_h[e] - (double)plain.d_h[e], reach, grad_tol, "reach");
        }
        near((double)plain.d_theta[i], sum, grad_tol, "d_threshold");
        near((double)with.d_theta[i], 2 + sum, grad_tol, "d_threshold, added to");
    }
    free_result(&plain);
    free_result(&with);
}

static void the_window_gives_thresholds_their_gradient_and_inputs_on_request(void **state)
{
    (void)state;
    for (int c = 0; c < N_SHAPES; c++) {
        for (int kind = 0; kind < N_PENALTIES; kind++) {
            problem p = make_problem(shapes[c][0], shapes[c][1], RF_CODER_JUMP,
                                     (rf_penalty_kind)kind, true);
            check_window(&p);
            free_problem(&p);
        }
    }
}

/* ---- entries of codes ---------------------------------------------------------------------- */

static void check_sparse_gated(const problem *p, sparse *c, const dense_result *dense, int t)
{
    const int64_t n = c->codes.row_start[p->n];
    float *z = rf_calloc(n, sizeof *z), *gain = rf_calloc(n, sizeof *gain);
    double *sums = rf_calloc(3 * p->f, sizeof *sums);
    assert_true(z != NULL && gain != NULL && sums != NULL);
    OK(rf_gated_values(threads[t].s, &p->params, &c->codes, c->h, z));
    for (int64_t e = 0; e < n; e++) {
        same_bits(&z[e], &dense->z[c->place[e]], 1, "gated value");
        sums[c->codes.latent[e]] += (double)c->d_gate[e]; /* the penalty is in it */
    }
    OK(rf_gated_values_grad(threads[t].s, &p->params,
                            &(rf_gated_values_grad_args){.codes = &c->codes,
                                                         .h = c->h,
                                                         .z = z,
                                                         .d_z = c->codes.d_value,
                                                         .d_gate = c->d_gate,
                                                         .d_h = c->d_gate, /* in place */
                                                         .d_mag = c->codes.d_value,
                                                         .d_gain = gain}));
    for (int64_t e = 0; e < n; e++) {
        near((double)c->d_gate[e], (double)dense->d_h[c->place[e]], 2e-6, "gated d_h");
        sums[p->f + c->codes.latent[e]] += (double)gain[e];
        sums[2 * p->f + c->codes.latent[e]] += (double)c->codes.d_value[e];
    }
    for (int64_t i = 0; i < p->f; i++) { /* fp32 sums of n terms */
        near((double)dense->d_b[i], sums[i], 3e-6, "d_b_gate");
        near((double)dense->d_r[i], sums[p->f + i], 3e-6, "d_gain");
        near((double)dense->d_m[i], sums[2 * p->f + i], 3e-6, "d_b_mag");
    }
    rf_free(sums);
    rf_free(gain);
    rf_free(z);
}

static void check_sparse(problem *p)
{
    dense_result dense = make_result(p);
    float *penalty[N_THREADS];
    dense_values(p, threads[0].s, &dense);
    dense_grad(p, threads[0].s, &dense, p->f, 0, 0, false);
    for (int t = 0; t < N_THREADS; t++) {
        const bool is_gated = p->params.act == RF_CODER_GATED;
        sparse c = make_sparse(p, 0);
        penalty[t] = rf_calloc(p->n, sizeof(float));
        OK(rf_penalty(threads[t].s, &p->params,
                      &(rf_penalty_args){.codes = &c.codes,
                                         .value = is_gated ? c.h : NULL,
                                         .d_value = is_gated ? c.d_gate : c.codes.d_value,
                                         .row_penalty = rf_view_1d(penalty[t], p->n),
                                         .scale = (float)p->scale}));
        same_bits(penalty[t], penalty[0], p->n, "penalty by threads");
        for (int64_t b = 0; b < p->n; b++) { /* the same terms in other chunks */
            near((double)penalty[t][b], (double)dense.row_penalty[b], 2e-6, "penalty");
        }
        for (int64_t e = 0; !is_gated && e < c.codes.row_start[p->n]; e++) {
            near((double)c.codes.d_value[e], (double)dense.d_h[c.place[e]], 2e-6, "d_value");
        }
        if (is_gated) {
            check_sparse_gated(p, &c, &dense, t);
        }
        free_sparse(&c);
    }
    for (int t = 0; t < N_THREADS; t++) {
        rf_free(penalty[t]);
    }
    free_result(&dense);
}

static void entries_get_what_matrices_get(void **state)
{
    (void)state;
    for_all(check_sparse, INT64_MAX);
}

static void check_sparse_window(const problem *p)
{
    const float eps = 0.3f, l0 = 0.02f;
    const double tol = p->params.penalty == RF_PENALTY_NORM ? 4e-6 : 0; /* its factor by two ways */
    dense_result plain = make_result(p), dense = make_result(p);
    dense_values(p, threads[0].s, &plain);
    dense_values(p, threads[0].s, &dense);
    dense_grad(p, threads[0].s, &plain, p->f, eps, l0, false);
    dense_grad(p, threads[0].s, &dense, p->f, eps, l0, true);
    for (int t = 0; t < N_THREADS; t++) {
        sparse c = make_sparse(p, eps);
        const int64_t n = c.codes.row_start[p->n];
        float *d_theta = rf_calloc(n, sizeof *d_theta), *sum = rf_calloc(p->f, sizeof *sum);
        assert_true(d_theta != NULL && sum != NULL && n > 100);
        OK(rf_jump_window_grad(
            threads[t].s, &p->params,
            &(rf_jump_window_grad_args){.codes = &c.codes,
                                        .d_threshold = d_theta,
                                        .eps = eps,
                                        .l0 = l0,
                                        .scale = (float)p->scale,
                                        .row_penalty = rf_view_1d(plain.row_penalty, p->n)}));
        for (int64_t e = 0; e < n; e++) {
            const int64_t at = c.place[e];
            assert_true(c.codes.d_value[e] == -d_theta[e]);
            near((double)(plain.d_h[at] - d_theta[e]), (double)dense.d_h[at], tol, "reach");
            sum[c.codes.latent[e]] += d_theta[e];
        }
        for (int64_t i = 0; i < p->f; i++) {
            near((double)sum[i], (double)plain.d_theta[i], tol, "d_threshold");
        }
        rf_free(sum);
        rf_free(d_theta);
        free_sparse(&c);
    }
    free_result(&plain);
    free_result(&dense);
}

static void entries_of_a_window_get_what_matrices_get(void **state)
{
    (void)state;
    for (int c = 0; c < 2 * N_PENALTIES; c++) {
        problem p = make_problem(7, 600, RF_CODER_JUMP, (rf_penalty_kind)(c / 2), c % 2 == 1);
        check_sparse_window(&p);
        free_problem(&p);
    }
}

/* ---- corners ------------------------------------------------------------------------------- */

/* Element 5 of valid row 0 and of invalid row 2 is not a number, or latent 5's parameter. */
static void check_nan(problem *p, float *bad, bool is_of_h)
{
    const float kept[2] = {bad[5], is_of_h ? bad[2 * p->f + 5] : 0};
    dense_result r = make_result(p);
    bad[5] = NAN;
    if (is_of_h) {
        bad[2 * p->f + 5] = NAN;
    }
    dense_values(p, threads[1].s, &r);
    dense_grad(p, threads[1].s, &r, p->f, 0.25f, 0.01f, false);
    assert_true(isnan(r.z[5]) || bad == p->w);
    assert_true(isnan(r.d_h[5]) || bad == p->m);
    assert_true(isnan(r.row_penalty[0]) == (p->params.penalty != RF_PENALTY_NONE) ||
                p->params.act == RF_CODER_GATED || bad == p->w);
    assert_true(isnan(r.row_penalty[0]) || bad != p->w || p->params.penalty == RF_PENALTY_L0);
    assert_true(p->params.act != RF_CODER_JUMP || isnan(r.d_theta[5]) || bad == p->w);
    assert_true(r.z[2 * p->f + 5] == 0.0f && r.d_h[2 * p->f + 5] == 0.0f);
    assert_true(r.row_penalty[2] == 0.0f);
    assert_true(!isnan(r.z[4]));
    free_result(&r);
    bad[5] = kept[0];
    if (is_of_h) {
        bad[2 * p->f + 5] = kept[1];
    }
}

static void what_is_not_a_number_stays_visible_in_valid_rows_alone(void **state)
{
    (void)state;
    for (int act = 0; act < N_ACTS; act++) {
        for (int kind = 0; kind < N_PENALTIES; kind++) {
            problem p = make_problem(3, 40, (rf_coder_act)act, (rf_penalty_kind)kind,
                                     kind != RF_PENALTY_L0);
            p.h[5] = 9.0f; /* active whatever the parameters */
            check_nan(&p, p.h, true);
            if (act == RF_CODER_JUMP) {
                check_nan(&p, p.theta, false);
            } else if (act == RF_CODER_GATED) {
                check_nan(&p, p.r, false);
                check_nan(&p, p.m, false);
            }
            if (kind != RF_PENALTY_NONE && kind != RF_PENALTY_L0) {
                check_nan(&p, p.w, false);
            }
            free_problem(&p);
        }
    }
}

static void codes_without_entries_are_fine(void **state)
{
    (void)state;
    int64_t start[3] = {0, 0, 0};
    float penalty[2] = {5, 5}, b[1] = {0};
    rf_codes codes = {.n_rows = 2, .row_start = start};
    rf_act_params params = {.act = RF_CODER_GATED, .penalty = RF_PENALTY_NORM, .p = 0.5f};
    rf_act_params jump = {.act = RF_CODER_JUMP, .threshold = rf_view_1d(b, 1)};
    params.b_gate = params.gain = params.b_mag = jump.threshold;
    for (int t = 0; t < N_THREADS; t++) {
        OK(rf_penalty(threads[t].s, &params,
                      &(rf_penalty_args){.codes = &codes, .row_penalty = rf_view_1d(penalty, 2)}));
        OK(rf_gated_values(threads[t].s, &params, &codes, NULL, NULL));
        OK(rf_gated_values_grad(threads[t].s, &params,
                                &(rf_gated_values_grad_args){.codes = &codes}));
        OK(rf_jump_window_grad(threads[t].s, &jump,
                               &(rf_jump_window_grad_args){.codes = &codes, .eps = 0.1f}));
    }
    assert_true(penalty[0] == 0.0f && penalty[1] == 0.0f);
}
static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    rf_stream *s = threads[0].s;
    problem p = make_problem(3, 17, RF_CODER_GATED, RF_PENALTY_NORM, true);
    dense_result r = make_result(&p);
    sparse c = make_sparse(&p, 0);
    rf_act_params bad = p.params;
    rf_dense_values_args values = {.h = rf_view_2d(p.h, 3, 17), .z = rf_view_2d(r.z, 3, 17)};
    rf_dense_grad_args grad = {.h = values.h, .d_z = values.z};
    rf_jump_window_grad_args window = {.codes = &c.codes, .d_threshold = r.d_h};
    rf_penalty_args penalty = {.codes = &c.codes, .row_penalty = rf_view_1d(r.row_penalty, 2)};

    OK(rf_dense_values(s, &p.params, &values));
    bad.gain = rf_view_1d(p.r, 16);
    REFUSED(rf_dense_values(s, &bad, &values));
    REFUSED(rf_gated_values(s, &bad, &c.codes, c.h, r.z));
    REFUSED(rf_gated_values(s, &p.params, &c.codes, c.h, c.h));
    REFUSED(rf_dense_grad(s, &p.params, &grad)); /* no d_gate */
    grad.d_gate = values.h;
    REFUSED(rf_dense_grad(s, &p.params, &grad)); /* no row_norm */
    grad.row_norm = rf_view_1d(r.row_norm, 3);
    OK(rf_dense_grad(s, &p.params, &grad));
    grad.first_latent = 1;
    REFUSED(rf_dense_grad(s, &p.params, &grad)); /* beyond the last latent */
    REFUSED(rf_penalty(s, &p.params, &penalty)); /* two rows of three */
    penalty.row_penalty = rf_view_1d(r.row_penalty, 3);
    bad = p.params;
    bad.p = 0.0f;
    REFUSED(rf_penalty(s, &bad, &penalty));
    bad.p = NAN;
    REFUSED(rf_penalty(s, &bad, &penalty));
    bad = (rf_act_params){.act = RF_CODER_JUMP};
    REFUSED(rf_dense_values(s, &bad, &values)); /* no threshold */
    bad.threshold = rf_view_1d(p.theta, 17);
    grad.first_latent = 0;
    grad.ste_to_input = true;
    REFUSED(rf_dense_grad(s, &bad, &grad));         /* no eps */
    REFUSED(rf_jump_window_grad(s, &bad, &window)); /* no eps */
    window.eps = 0.1f;
    window.scale = 1.0f;
    OK(rf_jump_window_grad(s, &bad, &window));
    bad.penalty = RF_PENALTY_NORM;
    bad.p = 1.0f;
    OK(rf_jump_window_grad(s, &bad, &window)); /* L1 */
    bad.p = 2.0f;
    REFUSED(rf_jump_window_grad(s, &bad, &window)); /* no row_penalty */
    bad.act = RF_CODER_GATED;
    REFUSED(rf_jump_window_grad(s, &bad, &window));
    values.z = rf_view_2d(r.z, 3, 16);
    REFUSED(rf_dense_values(s, &p.params, &values));
    REFUSED(rf_dense_relu(s, &values.h, &values.z, NULL));
    free_sparse(&c);
    free_result(&r);
    free_problem(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_counts_and_penalties_are_their_definitions),
        cmocka_unit_test(values_may_take_the_place_of_their_pre_activations),
        cmocka_unit_test(dense_relu_is_of_valid_rows),
        cmocka_unit_test(gradients_are_those_of_differences),
        cmocka_unit_test(gradients_do_not_depend_on_threads_or_tiles),
        cmocka_unit_test(the_window_gives_thresholds_their_gradient_and_inputs_on_request),
        cmocka_unit_test(entries_get_what_matrices_get),
        cmocka_unit_test(entries_of_a_window_get_what_matrices_get),
        cmocka_unit_test(what_is_not_a_number_stays_visible_in_valid_rows_alone),
        cmocka_unit_test(codes_without_entries_are_fine),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
