/* Gradients against torch autograd (golden/make_backward.py), for every family: by each tensor of
 * the model's file, by the input, and at hook points. */
#include "../../src/vit/config_impl.h"
#include "vit_difference.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { N_DIRECTIONS = 8, MAX_CASES = 128 };

/* fp32 against double: each product and norm leaves 1e-6 or so of its gradient, and tens follow one
 * another. */
static const double tolerance = 2e-5;

/* ---- cases ---------------------------------------------------------------------------------- */

typedef struct golden {
    char name[64]; /* of the model's folder */
    char reference[64];
    rf_tensor_file *file;
} golden;

static bool is_folder_of(const char *name, size_t n)
{
    char path[RF_PATH_LEN];
    assert_ok(rf_format(path, sizeof path, "%s/vit/%.*s", RF_GOLDEN_DIR, (int)n, name));
    return access(path, F_OK) == 0;
}

/* "dinov2_classifier_42" is reference_42 of dinov2_classifier. */
static golden open_golden(const char *stem)
{
    golden g = {.file = NULL};
    char path[RF_PATH_LEN];
    size_t n = strlen(stem);
    while (n > 0 && !(is_folder_of(stem, n) && (stem[n] == '_' || stem[n] == '\0'))) {
        n--;
    }
    assert_true(n > 0);
    assert_ok(rf_format(g.name, sizeof g.name, "%.*s", (int)n, stem));
    assert_ok(rf_format(g.reference, sizeof g.reference, "reference%s", stem + n));
    assert_ok(rf_format(path, sizeof path, "%s/backward/%s.safetensors", RF_GOLDEN_DIR, stem));
    assert_ok(rf_tensor_file_open(path, &g.file));
    return g;
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Stems of all files in golden/backward, sorted; freed with rf_free each. */
static int64_t list_cases(char **stems)
{
    char path[RF_PATH_LEN];
    int64_t n = 0;
    assert_ok(rf_format(path, sizeof path, "%s/backward", RF_GOLDEN_DIR));
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (struct dirent *e = readdir(folder); e != NULL; e = readdir(folder)) {
        char *stem = rf_strdup(e->d_name);
        assert_non_null(stem);
        char *end = strstr(stem, ".safetensors");
        if (end == NULL || n == MAX_CASES) {
            rf_free(stem);
            continue;
        }
        *end = '\0';
        stems[n++] = stem;
    }
    closedir(folder);
    qsort(stems, (size_t)n, sizeof *stems, compare_text);
    return n;
}

static void assert_no_model_is_left_out(void)
{
    char path[RF_PATH_LEN];
    assert_ok(rf_format(path, sizeof path, "%s/vit", RF_GOLDEN_DIR));
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (struct dirent *e = readdir(folder); e != NULL; e = readdir(folder)) {
        assert_ok(
            rf_format(path, sizeof path, "%s/backward/%s.safetensors", RF_GOLDEN_DIR, e->d_name));
        if (e->d_name[0] != '.' && access(path, F_OK) != 0) {
            fail_msg("there are no golden gradients of %s", e->d_name);
        }
    }
    closedir(folder);
}

static double *read_doubles(const rf_named_tensor *t)
{
    assert_non_null(t);
    assert_int_equal(t->dtype, RF_FILE_F64);
    double *x = rf_calloc(t->n_elems, sizeof *x);
    assert_non_null(x);
    memcpy(x, t->bytes, (size_t)t->n_bytes);
    return x;
}

static float *read_floats(const rf_tensor_file *f, const char *name, int64_t n)
{
    const rf_named_tensor *t = rf_tensor_file_find(f, name);
    if (t == NULL) {
        return NULL;
    }
    assert_int_equal(t->n_elems, n);
    float *x = zeros(n);
    assert_ok(rf_named_tensor_read_f32(t, x));
    return x;
}

/* ---- from tensors of a file to the arena ---------------------------------------------------- */

/* Which values a file has. */
enum { ZEROS = -2, OWNERS = -1 }; /* else the number of a direction */

static float value_of(int64_t t, int64_t which, int64_t i)
{
    if (which < 0) {
        return which == ZEROS ? 0.0f : (float)(t + 1);
    }
    return direction(KEY_WEIGHTS + t * N_DIRECTIONS + which, i);
}

/* The arena that loading makes of a file with other values. */
static float *load_arena(const model *m, const golden *g, int64_t which, int64_t *n_tensors)
{
    char folder[RF_PATH_LEN], path[] = "/tmp/refract-backward-XXXXXX";
    const rf_vit_opts opts = opts_of(g->reference, &m->input);
    rf_vit_files files;
    rf_vit_weights w;
    assert_ok(rf_format(folder, sizeof folder, "%s/vit/%s", RF_GOLDEN_DIR, g->name));
    assert_ok(rf_vit_files_open(folder, &opts, RF_WEIGHTS_NEEDED, &files));
    rf_tensor_file *real = files.weights;
    const int64_t n = rf_tensor_file_count(real);
    rf_named_tensor *tensors = rf_calloc(n, sizeof *tensors);
    assert_non_null(tensors);
    for (int64_t t = 0; t < n; t++) {
        tensors[t] = *rf_tensor_file_at(real, t);
        float *values = zeros(tensors[t].n_elems);
        for (int64_t i = 0; i < tensors[t].n_elems; i++) {
            values[i] = value_of(t, which, i);
        }
        tensors[t].dtype = RF_FILE_F32;
        tensors[t].bytes = (const unsigned char *)values;
        tensors[t].n_bytes = tensors[t].n_elems * (int64_t)sizeof *values;
    }
    close(mkstemp(path));
    assert_ok(rf_safetensors_write(path, tensors, n, NULL, 0));
    assert_ok(rf_tensor_file_open(path, &files.weights));
    assert_ok(rf_weights_load(m->be, m->s, &files, &w));
    assert_int_equal(w.n_floats, rf_vit_n_weight_floats(m->vit));
    float *arena = zeros(w.n_floats);
    assert_ok(rf_copy_out(m->s, arena, w.arena, (size_t)w.n_floats * sizeof *arena));
    for (int64_t t = 0; t < n; t++) {
        rf_free((void *)(uintptr_t)tensors[t].bytes);
    }
    rf_free(tensors);
    remove(path);
    rf_weights_fini(m->be, &w);
    rf_tensor_file_close(files.weights);
    files.weights = real;
    rf_vit_files_close(&files);
    *n_tensors = n;
    return arena;
}

/* The same less what is there without a file (sin-cos positions): so loading is linear, and a
 * direction in the space of files becomes one in the space of arenas. */
static float *load_values(const model *m, const golden *g, int64_t which, int64_t *n_tensors)
{
    float *made = load_arena(m, g, ZEROS, n_tensors), *arena = load_arena(m, g, which, n_tensors);
    for (int64_t i = 0; i < rf_vit_n_weight_floats(m->vit); i++) {
        arena[i] -= made[i];
    }
    rf_free(made);
    return arena;
}

/* sketch [n_tensors, N_DIRECTIONS] of d_weights, as the golden file has it. */
static double *sketch_weights(const model *m, const golden *g, const float *d_weights,
                              int64_t *n_tensors)
{
    const int64_t n = rf_vit_n_weight_floats(m->vit);
    float *owner = load_values(m, g, OWNERS, n_tensors);
    double *sketch = rf_calloc(*n_tensors * N_DIRECTIONS, sizeof *sketch);
    assert_non_null(sketch);
    for (int64_t j = 0; j < N_DIRECTIONS; j++) {
        float *u = load_values(m, g, j, n_tensors);
        for (int64_t i = 0; i < n; i++) {
            const int64_t t = lrintf(owner[i]) - 1; /* -1: nothing of the file */
            if (t >= 0) {
                assert_true(fabsf(owner[i] - (float)(t + 1)) < 1e-3f);
                sketch[t * N_DIRECTIONS + j] += (double)u[i] * (double)d_weights[i];
            } else {
                assert_true(u[i] == 0.0f);
            }
        }
        rf_free(u);
    }
    rf_free(owner);
    return sketch;
}

/* ---- comparing ------------------------------------------------------------------------------ */

static double row_norm(const double *row)
{
    double sum = 0.0;
    for (int64_t j = 0; j < N_DIRECTIONS; j++) {
        sum += row[j] * row[j];
    }
    return sqrt(sum);
}

/* Rows relative to their norms. A gradient that is 0 but for rounding (of a key's bias: softmax
 * takes no notice of it) is held against 1e-2 of the largest. */
static double compare_rows(const char *what, const double *got, const double *want, int64_t n)
{
    double largest = 0.0, worst = 0.0;
    for (int64_t t = 0; t < n; t++) {
        largest = fmax(largest, row_norm(want + t * N_DIRECTIONS));
    }
    for (int64_t t = 0; t < n; t++) {
        double e[N_DIRECTIONS];
        for (int64_t j = 0; j < N_DIRECTIONS; j++) {
            e[j] = got[t * N_DIRECTIONS + j] - want[t * N_DIRECTIONS + j];
        }
        const double error = row_norm(e) / fmax(row_norm(want + t * N_DIRECTIONS), 1e-2 * largest);
        worst = fmax(worst, error);
        if (!(error <= tolerance)) {
            fail_msg("%s, tensor %d: error %g of norm %g, the largest is %g", what, (int)t, error,
                     row_norm(want + t * N_DIRECTIONS), largest);
        }
    }
    return worst;
}

static double check_input_sketch(const golden *g, const float *d_input, int64_t n)
{
    double got[N_DIRECTIONS], want[N_DIRECTIONS];
    float *stored = read_floats(g->file, "input", N_DIRECTIONS);
    for (int64_t j = 0; j < N_DIRECTIONS; j++) {
        got[j] = 0.0;
        want[j] = (double)stored[j];
        for (int64_t i = 0; i < n; i++) {
            got[j] += (double)direction(KEY_INPUT + j, i) * (double)d_input[i];
        }
    }
    rf_free(stored);
    return compare_rows(g->name, got, want, 1);
}

static double check_case(const char *stem)
{
    golden g = open_golden(stem);
    model m = open_model(g.name, g.reference, 2);
    const int64_t n_input = rf_view_n_elems(&m.input);
    const bool is_text = m.input.dtype == RF_I64;
    float *d_weights = zeros(rf_vit_n_weight_floats(m.vit));
    float *d_input = is_text ? NULL : zeros(n_input);
    int64_t n_tensors = 0;
    assert_ok(backward(&m, NULL, 0, d_weights, d_input));
    double *scalar = read_doubles(rf_tensor_file_find(g.file, "scalar"));
    assert_true(fabs(run_model(&m, NULL, 0, NULL) - *scalar) <= 1e-4 * fmax(1.0, fabs(*scalar)));
    double *want = read_doubles(rf_tensor_file_find(g.file, "weights"));
    double *got = sketch_weights(&m, &g, d_weights, &n_tensors);
    assert_int_equal(rf_tensor_file_find(g.file, "weights")->shape[0], n_tensors);
    double worst = compare_rows(stem, got, want, n_tensors);
    if (!is_text) {
        worst = fmax(worst, check_input_sketch(&g, d_input, n_input));
    }
    rf_free(scalar);
    rf_free(want);
    rf_free(got);
    rf_free(d_weights);
    rf_free(d_input);
    rf_tensor_file_close(g.file);
    close_model(&m);
    return worst;
}

static void test_gradients_by_weights_and_input_equal_autograd_for_every_family(void **state)
{
    (void)state;
    char *stems[MAX_CASES];
    const int64_t n = list_cases(stems);
    assert_no_model_is_left_out();
    for (int64_t i = 0; i < n; i++) {
        print_message("%-32s %.1e\n", stems[i], check_case(stems[i]));
        rf_free(stems[i]);
    }
}

/* Independent of torch: that the gradients are those of this library's own forward pass. */
static void test_gradients_equal_finite_differences_for_every_family(void **state)
{
    (void)state;
    char *stems[MAX_CASES];
    const int64_t n = list_cases(stems);
    for (int64_t i = 0; i < n; i++) {
        golden g = open_golden(stems[i]);
        model m = open_model(g.name, g.reference, 1);
        points *all = new_points(&m);
        assert_true(m.vit->weights.n_params > 0);
        if (m.vit->config.act != RF_ACT_RELU) { /* its corners lie within any step */
            check_all_slopes(stems[i], &m, all, ALL_AT_ONCE);
        }
        free_points(all);
        close_model(&m);
        rf_tensor_file_close(g.file);
        rf_free(stems[i]);
    }
}

static void test_processed_weights_have_their_own_gradients(void **state)
{
    (void)state;
    static const char *const names[] = {"clip_projection", "dinov2", "timm_eva02"};
    for (int i = 0; i < 3; i++) {
        model m = open_model(names[i], "reference", 1);
        const unsigned every =
            RF_FOLD_LN | RF_CENTRE_WRITING | RF_FOLD_VALUE_BIASES | RF_REFACTOR_ATTENTION;
        assert_ok(rf_vit_process_weights(m.vit, m.s, every));
        assert_int_equal(backward(&m, NULL, 0, NULL, NULL), RF_ERR_INVALID_ARG);
        assert_non_null(strstr(rf_error_text(), "processed after the cache was made"));
        rf_cache_destroy(m.cache);
        assert_ok(rf_cache_create(m.vit, NULL, 0, &m.cache));
        run_model(&m, NULL, 0, m.cache);
        points *all = new_points(&m);
        check_all_slopes(names[i], &m, all, ALL_AT_ONCE);
        free_points(all);
        close_model(&m);
    }
}

/* ---- in full -------------------------------------------------------------------------------- */

typedef struct watch {
    const golden *g;
    int64_t n_compared;
    double worst;
} watch;

static rf_status compare_point(void *user, const rf_hook_point *point, const rf_view *act,
                               rf_stream *s)
{
    watch *w = user;
    char name[2 * RF_NAME_LEN];
    (void)s;
    assert_ok(rf_format(name, sizeof name, "d_points/%s", point->name));
    float *want = read_floats(w->g->file, name, rf_view_n_elems(act));
    if (want != NULL) {
        const double error = relative(act->data, want, rf_view_n_elems(act));
        if (!(error <= tolerance)) {
            fail_msg("%s: gradient at %s: error %g", w->g->name, point->name, error);
        }
        w->worst = fmax(w->worst, error);
        w->n_compared++;
    }
    rf_free(want);
    return RF_OK;
}

static void check_in_full(const char *name, int64_t n_points)
{
    golden g = open_golden(name);
    model m = open_model(g.name, g.reference, 2);
    const int64_t n_input = rf_view_n_elems(&m.input);
    watch w = {.g = &g};
    rf_hook hooks[MAX_HOOKS];
    rf_hook_point *list = NULL;
    int64_t n = 0, n_hooks = 0;
    assert_ok(rf_vit_hook_list(rf_vit_get_config(m.vit), &list, &n));
    for (int64_t i = 0; i < n; i++) {
        if (!list[i].is_on_request) {
            assert_true(n_hooks < MAX_HOOKS);
            hooks[n_hooks++] = (rf_hook){list[i], compare_point, &w};
        }
    }
    float *d_input = zeros(n_input), *want = read_floats(g.file, "d_input", n_input);
    assert_ok(backward(&m, hooks, n_hooks, NULL, d_input));
    assert_int_equal(w.n_compared, n_points);
    const double error = relative(d_input, want, n_input);
    print_message("%-32s points %.1e, input %.1e\n", name, w.worst, error);
    assert_true(error <= tolerance);
    rf_free(list);
    rf_free(d_input);
    rf_free(want);
    rf_tensor_file_close(g.file);
    close_model(&m);
}

static void test_gradients_at_hook_points_equal_autograd(void **state)
{
    (void)state;
    check_in_full("clip_projection", 2 + 3 * 15);
    check_in_full("vit", 1 + 3 * 15);
    check_in_full("dinov2", 1 + 3 * 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients_at_hook_points_equal_autograd),
        cmocka_unit_test(test_gradients_equal_finite_differences_for_every_family),
        cmocka_unit_test(test_processed_weights_have_their_own_gradients),
        cmocka_unit_test(test_gradients_by_weights_and_input_equal_autograd_for_every_family),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
