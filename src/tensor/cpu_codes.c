/* Codes by token: decode, gradient of values, sums; and codes turned round, by latent. */
#include "coder_ops_impl.h"

#include <math.h>
#include <string.h>

/* Tokens walk their entries, latents rising, side by side in ranges of latents: rows of W that
 * several of them use are then in cache. Blocks and ranges leave no trace in the result. */
enum {
    MAX_TOKENS = 1024,      /* that a thread takes while their entries are many, */
    MAX_SPARSE_TOKENS = 64, /* and while they are few */
    CACHE_BYTES = 3 << 19,  /* of a range's rows: most of a core's own cache */
    ENOUGH = 4,             /* entries of a token in such a range that pay for walking it so */
    PIECE = 32,             /* else a range has about so many of them */
};

typedef struct token_block {
    const rf_codes *codes;
    int64_t first, last;      /* rows */
    int64_t next[MAX_TOKENS]; /* each row's first entry that was not visited */
} token_block;

typedef struct tiling {
    int64_t n_tokens, n_latents;
} tiling;

static tiling tiling_of(const rf_stream *s, const rf_codes *codes, const rf_view *w)
{
    int64_t n_rows = rf_max_i64(1, codes->n_rows), n_latents = w->shape[0];
    int64_t n_threads = rf_cpu_n_threads(s);
    int64_t in_cache = rf_max_i64(1, CACHE_BYTES / ((int64_t)sizeof(float) * w->shape[1]));
    int64_t a_row = rf_max_i64(1, rf_ceil_div(codes->row_start[codes->n_rows], n_rows));
    if (a_row * rf_min_i64(in_cache, n_latents) >= ENOUGH * n_latents) {
        return (tiling){rf_min_i64(rf_ceil_div(n_rows, 2 * n_threads), MAX_TOKENS), in_cache};
    }
    int64_t range = rf_max_i64(in_cache, rf_ceil_div(PIECE * n_latents, a_row));
    return (tiling){rf_min_i64(rf_ceil_div(n_rows, 4 * n_threads), MAX_SPARSE_TOKENS), range};
}

static void begin_block(token_block *block, const rf_codes *codes, int64_t first, int64_t last)
{
    block->codes = codes;
    block->first = first;
    block->last = last;
    memcpy(block->next, codes->row_start + first, sizeof(int64_t) * (size_t)(last - first));
}

/* Entries e .. e + n - 1 of row b, all of group `group`. */
typedef void visit_fn(const void *args, int group, int64_t b, int64_t e, int64_t n);

/* All that is left below latent `end`. */
static void walk(token_block *block, int64_t begin, int64_t end, int64_t range, int group,
                 visit_fn *visit, const void *args)
{
    const rf_codes *codes = block->codes;
    while (begin < end) {
        begin = rf_min_i64(begin + range, end);
        for (int64_t b = block->first; b < block->last; b++) {
            int64_t *next = &block->next[b - block->first], e = *next;
            int64_t row_end = codes->row_start[b + 1];
            while (e < row_end && codes->latent[e] < begin) {
                e++;
            }
            if (e > *next) {
                visit(args, group, b, *next, e - *next);
                *next = e;
            }
        }
    }
}

static int64_t group_begin(const rf_latent_groups *groups, int group)
{
    return group == 0 ? 0 : groups->end[group - 1];
}

static int64_t group_end(const rf_latent_groups *groups, int group, int64_t n_latents)
{
    return groups->n == 0 ? n_latents : groups->end[group];
}

/* Columns of `group` of row b begin as the bias, or as what the group before ended with. */
static void begin_sum(const rf_decode_args *args, int group, int64_t b)
{
    size_t d = (size_t)args->w_dec.shape[1];
    float *out = rf_row_mut(&args->out, b) + (size_t)group * d;
    if (group > 0) {
        memcpy(out, out - d, sizeof(float) * d);
    } else if (args->bias.data != NULL) {
        memcpy(out, args->bias.data, sizeof(float) * d);
    } else {
        memset(out, 0, sizeof(float) * d);
    }
}

static void decode_entries(const void *p, int group, int64_t b, int64_t e, int64_t n)
{
    const rf_decode_args *args = p;
    const float *value = args->value != NULL ? args->value : args->codes->value;
    int64_t d = args->w_dec.shape[1];
    rf_cpu_add_rows(rf_row_mut(&args->out, b) + group * d, d, args->w_dec.data,
                    args->w_dec.stride[0], args->codes->latent + e, value + e, n);
}

static void decode_block(const rf_decode_args *args, int64_t range, int64_t first, int64_t last)
{
    token_block block;
    begin_block(&block, args->codes, first, last);
    for (int q = 0; q == 0 || q < args->groups.n; q++) {
        for (int64_t b = first; b < last; b++) {
            begin_sum(args, q, b);
        }
        walk(&block, group_begin(&args->groups, q),
             group_end(&args->groups, q, args->w_dec.shape[0]), range, q, decode_entries, args);
    }
}

rf_status rf_cpu_decode(rf_stream *s, const rf_decode_args *args)
{
    int64_t n_rows = args->codes->n_rows;
    tiling t = tiling_of(s, args->codes, &args->w_dec);
#pragma omp parallel for schedule(dynamic, 1) num_threads(rf_cpu_n_threads(s))
    for (int64_t b = 0; b < n_rows; b += t.n_tokens) {
        decode_block(args, t.n_latents, b, rf_min_i64(b + t.n_tokens, n_rows));
    }
    return RF_OK;
}

static void d_value_entries(const void *p, int group, int64_t b, int64_t e, int64_t n)
{
    const rf_d_value_args *args = p;
    float *out = args->out != NULL ? args->out : args->codes->d_value;
    int64_t d = args->w_dec.shape[1];
    rf_dot_rows(rf_row(&args->g, b) + group * d, args->w_dec.data, args->w_dec.stride[0],
                args->codes->latent + e, n, d, out + e);
}

static void d_value_block(const rf_d_value_args *args, int64_t range, int64_t first, int64_t last)
{
    token_block block;
    begin_block(&block, args->codes, first, last);
    for (int q = 0; q == 0 || q < args->groups.n; q++) {
        walk(&block, group_begin(&args->groups, q),
             group_end(&args->groups, q, args->w_dec.shape[0]), range, q, d_value_entries, args);
    }
}

rf_status rf_cpu_d_value(rf_stream *s, const rf_d_value_args *args)
{
    int64_t n_rows = args->codes->n_rows;
    tiling t = tiling_of(s, args->codes, &args->w_dec);
#pragma omp parallel for schedule(dynamic, 1) num_threads(rf_cpu_n_threads(s))
    for (int64_t b = 0; b < n_rows; b += t.n_tokens) {
        d_value_block(args, t.n_latents, b, rf_min_i64(b + t.n_tokens, n_rows));
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

rf_status rf_cpu_sum_by_latent(rf_stream *s, const rf_latent_index *index, const float *entries,
                               const rf_view *out, float beta)
{
    float *sums = out->data;
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t i = 0; i < index->n_latents; i++) {
        float sum = 0.0f;
        for (int64_t e = index->latent_start[i]; e < index->latent_start[i + 1]; e++) {
            sum += entries[index->entry[e]];
        }
        sums[i] = beta == 0.0f ? sum : sums[i] + sum;
    }
    return RF_OK;
}
