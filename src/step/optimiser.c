/* What an optimiser remembers of one coder: moments, sums of gradients, the live copy. */
#include "step_impl.h"

#include <math.h>
#include <string.h>

enum {
    MAX_TENSORS = RF_OPTIMISER_N_PARTS * RF_CODER_N_PARAMETERS + 2,
    EXCHANGE_BLOCK = 1 << 16, /* floats that a swap moves at once */
};

struct rf_optimiser {
    rf_backend *backend;
    rf_optimiser_opts opts;
    void *arena; /* the tensors */
    float *work; /* of Muon, or of a swap; holds nothing between calls */
    rf_view parts[RF_OPTIMISER_N_PARTS][RF_CODER_N_PARAMETERS];
    rf_view rates, updates;
    int n_tensors;
    rf_view views[MAX_TENSORS];
    char names[MAX_TENSORS][48];
};

bool rf_optimiser_trains(const rf_coder *coder, int idx)
{
    const rf_coder_tensor t = rf_coder_tensor_at(coder, idx);
    return idx < RF_CODER_N_PARAMETERS && t.kind == RF_TENSOR_PARAMETER && t.view.data != NULL;
}

bool rf_optimiser_is_muon(const rf_optimiser *opt, int idx)
{
    return opt->opts.kind == RF_OPTIMISER_MUON &&
           (idx == RF_CODER_W_ENC || idx == RF_CODER_W_DEC || idx == RF_CODER_W_SKIP);
}

static bool has_part(const rf_optimiser *opt, rf_optimiser_part part, int idx)
{
    switch (part) {
    case RF_OPTIMISER_M:
        return true;
    case RF_OPTIMISER_V:
        return opt->opts.kind != RF_OPTIMISER_SIGNUM && !rf_optimiser_is_muon(opt, idx);
    case RF_OPTIMISER_SUM:
        return opt->opts.accumulate > 1;
    case RF_OPTIMISER_LIVE:
        return opt->opts.kind == RF_OPTIMISER_SCHEDULE_FREE;
    case RF_OPTIMISER_N_PARTS:
        break;
    }
    return false;
}

/* ---- memory -------------------------------------------------------------------------------- */

/* The next tensor, of the shape of `like`, at `*used` of the arena. */
static rf_status add_tensor(rf_optimiser *opt, const rf_view *like, const char *part,
                            const char *name, size_t *used, rf_view *out)
{
    rf_status status = RF_OK;
    size_t n_bytes = (size_t)rf_view_n_elems(like) * rf_dtype_bytes(like->dtype);
    *out = *like;
    out->data = opt->arena == NULL ? NULL : (char *)opt->arena + *used;
    opt->views[opt->n_tensors] = *out;
    RF_TRY(rf_format(opt->names[opt->n_tensors], sizeof opt->names[0], "%s%s", part, name));
    opt->n_tensors++;
    *used += (n_bytes + 63) / 64 * 64;
fail:
    return status;
}

/* Views and names, and the bytes of the arena. */
static rf_status lay_out(rf_optimiser *opt, const rf_coder *coder, size_t *used)
{
    static const char *const prefix[RF_OPTIMISER_N_PARTS] = {"m/", "v/", "sum/", "live/"};
    rf_status status = RF_OK;
    const rf_view one = rf_view_nd(NULL, RF_I64, 1, (int64_t[]){1});
    *used = 0;
    opt->n_tensors = 0;
    for (int part = 0; part < RF_OPTIMISER_N_PARTS; part++) {
        for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
            const rf_coder_tensor t = rf_coder_tensor_at(coder, i);
            if (rf_optimiser_trains(coder, i) && has_part(opt, (rf_optimiser_part)part, i)) {
                RF_TRY(add_tensor(opt, &t.view, prefix[part], t.name, used, &opt->parts[part][i]));
            }
        }
    }
    if (opt->opts.kind == RF_OPTIMISER_SCHEDULE_FREE) {
        RF_TRY(add_tensor(opt, &one, "", "rates", used, &opt->rates));
    }
    RF_TRY(add_tensor(opt, &one, "", "updates", used, &opt->updates));
fail:
    return status;
}

static int64_t work_of(const rf_optimiser *opt, const rf_coder *coder)
{
    int64_t n = opt->opts.kind == RF_OPTIMISER_SCHEDULE_FREE ? EXCHANGE_BLOCK : 0;
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        const rf_view v = rf_coder_view(coder, i);
        if (rf_optimiser_trains(coder, i) && rf_optimiser_is_muon(opt, i)) {
            n = rf_max_i64(n, rf_muon_work(v.shape[0], v.shape[1]));
        }
    }
    return n;
}

rf_status rf_optimiser_create(rf_backend *be, const rf_coder *coder, const rf_optimiser_opts *opts,
                              rf_optimiser **out)
{
    rf_status status = RF_OK;
    rf_optimiser *opt = NULL;
    void *work;
    size_t n_bytes = 0;

    RF_REQUIRE(opts->kind >= RF_OPTIMISER_ADAM && opts->kind <= RF_OPTIMISER_MUON,
               "optimiser %d is none", opts->kind);
    RF_ALLOC(opt, 1);
    opt->backend = be;
    opt->opts = *opts;
    RF_TRY(lay_out(opt, coder, &n_bytes));
    RF_TRY_DOING(rf_memory_alloc(be, RF_MEMORY_DEVICE, n_bytes, &opt->arena),
                 "moments of coder '%s'", rf_coder_get_settings(coder)->name);
    RF_TRY(lay_out(opt, coder, &n_bytes));
    RF_TRY_DOING(
        rf_memory_alloc(be, RF_MEMORY_DEVICE, sizeof(float) * (size_t)work_of(opt, coder), &work),
        "work space of the optimiser of coder '%s'", rf_coder_get_settings(coder)->name);
    opt->work = work;
    *out = opt;
    opt = NULL;
fail:
    rf_optimiser_destroy(opt);
    return status;
}

void rf_optimiser_destroy(rf_optimiser *opt)
{
    if (opt != NULL) {
        rf_memory_free(opt->backend, RF_MEMORY_DEVICE, opt->work);
        rf_memory_free(opt->backend, RF_MEMORY_DEVICE, opt->arena);
        rf_free(opt);
    }
}

int rf_optimiser_n_tensors(const rf_optimiser *opt)
{
    return opt->n_tensors;
}

const char *rf_optimiser_tensor_name(const rf_optimiser *opt, int idx)
{
    return opt->names[idx];
}

rf_view rf_optimiser_tensor_view(const rf_optimiser *opt, int idx)
{
    return opt->views[idx];
}

rf_view rf_optimiser_part_view(const rf_optimiser *opt, rf_optimiser_part part, int idx)
{
    return opt->parts[part][idx];
}

const rf_optimiser_opts *rf_optimiser_get_opts(const rf_optimiser *opt)
{
    return &opt->opts;
}

float *rf_optimiser_work(const rf_optimiser *opt)
{
    return opt->work;
}

/* ---- numbers ------------------------------------------------------------------------------- */

rf_status rf_optimiser_get_updates(const rf_optimiser *opt, rf_stream *s, int64_t *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_copy_out(s, out, opt->updates.data, sizeof *out));
    RF_TRY(rf_stream_synchronise(s));
fail:
    return status;
}

rf_status rf_optimiser_set_updates(rf_optimiser *opt, rf_stream *s, int64_t updates)
{
    rf_status status = RF_OK;
    RF_TRY(rf_copy_in(s, opt->updates.data, &updates, sizeof updates));
    RF_TRY(rf_stream_synchronise(s)); /* `updates` goes */
fail:
    return status;
}

rf_status rf_optimiser_average_weight(rf_optimiser *opt, rf_stream *s, double lr, double *out)
{
    rf_status status = RF_OK;
    double sum;
    RF_TRY(rf_copy_out(s, &sum, opt->rates.data, sizeof sum));
    RF_TRY(rf_stream_synchronise(s));
    sum += lr * lr;
    *out = sum > 0.0 ? lr * lr / sum : 0.0;
    RF_TRY(rf_copy_in(s, opt->rates.data, &sum, sizeof sum));
    RF_TRY(rf_stream_synchronise(s)); /* `sum` goes */
fail:
    return status;
}

/* ---- rows ---------------------------------------------------------------------------------- */

rf_status rf_rows_blend(rf_stream *s, const rf_rows_blend_args *args)
{
    const bool keeps_all = !(args->keep < 1.0);
    return rf_update_rows(
        s, &(rf_update_args){.kind = RF_UPDATE_PLAIN,
                             .w = args->to,
                             .g = args->from,
                             .touched = args->touched,
                             .grad_scale = args->scale,
                             .lr = -args->weight,
                             .weight_decay = keeps_all ? 0.0 : (args->keep - 1.0) / args->weight,
                             .t = 1});
}

static rf_status copy_view(rf_stream *s, const rf_view *to, const rf_view *from)
{
    return rf_copy_within(s, to->data, from->data, sizeof(float) * (size_t)rf_view_n_elems(from));
}

static rf_status exchange(rf_stream *s, const rf_view *a, const rf_view *b, float *work)
{
    rf_status status = RF_OK;
    const int64_t n = rf_view_n_elems(a);
    for (int64_t at = 0; at < n; at += EXCHANGE_BLOCK) {
        const size_t n_bytes = sizeof(float) * (size_t)rf_min_i64(EXCHANGE_BLOCK, n - at);
        RF_TRY(rf_copy_within(s, work, (float *)a->data + at, n_bytes));
        RF_TRY(rf_copy_within(s, (float *)a->data + at, (float *)b->data + at, n_bytes));
        RF_TRY(rf_copy_within(s, (float *)b->data + at, work, n_bytes));
    }
fail:
    return status;
}

rf_status rf_optimiser_swap_live(rf_optimiser *opt, rf_coder *coder, rf_stream *s)
{
    rf_status status = RF_OK;
    int64_t updates;
    if (opt->opts.kind != RF_OPTIMISER_SCHEDULE_FREE) {
        return RF_OK;
    }
    RF_TRY(rf_optimiser_get_updates(opt, s, &updates));
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        const rf_view own = rf_coder_view(coder, i), *live = &opt->parts[RF_OPTIMISER_LIVE][i];
        if (live->data == NULL) {
            continue;
        }
        if (updates == 0) { /* x, y and z are one: the start values */
            RF_TRY(copy_view(s, live, &own));
            RF_TRY(copy_view(s, &opt->parts[RF_OPTIMISER_M][i], &own));
        } else {
            RF_TRY(exchange(s, &own, live, opt->work));
        }
    }
    if (updates > 0) {
        RF_TRY(rf_coder_derive(coder, s));
    }
fail:
    return status;
}
