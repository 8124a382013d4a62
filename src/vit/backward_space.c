/* Buffers that a backward pass works in. They stay with the model: training calls it often. */
#include "vit_impl.h"

/* Floats of each buffer for one picture. */
static rf_status floats_per_image(const rf_vit_config *c, rf_grad_buf buf, int64_t *out)
{
    const int64_t t = c->n_tokens;
    const int64_t widest = rf_max_i64(rf_max_i64(c->d_model, c->d_pool), c->n_heads * c->d_head);
    const int64_t patch = c->n_channels * rf_max_i64(c->tubelet, 1) * c->patch_size * c->patch_size;
    int64_t n_maps = rf_max_i64(c->n_heads * t, c->n_pool_heads);
    switch (buf) {
    case RF_GRAD_MLP:
        *out = rf_max_i64(t * c->d_mlp, c->n_patches * patch);
        return RF_OK;
    case RF_GRAD_GATE:
        *out = c->is_gated ? t * c->d_mlp : 0;
        return RF_OK;
    case RF_GRAD_SCALE:
        *out = 2 * t; /* and the scale itself */
        return RF_OK;
    case RF_GRAD_PATTERN:
    case RF_GRAD_SOFTMAX:
        return rf_mul_i64(n_maps, t, "attention patterns of a picture", out);
    case RF_GRAD_POOLED:
        *out = 2 * widest; /* and the value in front of a norm behind the pool */
        return RF_OK;
    case RF_GRAD_HEAD_IN:
        *out = c->n_classes > 0 ? 4 * widest : 0;
        return RF_OK;
    case RF_GRAD_EMBEDDING:
        *out = c->d_out;
        return RF_OK;
    case RF_GRAD_LOGITS:
        *out = c->n_classes;
        return RF_OK;
    case RF_GRAD_POOL:
        *out = RF_POOL_ROWS * c->d_pool + RF_POOL_MLP_ROWS * c->d_pool_mlp;
        return RF_OK;
    default:
        *out = t * widest;
        return RF_OK;
    }
}

static rf_status reserve_one(rf_vit *vit, rf_stream *s, rf_grad_buf buf, int64_t n_images)
{
    rf_status status = RF_OK;
    rf_backward_space *space = &vit->backward;
    int64_t n = 0;
    if (n_images <= space->capacity[buf]) {
        return RF_OK;
    }
    RF_TRY(rf_stream_synchronise(s)); /* nothing may still read what is given back */
    rf_memory_free(vit->be, RF_MEMORY_DEVICE, space->buf[buf]);
    space->buf[buf] = NULL;
    space->capacity[buf] = 0;
    RF_TRY(floats_per_image(&vit->config, buf, &n));
    RF_TRY(rf_mul_i64(n, n_images, "elements of a backward pass's buffer", &n));
    RF_TRY_DOING(rf_memory_alloc(vit->be, RF_MEMORY_DEVICE, (size_t)n * sizeof(float),
                                 (void **)&space->buf[buf]),
                 "buffers of a backward pass over %" PRId64 " pictures", n_images);
    space->capacity[buf] = n_images;
fail:
    return status;
}

rf_status rf_backward_reserve(rf_vit *vit, rf_stream *s, int64_t n_images, bool with_softmax)
{
    rf_status status = RF_OK;
    for (int i = 0; i < RF_N_GRAD_BUFS; i++) {
        if (i != RF_GRAD_SOFTMAX || with_softmax) {
            RF_TRY(reserve_one(vit, s, (rf_grad_buf)i, n_images));
        }
    }
fail:
    return status;
}

void rf_backward_fini(rf_vit *vit)
{
    for (int i = 0; i < RF_N_GRAD_BUFS; i++) {
        rf_memory_free(vit->be, RF_MEMORY_DEVICE, vit->backward.buf[i]);
    }
    vit->backward = (rf_backward_space){0};
}
