/* Buffers that a forward pass works in. */
#include "vit_impl.h"

/* Floats of each buffer for one picture. */
static rf_status floats_per_image(const rf_vit_config *c, rf_buf buf, int64_t *out)
{
    const int64_t d = c->d_model, t = c->n_tokens;
    const int64_t patch = c->n_channels * c->patch_size * c->patch_size;
    switch (buf) {
    case RF_BUF_MLP:
        *out = rf_max_i64(t * c->d_mlp, c->n_patches * patch);
        return RF_OK;
    case RF_BUF_SCALE:
        *out = t;
        return RF_OK;
    case RF_BUF_POOLED:
        *out = d;
        return RF_OK;
    case RF_BUF_HEAD_IN:
        *out = c->n_classes > 0 ? 2 * d : 0;
        return RF_OK;
    case RF_BUF_EMBEDDING:
        *out = c->has_projection ? c->d_out : 0;
        return RF_OK;
    case RF_BUF_LOGITS:
        *out = c->n_classes;
        return RF_OK;
    case RF_BUF_POOL:
    case RF_BUF_GATE:
        *out = 0;
        return RF_OK;
    case RF_BUF_SPLIT:
        return rf_mul_i64(c->n_heads * t, d, "inputs of every head of a picture", out);
    case RF_BUF_PATTERN:
        return rf_mul_i64(c->n_heads * t, t, "attention patterns of a picture", out);
    default:
        *out = t * d;
        return RF_OK;
    }
}

int64_t rf_vit_workspace_bytes(const rf_vit_config *config, int64_t n_images)
{
    int64_t sum = 0;
    for (int i = 0; i < RF_BUF_PATTERN; i++) {
        int64_t n = 0;
        if (floats_per_image(config, (rf_buf)i, &n) == RF_OK) {
            sum += n;
        }
    }
    return sum * n_images * (int64_t)sizeof(float);
}

static rf_status reserve_one(rf_vit *vit, rf_stream *s, rf_buf buf, int64_t n_images)
{
    rf_status status = RF_OK;
    rf_vit_workspace *ws = &vit->ws;
    int64_t n = 0;
    if (n_images <= ws->capacity[buf]) {
        return RF_OK;
    }
    RF_TRY(rf_stream_synchronise(s)); /* nothing may still read what is given back */
    rf_memory_free(vit->be, RF_MEMORY_DEVICE, ws->buf[buf]);
    ws->buf[buf] = NULL;
    ws->capacity[buf] = 0;
    RF_TRY(floats_per_image(&vit->config, buf, &n));
    RF_TRY(rf_mul_i64(n, n_images, "elements of a forward pass's buffer", &n));
    RF_TRY_DOING(rf_memory_alloc(vit->be, RF_MEMORY_DEVICE, (size_t)n * sizeof(float),
                                 (void **)&ws->buf[buf]),
                 "buffers of a forward pass over %" PRId64 " pictures", n_images);
    ws->capacity[buf] = n_images;
fail:
    return status;
}

rf_status rf_workspace_reserve(rf_vit *vit, rf_stream *s, int64_t n_images, unsigned on_request)
{
    rf_status status = RF_OK;
    for (int i = 0; i < RF_N_BUFS; i++) {
        if (i < RF_BUF_PATTERN || (on_request & 1U << i) != 0) {
            RF_TRY(reserve_one(vit, s, (rf_buf)i, n_images));
        }
    }
fail:
    return status;
}

void rf_workspace_fini(rf_vit *vit)
{
    for (int i = 0; i < RF_N_BUFS; i++) {
        rf_memory_free(vit->be, RF_MEMORY_DEVICE, vit->ws.buf[i]);
    }
    vit->ws = (rf_vit_workspace){0};
}
