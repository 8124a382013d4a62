/* Whether a plan fits on its devices and, where it does not, what would: each change alone, with
 * the figure that is enough. */
#include "plan_impl.h"

#include <math.h>

enum { MOST_RANKS = 1024 };

/* ---- one change each: *found says whether any figure is enough
 * -----------------------------------
 */

static rf_status try_passes(rf_plan *p, const rf_plan_layout *set, int64_t *coders_at_once,
                            bool *found)
{
    rf_status status = RF_OK;
    rf_plan_layout layout;

    *found = false;
    if (p->settings->activations.source == RF_ACTIVATIONS_BOTH) { /* one pass, or it is refused */
        return RF_OK;
    }
    RF_TRY(rf_plan_find_passes(p, set->ranks_per_coder, &layout));
    *found = rf_plan_fits(p, &layout);
    *coders_at_once = layout.coders_at_once;
fail:
    return status;
}

/* Batches of all coders, halved until they fit. *tokens is of the coder with most. */
static rf_status try_batches(rf_plan *p, const rf_plan_layout *set, int64_t *tokens, bool *found)
{
    rf_status status = RF_OK;
    const int64_t n = p->settings->n_coders;
    rf_coder_spec *specs = NULL;

    *found = false;
    RF_ALLOC(specs, n);
    for (int64_t i = 0; i < n; i++) {
        specs[i] = p->settings->coders[i];
        p->coders[i].spec = &specs[i];
    }
    do {
        rf_plan_layout layout = *set;
        *tokens = 0;
        for (int64_t i = 0; i < n; i++) {
            int64_t *batch = &specs[i].train.batch_tokens;
            *batch = rf_max_i64(rf_min_i64(*batch, RF_TOKEN_TILE), *batch / 2);
            *tokens = rf_max_i64(*tokens, *batch);
        }
        RF_TRY(rf_plan_lay_out(p, &layout, NULL));
        *found = rf_plan_fits(p, &layout);
    } while (!*found && *tokens > RF_TOKEN_TILE);
fail:
    for (int64_t i = 0; i < n; i++) {
        p->coders[i].spec = &p->settings->coders[i];
    }
    rf_free(specs);
    return status;
}

static rf_status try_ranks(rf_plan *p, const rf_plan_layout *set, int *n_ranks, bool *found)
{
    rf_status status = RF_OK;
    const int now = p->n_ranks;

    *found = false;
    for (*n_ranks = 2 * now; !*found && *n_ranks <= MOST_RANKS; *n_ranks *= 2) {
        rf_plan_layout layout = *set;
        p->n_ranks = *n_ranks;
        RF_TRY(rf_plan_lay_out(p, &layout, NULL));
        *found = rf_plan_fits(p, &layout);
    }
    *n_ranks /= 2;
fail:
    p->n_ranks = now;
    return status;
}

/* ---- what is said of it ------------------------------------------------------------------------
 */

static rf_status append_changes(rf_plan *p, const rf_plan_layout *set, bool *any, rf_str *out)
{
    rf_status status = RF_OK;
    int64_t figure = 0;
    int n_ranks = 0;
    bool found = false;

    *any = false;
    RF_TRY(try_passes(p, set, &figure, &found));
    if (found) {
        RF_TRY(rf_str_append(out, "  train.coders_at_once=%" PRId64 "\n", figure));
    }
    *any = *any || found;
    RF_TRY(try_batches(p, set, &figure, &found));
    if (found) {
        RF_TRY(rf_str_append(out,
                             "  train.batch_tokens=%" PRId64
                             ", and what a coder sets for itself by the same factor\n",
                             figure));
    }
    *any = *any || found;
    RF_TRY(try_ranks(p, set, &n_ranks, &found));
    if (found) {
        RF_TRY(rf_str_append(out, "  %d ranks, a device each\n", n_ranks));
    }
    *any = *any || found;
fail:
    return status;
}

/* What to look at where none of the three is enough. */
static rf_status append_largest_part(const rf_plan_memory *m, rf_str *out)
{
    const struct {
        double bytes;
        const char *what;
    } parts[] = {
        {m->parameters + m->moments + m->gradients,
         "parameters, moments and gradients: fewer latents (latents, expansion)"},
        {m->work + m->scratch, "work space and scratch of a step: a smaller train.batch_tokens and "
                               "train.coders_at_once together"},
        {m->pool + m->images, "pool of activations: lower activations.pool_groups"},
        {m->model, "model: lower activations.group_pictures, or cache its activations first "
                   "(refract cache, activations.source=store)"},
        {m->libraries, "work space of libraries: the device is too small for any run"},
    };
    int most = 0;
    for (int i = 1; i < (int)(sizeof parts / sizeof parts[0]); i++) {
        most = parts[i].bytes > parts[most].bytes ? i : most;
    }
    return rf_str_append(out,
                         "  none of coders_at_once, batch_tokens and more ranks alone; most of it "
                         "is %s\n",
                         parts[most].what);
}

rf_status rf_plan_append_advice(rf_plan *p, const rf_plan_layout *set, rf_str *out)
{
    rf_status status = RF_OK;
    char all[32], here[32];
    rf_str changes = {0};
    bool any = false;

    rf_format_bytes(set->memory.all, all);
    rf_format_bytes(p->free_bytes, here);
    if (!p->on_device && p->settings->train.device == RF_DEVICE_AUTO) {
        return rf_str_append(out, "that is on this CPU; for GPUs elsewhere say their train.device "
                                  "and device_memory=80GB\n");
    }
    if (!p->on_device) {
        return RF_OK;
    }
    if (!(p->free_bytes > 0)) {
        return rf_str_append(out, "this machine has no device to ask whether that fits: "
                                  "device_memory=80GB says what yours has\n");
    }
    if (rf_plan_fits(p, set)) {
        return rf_str_append(out, "that fits: %s of %s\n", all, here);
    }
    RF_TRY(append_changes(p, set, &any, &changes));
    RF_TRY(rf_str_append(out, "that does NOT fit: %s of %s; %s\n", all, here,
                         any ? "one of these would" : "no change would alone"));
    if (any) {
        RF_TRY(rf_str_append(out, "%s", changes.data));
    } else {
        RF_TRY(append_largest_part(&set->memory, out));
    }
fail:
    rf_str_fini(&changes);
    return status;
}
