/* A model against a reference: one pass, the largest error of every point. */
#include "vit_impl.h"

#include <math.h>
#include <string.h>

void rf_comparison_fini(rf_comparison *c)
{
    if (c != NULL) {
        rf_free(c->points);
        rf_free(c->missing);
        rf_free(c->extra);
        *c = (rf_comparison){0};
    }
}

bool rf_compared_is_close(const rf_compared *p)
{
    return p->error <= p->allowed; /* false for what is not a number */
}

static bool is_worse(const rf_compared *a, const rf_compared *b)
{
    const bool a_is_close = rf_compared_is_close(a), b_is_close = rf_compared_is_close(b);
    return a_is_close != b_is_close ? b_is_close : a->error > b->error;
}

int64_t rf_comparison_worst(const rf_comparison *c, int64_t layer)
{
    int64_t worst = -1;
    for (int64_t i = 0; i < c->n_points; i++) {
        if ((layer == RF_ANY_LAYER || c->points[i].layer == layer) &&
            (worst < 0 || is_worse(&c->points[i], &c->points[worst]))) {
            worst = i;
        }
    }
    return worst;
}

/* ---- the reference --------------------------------------------------------------------------- */

static rf_status find_input(const rf_tensor_file *reference, const rf_named_tensor **out)
{
    rf_status status = RF_OK;
    *out = rf_tensor_file_find(reference, "input");
    if (*out == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "the reference holds no 'input'; launch/dump-reference makes one");
    }
    const bool is_text = (*out)->dtype == RF_FILE_I64;
    const int n_dims = (*out)->n_dims;
    if (is_text ? n_dims != 2 : n_dims != 4 && n_dims != 5) {
        RF_FAIL(RF_ERR_FORMAT,
                "the reference's 'input' has %d dimensions, expected 4 (pictures), 5 (clips) or 2 "
                "of type I64 (token ids)",
                n_dims);
    }
fail:
    return status;
}

rf_status rf_vit_reference_opts(const rf_tensor_file *reference, rf_vit_opts *out)
{
    rf_status status = RF_OK;
    const rf_named_tensor *input = NULL;
    RF_TRY(find_input(reference, &input));
    out->tower = input->n_dims == 2 ? RF_TOWER_TEXT : RF_TOWER_VISION;
    if (input->n_dims > 2) {
        out->image_height = input->shape[input->n_dims - 2];
        out->image_width = input->shape[input->n_dims - 1];
    }
fail:
    return status;
}

/* The input in device memory; token ids as they are, pixels as fp32. */
static rf_status load_input(rf_stream *s, const rf_named_tensor *t, rf_view *out)
{
    rf_status status = RF_OK;
    float *pixels = NULL;
    void *device = NULL;
    const bool is_text = t->dtype == RF_FILE_I64;
    const rf_dtype dtype = is_text ? RF_I64 : RF_F32;
    const size_t n_bytes = (size_t)t->n_elems * rf_dtype_bytes(dtype);
    RF_TRY(rf_memory_alloc(rf_stream_backend(s), RF_MEMORY_DEVICE, n_bytes, &device));
    *out = rf_view_nd(device, dtype, t->n_dims, t->shape);
    if (is_text) {
        RF_TRY(rf_copy_in(s, device, t->bytes, n_bytes));
    } else {
        RF_ALLOC(pixels, t->n_elems);
        RF_TRY(rf_named_tensor_read_f32(t, pixels));
        RF_TRY(rf_copy_in(s, device, pixels, n_bytes));
    }
    RF_TRY(rf_stream_synchronise(s));
fail:
    rf_free(pixels);
    return status;
}

/* ---- one point ------------------------------------------------------------------------------- */

/* |a - b| / max(|b|, least) of n numbers; equal infinities (masked scores) count as equal. */
static double row_error(const float *a, const float *b, int64_t n, double least)
{
    double error = 0.0, norm = 0.0;
    for (int64_t i = 0; i < n; i++) {
        if (isinf(b[i]) && a[i] == b[i]) {
            continue;
        }
        const double d = (double)a[i] - (double)b[i];
        error += d * d;
        norm += (double)b[i] * (double)b[i];
    }
    error = error == 0.0 ? 0.0 : sqrt(error) / fmax(sqrt(norm), least);
    return isfinite(error) ? error : INFINITY;
}

static double largest_error(const float *a, const float *b, int64_t n, int64_t row, double least)
{
    double most = 0.0;
    for (int64_t i = 0; i < n / row; i++) {
        most = fmax(most, row_error(a + i * row, b + i * row, row, least));
    }
    return most;
}

static rf_status append_dims(rf_str *s, int n_dims, const int64_t *shape)
{
    rf_status status = RF_OK;
    for (int i = 0; i < n_dims; i++) {
        RF_TRY(rf_str_append(s, "%s%" PRId64, i == 0 ? "[" : ", ", shape[i]));
    }
    RF_TRY(rf_str_append(s, "]"));
fail:
    return status;
}

static rf_status check_shape(const char *name, const rf_view *got, const rf_named_tensor *want)
{
    rf_status status = RF_OK;
    rf_str text = {0};
    bool is_same = got->n_dims == want->n_dims;
    for (int i = 0; is_same && i < got->n_dims; i++) {
        is_same = got->shape[i] == want->shape[i];
    }
    if (!is_same) {
        RF_TRY(append_dims(&text, got->n_dims, got->shape));
        RF_TRY(rf_str_append(&text, " in the model and "));
        RF_TRY(append_dims(&text, want->n_dims, want->shape));
        RF_FAIL(RF_ERR_FORMAT, "%s is %s in the reference", name, text.data);
    }
fail:
    rf_str_fini(&text);
    return status;
}

/* What is allowed at a point of the reference. */
static rf_status find_allowed(const rf_tensor_file *reference, const char *name, double tolerance,
                              double *out)
{
    rf_status status = RF_OK;
    char key[2 * RF_NAME_LEN];
    float rounding = 0.0f;
    RF_TRY(rf_format(key, sizeof key, "rounding/%s", name));
    const rf_named_tensor *t = rf_tensor_file_find(reference, key);
    if (t != NULL && t->n_elems == 1) {
        RF_TRY(rf_named_tensor_read_f32(t, &rounding));
    }
    *out = rounding > 0.0f ? fmax(tolerance, 2.0 * (double)rounding) : tolerance;
fail:
    return status;
}

typedef struct comparing {
    const rf_tensor_file *reference;
    double tolerance;
    rf_comparison *result;
} comparing;

/* Compare `act` with the tensor of `point`'s name; `row` is the length of a token's vector. */
static rf_status compare(comparing *c, const rf_hook_point *point, int64_t row, const rf_view *act,
                         rf_stream *s)
{
    rf_status status = RF_OK;
    float *got = NULL, *want = NULL;
    rf_compared *p = &c->result->points[c->result->n_points];
    const rf_named_tensor *t = rf_tensor_file_find(c->reference, point->name);
    const int64_t n = rf_view_n_elems(act);
    /* The softmax reads scores as they are: beside 1, what is left of one that cancels is small. */
    const double least = point->site == RF_SITE_ATTN_SCORES ? 1.0 : 1e-30;
    RF_TRY(check_shape(point->name, act, t));
    RF_ALLOC(got, n);
    RF_ALLOC(want, n);
    RF_TRY(rf_copy_out(s, got, act->data, (size_t)n * sizeof *got));
    RF_TRY(rf_stream_synchronise(s));
    RF_TRY(rf_named_tensor_read_f32(t, want));
    RF_TRY(rf_format(p->name, sizeof p->name, "%s", point->name));
    p->layer = point->layer;
    p->error = largest_error(got, want, n, row, least);
    RF_TRY(find_allowed(c->reference, point->name, c->tolerance, &p->allowed));
    c->result->n_points++;
fail:
    rf_free(want);
    rf_free(got);
    return status;
}

static rf_status compare_point(void *user, const rf_hook_point *point, const rf_view *act,
                               rf_stream *s)
{
    const int64_t last = act->shape[act->n_dims - 1];
    const bool in_heads =
        point->shape == RF_HOOK_HEADS || point->shape == RF_HOOK_HEAD_RESID; /* heads together */
    const int64_t row = in_heads ? act->shape[act->n_dims - 2] * last : last;
    return compare(user, point, row, act, s);
}

static rf_status compare_output(comparing *c, const char *name, int64_t layer, const rf_view *out,
                                rf_stream *s)
{
    rf_status status = RF_OK;
    const bool is_there = out->data != NULL;
    const bool is_wanted = rf_tensor_file_find(c->reference, name) != NULL;
    rf_comparison *r = c->result;
    if (is_there && is_wanted) {
        rf_hook_point point = {.site = RF_SITE_POST_HEAD, .layer = layer};
        RF_TRY(rf_format(point.name, sizeof point.name, "%s", name));
        RF_TRY(compare(c, &point, out->shape[1], out, s));
    } else if (is_wanted) {
        RF_TRY(rf_format(r->missing[r->n_missing++], RF_NAME_LEN, "%s", name));
    } else if (is_there) {
        RF_TRY(rf_format(r->extra[r->n_extra++], RF_NAME_LEN, "%s", name));
    }
fail:
    return status;
}

/* ---- all points ------------------------------------------------------------------------------ */

static bool is_point_name(const char *name)
{
    static const char *const others[] = {"input", "embedding", "logits"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (strcmp(name, others[i]) == 0) {
            return false;
        }
    }
    return strchr(name, '/') == NULL; /* rounding/..., edited/... */
}

static rf_status list_missing(comparing *c, const rf_hook_point *points, int64_t n_points)
{
    rf_status status = RF_OK;
    rf_comparison *r = c->result;
    for (int64_t i = 0; i < rf_tensor_file_count(c->reference); i++) {
        const char *name = rf_tensor_file_at(c->reference, i)->name;
        bool is_known = !is_point_name(name);
        for (int64_t j = 0; !is_known && j < n_points; j++) {
            is_known = strcmp(points[j].name, name) == 0;
        }
        if (!is_known) {
            RF_TRY_DOING(rf_format(r->missing[r->n_missing], RF_NAME_LEN, "%s", name),
                         "a name in the reference");
            r->n_missing++;
        }
    }
fail:
    return status;
}

/* A hook for each point that both have, and the names that only one has. */
static rf_status match_points(comparing *c, const rf_hook_point *points, int64_t n_points,
                              rf_hook *hooks, int64_t *n_hooks)
{
    rf_status status = RF_OK;
    rf_comparison *r = c->result;
    *n_hooks = 0;
    for (int64_t i = 0; i < n_points; i++) {
        if (rf_tensor_file_find(c->reference, points[i].name) != NULL) {
            hooks[(*n_hooks)++] = (rf_hook){points[i], compare_point, c};
        } else if (!points[i].is_on_request) {
            RF_TRY(rf_format(r->extra[r->n_extra++], RF_NAME_LEN, "%s", points[i].name));
        }
    }
    RF_TRY(list_missing(c, points, n_points));
fail:
    return status;
}

rf_status rf_vit_compare(rf_vit *vit, rf_stream *s, const rf_tensor_file *reference,
                         double tolerance, rf_comparison *out)
{
    rf_status status = RF_OK;
    const rf_vit_config *config = rf_vit_get_config(vit);
    const int64_t n_named = rf_tensor_file_count(reference);
    rf_hook_point *points = NULL;
    rf_hook *hooks = NULL;
    rf_view input = {0};
    int64_t n_points = 0, n_hooks = 0;
    const rf_named_tensor *stored = NULL;
    rf_vit_output output = {0};
    comparing c = {reference, tolerance, out};

    *out = (rf_comparison){0};
    RF_TRY(find_input(reference, &stored));
    RF_TRY(rf_vit_hook_list(config, &points, &n_points));
    RF_ALLOC(hooks, n_points);
    RF_ALLOC(out->points, n_points + 2);
    RF_ALLOC(out->extra, n_points + 2);
    RF_ALLOC(out->missing, n_named);
    RF_TRY(match_points(&c, points, n_points, hooks, &n_hooks));
    RF_TRY(load_input(s, stored, &input));
    const rf_vit_run_args args = {.input = input, .hooks = hooks, .n_hooks = n_hooks};
    RF_TRY(rf_vit_run(vit, s, &args, &output));
    RF_TRY(compare_output(&c, "embedding", config->n_layers, &output.embedding, s));
    RF_TRY(compare_output(&c, "logits", config->n_layers, &output.logits, s));
fail:
    rf_memory_free(rf_stream_backend(s), RF_MEMORY_DEVICE, input.data);
    rf_free(hooks);
    rf_free(points);
    if (status != RF_OK) {
        rf_comparison_fini(out);
    }
    return status;
}
