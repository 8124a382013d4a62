/* Adam's moments of one coder. */
#include "step_impl.h"

#include <stdio.h>

enum { N_MOMENTS = 2, UPDATES = N_MOMENTS * RF_CODER_N_PARAMETERS, N_TENSORS = UPDATES + 1 };

struct rf_optimiser {
    rf_backend *backend;
    void *arena;
    rf_view views[N_TENSORS];
    char names[N_TENSORS][32];
};

static size_t padded_bytes(const rf_view *v)
{
    return ((size_t)rf_view_n_elems(v) * rf_dtype_bytes(v->dtype) + 63) / 64 * 64;
}

/* Views and names; returns the bytes of the arena. */
static size_t lay_out(rf_optimiser *opt, const rf_coder *coder, char *arena)
{
    size_t used = 0;
    for (int i = 0; i < UPDATES; i++) {
        const rf_coder_tensor t = rf_coder_tensor_at(coder, i % RF_CODER_N_PARAMETERS);
        opt->views[i] = t.view;
        opt->views[i].data = arena == NULL ? NULL : arena + used;
        used += padded_bytes(&t.view);
        snprintf(opt->names[i], sizeof opt->names[i], "%s/%s",
                 i < RF_CODER_N_PARAMETERS ? "m" : "v", t.name);
    }
    opt->views[UPDATES] =
        rf_view_nd(arena == NULL ? NULL : arena + used, RF_I64, 1, (int64_t[]){1});
    snprintf(opt->names[UPDATES], sizeof opt->names[UPDATES], "updates");
    return used + padded_bytes(&opt->views[UPDATES]);
}

rf_status rf_optimiser_create(rf_backend *be, const rf_coder *coder, rf_optimiser **out)
{
    rf_status status = RF_OK;
    rf_optimiser *opt = NULL;

    RF_ALLOC(opt, 1);
    opt->backend = be;
    RF_TRY_DOING(rf_memory_alloc(be, RF_MEMORY_DEVICE, lay_out(opt, coder, NULL), &opt->arena),
                 "moments of coder '%s'", rf_coder_get_settings(coder)->name);
    lay_out(opt, coder, opt->arena);
    *out = opt;
    opt = NULL;
fail:
    rf_optimiser_destroy(opt);
    return status;
}

void rf_optimiser_destroy(rf_optimiser *opt)
{
    if (opt != NULL) {
        rf_memory_free(opt->backend, RF_MEMORY_DEVICE, opt->arena);
        rf_free(opt);
    }
}

int rf_optimiser_n_tensors(const rf_optimiser *opt)
{
    (void)opt;
    return N_TENSORS;
}

const char *rf_optimiser_tensor_name(const rf_optimiser *opt, int idx)
{
    return opt->names[idx];
}

rf_view rf_optimiser_tensor_view(const rf_optimiser *opt, int idx)
{
    return opt->views[idx];
}

rf_view rf_optimiser_moment(const rf_optimiser *opt, int moment, int idx)
{
    return opt->views[moment * RF_CODER_N_PARAMETERS + idx];
}

rf_status rf_optimiser_get_updates(const rf_optimiser *opt, rf_stream *s, int64_t *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_copy_out(s, out, opt->views[UPDATES].data, sizeof *out));
    RF_TRY(rf_stream_synchronise(s));
fail:
    return status;
}

rf_status rf_optimiser_set_updates(rf_optimiser *opt, rf_stream *s, int64_t updates)
{
    rf_status status = RF_OK;
    RF_TRY(rf_copy_in(s, opt->views[UPDATES].data, &updates, sizeof updates));
    RF_TRY(rf_stream_synchronise(s)); /* `updates` goes */
fail:
    return status;
}
