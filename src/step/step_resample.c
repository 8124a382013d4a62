/* New starts for dead latents (Bricken et al. 2023), from tokens of this batch. Every rank draws
 * the same tokens; only the rows that were drawn travel. */
#include "step_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 64 }; /* latents at once */

/* A token and its place in the draw: larger keys first. */
typedef struct draw {
    double key;
    int64_t row;
} draw;

typedef struct resampling {
    int64_t n, n_wanted; /* latents that get a start now, and that should */
    int64_t *latent;     /* [n_wanted] rising */
    draw *draws;         /* [n_rows], the drawn first */
    float encoder_norm;
    float log_threshold;
    float *rows;       /* [BLOCK, D + E] what the encoder sees, and the target */
    float *archetypes; /* [BLOCK, N] */
    float *points;     /* [N, E] of an archetypal decoder */
    int64_t n_points;
} resampling;

static int by_key(const void *a, const void *b)
{
    const draw *x = a, *y = b;
    if (x->key > y->key || x->key < y->key) {
        return x->key > y->key ? -1 : 1;
    }
    return x->row < y->row ? -1 : x->row > y->row;
}

/* Uniform in (0, 1). */
static double uniform(const rf_step_job *job, int64_t row)
{
    uint32_t u[4];
    rf_random_u32x4((uint64_t)job->settings->seed, RF_RANDOM_RESAMPLE,
                    (uint64_t)job->state.counters[RF_COUNTER_STEPS], (uint64_t)row, u);
    uint64_t bits = ((uint64_t)u[0] << 32 | u[1]) >> 12;
    return ((double)bits + 0.5) * 0x1p-52;
}

/* ---- choose: the same on every rank ------------------------------------------------------------
 */

/* Latents that were dead when the step began, and did not fire in it either. Of a start that goes
 * on over several steps, those that were left. */
static rf_status choose_latents(rf_step_job *job, resampling *r)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const rf_view since = rf_coder_view(job->coder, RF_CODER_TOKENS_SINCE_FIRED);
    int64_t *tokens = NULL, limit = job->n_latents;
    uint8_t *dead = NULL;
    RF_ALLOC(tokens, job->n_latents);
    RF_ALLOC(dead, job->n_latents);
    RF_ALLOC(r->latent, job->n_latents);
    RF_TRY(rf_copy_out(step->s, tokens, since.data, sizeof *tokens * (size_t)job->n_latents));
    RF_TRY(rf_copy_out(step->s, dead, step->dead, (size_t)job->n_latents));
    RF_TRY(rf_stream_synchronise(step->s));
    if (!job->rates->resample) {
        limit = job->state.counters[RF_COUNTER_RESAMPLES_LEFT];
    }
    for (int64_t i = 0; i < job->n_latents && r->n_wanted < limit; i++) {
        if (dead[i] != 0 && tokens[i] > 0) {
            r->latent[r->n_wanted++] = i;
        }
    }
fail:
    rf_free(dead);
    rf_free(tokens);
    return status;
}

/* Draws without replacement, with probability proportional to a weight, are the largest of log(u) /
 * weight (Efraimidis & Spirakis 2006). */
static rf_status draw_tokens(rf_step_job *job, resampling *r)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const bool by_loss = job->settings->resample == RF_RESAMPLE_LOSS;
    float *loss = step->host_rows;
    uint8_t *valid = NULL;
    int64_t n = 0;
    RF_ALLOC(valid, job->n_rows);
    RF_ALLOC(r->draws, job->n_rows);
    RF_TRY(rf_copy_out(step->s, loss, step->global.loss, sizeof *loss * (size_t)job->n_rows));
    RF_TRY(rf_copy_out(step->s, valid, step->global.valid, (size_t)job->n_rows));
    RF_TRY(rf_stream_synchronise(step->s));
    for (int64_t b = 0; b < job->n_rows; b++) {
        const double weight = by_loss ? (double)loss[b] * (double)loss[b] : 1.0;
        if (valid[b] != 0) {
            r->draws[n++] =
                (draw){.key = weight > 0.0 ? log(uniform(job, b)) / weight : -INFINITY, .row = b};
        }
    }
    qsort(r->draws, (size_t)n, sizeof *r->draws, by_key);
    r->n = rf_min_i64(n, r->n_wanted);
fail:
    rf_free(valid);
    return status;
}

/* A fifth of the mean norm of encoder rows that are alive; of 1 when none is. */
static rf_status measure_encoder(rf_step_job *job, resampling *r)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const rf_view w_enc = rf_coder_view(job->coder, RF_CODER_W_ENC);
    const rf_view norms = rf_step_by_latent(job, step->by_latent);
    const rf_segments whole = {.n = 1};
    uint8_t *dead = NULL;
    double sum = 0.0;
    int64_t n_alive = 0;
    RF_ALLOC(dead, job->n_latents);
    RF_TRY(rf_row_norms(step->s, &w_enc, &whole, &norms));
    RF_TRY(
        rf_copy_out(step->s, step->host_rows, norms.data, sizeof(float) * (size_t)job->n_latents));
    RF_TRY(rf_copy_out(step->s, dead, step->dead, (size_t)job->n_latents));
    RF_TRY(rf_stream_synchronise(step->s));
    for (int64_t i = 0; i < job->n_latents; i++) {
        sum += dead[i] == 0 ? (double)step->host_rows[i] : 0.0;
        n_alive += dead[i] == 0;
    }
    r->encoder_norm = (float)(0.2 * (n_alive > 0 ? sum / (double)n_alive : 1.0));
fail:
    rf_free(dead);
    return status;
}

static rf_status read_points(rf_step_job *job, resampling *r)
{
    rf_status status = RF_OK;
    const rf_view points = rf_coder_view(job->coder, RF_CODER_POINTS);
    if (points.data != NULL && rf_coder_has(job->coder, RF_CODER_ARCHETYPES)) {
        r->n_points = points.shape[0];
        RF_ALLOC(r->archetypes, BLOCK * r->n_points);
        RF_ALLOC(r->points, r->n_points * job->out_width);
        RF_TRY(rf_copy_out(job->step->s, r->points, points.data,
                           sizeof(float) * (size_t)rf_view_n_elems(&points)));
        RF_TRY(rf_stream_synchronise(job->step->s));
    }
fail:
    return status;
}

static rf_status choose(rf_step_job *job, resampling *r)
{
    rf_status status = RF_OK;
    RF_TRY(choose_latents(job, r));
    RF_TRY(draw_tokens(job, r));
    RF_TRY(measure_encoder(job, r));
    RF_TRY(read_points(job, r));
    RF_ALLOC(r->rows, BLOCK * (job->width + job->out_width));
    r->log_threshold =
        (float)log(job->settings->threshold_start * (double)job->state.scalars[RF_SCALAR_RMS]);
fail:
    return status;
}

/* ---- a block of latents --------------------------------------------------------------------- */

/* What this rank has of the rows of draws first .. first + count - 1; 0 for the others. */
static rf_status collect(rf_step_job *job, resampling *r, int64_t first, int64_t count)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const int64_t stride = job->width + job->out_width;
    const rf_view seen = rf_step_seen(job, false), target = rf_step_target(job, false);
    memset(r->rows, 0, sizeof *r->rows * (size_t)(count * stride));
    for (int64_t j = 0; j < count; j++) {
        const int64_t b = r->draws[first + j].row - job->batch->first_row;
        if (b >= 0 && b < job->n_local) {
            float *to = r->rows + j * stride;
            RF_TRY(rf_copy_out(step->s, to, (const float *)seen.data + b * seen.stride[0],
                               sizeof(float) * (size_t)job->width));
            RF_TRY(rf_copy_out(step->s, to + job->width,
                               (const float *)target.data + b * target.stride[0],
                               sizeof(float) * (size_t)job->out_width));
        }
    }
    RF_TRY(rf_stream_synchronise(step->s));
fail:
    return status;
}

/* The sum over segments of |segment|. */
static double norm_of(const float *x, int64_t n, const rf_segments *segments)
{
    double norm = 0.0;
    int64_t first = 0;
    for (int l = 0; l < segments->n || l == 0; l++) {
        const int64_t end = segments->n > 1 ? segments->end[l] : n;
        norm += sqrt((double)rf_dot(x + first, x + first, end - first));
        first = end;
    }
    return norm;
}

/* x [n] gets the norm `wanted`; false where it cannot. */
static bool rescale(float *x, int64_t n, const rf_segments *segments, double wanted)
{
    const double norm = norm_of(x, n, segments);
    if (!(norm > 0.0) || !isfinite(norm)) {
        return false;
    }
    for (int64_t j = 0; j < n; j++) {
        x[j] = (float)((double)x[j] * wanted / norm);
    }
    return true;
}

/* Row `i` of parameter `idx` and what the optimiser remembers of it; `row` is host memory that
 * stays until the block is done. NULL: the row stays, its moments go. */
static rf_status put_row(rf_step_job *job, int idx, int64_t i, const float *row)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const bool is_schedule_free =
        rf_optimiser_get_opts(job->opt)->kind == RF_OPTIMISER_SCHEDULE_FREE;
    const rf_view w = rf_coder_view(job->coder, idx);
    if (!rf_optimiser_trains(job->coder, idx)) {
        return RF_OK;
    }
    const int64_t n = w.n_dims == 2 ? w.shape[1] : 1;
    const size_t n_bytes = sizeof(float) * (size_t)n;
    if (row != NULL) {
        RF_TRY(rf_copy_in(step->s, (float *)w.data + i * n, row, n_bytes));
    }
    for (int part = 0; part < RF_OPTIMISER_N_PARTS; part++) {
        const rf_view v = rf_optimiser_part_view(job->opt, (rf_optimiser_part)part, idx);
        const bool is_iterate =
            part == RF_OPTIMISER_LIVE || (part == RF_OPTIMISER_M && is_schedule_free);
        if (v.data != NULL && is_iterate) { /* x, y and z begin as one */
            RF_TRY(
                rf_copy_within(step->s, (float *)v.data + i * n, (float *)w.data + i * n, n_bytes));
        } else if (v.data != NULL) {
            RF_TRY(rf_fill_bytes(step->s, (float *)v.data + i * n, 0, n_bytes));
        }
    }
fail:
    return status;
}

/* The archetypal point with the direction nearest to that of the target. */
static int64_t nearest_point(const resampling *r, const float *target, int64_t width)
{
    int64_t best = 0;
    double most = -INFINITY;
    for (int64_t p = 0; p < r->n_points; p++) {
        const float *point = r->points + p * width;
        const double norm = sqrt((double)rf_dot(point, point, width));
        const double cosine = norm > 0.0 ? (double)rf_dot(point, target, width) / norm : -INFINITY;
        if (cosine > most) {
            most = cosine;
            best = p;
        }
    }
    return best;
}

static rf_status put_decoder(rf_step_job *job, resampling *r, int64_t i, int64_t slot,
                             float *target)
{
    static const rf_segments whole = {.n = 1};
    rf_status status = RF_OK;
    const bool is_free = job->settings->decoder == RF_DECODER_FREE;
    const rf_segments segments = is_free ? whole : rf_coder_out_segments(job->coder);
    const bool has_row = rescale(target, job->out_width, &segments,
                                 is_free ? job->settings->decoder_start_norm : 1.0);
    RF_TRY(put_row(job, RF_CODER_W_DEC, i, has_row ? target : NULL));
    if (r->n_points > 0) {
        float *archetype = r->archetypes + slot * r->n_points;
        memset(archetype, 0, sizeof *archetype * (size_t)r->n_points);
        archetype[nearest_point(r, target, job->out_width)] = 1.0f;
        RF_TRY(put_row(job, RF_CODER_ARCHETYPES, i, archetype));
        memset(target, 0, sizeof *target * (size_t)job->out_width);
        RF_TRY(put_row(job, RF_CODER_ARCHETYPE_OFFSETS, i, target));
    }
fail:
    return status;
}

static rf_status restart(rf_step_job *job, resampling *r, int64_t first, int64_t count)
{
    static const rf_segments whole = {.n = 1};
    static const float zero = 0.0f;
    static const int64_t none = 0;
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const rf_view since = rf_coder_view(job->coder, RF_CODER_TOKENS_SINCE_FIRED);
    for (int64_t j = 0; j < count; j++) {
        const int64_t i = r->latent[first + j];
        float *seen = r->rows + j * (job->width + job->out_width);
        const bool has_row = rescale(seen, job->width, &whole, (double)r->encoder_norm);
        RF_TRY(put_row(job, RF_CODER_W_ENC, i, has_row ? seen : NULL));
        RF_TRY(put_decoder(job, r, i, j, seen + job->width));
        RF_TRY(put_row(job, RF_CODER_B_ENC, i, &zero));
        RF_TRY(put_row(job, RF_CODER_LOG_THRESHOLD, i, &r->log_threshold));
        RF_TRY(put_row(job, RF_CODER_GAIN, i, &zero));
        RF_TRY(put_row(job, RF_CODER_B_MAG, i, &zero));
        RF_TRY(rf_copy_in(step->s, (int64_t *)since.data + i, &none, sizeof none));
    }
    RF_TRY(rf_stream_synchronise(step->s)); /* the rows are used again */
fail:
    return status;
}

rf_status rf_step_resample(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const rf_comm *comm = step->comm;
    const int64_t stride = job->width + job->out_width;
    int64_t *counters = job->state.counters;
    resampling r = {0};

    if (job->settings->resample == RF_RESAMPLE_NONE) {
        return RF_OK;
    }
    RF_TRY(rf_exchange_rows(job, step->local.loss, step->global.loss, sizeof(float)));
    RF_TRY(rf_exchange_rows(job, step->local.valid, step->global.valid, 1));
    RF_TRY(rf_comm_agree(comm, choose(job, &r)));
    for (int64_t first = 0; first < r.n; first += BLOCK) {
        const int64_t count = rf_min_i64(BLOCK, r.n - first);
        RF_TRY(rf_comm_agree(comm, collect(job, &r, first, count)));
        RF_TRY(rf_comm_sum_f32(comm, r.rows, count * stride));
        RF_TRY(rf_comm_agree(comm, restart(job, &r, first, count)));
    }
    RF_TRY(rf_comm_agree(comm, rf_coder_derive(job->coder, step->s)));
    job->metrics->n_resampled = r.n;
    counters[RF_COUNTER_RESAMPLED] += r.n;
    counters[RF_COUNTER_RESAMPLES_LEFT] = r.n_wanted - r.n;
    rf_step_lap(step, RF_PART_UPDATE);
fail:
    rf_free(r.points);
    rf_free(r.archetypes);
    rf_free(r.rows);
    rf_free(r.draws);
    rf_free(r.latent);
    return status;
}
