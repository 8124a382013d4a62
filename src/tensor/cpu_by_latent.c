/* Gradients of one latent at a time, from the tokens that used it, in token order: no atomics, and
 * no trace of how the work was divided. */
#include "coder_ops_impl.h"

#include <string.h>

enum {
    GROUP = 256,            /* entries whose weights are gathered at once */
    MAX_LATENT_BLOCK = 512, /* latents that a thread takes */
    MANY_ENTRIES = 32,      /* latents with so many walk the tokens side by side, */
    SIDE_BY_SIDE = 64,      /* up to so many latents, */
    TOKEN_RANGE = 128,      /* so many tokens at a time, whose rows are then in cache */
};

/* Entries first .. last - 1 of the index of list `l`, all of latent `i`. */
static void add_entries(const rf_by_latent_args *args, int l, int64_t i, int64_t first,
                        int64_t last)
{
    const rf_codes *codes = args->codes[l];
    const rf_latent_index *index = args->index[l];
    float value[GROUP], d_value[GROUP], *d_bias = (float *)args->d_b_enc.data + i;
    for (; first < last; first += GROUP) {
        int64_t n = rf_min_i64(GROUP, last - first);
        for (int64_t j = 0; j < n; j++) {
            value[j] = codes->value[index->entry[first + j]];
            d_value[j] = codes->d_value[index->entry[first + j]];
            *d_bias += d_value[j];
        }
        rf_cpu_add_rows(rf_row_mut(&args->d_w_dec, i), args->d_w_dec.shape[1], args->g[l].data,
                        args->g[l].stride[0], index->row + first, value, n);
        rf_cpu_add_rows(rf_row_mut(&args->d_w_enc, i), args->d_w_enc.shape[1], args->x.data,
                        args->x.stride[0], index->row + first, d_value, n);
    }
}

static int64_t entries_of(const rf_by_latent_args *args, int64_t i)
{
    int64_t n = 0;
    for (int l = 0; l < args->n_lists; l++) {
        n += args->index[l]->latent_start[i + 1] - args->index[l]->latent_start[i];
    }
    return n;
}

static void begin_latent(const rf_by_latent_args *args, int64_t i)
{
    size_t row = sizeof(float);
    memset(rf_row_mut(&args->d_w_enc, i), 0, row * (size_t)args->d_w_enc.shape[1]);
    memset(rf_row_mut(&args->d_w_dec, i), 0, row * (size_t)args->d_w_dec.shape[1]);
}

static double end_latent(const rf_by_latent_args *args, int64_t i)
{
    const float *d_enc = rf_row(&args->d_w_enc, i), *d_dec = rf_row(&args->d_w_dec, i);
    double d_bias = (double)((const float *)args->d_b_enc.data)[i];
    return (double)rf_dot(d_enc, d_enc, args->d_w_enc.shape[1]) +
           (double)rf_dot(d_dec, d_dec, args->d_w_dec.shape[1]) + d_bias * d_bias;
}

static void few_entries(const rf_by_latent_args *args, int64_t i, double *squares)
{
    begin_latent(args, i);
    for (int l = 0; l < args->n_lists; l++) {
        add_entries(args, l, i, args->index[l]->latent_start[i],
                    args->index[l]->latent_start[i + 1]);
    }
    squares[i] = end_latent(args, i);
}

/* One list of some latents. Each latent's entries are taken in token order whatever the range. */
static void walk_list(const rf_by_latent_args *args, int l, const int64_t *latents, int n)
{
    const rf_latent_index *index = args->index[l];
    int64_t next[SIDE_BY_SIDE];
    for (int j = 0; j < n; j++) {
        next[j] = index->latent_start[latents[j]];
    }
    for (int64_t row = 0; row < args->x.shape[0]; row += TOKEN_RANGE) {
        for (int j = 0; j < n; j++) {
            int64_t e = next[j], end = index->latent_start[latents[j] + 1];
            while (e < end && index->row[e] < row + TOKEN_RANGE) {
                e++;
            }
            add_entries(args, l, latents[j], next[j], e);
            next[j] = e;
        }
    }
}

static void many_entries(const rf_by_latent_args *args, const int64_t *latents, int n,
                         double *squares)
{
    for (int j = 0; j < n; j++) {
        begin_latent(args, latents[j]);
    }
    for (int l = 0; l < args->n_lists; l++) {
        walk_list(args, l, latents, n);
    }
    for (int j = 0; j < n; j++) {
        squares[latents[j]] = end_latent(args, latents[j]);
    }
}

static void one_block(const rf_by_latent_args *args, int64_t first, int64_t last, double *squares)
{
    int64_t crowded[SIDE_BY_SIDE];
    int n_crowded = 0;
    for (int64_t i = first; i < last; i++) {
        int64_t n = entries_of(args, i);
        ((float *)args->d_b_enc.data)[i] = 0.0f;
        args->touched[i] = n > 0;
        squares[i] = 0.0;
        if (n >= MANY_ENTRIES) {
            crowded[n_crowded++] = i;
        } else if (n > 0) {
            few_entries(args, i, squares);
        }
        if (n_crowded == SIDE_BY_SIDE || i + 1 == last) {
            many_entries(args, crowded, n_crowded, squares);
            n_crowded = 0;
        }
    }
}

rf_status rf_cpu_accumulate_by_latent(rf_stream *s, const rf_by_latent_args *args)
{
    rf_status status = RF_OK;
    int64_t n_latents = args->d_w_enc.shape[0];
    int64_t share = rf_ceil_div(n_latents, 8 * (int64_t)rf_cpu_n_threads(s));
    int64_t block = rf_min_i64(share, MAX_LATENT_BLOCK);
    void *scratch;

    RF_TRY(rf_cpu_scratch(s, sizeof(double) * (size_t)n_latents, &scratch));
    double *squares = scratch;
#pragma omp parallel for schedule(dynamic, 1) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < n_latents; i += block) {
        one_block(args, i, rf_min_i64(i + block, n_latents), squares);
    }
    *args->squares = 0.0;
    for (int64_t i = 0; i < n_latents; i++) {
        *args->squares += squares[i];
    }
fail:
    return status;
}
