/* A coder's tensors as SAELens has them. Where tokens are normalised by constants, seen = (x - s) a
 * and y = y_n / a' + s' (a', s': of the target), the constants go into the weights:
 *   W_enc' = a W_enc        W_dec' = W_dec / a'        W_skip' = a W_skip / a'
 *   b_dec' = b_dec / a' + s' - W_skip' s
 * An encoder that sees seen - b_dec then sees a (x - b_dec'), and its biases stay; of another they
 * lose what s adds, (a W_enc) s. All in double, rounded once. */
#include "exchange_impl.h"

#include <math.h>

/* What the way from x to seen, and that from y_n to y, multiply with and shift by. */
typedef struct constants {
    float *in_shift, *in_scale, *out_shift, *out_scale; /* NULL: 0, 1 */
} constants;

typedef struct folding {
    const rf_coder *coder;
    rf_stream *s;
    const rf_saelens_kind *kind;
    rf_saelens_tensors *out;
    float *w_enc; /* [F, D] as the coder has it */
    constants by;
} folding;

static double or_one(const float *scale, int64_t i)
{
    return scale != NULL ? (double)scale[i] : 1;
}

static double or_zero(const float *shift, int64_t i)
{
    return shift != NULL ? (double)shift[i] : 0;
}

/* A host copy of tensor `idx`, to be freed; NULL where the coder has none. */
static rf_status read_tensor(const folding *f, int idx, float **out)
{
    rf_status status = RF_OK;
    const rf_view view = rf_coder_view(f->coder, idx);
    const int64_t n = rf_view_n_elems(&view);

    *out = NULL;
    if (view.data == NULL) {
        return RF_OK;
    }
    RF_ALLOC(*out, n);
    RF_TRY(rf_copy_out(f->s, *out, view.data, (size_t)n * sizeof **out));
    RF_TRY(rf_stream_synchronise(f->s));
fail:
    return status;
}

static rf_status read_constants(const folding *f, constants *out)
{
    rf_status status = RF_OK;

    RF_TRY(read_tensor(f, RF_CODER_IN_SHIFT, &out->in_shift));
    RF_TRY(read_tensor(f, RF_CODER_IN_SCALE, &out->in_scale));
    const bool own = f->kind->is_transcoder;
    RF_TRY(read_tensor(f, own ? RF_CODER_OUT_SHIFT : RF_CODER_IN_SHIFT, &out->out_shift));
    RF_TRY(read_tensor(f, own ? RF_CODER_OUT_SCALE : RF_CODER_IN_SCALE, &out->out_scale));
fail:
    return status;
}

/* A new tensor [n0, n1] (n1 = 0: [n0]) of the file. */
static rf_status add_tensor(folding *f, const char *name, int64_t n0, int64_t n1, float **out)
{
    rf_status status = RF_OK;
    rf_saelens_tensors *t = f->out;
    const int64_t n = n1 > 0 ? n0 * n1 : n0;

    RF_BUG(t->n < RF_SAELENS_MAX_TENSORS, "too many tensors");
    RF_ALLOC(t->data[t->n], n);
    t->tensors[t->n] = (rf_named_tensor){.name = name,
                                         .dtype = RF_FILE_F32,
                                         .n_dims = n1 > 0 ? 2 : 1,
                                         .shape = {n0, n1},
                                         .n_elems = n,
                                         .bytes = (const unsigned char *)t->data[t->n],
                                         .n_bytes = n * (int64_t)sizeof **out};
    *out = t->data[t->n++];
fail:
    return status;
}

/* A tensor of latents that no constant touches. */
static rf_status add_copy(folding *f, const char *name, int idx)
{
    rf_status status = RF_OK;
    const rf_view view = rf_coder_view(f->coder, idx);
    float *to = NULL;

    RF_TRY(add_tensor(f, name, view.shape[0], 0, &to));
    RF_TRY(rf_copy_out(f->s, to, view.data, (size_t)view.shape[0] * sizeof *to));
    RF_TRY(rf_stream_synchronise(f->s));
fail:
    return status;
}

static rf_status add_w_enc(folding *f)
{
    rf_status status = RF_OK;
    enum { TILE = 32 };
    const int64_t n_latents = rf_coder_n_latents(f->coder), d = rf_coder_width(f->coder);
    float *to = NULL;

    RF_TRY(add_tensor(f, "W_enc", d, n_latents, &to));
    for (int64_t r = 0; r < n_latents; r += TILE) {
        for (int64_t j = 0; j < d; j++) {
            for (int64_t i = r; i < rf_min_i64(r + TILE, n_latents); i++) {
                to[j * n_latents + i] =
                    (float)((double)f->w_enc[i * d + j] * or_one(f->by.in_scale, j));
            }
        }
    }
fail:
    return status;
}

/* What the input's shift adds to the pre-activation of latent `i`. */
static double shift_of(const folding *f, int64_t i)
{
    const int64_t d = rf_coder_width(f->coder);
    double sum = 0;
    for (int64_t j = 0; f->by.in_shift != NULL && j < d; j++) {
        sum += (double)f->by.in_shift[j] * or_one(f->by.in_scale, j) * (double)f->w_enc[i * d + j];
    }
    return sum;
}

/* A bias of the encoder; `gain` (NULL: 0) is the logarithm of what its row is multiplied by. */
static rf_status add_bias(folding *f, const char *name, int idx, const float *gain)
{
    rf_status status = RF_OK;
    const int64_t n = rf_coder_n_latents(f->coder);
    float *from = NULL, *to = NULL;

    RF_TRY(read_tensor(f, idx, &from));
    RF_TRY(add_tensor(f, name, n, 0, &to));
    for (int64_t i = 0; i < n; i++) {
        const double lost = rf_coder_subtracts(f->coder) ? 0 : shift_of(f, i);
        to[i] = (float)((double)from[i] - exp(or_zero(gain, i)) * lost);
    }
fail:
    rf_free(from);
    return status;
}

static rf_status add_gated(folding *f)
{
    rf_status status = RF_OK;
    float *gain = NULL;

    RF_TRY(read_tensor(f, RF_CODER_GAIN, &gain));
    RF_TRY(add_bias(f, "b_gate", RF_CODER_B_ENC, NULL));
    RF_TRY(add_bias(f, "b_mag", RF_CODER_B_MAG, gain));
    RF_TRY(add_copy(f, "r_mag", RF_CODER_GAIN));
fail:
    rf_free(gain);
    return status;
}

static rf_status add_w_dec(folding *f)
{
    rf_status status = RF_OK;
    const int64_t n = rf_coder_n_latents(f->coder), d = rf_coder_out_width(f->coder);
    float *from = NULL, *to = NULL;

    RF_TRY(read_tensor(f, RF_CODER_W_DEC, &from));
    RF_TRY(add_tensor(f, "W_dec", n, d, &to));
    for (int64_t i = 0; i < n * d; i++) {
        to[i] = (float)((double)from[i] / or_one(f->by.out_scale, i % d));
    }
fail:
    rf_free(from);
    return status;
}

/* b_dec, and W_skip where there is one. */
static rf_status add_b_dec(folding *f)
{
    rf_status status = RF_OK;
    const int64_t d = rf_coder_width(f->coder), e = rf_coder_out_width(f->coder);
    float *b_dec = NULL, *skip = NULL, *b_to = NULL, *skip_to = NULL;

    RF_TRY(read_tensor(f, RF_CODER_B_DEC, &b_dec));
    RF_TRY(read_tensor(f, RF_CODER_W_SKIP, &skip));
    RF_TRY(add_tensor(f, "b_dec", e, 0, &b_to));
    if (skip != NULL) {
        RF_TRY(add_tensor(f, "W_skip", e, d, &skip_to));
    }
    for (int64_t o = 0; o < e; o++) {
        const double scale = or_one(f->by.out_scale, o);
        double b = (double)b_dec[o] / scale + or_zero(f->by.out_shift, o);
        for (int64_t j = 0; skip != NULL && j < d; j++) {
            const double w = (double)skip[o * d + j] * or_one(f->by.in_scale, j) / scale;
            skip_to[o * d + j] = (float)w;
            b -= w * or_zero(f->by.in_shift, j);
        }
        b_to[o] = (float)b;
    }
fail:
    rf_free(skip);
    rf_free(b_dec);
    return status;
}

/* theta, or the one number that a BatchTopK coder's values must exceed. */
static rf_status add_threshold(folding *f)
{
    rf_status status = RF_OK;
    const int64_t n = rf_coder_n_latents(f->coder);
    const size_t n_bytes = (size_t)n * sizeof(float);
    rf_backend *be = rf_stream_backend(f->s);
    void *device = NULL;
    float *to = NULL;
    rf_coder_state state;

    RF_TRY(add_tensor(f, "threshold", n, 0, &to));
    if (rf_coder_has(f->coder, RF_CODER_LOG_THRESHOLD)) {
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, n_bytes, &device));
        const rf_view theta = rf_view_1d(device, n);
        RF_TRY(rf_coder_thresholds(f->coder, f->s, &theta));
        RF_TRY(rf_copy_out(f->s, to, device, n_bytes));
        RF_TRY(rf_stream_synchronise(f->s));
    } else {
        RF_TRY(rf_coder_get_state(f->coder, f->s, &state));
        for (int64_t i = 0; i < n; i++) {
            to[i] = rf_coder_floor(&state, RF_TOKENS_ALL);
        }
    }
fail:
    rf_memory_free(be, RF_MEMORY_DEVICE, device);
    return status;
}

rf_status rf_saelens_fold(const rf_coder *coder, rf_stream *s, const rf_saelens_kind *kind,
                          rf_saelens_tensors *out)
{
    rf_status status = RF_OK;
    folding f = {.coder = coder, .s = s, .kind = kind, .out = out};

    *out = (rf_saelens_tensors){.n = 0};
    RF_TRY(read_constants(&f, &f.by));
    RF_TRY(read_tensor(&f, RF_CODER_W_ENC, &f.w_enc));
    RF_TRY(add_w_enc(&f));
    RF_TRY(add_w_dec(&f));
    RF_TRY(add_b_dec(&f));
    if (kind->is_gated) {
        RF_TRY(add_gated(&f));
    } else {
        RF_TRY(add_bias(&f, "b_enc", RF_CODER_B_ENC, NULL));
    }
    if (kind->has_threshold) {
        RF_TRY(add_threshold(&f));
    }
fail:
    rf_free(f.by.in_shift);
    rf_free(f.by.in_scale);
    rf_free(f.by.out_shift);
    rf_free(f.by.out_scale);
    rf_free(f.w_enc);
    return status;
}

void rf_saelens_tensors_fini(rf_saelens_tensors *tensors)
{
    for (int64_t i = 0; i < tensors->n; i++) {
        rf_free(tensors->data[i]);
    }
    *tensors = (rf_saelens_tensors){.n = 0};
}
