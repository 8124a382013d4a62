/* Weights by name and in parts. An array is stored as the forward pass wants it, [in, out]; a part
 * by head is a strided view of it. */
#include "vit_impl.h"

#include <string.h>

/* ---- names ---------------------------------------------------------------------------------- */

/* "blocks.-1.x" as "blocks.{n_layers - 1}.x"; other names as they are. */
static rf_status count_from_the_end(const rf_vit_config *c, const char *name, char out[RF_NAME_LEN])
{
    rf_status status = RF_OK;
    char number[16];
    int64_t layer = 0;
    const char *dot = strncmp(name, "blocks.-", 8) == 0 ? strchr(name + 7, '.') : NULL;
    if (dot != NULL && dot - (name + 7) < (int)sizeof number) {
        RF_TRY(rf_format(number, sizeof number, "%.*s", (int)(dot - (name + 7)), name + 7));
        if (rf_parse_i64(number, &layer) == RF_OK && layer >= -c->n_layers) {
            return rf_format(out, RF_NAME_LEN, "blocks.%" PRId64 "%s", layer + c->n_layers, dot);
        }
    }
    if (rf_format(out, RF_NAME_LEN, "%s", name) != RF_OK) {
        RF_FAIL(RF_ERR_NOT_FOUND, "there is no weight with a name of %zu characters", strlen(name));
    }
fail:
    return status;
}

static rf_status find_param(const rf_vit *vit, const char *name, const rf_param **out)
{
    rf_status status = RF_OK;
    const rf_vit_weights *w = &vit->weights;
    char whole[RF_NAME_LEN];
    int64_t best = 0;
    RF_TRY(count_from_the_end(&vit->config, name, whole));
    for (int64_t i = 0; i < w->n_params; i++) {
        if (strcmp(w->params[i].name, whole) == 0) {
            *out = &w->params[i];
            return RF_OK;
        }
        if (rf_str_distance(whole, w->params[i].name) <
            rf_str_distance(whole, w->params[best].name)) {
            best = i;
        }
    }
    RF_FAIL(RF_ERR_NOT_FOUND, "there is no weight '%.128s' in this model; did you mean '%s'?", name,
            w->n_params > 0 ? w->params[best].name : "");
fail:
    return status;
}

/* ---- views ---------------------------------------------------------------------------------- */

/* [d, H * dh] as [H, d, dh]. */
static rf_view heads_of_columns(rf_view v, int64_t n_heads)
{
    const int64_t d = v.shape[0], width = v.shape[1], dh = width / n_heads;
    rf_view out = rf_view_nd(v.data, v.dtype, 3, (int64_t[]){n_heads, d, dh});
    out.stride[0] = dh;
    out.stride[1] = width;
    return out;
}

/* The array as its name means it: attention's with an axis for heads. */
static rf_weight named_view(const rf_vit_config *c, const rf_param *p)
{
    rf_weight w = {.view = p->view};
    const char *attn = strncmp(p->name, "blocks.", 7) == 0 ? strstr(p->name, ".attn.") : NULL;
    const char *tail = attn != NULL ? attn + 6 : "";
    memcpy(w.name, p->name, sizeof w.name);
    if (strcmp(tail, "W_Q") == 0 || strcmp(tail, "W_K") == 0 || strcmp(tail, "W_V") == 0) {
        w.view = heads_of_columns(p->view, c->n_heads);
    } else if (strcmp(tail, "b_Q") == 0 || strcmp(tail, "b_K") == 0 || strcmp(tail, "b_V") == 0) {
        w.view = rf_view_2d(p->view.data, c->n_heads, p->view.shape[0] / c->n_heads);
    } else if (strcmp(tail, "W_O") == 0) {
        w.view =
            rf_view_nd(p->view.data, p->view.dtype, 3,
                       (int64_t[]){c->n_heads, p->view.shape[0] / c->n_heads, p->view.shape[1]});
    }
    return w;
}

rf_status rf_vit_weight_find(const rf_vit *vit, const char *name, rf_weight *out)
{
    rf_status status = RF_OK;
    const rf_param *p = NULL;
    RF_TRY(find_param(vit, name, &p));
    *out = named_view(&vit->config, p);
fail:
    return status;
}

rf_status rf_vit_weight_list(const rf_vit *vit, rf_weight **out, int64_t *n)
{
    rf_status status = RF_OK;
    rf_weight *list = NULL;
    RF_ALLOC(list, vit->weights.n_params);
    for (int64_t i = 0; i < vit->weights.n_params; i++) {
        list[i] = named_view(&vit->config, &vit->weights.params[i]);
    }
    *out = list;
    *n = vit->weights.n_params;
fail:
    return status;
}

int64_t rf_vit_n_weight_floats(const rf_vit *vit)
{
    return vit->weights.n_floats;
}

rf_status rf_vit_gradient_find(const rf_vit *vit, float *d_weights, const char *name,
                               rf_weight *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_vit_weight_find(vit, name, out));
    out->view.data = d_weights + ((const float *)out->view.data - vit->weights.arena);
fail:
    return status;
}

/* ---- copies --------------------------------------------------------------------------------- */

/* Where element `i` of a contiguous array of the view's shape stands in the view. */
static int64_t offset_of(const rf_view *v, int64_t i)
{
    int64_t offset = 0;
    for (int dim = v->n_dims - 1; dim >= 0; dim--) {
        offset += i % v->shape[dim] * v->stride[dim];
        i /= v->shape[dim];
    }
    return offset;
}

rf_status rf_vit_weight_read(const rf_vit *vit, rf_stream *s, const char *name, float *host)
{
    rf_status status = RF_OK;
    rf_weight w;
    float *stored = NULL;
    RF_TRY(rf_vit_weight_find(vit, name, &w));
    const int64_t n = rf_view_n_elems(&w.view);
    RF_ALLOC(stored, n);
    RF_TRY(rf_copy_out(s, stored, w.view.data, (size_t)n * sizeof *stored));
    RF_TRY(rf_stream_synchronise(s));
    for (int64_t i = 0; i < n; i++) {
        host[i] = stored[offset_of(&w.view, i)];
    }
fail:
    rf_free(stored);
    return status;
}

rf_status rf_vit_weight_write(rf_vit *vit, rf_stream *s, const char *name, const float *host)
{
    rf_status status = RF_OK;
    rf_weight w;
    float *stored = NULL;
    RF_TRY(rf_vit_weight_find(vit, name, &w));
    const int64_t n = rf_view_n_elems(&w.view);
    RF_ALLOC(stored, n);
    for (int64_t i = 0; i < n; i++) {
        stored[offset_of(&w.view, i)] = host[i];
    }
    RF_TRY(rf_copy_in(s, w.view.data, stored, (size_t)n * sizeof *stored));
    RF_TRY(rf_weights_derive(vit->be, s, &vit->config, vit->products, &vit->weights));
    RF_TRY(rf_stream_synchronise(s)); /* the staging array goes away */
fail:
    rf_free(stored);
    return status;
}

/* ---- circuits and directions ---------------------------------------------------------------- */

/* Columns of one head, [d, dh]. */
static rf_view head_columns(rf_view weight, int64_t head, int64_t d_head)
{
    weight.data = (float *)weight.data + head * d_head;
    weight.shape[1] = d_head;
    return weight;
}

static rf_view transposed(rf_view v)
{
    const rf_view old = v;
    for (int dim = 0; dim < 2; dim++) {
        v.shape[dim] = old.shape[1 - dim];
        v.stride[dim] = old.stride[1 - dim];
    }
    return v;
}

rf_status rf_vit_circuit(const rf_vit *vit, rf_circuit which, int64_t layer, int64_t head,
                         rf_factored *out)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &vit->config;
    const int64_t l = layer < 0 ? layer + c->n_layers : layer, dh = c->d_head;
    RF_REQUIRE(l >= 0 && l < c->n_layers, "layer %" PRId64 " of a model of %" PRId64, layer,
               c->n_layers);
    RF_REQUIRE(head >= 0 && head < c->n_heads, "head %" PRId64 " of %" PRId64, head, c->n_heads);
    const rf_block_weights *w = &vit->weights.blocks[l];
    if (which == RF_CIRCUIT_QK) {
        out->a = head_columns(w->q.weight, head, dh);
        out->b = transposed(head_columns(w->k.weight, head, dh));
    } else {
        out->a = head_columns(w->v.weight, head, dh);
        out->b = rf_view_rows(w->o.weight, head * dh, dh);
    }
fail:
    return status;
}

rf_status rf_vit_logit_direction(const rf_vit *vit, rf_stream *s, int64_t idx, float *out)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &vit->config;
    const rf_view *map =
        c->n_classes > 0 ? &vit->weights.head.weight : &vit->weights.projection.weight;
    float *stored = NULL;
    if (map->data == NULL) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "this model has neither a head nor a projection");
    }
    RF_REQUIRE(idx >= 0 && idx < map->shape[1], "column %" PRId64 " of %" PRId64, idx,
               map->shape[1]);
    const int64_t n = c->d_pool * map->shape[1]; /* a head may read more behind these rows */
    RF_ALLOC(stored, n);
    RF_TRY(rf_copy_out(s, stored, map->data, (size_t)n * sizeof *stored));
    RF_TRY(rf_stream_synchronise(s));
    for (int64_t i = 0; i < c->d_pool; i++) {
        out[i] = stored[i * map->shape[1] + idx];
    }
fail:
    rf_free(stored);
    return status;
}
