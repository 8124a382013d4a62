/* What is computed from caches: sums of summands are held against the stream itself. */
#include "../../src/vit/vit_impl.h"
#include "every_model.h"

/* ---- helpers -------------------------------------------------------------------------------- */

/* A whole pass of the model over its input, everything kept. */
static rf_cache *fill(model *m, rf_vit_output *out)
{
    rf_cache *cache = NULL;
    assert_ok(rf_cache_create(m->vit, NULL, 0, &cache));
    const rf_vit_run_args args = {.input = m->input, .cache = cache};
    assert_ok(rf_vit_run(m->vit, m->s, &args, out));
    return cache;
}

static const float *values_of(const rf_cache *cache, rf_site site, int64_t layer)
{
    rf_view v;
    assert_ok(rf_cache_need(cache, site, layer, &v));
    return v.data;
}

static const float *stream_before(const rf_cache *cache, int64_t layer)
{
    return layer < cache->vit->config.n_layers ? values_of(cache, RF_SITE_RESID_PRE, layer)
                                               : values_of(cache, RF_SITE_RESID_POST, layer - 1);
}

/* Sum over the stack of row `row` [d], in double. */
static void sum_row(const rf_resid_stack *stack, int64_t row, double *sum)
{
    const int64_t d = stack->values.shape[3];
    const int64_t size = stack->values.shape[1] * stack->values.shape[2] * d;
    for (int64_t j = 0; j < d; j++) {
        sum[j] = 0.0;
        for (int64_t i = 0; i < stack->n; i++) {
            sum[j] += (double)((const float *)stack->values.data)[i * size + row * d + j];
        }
    }
}

/* Of every token, in L2 relative to the token's norm. */
static double largest_error(const rf_resid_stack *stack, const float *want)
{
    const int64_t d = stack->values.shape[3];
    const int64_t n_rows = stack->values.shape[1] * stack->values.shape[2];
    double *sum = rf_calloc(d, sizeof *sum), worst = 0.0;
    for (int64_t row = 0; row < n_rows; row++) {
        double error = 0.0, norm = 0.0;
        sum_row(stack, row, sum);
        for (int64_t j = 0; j < d; j++) {
            const double x = (double)want[row * d + j];
            error += (sum[j] - x) * (sum[j] - x);
            norm += x * x;
        }
        worst = fmax(worst, sqrt(error / norm));
    }
    rf_free(sum);
    return worst;
}

static int64_t find_label(const rf_resid_stack *stack, const char *label)
{
    for (int64_t i = 0; i < stack->n; i++) {
        if (strcmp(stack->labels[i], label) == 0) {
            return i;
        }
    }
    return -1;
}

/* ---- sums, for every model ------------------------------------------------------------------ */

/* A few dozen fp32 terms that each carry a rounding or two, 6e-8 each. */
static const double sum_tolerance = 2e-6;

static void test_summands_add_up_to_the_stream(void **state)
{
    static const rf_decompose modes[] = {RF_DECOMPOSE_BRANCHES, RF_DECOMPOSE_ATTN, RF_DECOMPOSE_MLP,
                                         RF_DECOMPOSE_HEADS};
    model m = open_reference(state);
    rf_vit_output out;
    rf_cache *cache = fill(&m, &out);
    double worst = 0.0;
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        for (int64_t layer = 0; layer <= m.vit->config.n_layers; layer++) {
            rf_resid_stack stack;
            assert_ok(rf_cache_decompose_resid(cache, m.s, layer, modes[i], &stack));
            const double error = largest_error(&stack, stream_before(cache, layer));
            if (!(error <= sum_tolerance)) {
                fail_msg("mode %d, layer %d: error %g", (int)modes[i], (int)layer, error);
            }
            worst = fmax(worst, error);
            rf_resid_stack_fini(&stack);
        }
    }
    printf("           %s: largest error %.1e\n", m.vit->config.family, worst);
    rf_cache_destroy(cache);
    close_model(&m);
}

/* Before a norm has seen them, embedded patches are not on prefix tokens, nor these on patches. */
static void test_patches_and_prefix_tokens_do_not_overlap(void **state)
{
    model m = open_reference(state);
    const rf_vit_config *c = &m.vit->config;
    rf_vit_output out;
    rf_cache *cache = fill(&m, &out);
    rf_resid_stack stack;
    assert_ok(rf_cache_decompose_resid(cache, m.s, 0, RF_DECOMPOSE_BRANCHES, &stack));
    assert_int_equal(find_label(&stack, "embed"), 0);
    assert_int_equal(find_label(&stack, c->n_prefix == 1 && c->has_cls ? "cls" : "prefix"),
                     c->n_prefix > 0 ? 1 : -1);
    for (int64_t i = 0; i < 2 && c->n_prefix > 0 && !c->has_ln_pre; i++) {
        const float *x = rf_stack_at(&stack, i).data;
        for (int64_t t = 0; t < cache->n_images * c->n_tokens; t++) {
            const bool is_prefix = t % c->n_tokens < c->n_prefix;
            for (int64_t j = 0; j < c->d_model && is_prefix != (i == 1); j++) {
                assert_true(x[t * c->d_model + j] == 0.0f);
            }
        }
    }
    rf_resid_stack_fini(&stack);
    rf_cache_destroy(cache);
    close_model(&m);
}

/* What the MLP adds with its hidden layer at zero, for one token, in double. */
static void mlp_bias_row(const rf_cache *cache, int64_t layer, int64_t token, double *row)
{
    const rf_vit_config *c = &cache->vit->config;
    const rf_block_weights *w = &cache->vit->weights.blocks[layer];
    const float *map = w->fc2.weight.data, *bias = w->fc2.bias.data, *inner = w->mlp_ln.bias.data;
    const float *outer = w->ln2.weight.data, *outer_bias = w->ln2.bias.data;
    double mean = 0.0;
    for (int64_t j = 0; j < c->d_model; j++) {
        row[j] = bias != NULL ? (double)bias[j] : 0.0;
        for (int64_t i = 0; i < c->d_mlp && c->has_mlp_norm && inner != NULL; i++) {
            row[j] += (double)inner[i] * (double)map[i * c->d_model + j];
        }
        mean += row[j] / (double)c->d_model;
    }
    for (int64_t j = 0; j < c->d_model; j++) {
        if (c->norm_place == RF_NORM_BEHIND) {
            const double scale = (double)values_of(cache, RF_SITE_LN2_SCALE, layer)[token];
            row[j] = (row[j] - mean) / scale * (double)outer[j];
            row[j] += outer_bias != NULL ? (double)outer_bias[j] : 0.0;
        }
        row[j] *= w->scale2.data != NULL ? (double)((const float *)w->scale2.data)[j] : 1.0;
    }
}

static void test_neurons_and_bias_add_up_to_the_mlp(void **state)
{
    model m = open_reference(state);
    const rf_vit_config *c = &m.vit->config;
    rf_vit_output out;
    rf_cache *cache = fill(&m, &out);
    rf_resid_stack stack;
    const int64_t layer = c->n_layers - 1;
    double *row = rf_calloc(c->d_model, sizeof *row), *sum = rf_calloc(c->d_model, sizeof *sum);
    assert_ok(rf_cache_neuron_results(cache, m.s, -1, 0, c->d_mlp, &stack));
    assert_int_equal(stack.n, c->d_mlp);
    const float *want = values_of(cache, RF_SITE_MLP_OUT, layer);
    for (int64_t t = 0; t < cache->n_images * c->n_tokens; t++) {
        double error = 0.0, norm = 0.0;
        mlp_bias_row(cache, layer, t, row);
        sum_row(&stack, t, sum);
        for (int64_t j = 0; j < c->d_model; j++) {
            const double x = (double)want[t * c->d_model + j];
            error += (sum[j] + row[j] - x) * (sum[j] + row[j] - x);
            norm += x * x;
        }
        if (!(sqrt(error) <= 2e-6 * fmax(1e-3, sqrt(norm)))) { /* as above */
            fail_msg("token %d: error %g of %g", (int)t, sqrt(error), sqrt(norm));
        }
    }
    rf_resid_stack_fini(&stack);
    rf_free(row);
    rf_free(sum);
    rf_cache_destroy(cache);
    close_model(&m);
}

/* ---- logit attribution, for every model with a linear pool ----------------------------------- */

static int64_t end_of_text(const rf_vit_config *c, const int64_t *ids)
{
    int64_t best = 0;
    for (int64_t t = 0; t < c->n_tokens; t++) {
        if (c->eos_id >= 0 && ids[t] == c->eos_id) {
            return t;
        }
        best = ids[t] > ids[best] ? t : best;
    }
    return best;
}

/* How much the pool takes of token `t` of picture `b`. */
static double pool_share(const model *m, int64_t b, int64_t t)
{
    const rf_vit_config *c = &m->vit->config;
    switch (c->pool) {
    case RF_POOL_CLS:
        return t == 0 ? 1.0 : 0.0;
    case RF_POOL_PATCH_MEAN:
        return t >= c->n_prefix ? 1.0 / (double)c->n_patches : 0.0;
    case RF_POOL_TOKEN_MEAN:
        return 1.0 / (double)c->n_tokens;
    case RF_POOL_END:
        return t == end_of_text(c, (const int64_t *)m->input.data + b * c->n_tokens) ? 1.0 : 0.0;
    case RF_POOL_LAST:
        return t == c->n_tokens - 1 ? 1.0 : 0.0;
    case RF_POOL_ATTENTION:
        break;
    }
    return 0.0;
}

static double dot(const float *x, const float *y, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; x != NULL && i < n; i++) {
        sum += (double)x[i] * (double)y[i];
    }
    return sum;
}

/* Column `idx` of what reads the pooled vector: the sum of its attributions, the norm's bias and
 * its own. */
static void check_logit(model *m, const rf_cache *cache, const rf_resid_stack *stack,
                        const rf_view *logits, int64_t idx)
{
    const rf_vit_config *c = &m->vit->config;
    const rf_vit_weights *w = &m->vit->weights;
    const float *bias = c->n_classes > 0 ? w->head.bias.data : w->projection.bias.data;
    const int64_t n_rows = cache->n_images * c->n_tokens;
    float *parts = rf_calloc(stack->n * n_rows, sizeof *parts);
    float *direction = rf_calloc(c->d_pool, sizeof *direction);
    assert_ok(rf_vit_logit_direction(m->vit, m->s, idx, direction));
    assert_ok(rf_cache_logit_attribution(cache, m->s, stack, direction, parts));
    for (int64_t b = 0; b < cache->n_images; b++) {
        double sum = dot(w->ln_final.bias.data, direction, c->d_model), size = fabs(sum);
        sum += bias != NULL ? (double)bias[idx] : 0.0;
        for (int64_t i = 0; i < stack->n * n_rows; i++) {
            const int64_t row = i % n_rows;
            if (row / c->n_tokens == b) {
                const double part = pool_share(m, b, row % c->n_tokens) * (double)parts[i];
                sum += part;
                size += fabs(part);
            }
        }
        const double want = (double)((const float *)logits->data)[b * logits->shape[1] + idx];
        if (!(fabs(sum - want) <= 1e-5 * fmax(fabs(want), 0.1 * size))) { /* terms cancel */
            fail_msg("picture %d, column %d: %g, not %g", (int)b, (int)idx, sum, want);
        }
    }
    rf_free(direction);
    rf_free(parts);
}

static void test_attributions_and_biases_add_up_to_the_logits(void **state)
{
    model m = open_reference(state);
    const rf_vit_config *c = &m.vit->config;
    rf_vit_output out;
    rf_cache *cache = fill(&m, &out);
    rf_resid_stack stack;
    assert_ok(rf_cache_decompose_resid(cache, m.s, c->n_layers, RF_DECOMPOSE_HEADS, &stack));
    const rf_view *logits = c->n_classes > 0 ? &out.logits : &out.embedding;
    if (!c->has_ln_final || (c->norm_is_behind_pool && c->pool == RF_POOL_ATTENTION)) {
        assert_int_equal(rf_cache_apply_ln_final(cache, m.s, &stack), RF_ERR_UNSUPPORTED);
    } else {
        assert_ok(rf_cache_apply_ln_final(cache, m.s, &stack));
        const bool is_linear = c->pool != RF_POOL_ATTENTION && c->head_input == RF_HEAD_POOLED;
        const bool has_reader = c->n_classes > 0 || c->has_projection;
        for (int64_t i = 0; is_linear && has_reader && i < logits->shape[1]; i += 3) {
            check_logit(&m, cache, &stack, logits, i);
        }
    }
    rf_resid_stack_fini(&stack);
    rf_cache_destroy(cache);
    close_model(&m);
}

/* ---- stacks by name ------------------------------------------------------------------------- */

static void assert_labels(const rf_resid_stack *stack, const char *const *labels, int64_t n)
{
    assert_int_equal(stack->n, n);
    for (int64_t i = 0; i < n; i++) {
        assert_string_equal(stack->labels[i], labels[i]);
    }
}

static void test_accumulated_stream_is_the_cached_one(void **state)
{
    static const char *const labels[] = {"0_pre", "0_mid", "1_pre",     "1_mid",
                                         "2_pre", "2_mid", "final_post"};
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    const rf_vit_config *c = &m.vit->config;
    rf_vit_output out;
    rf_cache *cache = fill(&m, &out);
    rf_resid_stack stack;
    assert_int_equal(c->n_layers, 3);
    assert_ok(rf_cache_accumulated_resid(cache, m.s, 3, true, &stack));
    assert_labels(&stack, labels, 7);
    for (int64_t i = 0; i < 7; i++) {
        const rf_view rows = rf_stack_at(&stack, i);
        const float *want =
            i % 2 == 0 ? stream_before(cache, i / 2) : values_of(cache, RF_SITE_RESID_MID, i / 2);
        assert_memory_equal(rows.data, want, (size_t)rf_view_n_elems(&rows) * sizeof(float));
    }
    rf_resid_stack_fini(&stack);
    assert_ok(rf_cache_accumulated_resid(cache, m.s, -2, false, &stack));
    assert_labels(&stack, (const char *const[]){"0_pre", "1_pre"}, 2);
    rf_resid_stack_fini(&stack);
    rf_cache_destroy(cache);
    close_model(&m);
}

static void test_summands_are_named(void **state)
{
    static const char *const branches[] = {"embed",      "cls",       "pos_embed",  "ln_pre_bias",
                                           "0_attn_out", "0_mlp_out", "1_attn_out", "1_mlp_out"};
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    rf_vit_output out;
    rf_cache *cache = fill(&m, &out);
    rf_resid_stack stack;
    assert_ok(rf_cache_decompose_resid(cache, m.s, 2, RF_DECOMPOSE_BRANCHES, &stack));
    assert_labels(&stack, branches, 8);
    rf_resid_stack_fini(&stack);
    assert_ok(rf_cache_decompose_resid(cache, m.s, 2, RF_DECOMPOSE_ATTN, &stack));
    assert_string_equal(stack.labels[stack.n - 1], "mlp_out");
    rf_resid_stack_fini(&stack);
    assert_ok(rf_cache_decompose_resid(cache, m.s, 2, RF_DECOMPOSE_MLP, &stack));
    assert_string_equal(stack.labels[stack.n - 1], "attn_out");
    rf_resid_stack_fini(&stack);
    assert_ok(rf_cache_decompose_resid(cache, m.s, 1, RF_DECOMPOSE_HEADS, &stack));
    const int64_t n_heads = m.vit->config.n_heads;
    assert_int_equal(stack.n, 4 + n_heads + 2);
    assert_string_equal(stack.labels[4], "L0H0");
    assert_string_equal(stack.labels[4 + n_heads], "0_attn_bias");
    assert_string_equal(stack.labels[5 + n_heads], "0_mlp_out");
    rf_resid_stack_fini(&stack);
    assert_ok(rf_cache_neuron_results(cache, m.s, 1, 5, 2, &stack));
    assert_labels(&stack, (const char *const[]){"L1N5", "L1N6"}, 2);
    rf_resid_stack_fini(&stack);
    rf_cache_destroy(cache);
    close_model(&m);
}

static void test_head_results_are_the_heads_of_the_decomposition(void **state)
{
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    rf_vit_output out;
    rf_cache *cache = fill(&m, &out);
    rf_resid_stack heads, all;
    assert_ok(rf_cache_head_results(cache, m.s, 2, &heads));
    assert_ok(rf_cache_decompose_resid(cache, m.s, 2, RF_DECOMPOSE_HEADS, &all));
    assert_int_equal(heads.n, 2 * m.vit->config.n_heads);
    for (int64_t i = 0; i < heads.n; i++) {
        const int64_t same = find_label(&all, heads.labels[i]);
        assert_true(same >= 0);
        const rf_view a = rf_stack_at(&heads, i), b = rf_stack_at(&all, same);
        assert_memory_equal(a.data, b.data, (size_t)rf_view_n_elems(&a) * sizeof(float));
    }
    rf_resid_stack_fini(&heads);
    rf_resid_stack_fini(&all);
    assert_ok(rf_cache_head_results(cache, m.s, 0, &heads));
    assert_int_equal(heads.n, 0);
    rf_resid_stack_fini(&heads);
    rf_cache_destroy(cache);
    close_model(&m);
}

/* ---- refusals ------------------------------------------------------------------------------- */

static void test_a_missing_point_is_named(void **state)
{
    static const char *const filters[] = {"hook_embed", "hook_pos_embed", "ln_pre.hook_scale",
                                          "blocks.*.hook_attn_out"};
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    rf_cache *cache = NULL;
    rf_resid_stack stack;
    assert_ok(rf_cache_create(m.vit, filters, 4, &cache));
    const rf_vit_run_args args = {.input = m.input, .cache = cache};
    assert_ok(rf_vit_run(m.vit, m.s, &args, NULL));
    assert_int_equal(rf_cache_decompose_resid(cache, m.s, 1, RF_DECOMPOSE_BRANCHES, &stack),
                     RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "blocks.0.hook_mlp_out"));
    assert_null(stack.values.data);
    assert_int_equal(rf_cache_head_results(cache, m.s, 2, &stack), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "blocks.0.attn.hook_z"));
    assert_int_equal(rf_cache_accumulated_resid(cache, m.s, 0, false, &stack), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "blocks.0.hook_resid_pre"));
    assert_ok(rf_cache_decompose_resid(cache, m.s, 0, RF_DECOMPOSE_BRANCHES, &stack));
    assert_int_equal(rf_cache_apply_ln_final(cache, m.s, &stack), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "ln_final.hook_scale"));
    rf_resid_stack_fini(&stack);
    rf_cache_destroy(cache);
    close_model(&m);
}

static void test_layers_and_neurons_out_of_range_are_refused(void **state)
{
    (void)state;
    model m = open_model("clip_projection", "reference", 1);
    rf_vit_output out;
    rf_cache *cache = fill(&m, &out);
    rf_resid_stack stack;
    for (int64_t layer = -4; layer <= 4; layer += 8) {
        assert_int_equal(rf_cache_accumulated_resid(cache, m.s, layer, false, &stack),
                         RF_ERR_INVALID_ARG);
        assert_int_equal(rf_cache_decompose_resid(cache, m.s, layer, RF_DECOMPOSE_BRANCHES, &stack),
                         RF_ERR_INVALID_ARG);
        assert_int_equal(rf_cache_head_results(cache, m.s, layer, &stack), RF_ERR_INVALID_ARG);
        assert_int_equal(rf_cache_neuron_results(cache, m.s, layer, 0, 1, &stack),
                         RF_ERR_INVALID_ARG);
    }
    const int64_t d_mlp = m.vit->config.d_mlp;
    assert_int_equal(rf_cache_neuron_results(cache, m.s, 0, d_mlp, 1, &stack), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_cache_neuron_results(cache, m.s, 0, -1, 1, &stack), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_cache_neuron_results(cache, m.s, 0, 1, INT64_MAX, &stack),
                     RF_ERR_INVALID_ARG);
    assert_ok(rf_cache_neuron_results(cache, m.s, 0, d_mlp, 0, &stack));
    rf_resid_stack_fini(&stack);
    rf_cache_destroy(cache);
    close_model(&m);
}

int main(void)
{
    static const struct CMUnitTest single[] = {
        cmocka_unit_test(test_accumulated_stream_is_the_cached_one),
        cmocka_unit_test(test_summands_are_named),
        cmocka_unit_test(test_head_results_are_the_heads_of_the_decomposition),
        cmocka_unit_test(test_a_missing_point_is_named),
        cmocka_unit_test(test_layers_and_neurons_out_of_range_are_refused),
    };
    static model_tests t;
    for (size_t i = 0; i < sizeof single / sizeof single[0]; i++) {
        add_test(&t, &single[i]);
    }
    add_tests_of_every_model(&t, "summands add up to the stream",
                             test_summands_add_up_to_the_stream);
    add_tests_of_every_model(&t, "patches and prefix tokens do not overlap",
                             test_patches_and_prefix_tokens_do_not_overlap);
    add_tests_of_every_model(&t, "neurons and bias add up to the MLP",
                             test_neurons_and_bias_add_up_to_the_mlp);
    add_tests_of_every_model(&t, "attributions and biases add up to the logits",
                             test_attributions_and_biases_add_up_to_the_logits);
    return run_model_tests("decompositions", &t);
}
