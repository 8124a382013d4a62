/* Updates of rows and what rows are held to: bits against plain loops where they are promised,
 * golden steps (tests/golden/make_optimiser.py), and the properties of each rule. */
#include "../../src/tensor/coder_ops_impl.h"
#include "refract/io.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s", #call, rf_error_text());                                            \
        }                                                                                          \
    } while (0)

static const int thread_counts[] = {1, 2, 5};
enum { N_THREAD_COUNTS = 3, N_KINDS = 4 };

static rf_backend *backends[N_THREAD_COUNTS];
static rf_stream *streams[N_THREAD_COUNTS];
static const rf_segments whole = {.n = 0};

static float *normals(uint64_t tag, int64_t n)
{
    float *x = rf_calloc(n + 4, sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i += 4) {
        rf_random_normal4(tag, RF_RANDOM_TEST, (uint64_t)i, 0, x + i);
    }
    return x;
}

static void same_floats(const float *got, const float *want, int64_t n, const char *what)
{
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(got + i, want + i, sizeof *got) != 0) {
            fail_msg("%s[%" PRId64 "] is %.9g, expected %.9g", what, i, (double)got[i],
                     (double)want[i]);
        }
    }
}

/* Everything that an update of [n, d] works on. */
typedef struct problem {
    int64_t n, d;
    float *w, *g, *m, *v, *x;
} problem;

static problem make_problem(uint64_t tag, int64_t n, int64_t d, rf_row_rule rule)
{
    problem p = {n,
                 d,
                 normals(tag, n * d),
                 normals(tag + 1, n * d),
                 normals(tag + 2, n * d),
                 normals(tag + 3, n * d),
                 NULL};
    rf_view w = rf_view_2d(p.w, n, d);
    OK(rf_apply_row_rule(streams[0], &w, rule, &whole, 1.0f));
    p.x = rf_calloc(n * d, sizeof *p.x);
    for (int64_t i = 0; i < n * d; i++) {
        p.v[i] *= p.v[i];
        p.x[i] = 0.5f * p.w[i];
    }
    return p;
}

static void free_problem(problem *p)
{
    rf_free(p->w);
    rf_free(p->g);
    rf_free(p->m);
    rf_free(p->v);
    rf_free(p->x);
}

static rf_update_args args_of(const problem *p, rf_update_kind kind, rf_row_rule rule)
{
    return (rf_update_args){.kind = kind,
                            .w = rf_view_2d(p->w, p->n, p->d),
                            .g = rf_view_2d(p->g, p->n, p->d),
                            .m = rf_view_2d(p->m, p->n, p->d),
                            .v = rf_view_2d(p->v, p->n, p->d),
                            .average = rf_view_2d(p->x, p->n, p->d),
                            .rule = rule,
                            .radius = 0.75f,
                            .lr = 0.01,
                            .beta1 = 0.9,
                            .beta2 = 0.99,
                            .eps = 1e-8,
                            .weight_decay = 0.1,
                            .average_weight = 0.25,
                            .t = 3};
}

/* ---- Adam ---------------------------------------------------------------------------------- */

/* One row in the roundings that are promised: what earlier versions of Refract computed. */
static void adam_row_in_fp32(const rf_update_args *a, float scale, int64_t n, const float *g,
                             float *w, float *m, float *v)
{
    float work[64], rest1 = (float)(1.0 - a->beta1), rest2 = (float)(1.0 - a->beta2);
    float step = (float)(-a->lr / (1.0 - pow(a->beta1, (double)a->t)));
    float v_scale = (float)(1.0 / sqrt(1.0 - pow(a->beta2, (double)a->t)));
    for (int64_t j = 0; j < n; j++) {
        work[j] = scale * g[j];
    }
    float along = -rf_dot(work, w, n);
    for (int64_t j = 0; j < n; j++) {
        float gj = a->rule == RF_ROW_UNIT_NORM ? fmaf(along, w[j], work[j]) : work[j];
        m[j] = fmaf(rest1, gj, (float)a->beta1 * m[j]);
        v[j] = fmaf(rest2 * gj, gj, (float)a->beta2 * v[j]);
        float down = fmaf(sqrtf(v[j]), v_scale, (float)a->eps);
        w[j] = fmaf(step, m[j] / down, w[j] * (float)(1.0 - a->lr * a->weight_decay));
    }
    float norm = sqrtf(rf_dot(w, w, n));
    for (int64_t j = 0; a->rule == RF_ROW_UNIT_NORM && j < n; j++) {
        w[j] = w[j] / norm;
    }
}

static void adam_has_the_bits_of_a_plain_loop(void **state)
{
    (void)state;
    const int64_t shapes[][2] = {{1, 1}, {19, 33}, {7, 64}, {40, 16}};
    for (int c = 0; c < 4 * 2 * N_THREAD_COUNTS; c++) {
        const int64_t *shape = shapes[c % 4];
        rf_row_rule rule = c / 4 % 2 == 0 ? RF_ROW_FREE : RF_ROW_UNIT_NORM;
        float scale = 0.25f;
        problem got = make_problem(10, shape[0], shape[1], rule),
                want = make_problem(10, shape[0], shape[1], rule);
        rf_update_args args = args_of(&got, RF_UPDATE_ADAM, rule);
        args.grad_scale = &scale;
        if (c % 2 == 0) { /* one segment is none */
            args.segments = (rf_segments){.n = 1, .end = {shape[1]}};
        }
        for (int step = 1; step <= 3; step++) {
            args.t = step;
            OK(rf_update_rows(streams[c / 8], &args));
            for (int64_t i = 0; i < shape[0]; i++) {
                int64_t at = i * shape[1];
                adam_row_in_fp32(&args, scale, shape[1], want.g + at, want.w + at, want.m + at,
                                 want.v + at);
            }
        }
        same_floats(got.w, want.w, shape[0] * shape[1], "w");
        same_floats(got.m, want.m, shape[0] * shape[1], "m");
        same_floats(got.v, want.v, shape[0] * shape[1], "v");
        free_problem(&got);
        free_problem(&want);
    }
}

/* ---- golden steps -------------------------------------------------------------------------- */

enum { STEPS = 6, ROWS = 5, WIDTH = 19 };

static float *read_golden(const rf_tensor_file *file, const char *name, const char *what)
{
    char path[64];
    assert_int_equal(rf_format(path, sizeof path, "%s/%s", name, what), RF_OK);
    const rf_named_tensor *t = rf_tensor_file_find(file, path);
    assert_non_null(t);
    float *x = rf_calloc(t->n_elems, sizeof *x);
    assert_non_null(x);
    OK(rf_named_tensor_read_f32(t, x));
    return x;
}

/* fp32 against double over six steps of 0.02: 1e-6 of numbers of about 1 */
static void compare(const rf_tensor_file *file, const char *name, const char *what,
                    const float *got)
{
    float *want = read_golden(file, name, what);
    for (int i = 0; i < ROWS * WIDTH; i++) {
        if (!(fabs((double)got[i] - (double)want[i]) <= 1e-6)) {
            fail_msg("%s/%s[%d] is %.9g, expected %.9g", name, what, i, (double)got[i],
                     (double)want[i]);
        }
    }
    rf_free(want);
}

static void steps_are_those_of_the_reference(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        rf_update_kind kind;
        double weight_decay;
    } cases[] = {{"adam", RF_UPDATE_ADAM, 0.0},
                 {"adamw", RF_UPDATE_ADAM, 0.1},
                 {"signum", RF_UPDATE_SIGNUM, 0.1},
                 {"schedule_free", RF_UPDATE_SCHEDULE_FREE, 0.1}};
    rf_tensor_file *file;
    OK(rf_tensor_file_open(RF_GOLDEN_DIR "/optimiser.safetensors", &file));
    for (int c = 0; c < 4; c++) {
        const bool is_free = cases[c].kind == RF_UPDATE_SCHEDULE_FREE;
        problem p = make_problem(1, ROWS, WIDTH, RF_ROW_FREE);
        float *w = read_golden(file, cases[c].name, "w"),
              *g = read_golden(file, cases[c].name, "g");
        memcpy(p.w, w, sizeof *w * ROWS * WIDTH);
        memcpy(p.x, w, sizeof *w * ROWS * WIDTH);
        memset(p.v, 0, sizeof *w * ROWS * WIDTH);
        memset(p.m, 0, sizeof *w * ROWS * WIDTH);
        if (is_free) {
            memcpy(p.m, w, sizeof *w * ROWS * WIDTH);
        }
        rf_update_args args = args_of(&p, cases[c].kind, RF_ROW_FREE);
        args.lr = 0.02;
        args.weight_decay = cases[c].weight_decay;
        for (int step = 1; step <= STEPS; step++) {
            args.t = step;
            args.g = rf_view_2d(g + (step - 1) * ROWS * WIDTH, ROWS, WIDTH);
            args.average_weight = 1.0 / step;
            OK(rf_update_rows(streams[step % N_THREAD_COUNTS], &args));
        }
        compare(file, cases[c].name, "out", p.w);
        if (is_free) {
            compare(file, cases[c].name, "z", p.m);
            compare(file, cases[c].name, "x", p.x);
        }
        rf_free(w);
        rf_free(g);
        free_problem(&p);
    }
    rf_tensor_file_close(file);
}

/* ---- all kinds ----------------------------------------------------------------------------- */

/* What is not read may be anything; and threads do not matter. */
static void an_untouched_row_has_a_gradient_of_zero(void **state)
{
    (void)state;
    enum { N = 19, D = 41 };
    for (int kind = 0; kind < N_KINDS; kind++) {
        problem p[2];
        uint8_t touched[N];
        for (int k = 0; k < 2; k++) {
            p[k] = make_problem(20, N, D, RF_ROW_UNIT_NORM);
            for (int i = 0; i < N * D; i++) {
                touched[i / D] = i / D % 3 == 0;
                p[k].g[i] = touched[i / D] ? p[k].g[i] : k == 0 ? 0.0f : NAN;
            }
            rf_update_args args = args_of(&p[k], (rf_update_kind)kind, RF_ROW_UNIT_NORM);
            args.touched = k == 0 ? NULL : touched;
            OK(rf_update_rows(streams[k], &args));
        }
        same_floats(p[1].w, p[0].w, N * D, "w");
        same_floats(p[1].m, p[0].m, N * D, "m");
        same_floats(p[1].v, p[0].v, N * D, "v");
        same_floats(p[1].x, p[0].x, N * D, "average");
        free_problem(&p[0]);
        free_problem(&p[1]);
    }
}

static double length(const float *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t j = 0; j < n; j++) {
        sum += (double)x[j] * (double)x[j];
    }
    return sqrt(sum);
}

static bool keeps_rule(const float *w, int64_t n, rf_row_rule rule, float radius)
{
    double sum = 0.0;
    bool is_positive = true;
    for (int64_t j = 0; j < n; j++) {
        sum += (double)w[j];
        is_positive = is_positive && w[j] >= 0.0f;
    }
    switch (rule) { /* 1e-6: a sum and a division in fp32 */
    case RF_ROW_FREE:
        return true;
    case RF_ROW_UNIT_NORM:
        return fabs(length(w, n) - 1.0) <= 1e-6;
    case RF_ROW_BALL:
        return length(w, n) <= (double)radius * (1.0 + 1e-6);
    case RF_ROW_SIMPLEX:
        return is_positive && fabs(sum - 1.0) <= 1e-6;
    }
    return false;
}

/* And schedule-free's iterate and average with them. */
static void every_update_ends_with_the_rule(void **state)
{
    (void)state;
    enum { N = 9, D = 35 };
    for (int kind = 0; kind < N_KINDS; kind++) {
        for (int rule = 0; rule <= RF_ROW_SIMPLEX; rule++) {
            problem p = make_problem(30, N, D, (rf_row_rule)rule);
            rf_update_args args = args_of(&p, (rf_update_kind)kind, (rf_row_rule)rule);
            OK(rf_update_rows(streams[1], &args));
            for (int i = 0; i < N; i++) {
                assert_true(keeps_rule(p.w + i * D, D, args.rule, args.radius));
                if (args.kind == RF_UPDATE_SCHEDULE_FREE) {
                    assert_true(keeps_rule(p.m + i * D, D, args.rule, args.radius));
                    assert_true(keeps_rule(p.x + i * D, D, args.rule, args.radius));
                }
            }
            free_problem(&p);
        }
    }
}

/* The order of a step: a clipped gradient is what all else sees. */
static void the_scale_multiplies_the_gradient(void **state)
{
    (void)state;
    enum { N = 4, D = 18 };
    for (int kind = 0; kind < N_KINDS; kind++) {
        problem a = make_problem(40, N, D, RF_ROW_FREE), b = make_problem(40, N, D, RF_ROW_FREE);
        float scale = 0.125f; /* exact */
        rf_update_args first = args_of(&a, (rf_update_kind)kind, RF_ROW_FREE),
                       second = args_of(&b, (rf_update_kind)kind, RF_ROW_FREE);
        first.grad_scale = &scale;
        for (int i = 0; i < N * D; i++) {
            b.g[i] *= scale;
        }
        OK(rf_update_rows(streams[0], &first));
        OK(rf_update_rows(streams[0], &second));
        same_floats(a.w, b.w, N * D, "w");
        free_problem(&a);
        free_problem(&b);
    }
}

/* ---- rules --------------------------------------------------------------------------------- */

static const rf_segments three = {.n = 3, .end = {5, 6, 23}};

static double norm_over(const float *w, const rf_segments *segments)
{
    double norm = 0.0;
    for (int l = 0; l < segments->n; l++) {
        int64_t first = l == 0 ? 0 : segments->end[l - 1];
        norm += length(w + first, segments->end[l] - first);
    }
    return norm;
}

static void segments_have_norms_that_sum_to_one(void **state)
{
    (void)state;
    enum { N = 11, D = 23 };
    float *w = normals(50, N * D);
    rf_view rows = rf_view_2d(w, N, D);
    memset(w, 0, sizeof *w * D);          /* a row of norm 0 stays */
    memset(w + D + 6, 0, sizeof *w * 17); /* a segment that is 0 stays 0 */
    OK(rf_apply_row_rule(streams[2], &rows, RF_ROW_UNIT_NORM, &three, 0.0f));
    for (int i = 1; i < N; i++) {
        assert_true(fabs(norm_over(w + i * D, &three) - 1.0) <= 1e-6); /* fp32 */
    }
    assert_true(norm_over(w, &three) == 0.0);
    assert_true(length(w + D + 6, 17) == 0.0);
    rf_free(w);
}

/* What is left of the gradient changes no norm to first order. */
static void the_projected_gradient_is_tangent_to_the_constraint(void **state)
{
    (void)state;
    enum { N = 8, D = 23 };
    float *w = normals(51, N * D), *g = normals(52, N * D);
    memset(w + 6, 0, sizeof *w * 17); /* has no normal there: its gradient stays */
    float *before = normals(52, N * D);
    for (int i = 0; i < N; i++) {
        float *wi = w + i * D, *gi = g + i * D;
        double along = 0.0;
        rf_cpu_keep_row_rule(wi, D, RF_ROW_UNIT_NORM, &three, 0.0f);
        rf_cpu_project_gradient(gi, wi, D, RF_ROW_UNIT_NORM, &three);
        for (int l = 0; l < three.n; l++) {
            int64_t first = l == 0 ? 0 : three.end[l - 1], n = three.end[l] - first;
            double norm = length(wi + first, n);
            for (int64_t j = first; norm > 0.0 && j < three.end[l]; j++) {
                along += (double)wi[j] / norm * (double)gi[j];
            }
        }
        assert_true(fabs(along) <= 3e-6); /* 23 products of about 1 in fp32 */
    }
    same_floats(g + 6, before + 6, 17, "gradient of an empty segment");
    rf_free(w);
    rf_free(g);
    rf_free(before);
}

static void rows_of_norm_zero_stay(void **state)
{
    (void)state;
    float w[6] = {0.0f, 0.0f, 0.0f, 3.0f, 0.0f, 4.0f};
    rf_view rows = rf_view_2d(w, 2, 3);
    OK(rf_apply_row_rule(streams[0], &rows, RF_ROW_UNIT_NORM, &whole, 0.0f));
    assert_true(w[0] == 0.0f && w[1] == 0.0f && w[2] == 0.0f);
    assert_true(w[3] == 3.0f / 5.0f && w[4] == 0.0f && w[5] == 4.0f / 5.0f);
}

static void a_ball_scales_back_what_is_outside_and_nothing_else(void **state)
{
    (void)state;
    float w[9] = {3.0f, 0.0f, 4.0f, 0.3f, 0.0f, 0.4f, 0.0f, 0.0f, 0.0f};
    rf_view rows = rf_view_2d(w, 3, 3);
    OK(rf_apply_row_rule(streams[0], &rows, RF_ROW_BALL, &whole, 2.0f));
    assert_true(fabs((double)w[0] - 1.2) <= 1e-6 && fabs((double)w[2] - 1.6) <= 1e-6); /* fp32 */
    assert_true(w[3] == 0.3f && w[5] == 0.4f && w[6] == 0.0f);
    OK(rf_apply_row_rule(streams[0], &rows, RF_ROW_BALL, &whole, 0.0f));
    assert_true(length(w, 9) == 0.0);
}

static void simplex_rows_are_positive_and_sum_to_one(void **state)
{
    (void)state;
    enum { D = 5 };
    float w[4 * D] = {1.0f, -1.0f, 3.0f, 0.0f, 0.0f,  -1.0f, 0.0f, -2.0f, -0.0f, -1e30f,
                      0.5f, 0.25f, 0.0f, 0.0f, 0.25f, NAN,   1.0f, 0.0f,  0.0f,  0.0f};
    const float want[3 * D] = {0.25f, 0.0f, 0.75f, 0.0f,  0.0f, 0.2f, 0.2f, 0.2f,
                               0.2f,  0.2f, 0.5f,  0.25f, 0.0f, 0.0f, 0.25f};
    rf_view rows = rf_view_2d(w, 4, D);
    OK(rf_apply_row_rule(streams[1], &rows, RF_ROW_SIMPLEX, &whole, 0.0f));
    for (int i = 0; i < 3 * D; i++) {
        assert_true(w[i] == want[i]);
    }
    assert_true(isnan(w[3 * D]) && isnan(w[3 * D + 1])); /* not hidden */
}

static void row_norms_and_their_gradient(void **state)
{
    (void)state;
    enum { N = 13, D = 23 };
    float *w = normals(60, N * D), *d_w = normals(61, N * D), *before = normals(61, N * D);
    float *scale = normals(62, N), norms[N];
    rf_view rows = rf_view_2d(w, N, D), d_rows = rf_view_2d(d_w, N, D);
    rf_view scales = rf_view_1d(scale, N), out = rf_view_1d(norms, N);
    memset(w + 6, 0, sizeof *w * 17);
    for (int t = 0; t < N_THREAD_COUNTS; t++) {
        memcpy(d_w, before, sizeof *w * N * D);
        OK(rf_row_norms(streams[t], &rows, &three, &out));
        OK(rf_row_norms_grad(streams[t], &rows, &three, &scales, &d_rows));
        for (int i = 0; i < N * D; i++) {
            int l = i % D < 5 ? 0 : i % D < 6 ? 1 : 2;
            int64_t first = l == 0 ? 0 : three.end[l - 1];
            double norm = length(w + i / D * D + first, three.end[l] - first);
            double want = (double)before[i];
            want += norm > 0.0 ? (double)scale[i / D] * (double)w[i] / norm : 0.0;
            assert_true(fabs((double)d_w[i] - want) <= 1e-6); /* a few roundings of about 1 */
            assert_true(fabs((double)norms[i / D] - norm_over(w + i / D * D, &three)) <= 4e-6);
        }
    }
    rf_free(w);
    rf_free(d_w);
    rf_free(before);
    rf_free(scale);
}

/* ---- refused ------------------------------------------------------------------------------- */

static void what_means_nothing_is_refused(void **state)
{
    (void)state;
    problem p = make_problem(70, 3, 8, RF_ROW_FREE);
    const rf_update_args good = args_of(&p, RF_UPDATE_SCHEDULE_FREE, RF_ROW_FREE);
    rf_update_args bad[9];
    for (int i = 0; i < 9; i++) {
        bad[i] = good;
    }
    bad[0].beta1 = 1.0;
    bad[1].beta2 = -0.5;
    bad[2].t = 0;
    bad[3].average_weight = 1.5;
    bad[4].average.data = NULL;
    bad[5].v = rf_view_2d(p.v, 3, 7);
    bad[6].segments = (rf_segments){.n = 2, .end = {4, 9}};
    bad[7].segments = (rf_segments){.n = 2, .end = {8, 8}};
    bad[8].g.data = NULL;
    OK(rf_update_rows(streams[0], &good));
    for (int i = 0; i < 9; i++) {
        assert_int_equal(rf_update_rows(streams[0], &bad[i]), RF_ERR_INVALID_ARG);
    }
    rf_view rows = rf_view_2d(p.w, 3, 8), none = rf_view_2d(p.w, 0, 8), short_out;
    short_out = rf_view_1d(p.v, 2);
    assert_int_equal(rf_apply_row_rule(streams[0], &rows, RF_ROW_BALL, &whole, -1.0f),
                     RF_ERR_INVALID_ARG);
    assert_int_equal(rf_row_norms(streams[0], &rows, &whole, &short_out), RF_ERR_INVALID_ARG);
    OK(rf_apply_row_rule(streams[0], &none, RF_ROW_UNIT_NORM, &whole, 0.0f));
    free_problem(&p);
}

static int set_up(void **state)
{
    (void)state;
    for (int i = 0; i < N_THREAD_COUNTS; i++) {
        OK(rf_backend_cpu_create(thread_counts[i], &backends[i]));
        OK(rf_stream_create(backends[i], &streams[i]));
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < N_THREAD_COUNTS; i++) {
        rf_stream_destroy(streams[i]);
        rf_backend_destroy(backends[i]);
    }
    return rf_alloc_live() == 0 ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adam_has_the_bits_of_a_plain_loop),
        cmocka_unit_test(steps_are_those_of_the_reference),
        cmocka_unit_test(an_untouched_row_has_a_gradient_of_zero),
        cmocka_unit_test(every_update_ends_with_the_rule),
        cmocka_unit_test(the_scale_multiplies_the_gradient),
        cmocka_unit_test(segments_have_norms_that_sum_to_one),
        cmocka_unit_test(the_projected_gradient_is_tangent_to_the_constraint),
        cmocka_unit_test(rows_of_norm_zero_stay),
        cmocka_unit_test(a_ball_scales_back_what_is_outside_and_nothing_else),
        cmocka_unit_test(simplex_rows_are_positive_and_sum_to_one),
        cmocka_unit_test(row_norms_and_their_gradient),
        cmocka_unit_test(what_means_nothing_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
