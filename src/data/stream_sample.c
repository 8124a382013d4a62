/* The fixed sample of what a reader sees first, whole on every rank. */
#include "data_impl.h"

#include <math.h>
#include <string.h>

/* The first `n` valid tokens that pool 0 has for the reader; `out` [n]. Returns how many. */
static int64_t choose(const rf_activation_stream *st, const rf_reader *rd, int64_t n,
                      rf_token_source *out)
{
    int64_t begin = 0, end = 0, n_out = 0;

    rf_order_pool_span(&st->order, st->pool.epoch, 0, rd->n_rows, &begin, &end);
    for (int64_t p = begin; p < rf_min_i64(end, rd->total) && n_out < n; p++) {
        rf_token_source source = rf_pool_find(st, rd, p);
        if (source.is_valid) {
            out[n_out++] = source;
        }
    }
    return n_out;
}

/* This rank's rows of the sample, in its order, sites side by side; `out` (pinned) has room. */
static rf_status read_own(rf_activation_stream *st, const rf_reader *rd,
                          const rf_token_source *sources, int64_t n, float *out)
{
    rf_status status = RF_OK;

    for (int64_t i = 0; i < n; i++) {
        for (int p = 0; sources[i].owner == st->rank && p < rd->n_parts; p++) {
            const rf_reader_part *part = &rd->parts[p];
            const float *rows = st->pool.rows[part->site];
            RF_TRY(rf_copy_out(st->stream, out,
                               rows + rf_pool_row(st, part, &sources[i]) * part->width,
                               (size_t)part->width * sizeof *out));
            out += part->width;
        }
    }
    RF_TRY(rf_stream_synchronise(st->stream));
    return RF_OK;
fail:
    rf_upload_settle(st->stream); /* `out` goes */
    return status;
}

/* Every rank's rows of the sample, put in its order in `out` [n, width]. Collective. */
static rf_status gather_sample(rf_activation_stream *st, const rf_reader *rd,
                               const rf_token_source *sources, int64_t n, float *out)
{
    rf_status status = RF_OK;
    int64_t width = rd->width;
    rf_backend *be = rf_stream_backend(st->stream);
    float *by_rank = NULL;
    void *own = NULL;
    int64_t *n_bytes = NULL, *next = NULL;

    RF_ALLOC(n_bytes, st->size);
    RF_ALLOC(next, st->size + 1);
    RF_ALLOC(by_rank, n * width);
    for (int64_t i = 0; i < n; i++) {
        n_bytes[sources[i].owner] += width * (int64_t)sizeof *by_rank;
        next[sources[i].owner + 1]++;
    }
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_PINNED,
                           (size_t)(next[st->rank + 1] * width) * sizeof(float), &own));
    for (int64_t r = 0; r < st->size; r++) {
        next[r + 1] += next[r];
    }
    RF_TRY(read_own(st, rd, sources, n, own));
fail:
    status = rf_comm_agree(st->comm, status);
    if (status == RF_OK) {
        status = rf_comm_allgatherv(st->comm, own, by_rank, n_bytes);
    }
    for (int64_t i = 0; status == RF_OK && i < n; i++) {
        memcpy(out + i * width, by_rank + next[sources[i].owner]++ * width,
               (size_t)width * sizeof *out);
    }
    rf_memory_free(be, RF_MEMORY_PINNED, own);
    rf_free(by_rank);
    rf_free(next);
    rf_free(n_bytes);
    return status;
}

/* Rows above max_norm leave the sample; returns how many stay. */
static int64_t drop_outliers(float *rows, int64_t n, int64_t width, double max_norm)
{
    int64_t n_out = 0;
    for (int64_t i = 0; i < n; i++) {
        double square = 0;
        for (int64_t j = 0; j < width; j++) {
            square += (double)rows[i * width + j] * (double)rows[i * width + j];
        }
        if (!(sqrt(square) > max_norm)) {
            memmove(rows + n_out++ * width, rows + i * width, (size_t)width * sizeof *rows);
        }
    }
    return n_out;
}

rf_status rf_activation_stream_sample(rf_activation_stream *st, int64_t reader, int64_t n,
                                      float **rows, int64_t *n_out, int64_t *width)
{
    rf_status status = RF_OK;
    rf_token_source *sources = NULL;
    float *sample = NULL;
    int64_t begin = 0, end = 0, n_chosen = 0;

    *rows = NULL;
    *n_out = 0;
    RF_REQUIRE(reader >= 0 && reader < st->n_readers && n >= 0,
               "reader=%" PRId64 " of %" PRId64 ", n=%" PRId64 ", expected >= 0", reader,
               st->n_readers, n);
    const rf_reader *rd = &st->readers[reader];
    *width = rd->width;
    RF_TRY(rf_activation_stream_require(st, 0));
    rf_order_pool_span(&st->order, st->pool.epoch, 0, rd->n_rows, &begin, &end);
    n = rf_min_i64(n, rf_min_i64(end, rd->total));
    sources = rf_calloc(n, sizeof *sources);
    sample = rf_calloc(n * *width, sizeof *sample);
    status = sources != NULL && sample != NULL ? RF_OK : RF_ERR_NO_MEMORY;
    RF_TRY(rf_comm_agree(st->comm, status));
    n_chosen = choose(st, rd, n, sources);
    RF_TRY(gather_sample(st, rd, sources, n_chosen, sample));
    *n_out = rd->opts.max_norm > 0 ? drop_outliers(sample, n_chosen, *width, rd->opts.max_norm)
                                   : n_chosen;
    *rows = sample;
    sample = NULL;
fail:
    rf_free(sample);
    rf_free(sources);
    return status;
}
