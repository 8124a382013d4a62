/* Biases for maps that have none: folding a norm needs somewhere to put the norm's bias. The arena
 * is made anew with room behind it. */
#include "process_impl.h"

#include <string.h>

enum { ALIGN_FLOATS = 16 };

/* A move of the arena. */
typedef struct move {
    const float *from;
    float *to;
} move;

/* Absent views stay absent. */
static void move_view(const move *m, rf_view *v)
{
    if (v->data != NULL) {
        v->data = m->to + ((const float *)v->data - m->from);
    }
}

static void move_maps(const move *m, rf_linear *const *maps, int n)
{
    for (int i = 0; i < n; i++) {
        move_view(m, &maps[i]->weight);
        move_view(m, &maps[i]->bias);
    }
}

static void move_block(const move *m, rf_block_weights *b)
{
    rf_linear *const maps[] = {&b->ln1, &b->q,    &b->k,   &b->v,      &b->attn_ln, &b->o,
                               &b->ln2, &b->gate, &b->fc1, &b->mlp_ln, &b->fc2};
    move_maps(m, maps, sizeof maps / sizeof maps[0]);
    move_view(m, &b->score_bias);
    move_view(m, &b->scale1);
    move_view(m, &b->scale2);
}

/* Every view of the arena; what is derived lies elsewhere. */
static void move_all(const move *m, const rf_vit_config *c, rf_vit_weights *w)
{
    rf_pool_weights *p = &w->pool;
    rf_linear *const maps[] = {
        &w->patch, &w->ln_pre, &w->ln_final, &w->projection, &w->head, &w->head_distilled,
        &p->ln_q,  &p->ln_k,   &p->q,        &p->k,          &p->v,    &p->o,
        &p->ln,    &p->fc1,    &p->fc2};
    move_maps(m, maps, sizeof maps / sizeof maps[0]);
    move_view(m, &w->token);
    move_view(m, &w->prefix_token);
    move_view(m, &w->position);
    move_view(m, &p->probe);
    for (int64_t l = 0; l < c->n_layers; l++) {
        move_block(m, &w->blocks[l]);
    }
    for (int64_t i = 0; i < w->n_params; i++) {
        move_view(m, &w->params[i].view);
    }
}

rf_status rf_biases_add(rf_vit *vit, rf_stream *s, const rf_new_bias *biases, int64_t n)
{
    rf_status status = RF_OK;
    rf_vit_weights *w = &vit->weights;
    int64_t n_floats = w->n_floats;
    void *arena = NULL;
    rf_param *params = rf_realloc(w->params, w->n_params, w->n_params + n, sizeof *params);
    RF_TRY(params == NULL ? RF_ERR_NO_MEMORY : RF_OK);
    w->params = params;
    for (int64_t i = 0; i < n; i++) {
        n_floats += rf_ceil_div(biases[i].map->weight.shape[1], ALIGN_FLOATS) * ALIGN_FLOATS;
    }
    RF_TRY(rf_memory_alloc(vit->be, RF_MEMORY_DEVICE, (size_t)n_floats * sizeof(float), &arena));
    RF_TRY(rf_copy_within(s, arena, w->arena, (size_t)w->n_floats * sizeof(float)));
    RF_TRY(rf_stream_synchronise(s));
    const move m = {w->arena, arena};
    move_all(&m, &vit->config, w);
    float *end = m.to + w->n_floats;
    for (int64_t i = 0; i < n; i++) {
        const int64_t width = biases[i].map->weight.shape[1];
        biases[i].map->bias = rf_view_1d(end, width);
        rf_param *param = &w->params[w->n_params++];
        param->view = biases[i].map->bias;
        memcpy(param->name, biases[i].name, sizeof param->name);
        end += rf_ceil_div(width, ALIGN_FLOATS) * ALIGN_FLOATS;
    }
    rf_memory_free(vit->be, RF_MEMORY_DEVICE, w->arena);
    rf_memory_free(vit->be, RF_MEMORY_DEVICE, w->half); /* made again with what is derived */
    w->half = NULL;
    w->arena = arena;
    w->n_floats = n_floats;
    arena = NULL;
fail:
    rf_memory_free(vit->be, RF_MEMORY_DEVICE, arena);
    return status;
}
