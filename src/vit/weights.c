/* Weights to the backend: read as fp32, linear maps transposed to [in, out] (the faster side of the
 * product), positions resampled, tables of relative positions spread out. */
#include "config_impl.h"

#include <math.h>
#include <string.h>

/* ---- one tensor -------------------------------------------------------------------------------
 */

static void transpose(const float *in, int64_t n_rows, int64_t n_cols, float *out)
{
    enum { TILE = 32 };
    for (int64_t i0 = 0; i0 < n_rows; i0 += TILE) {
        for (int64_t j0 = 0; j0 < n_cols; j0 += TILE) {
            for (int64_t j = j0; j < rf_min_i64(n_cols, j0 + TILE); j++) {
                for (int64_t i = i0; i < rf_min_i64(n_rows, i0 + TILE); i++) {
                    out[j * n_rows + i] = in[i * n_cols + j];
                }
            }
        }
    }
}

/* The same where a row holds a patch as (y, x, c): its rows come out as (c, y, x). */
static void transpose_yxc(const float *in, int64_t n_rows, int64_t n_cols, int64_t n_channels,
                          float *out)
{
    const int64_t area = n_cols / n_channels;
    for (int64_t c = 0; c < n_channels; c++) {
        for (int64_t a = 0; a < area; a++) {
            for (int64_t i = 0; i < n_rows; i++) {
                out[(c * area + a) * n_rows + i] = in[i * n_cols + a * n_channels + c];
            }
        }
    }
}

/* Positions of the prefix as they are (zero where it has none), those of the grid resampled where
 * it is another one. */
static rf_status fit_positions(const rf_vit_files *f, const float *in, int64_t n_rows, float *out)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &f->config;
    const int64_t d = c->d_model,
                  n_stored = n_rows - f->native_grid[0] * f->native_grid[1] * f->native_grid[2];
    const rf_grid from = {f->native_grid[1], f->native_grid[2]}, to = {c->grid[1], c->grid[2]};
    memset(out, 0, (size_t)(c->n_prefix * d) * sizeof *out);
    memcpy(out, in, (size_t)(n_stored * d) * sizeof *out);
    in += n_stored * d;
    out += c->n_prefix * d;
    if (from.height == to.height && from.width == to.width) {
        memcpy(out, in, (size_t)(c->n_patches * d) * sizeof *out);
    } else {
        RF_TRY(rf_interpolate_positions(f->draft.interpolation, in, from, d, out, to));
    }
fail:
    return status;
}

/* BEiT's table [(2h - 1)(2w - 1) + 3, H] to biases [H, T, T]: by the difference of places, and
 * three rows for the class token to others, others to it, and it to itself. */
static void spread_relative(const rf_vit_config *c, const float *table, float *out)
{
    const int64_t h = c->grid[1], w = c->grid[2], t = c->n_tokens, n_heads = c->n_heads;
    const int64_t n = (2 * h - 1) * (2 * w - 1) + 3;
    for (int64_t i = 0; i < t; i++) {
        for (int64_t j = 0; j < t; j++) {
            int64_t row = 0;
            if (i == 0 || j == 0) {
                row = i > 0 ? n - 2 : j > 0 ? n - 3 : n - 1;
            } else {
                const int64_t dy = (i - 1) / w - (j - 1) / w, dx = (i - 1) % w - (j - 1) % w;
                row = (dy + h - 1) * (2 * w - 1) + dx + w - 1;
            }
            for (int64_t head = 0; head < n_heads; head++) {
                out[(head * t + i) * t + j] += table[row * n_heads + head];
            }
        }
    }
}

static int64_t result_size(const rf_weights_item *it)
{
    int64_t n = 1;
    for (int i = 0; i < it->shape.n_dims; i++) {
        n *= it->shape.shape[i];
    }
    return n;
}

/* The item's rows of its tensor. */
static rf_status read_rows(const rf_weights_item *it, float *out)
{
    rf_named_tensor part = *it->tensor;
    const int64_t elem = part.n_elems > 0 ? part.n_bytes / part.n_elems : 0;
    part.n_elems = it->n_rows * it->n_cols;
    part.n_bytes = part.n_elems * elem;
    part.bytes += it->first_row * it->n_cols * elem;
    return rf_named_tensor_read_f32(&part, out);
}

/* Weights that are whole numbers, or not finite, are another file's or a broken one's. */
static rf_status check_values(const rf_named_tensor *t, const float *values, int64_t n)
{
    rf_status status = RF_OK;
    if (t->dtype > RF_FILE_BF16) {
        RF_FAIL(RF_ERR_FORMAT, "tensor '%s' holds whole numbers, expected weights", t->name);
    }
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(values[i])) {
            RF_FAIL(RF_ERR_FORMAT, "tensor '%s' holds %g", t->name, (double)values[i]);
        }
    }
fail:
    return status;
}

/* The array of `it` in `out`; `in` is room for what the file holds. */
static rf_status make_array(const rf_vit_files *f, const rf_weights_item *it, float *in, float *out)
{
    rf_status status = RF_OK;
    if (it->tensor != NULL) {
        float *read = it->layout == RF_LAYOUT_AS_STORED ? out : in;
        RF_TRY(read_rows(it, read));
        RF_TRY(check_values(it->tensor, read, it->n_rows * it->n_cols));
    }
    switch (it->layout) {
    case RF_LAYOUT_AS_STORED:
        break;
    case RF_LAYOUT_TRANSPOSED:
        transpose(in, it->n_rows, it->n_cols, out);
        break;
    case RF_LAYOUT_PATCH_YXC:
        transpose_yxc(in, it->n_rows, it->n_cols, f->config.n_channels, out);
        break;
    case RF_LAYOUT_POSITIONS:
        RF_TRY(fit_positions(f, in, it->n_rows, out));
        break;
    case RF_LAYOUT_RELATIVE:
        memset(out, 0, (size_t)result_size(it) * sizeof *out);
        spread_relative(&f->config, in, out);
        break;
    case RF_LAYOUT_RELATIVE_MORE: /* `out` is still the one before */
        spread_relative(&f->config, in, out);
        break;
    case RF_LAYOUT_SINUSOID:
        rf_sinusoid_table(f->config.n_tokens, f->config.d_model, out);
        break;
    }
fail:
    return status;
}

/* ---- all --------------------------------------------------------------------------------------
 */

static rf_status load_item(rf_stream *s, const rf_vit_files *f, const rf_weights_item *it,
                           rf_vit_weights *w, float *in, float *out)
{
    rf_status status = RF_OK;
    rf_view view = it->shape;
    RF_TRY(make_array(f, it, in, out));
    view.data = w->arena + it->offset;
    if (it->view != NULL) {
        *it->view = view;
    }
    if (it->name[0] != '\0') {
        rf_param *param = &w->params[w->n_params++];
        param->view = view;
        memcpy(param->name, it->name, sizeof it->name);
    }
    RF_TRY(rf_copy_in(s, view.data, out, (size_t)result_size(it) * sizeof *out));
    RF_TRY(rf_stream_synchronise(s)); /* the host buffers are used again */
fail:
    return status;
}

static rf_status load_all(rf_stream *s, const rf_weights_plan *p, rf_vit_weights *w)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = &p->files->config;
    float *in = NULL, *out = NULL;
    int64_t most_in = 1, most_out = 1;
    w->hash = RF_HASH_START;
    for (int64_t i = 0; i < p->n_items; i++) {
        const rf_weights_item *it = &p->items[i];
        most_in = rf_max_i64(most_in, it->tensor != NULL ? it->n_rows * it->n_cols : 0);
        most_out = rf_max_i64(most_out, result_size(it));
        if (it->tensor != NULL && it->first_row == 0) { /* rows of a matrix count once */
            w->hash = rf_hash(w->hash, it->tensor->bytes, (size_t)it->tensor->n_bytes);
        }
    }
    RF_ALLOC(in, most_in);
    RF_ALLOC(out, most_out);
    RF_ALLOC(w->params, p->n_items);
    for (int64_t i = 0; i < p->n_items; i++) {
        RF_TRY(load_item(s, p->files, &p->items[i], w, in, out));
    }
    if (w->prefix_token.data != NULL) { /* class, distillation and register tokens in one */
        w->prefix_token = rf_view_2d(w->prefix_token.data, c->n_prefix, c->d_model);
    }
fail:
    rf_free(in);
    rf_free(out);
    return status;
}

rf_status rf_weights_check(const rf_vit_files *files)
{
    rf_status status = RF_OK;
    rf_vit_weights w = {0};
    rf_weights_plan p = {.files = files, .capacity = 64 + 32 * files->config.n_layers};
    RF_ALLOC(w.blocks, files->config.n_layers);
    RF_ALLOC(p.items, p.capacity);
    RF_TRY_DOING(rf_weights_plan_all(&p, &w), "%s", files->folder);
fail:
    rf_free(p.items);
    rf_free(w.blocks);
    return status;
}

rf_status rf_weights_load(rf_backend *be, rf_stream *s, const rf_vit_files *files,
                          rf_vit_weights *out)
{
    rf_status status = RF_OK;
    rf_weights_plan p = {.files = files, .capacity = 64 + 32 * files->config.n_layers};
    *out = (rf_vit_weights){0};
    RF_ALLOC(out->blocks, files->config.n_layers);
    RF_ALLOC(p.items, p.capacity);
    RF_TRY_DOING(rf_weights_plan_all(&p, out), "%s", files->folder);
    out->n_floats = p.n_floats;
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)out->n_floats * sizeof(float),
                           (void **)&out->arena));
    RF_TRY_DOING(load_all(s, &p, out), "%s", files->folder);
    RF_TRY(rf_weights_derive(be, s, &files->config, files->opts.products, out));
    RF_TRY(rf_stream_synchronise(s));
fail:
    rf_free(p.items);
    if (status != RF_OK) {
        rf_weights_fini(be, out);
    }
    return status;
}

void rf_weights_fini(rf_backend *be, rf_vit_weights *w)
{
    rf_memory_free(be, RF_MEMORY_DEVICE, w->arena);
    rf_memory_free(be, RF_MEMORY_DEVICE, w->derived);
    rf_memory_free(be, RF_MEMORY_DEVICE, w->half);
    rf_free(w->params);
    rf_free(w->blocks);
    *w = (rf_vit_weights){0};
}
