/* Weight processing: which part a model has room for, and the walk over its weights. A block is
 * copied to the host in double, processed, and written back.
 *
 * Where a part would change what the model gives, that part is left alone:
 *   norms behind the branches   their norms are not folded, nothing is centred
 *   ln_final                    folded into a projection, or into the keys and values of an
 *                               attention pool that alone reads it; a model whose embedding is the
 *                               pooled vector keeps it
 *   ln_pre                      never folded: it writes to the stream; what comes before it is not
 *                               centred, it takes the mean out itself
 *   a norm between z and W_O    is folded into W_O; b_V stays, and so do W_V and W_O
 *   no b_O                      b_V stays, and with it W_V and W_O
 *   rotary positions            W_Q and W_K stay
 *   tokens read without a norm  nothing is centred */
#include "process_impl.h"

#include <string.h>

/* ---- what a model has room for -------------------------------------------------------------- */

/* Everything that reads the residual stream takes its mean out first. */
static bool readers_take_mean_out(const rf_vit *vit)
{
    const rf_vit_config *c = &vit->config;
    const bool pool_reads_stream = c->norm_is_behind_pool && c->pool == RF_POOL_ATTENTION &&
                                   vit->weights.pool.ln_k.weight.data == NULL;
    return c->norm_place == RF_NORM_BEFORE && c->has_ln_final && !pool_reads_stream;
}

/* The linear maps that alone read ln_final; 0 where it has other readers. */
static int find_final_readers(rf_vit *vit, rf_linear *readers[2])
{
    const rf_vit_config *c = &vit->config;
    rf_vit_weights *w = &vit->weights;
    const bool pool_reads = c->pool == RF_POOL_ATTENTION && !c->norm_is_behind_pool;
    if (!c->has_ln_final || w->ln_final.weight.data == NULL) {
        return 0;
    }
    if (pool_reads) {
        readers[0] = &w->pool.k;
        readers[1] = &w->pool.v;
        return w->pool.ln_k.weight.data == NULL ? 2 : 0;
    }
    readers[0] = &w->projection;
    return c->has_projection && c->n_classes == 0 ? 1 : 0;
}

static bool can_fold_value_bias(const rf_vit_config *c, const rf_block_weights *w)
{
    return !c->has_attn_norm && w->v.bias.data != NULL && w->o.bias.data != NULL;
}

static bool can_refactor_ov(const rf_vit_config *c, const rf_block_weights *w)
{
    return !c->has_attn_norm && (w->v.bias.data == NULL || w->o.bias.data != NULL);
}

/* ---- host copies ---------------------------------------------------------------------------- */

static rf_status pull(rf_stream *s, const rf_view *view, rf_matrix *m)
{
    rf_status status = RF_OK;
    float *host = NULL;
    *m = (rf_matrix){.view = *view};
    if (view->data == NULL) {
        return RF_OK;
    }
    RF_BUG(rf_view_is_contiguous(view), "a weight that is not contiguous");
    const int64_t n = rf_view_n_elems(view);
    m->n_cols = view->shape[view->n_dims - 1];
    m->n_rows = n / m->n_cols;
    RF_ALLOC(host, n);
    RF_ALLOC(m->x, n);
    RF_TRY(rf_copy_out(s, host, view->data, (size_t)n * sizeof *host));
    RF_TRY(rf_stream_synchronise(s));
    for (int64_t i = 0; i < n; i++) {
        m->x[i] = (double)host[i];
    }
fail:
    rf_free(host);
    return status;
}

static rf_status push(rf_stream *s, const rf_matrix *m)
{
    rf_status status = RF_OK;
    const int64_t n = m->n_rows * m->n_cols;
    float *host = NULL;
    if (m->x == NULL) {
        return RF_OK;
    }
    RF_ALLOC(host, n);
    for (int64_t i = 0; i < n; i++) {
        host[i] = (float)m->x[i];
    }
    RF_TRY(rf_copy_in(s, m->view.data, host, (size_t)n * sizeof *host));
    RF_TRY(rf_stream_synchronise(s)); /* the staging array goes away */
fail:
    rf_free(host);
    return status;
}

static rf_status pull_map(rf_stream *s, const rf_linear *from, rf_map *m)
{
    rf_status status = RF_OK;
    RF_TRY(pull(s, &from->weight, &m->w));
    RF_TRY(pull(s, &from->bias, &m->b));
fail:
    return status;
}

static rf_status push_map(rf_stream *s, const rf_map *m)
{
    rf_status status = RF_OK;
    RF_TRY(push(s, &m->w));
    RF_TRY(push(s, &m->b));
fail:
    return status;
}

static void free_map(rf_map *m)
{
    rf_free(m->w.x);
    rf_free(m->b.x);
    *m = (rf_map){0};
}

/* ---- one block ------------------------------------------------------------------------------ */

typedef enum part {
    LN1,
    Q,
    K,
    V,
    ATTN_LN,
    O,
    LN2,
    GATE,
    FC1,
    MLP_LN,
    FC2,
    SCALE1,
    SCALE2,
    N_PARTS
} part;

/* A norm that is there, into the readers that are there. */
static unsigned fold(rf_map *norm, rf_map *const *readers, int n)
{
    if (norm->w.x == NULL) {
        return 0;
    }
    rf_fold_norm(norm, readers, n);
    return RF_FOLD_LN;
}

static unsigned fold_norms(const rf_vit_config *c, rf_map m[N_PARTS])
{
    rf_map *const qkv[] = {&m[Q], &m[K], &m[V]}, *const mlp[] = {&m[FC1], &m[GATE]};
    rf_map *const o[] = {&m[O]}, *const fc2[] = {&m[FC2]};
    unsigned done = fold(&m[ATTN_LN], o, 1) | fold(&m[MLP_LN], fc2, 1);
    if (c->norm_place == RF_NORM_BEFORE) {
        done |= fold(&m[LN1], qkv, 3) | fold(&m[LN2], mlp, c->is_gated ? 2 : 1);
    }
    return done;
}

static unsigned centre_block(rf_map m[N_PARTS])
{
    rf_fold_scale(&m[O], &m[SCALE1].w);
    rf_fold_scale(&m[FC2], &m[SCALE2].w);
    rf_centre_rows(&m[O].w);
    rf_centre_rows(&m[O].b);
    rf_centre_rows(&m[FC2].w);
    rf_centre_rows(&m[FC2].b);
    return RF_CENTRE_WRITING;
}

static rf_status refactor(const rf_vit_config *c, const rf_block_weights *w, rf_map m[N_PARTS],
                          unsigned *done)
{
    rf_status status = RF_OK;
    if (can_refactor_ov(c, w)) {
        if (can_fold_value_bias(c, w)) {
            rf_fold_value_bias(&m[V], &m[O]);
        }
        RF_TRY(rf_refactor_ov(&m[V], &m[O], c->n_heads));
        *done |= RF_REFACTOR_ATTENTION;
    }
    if (c->rope == RF_ROPE_NONE) {
        RF_TRY(rf_refactor_qk(&m[Q], &m[K], c->n_heads));
        *done |= RF_REFACTOR_ATTENTION;
    }
fail:
    return status;
}

static rf_status process_block(rf_vit *vit, rf_stream *s, int64_t layer, unsigned processing,
                               unsigned *done)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &vit->config;
    const rf_block_weights *w = &vit->weights.blocks[layer];
    const rf_linear parts[N_PARTS] = {[LN1] = w->ln1,
                                      [Q] = w->q,
                                      [K] = w->k,
                                      [V] = w->v,
                                      [ATTN_LN] = w->attn_ln,
                                      [O] = w->o,
                                      [LN2] = w->ln2,
                                      [GATE] = w->gate,
                                      [FC1] = w->fc1,
                                      [MLP_LN] = w->mlp_ln,
                                      [FC2] = w->fc2,
                                      [SCALE1] = {.weight = w->scale1},
                                      [SCALE2] = {.weight = w->scale2}};
    rf_map m[N_PARTS];
    memset(m, 0, sizeof m);
    for (int i = 0; i < N_PARTS; i++) {
        RF_TRY(pull_map(s, &parts[i], &m[i]));
    }
    if (processing & RF_FOLD_LN) {
        *done |= fold_norms(c, m);
    }
    if ((processing & RF_CENTRE_WRITING) && readers_take_mean_out(vit)) {
        *done |= centre_block(m);
    }
    if ((processing & RF_FOLD_VALUE_BIASES) && can_fold_value_bias(c, w)) {
        rf_fold_value_bias(&m[V], &m[O]);
        *done |= RF_FOLD_VALUE_BIASES;
    }
    if (processing & RF_REFACTOR_ATTENTION) {
        RF_TRY(refactor(c, w, m, done));
    }
    for (int i = 0; i < N_PARTS; i++) {
        RF_TRY(push_map(s, &m[i]));
    }
fail:
    for (int i = 0; i < N_PARTS; i++) {
        free_map(&m[i]);
    }
    return status;
}

/* ---- outside the blocks --------------------------------------------------------------------- */

static rf_status centre_view(rf_stream *s, const rf_view *view)
{
    rf_status status = RF_OK;
    rf_matrix m = {0};
    RF_TRY(pull(s, view, &m));
    rf_centre_rows(&m);
    RF_TRY(push(s, &m));
fail:
    rf_free(m.x);
    return status;
}

/* What the stream begins with. */
static rf_status centre_embeddings(rf_vit *vit, rf_stream *s)
{
    rf_status status = RF_OK;
    const rf_vit_weights *w = &vit->weights;
    const rf_view *const writers[] = {&w->patch.weight, &w->patch.bias, &w->token, &w->prefix_token,
                                      &w->position};
    for (size_t i = 0; i < sizeof writers / sizeof writers[0]; i++) {
        RF_TRY(centre_view(s, writers[i]));
    }
fail:
    return status;
}

static rf_status fold_ln_final(rf_vit *vit, rf_stream *s, unsigned *done)
{
    rf_status status = RF_OK;
    rf_linear *readers[2];
    rf_map norm, maps[2];
    rf_map *const into[2] = {&maps[0], &maps[1]};
    const int n = find_final_readers(vit, readers);
    if (n == 0) {
        return RF_OK;
    }
    memset(&norm, 0, sizeof norm);
    memset(maps, 0, sizeof maps);
    RF_TRY(pull_map(s, &vit->weights.ln_final, &norm));
    for (int i = 0; i < n; i++) {
        RF_TRY(pull_map(s, readers[i], &maps[i]));
    }
    *done |= fold(&norm, into, n);
    RF_TRY(push_map(s, &norm));
    for (int i = 0; i < n; i++) {
        RF_TRY(push_map(s, &maps[i]));
    }
fail:
    free_map(&norm);
    free_map(&maps[0]);
    free_map(&maps[1]);
    return status;
}

/* ---- room for the biases of norms ----------------------------------------------------------- */

enum { MAX_BIASES_OF_BLOCK = 7, MAX_BIASES_OF_END = 2 };

/* `map` reads `norm`: if that has a bias and the map has none, it needs one. */
static rf_status want_bias(const rf_linear *norm, rf_linear *map, rf_new_bias *list, int64_t *n,
                           const char *name)
{
    rf_status status = RF_OK;
    if (norm->bias.data != NULL && map->weight.data != NULL && map->bias.data == NULL) {
        list[*n].map = map;
        RF_TRY(rf_format(list[*n].name, sizeof list[*n].name, "%s", name));
        (*n)++;
    }
fail:
    return status;
}

static rf_status want_biases_of_block(rf_vit *vit, int64_t layer, rf_new_bias *list, int64_t *n)
{
    rf_status status = RF_OK;
    rf_block_weights *w = &vit->weights.blocks[layer];
    const rf_linear none = {0};
    const bool in_front = vit->config.norm_place == RF_NORM_BEFORE;
    const rf_linear *ln1 = in_front ? &w->ln1 : &none, *ln2 = in_front ? &w->ln2 : &none;
    const struct {
        const rf_linear *norm;
        rf_linear *map;
        const char *name;
    } readers[MAX_BIASES_OF_BLOCK] = {
        {ln1, &w->q, "attn.b_Q"},          {ln1, &w->k, "attn.b_K"},
        {ln1, &w->v, "attn.b_V"},          {ln2, &w->fc1, "mlp.b_in"},
        {ln2, &w->gate, "mlp.b_gate"},     {&w->attn_ln, &w->o, "attn.b_O"},
        {&w->mlp_ln, &w->fc2, "mlp.b_out"}};
    for (int i = 0; i < MAX_BIASES_OF_BLOCK; i++) {
        char name[RF_NAME_LEN];
        RF_TRY(rf_format(name, sizeof name, "blocks.%" PRId64 ".%s", layer, readers[i].name));
        RF_TRY(want_bias(readers[i].norm, readers[i].map, list, n, name));
    }
fail:
    return status;
}

static rf_status make_room(rf_vit *vit, rf_stream *s)
{
    rf_status status = RF_OK;
    const int64_t n_layers = vit->config.n_layers;
    rf_new_bias *list = NULL;
    rf_linear *readers[2];
    int64_t n = 0;
    RF_ALLOC(list, n_layers * MAX_BIASES_OF_BLOCK + MAX_BIASES_OF_END);
    for (int64_t l = 0; l < n_layers; l++) {
        RF_TRY(want_biases_of_block(vit, l, list, &n));
    }
    const int n_readers = find_final_readers(vit, readers);
    for (int i = 0; i < n_readers; i++) {
        const char *name = n_readers == 1 ? "proj.b" : i == 0 ? "pool.b_K" : "pool.b_V";
        RF_TRY(want_bias(&vit->weights.ln_final, readers[i], list, &n, name));
    }
    if (n > 0) {
        RF_TRY(rf_biases_add(vit, s, list, n));
    }
fail:
    rf_free(list);
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------ */

rf_status rf_vit_process_weights(rf_vit *vit, rf_stream *s, unsigned processing)
{
    rf_status status = RF_OK;
    unsigned done = 0;
    const unsigned all =
        RF_FOLD_LN | RF_CENTRE_WRITING | RF_FOLD_VALUE_BIASES | RF_REFACTOR_ATTENTION;
    RF_REQUIRE((processing & ~all) == 0, "unknown weight processing 0x%x", processing & ~all);
    if (processing == 0) {
        return RF_OK;
    }
    if (processing & RF_FOLD_LN) {
        RF_TRY(make_room(vit, s));
        RF_TRY(fold_ln_final(vit, s, &done));
    }
    if ((processing & RF_CENTRE_WRITING) && readers_take_mean_out(vit) && !vit->config.has_ln_pre) {
        RF_TRY(centre_embeddings(vit, s));
    }
    for (int64_t l = 0; l < vit->config.n_layers; l++) {
        RF_TRY(process_block(vit, s, l, processing, &done));
    }
    RF_TRY(rf_weights_derive(vit->be, s, &vit->config, vit->products, &vit->weights));
    RF_TRY(rf_stream_synchronise(s));
    vit->processing |= done;
fail:
    return status;
}

const char *rf_vit_processing_name(unsigned processing, char out[128])
{
    static const char *const names[] = {"fold_ln", "center_writing_weights", "fold_value_biases",
                                        "refactor_attention"};
    size_t at = 0;
    out[0] = '\0';
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if ((processing & (1U << i)) != 0) {
            if (at > 0) {
                out[at++] = '+';
            }
            memcpy(out + at, names[i], strlen(names[i]) + 1); /* all together are 77 bytes */
            at += strlen(names[i]);
        }
    }
    if (at == 0) {
        memcpy(out, "none", sizeof "none");
    }
    return out;
}
