/* Buffers that a forward pass works in. */
#include "vit_impl.h"

static int64_t patch_elems(const rf_vit_config *c)
{
    return c->n_channels * c->tubelet * c->patch_size * c->patch_size;
}

/* Scratch of an attention pool: keys and values, then a few vectors (end.c). */
static int64_t pool_floats(const rf_vit_config *c)
{
    return c->pool == RF_POOL_ATTENTION ? (2 * c->n_tokens + 3) * c->d_pool + c->d_pool_mlp : 0;
}

/* Floats of each buffer for one picture. */
static rf_status floats_per_image(const rf_vit_config *c, rf_buf buf, int64_t *out)
{
    const int64_t d = c->d_model, t = c->n_tokens;
    switch (buf) {
    case RF_BUF_RESID:
    case RF_BUF_NORMED:
    case RF_BUF_BRANCH:
        *out = t * d;
        return RF_OK;
    case RF_BUF_Q:
    case RF_BUF_K:
    case RF_BUF_V:
    case RF_BUF_Z:
        *out = t * c->n_heads * c->d_head;
        return RF_OK;
    case RF_BUF_MLP:
        *out =
            rf_max_i64(t * c->d_mlp, c->input == RF_VIT_TEXT ? 0 : c->n_patches * patch_elems(c));
        return RF_OK;
    case RF_BUF_GATE:
        *out = c->is_gated ? t * c->d_mlp : 0;
        return RF_OK;
    case RF_BUF_SCALE:
        *out = t;
        return RF_OK;
    case RF_BUF_POOLED:
        *out = c->d_pool;
        return RF_OK;
    case RF_BUF_POOL:
        *out = pool_floats(c);
        return RF_OK;
    case RF_BUF_END_ROW: /* int64_t */
        *out = c->pool == RF_POOL_END ? 2 : 0;
        return RF_OK;
    case RF_BUF_HEAD_IN:
        *out = c->n_classes == 0 || c->head_input == RF_HEAD_POOLED ? 0
               : c->head_input == RF_HEAD_CLS_AND_DISTILLED         ? d + 2 * c->n_classes
                                                                    : 2 * d;
        return RF_OK;
    case RF_BUF_EMBEDDING:
        *out = c->has_projection ? c->d_out : 0;
        return RF_OK;
    case RF_BUF_LOGITS:
        *out = c->n_classes;
        return RF_OK;
    case RF_BUF_PATTERN:
        return rf_mul_i64(c->n_heads * t, t, "attention patterns of a picture", out);
    case RF_BUF_SPLIT:
    case RF_BUF_SPLIT_COPY:
        return rf_mul_i64(c->n_heads * t, d, "inputs of every head of a picture", out);
    case RF_N_BUFS:
        break;
    }
    *out = 0;
    return RF_OK;
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
    RF_TRY(floats_per_image(&vit->config, buf, &n));
    if (n_images <= ws->capacity[buf] || n == 0) {
        return RF_OK;
    }
    RF_TRY(rf_stream_synchronise(s)); /* nothing may still read what is given back */
    rf_memory_free(vit->be, RF_MEMORY_DEVICE, ws->buf[buf]);
    ws->buf[buf] = NULL;
    ws->capacity[buf] = 0;
    RF_TRY(rf_mul_i64(n, n_images, "elements of a forward pass's buffer", &n));
    RF_TRY_DOING(rf_memory_alloc(vit->be, RF_MEMORY_DEVICE, (size_t)n * sizeof(float),
                                 (void **)&ws->buf[buf]),
                 "buffers of a forward pass over %" PRId64 " pictures", n_images);
    ws->capacity[buf] = n_images;
fail:
    return status;
}

/* Token ids on the host, where they are checked. */
static rf_status reserve_ids(rf_vit *vit, rf_stream *s, int64_t n_images)
{
    rf_status status = RF_OK;
    rf_vit_workspace *ws = &vit->ws;
    if (vit->config.input != RF_VIT_TEXT || n_images <= ws->ids_capacity) {
        return RF_OK;
    }
    RF_TRY(rf_stream_synchronise(s));
    rf_free(ws->ids);
    ws->ids = NULL;
    ws->ids_capacity = 0;
    RF_ALLOC(ws->ids, n_images * vit->config.n_tokens);
    ws->ids_capacity = n_images;
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
    RF_TRY(reserve_ids(vit, s, n_images));
fail:
    return status;
}

void rf_workspace_fini(rf_vit *vit)
{
    for (int i = 0; i < RF_N_BUFS; i++) {
        rf_memory_free(vit->be, RF_MEMORY_DEVICE, vit->ws.buf[i]);
    }
    rf_free(vit->ws.ids);
    vit->ws = (rf_vit_workspace){0};
}
