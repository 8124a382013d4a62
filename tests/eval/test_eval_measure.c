/* A measurement against plain loops in double: one picture at a time, coders as dense sums. */
#include <math.h>

#include "eval/tiny.h"

enum { F = 40, K = 6 };

static tiny model;

static int set_up(void **state)
{
    (void)state;
    tiny_write(&model, tiny_labels, true);
    tiny_open(&model, 0.3);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    tiny_close(&model);
    tiny_remove(&model);
    return 0;
}

/* ---- the model, a picture at a time -----------------------------------------------------------
 */

typedef struct swap {
    float *act;        /* [n] of the whole point: read here */
    const float *rows; /* written over the positions from `first` on, or NULL */
    int64_t first, n_rows, width;
} swap;

static rf_status swap_hook(void *user, const rf_hook_point *point, const rf_view *act, rf_stream *s)
{
    rf_status status = RF_OK;
    swap *w = user;
    (void)point;
    if (w->act != NULL) {
        RF_TRY(rf_copy_out(s, w->act, act->data, (size_t)rf_view_n_elems(act) * sizeof(float)));
    }
    if (w->rows != NULL) {
        RF_TRY(rf_copy_in(s, (float *)act->data + w->first * w->width, w->rows,
                          (size_t)(w->n_rows * w->width) * sizeof(float)));
    }
    RF_TRY(rf_stream_synchronise(s));
fail:
    return status;
}

typedef struct answer {
    float embedding[TINY_D], logits[TINY_CLASSES];
} answer;

/* False when the picture cannot be read. */
static bool run_picture(rf_picture_split split, int64_t idx, const rf_hook_point *point, swap *w,
                        answer *out)
{
    const int64_t shape[4] = {1, 3, TINY_SIDE, TINY_SIDE};
    char path[RF_PATH_LEN];
    rf_picture picture;
    float pixels[3 * TINY_SIDE * TINY_SIDE];
    rf_view images = rf_view_nd(pixels, RF_F32, 4, shape); /* the CPU's device memory is host's */
    const rf_hook hook = {.point = *point, .fn = swap_hook, .user = w};
    rf_vit_output o;

    TINY_OK(rf_picture_list_path(model.pictures, split, idx, path));
    if (rf_picture_load(path, &picture) != RF_OK) {
        return false;
    }
    TINY_OK(rf_transform_apply(&model.transform, &picture, pixels));
    rf_picture_fini(&picture);
    TINY_OK(rf_vit_forward(model.vit, model.stream, &images, &hook, 1, RF_VIT_RUN_ALL, &o));
    memcpy(out->embedding, o.embedding.data, sizeof out->embedding);
    memcpy(out->logits, o.logits.data, sizeof out->logits);
    return true;
}

/* ---- coders as dense sums in double -----------------------------------------------------------
 */

/* Codes z [F] and reconstruction of x by the definition; entries > 0. */
static int64_t naive_coder(const rf_coder *coder, const float *x, double *z, double *x_hat)
{
    const float *w_enc = rf_coder_view(coder, RF_CODER_W_ENC).data;
    const float *b_enc = rf_coder_view(coder, RF_CODER_B_ENC).data;
    const float *w_dec = rf_coder_view(coder, RF_CODER_W_DEC).data;
    const float *b_dec = rf_coder_view(coder, RF_CODER_B_DEC).data;
    const int64_t n_latents = rf_coder_n_latents(coder);
    const bool is_topk = strcmp(rf_coder_architecture(coder)->name, "topk") == 0;
    int64_t n_active = 0;

    for (int64_t i = 0; i < n_latents; i++) {
        z[i] = (double)b_enc[i];
        for (int64_t j = 0; j < TINY_D; j++) {
            z[i] += ((double)x[j] - (double)b_dec[j]) * (double)w_enc[i * TINY_D + j];
        }
    }
    double h[F];
    memcpy(h, z, sizeof h);
    for (int64_t i = 0; i < n_latents; i++) {
        int64_t n_above = 0;
        for (int64_t o = 0; o < n_latents; o++) {
            n_above += h[o] > h[i];
        }
        z[i] = h[i] > 0 && (!is_topk || n_above < rf_coder_k(coder)) ? h[i] : 0;
        n_active += z[i] > 0;
    }
    for (int64_t j = 0; j < TINY_D; j++) {
        x_hat[j] = (double)b_dec[j];
        for (int64_t i = 0; i < n_latents; i++) {
            x_hat[j] += z[i] * (double)w_dec[i * TINY_D + j];
        }
    }
    return n_active;
}

/* ---- the figures ------------------------------------------------------------------------------
 */

typedef struct reference {
    int n; /* pictures that can be read */
    int64_t pictures[TINY_PICTURES + 1];
    float x[TINY_PICTURES][TINY_T * TINY_D], x_hat[TINY_PICTURES][TINY_T * TINY_D];
    int64_t n_active[TINY_PICTURES][TINY_T];
    bool fired[F];
    answer clean[TINY_PICTURES];
} reference;

static double cosine(const float *x, const float *y, int n)
{
    double xx = 0, yy = 0, xy = 0;
    for (int i = 0; i < n; i++) {
        xx += (double)x[i] * (double)x[i];
        yy += (double)y[i] * (double)y[i];
        xy += (double)x[i] * (double)y[i];
    }
    return xy / sqrt(xx * yy);
}

static double cross_entropy(const float *logits, int64_t label)
{
    double sum = 0;
    for (int i = 0; i < TINY_CLASSES; i++) {
        sum += exp((double)logits[i] - (double)logits[label]);
    }
    return log(sum);
}

/* All pictures of the split in `chosen`, read and reconstructed token by token. */
static void build_reference(const rf_eval_coder *coder, rf_picture_split split,
                            const int64_t *chosen, int64_t n_chosen, reference *r)
{
    memset(r, 0, sizeof *r);
    for (int64_t c = 0; c < n_chosen; c++) {
        swap w = {.act = r->x[r->n]};
        if (!run_picture(split, chosen[c], &coder->sites[0].point, &w, &r->clean[r->n])) {
            continue;
        }
        for (int t = 0; t < TINY_T; t++) {
            double z[F], x_hat[TINY_D];
            r->n_active[r->n][t] = naive_coder(coder->coder, r->x[r->n] + t * TINY_D, z, x_hat);
            for (int j = 0; j < TINY_D; j++) {
                r->x_hat[r->n][t * TINY_D + j] = (float)x_hat[j];
            }
            const bool is_seen =
                coder->tokens == RF_TOKENS_ALL || (coder->tokens == RF_TOKENS_CLS) == (t == 0);
            for (int64_t i = 0; i < rf_coder_n_latents(coder->coder) && is_seen; i++) {
                r->fired[i] = r->fired[i] || z[i] > 0;
            }
        }
        r->pictures[r->n++] = chosen[c];
    }
}

static void mean_of(const reference *r, int first, int end, double *mean)
{
    memset(mean, 0, TINY_D * sizeof *mean);
    for (int p = 0; p < r->n; p++) {
        for (int t = first; t < end; t++) {
            for (int j = 0; j < TINY_D; j++) {
                mean[j] += (double)r->x[p][t * TINY_D + j] / (r->n * (end - first));
            }
        }
    }
}

static double spread_about(const reference *r, int first, int end, const double *mean)
{
    double sum = 0;
    for (int p = 0; p < r->n; p++) {
        for (int i = first * TINY_D; i < end * TINY_D; i++) {
            sum += pow((double)r->x[p][i] - mean[i % TINY_D], 2);
        }
    }
    return sum;
}

/* 1e-5 relative: the model and the coder run in fp32, whose errors differ between one picture
 * here and micro-batches there. */
static void assert_near(const char *what, double got, double expected)
{
    if (!(fabs(got - expected) <= 1e-5 * fabs(expected))) {
        fail_msg("%s is %.9g, expected %.9g", what, got, expected);
    }
}

static void check_class(const reference *r, const rf_token_figures *got, int first, int end)
{
    double error = 0, by_position = 0, l0 = 0, cosines = 0, mean[TINY_D];
    const double n = r->n * (end - first);

    for (int p = 0; p < r->n; p++) {
        for (int t = first; t < end; t++) {
            const float *x = r->x[p] + t * TINY_D, *x_hat = r->x_hat[p] + t * TINY_D;
            for (int j = 0; j < TINY_D; j++) {
                error += pow((double)x[j] - (double)x_hat[j], 2);
            }
            l0 += (double)r->n_active[p][t];
            cosines += cosine(x, x_hat, TINY_D);
        }
    }
    for (int t = first; t < end; t++) {
        mean_of(r, t, t + 1, mean);
        by_position += spread_about(r, t, t + 1, mean);
    }
    mean_of(r, first, end, mean);
    assert_int_equal(got->n_tokens, n);
    assert_near("l0", got->l0, l0 / n);
    assert_near("mse", got->mse, error / n / TINY_D);
    assert_near("squared error", got->squared_error, error / n);
    assert_near("cosine", got->cosine, cosines / n);
    assert_near("explained variance", got->explained_variance,
                1 - error / spread_about(r, first, end, mean));
    assert_near("explained variance by position", got->explained_variance_by_position,
                1 - error / by_position);
}

/* Mean cosine and cross entropy with `rows` (of each picture; `stride` 0: the same) in place. */
static void run_swapped(const rf_eval_coder *coder, rf_picture_split split, const reference *r,
                        const float *rows, int64_t stride, int first, int n_rows, double *cos_out,
                        double *ce_out)
{
    *cos_out = *ce_out = 0;
    for (int p = 0; p < r->n; p++) {
        answer a;
        swap w = {.rows = rows + p * stride, .first = first, .n_rows = n_rows, .width = TINY_D};
        assert_true(run_picture(split, r->pictures[p], &coder->sites[0].point, &w, &a));
        *cos_out += cosine(a.embedding, r->clean[p].embedding, TINY_D) / r->n;
        *ce_out +=
            cross_entropy(a.logits, rf_picture_list_label(model.pictures, split, r->pictures[p])) /
            r->n;
    }
}

static void check_substitution(const rf_eval_coder *coder, rf_picture_split split,
                               const reference *r, const rf_substitution_figures *got, int first,
                               int end)
{
    double mean[TINY_D], ce = 0, ce_mean, ce_zero, ce_spliced, cos_mean, cos_zero, cos_spliced;
    float zeros[TINY_T * TINY_D] = {0}, means[TINY_T * TINY_D];

    mean_of(r, first, end, mean);
    for (int i = 0; i < TINY_T * TINY_D; i++) {
        means[i] = (float)mean[i % TINY_D];
    }
    for (int p = 0; p < r->n; p++) {
        ce += cross_entropy(r->clean[p].logits,
                            rf_picture_list_label(model.pictures, split, r->pictures[p])) /
              r->n;
    }
    run_swapped(coder, split, r, &r->x_hat[0][first * TINY_D], TINY_T * TINY_D, first, end - first,
                &cos_spliced, &ce_spliced);
    run_swapped(coder, split, r, zeros, 0, first, end - first, &cos_zero, &ce_zero);
    run_swapped(coder, split, r, means, 0, first, end - first, &cos_mean, &ce_mean);
    assert_int_equal(got->n_pictures, r->n);
    assert_int_equal(got->n_labelled, r->n);
    assert_near("cosine spliced", got->cosine_spliced, cos_spliced);
    assert_near("cosine zero", got->cosine_zero, cos_zero);
    assert_near("cosine mean", got->cosine_mean, cos_mean);
    assert_near("ce", got->ce, ce);
    assert_near("ce spliced", got->ce_spliced, ce_spliced);
    assert_near("ce zero", got->ce_zero, ce_zero);
    /* of the entropies' own error, widened by the small difference that it is divided by */
    const double percent = 100 * (ce_zero - ce_spliced) / (ce_zero - ce);
    assert_true(fabs(got->ce_recovered - percent) <=
                1e-5 * (fabs(ce_zero) + fabs(ce)) * (100 + fabs(percent)) / fabs(ce_zero - ce));
}

static void check_coder(const rf_eval_coder *coder, const rf_split_figures *split, int64_t idx,
                        const int64_t *chosen, int64_t n_chosen)
{
    static reference r;
    const rf_coder_figures *got = &split->coders[idx];
    const int first = coder->tokens == RF_TOKENS_PATCH ? 1 : 0;
    const int end = coder->tokens == RF_TOKENS_CLS ? 1 : TINY_T;
    int64_t n_alive = 0;

    build_reference(coder, split->split, chosen, n_chosen, &r);
    assert_int_equal(split->n_pictures, r.n);
    assert_string_equal(got->name, coder->name);
    check_class(&r, &got->by_class[RF_EVAL_ALL], first, end);
    if (first == 0) {
        check_class(&r, &got->by_class[RF_EVAL_CLS], 0, 1);
    }
    if (end > 1) {
        check_class(&r, &got->by_class[RF_EVAL_PATCH], 1, TINY_T);
    }
    assert_int_equal(got->by_class[RF_EVAL_CLS].n_tokens, first == 0 ? r.n : 0);
    assert_int_equal(got->by_class[RF_EVAL_REGISTER].n_tokens, 0);
    for (int64_t i = 0; i < rf_coder_n_latents(coder->coder); i++) {
        n_alive += r.fired[i];
    }
    assert_int_equal(got->n_alive, n_alive);
    check_substitution(coder, split->split, &r, &got->substitution, first, end);
}

/* ---- tests ------------------------------------------------------------------------------------
 */

typedef struct bench {
    rf_comm *self;
    rf_eval_coder coders[4];
    int64_t *classes;
    rf_eval_model model;
    rf_eval_job job;
} bench;

static rf_comm *world;

static void begin(bench *b)
{
    static const struct {
        const char *name, *architecture, *hook;
        rf_token_class tokens;
    } rows[4] = {{"topk all", "topk", "blocks.0.hook_resid_post", RF_TOKENS_ALL},
                 {"relu patch", "relu", "blocks.0.hook_resid_post", RF_TOKENS_PATCH},
                 {"topk cls", "topk", "blocks.1.hook_resid_post", RF_TOKENS_CLS},
                 {"topk z", "topk", "blocks.1.attn.hook_z", RF_TOKENS_ALL}};
    rf_str reason = {0};
    const char *how = NULL;
    for (int i = 0; i < 4; i++) {
        rf_coder *coder = tiny_coder(&model, rows[i].architecture, F, K, 1000 * (uint64_t)i);
        b->coders[i] = tiny_eval_coder(&model, rows[i].name, rows[i].hook, rows[i].tokens, coder);
    }
    TINY_OK(rf_eval_match_classes(model.vit, NULL, model.pictures, &b->classes, &how, &reason));
    assert_null(reason.data);
    b->model = tiny_model(&model);
    b->model.classes = b->classes;
    b->job = (rf_eval_job){.comm = world,
                           .models = &b->model,
                           .n_models = 1,
                           .stream = model.stream,
                           .pictures = model.pictures,
                           .coders = b->coders,
                           .n_coders = 4,
                           .settings = {.micro_batch = 5, .substitution = true},
                           .seed = 3,
                           .max_bad_share = 0.5};
}

static void end(bench *b)
{
    for (int i = 0; i < 4; i++) {
        tiny_eval_coder_fini(&b->coders[i]);
    }
    rf_free(b->classes);
    /* the model keeps its work space from the first test on */
    static int64_t n_live = -1;
    n_live = n_live < 0 ? rf_alloc_live() : n_live;
    assert_int_equal(rf_alloc_live(), n_live);
}

static void check_split(const bench *b, rf_picture_split which, int64_t n_expected)
{
    rf_split_figures split;
    int64_t all[TINY_PICTURES + 1];
    const int64_t n = rf_picture_list_n(model.pictures, which);
    TINY_OK(rf_eval_measure(&b->job, which, &split));
    assert_int_equal(split.n_pictures + split.n_bad, n_expected);
    assert_int_equal(n, n_expected);
    for (int64_t i = 0; i < n; i++) {
        all[i] = i;
    }
    for (int64_t c = 0; c < 4; c++) {
        check_coder(&b->coders[c], &split, c, all, n);
    }
    rf_split_figures_fini(&split);
}

static void every_figure_is_that_of_plain_double_loops(void **state)
{
    (void)state;
    static const int64_t micro_batches[] = {1, 5, 64};
    bench b;
    begin(&b);
    for (int i = 0; i < 3; i++) {
        b.job.settings.micro_batch = micro_batches[i];
        const int64_t n_held_out = rf_picture_list_n(model.pictures, RF_SPLIT_HELD_OUT);
        check_split(&b, RF_SPLIT_TRAIN, TINY_PICTURES + 1 - n_held_out);
        check_split(&b, RF_SPLIT_HELD_OUT, n_held_out);
    }
    end(&b);
}

static void a_sample_is_as_large_as_asked_and_keyed_by_the_seed(void **state)
{
    (void)state;
    bench b;
    rf_split_figures first, again, other;
    begin(&b);
    b.job.settings.max_trained_on = 6;
    TINY_OK(rf_eval_measure(&b.job, RF_SPLIT_TRAIN, &first));
    TINY_OK(rf_eval_measure(&b.job, RF_SPLIT_TRAIN, &again));
    b.job.seed = 4;
    TINY_OK(rf_eval_measure(&b.job, RF_SPLIT_TRAIN, &other));
    assert_int_equal(first.n_pictures + first.n_bad, 6);
    assert_true(first.pictures_hash == again.pictures_hash);
    assert_true(first.pictures_hash != other.pictures_hash);
    assert_memory_equal(&first.coders[0].by_class, &again.coders[0].by_class,
                        sizeof first.coders[0].by_class);
    rf_split_figures_fini(&first);
    rf_split_figures_fini(&again);
    rf_split_figures_fini(&other);
    end(&b);
}

static void without_substitution_the_other_figures_are_the_same(void **state)
{
    (void)state;
    bench b;
    rf_split_figures with, without;
    begin(&b);
    TINY_OK(rf_eval_measure(&b.job, RF_SPLIT_HELD_OUT, &with));
    b.job.settings.substitution = false;
    TINY_OK(rf_eval_measure(&b.job, RF_SPLIT_HELD_OUT, &without));
    assert_int_equal(without.coders[0].substitution.n_pictures, 0);
    assert_true(isnan(without.coders[0].substitution.cosine_spliced));
    assert_memory_equal(&with.coders[0].by_class, &without.coders[0].by_class,
                        sizeof with.coders[0].by_class);
    rf_split_figures_fini(&with);
    rf_split_figures_fini(&without);
    end(&b);
}

static void too_many_broken_pictures_end_it(void **state)
{
    (void)state;
    bench b;
    rf_split_figures split;
    begin(&b);
    b.job.max_bad_share = 0.001;
    const rf_status held_out = rf_eval_measure(&b.job, RF_SPLIT_HELD_OUT, &split);
    rf_split_figures_fini(&split);
    const rf_status trained_on = rf_eval_measure(&b.job, RF_SPLIT_TRAIN, &split);
    rf_split_figures_fini(&split);
    assert_true((held_out == RF_ERR_IO) != (trained_on == RF_ERR_IO)); /* there is one of them */
    end(&b);
}

static void an_empty_split_has_no_figures(void **state)
{
    (void)state;
    bench b;
    rf_split_figures split;
    rf_picture_list *list = NULL;
    const rf_picture_list_opts opts = {.path = model.data, .holdout = 0};
    begin(&b);
    TINY_OK(rf_picture_list_open(&opts, &list));
    b.job.pictures = list;
    TINY_OK(rf_eval_measure(&b.job, RF_SPLIT_HELD_OUT, &split));
    assert_int_equal(split.n_pictures, 0);
    assert_true(isnan(split.coders[0].by_class[RF_EVAL_ALL].explained_variance));
    assert_true(isnan(split.coders[0].substitution.cosine_zero));
    rf_split_figures_fini(&split);
    rf_picture_list_close(list);
    end(&b);
}

static void activations_that_are_not_finite_end_it(void **state)
{
    (void)state;
    bench b;
    rf_split_figures split;
    begin(&b);
    const rf_view w_dec = rf_coder_view(b.coders[0].coder, RF_CODER_W_DEC);
    ((float *)w_dec.data)[0] = NAN;
    for (int64_t i = 0; i < rf_view_n_elems(&w_dec); i++) {
        ((float *)w_dec.data)[i] = NAN;
    }
    assert_int_equal(rf_eval_measure(&b.job, RF_SPLIT_TRAIN, &split), RF_ERR_NUMERIC);
    assert_null(split.coders);
    end(&b);
}

static void a_coder_of_another_width_is_refused_by_name(void **state)
{
    (void)state;
    bench b;
    rf_split_figures split;
    begin(&b);
    rf_reader_site elsewhere = {.model = 0};
    const rf_reader_site *own = b.coders[2].sites;
    TINY_OK(
        rf_vit_hook_find(rf_vit_get_config(model.vit), "blocks.0.mlp.hook_post", &elsewhere.point));
    b.coders[2].sites = &elsewhere;
    assert_int_equal(rf_eval_measure(&b.job, RF_SPLIT_TRAIN, &split), RF_ERR_INVALID_ARG);
    assert_non_null(strstr(rf_error_text(), "topk cls"));
    b.coders[2].sites = own;
    end(&b);
}

static void folders_are_matched_by_label_or_number_or_not_at_all(void **state)
{
    (void)state;
    static const char *const numbers[TINY_CLASSES] = {"2", "0", "1"};
    static const char *const mixed[TINY_CLASSES] = {"cat", "0", "zebra"};
    const char *const *const names[2] = {numbers, mixed};
    for (int i = 0; i < 2; i++) {
        tiny other = {0};
        rf_str reason = {0};
        const char *how = NULL;
        int64_t *classes = NULL;
        tiny_write(&other, names[i], false);
        tiny_open(&other, 0);
        TINY_OK(rf_eval_match_classes(other.vit, NULL, other.pictures, &classes, &how, &reason));
        if (i == 0) {
            assert_non_null(classes);
            assert_null(reason.data);
            for (int64_t c = 0; c < TINY_CLASSES; c++) {
                assert_int_equal(classes[c], c); /* the list sorts them */
            }
        } else {
            assert_null(classes);
            assert_non_null(strstr(reason.data, "'0'")); /* the first that is no label */
        }
        rf_free(classes);
        rf_str_fini(&reason);
        tiny_close(&other);
        tiny_remove(&other);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_figure_is_that_of_plain_double_loops),
        cmocka_unit_test(a_sample_is_as_large_as_asked_and_keyed_by_the_seed),
        cmocka_unit_test(without_substitution_the_other_figures_are_the_same),
        cmocka_unit_test(too_many_broken_pictures_end_it),
        cmocka_unit_test(an_empty_split_has_no_figures),
        cmocka_unit_test(activations_that_are_not_finite_end_it),
        cmocka_unit_test(a_coder_of_another_width_is_refused_by_name),
        cmocka_unit_test(folders_are_matched_by_label_or_number_or_not_at_all),
    };
    if (rf_comm_start(&argc, &argv, &world) != RF_OK) {
        return 1;
    }
    const int n_failed = cmocka_run_group_tests(tests, set_up, tear_down);
    rf_comm_finish(world);
    return n_failed;
}
