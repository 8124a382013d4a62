/* What rows of the table cannot say: arrays of encode and of ranks, by how much products and
 * scores may differ, and what may happen at a bend: an entry may be selected by one side alone, or
 * a gate be open for one alone, where rounding decides. */
#include "shadow_impl.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const shadow_array *find(const shadow_call *c, const char *name, int list)
{
    for (int i = 0; i < c->n_arrays; i++) {
        if (c->arrays[i].list == list && strcmp(c->arrays[i].name, name) == 0) {
            return &c->arrays[i];
        }
    }
    return NULL;
}

/* ---- products ------------------------------------------------------------------------------ */

static double square_of(const rf_view *v, int64_t i, int64_t j)
{
    const int64_t at = i * v->stride[0] + j * v->stride[1];
    float x;
    if (v->dtype == RF_BF16) {
        const uint32_t bits = (uint32_t)((const uint16_t *)v->data)[at] << 16;
        memcpy(&x, &bits, sizeof x);
    } else {
        x = ((const float *)v->data)[at];
    }
    return isfinite(x) ? (double)x * (double)x : 0.0;
}

static double norm_of(const rf_view *v)
{
    double sum = 0.0;
    for (int64_t i = 0; v->data != NULL && i < v->shape[0]; i++) {
        for (int64_t j = 0; j < v->shape[1]; j++) {
            sum += square_of(v, i, j);
        }
    }
    return sqrt(sum);
}

/* TF32 keeps 10 bits of each operand, 2^-10 away at most where they are cut. */
static const double of_tf32 = 500.0;

/* Operands of attention are fp32: bf16 is taken for TF32. Two products stand behind one another. */
void shadow_allow_tf32(shadow_call *c)
{
    const rf_attention_args *args = c->args;
    c->tol_scale = args->products == RF_PRODUCTS_F32 ? 1.0 : 2 * of_tf32;
}

void shadow_allow_tf32_grad(shadow_call *c)
{
    const rf_attention_grad_args *args = c->args;
    c->tol_scale = args->products == RF_PRODUCTS_F32 ? 1.0 : 2 * of_tf32;
}

/* Rounding follows what is added, not what comes out: |row of a| |b|, rows taken together. */
void shadow_measure_products(shadow_call *c)
{
    const rf_matmul_args *args = c->args;
    const int64_t m = args->c.shape[0];
    c->floor = fabs((double)args->alpha) * norm_of(&args->a) * norm_of(&args->b) /
               sqrt((double)rf_max_i64(1, m));
    c->tol_scale = args->products == RF_PRODUCTS_TF32 ? of_tf32 : 1.0;
}

/* ---- scores -------------------------------------------------------------------------------- */

/* Weights behind the largest score by more are below 1e-13, whatever their scores' rounding. */
static const double far_behind = 30.0;

typedef struct head_row {
    int64_t picture, head, query;
} head_row;

/* A score, and its terms' magnitudes added up: what its rounding follows. */
typedef struct score {
    double sum, size;
} score;

/* As it was sent: by now the reference may have written over it. */
static double sent_element(const shadow_call *c, const shadow_array *a, int64_t at)
{
    float x;
    memcpy(&x, c->stream->sent + a->at + at * (int64_t)sizeof x, sizeof x);
    return (double)x;
}

static score score_of(const shadow_call *c, head_row row, int64_t key)
{
    const rf_attention_args *args = c->args;
    const shadow_array *q = find(c, "q", -1), *k = find(c, "k", -1), *bias = find(c, "bias", -1);
    const int64_t q_at = row.picture * q->stride[0] + row.query * q->stride[1] +
                         row.head * q->stride[2],
                  k_at = row.picture * k->stride[0] + key * k->stride[1] + row.head * k->stride[2];
    score s = {0};
    for (int64_t i = 0; i < q->shape[3]; i++) {
        const double term = (double)args->scale * sent_element(c, q, q_at + i * q->stride[3]) *
                            sent_element(c, k, k_at + i * k->stride[3]);
        s.sum += term;
        s.size += fabs(term);
    }
    if (bias != NULL) {
        const double b = sent_element(c, bias,
                                      row.head % bias->shape[0] * bias->stride[0] +
                                          row.query * bias->stride[1] + key * bias->stride[2]);
        s.sum += b;
        s.size += fabs(b);
    }
    return s;
}

/* exp makes of a score's error, half an epsilon of its size on either side, one of its weight. */
static double rounding_of_scores(const shadow_call *c, const shadow_array *a, int64_t row)
{
    const bool is_pattern = strcmp(a->name, "pattern") == 0; /* [B, H, Tq, T]; z: [B, Tq, H, dh] */
    const int64_t outer = row / a->shape[2], inner = row % a->shape[2];
    const head_row at = {.picture = outer / a->shape[1],
                         .head = is_pattern ? outer % a->shape[1] : inner,
                         .query = is_pattern ? inner : outer % a->shape[1]};
    const int64_t n_keys = find(c, "k", -1)->shape[1];
    double most = -INFINITY, size = 0.0;
    for (int64_t j = 0; j < n_keys; j++) {
        most = fmax(most, score_of(c, at, j).sum);
    }
    for (int64_t j = 0; j < n_keys; j++) {
        const score s = score_of(c, at, j);
        size = s.sum >= most - far_behind && isfinite(s.size) ? fmax(size, s.size) : size;
    }
    return size * (double)FLT_EPSILON;
}

void shadow_measure_scores(shadow_call *c)
{
    shadow_allow_tf32(c);
    c->row_tol = rounding_of_scores;
}

/* ---- encode -------------------------------------------------------------------------------- */

/* A row's entries as one side has them. */
typedef struct entries {
    int64_t at, end;
    const int32_t *latent;
    const float *value;
} entries;

typedef struct open_list {
    const rf_select_list *list;
    const float *threshold; /* or NULL */
    const float *bias;
    double *row_norm, *latent_norm;
    double tol;
    int n;
} open_list;

/* The bound on rounding of a product follows |x| |w|. */
static double rounding_of(const open_list *o, int64_t b, int32_t i)
{
    return o->tol * (o->row_norm[b] * o->latent_norm[i] + fabs((double)o->bias[i]));
}

/* Rounding may decide alone who is in a list. */
static bool is_at_a_bend(const open_list *o, int64_t b, int32_t i, float value)
{
    const double t = o->threshold != NULL ? (double)o->threshold[i] : 0.0;
    const double rounding = rounding_of(o, b, i) + o->tol * fabs(t);
    if (o->list->rule == RF_SELECT_POSITIVE) {
        return fabs((double)value - fmax(t, 0.0)) <= rounding;
    }
    const double half = (double)o->list->window / 2;
    return fabs(fabs((double)value - t) - half) <= rounding + o->tol * half;
}

static void compare_entry(shadow_call *c, const open_list *o, int64_t b, int32_t i, float got,
                          float want)
{
    const double allowed = rounding_of(o, b, i), error = fabs((double)got - (double)want);
    if (error > 0.0) {
        c->has_other_bits = true;
        c->worst = fmax(c->worst, error / allowed * o->tol);
    }
    if (!(error <= allowed)) {
        shadow_fail(c, find(c, "value", o->n),
                    "of row %" PRId64 ", latent %" PRId32 " is %.9g, expected %.9g, at most %.3g "
                    "away",
                    b, i, (double)got, (double)want, allowed);
    }
}

static void compare_row(shadow_call *c, const open_list *o, int64_t b, entries got, entries want)
{
    while ((got.at < got.end || want.at < want.end) && !c->has_failed) {
        const int32_t g = got.at < got.end ? got.latent[got.at] : INT32_MAX;
        const int32_t w = want.at < want.end ? want.latent[want.at] : INT32_MAX;
        if (g == w) {
            compare_entry(c, o, b, g, got.value[got.at++], want.value[want.at++]);
            continue;
        }
        const bool is_mine = g < w;
        const int32_t i = is_mine ? g : w;
        const float value = is_mine ? got.value[got.at++] : want.value[want.at++];
        c->n_one_sided++;
        if (i < 0 || i >= find(c, "w_enc", -1)->shape[0] || !is_at_a_bend(o, b, i, value)) {
            shadow_fail(c, find(c, "latent", o->n),
                        "row %" PRId64 " has latent %" PRId32 " (%.9g) %s, and it is no matter of "
                        "rounding",
                        b, i, (double)value, is_mine ? "and should not" : "not");
        }
    }
}

static void compare_open_list(shadow_call *c, const open_list *o, int64_t n_rows)
{
    const shadow_array *start = find(c, "row_start", o->n), *latent = find(c, "latent", o->n);
    const shadow_array *value = find(c, "value", o->n);
    const int64_t *got = (const int64_t *)(const void *)shadow_got(c, start);
    const int64_t *want = (const int64_t *)(const void *)start->host;
    const int64_t capacity = latent != NULL ? latent->shape[0] : 0;
    for (int64_t b = 0; b < n_rows && !c->has_failed; b++) {
        if (got[0] != 0 || got[b + 1] < got[b] || got[b + 1] > capacity) {
            shadow_fail(c, start, "row %" PRId64 " is %" PRId64 " to %" PRId64 " of %" PRId64, b,
                        got[b], got[b + 1], capacity);
            return;
        }
        if (latent == NULL || value == NULL) {
            continue;
        }
        compare_row(c, o, b,
                    (entries){got[b], got[b + 1], (const int32_t *)(void *)shadow_got(c, latent),
                              (const float *)(void *)shadow_got(c, value)},
                    (entries){want[b], want[b + 1], (const int32_t *)(void *)latent->host,
                              (const float *)(void *)value->host});
    }
}

static double *norms_of(const shadow_array *a)
{
    const int64_t n = a != NULL ? a->shape[0] : 0;
    double *norms = rf_calloc(n, sizeof *norms);
    for (int64_t i = 0; norms != NULL && i < n; i++) {
        const float *row = (const float *)(const void *)(a->host + shadow_row_at(a, i));
        for (int64_t j = 0; j < a->shape[1]; j++) {
            norms[i] += (double)row[j] * (double)row[j];
        }
        norms[i] = sqrt(norms[i]);
    }
    return norms;
}

static void compare_open_lists(shadow_call *c)
{
    const rf_encode_args *args = c->args;
    const shadow_array *x = find(c, "x", -1), *bias = find(c, "b_enc", -1);
    open_list o = {.bias = (const float *)(const void *)bias->host,
                   .row_norm = norms_of(x),
                   .latent_norm = norms_of(find(c, "w_enc", -1)),
                   .tol = args->products == RF_PRODUCTS_TF32 ? 2e-3 : 4e-6};
    for (int l = 0; l < args->n_lists && o.row_norm != NULL && o.latent_norm != NULL; l++) {
        const shadow_array *threshold = find(c, "threshold", l);
        o.list = &args->lists[l];
        o.n = l;
        o.threshold = threshold != NULL ? (const float *)(const void *)threshold->host : NULL;
        if (!rf_select_is_exact(o.list->rule)) {
            compare_open_list(c, &o, args->x.shape[0]);
        }
    }
    rf_free(o.row_norm);
    rf_free(o.latent_norm);
}

/* Exact rules give bits; entries of the others are compared one by one. */
static void collect_list(shadow_call *c, rf_select_list *list, int l, int64_t n, int64_t f)
{
    const bool is_exact = rf_select_is_exact(list->rule);
    shadow_add(c, "row_class", l, &list->row_class, SHADOW_U8, n, SHADOW_IN);
    shadow_add(c, "eligible", l, &list->eligible, SHADOW_U8, f, SHADOW_IN);
    shadow_add_view(c, "threshold", l, &list->threshold, SHADOW_IN);
    shadow_add(c, "floor", l, &list->floor, SHADOW_F32,
               list->row_class != NULL ? RF_MAX_ROW_CLASSES : 1, SHADOW_IN);
    shadow_add(c, "overflow", l, &list->overflow, SHADOW_I64, 1, SHADOW_OUT);
    const int at = c->n_arrays;
    shadow_add_codes(c, l, &list->codes, n, SHADOW_SPACE);
    for (int i = at; i < c->n_arrays; i++) {
        if (!is_exact || strcmp(c->arrays[i].name, "d_value") == 0) {
            c->arrays[i].role = SHADOW_SPACE;
        }
    }
}

void shadow_collect_encode(shadow_call *c)
{
    rf_encode_args *args = c->args;
    const int64_t n = args->x.shape[0], f = args->w_enc.shape[0];
    args->seconds = NULL;
    for (int l = 0; l < args->n_lists; l++) {
        collect_list(c, &args->lists[l], l, n, f);
    }
    c->check = compare_open_lists;
}

/* ---- gates --------------------------------------------------------------------------------- */

/* Counts may differ by as many as there are values that one side alone has above 0. */
static void compare_counts(shadow_call *c)
{
    const shadow_array *z = find(c, "args.z", -1);
    const shadow_array *all[] = {find(c, "args.n_active", -1), find(c, "args.row_active", -1)};
    int64_t n_bends = 0;
    for (int64_t b = 0; z != NULL && b < z->shape[0]; b++) {
        const int64_t at = shadow_row_at(z, b);
        const float *got = (const float *)(void *)(shadow_got(c, z) + at);
        const float *want = (const float *)(void *)(z->host + at);
        for (int64_t i = 0; i < z->shape[1]; i++) {
            n_bends += (got[i] > 0.0f) != (want[i] > 0.0f);
        }
    }
    for (int k = 0; k < 2; k++) {
        for (int64_t i = 0; all[k] != NULL && i < all[k]->shape[0]; i++) {
            const int64_t got = ((const int64_t *)(void *)shadow_got(c, all[k]))[i];
            const int64_t want = ((const int64_t *)(void *)all[k]->host)[i];
            if (!(got - want <= n_bends && want - got <= n_bends)) {
                shadow_fail(c, all[k], "element %" PRId64 " is %" PRId64 ", expected %" PRId64, i,
                            got, want);
            }
        }
    }
    c->n_one_sided += n_bends;
}

/* Magnitudes exp(r) (h - b) + m may cancel: their error is of the terms' size. */
static double rounding_of_magnitudes(const shadow_call *c, const shadow_array *a, int64_t row)
{
    const shadow_array *h = find(c, "args.h", -1), *gain = find(c, "params.gain", -1);
    const shadow_array *b_gate = find(c, "params.b_gate", -1), *b_mag = find(c, "params.b_mag", -1);
    const float *z = (const float *)(void *)(a->host + shadow_row_at(a, row));
    double size = 0.0, norm = 0.0;
    for (int64_t i = 0; strcmp(a->name, "args.z") == 0 && i < h->shape[1]; i++) {
        const double at_h = sent_element(c, h, row * h->stride[0] + i * h->stride[1]);
        const double b = sent_element(c, b_gate, i * b_gate->stride[0]);
        const double term =
            exp(sent_element(c, gain, i * gain->stride[0])) * (fabs(at_h) + fabs(b)) +
            fabs(sent_element(c, b_mag, i * b_mag->stride[0]));
        size += term * term;
        norm += (double)z[i] * (double)z[i];
    }
    return norm > 0.0 ? (double)FLT_EPSILON * sqrt(size / norm) : 0.0;
}

/* What a gradient is of may cancel, a gate's and a magnitude's or the penalty's with either: where
 * it does, they are of one size. */
static double rounding_of_gradients(const shadow_call *c, const shadow_array *a, int64_t row)
{
    const shadow_array *gain = find(c, "params.gain", -1), *gate = find(c, "args.d_gate", -1);
    const float *d_h = (const float *)(void *)(a->host + shadow_row_at(a, row));
    const int64_t first = ((const shadow_dense_grad *)c->args)->args.first_latent;
    double size = 0.0, norm = 0.0;
    for (int64_t i = 0; strcmp(a->name, "args.d_z") == 0 && i < a->shape[1]; i++) {
        const double e =
            gain != NULL ? exp(sent_element(c, gain, (first + i) * gain->stride[0])) : 1.0;
        double term = e * fabs(sent_element(c, a, row * a->stride[0] + i * a->stride[1]));
        if (gate != NULL) {
            term += fabs(sent_element(c, gate, row * gate->stride[0] + i * gate->stride[1]));
        }
        size += term * term;
        norm += (double)d_h[i] * (double)d_h[i];
    }
    return norm > 0.0 ? (double)FLT_EPSILON * sqrt(size / norm) : 0.0;
}

void shadow_measure_gradients(shadow_call *c)
{
    c->row_tol = rounding_of_gradients;
}

void shadow_allow_bends(shadow_call *c)
{
    const shadow_dense_values *args = c->args;
    if (args->params.act != RF_CODER_GATED) {
        return;
    }
    for (int i = 0; i < c->n_arrays; i++) {
        if (c->arrays[i].type == SHADOW_I64) {
            c->arrays[i].role = SHADOW_SPACE;
        }
    }
    c->check = compare_counts;
    c->row_tol = rounding_of_magnitudes;
}

/* ---- ranks --------------------------------------------------------------------------------- */

static int64_t sum_of(const int64_t *bytes, int n)
{
    int64_t sum = 0;
    for (int r = 0; r < n; r++) {
        sum += bytes[r];
    }
    return sum;
}

void shadow_collect_gather(shadow_call *c)
{
    shadow_ranks *args = c->args;
    const int64_t mine = args->recv_bytes[rf_comm_rank(args->comm)];
    const int64_t all = sum_of(args->recv_bytes, rf_comm_size(args->comm));
    shadow_add(c, "send", -1, &args->send, SHADOW_U8, mine, SHADOW_IN);
    shadow_add(c, "recv", -1, &args->recv, SHADOW_U8, all, SHADOW_OUT);
}

void shadow_collect_exchange(shadow_call *c)
{
    shadow_ranks *args = c->args;
    const int size = rf_comm_size(args->comm);
    shadow_add(c, "send", -1, &args->send, SHADOW_U8, sum_of(args->send_bytes, size), SHADOW_IN);
    shadow_add(c, "recv", -1, &args->recv, SHADOW_U8, sum_of(args->recv_bytes, size), SHADOW_OUT);
}

void shadow_collect_sum_f32(shadow_call *c)
{
    shadow_ranks *args = c->args;
    shadow_add(c, "data", -1, &args->recv, SHADOW_F32, args->n, SHADOW_OUT);
}

void shadow_collect_sum_i64(shadow_call *c)
{
    shadow_ranks *args = c->args;
    shadow_add(c, "data", -1, &args->recv, SHADOW_I64, args->n, SHADOW_OUT);
}
