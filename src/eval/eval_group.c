/* One micro-batch of pictures: a forward pass that is read, the coders on what was read, and
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

/* ---- the model --------------------------------------------------------------------------------
 */

/* Embedding and logits (either may be NULL) of a pass to the host. */
static rf_status take_output(rf_eval_engine *e, int64_t n, const rf_vit_output *out,
                             float *embedding, float *logits)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = rf_vit_get_config(e->job->vit);
    rf_stream *s = e->job->stream;

    if (embedding != NULL) {
        RF_BUG(out->embedding.data != NULL, "the model gave no embedding");
        RF_TRY(rf_copy_out(s, embedding, out->embedding.data,
                           (size_t)(n * c->d_out) * sizeof *embedding));
    }
    if (logits != NULL) {
        RF_BUG(out->logits.data != NULL, "the model gave no logits");
        RF_TRY(
            rf_copy_out(s, logits, out->logits.data, (size_t)(n * c->n_classes) * sizeof *logits));
    }
    RF_TRY(rf_stream_synchronise(s));
fail:
    return status;
}

static rf_view image_view(const rf_eval_engine *e, int64_t n)
{
    const int64_t shape[4] = {n, rf_vit_get_config(e->job->vit)->n_channels,
                              rf_transform_height(e->job->transform),
                              rf_transform_width(e->job->transform)};
    return rf_view_nd(e->images, RF_F32, 4, shape);
}

/* The untouched model on the images of this micro-batch. */
static rf_status run_clean(rf_eval_engine *e, int64_t n, float *embedding, float *logits)
{
    rf_status status = RF_OK;
    const rf_view images = image_view(e, n);
    rf_vit_output out = {0};

    RF_TRY(rf_vit_forward(e->job->vit, e->job->stream, &images, e->reads, e->n_reads,
                          embedding != NULL ? RF_VIT_RUN_ALL : RF_VIT_STOP_AFTER_HOOKS, &out));
    RF_TRY(take_output(e, n, &out, embedding, logits));
fail:
    return status;
}

/* The model with `hook` at `site`, from the site's block on. */
static rf_status run_from(rf_eval_engine *e, const rf_eval_site *site, int64_t n,
                          const rf_hook *hook, float *logits)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = rf_vit_get_config(e->job->vit);
    rf_vit_output out = {0};

    if (site->resid != NULL) {
        const rf_view resid =
            rf_view_nd(site->resid, RF_F32, 3, (int64_t[]){n, c->n_tokens, c->d_model});
        const rf_vit_run_args args = {
            .resid = resid, .first_layer = site->point.layer, .hooks = hook, .n_hooks = 1};
        RF_TRY(rf_vit_run(e->job->vit, e->job->stream, &args, &out));
    } else {
        const rf_view images = image_view(e, n);
        RF_TRY(rf_vit_forward(e->job->vit, e->job->stream, &images, hook, 1, RF_VIT_RUN_ALL, &out));
    }
    RF_TRY(take_output(e, n, &out, e->embedding, logits));
fail:
    return status;
}

static float *wanted_logits(const rf_eval_engine *e)
{
    return e->job->classes != NULL ? e->logits : NULL;
}

/* The model's class of picture `b` of the micro-batch, or -1. */
static int64_t model_class(const rf_eval_engine *e, const rf_image_batch *batch, int64_t b)
{
    const int64_t label = rf_picture_list_label(e->job->pictures, e->split, batch->pictures[b]);
    return e->job->classes != NULL && label >= 0 ? e->job->classes[label] : -1;
}

/* Cross entropies of e->logits, added over the readable pictures with a class; how many they are.
 */
static double sum_cross_entropy(const rf_eval_engine *e, const rf_image_batch *batch,
                                int64_t *n_labelled)
{
    const int64_t n_classes = rf_vit_get_config(e->job->vit)->n_classes;
    double sum = 0;

    *n_labelled = 0;
    for (int64_t b = 0; b < batch->n_images; b++) {
        const int64_t class = model_class(e, batch, b);
        if (batch->valid[b] != 0 && class >= 0) {
            sum += rf_eval_cross_entropy(e->logits + b * n_classes, n_classes, class);
            *n_labelled += 1;
        }
    }
    return sum;
}

/* Run the model with e->swap at positions `span` of `site`, and add the cosines to the untouched
 * embeddings (and the cross entropies, if `ce` is not NULL). */
static rf_status run_swapped(rf_eval_engine *e, const rf_eval_site *site, rf_token_span span,
                             const rf_image_batch *batch, int64_t first_local, double *cosine,
                             double *ce)
{
    rf_status status = RF_OK;
    const int64_t d_out = rf_vit_get_config(e->job->vit)->d_out;
    swap_hook swap = {.n_pictures = batch->n_images,
                      .n_positions = site->n_positions,
                      .width = site->width,
                      .span = span,
                      .rows = e->swap};
    const rf_hook hook = {.point = site->point, .fn = swap_tokens, .user = &swap};
    int64_t n_labelled = 0;

    RF_TRY(run_from(e, site, batch->n_images, &hook, ce != NULL ? wanted_logits(e) : NULL));
    for (int64_t b = 0; b < batch->n_images; b++) {
        if (batch->valid[b] != 0) {
            *cosine += rf_eval_cosine(e->embedding + b * d_out,
                                      e->clean + (first_local + b) * d_out, d_out);
        }
    }
    if (ce != NULL && e->job->classes != NULL) {
        *ce += sum_cross_entropy(e, batch, &n_labelled);
    }
fail:
    return status;
}

/* Fill e->swap with `row` (NULL: zeros) for every token of `span`. */
static rf_status fill_swap(rf_eval_engine *e, const float *row, int64_t width, int64_t n_rows)
{
    rf_status status = RF_OK;
    const size_t n_bytes = (size_t)(n_rows * width) * sizeof *e->swap;

    for (int64_t i = 0; row != NULL && i < n_rows; i++) {
        memcpy(e->swap_host + i * width, row, (size_t)width * sizeof *row);
    }
    if (row != NULL) {
        RF_TRY(rf_copy_in(e->job->stream, e->swap, e->swap_host, n_bytes));
    } else {
        RF_TRY(rf_fill_bytes(e->job->stream, e->swap, 0, n_bytes));
    }
    RF_TRY(rf_stream_synchronise(e->job->stream));
fail:
    return status;
}

/* ---- coders -----------------------------------------------------------------------------------
 */

/* The tokens that `part` sees, packed into e->rows, and which of them are of readable pictures. */
static rf_status pack_rows(rf_eval_engine *e, const rf_eval_part *part, const rf_image_batch *batch)
{
    rf_status status = RF_OK;
    const rf_eval_site *site = &e->sites[part->site];
    const rf_token_span span = part->layout.spans[RF_EVAL_ALL];
    const int64_t n = span.count * site->width;

    for (int64_t b = 0; b < batch->n_images; b++) {
        const float *from = site->act + (b * site->n_positions + span.first) * site->width;
        RF_TRY(rf_copy_within(e->job->stream, e->rows + b * n, from, (size_t)n * sizeof *from));
        memset(e->row_valid_host + b * span.count, batch->valid[b] != 0, (size_t)span.count);
    }
    RF_TRY(rf_copy_in(e->job->stream, e->row_valid, e->row_valid_host,
                      (size_t)(batch->n_images * span.count)));
fail:
    return status;
}

/* Entries of e->codes, whose first row is row `at` of the micro-batch: how many each row has, and
 * which latents fired. */
static rf_status count_codes(rf_eval_engine *e, const rf_eval_part *part, int64_t at)
{
    rf_status status = RF_OK;
    rf_stream *s = e->job->stream;
    const int64_t n = e->codes.n_rows;

    RF_TRY(
        rf_copy_out(s, e->row_start, e->codes.row_start, (size_t)(n + 1) * sizeof *e->row_start));
    RF_TRY(rf_stream_synchronise(s));
    RF_TRY(rf_copy_out(s, e->latent, e->codes.latent, (size_t)e->row_start[n] * sizeof *e->latent));
    RF_TRY(rf_stream_synchronise(s));
    for (int64_t i = 0; i < n; i++) {
        e->n_active[at + i] = e->row_start[i + 1] - e->row_start[i];
    }
    for (int64_t i = 0; i < e->row_start[n]; i++) {
        part->fired[e->latent[i]] += 1;
    }
fail:
    return status;
}

/* From e->rows [n_rows] to reconstructions in e->swap; e->rows is spent. */
static rf_status reconstruct(rf_eval_engine *e, const rf_eval_part *part, int64_t n_rows)
{
    rf_status status = RF_OK;
    const rf_coder *coder = part->coder->coder;
    const int64_t width = part->layout.width;
    const int64_t chunk = rf_coder_rows_for(coder, e->codes.capacity);

    for (int64_t at = 0; at < n_rows; at += chunk) {
        const int64_t n = rf_min_i64(chunk, n_rows - at);
        const rf_view x = rf_view_2d(e->rows + at * width, n, width);
        const rf_decode_args decode = {.codes = &e->codes,
                                       .w_dec = rf_coder_view(coder, RF_CODER_W_DEC),
                                       .bias = rf_coder_view(coder, RF_CODER_B_DEC),
                                       .out = rf_view_2d(e->swap + at * width, n, width)};
        RF_TRY(rf_coder_encode(coder, e->job->stream, &x, e->row_valid + at, &x, &e->codes));
        RF_TRY(rf_decode(e->job->stream, &decode));
        RF_TRY(count_codes(e, part, at));
    }
fail:
    return status;
}

static rf_eval_class class_of(const rf_token_layout *layout, int64_t position)
{
    for (int c = RF_EVAL_CLS; c < RF_EVAL_N_CLASSES; c++) {
        const rf_token_span span = layout->spans[c];
        if (position >= span.first && position < span.first + span.count) {
            return (rf_eval_class)c;
        }
    }
    return RF_EVAL_ALL;
}

/* From the rows on the host to the sums of `part`. */
static void add_tokens(rf_eval_engine *e, const rf_eval_part *part, const rf_image_batch *batch)
{
    const rf_eval_site *site = &e->sites[part->site];
    const rf_token_span span = part->layout.spans[RF_EVAL_ALL];
    rf_coder_sums *sums = (rf_coder_sums *)(e->group + part->sums_at);

    for (int64_t i = 0; i < batch->n_images * span.count; i++) {
        const int64_t b = i / span.count, position = span.first + i % span.count;
        const float *x = site->act_host + (b * site->n_positions + position) * site->width;
        if (batch->valid[b] != 0) {
            rf_coder_sums_add(sums, class_of(&part->layout, position), x,
                              e->swap_host + i * site->width, site->width, e->n_active[i]);
        }
    }
}

/* Reconstruct the tokens that `part` sees into e->swap, and add what they give. */
static rf_status measure_part(rf_eval_engine *e, const rf_eval_part *part,
                              const rf_image_batch *batch)
{
    rf_status status = RF_OK;
    const int64_t width = part->layout.width;
    const int64_t n_rows = batch->n_images * part->layout.spans[RF_EVAL_ALL].count;

    RF_TRY(pack_rows(e, part, batch));
    RF_TRY(reconstruct(e, part, n_rows));
    RF_TRY(rf_copy_out(e->job->stream, e->swap_host, e->swap,
                       (size_t)(n_rows * width) * sizeof *e->swap));
    RF_TRY(rf_stream_synchronise(e->job->stream));
    add_tokens(e, part, batch);
fail:
    return status;
}

/* ---- one micro-batch --------------------------------------------------------------------------
 */

static rf_status load_images(rf_eval_engine *e, const rf_image_batch *batch)
{
    rf_status status = RF_OK;
    const int64_t n_pixels = batch->n_channels * batch->height * batch->width;

    RF_BUG(batch->n_frames == 1 && batch->n_images <= e->batch,
           "a batch of %" PRId64 " pictures of %" PRId64 " frames", batch->n_images,
           batch->n_frames);
    RF_TRY(rf_copy_in(e->job->stream, e->images, batch->pixels,
                      (size_t)(batch->n_images * n_pixels) * sizeof *e->images));
fail:
    return status;
}

static rf_status read_clean(rf_eval_engine *e, const rf_image_batch *batch, int64_t first_local)
{
    rf_status status = RF_OK;
    const bool all = e->job->settings.substitution;
    float *clean = all ? e->clean + first_local * rf_vit_get_config(e->job->vit)->d_out : NULL;

    RF_TRY(run_clean(e, batch->n_images, clean, all ? wanted_logits(e) : NULL));
    for (int64_t i = 0; i < e->n_sites; i++) {
        const rf_eval_site *site = &e->sites[i];
        const int64_t n = batch->n_images * site->n_positions * site->width;
        RF_TRY(
            rf_copy_out(e->job->stream, site->act_host, site->act, (size_t)n * sizeof *site->act));
    }
    RF_TRY(rf_stream_synchronise(e->job->stream));
    for (int64_t i = 0; i < e->n_sites; i++) {
        const rf_eval_site *site = &e->sites[i];
        const rf_site_sums sums =
            rf_site_sums_bind(e->group + site->sums_at, site->n_positions, site->width);
        rf_site_sums_add(&sums, site->act_host, site->shift, batch->valid, batch->n_images);
    }
fail:
    return status;
}

static void count_pictures(rf_eval_engine *e, const rf_image_batch *batch)
{
    for (int64_t b = 0; b < batch->n_images; b++) {
        e->group[batch->valid[b] != 0 ? RF_SUM_PICTURES : RF_SUM_BAD] += 1;
    }
    if (e->job->classes != NULL && e->job->settings.substitution) {
        int64_t n_labelled = 0;
        e->group[RF_SUM_CE] += sum_cross_entropy(e, batch, &n_labelled);
        e->group[RF_SUM_LABELLED] += (double)n_labelled;
    }
}

rf_status rf_eval_group_measure(rf_eval_engine *e, const rf_image_batch *batch, int64_t first_local)
{
    rf_status status = RF_OK;
    const bool substitutes = e->job->settings.substitution;

    RF_TRY(load_images(e, batch));
    RF_TRY(read_clean(e, batch, first_local));
    count_pictures(e, batch);
    for (int64_t i = 0; i < e->job->n_coders; i++) {
        const rf_eval_part *part = &e->parts[i];
        double *sums = e->group + part->swap_at;
        RF_TRY_DOING(measure_part(e, part, batch), "coder %s", part->coder->name);
        if (substitutes) {
            RF_TRY(run_swapped(e, &e->sites[part->site], part->layout.spans[RF_EVAL_ALL], batch,
                               first_local, &sums[RF_SUM_SWAP_COSINE], &sums[RF_SUM_SWAP_CE]));
        }
    }
    for (int64_t i = 0; substitutes && i < e->n_ablations; i++) {
        const rf_eval_ablation *ablation = &e->ablations[i];
        const rf_eval_site *site = &e->sites[ablation->site];
        double *sums = e->group + ablation->zero_at;
        RF_TRY(fill_swap(e, NULL, site->width, batch->n_images * ablation->span.count));
        RF_TRY(run_swapped(e, site, ablation->span, batch, first_local, &sums[RF_SUM_SWAP_COSINE],
                           &sums[RF_SUM_SWAP_CE]));
    }
fail:
    return status;
}

rf_status rf_eval_group_ablate(rf_eval_engine *e, const rf_image_batch *batch, int64_t first_local)
{
    rf_status status = RF_OK;

    RF_TRY(load_images(e, batch));
    RF_TRY(run_clean(e, batch->n_images, NULL, NULL)); /* for what the swapped passes begin with */
    for (int64_t i = 0; i < e->n_ablations; i++) {
        const rf_eval_ablation *ablation = &e->ablations[i];
        const rf_eval_site *site = &e->sites[ablation->site];
        RF_TRY(fill_swap(e, ablation->mean, site->width, batch->n_images * ablation->span.count));
        RF_TRY(run_swapped(e, site, ablation->span, batch, first_local, &e->group[i], NULL));
    }
fail:
    return status;
}
