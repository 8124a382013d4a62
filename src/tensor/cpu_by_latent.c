/* Gradients of one latent at a time, from the tokens that used it, in token order: no atomics, and
 * no trace of how the work was divided. */
#include "coder_ops_impl.h"

#include <string.h>

enum {
    GATHER = 256,            /* entries whose weights are gathered at once */
    MAX_LATENT_BLOCK = 4096, /* latents that a thread takes */
    SIDE_BY_SIDE = 1024,     /* of which so many with many entries walk the tokens side by side, */
    CACHE_BYTES = 3 << 19,   /* a range of rows of x or g at a time that stays in a core's cache */
    MANY_A_RANGE = 4,        /* many: so many entries in each range */
};

/* One of the two products: entries first .. last - 1 of the index of list `l`, all of latent `i`.
 */
typedef void add_fn(const rf_by_latent_args *args, int l, int64_t i, int64_t first, int64_t last);

static void gather(float *out, const float *from, const int32_t *at, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        out[j] = from[at[j]];
    }
}

/* Where columns of latent i's group begin in the rows of g of list `l`. */
static int64_t group_column(const rf_by_latent_args *args, int l, int64_t i)
{
    const rf_latent_groups *groups = &args->groups[l];
    int q = 0;
    while (q + 1 < groups->n && i >= groups->end[q]) {
        q++;
    }
    return q * args->d_w_dec.shape[1];
}

static void add_to_dec(const rf_by_latent_args *args, int l, int64_t i, int64_t first, int64_t last)
{
    const rf_latent_index *index = args->index[l];
    const float *g = (const float *)args->g[l].data + group_column(args, l, i);
    float weight[GATHER];
    for (; first < last; first += GATHER) {
        int64_t n = rf_min_i64(GATHER, last - first);
        gather(weight, args->codes[l]->value, index->entry + first, n);
        rf_cpu_add_rows(rf_row_mut(&args->d_w_dec, i), args->d_w_dec.shape[1], g,
                        args->g[l].stride[0], index->row + first, weight, n);
    }
}

static void add_to_enc(const rf_by_latent_args *args, int l, int64_t i, int64_t first, int64_t last)
{
    const rf_latent_index *index = args->index[l];
    float weight[GATHER], *d_bias = (float *)args->d_b_enc.data + i;
    for (; first < last; first += GATHER) {
        int64_t n = rf_min_i64(GATHER, last - first);
        gather(weight, args->codes[l]->d_value, index->entry + first, n);
        for (int64_t j = 0; j < n; j++) {
            *d_bias += weight[j];
        }
        rf_cpu_add_rows(rf_row_mut(&args->d_w_enc, i), args->d_w_enc.shape[1], args->x.data,
                        args->x.stride[0], index->row + first, weight, n);
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
    if (!args->accumulate) {
        memset(rf_row_mut(&args->d_w_enc, i), 0, row * (size_t)args->d_w_enc.shape[1]);
        memset(rf_row_mut(&args->d_w_dec, i), 0, row * (size_t)args->d_w_dec.shape[1]);
    }
}

/* Nothing where sums go on, as their squares are not asked for. */
static void end_latent(const rf_by_latent_args *args, int64_t i, double *squares)
{
    if (!args->accumulate) {
        const float *d_enc = rf_row(&args->d_w_enc, i), *d_dec = rf_row(&args->d_w_dec, i);
        double d_bias = (double)((const float *)args->d_b_enc.data)[i];
        squares[i] = (double)rf_dot(d_enc, d_enc, args->d_w_enc.shape[1]) +
                     (double)rf_dot(d_dec, d_dec, args->d_w_dec.shape[1]) + d_bias * d_bias;
    }
}

static void few_entries(const rf_by_latent_args *args, int64_t i, double *squares)
{
    begin_latent(args, i);
    for (int l = 0; l < args->n_lists; l++) {
        int64_t first = args->index[l]->latent_start[i], last = args->index[l]->latent_start[i + 1];
        if (args->g[l].data != NULL) {
            add_to_dec(args, l, i, first, last);
        }
        add_to_enc(args, l, i, first, last);
    }
    end_latent(args, i, squares);
}

/* Tokens whose rows of width `d` stay in cache. */
static int64_t token_range(int64_t d)
{
    return rf_max_i64(1, CACHE_BYTES / ((int64_t)sizeof(float) * d));
}

/* One list of some latents, for one of the products. Each latent's entries are taken in token order
 * whatever the range. */
static void walk_list(const rf_by_latent_args *args, int l, const int64_t *latents, int n,
                      int64_t range, add_fn *add)
{
    const rf_latent_index *index = args->index[l];
    int64_t next[SIDE_BY_SIDE];
    for (int j = 0; j < n; j++) {
        next[j] = index->latent_start[latents[j]];
    }
    for (int64_t row = 0; row < args->x.shape[0]; row += range) {
        for (int j = 0; j < n; j++) {
            int64_t e = next[j], end = index->latent_start[latents[j] + 1];
            while (e < end && index->row[e] < row + range) {
                e++;
            }
            add(args, l, latents[j], next[j], e);
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
        if (args->g[l].data != NULL) {
            walk_list(args, l, latents, n, token_range(args->d_w_dec.shape[1]), add_to_dec);
        }
        walk_list(args, l, latents, n, token_range(args->d_w_enc.shape[1]), add_to_enc);
    }
    for (int j = 0; j < n; j++) {
        end_latent(args, latents[j], squares);
    }
}

static void one_block(const rf_by_latent_args *args, int64_t first, int64_t last, double *squares)
{
    int64_t crowded[SIDE_BY_SIDE], width = args->d_w_enc.shape[1];
    int64_t many = MANY_A_RANGE * rf_ceil_div(args->x.shape[0], token_range(width));
    int n_crowded = 0;
    for (int64_t i = first; i < last; i++) {
        int64_t n = entries_of(args, i);
        if (!args->accumulate) {
            ((float *)args->d_b_enc.data)[i] = 0.0f;
            squares[i] = 0.0;
        }
        args->touched[i] = n > 0;
        if (n > many) {
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
    if (!args->accumulate) {
        *args->squares = rf_cpu_sum_doubles(squares, n_latents);
    }
fail:
    return status;
}
