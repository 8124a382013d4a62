/* What the forward pass wants beside the weights themselves, made from them and from the config. */
#include "vit_impl.h"

#include <math.h>
#include <string.h>

typedef struct derived_sizes {
    int64_t prefix, rope, causal; /* floats; rope is one of two tables */
} derived_sizes;

static derived_sizes sizes_of(const rf_vit_config *c)
{
    return (derived_sizes){
        .prefix = c->n_prefix * c->d_model,
        .rope = c->rope != RF_ROPE_NONE ? c->n_tokens * c->d_head : 0,
        .causal = c->score_bias == RF_SCORES_CAUSAL ? c->n_tokens * c->n_tokens : 0,
    };
}

static void fill_causal(int64_t t, float *out)
{
    for (int64_t i = 0; i < t; i++) {
        for (int64_t j = 0; j < t; j++) {
            out[i * t + j] = j <= i ? 0.0f : -INFINITY;
        }
    }
}

/* Rotary tables and mask: they depend on the config alone. */
static rf_status make_tables(rf_backend *be, rf_stream *s, const rf_vit_config *c,
                             rf_vit_weights *w)
{
    rf_status status = RF_OK;
    const derived_sizes n = sizes_of(c);
    float *host = NULL, *at = NULL;
    const int64_t total = n.prefix + 2 * n.rope + n.causal;
    const int64_t mask[] = {1, c->n_tokens, c->n_tokens};
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)rf_max_i64(1, total) * sizeof(float),
                           (void **)&w->derived));
    RF_ALLOC(host, rf_max_i64(1, total));
    at = w->derived + n.prefix;
    if (n.rope > 0) {
        rf_rotary_tables(c, host + n.prefix, host + n.prefix + n.rope);
        w->rope_cos = rf_view_2d(at, c->n_tokens, c->d_head);
        w->rope_sin = rf_view_2d(at + n.rope, c->n_tokens, c->d_head);
        at += 2 * n.rope;
    }
    if (n.causal > 0) {
        fill_causal(c->n_tokens, host + n.prefix + 2 * n.rope);
        w->causal = rf_view_nd(at, RF_F32, 3, mask);
    }
    RF_TRY(rf_copy_in(s, w->derived, host, (size_t)total * sizeof *host));
    RF_TRY(rf_stream_synchronise(s));
fail:
    rf_free(host);
    return status;
}

static rf_status make_prefix(rf_stream *s, const rf_vit_config *c, rf_vit_weights *w)
{
    rf_status status = RF_OK;
    if (c->n_prefix == 0) {
        return RF_OK;
    }
    w->prefix = rf_view_2d(w->derived, c->n_prefix, c->d_model);
    rf_add_args args = {.r = w->prefix_token, .y = w->prefix};
    if (w->position.data != NULL) {
        args.x = rf_view_rows(w->position, 0, c->n_prefix);
    }
    RF_TRY(rf_add(s, &args));
fail:
    return status;
}

/* fp32 to bf16, to nearest, ties to even; NaN stays one. */
static uint16_t round_to_bf16(float x)
{
    uint32_t bits = 0;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & UINT32_C(0x7fffffff)) > UINT32_C(0x7f800000)) {
        return (uint16_t)((bits >> 16) | 0x40u);
    }
    bits += UINT32_C(0x7fff) + ((bits >> 16) & 1u);
    return (uint16_t)(bits >> 16);
}

/* The whole arena in bf16, so that an array lies at its own offset; norms are never read there. */
static rf_status make_half(rf_backend *be, rf_stream *s, rf_vit_weights *w)
{
    enum { CHUNK = 1 << 20 };
    rf_status status = RF_OK;
    float *in = NULL;
    uint16_t *out = NULL;
    if (w->half == NULL) {
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE,
                               (size_t)rf_max_i64(1, w->n_floats) * sizeof *out,
                               (void **)&w->half));
    }
    RF_ALLOC(in, CHUNK);
    RF_ALLOC(out, CHUNK);
    for (int64_t at = 0; at < w->n_floats; at += CHUNK) {
        const int64_t n = rf_min_i64(CHUNK, w->n_floats - at);
        RF_TRY(rf_copy_out(s, in, w->arena + at, (size_t)n * sizeof *in));
        RF_TRY(rf_stream_synchronise(s));
        for (int64_t i = 0; i < n; i++) {
            out[i] = round_to_bf16(in[i]);
        }
        RF_TRY(rf_copy_in(s, w->half + at, out, (size_t)n * sizeof *out));
        RF_TRY(rf_stream_synchronise(s));
    }
fail:
    rf_free(in);
    rf_free(out);
    return status;
}

rf_status rf_weights_derive(rf_backend *be, rf_stream *s, const rf_vit_config *config,
                            rf_products products, rf_vit_weights *w)
{
    rf_status status = RF_OK;
    if (w->derived == NULL) {
        RF_TRY(make_tables(be, s, config, w));
    }
    RF_TRY(make_prefix(s, config, w));
    if (products == RF_PRODUCTS_BF16) {
        RF_TRY(make_half(be, s, w));
    }
fail:
    return status;
}
