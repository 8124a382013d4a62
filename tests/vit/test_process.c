/* Weight processing: outputs stay, weights become what they should, and only those activations
 * change that the documentation names. */
#include "../../src/vit/process_impl.h"
#include "every_model.h"

static const unsigned all_processing =
    RF_FOLD_LN | RF_CENTRE_WRITING | RF_FOLD_VALUE_BIASES | RF_REFACTOR_ATTENTION;

/* ---- outputs, for every model --------------------------------------------------------------- */

/* Copies of embedding and logits, one behind the other; n_rows pictures. */
typedef struct outputs {
    float *x[2];
    int64_t n_rows, width[2];
} outputs;

static outputs take_outputs(model *m)
{
    const rf_vit_output out = forward(m, NULL, 0);
    const rf_view views[2] = {out.embedding, out.logits};
    outputs o = {.n_rows = out.embedding.shape[0]};
    for (int i = 0; i < 2; i++) {
        o.width[i] = views[i].data != NULL ? views[i].shape[1] : 0;
        o.x[i] = rf_calloc(o.n_rows * o.width[i], sizeof(float));
        assert_non_null(o.x[i]);
        if (views[i].data != NULL) {
            memcpy(o.x[i], views[i].data, (size_t)(o.n_rows * o.width[i]) * sizeof(float));
        }
    }
    return o;
}

static void free_outputs(outputs *o)
{
    rf_free(o->x[0]);
    rf_free(o->x[1]);
}

/* In L2 by picture, relative to its norm. */
static double outputs_error(const outputs *a, const outputs *b)
{
    double worst = 0.0;
    for (int k = 0; k < 2; k++) {
        assert_int_equal(a->width[k], b->width[k]);
        for (int64_t r = 0; r < a->n_rows; r++) {
            double error = 0.0, norm = 0.0;
            for (int64_t j = r * a->width[k]; j < (r + 1) * a->width[k]; j++) {
                const double e = (double)a->x[k][j] - (double)b->x[k][j];
                error += e * e;
                norm += (double)b->x[k][j] * (double)b->x[k][j];
            }
            worst = fmax(worst, norm > 0.0 ? sqrt(error / norm) : 0.0);
        }
    }
    return worst;
}

static void check_outputs(void **state, unsigned processing)
{
    model m = open_reference(state);
    outputs before = take_outputs(&m);
    assert_ok(rf_vit_process_weights(m.vit, m.s, processing));
    outputs after = take_outputs(&m);
    const double error = outputs_error(&after, &before);
    /* other weights, other roundings: as far from each other as from any reference */
    if (!(error <= 2e-5)) {
        fail_msg("processing %u: outputs differ by %g", processing, error);
    }
    assert_int_equal(rf_vit_processing(m.vit) & ~processing, 0);
    free_outputs(&before);
    free_outputs(&after);
    close_model(&m);
}

static void test_every_processing_keeps_the_outputs(void **state)
{
    for (unsigned bit = 1; bit <= RF_REFACTOR_ATTENTION; bit *= 2) {
        check_outputs(state, bit);
    }
    check_outputs(state, all_processing);
    check_outputs(state, RF_CENTRE_WRITING | RF_REFACTOR_ATTENTION);
}

/* The gradient of the embedding's sum by the input, with those of all weights beside it. */
static float *input_gradient(model *m)
{
    rf_cache *cache = NULL;
    rf_vit_output out;
    assert_ok(rf_cache_create(m->vit, NULL, 0, &cache));
    const rf_vit_run_args run = {.input = m->input, .cache = cache};
    assert_ok(rf_vit_run(m->vit, m->s, &run, &out));
    const int64_t n_out = rf_view_n_elems(&out.embedding), n = rf_view_n_elems(&m->input);
    float *seed = rf_calloc(n_out, sizeof *seed), *gradient = rf_calloc(n, sizeof *gradient);
    float *d_weights = rf_calloc(rf_vit_n_weight_floats(m->vit), sizeof *d_weights);
    for (int64_t i = 0; i < n_out; i++) {
        seed[i] = 1.0f + 0.5f * (float)(i % 3);
    }
    rf_vit_backward_args back = {.cache = cache, .input = m->input, .d_weights = d_weights};
    back.d_embedding = rf_view_2d(seed, out.embedding.shape[0], out.embedding.shape[1]);
    back.d_input = m->input;
    back.d_input.data = gradient;
    assert_ok(rf_vit_backward(m->vit, m->s, &back));
    rf_free(d_weights);
    rf_free(seed);
    rf_cache_destroy(cache);
    return gradient;
}

static void test_every_processing_keeps_the_gradient_by_the_input(void **state)
{
    model m = open_reference(state);
    if (m.vit->config.input == RF_VIT_TEXT) {
        close_model(&m);
        print_message("skipped: token ids have no gradient\n");
        skip();
    }
    const int64_t n = rf_view_n_elems(&m.input);
    float *before = input_gradient(&m), size = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        size = fmaxf(size, fabsf(before[i]));
    }
    assert_ok(rf_vit_process_weights(m.vit, m.s, all_processing));
    float *after = input_gradient(&m);
    /* what the gradient itself is promised to be right to */
    assert_true(largest_change(before, after, n) <= 1e-4 * (double)size);
    rf_free(before);
    rf_free(after);
    close_model(&m);
}

/* ---- weights, for every model --------------------------------------------------------------- */

static double mean_of_column(const rf_view *w, int64_t j)
{
    double sum = 0.0;
    for (int64_t i = 0; i < w->shape[0]; i++) {
        sum += (double)((const float *)w->data)[i * w->stride[0] + j] / (double)w->shape[0];
    }
    return sum;
}

static double mean_of_row(const rf_view *w, int64_t i)
{
    double sum = 0.0;
    for (int64_t j = 0; j < w->shape[1]; j++) {
        sum += (double)((const float *)w->data)[i * w->stride[0] + j] / (double)w->shape[1];
    }
    return sum;
}

static void assert_folded(const rf_linear *norm, const rf_linear *reader)
{
    const float *w = norm->weight.data, *b = norm->bias.data;
    for (int64_t i = 0; i < norm->weight.shape[0]; i++) {
        assert_true(w[i] == 1.0f && (b == NULL || b[i] == 0.0f));
    }
    for (int64_t j = 0; j < reader->weight.shape[1]; j++) {
        assert_true(fabs(mean_of_column(&reader->weight, j)) <= 1e-7); /* one rounding of O(1) */
    }
}

static void test_fold_ln_leaves_norms_without_weight_and_bias(void **state)
{
    model m = open_reference(state);
    const rf_vit_config *c = &m.vit->config;
    assert_ok(rf_vit_process_weights(m.vit, m.s, RF_FOLD_LN));
    for (int64_t l = 0; l < c->n_layers; l++) {
        const rf_block_weights *w = &m.vit->weights.blocks[l];
        if (c->norm_place == RF_NORM_BEFORE) {
            assert_int_equal(rf_vit_processing(m.vit), RF_FOLD_LN);
            assert_folded(&w->ln1, &w->q);
            assert_folded(&w->ln1, &w->k);
            assert_folded(&w->ln1, &w->v);
            assert_folded(&w->ln2, &w->fc1);
        }
        if (c->is_gated && c->norm_place == RF_NORM_BEFORE) {
            assert_folded(&w->ln2, &w->gate);
        }
        if (c->has_attn_norm) {
            assert_folded(&w->attn_ln, &w->o);
        }
        if (c->has_mlp_norm) {
            assert_folded(&w->mlp_ln, &w->fc2);
        }
    }
    close_model(&m);
}

static void assert_rows_centred(const rf_view *w)
{
    for (int64_t i = 0; w->data != NULL && w->n_dims == 2 && i < w->shape[0]; i++) {
        assert_true(fabs(mean_of_row(w, i)) <= 1e-7); /* one rounding of O(1) */
    }
}

static void test_centring_takes_the_mean_out_of_what_is_written(void **state)
{
    model m = open_reference(state);
    const rf_vit_config *c = &m.vit->config;
    const rf_vit_weights *w = &m.vit->weights;
    assert_ok(rf_vit_process_weights(m.vit, m.s, RF_CENTRE_WRITING));
    const bool is_centred = rf_vit_processing(m.vit) == RF_CENTRE_WRITING;
    assert_true(!is_centred || (c->norm_place == RF_NORM_BEFORE && c->has_ln_final));
    for (int64_t l = 0; l < c->n_layers && is_centred; l++) {
        assert_rows_centred(&w->blocks[l].o.weight);
        assert_rows_centred(&w->blocks[l].fc2.weight);
        for (int64_t i = 0; i < c->d_model && c->has_layer_scale; i++) {
            assert_true(((const float *)w->blocks[l].scale1.data)[i] == 1.0f);
            assert_true(((const float *)w->blocks[l].scale2.data)[i] == 1.0f);
        }
    }
    if (is_centred && !c->has_ln_pre) {
        assert_rows_centred(&w->patch.weight);
        assert_rows_centred(&w->token);
        assert_rows_centred(&w->prefix_token);
        assert_rows_centred(&w->position);
    }
    close_model(&m);
}

static void test_value_biases_are_gone_where_they_can_be(void **state)
{
    model m = open_reference(state);
    const rf_vit_config *c = &m.vit->config;
    assert_ok(rf_vit_process_weights(m.vit, m.s, RF_FOLD_VALUE_BIASES));
    const bool is_folded = rf_vit_processing(m.vit) == RF_FOLD_VALUE_BIASES;
    const rf_block_weights *w = m.vit->weights.blocks;
    assert_true(is_folded ==
                (!c->has_attn_norm && w->v.bias.data != NULL && w->o.bias.data != NULL));
    for (int64_t l = 0; l < c->n_layers && is_folded; l++) {
        for (int64_t i = 0; i < w[l].v.bias.shape[0]; i++) {
            assert_true(((const float *)w[l].v.bias.data)[i] == 0.0f);
        }
    }
    close_model(&m);
}

/* <column i, column j> of columns [first, first + k) of `map`, its bias one row more. */
static double column_product(const rf_linear *map, int64_t i, int64_t j)
{
    const float *w = map->weight.data, *b = map->bias.data;
    double sum = b != NULL ? (double)b[i] * (double)b[j] : 0.0;
    for (int64_t r = 0; r < map->weight.shape[0]; r++) {
        const float *row = w + r * map->weight.stride[0];
        sum += (double)row[i] * (double)row[j];
    }
    return sum;
}

/* Columns of one head: those of V orthogonal with falling lengths, and rows of W_O orthonormal. */
static void check_ov(const rf_block_weights *w, int64_t first, int64_t k)
{
    const float *o = w->o.weight.data;
    const int64_t d = w->o.weight.shape[1];
    for (int64_t i = first; i < first + k; i++) {
        for (int64_t j = first; j <= i; j++) {
            double product = 0.0;
            for (int64_t e = 0; e < d; e++) {
                product += (double)o[i * d + e] * (double)o[j * d + e];
            }
            /* float weights of size 1 */
            assert_true(fabs(product - (i == j ? 1.0 : 0.0)) <= 1e-6);
            const double scale = column_product(&w->v, j, j); /* the longer one */
            assert_true(fabs(column_product(&w->v, i, j)) <= (i == j ? 1.001 : 1e-6) * scale);
        }
    }
}

/* Columns of q and of k orthogonal, of the same falling lengths. */
static void check_qk(const rf_block_weights *w, int64_t first, int64_t k)
{
    for (int64_t i = first; i < first + k; i++) {
        for (int64_t j = first; j <= i; j++) {
            const double scale = column_product(&w->q, j, j);
            const double q = column_product(&w->q, i, j), key = column_product(&w->k, i, j);
            assert_true(fabs(q - key) <= 2e-6 * scale);
            assert_true(fabs(q) <= (i == j ? 1.001 : 1e-6) * scale);
        }
    }
}

static void test_refactoring_gives_singular_vectors(void **state)
{
    model m = open_reference(state);
    const rf_vit_config *c = &m.vit->config;
    assert_ok(rf_vit_process_weights(m.vit, m.s, RF_REFACTOR_ATTENTION));
    for (int64_t l = 0; l < c->n_layers; l++) {
        const rf_block_weights *w = &m.vit->weights.blocks[l];
        for (int64_t h = 0; h < c->n_heads; h++) {
            if (!c->has_attn_norm && (w->v.bias.data == NULL || w->o.bias.data != NULL)) {
                check_ov(w, h * c->d_head, c->d_head);
            }
            if (c->rope == RF_ROPE_NONE) {
                check_qk(w, h * c->d_head, c->d_head);
            }
        }
    }
    close_model(&m);
}

/* ---- activations ---------------------------------------------------------------------------- */

static rf_cache *fill(model *m)
{
    rf_cache *cache = NULL;
    assert_ok(rf_cache_create(m->vit, NULL, 0, &cache));
    const rf_vit_run_args args = {.input = m->input, .cache = cache};
    assert_ok(rf_vit_run(m->vit, m->s, &args, NULL));
    return cache;
}

static bool is_one_of(const char *name, const char *const *endings)
{
    for (; *endings != NULL; endings++) {
        const char *dot = strrchr(name, '.');
        const char *before = dot == NULL ? name : dot;
        while (before > name && before[-1] != '.') { /* the last two words */
            before--;
        }
        if (strcmp(before, *endings) == 0 || (dot != NULL && strcmp(dot + 1, *endings) == 0)) {
            return true;
        }
    }
    return false;
}

/* Exactly the points that end so change by more than rounding. Scores and patterns have no sign of
 * their own, so that the largest value is the measure. */
static void check_changes(const char *name, unsigned processing, const char *const *endings)
{
    model m = open_model(name, "reference", 1);
    rf_cache *before = fill(&m);
    assert_ok(rf_vit_process_weights(m.vit, m.s, processing));
    rf_cache *after = fill(&m);
    for (int64_t i = 0; i < rf_cache_n_points(before); i++) {
        const char *point = rf_cache_point(before, i)->name;
        rf_view a, b;
        assert_ok(rf_cache_get(before, point, &a));
        assert_ok(rf_cache_get(after, point, &b));
        double size = 0.0;
        const int64_t n = rf_view_n_elems(&a);
        for (int64_t j = 0; j < n; j++) {
            size = fmax(size, fabs((double)((const float *)a.data)[j]));
        }
        const double change = largest_change(a.data, b.data, n) / size;
        if (is_one_of(point, endings) ? !(change > 1e-4) : !(change <= 2e-5)) {
            fail_msg("%s, processing %u: %s changed by %g", name, processing, point, change);
        }
    }
    rf_cache_destroy(before);
    rf_cache_destroy(after);
    close_model(&m);
}

static void test_fold_ln_changes_what_norms_give(void **state)
{
    static const char *const projected[] = {
        "ln1.hook_normalized", "ln2.hook_normalized", "ln_final.hook_normalized",
        "hook_ln_final",       "hook_pooled",         NULL};
    static const char *const pooled[] = {"ln1.hook_normalized", "ln2.hook_normalized", NULL};
    (void)state;
    check_changes("clip_projection", RF_FOLD_LN, projected);
    check_changes("vit", RF_FOLD_LN, pooled); /* its embedding is what ln_final gives */
}

static void test_centring_changes_the_stream_and_what_writes_to_it(void **state)
{
    static const char *const behind_ln_pre[] = {"hook_attn_out", "hook_mlp_out", "hook_resid_mid",
                                                "hook_resid_post", NULL};
    static const char *const from_start[] = {"hook_embed",     "hook_pos_embed",  "hook_full_embed",
                                             "hook_resid_pre", "hook_attn_out",   "hook_resid_mid",
                                             "hook_mlp_out",   "hook_resid_post", NULL};
    (void)state;
    check_changes("vit", RF_CENTRE_WRITING, from_start);
    model m = open_model("clip_projection", "reference", 1);
    rf_cache *before = fill(&m);
    assert_ok(rf_vit_process_weights(m.vit, m.s, RF_CENTRE_WRITING));
    rf_cache *after = fill(&m);
    for (int64_t i = 0; i < rf_cache_n_points(before); i++) { /* resid_pre0 stays, later ones not */
        const rf_hook_point *p = rf_cache_point(before, i);
        const bool changes =
            is_one_of(p->name, behind_ln_pre) || (p->site == RF_SITE_RESID_PRE && p->layer > 0);
        rf_view a, b;
        assert_ok(rf_cache_get(before, p->name, &a));
        assert_ok(rf_cache_get(after, p->name, &b));
        const double change = largest_change(a.data, b.data, rf_view_n_elems(&a));
        assert_true(changes ? change > 1e-4 : change <= 1e-4); /* values up to a few */
    }
    rf_cache_destroy(before);
    rf_cache_destroy(after);
    close_model(&m);
}

static void test_value_biases_change_v_and_z(void **state)
{
    static const char *const changed[] = {"hook_v", "hook_z", NULL};
    (void)state;
    check_changes("clip_projection", RF_FOLD_VALUE_BIASES, changed);
    check_changes("vit", RF_FOLD_VALUE_BIASES, changed);
}

static void test_refactoring_changes_q_k_v_and_z(void **state)
{
    static const char *const changed[] = {"hook_q", "hook_k", "hook_v", "hook_z", NULL};
    (void)state;
    check_changes("clip_projection", RF_REFACTOR_ATTENTION, changed);
    check_changes("vit", RF_REFACTOR_ATTENTION, changed);
}

/* ---- biases that were not there ------------------------------------------------------------- */

static void test_maps_without_biases_get_them_for_folding(void **state)
{
    (void)state;
    for (int variant = 0; variant < MADE_VARIANTS; variant++) {
        reference r = {.folder = "made", .variant = variant};
        void *ref = &r;
        model m = open_reference(&ref);
        const rf_vit_config *c = &m.vit->config;
        for (int64_t l = 0; l < c->n_layers; l++) {
            rf_block_weights *w = &m.vit->weights.blocks[l];
            rf_linear *const maps[] = {&w->q, &w->k, &w->v, &w->o, &w->fc1, &w->gate, &w->fc2};
            for (size_t i = 0; i < sizeof maps / sizeof maps[0]; i++) {
                maps[i]->bias.data = NULL;
            }
        }
        m.vit->weights.projection.bias.data = NULL;
        m.vit->weights.pool.k.bias.data = m.vit->weights.pool.v.bias.data = NULL;
        const int64_t n_floats = m.vit->weights.n_floats;
        outputs before = take_outputs(&m);
        assert_ok(rf_vit_process_weights(m.vit, m.s, all_processing));
        outputs after = take_outputs(&m);
        assert_true(outputs_error(&after, &before) <= 2e-5); /* as above */
        assert_true(rf_vit_n_weight_floats(m.vit) > n_floats);
        free_outputs(&before);
        free_outputs(&after);
        close_model(&m);
    }
}

/* ---- factors -------------------------------------------------------------------------------- */

/* A . B^T of columns. */
static double product_at(const double *a, int64_t n, const double *b, int64_t m, int64_t k,
                         const double *s, int64_t i, int64_t j)
{
    double sum = 0.0;
    for (int64_t l = 0; l < k; l++) {
        sum += a[l * n + i] * (s != NULL ? s[l] : 1.0) * b[l * m + j];
    }
    return sum;
}

/* Random columns; from `rank` on, sums of the ones before. */
static void fill_columns(double *x, int64_t n, int64_t k, int64_t rank, uint64_t key)
{
    for (int64_t j = 0; j < k; j++) {
        for (int64_t i = 0; i < n; i++) {
            float r[4];
            rf_random_normal4(3, RF_RANDOM_TEST, key, (uint64_t)(j * n + i), r);
            x[j * n + i] = j < rank ? (double)r[0] : x[(j - 1) * n + i] - x[i];
        }
    }
}

static void check_svd(int64_t n, int64_t m, int64_t k, int64_t rank)
{
    double *a = rf_calloc(n * k, sizeof *a), *b = rf_calloc(m * k, sizeof *b);
    double *want = rf_calloc(n * m, sizeof *want), *s = rf_calloc(k, sizeof *s), size = 0.0;
    fill_columns(a, n, k, rank, 1);
    fill_columns(b, m, k, k, 2);
    for (int64_t i = 0; i < n * m; i++) {
        want[i] = product_at(a, n, b, m, k, NULL, i / m, i % m);
        size = fmax(size, fabs(want[i]));
    }
    assert_ok(rf_factor_svd(a, n, b, m, k, s));
    for (int64_t i = 0; i < n * m; i++) { /* doubles, a few dozen terms */
        assert_true(fabs(product_at(a, n, b, m, k, s, i / m, i % m) - want[i]) <= 1e-13 * size);
    }
    for (int64_t i = 0; i < k; i++) {
        assert_true(s[i] >= 0.0 && (i == 0 || s[i] <= s[i - 1]));
        assert_true((s[i] > 1e-10 * s[0]) == (i < rank || s[0] == 0.0));
        for (int64_t j = 0; j <= i && i < rank; j++) {
            double u = 0.0, v = 0.0;
            for (int64_t e = 0; e < n; e++) {
                u += a[i * n + e] * a[j * n + e];
            }
            for (int64_t e = 0; e < m; e++) {
                v += b[i * m + e] * b[j * m + e];
            }
            assert_true(fabs(u - (i == j)) <= 1e-12 && fabs(v - (i == j)) <= 1e-12);
        }
    }
    rf_free(a);
    rf_free(b);
    rf_free(want);
    rf_free(s);
}

static void test_factors_are_a_singular_value_decomposition(void **state)
{
    (void)state;
    check_svd(17, 13, 5, 5);
    check_svd(64, 65, 16, 16);
    check_svd(8, 8, 8, 8); /* square */
    check_svd(9, 7, 6, 2); /* deficient */
    check_svd(5, 4, 1, 1); /* one column */
    check_svd(3, 8, 5, 3); /* more columns than rows: none is new behind the third */
}

static void test_a_product_of_zero_has_zero_factors(void **state)
{
    double a[6] = {0}, b[6] = {1, 2, 3, 4, 5, 6}, s[2] = {1, 1};
    (void)state;
    assert_ok(rf_factor_svd(a, 3, b, 3, 2, s));
    assert_true(s[0] == 0.0 && s[1] == 0.0);
    for (int i = 0; i < 6; i++) {
        assert_true(a[i] == 0.0 && isfinite(b[i]));
    }
}

/* ---- names and refusals --------------------------------------------------------------------- */

static void test_processings_have_names(void **state)
{
    char name[128];
    (void)state;
    assert_string_equal(rf_vit_processing_name(0, name), "none");
    assert_string_equal(rf_vit_processing_name(RF_FOLD_VALUE_BIASES, name), "fold_value_biases");
    assert_string_equal(rf_vit_processing_name(all_processing, name),
                        "fold_ln+center_writing_weights+fold_value_biases+refactor_attention");
}

static void test_unknown_processing_is_refused(void **state)
{
    (void)state;
    model m = open_model("vit", "reference", 1);
    assert_int_equal(rf_vit_process_weights(m.vit, m.s, 16), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_vit_processing(m.vit), 0);
    close_model(&m);
}

static void test_opening_processes_as_asked(void **state)
{
    char path[RF_PATH_LEN];
    rf_vit *vit = NULL;
    (void)state;
    model m = open_model("vit", "reference", 1);
    assert_ok(rf_format(path, sizeof path, "%s/vit/vit", RF_GOLDEN_DIR));
    assert_ok(rf_vit_open(m.be, path, &(rf_vit_opts){.processing = all_processing}, &vit));
    assert_int_equal(rf_vit_processing(vit), all_processing);
    assert_true(rf_vit_hash(vit) == rf_vit_hash(m.vit)); /* of the files */
    assert_ok(rf_vit_process_weights(m.vit, m.s, all_processing));
    assert_int_equal(vit->weights.n_floats, m.vit->weights.n_floats);
    assert_memory_equal(vit->weights.arena, m.vit->weights.arena,
                        (size_t)vit->weights.n_floats * sizeof(float));
    rf_vit_close(vit);
    close_model(&m);
}

int main(void)
{
    static const struct CMUnitTest single[] = {
        cmocka_unit_test(test_fold_ln_changes_what_norms_give),
        cmocka_unit_test(test_centring_changes_the_stream_and_what_writes_to_it),
        cmocka_unit_test(test_value_biases_change_v_and_z),
        cmocka_unit_test(test_refactoring_changes_q_k_v_and_z),
        cmocka_unit_test(test_maps_without_biases_get_them_for_folding),
        cmocka_unit_test(test_factors_are_a_singular_value_decomposition),
        cmocka_unit_test(test_a_product_of_zero_has_zero_factors),
        cmocka_unit_test(test_processings_have_names),
        cmocka_unit_test(test_unknown_processing_is_refused),
        cmocka_unit_test(test_opening_processes_as_asked),
    };
    static model_tests t;
    for (size_t i = 0; i < sizeof single / sizeof single[0]; i++) {
        add_test(&t, &single[i]);
    }
    add_tests_of_every_model(&t, "every processing keeps the outputs",
                             test_every_processing_keeps_the_outputs);
    add_tests_of_every_model(&t, "every processing keeps the gradient by the input",
                             test_every_processing_keeps_the_gradient_by_the_input);
    add_tests_of_every_model(&t, "fold_ln leaves norms without weight and bias",
                             test_fold_ln_leaves_norms_without_weight_and_bias);
    add_tests_of_every_model(&t, "centring takes the mean out of what is written",
                             test_centring_takes_the_mean_out_of_what_is_written);
    add_tests_of_every_model(&t, "value biases are gone where they can be",
                             test_value_biases_are_gone_where_they_can_be);
    add_tests_of_every_model(&t, "refactoring gives singular vectors",
                             test_refactoring_gives_singular_vectors);
    return run_model_tests("weight processing", &t);
}
