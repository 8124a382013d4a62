/* Codes by token: decode, gradient of values, sums; and codes turned round, by latent. */
#include "coder_ops_impl.h"

#include <math.h>
#include <string.h>

/* Tokens walk their entries, latents rising, side by side in pieces: rows of W that several of them
 * use are then in cache. Blocks and pieces leave no trace in the result. */
enum { MAX_TOKEN_BLOCK = 64, PIECE = 32 };

static int64_t token_block(const rf_stream *s, int64_t n_rows)
{
    int64_t share = rf_ceil_div(n_rows, 4 * (int64_t)rf_cpu_n_threads(s));
    return rf_max_i64(1, rf_min_i64(share, MAX_TOKEN_BLOCK));
}

static int64_t most_entries(const rf_codes *codes, int64_t first, int64_t last)
{
    int64_t most = 0;
    for (int64_t b = first; b < last; b++) {
        most = rf_max_i64(most, codes->row_start[b + 1] - codes->row_start[b]);
    }
    return most;
}

/* Entries of row `b` that belong to the piece which begins at its entry `piece`: *first and how
 * many. */
static int64_t entries_of(const rf_codes *codes, int64_t b, int64_t piece, int64_t *first)
{
    *first = codes->row_start[b] + piece;
    return rf_max_i64(0, rf_min_i64(PIECE, codes->row_start[b + 1] - *first));
}

static void decode_block(const rf_decode_args *args, int64_t first, int64_t last)
{
    const rf_codes *codes = args->codes;
    int64_t d = args->out.shape[1], most = most_entries(codes, first, last);
    for (int64_t b = first; b < last; b++) {
        if (args->bias.data != NULL) {
            memcpy(rf_row_mut(&args->out, b), args->bias.data, sizeof(float) * (size_t)d);
        } else {
            memset(rf_row_mut(&args->out, b), 0, sizeof(float) * (size_t)d);
        }
    }
    for (int64_t piece = 0; piece < most; piece += PIECE) {
        for (int64_t b = first; b < last; b++) {
            int64_t e, n = entries_of(codes, b, piece, &e);
            rf_cpu_add_rows(rf_row_mut(&args->out, b), d, args->w_dec.data, args->w_dec.stride[0],
                            codes->latent + e, codes->value + e, n);
        }
    }
}

rf_status rf_cpu_decode(rf_stream *s, const rf_decode_args *args)
{
    int64_t n_rows = args->codes->n_rows, block = token_block(s, n_rows);
#pragma omp parallel for schedule(dynamic, 1) num_threads(rf_cpu_n_threads(s))
    for (int64_t b = 0; b < n_rows; b += block) {
        decode_block(args, b, rf_min_i64(b + block, n_rows));
    }
    return RF_OK;
}

rf_status rf_cpu_codes_row_sum(rf_stream *s, const rf_codes *codes, const rf_view *row_sum)
{
    float *out = row_sum->data;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t b = 0; b < codes->n_rows; b++) {
        float sum = 0.0f;
        for (int64_t e = codes->row_start[b]; e < codes->row_start[b + 1]; e++) {
            sum += codes->value[e];
        }
        out[b] = sum;
    }
    return RF_OK;
}

static void d_value_block(const rf_d_value_args *args, int64_t first, int64_t last)
{
    const rf_codes *codes = args->codes;
    int64_t most = most_entries(codes, first, last);
    for (int64_t piece = 0; piece < most; piece += PIECE) {
        for (int64_t b = first; b < last; b++) {
            int64_t e, n = entries_of(codes, b, piece, &e);
            rf_dot_rows(rf_row(&args->g, b), args->w_dec.data, args->w_dec.stride[0],
                        codes->latent + e, n, args->g.shape[1], codes->d_value + e);
        }
    }
    int64_t end = codes->row_start[last];
    for (int64_t e = codes->row_start[first]; args->penalty != 0.0f && e < end; e++) {
        codes->d_value[e] += args->penalty;
    }
}

rf_status rf_cpu_d_value(rf_stream *s, const rf_d_value_args *args)
{
    int64_t n_rows = args->codes->n_rows, block = token_block(s, n_rows);
#pragma omp parallel for schedule(dynamic, 1) num_threads(rf_cpu_n_threads(s))
    for (int64_t b = 0; b < n_rows; b += block) {
        d_value_block(args, b, rf_min_i64(b + block, n_rows));
    }
    return RF_OK;
}

/* Row `b` belongs to part floor(b * n_parts / n_rows); parts only divide the work. */
static int64_t part_begin(int64_t n_rows, int part, int n_parts)
{
    return n_rows * part / n_parts;
}

static void count_part(const rf_codes *codes, int64_t first, int64_t last, int32_t *count)
{
    for (int64_t e = codes->row_start[first]; e < codes->row_start[last]; e++) {
        count[codes->latent[e]]++;
    }
}

static void place_part(const rf_codes *codes, int64_t first, int64_t last, int32_t *next,
                       rf_latent_index *index)
{
    for (int64_t b = first; b < last; b++) {
        for (int64_t e = codes->row_start[b]; e < codes->row_start[b + 1]; e++) {
            int32_t at = next[codes->latent[e]]++;
            index->entry[at] = (int32_t)e;
            index->row[at] = (int32_t)b;
        }
    }
}

/* A counting sort: parts of the rows are counted apart, and each knows where in a latent's list its
 * entries begin, so that tokens rise whatever the number of parts. */
rf_status rf_cpu_index_by_latent(rf_stream *s, const rf_codes *codes, rf_latent_index *index)
{
    rf_status status = RF_OK;
    int n_parts = rf_cpu_n_threads(s);
    int64_t n_latents = index->n_latents, n_rows = codes->n_rows;
    size_t part_bytes = sizeof(int32_t) * (size_t)n_latents;
    void *scratch;

    RF_TRY(rf_cpu_scratch(s, part_bytes * (size_t)n_parts, &scratch));
    int32_t *next = scratch;
#pragma omp parallel for schedule(static, 1) num_threads(n_parts)
    for (int p = 0; p < n_parts; p++) {
        int32_t *mine = next + p * n_latents;
        memset(mine, 0, part_bytes);
        count_part(codes, part_begin(n_rows, p, n_parts), part_begin(n_rows, p + 1, n_parts), mine);
    }
    int32_t at = 0;
    for (int64_t i = 0; i < n_latents; i++) {
        index->latent_start[i] = at;
        for (int p = 0; p < n_parts; p++) {
            int32_t n = next[p * n_latents + i];
            next[p * n_latents + i] = at;
            at += n;
        }
    }
    index->latent_start[n_latents] = at;
#pragma omp parallel for schedule(static, 1) num_threads(n_parts)
    for (int p = 0; p < n_parts; p++) {
        place_part(codes, part_begin(n_rows, p, n_parts), part_begin(n_rows, p + 1, n_parts),
                   next + p * n_latents, index);
    }
fail:
    return status;
}
