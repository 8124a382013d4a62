/* Coders of every kind at one or several hook points of one or two models, against plain loops: one
 * picture at a time, reconstructed by the coder itself. */
#include <math.h>

#include "eval/tiny.h"

enum { F = 40, K = 6, MAX_SITES = 3, MAX_WIDTH = 64 };

static tiny first, second; /* one set of pictures; the second model has weights of its own */
static rf_comm *world;
static rf_eval_model models[2];
static int64_t *classes[2];

static int set_up(void **state)
{
    (void)state;
    rf_str reason = {0};
    const char *how = NULL;
    tiny_write(&first, tiny_labels, true);
    tiny_open(&first, 0.3);
    second = first;
    TINY_OK(rf_path_join(second.model, first.folder, "second"));
    tiny_write_model(second.model, 1);
    TINY_OK(rf_vit_open(first.be, second.model, NULL, &second.vit));
    second.transform.mean[0] = 0.25F; /* sees the pictures in its own way */
    models[0] = tiny_model(&first);
    models[1] = tiny_model(&second);
    models[0].name = "one";
    models[1].name = "two";
    for (int m = 0; m < 2; m++) {
        TINY_OK(
            rf_eval_match_classes(models[m].vit, NULL, first.pictures, &classes[m], &how, &reason));
        models[m].classes = classes[m];
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    rf_free(classes[0]);
    rf_free(classes[1]);
    rf_vit_close(second.vit);
    tiny_close(&first);
    tiny_remove(&first);
    return 0;
}

/* ---- the models, a picture at a time ----------------------------------------------------------
 */

typedef struct tap {
    float *read;        /* [T, width]: filled, or NULL */
    const float *write; /* [n_rows, width] over rows `first` on, or NULL */
    int64_t first, n_rows, width;
} tap;

static rf_status tap_hook(void *user, const rf_hook_point *point, const rf_view *act, rf_stream *s)
{
    rf_status status = RF_OK;
    tap *w = user;
    (void)point;
    if (w->read != NULL) {
        RF_TRY(rf_copy_out(s, w->read, act->data, (size_t)rf_view_n_elems(act) * sizeof(float)));
    }
    if (w->write != NULL) {
        RF_TRY(rf_copy_in(s, (float *)act->data + w->first * w->width, w->write,
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
static bool run_picture(int m, rf_picture_split split, int64_t idx, const rf_hook *hooks,
                        int64_t n_hooks, answer *out)
{
    const int64_t shape[4] = {1, 3, TINY_SIDE, TINY_SIDE};
    char path[RF_PATH_LEN];
    rf_picture picture;
    float pixels[3 * TINY_SIDE * TINY_SIDE];
    rf_view images = rf_view_nd(pixels, RF_F32, 4, shape); /* the CPU's device memory is host's */
    rf_vit_output o;

    TINY_OK(rf_picture_list_path(first.pictures, split, idx, path));
    if (rf_picture_load(path, &picture) != RF_OK) {
        return false;
    }
    TINY_OK(rf_transform_apply(models[m].transform, &picture, pixels));
    rf_picture_fini(&picture);
    TINY_OK(
        rf_vit_forward(models[m].vit, first.stream, &images, hooks, n_hooks, RF_VIT_RUN_ALL, &o));
    memcpy(out->embedding, o.embedding.data, sizeof out->embedding);
    memcpy(out->logits, o.logits.data, sizeof out->logits);
    return true;
}

/* ---- what a coder makes of them ---------------------------------------------------------------
 */

typedef struct reference {
    int n, n_rows, first_row, width, out_width; /* pictures; of one */
    int64_t pictures[TINY_PICTURES];
    float y[TINY_PICTURES][TINY_T][MAX_WIDTH], y_hat[TINY_PICTURES][TINY_T][MAX_WIDTH];
    int64_t n_active[TINY_PICTURES][TINY_T];
    answer clean[2][TINY_PICTURES];
} reference;

/* Rows of the sites from `from` on, side by side. */
static int gather(const rf_eval_coder *coder, int from, int n, float read[][TINY_T * MAX_WIDTH],
                  int first_row, int n_rows, float *out)
{
    int width = 0, column = 0;
    for (int i = from; i < from + n; i++) {
        width += (int)coder->sites[i].point.width;
    }
    for (int i = from; i < from + n; i++) {
        const int w = (int)coder->sites[i].point.width;
        for (int r = 0; r < n_rows; r++) {
            memcpy(out + r * width + column, read[i] + (first_row + r) * w,
                   (size_t)w * sizeof *out);
        }
        column += w;
    }
    return width;
}

/* False when the picture cannot be read. */
static bool add_picture(const rf_eval_coder *coder, rf_picture_split split, int64_t idx,
                        reference *r)
{
    static float read[2 * MAX_SITES][TINY_T * MAX_WIDTH];
    float x[TINY_T * MAX_WIDTH], y[TINY_T * MAX_WIDTH], y_hat[TINY_T * MAX_WIDTH];
    const int n_sites = coder->n_in + coder->n_out, n_rows = r->n_rows;
    uint8_t class_of[TINY_T];

    for (int m = 0; m < 2; m++) {
        rf_hook hooks[2 * MAX_SITES];
        tap taps[2 * MAX_SITES];
        int n = 0;
        for (int i = 0; i < n_sites; i++) {
            if (coder->sites[i].model == m) {
                taps[n] = (tap){.read = read[i]};
                hooks[n] =
                    (rf_hook){.point = coder->sites[i].point, .fn = tap_hook, .user = &taps[n]};
                n++;
            }
        }
        if (!run_picture(m, split, idx, hooks, n, &r->clean[m][r->n])) {
            return false;
        }
    }
    r->width = gather(coder, 0, coder->n_in, read, r->first_row, n_rows, x);
    r->out_width = coder->n_out > 0
                       ? gather(coder, coder->n_in, coder->n_out, read, r->first_row, n_rows, y)
                       : gather(coder, 0, coder->n_in, read, r->first_row, n_rows, y);
    for (int t = 0; t < n_rows; t++) {
        class_of[t] = (uint8_t)(r->first_row + t == 0 ? RF_TOKENS_CLS : RF_TOKENS_PATCH);
    }
    const rf_view in = rf_view_2d(x, n_rows, r->width),
                  out = rf_view_2d(y_hat, n_rows, r->out_width);
    TINY_OK(rf_coder_reconstruct(coder->coder, first.stream, &in, NULL, class_of, &out,
                                 r->n_active[r->n]));
    TINY_OK(rf_stream_synchronise(first.stream));
    for (int t = 0; t < n_rows; t++) {
        const size_t n_bytes = (size_t)r->out_width * sizeof *y;
        memcpy(r->y[r->n][t], y + t * r->out_width, n_bytes);
        memcpy(r->y_hat[r->n][t], y_hat + t * r->out_width, n_bytes);
    }
    r->pictures[r->n++] = idx;
    return true;
}

static void build_reference(const rf_eval_coder *coder, rf_picture_split split, reference *r)
{
    memset(r, 0, sizeof *r);
    r->first_row = coder->tokens == RF_TOKENS_PATCH ? 1 : 0;
    r->n_rows = coder->tokens == RF_TOKENS_CLS ? 1 : TINY_T - r->first_row;
    for (int64_t i = 0; i < rf_picture_list_n(first.pictures, split); i++) {
        add_picture(coder, split, i, r);
    }
}

/* 2e-5 relative: models and coders run in fp32, with other row counts here than there. */
static void assert_near(const char *what, double got, double expected)
{
    if (!(fabs(got - expected) <= 2e-5 * fabs(expected))) {
        fail_msg("%s is %.9g, expected %.9g", what, got, expected);
    }
}

/* Rows from..end-1 of every picture, columns first..first+width-1. */
static rf_token_figures figures_of(const reference *r, int from, int end, int column, int width)
{
    rf_token_figures out = {.n_tokens = r->n * (end - from)};
    double error = 0, spread = 0, mean[MAX_WIDTH] = {0};

    for (int pass = 0; pass < 2; pass++) {
        for (int p = 0; p < r->n; p++) {
            for (int t = from; t < end; t++) {
                const float *y = r->y[p][t] + column, *y_hat = r->y_hat[p][t] + column;
                for (int j = 0; j < width; j++) {
                    if (pass == 0) {
                        mean[j] += (double)y[j] / (double)out.n_tokens;
                    } else {
                        error += pow((double)y[j] - (double)y_hat[j], 2);
                        spread += pow((double)y[j] - mean[j], 2);
                    }
                }
                if (pass == 1) {
                    out.l0 += (double)r->n_active[p][t] / (double)out.n_tokens;
                    out.cosine += rf_eval_cosine(y, y_hat, width) / (double)out.n_tokens;
                }
            }
        }
    }
    out.mse = error / (double)out.n_tokens / width;
    out.explained_variance = 1 - error / spread;
    return out;
}

static void check_figures(const rf_token_figures *got, rf_token_figures expected)
{
    assert_int_equal(got->n_tokens, expected.n_tokens);
    assert_true(fabs(got->l0 - expected.l0) <= 1e-12 * expected.l0); /* counts: not one is other */
    assert_near("mse", got->mse, expected.mse);
    assert_near("cosine", got->cosine, expected.cosine);
    assert_near("explained variance", got->explained_variance, expected.explained_variance);
}

/* ---- and the models with it in place ----------------------------------------------------------
 */

/* Mean cosine and cross entropy with `rows` of picture p at all target sites of `coder` at once. */
static void splice(const rf_eval_coder *coder, rf_picture_split split, const reference *r,
                   float (*rows)[TINY_T][MAX_WIDTH], double *cosine, double *ce)
{
    const int from = coder->n_out > 0 ? coder->n_in : 0;
    const int n = coder->n_out > 0 ? coder->n_out : coder->n_in;
    const int m = coder->sites[from].model;

    *cosine = *ce = 0;
    for (int p = 0; p < r->n; p++) {
        float slices[MAX_SITES][TINY_T * MAX_WIDTH];
        rf_hook hooks[MAX_SITES];
        tap taps[MAX_SITES];
        answer a;
        for (int l = 0, column = 0; l < n; l++) {
            const int w = (int)coder->sites[from + l].point.width;
            for (int t = 0; t < r->n_rows; t++) {
                memcpy(slices[l] + t * w, rows[p][t] + column, (size_t)w * sizeof(float));
            }
            taps[l] =
                (tap){.write = slices[l], .first = r->first_row, .n_rows = r->n_rows, .width = w};
            hooks[l] =
                (rf_hook){.point = coder->sites[from + l].point, .fn = tap_hook, .user = &taps[l]};
            column += w;
        }
        assert_true(run_picture(m, split, r->pictures[p], hooks, n, &a));
        const int64_t label = rf_picture_list_label(first.pictures, split, r->pictures[p]);
        *cosine += rf_eval_cosine(a.embedding, r->clean[m][p].embedding, TINY_D) / r->n;
        *ce += rf_eval_cross_entropy(a.logits, TINY_CLASSES, classes[m][label]) / r->n;
    }
}

static void check_substitution(const rf_eval_coder *coder, rf_picture_split split, reference *r,
                               const rf_substitution_figures *got)
{
    static float zeros[TINY_PICTURES][TINY_T][MAX_WIDTH], means[TINY_PICTURES][TINY_T][MAX_WIDTH];
    double cosine, ce, mean[MAX_WIDTH] = {0};

    for (int i = 0; i < r->n * r->n_rows * r->out_width; i++) {
        const int p = i / (r->n_rows * r->out_width), t = i / r->out_width % r->n_rows;
        mean[i % r->out_width] += (double)r->y[p][t][i % r->out_width] / (r->n * r->n_rows);
    }
    for (int i = 0; i < TINY_PICTURES * TINY_T * MAX_WIDTH; i++) {
        (&means[0][0][0])[i] = (float)mean[i % MAX_WIDTH];
    }
    assert_int_equal(got->n_pictures, r->n);
    splice(coder, split, r, r->y_hat, &cosine, &ce);
    assert_near("cosine spliced", got->cosine_spliced, cosine);
    assert_near("ce spliced", got->ce_spliced, ce);
    splice(coder, split, r, zeros, &cosine, &ce);
    assert_near("cosine zero", got->cosine_zero, cosine);
    assert_near("ce zero", got->ce_zero, ce);
    splice(coder, split, r, means, &cosine, &ce);
    assert_near("cosine mean", got->cosine_mean, cosine);
}

static void check_coder(const rf_eval_coder *coder, const rf_split_figures *split,
                        const rf_coder_figures *got)
{
    static reference r;
    int column = 0;

    build_reference(coder, split->split, &r);
    assert_int_equal(split->n_pictures, r.n);
    check_figures(&got->by_class[RF_EVAL_ALL], figures_of(&r, 0, r.n_rows, 0, r.out_width));
    if (coder->tokens == RF_TOKENS_ALL) {
        check_figures(&got->by_class[RF_EVAL_CLS], figures_of(&r, 0, 1, 0, r.out_width));
        check_figures(&got->by_class[RF_EVAL_PATCH], figures_of(&r, 1, TINY_T, 0, r.out_width));
    }
    for (int64_t l = 0; l < got->n_sites; l++) {
        const int width = (int)got->sites[l].width;
        check_figures(&got->sites[l].by_class[RF_EVAL_ALL],
                      figures_of(&r, 0, r.n_rows, column, width));
        column += width;
    }
    if (got->substitution.kind != RF_SUBSTITUTION_SEVERAL_MODELS) {
        check_substitution(coder, split->split, &r, &got->substitution);
    }
}

/* ---- coders -----------------------------------------------------------------------------------
 */

/* "hook" of the first model, or "two:hook". */
static void find_site(const char *text, rf_reader_site *out)
{
    out->model = strncmp(text, "two:", 4) == 0 ? 1 : 0;
    TINY_OK(rf_vit_hook_find(rf_vit_get_config(models[out->model].vit), text + 4 * out->model,
                             &out->point));
}

/* A random coder from sites `in` to `out` (lists that end in NULL; `out` NULL: autoencoder). */
static rf_eval_coder make_coder(const char *name, const char *const *in, const char *const *out,
                                rf_token_class tokens, const rf_coder_settings *settings,
                                uint64_t key)
{
    rf_eval_coder coder = {.name = name, .tokens = tokens};
    rf_coder_shape shape = {.n_in = 0};
    rf_reader_site *sites = rf_calloc(2 * MAX_SITES, sizeof *sites);
    assert_non_null(sites);

    for (int i = 0; in[i] != NULL; i++) {
        find_site(in[i], &sites[i]);
        shape.in[shape.n_in++] = sites[i].point.width;
    }
    for (int i = 0; out != NULL && out[i] != NULL; i++) {
        find_site(out[i], &sites[shape.n_in + i]);
        shape.out[shape.n_out++] = sites[shape.n_in + i].point.width;
    }
    coder.sites = sites;
    coder.n_in = shape.n_in;
    coder.n_out = shape.n_out;
    coder.coder = tiny_coder_of(&first, settings, &shape, key);
    return coder;
}

static rf_eval_job job_of(const rf_eval_coder *coders, int64_t n)
{
    return (rf_eval_job){.comm = world,
                         .models = models,
                         .n_models = 2,
                         .stream = first.stream,
                         .pictures = first.pictures,
                         .coders = coders,
                         .n_coders = n,
                         .settings = {.micro_batch = 5, .substitution = true},
                         .seed = 3,
                         .max_bad_share = 0.5};
}

/* Measure, check and free coders [n]; the figures of the last split stay in `out`. */
static void check_all(rf_eval_coder *coders, int64_t n, rf_split_figures *out)
{
    const rf_eval_job job = job_of(coders, n);
    TINY_OK(rf_eval_measure(&job, RF_SPLIT_TRAIN, out));
    for (int64_t i = 0; i < n; i++) {
        check_coder(&coders[i], out, &out->coders[i]);
    }
    rf_split_figures_fini(out);
    TINY_OK(rf_eval_measure(&job, RF_SPLIT_HELD_OUT, out));
    for (int64_t i = 0; i < n; i++) {
        check_coder(&coders[i], out, &out->coders[i]);
        tiny_eval_coder_fini(&coders[i]);
    }
}

/* ---- tests ------------------------------------------------------------------------------------
 */

static const char *const resid[] = {"blocks.0.hook_resid_post", NULL};
static const char *const ln2[] = {"blocks.0.ln2.hook_normalized", NULL};
static const char *const mlp_out[] = {"blocks.0.hook_mlp_out", NULL};
static const char *const mlp_post[] = {"blocks.1.mlp.hook_post", NULL};
static const char *const two_resids[] = {"blocks.0.hook_resid_post", "blocks.1.hook_resid_mid",
                                         NULL};
static const char *const two_models[] = {"blocks.0.hook_resid_post", "two:blocks.0.hook_resid_post",
                                         NULL};
static const char *const of_second[] = {"two:blocks.1.hook_resid_pre", NULL};

static void figures_are_those_of_the_coder_itself_for_every_architecture_and_norm(void **state)
{
    (void)state;
    rf_eval_coder coders[16];
    int n = 0;
    for (int a = 0; a < rf_architecture_count(); a++) {
        for (int i = 0; i < 2; i++) {
            rf_coder_settings settings = tiny_settings(rf_architecture_at(a)->name, F, K);
            settings.normalise = 1 + (2 * a + i) % 4; /* each of them several times */
            assert_true(n < 16);
            coders[n] =
                make_coder(rf_architecture_at(a)->name, resid, NULL,
                           i == 0 ? RF_TOKENS_ALL : RF_TOKENS_PATCH, &settings, (uint64_t)n * 77);
            n++;
        }
    }
    rf_split_figures split;
    check_all(coders, n, &split);
    for (int i = 0; i < n; i++) {
        assert_true(split.coders[i].by_class[RF_EVAL_ALL].l0 > 0.5);
        assert_true(split.coders[i].by_class[RF_EVAL_ALL].l0 < F - 1);
    }
    rf_split_figures_fini(&split);
}

/* Prisma hooks the input's site, and gives the coder no target. */
static void transcoder_is_spliced_at_its_target(void **state)
{
    (void)state;
    rf_split_figures split;
    rf_coder_settings settings = tiny_settings("topk", F, K), skip = settings;
    skip.skip = true;
    skip.normalise = RF_NORM_PER_DIMENSION;
    rf_eval_coder coders[] = {
        make_coder("mlp", ln2, mlp_out, RF_TOKENS_ALL, &settings, 1),
        make_coder("skip", ln2, mlp_out, RF_TOKENS_PATCH, &skip, 2),
        make_coder("wider", resid, mlp_post, RF_TOKENS_ALL, &settings, 3),
        make_coder("to two", resid, two_resids, RF_TOKENS_CLS, &settings, 4),
    };
    check_all(coders, 4, &split);
    assert_string_equal(split.coders[0].input, "one:blocks.0.ln2.hook_normalized");
    assert_string_equal(split.coders[0].target, "one:blocks.0.hook_mlp_out");
    assert_int_equal(split.coders[0].substitution.kind, RF_SUBSTITUTION_TARGET);
    assert_int_equal(split.coders[2].width, TINY_D);
    assert_int_equal(split.coders[2].out_width, TINY_MLP);
    assert_int_equal(split.coders[3].n_sites, 2);
    rf_split_figures_fini(&split);
}

static void a_crosscoder_is_measured_by_site_and_spliced_at_all_of_them_at_once(void **state)
{
    (void)state;
    rf_split_figures split;
    static const char *const reversed[] = {"blocks.1.hook_resid_mid", "blocks.0.hook_resid_post",
                                           NULL};
    static const char *const with_end[] = {"blocks.1.hook_mlp_out", "ln_final.hook_normalized",
                                           "blocks.0.mlp.hook_post", NULL};
    rf_coder_settings relu = tiny_settings("relu", F, 0), batch = tiny_settings("batch_topk", F, K);
    relu.decoder = RF_DECODER_FREE;
    batch.normalise = RF_NORM_AVERAGE;
    rf_eval_coder coders[] = {
        make_coder("a", two_resids, NULL, RF_TOKENS_ALL, &relu, 1),
        make_coder("b", reversed, NULL, RF_TOKENS_ALL, &batch, 2),
        make_coder("c", with_end, NULL, RF_TOKENS_PATCH, &relu, 3),
        make_coder("d", two_resids, NULL, RF_TOKENS_ALL, &batch, 4),
    };
    check_all(coders, 4, &split);
    assert_string_equal(split.coders[0].sites[1].site, "one:blocks.1.hook_resid_mid");
    assert_int_equal(split.coders[2].n_sites, 3);
    assert_int_equal(split.coders[2].sites[2].width, TINY_MLP);
    assert_int_equal(split.coders[0].substitution.kind, RF_SUBSTITUTION_ALL_SITES);
    assert_true(split.coders[0].substitution.cosine_zero ==
                split.coders[3].substitution.cosine_zero); /* measured once */
    rf_split_figures_fini(&split);
}

static void coders_of_two_models_have_figures_but_no_substitution(void **state)
{
    (void)state;
    rf_split_figures split;
    rf_coder_settings settings = tiny_settings("topk", F, K);
    rf_eval_coder coders[] = {
        make_coder("diff", two_models, NULL, RF_TOKENS_ALL, &settings, 1),
        make_coder("second", of_second, NULL, RF_TOKENS_ALL, &settings, 2),
        make_coder("across", resid, of_second, RF_TOKENS_PATCH, &settings, 3),
    };
    check_all(coders, 3, &split);
    assert_int_equal(split.coders[0].substitution.kind, RF_SUBSTITUTION_SEVERAL_MODELS);
    assert_int_equal(split.coders[0].substitution.n_pictures, 0);
    assert_true(isnan(split.coders[0].substitution.cosine_mean));
    assert_string_equal(split.coders[0].input,
                        "one:blocks.0.hook_resid_post, two:blocks.0.hook_resid_post");
    assert_int_equal(split.coders[1].substitution.kind, RF_SUBSTITUTION_INPUT);
    assert_int_equal(split.coders[2].substitution.kind, RF_SUBSTITUTION_SEVERAL_MODELS);
    rf_split_figures_fini(&split);
}

static void k_is_that_of_the_class_of_each_token(void **state)
{
    (void)state;
    rf_split_figures split;
    rf_coder_settings settings = tiny_settings("topk", F, 0);
    settings.k = (rf_k_by_class){.of = {9, 0, 3}};
    rf_eval_coder coder = make_coder("k", resid, NULL, RF_TOKENS_ALL, &settings, 1);
    const rf_view b_enc = rf_coder_view(coder.coder, RF_CODER_B_ENC);
    for (int i = 0; i < F; i++) {
        ((float *)b_enc.data)[i] += 4; /* more are positive than k */
    }
    check_all(&coder, 1, &split);
    assert_true(split.coders[0].by_class[RF_EVAL_CLS].l0 == 9);
    assert_true(split.coders[0].by_class[RF_EVAL_PATCH].l0 == 3);
    assert_true(split.coders[0].by_class[RF_EVAL_ALL].l0 == (9.0 + 3 * (TINY_T - 1)) / TINY_T);
    rf_split_figures_fini(&split);
}

/* Prisma's CLS L0 of a coder of patches is that of the first patch. */
static void a_coder_of_patches_has_no_figures_of_cls(void **state)
{
    (void)state;
    rf_split_figures split;
    rf_coder_settings settings = tiny_settings("relu", F, 0);
    rf_eval_coder coder = make_coder("p", resid, NULL, RF_TOKENS_PATCH, &settings, 1);
    check_all(&coder, 1, &split);
    assert_int_equal(split.coders[0].by_class[RF_EVAL_CLS].n_tokens, 0);
    assert_true(isnan(split.coders[0].by_class[RF_EVAL_CLS].l0));
    assert_true(split.coders[0].by_class[RF_EVAL_ALL].l0 ==
                split.coders[0].by_class[RF_EVAL_PATCH].l0);
    rf_split_figures_fini(&split);
}

/* Prisma replaces every token, also for coders of CLS or patches alone. At the last
 * residual stream the embedding is of CLS alone, so a coder of patches must change nothing. */
static void tokens_that_a_coder_was_not_trained_on_stay_as_they_are(void **state)
{
    (void)state;
    static const char *const last[] = {"blocks.1.hook_resid_post", NULL};
    rf_split_figures split;
    rf_coder_settings settings = tiny_settings("topk", F, K);
    rf_eval_coder coders[] = {make_coder("p", last, NULL, RF_TOKENS_PATCH, &settings, 1),
                              make_coder("c", last, NULL, RF_TOKENS_CLS, &settings, 1)};
    check_all(coders, 2, &split);
    /* 1e-12: a cosine of a vector with itself, in double */
    assert_true(fabs(split.coders[0].substitution.cosine_spliced - 1) <= 1e-12);
    assert_true(fabs(split.coders[0].substitution.cosine_zero - 1) <= 1e-12);
    assert_true(split.coders[0].substitution.ce_spliced == split.coders[0].substitution.ce);
    assert_true(split.coders[1].substitution.cosine_spliced < 0.999);
    rf_split_figures_fini(&split);
}

static void sites_without_equally_many_tokens_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const unequal[] = {"hook_embed", "blocks.0.hook_resid_post", NULL};
    rf_split_figures split;
    rf_coder_settings settings = tiny_settings("topk", F, K);
    rf_eval_coder coder = make_coder("u", unequal, NULL, RF_TOKENS_ALL, &settings, 1);
    const rf_eval_job job = job_of(&coder, 1);
    assert_int_equal(rf_eval_measure(&job, RF_SPLIT_TRAIN, &split), RF_ERR_SETTING);
    assert_non_null(strstr(rf_error_text(), "coder u"));
    assert_non_null(strstr(rf_error_text(), "hook_embed has 4 tokens"));
    assert_non_null(strstr(rf_error_text(), "blocks.0.hook_resid_post has 5"));
    tiny_eval_coder_fini(&coder);
}

static void patches_of_points_with_and_without_cls_belong_together(void **state)
{
    (void)state;
    static const char *const both[] = {"hook_embed", "blocks.0.hook_resid_post", NULL};
    rf_split_figures split;
    rf_coder_settings settings = tiny_settings("topk", F, K);
    rf_eval_coder coder = make_coder("e", both, NULL, RF_TOKENS_PATCH, &settings, 1);
    const rf_eval_job job = job_of(&coder, 1);
    TINY_OK(rf_eval_measure(&job, RF_SPLIT_TRAIN, &split));
    assert_int_equal(split.coders[0].by_class[RF_EVAL_PATCH].n_tokens, split.n_pictures * 4);
    assert_true(!isnan(split.coders[0].sites[0].by_class[RF_EVAL_ALL].explained_variance));
    assert_true(split.coders[0].substitution.n_pictures == split.n_pictures);
    rf_split_figures_fini(&split);
    tiny_eval_coder_fini(&coder);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures_are_those_of_the_coder_itself_for_every_architecture_and_norm),
        cmocka_unit_test(transcoder_is_spliced_at_its_target),
        cmocka_unit_test(a_crosscoder_is_measured_by_site_and_spliced_at_all_of_them_at_once),
        cmocka_unit_test(coders_of_two_models_have_figures_but_no_substitution),
        cmocka_unit_test(k_is_that_of_the_class_of_each_token),
        cmocka_unit_test(a_coder_of_patches_has_no_figures_of_cls),
        cmocka_unit_test(tokens_that_a_coder_was_not_trained_on_stay_as_they_are),
        cmocka_unit_test(sites_without_equally_many_tokens_are_refused_by_name),
        cmocka_unit_test(patches_of_points_with_and_without_cls_belong_together),
    };
    if (rf_comm_start(&argc, &argv, &world) != RF_OK) {
        return 1;
    }
    const int n_failed = cmocka_run_group_tests(tests, set_up, tear_down);
    rf_comm_finish(world);
    return n_failed;
}
