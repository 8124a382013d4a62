/* One micro-batch of pictures: forward passes that are read, the coders on what was read, and
 * forward passes with something else in its place. */
#include "eval_impl.h"

#include <string.h>

/* ---- hooks ------------------------------------------------------------------------------------
 */

/* What takes the place of positions of a hook point. */
typedef struct swap_hook {
    int64_t n_pictures, n_positions, width;
    rf_token_span span;
    const float *rows; /* device [n_pictures, span.count, width] */
} swap_hook;

static rf_status swap_tokens(void *user, const rf_hook_point *point, const rf_view *act,
                             rf_stream *s)
{
    rf_status status = RF_OK;
    const swap_hook *swap = user;
    const int64_t n = swap->span.count * swap->width;

    RF_BUG(rf_view_n_elems(act) == swap->n_pictures * swap->n_positions * swap->width,
           "%s holds %" PRId64 " values, expected %" PRId64 " pictures of %" PRId64 " x %" PRId64,
           point->name, rf_view_n_elems(act), swap->n_pictures, swap->n_positions, swap->width);
    for (int64_t b = 0; b < swap->n_pictures; b++) {
        float *to = (float *)act->data + (b * swap->n_positions + swap->span.first) * swap->width;
        RF_TRY(rf_copy_within(s, to, swap->rows + b * n, (size_t)n * sizeof *to));
    }
fail:
    return status;
}

/* Hooks that put e->swap at all `places` at once. */
static void make_hooks(const rf_eval_engine *e, const rf_eval_places *places, swap_hook *swaps,
                       rf_hook *hooks)
{
    const float *rows = e->swap;
    for (int l = 0; l < places->n; l++) {
        const rf_eval_site *site = &e->sites[places->at[l].site];
        swaps[l] = (swap_hook){.n_pictures = e->n_images,
                               .n_positions = site->n_positions,
                               .width = site->width,
                               .span = places->at[l].layout.spans[RF_EVAL_ALL],
                               .rows = rows};
        hooks[l] = (rf_hook){.point = site->point, .fn = swap_tokens, .user = &swaps[l]};
        rows += e->n_images * places->n_rows * site->width;
    }
}

/* ---- the models -------------------------------------------------------------------------------
 */

/* Embedding and logits (either may be NULL) of a pass to the host. */
static rf_status take_output(rf_eval_engine *e, const rf_eval_runner *runner,
                             const rf_vit_output *out, float *embedding, float *logits)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = rf_vit_get_config(runner->model->vit);
    const int64_t n = e->n_images;
    rf_stream *s = e->job->stream;

    if (embedding != NULL) {
        RF_BUG(out->embedding.data != NULL, "the model gave no embedding");
        RF_TRY(rf_copy_out(s, embedding, out->embedding.data,
                           (size_t)(n * c->d_out) * sizeof *embedding));
    }
    if (logits != NULL && runner->model->classifier == NULL) {
        RF_BUG(out->logits.data != NULL, "the model gave no logits");
        RF_TRY(
            rf_copy_out(s, logits, out->logits.data, (size_t)(n * c->n_classes) * sizeof *logits));
    }
    RF_TRY(rf_stream_synchronise(s));
    if (logits != NULL && runner->model->classifier != NULL) {
        const rf_eval_classifier *classifier = runner->model->classifier;
        RF_BUG(embedding != NULL, "logits of a classifier without embeddings");
        RF_TRY(rf_zero_shot_logits(&classifier->classes, embedding, n, (float)classifier->scale,
                                   logits));
    }
fail:
    return status;
}

static float *wanted_logits(const rf_eval_engine *e, const rf_eval_runner *runner)
{
    return runner->model->classes != NULL ? e->logits : NULL;
}

/* The untouched model on the images of this micro-batch. */
static rf_status run_clean(rf_eval_engine *e, const rf_eval_runner *runner, float *embedding)
{
    rf_status status = RF_OK;
    const rf_view images = e->feeds[runner->feed].images;
    rf_vit_output out = {0};

    RF_TRY(rf_vit_forward(runner->model->vit, e->job->stream, &images, runner->reads,
                          runner->n_reads,
                          embedding != NULL ? RF_VIT_RUN_ALL : RF_VIT_STOP_AFTER_HOOKS, &out));
    RF_TRY(take_output(e, runner, &out, embedding,
                       embedding != NULL ? wanted_logits(e, runner) : NULL));
fail:
    return status;
}

/* The first block that any of `places` lies in; NULL where one lies in none. */
static const rf_eval_site *first_block(const rf_eval_engine *e, const rf_eval_places *places)
{
    const rf_eval_site *first = &e->sites[places->at[0].site];
    for (int l = 0; l < places->n; l++) {
        const rf_eval_site *site = &e->sites[places->at[l].site];
        if (site->resid == NULL) {
            return NULL;
        }
        first = site->point.layer < first->point.layer ? site : first;
    }
    return first;
}

/* The model with e->swap at `places`, from the first block on that it changes. */
static rf_status run_from(rf_eval_engine *e, const rf_eval_runner *runner,
                          const rf_eval_places *places, float *logits)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = rf_vit_get_config(runner->model->vit);
    const rf_eval_site *first = first_block(e, places);
    swap_hook swaps[RF_MAX_SITES];
    rf_hook hooks[RF_MAX_SITES];
    rf_vit_output out = {0};

    make_hooks(e, places, swaps, hooks);
    if (first != NULL) {
        const rf_view resid =
            rf_view_nd(first->resid, RF_F32, 3, (int64_t[]){e->n_images, c->n_tokens, c->d_model});
        const rf_vit_run_args args = {.resid = resid,
                                      .first_layer = first->point.layer,
                                      .hooks = hooks,
                                      .n_hooks = places->n};
        RF_TRY(rf_vit_run(runner->model->vit, e->job->stream, &args, &out));
    } else {
        const rf_view images = e->feeds[runner->feed].images;
        RF_TRY(rf_vit_forward(runner->model->vit, e->job->stream, &images, hooks, places->n,
                              RF_VIT_RUN_ALL, &out));
    }
    RF_TRY(take_output(e, runner, &out, e->embedding, logits));
fail:
    return status;
}

/* The model's class of picture `b` of the micro-batch, or -1. */
static int64_t model_class(const rf_eval_engine *e, const rf_eval_runner *runner, int64_t b)
{
    const int64_t *classes = runner->model->classes;
    const int64_t picture = e->feeds[runner->feed].batch->pictures[b];
    const int64_t label = rf_picture_list_label(e->job->pictures, e->split, picture);
    return classes != NULL && label >= 0 ? classes[label] : -1;
}

/* No other logit is larger, nor as large and before it. */
static bool is_largest(const float *logits, int64_t n, int64_t class)
{
    for (int64_t c = 0; c < n; c++) {
        if (logits[c] > logits[class] || (c < class && logits[c] >= logits[class])) {
            return false;
        }
    }
    return true;
}

/* Cross entropies of e->logits, and how many of them are right, added over the readable pictures
 * with a class; returns how many those are. */
static int64_t sum_logits(const rf_eval_engine *e, const rf_eval_runner *runner, double *ce,
                          double *n_right)
{
    const int64_t n_classes = rf_eval_n_classes(runner->model);
    int64_t n_labelled = 0;
    double sum = 0;

    for (int64_t b = 0; b < e->n_images; b++) {
        const float *logits = e->logits + b * n_classes;
        const int64_t class = model_class(e, runner, b);
        if (e->valid[b] != 0 && class >= 0) {
            sum += rf_eval_cross_entropy(logits, n_classes, class);
            *n_right += is_largest(logits, n_classes, class) ? 1 : 0;
            n_labelled++;
        }
    }
    *ce += sum;
    return n_labelled;
}

/* Run the model with e->swap at `places`, and add the cosines to the untouched embeddings (and what
 * the logits say, if `ce` is not NULL). */
static rf_status run_swapped(rf_eval_engine *e, const rf_eval_places *places, int64_t first_local,
                             double *cosine, double *ce, double *n_right)
{
    rf_status status = RF_OK;
    const rf_eval_runner *runner = &e->runners[e->sites[places->at[0].site].model];
    const int64_t d_out = rf_vit_get_config(runner->model->vit)->d_out;

    RF_TRY(run_from(e, runner, places, ce != NULL ? wanted_logits(e, runner) : NULL));
    for (int64_t b = 0; b < e->n_images; b++) {
        if (e->valid[b] != 0) {
            *cosine += rf_eval_cosine(e->embedding + b * d_out,
                                      runner->clean + (first_local + b) * d_out, d_out);
        }
    }
    if (ce != NULL && runner->model->classes != NULL) {
        sum_logits(e, runner, ce, n_right);
    }
fail:
    return status;
}

/* ---- one micro-batch --------------------------------------------------------------------------
 */

static rf_status merge_valid(rf_eval_engine *e)
{
    rf_status status = RF_OK;

    e->n_images = e->feeds[0].batch->n_images;
    memset(e->valid, 1, (size_t)e->batch);
    for (int f = 0; f < e->n_feeds; f++) {
        const rf_image_batch *batch = e->feeds[f].batch;
        RF_BUG(batch->n_images == e->n_images && e->n_images <= e->batch,
               "a batch of %" PRId64 " pictures", batch->n_images);
        for (int64_t b = 0; b < e->n_images; b++) {
            e->valid[b] = e->valid[b] != 0 && batch->valid[b] != 0;
        }
    }
fail:
    return status;
}

/* Run what is read, and add what belongs to pictures. */
static rf_status read_model(rf_eval_engine *e, const rf_eval_runner *runner, int64_t first_local)
{
    rf_status status = RF_OK;
    const bool all = e->job->settings.substitution;
    float *clean =
        all ? runner->clean + first_local * rf_vit_get_config(runner->model->vit)->d_out : NULL;
    double *sums = e->group + runner->sums_at;

    RF_TRY(run_clean(e, runner, clean));
    if (all && runner->model->classes != NULL) {
        sums[RF_SUM_LABELLED] +=
            (double)sum_logits(e, runner, &sums[RF_SUM_CE], &sums[RF_SUM_RIGHT]);
    }
fail:
    return status;
}

static rf_status read_sites(rf_eval_engine *e)
{
    rf_status status = RF_OK;

    for (int64_t i = 0; i < e->n_sites; i++) {
        const rf_eval_site *site = &e->sites[i];
        const int64_t n = e->n_images * site->n_positions * site->width;
        RF_TRY(
            rf_copy_out(e->job->stream, site->act_host, site->act, (size_t)n * sizeof *site->act));
    }
    RF_TRY(rf_stream_synchronise(e->job->stream));
    for (int64_t i = 0; i < e->n_sites; i++) {
        const rf_eval_site *site = &e->sites[i];
        if (site->is_target) {
            const rf_site_sums sums = rf_eval_site_sums(site, e->group);
            rf_site_sums_add(&sums, site->act_host, site->shift, e->valid, e->n_images);
        }
    }
    for (int64_t b = 0; b < e->n_images; b++) {
        e->group[e->valid[b] != 0 ? RF_SUM_PICTURES : RF_SUM_BAD] += 1;
    }
fail:
    return status;
}

/* e->swap and what comes out under it, to the sums of a way to replace tokens. */
static rf_status measure_swap(rf_eval_engine *e, const rf_eval_places *places, int64_t first_local,
                              double *sums)
{
    return run_swapped(e, places, first_local, &sums[RF_SUM_SWAP_COSINE], &sums[RF_SUM_SWAP_CE],
                       &sums[RF_SUM_SWAP_RIGHT]);
}

/* Hundreds of coders take minutes for one micro-batch. */
static void show_progress(const rf_eval_engine *e, const char *what, int64_t idx, int64_t n)
{
    char detail[64];
    if (n > 1 &&
        rf_format(detail, sizeof detail, "%s %" PRId64 "/%" PRId64, what, idx + 1, n) == RF_OK) {
        rf_progress(e->label, e->n_done, e->n_chosen, detail);
    }
}

rf_status rf_eval_group_measure(rf_eval_engine *e, int64_t first_local)
{
    rf_status status = RF_OK;

    RF_TRY(merge_valid(e));
    for (int m = 0; m < e->job->n_models; m++) {
        if (e->runners[m].n_reads > 0) {
            RF_TRY(read_model(e, &e->runners[m], first_local));
        }
    }
    RF_TRY(read_sites(e));
    for (int64_t i = 0; i < e->job->n_coders; i++) {
        const rf_eval_part *part = &e->parts[i];
        show_progress(e, "coder", i, e->job->n_coders);
        RF_TRY_DOING(rf_eval_part_measure(e, part), "coder %s", part->coder->name);
        if (part->ablation >= 0) {
            RF_TRY(measure_swap(e, &part->out, first_local, e->group + part->swap_at));
        }
    }
    for (int64_t i = 0; i < e->n_ablations; i++) {
        const rf_eval_places *places = e->ablations[i].places;
        const size_t n = (size_t)(e->n_images * places->n_rows * places->width);
        show_progress(e, "zeros in place", i, e->n_ablations);
        RF_TRY(rf_fill_bytes(e->job->stream, e->swap, 0, n * sizeof *e->swap));
        RF_TRY(measure_swap(e, places, first_local, e->group + e->ablations[i].zero_at));
    }
fail:
    return status;
}

/* Fill e->swap, site by site, with the means of `ablation` for every token. */
static rf_status put_means(rf_eval_engine *e, const rf_eval_ablation *ablation)
{
    rf_status status = RF_OK;
    const rf_eval_places *places = ablation->places;
    const int64_t n_rows = e->n_images * places->n_rows;
    float *to = e->x;
    int64_t column = 0;

    for (int l = 0; l < places->n; l++) {
        const int64_t width = places->at[l].layout.width;
        for (int64_t i = 0; i < n_rows; i++, to += width) {
            memcpy(to, ablation->mean + column, (size_t)width * sizeof *to);
        }
        column += width;
    }
    /* e->x is not pinned: it may be written again at once */
    RF_TRY(
        rf_copy_in(e->job->stream, e->swap, e->x, (size_t)(n_rows * places->width) * sizeof *to));
fail:
    return status;
}

rf_status rf_eval_group_ablate(rf_eval_engine *e, int64_t first_local)
{
    rf_status status = RF_OK;

    RF_TRY(merge_valid(e));
    for (int m = 0; m < e->job->n_models; m++) {
        if (e->runners[m].n_reads > 0) { /* for what the swapped passes begin with */
            RF_TRY(run_clean(e, &e->runners[m], NULL));
        }
    }
    for (int64_t i = 0; i < e->n_ablations; i++) {
        show_progress(e, "place", i, e->n_ablations);
        RF_TRY(put_means(e, &e->ablations[i]));
        RF_TRY(run_swapped(e, e->ablations[i].places, first_local, &e->group[i], NULL, NULL));
    }
fail:
    return status;
}
