/* The tokens that one coder sees of a micro-batch: gathered, coded, reconstructed, and counted. */
#include "eval_impl.h"

#include <string.h>

/* The tokens of `places` of this micro-batch, sites side by side, to `out` [rows, places->width].
 */
static void gather_rows(const rf_eval_engine *e, const rf_eval_places *places, float *out)
{
    int64_t column = 0;
    for (int l = 0; l < places->n; l++) {
        const rf_eval_site *site = &e->sites[places->at[l].site];
        const int64_t first = places->at[l].layout.spans[RF_EVAL_ALL].first;
        for (int64_t i = 0; i < e->n_images * places->n_rows; i++) {
            const int64_t b = i / places->n_rows, position = first + i % places->n_rows;
            memcpy(out + i * places->width + column,
                   site->act_host + (b * site->n_positions + position) * site->width,
                   (size_t)site->width * sizeof *out);
        }
        column += site->width;
    }
}

/* What `part` sees, on the device; and its target on the host, in e->y. */
static rf_status load_rows(rf_eval_engine *e, const rf_eval_part *part)
{
    rf_status status = RF_OK;
    rf_stream *s = e->job->stream;
    const int64_t n_rows = part->in.n_rows, n = e->n_images * n_rows;

    gather_rows(e, &part->in, e->x);
    gather_rows(e, &part->out, e->y);
    for (int64_t b = 0; b < e->n_images; b++) {
        memset(e->row_valid_host + b * n_rows, e->valid[b], (size_t)n_rows);
        memcpy(e->row_class_host + b * n_rows, part->row_class, (size_t)n_rows);
    }
    RF_TRY(rf_copy_in(s, e->rows, e->x, (size_t)(n * part->in.width) * sizeof *e->x));
    RF_TRY(rf_copy_in(s, e->row_valid, e->row_valid_host, (size_t)n));
    RF_TRY(rf_copy_in(s, e->row_class, e->row_class_host, (size_t)n));
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

/* From e->rows [n_rows, D] to reconstructions [n_rows, E] in e->swap. */
static rf_status reconstruct(rf_eval_engine *e, const rf_eval_part *part, int64_t n_rows)
{
    rf_status status = RF_OK;
    const rf_coder *coder = part->coder->coder;
    const int64_t d = part->in.width, n_in = part->in.n;
    const int64_t chunk = rf_coder_rows_for(coder, e->codes.capacity);

    for (int64_t at = 0; at < n_rows; at += chunk) {
        const int64_t n = rf_min_i64(chunk, n_rows - at);
        const rf_view y_hat = rf_view_2d(e->swap + at * part->out.width, n, part->out.width);
        const rf_coder_rows rows = {.x = rf_view_2d(e->rows + at * d, n, d),
                                    .seen = rf_view_2d(e->seen, n, d),
                                    .row_shift = rf_view_2d(e->row_shift, n, n_in),
                                    .row_scale = rf_view_2d(e->row_scale, n, n_in),
                                    .row_valid = e->row_valid + at,
                                    .row_class = e->row_class + at};
        RF_TRY(rf_coder_see(coder, e->job->stream, &rows));
        RF_TRY(rf_coder_encode(coder, e->job->stream, &rows, &e->codes));
        RF_TRY(rf_coder_decode(coder, e->job->stream, &rows, &e->codes, &y_hat));
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

/* Row `row` of the micro-batch, of class `which`, to the sums of `part`. */
static void add_token(rf_eval_engine *e, const rf_eval_part *part, rf_eval_class which, int64_t row)
{
    const rf_eval_places *out = &part->out;
    const float *y = e->y + row * out->width, *y_hat = e->y_hat + row * out->width;
    rf_coder_sums *by_site = (rf_coder_sums *)(e->group + part->site_sums_at);
    int64_t column = 0;

    rf_coder_sums_add((rf_coder_sums *)(e->group + part->sums_at), which, y, y_hat, out->width,
                      e->n_active[row]);
    for (int l = 0; out->n > 1 && l < out->n; l++) {
        const int64_t width = out->at[l].layout.width;
        rf_coder_sums_add(&by_site[l], which, y + column, y_hat + column, width, e->n_active[row]);
        column += width;
    }
}

static void add_tokens(rf_eval_engine *e, const rf_eval_part *part)
{
    const rf_token_layout *layout = &part->out.at[0].layout;
    for (int64_t i = 0; i < e->n_images * part->in.n_rows; i++) {
        const int64_t row = i % part->in.n_rows;
        if (e->valid[i / part->in.n_rows] != 0) {
            add_token(e, part, class_of(layout, layout->spans[RF_EVAL_ALL].first + row), i);
        }
    }
}

/* e->swap from rows of all sites side by side to site by site. */
static rf_status split_sites(rf_eval_engine *e, const rf_eval_places *out, int64_t n_rows)
{
    rf_status status = RF_OK;
    int64_t column = 0;

    for (int l = 0; l < out->n; l++) {
        const int64_t width = out->at[l].layout.width;
        for (int64_t i = 0; i < n_rows; i++) {
            memcpy(e->x + column * n_rows + i * width, e->y_hat + i * out->width + column,
                   (size_t)width * sizeof *e->x);
        }
        column += width;
    }
    /* e->x is not pinned: it may be written again at once */
    RF_TRY(rf_copy_in(e->job->stream, e->swap, e->x, (size_t)(n_rows * out->width) * sizeof *e->x));
fail:
    return status;
}

rf_status rf_eval_part_measure(rf_eval_engine *e, const rf_eval_part *part)
{
    rf_status status = RF_OK;
    const int64_t n_rows = e->n_images * part->in.n_rows;

    RF_TRY(load_rows(e, part));
    RF_TRY(reconstruct(e, part, n_rows));
    RF_TRY(rf_copy_out(e->job->stream, e->y_hat, e->swap,
                       (size_t)(n_rows * part->out.width) * sizeof *e->swap));
    RF_TRY(rf_stream_synchronise(e->job->stream));
    add_tokens(e, part);
    if (part->out.n > 1) {
        RF_TRY(split_sites(e, &part->out, n_rows));
    }
fail:
    return status;
}
