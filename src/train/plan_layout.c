/* How a plan's coders are cut into passes and dealt out over the ranks, what a rank holds then, how
 * long it takes, and which way of doing it is best here. */
#include "plan_impl.h"

#include <math.h>
#include <string.h>

/* ---- one reading -------------------------------------------------------------------------------
 */

static void widen(rf_planned_site *site, const rf_planned_read *read, int64_t n_rows)
{
    const bool is_new = site->end_row == 0;
    site->first_row = is_new ? read->first_row : rf_min_i64(site->first_row, read->first_row);
    site->end_row = rf_max_i64(site->end_row, read->first_row + n_rows);
}

static void mark_sites(rf_plan *p, int64_t first, int64_t end, rf_plan_reading *out)
{
    for (int64_t s = 0; s < p->n_sites; s++) {
        p->sites[s].first_row = p->sites[s].end_row = 0;
    }
    for (int64_t i = first; i < end; i++) {
        const rf_planned_coder *c = &p->coders[i];
        for (int r = 0; r < c->n_reads; r++) {
            widen(&p->sites[c->reads[r].site], &c->reads[r], c->n_rows);
        }
        out->epochs = fmax(out->epochs, c->epochs);
    }
}

void rf_plan_read(rf_plan *p, int64_t first, int64_t end, rf_plan_reading *out)
{
    *out = (rf_plan_reading){0};
    for (int m = 0; m < p->settings->n_models; m++) {
        out->layers[m] = -2;
    }
    mark_sites(p, first, end, out);
    for (int64_t s = 0; s < p->n_sites; s++) {
        const rf_planned_site *site = &p->sites[s];
        const int64_t n_rows = site->end_row - site->first_row;
        if (n_rows > 0) {
            out->site_bytes += (double)n_rows * (double)site->point.width * sizeof(float);
            out->layers[site->model] = rf_max_i64(out->layers[site->model], site->point.layer);
        }
    }
    const double epoch_bytes = out->site_bytes * (double)p->n_pictures / p->n_ranks;
    if (out->epochs > 1 && epoch_bytes > 0) {
        out->kept_share = fmin(1, (double)p->settings->activations.keep_bytes / epoch_bytes);
    }
    out->n_forward = (double)p->n_pictures *
                     (fmin(out->epochs, 1) + fmax(out->epochs - 1, 0) * (1 - out->kept_share));
    for (int m = 0; m < p->settings->n_models; m++) {
        const bool is_read = p->store == NULL && out->layers[m] > -2;
        out->flop += is_read ? rf_vit_flop(&p->models[m], out->layers[m]) * out->n_forward : 0;
    }
}

/* ---- one pass ----------------------------------------------------------------------------------
 */

/* Coders first .. end - 1, dealt out to `n_groups` of `each` ranks. */
typedef struct planned_pass {
    int64_t first, end;
    int n_groups, each;
    int *groups;     /* [n_coders] of the run; those of the pass are filled */
    double *weights; /* [n_coders] */
    rf_plan_reading reading;
    double step_seconds;
    rf_plan_memory memory;
} planned_pass;

/* What the ranks of a group hold, and how long its steps take. */
static rf_status add_up_group(const rf_plan *p, const planned_pass *pass, int group,
                              rf_plan_memory *m, double *seconds)
{
    rf_status status = RF_OK;
    rf_plan_step step = {0};
    double batch = 0, scratch = 0, ghost = 0;
    *m = (rf_plan_memory){0};
    *seconds = 0;
    for (int64_t i = pass->first; i < pass->end; i++) {
        const rf_planned_coder *c = &p->coders[i];
        rf_coder_cost cost;
        if (pass->groups[i] == group) {
            RF_TRY(rf_coder_cost_estimate(c->spec, &c->shape, pass->each, &cost));
            const double own = cost.parameter_bytes + cost.state_bytes;
            m->parameters += own;
            m->moments += cost.optimiser_bytes;
            m->pool += rf_coder_cost_held(&cost, c->spec, pass->each) - own - cost.optimiser_bytes;
            m->gradients = fmax(m->gradients, cost.parameter_bytes);
            m->work = fmax(m->work, cost.work_bytes);
            rf_plan_step_add(&step, c, &cost);
            scratch = fmax(scratch, fmax(rf_plan_step_scratch(c, &cost, pass->each),
                                         rf_plan_start_bytes(c, &cost)));
            ghost = fmax(ghost, rf_plan_ghost_bytes(c, &cost));
            *seconds += rf_coder_cost_seconds(&cost, c->spec, c->n_tokens, pass->each,
                                              p->flop_per_s, p->bytes_per_s);
        }
        batch = fmax(batch,
                     (double)c->spec->train.batch_tokens * sizeof(float) *
                         (double)(c->cost.width + (c->cost.is_transcoder ? c->cost.out_width : 0)));
    }
    m->pool += p->n_ranks > 1 ? 2 * batch : 0; /* on their way to and from others */
    if (p->on_device && step.rows > 0) {
        m->gradients = step.gradients;
        m->work = rf_plan_step_work(&step, pass->each) + ghost;
        m->scratch = scratch;
    }
fail:
    return status;
}

/* What every rank holds, whichever coders are its own. */
static void add_common(const rf_plan *p, const rf_plan_reading *r, rf_plan_memory *m)
{
    const rf_activations_settings *s = &p->settings->activations;
    const double epoch = r->site_bytes * (double)p->n_pictures / p->n_ranks;
    m->kept = r->epochs > 1 ? fmin((double)s->keep_bytes, epoch) : 0;
    if (p->on_device) {
        rf_plan_device_common(p, r, m);
        return;
    }
    m->pool += r->site_bytes / p->n_ranks *
               (double)rf_min_i64(s->group_pictures * s->pool_groups, p->n_pictures);
    m->model = rf_plan_model_bytes(p);
    m->all = m->parameters + m->moments + m->gradients + m->work + m->pool + m->kept + m->model;
}

static rf_status plan_pass(rf_plan *p, planned_pass *pass)
{
    rf_status status = RF_OK;
    const int64_t n = pass->end - pass->first;

    for (int64_t i = pass->first; i < pass->end; i++) {
        const rf_planned_coder *c = &p->coders[i];
        rf_coder_cost cost;
        RF_TRY(rf_coder_cost_estimate(c->spec, &c->shape, pass->each, &cost));
        pass->weights[i] = rf_deal_weight(&cost, c->spec, c->n_tokens, pass->each);
    }
    RF_TRY(rf_deal(pass->weights + pass->first, n, pass->n_groups, pass->groups + pass->first));
    rf_plan_read(p, pass->first, pass->end, &pass->reading);
    pass->step_seconds = 0;
    pass->memory = (rf_plan_memory){0};
    for (int g = 0; g < pass->n_groups; g++) {
        rf_plan_memory memory;
        double seconds = 0;
        RF_TRY(add_up_group(p, pass, g, &memory, &seconds));
        add_common(p, &pass->reading, &memory);
        pass->step_seconds = fmax(pass->step_seconds, seconds);
        pass->memory = memory.all > pass->memory.all ? memory : pass->memory;
    }
fail:
    return status;
}

static double model_seconds(const rf_plan *p, const rf_plan_reading *reading)
{
    return reading->flop / p->n_ranks / p->flop_per_s;
}

/* "    ranks 2 to 3: a, b" */
static rf_status append_group(const rf_plan *p, const planned_pass *pass, int group, rf_str *out)
{
    rf_status status = RF_OK;
    const int first = group * pass->each;
    int64_t n = 0, idx = 0;

    RF_TRY(pass->each == 1
               ? rf_str_append(out, "    rank %d", first)
               : rf_str_append(out, "    ranks %d to %d", first, first + pass->each - 1));
    for (int64_t i = pass->first; i < pass->end; i++) {
        n += pass->groups[i] == group;
    }
    RF_TRY(rf_str_append(out, n == 0 ? ": none" : ": "));
    for (int64_t i = pass->first; i < pass->end; i++) {
        if (pass->groups[i] == group) {
            RF_TRY(rf_deal_append_name(out, idx++, n, p->coders[i].spec->coder.name));
        }
    }
    RF_TRY(rf_str_append(out, "\n"));
fail:
    return status;
}

static rf_status append_pass(const rf_plan *p, const planned_pass *pass, int64_t idx, int64_t n,
                             rf_str *out)
{
    rf_status status = RF_OK;
    const double model = model_seconds(p, &pass->reading);
    char all[32], steps[32], bytes[32];

    rf_format_duration(model + pass->step_seconds, all);
    rf_format_duration(pass->step_seconds, steps);
    rf_format_bytes(pass->memory.all, bytes);
    RF_TRY(rf_str_append(out,
                         "  pass %" PRId64 " of %" PRId64 ": coders %" PRId64 " to %" PRId64
                         ", %s (steps %s), %s on the fullest rank\n",
                         idx + 1, n, pass->first + 1, pass->end, all, steps, bytes));
    for (int g = 0; g < pass->n_groups; g++) {
        RF_TRY(append_group(p, pass, g, out));
    }
fail:
    return status;
}

rf_status rf_plan_lay_out(rf_plan *p, rf_plan_layout *layout, rf_str *out)
{
    rf_status status = RF_OK;
    const int64_t n = p->settings->n_coders;
    const int64_t most = layout->coders_at_once > 0 ? rf_min_i64(layout->coders_at_once, n) : n;
    const rf_train_settings dealing = {.ranks_per_coder = layout->ranks_per_coder};
    planned_pass pass = {0};

    *layout = (rf_plan_layout){.ranks_per_coder = layout->ranks_per_coder,
                               .coders_at_once = layout->coders_at_once,
                               .n_passes = rf_ceil_div(n, most)};
    RF_TRY(rf_train_count_groups(&dealing, p->n_ranks, &pass.n_groups));
    pass.each = p->n_ranks / pass.n_groups;
    RF_ALLOC(pass.groups, n);
    RF_ALLOC(pass.weights, n);
    for (int64_t i = 0; i < layout->n_passes; i++) {
        pass.first = i * most;
        pass.end = rf_min_i64(n, pass.first + most);
        RF_TRY(plan_pass(p, &pass));
        layout->n_forward += pass.reading.n_forward;
        layout->model_flop += pass.reading.flop;
        layout->model_seconds += model_seconds(p, &pass.reading);
        layout->step_seconds += pass.step_seconds;
        layout->memory = pass.memory.all > layout->memory.all ? pass.memory : layout->memory;
        if (out != NULL) {
            RF_TRY(append_pass(p, &pass, i, layout->n_passes, out));
        }
    }
fail:
    rf_free(pass.weights);
    rf_free(pass.groups);
    return status;
}

/* ---- the way that is best ----------------------------------------------------------------------
 */

bool rf_plan_fits(const rf_plan *p, const rf_plan_layout *layout)
{
    return !(p->free_bytes > 0) || layout->memory.all <= p->free_bytes;
}

rf_status rf_plan_find_passes(rf_plan *p, int64_t ranks_per_coder, rf_plan_layout *out)
{
    rf_status status = RF_OK;
    const int64_t n = p->settings->n_coders;
    int64_t at_once = n;

    for (;;) {
        *out = (rf_plan_layout){.ranks_per_coder = ranks_per_coder,
                                .coders_at_once = at_once < n ? at_once : 0};
        RF_TRY(rf_plan_lay_out(p, out, NULL));
        if (at_once == 1 || rf_plan_fits(p, out)) {
            break;
        }
        at_once = rf_min_i64(at_once - 1, rf_ceil_div(n, out->n_passes + 1));
    }
fail:
    return status;
}

static double seconds_of(const rf_plan_layout *layout)
{
    return layout->model_seconds + layout->step_seconds;
}

/* What fits before what does not, then by time; the earlier one where it is the same. */
static bool is_better(const rf_plan *p, const rf_plan_layout *a, const rf_plan_layout *b)
{
    if (rf_plan_fits(p, a) != rf_plan_fits(p, b)) {
        return rf_plan_fits(p, a);
    }
    return seconds_of(a) < seconds_of(b);
}

/* All ranks for every coder, and every way to cut them into equal groups. */
static rf_status choose(rf_plan *p, rf_plan_layout *best)
{
    rf_status status = RF_OK;
    RF_TRY(rf_plan_find_passes(p, 0, best));
    for (int each = p->n_ranks / 2; each >= 1; each--) {
        rf_plan_layout layout;
        if (p->n_ranks % each == 0) {
            RF_TRY(rf_plan_find_passes(p, each, &layout));
            *best = is_better(p, &layout, best) ? layout : *best;
        }
    }
fail:
    return status;
}

/* 0 and the number of all mean the same. */
static bool is_same(const rf_plan *p, const rf_plan_layout *a, const rf_plan_layout *b)
{
    const int64_t n = p->settings->n_coders, n_ranks = p->n_ranks;
    const int64_t at_once[2] = {a->coders_at_once > 0 ? rf_min_i64(a->coders_at_once, n) : n,
                                b->coders_at_once > 0 ? rf_min_i64(b->coders_at_once, n) : n};
    const int64_t each[2] = {a->ranks_per_coder > 0 ? a->ranks_per_coder : n_ranks,
                             b->ranks_per_coder > 0 ? b->ranks_per_coder : n_ranks};
    return at_once[0] == at_once[1] && each[0] == each[1];
}

/* ---- what is said of it ------------------------------------------------------------------------
 */

static rf_status append_largest(const rf_plan *p, int64_t n_ranks, rf_str *out)
{
    rf_status status = RF_OK;
    const char *name = "";
    double most = 0;
    char bytes[32], here[32];
    for (int64_t i = 0; i < p->settings->n_coders; i++) {
        const rf_planned_coder *c = &p->coders[i];
        const double held = rf_coder_cost_held(&c->cost, c->spec, (int)n_ranks);
        name = held > most ? c->spec->coder.name : name;
        most = fmax(most, held);
    }
    rf_format_bytes(most, bytes);
    rf_format_bytes(p->free_bytes, here);
    RF_TRY(rf_str_append(out, "  %-34s %12s  '%s', on each of its ranks\n", "the largest coder",
                         bytes, name));
    if (p->on_device) {
        return rf_str_append(out, "  %-34s %12s  for each rank, of a device of its own\n",
                             "memory of the device", p->free_bytes > 0 ? here : "unknown");
    }
    RF_TRY(rf_str_append(out, "  %-34s %12s  for each rank, if all %d are here\n",
                         "free memory of this machine", p->free_bytes > 0 ? here : "unknown",
                         p->n_ranks));
fail:
    return status;
}

/* What comes of one way, pass by pass. */
static rf_status append_layout(rf_plan *p, const char *label, const rf_plan_layout *layout,
                               rf_str *out)
{
    rf_status status = RF_OK;
    rf_plan_layout again = *layout;
    char all[32];

    rf_format_duration(seconds_of(layout), all);
    RF_TRY(rf_str_append(out,
                         "%s: train.ranks_per_coder=%" PRId64 " train.coders_at_once=%" PRId64
                         ": %" PRId64 " reading%s of the pictures, %s%s\n",
                         label, layout->ranks_per_coder, layout->coders_at_once, layout->n_passes,
                         layout->n_passes == 1 ? "" : "s", all,
                         rf_plan_fits(p, layout) ? "" : "; does NOT fit into memory"));
    RF_TRY(rf_plan_lay_out(p, &again, out));
fail:
    return status;
}

rf_status rf_plan_append_layouts(rf_plan *p, const rf_plan_layout *set, rf_str *out)
{
    rf_status status = RF_OK;
    const int64_t n = p->settings->n_coders;
    rf_plan_layout best;

    RF_TRY(choose(p, &best));
    RF_TRY(rf_str_append(out, "coders over ranks and passes\n"));
    RF_TRY(append_largest(p, set->ranks_per_coder > 0 ? set->ranks_per_coder : p->n_ranks, out));
    RF_TRY(rf_str_append(out, "  %-34s %12" PRId64 "  of %" PRId64 "%s\n",
                         "coders that fit at once",
                         best.coders_at_once > 0 ? best.coders_at_once : n, n,
                         rf_plan_fits(p, &best) ? "" : ", and that does not fit either"));
    RF_TRY(append_layout(p, "as it is set", set, out));
    if (is_same(p, &best, set)) {
        RF_TRY(rf_str_append(out, "that is also what plan would choose here\n"));
    } else {
        RF_TRY(append_layout(p, "plan would choose", &best, out));
    }
fail:
    return status;
}
