/* What a run will take, before anything starts: memory of each rank, bytes read, arithmetic, and
 * hours. */
#include "plan_impl.h"

#include <math.h>
#include <string.h>

enum { MAX_STATS = 2000 };

/* ---- what there is -----------------------------------------------------------------------------
 */

/* The configurations at the size that the preprocessing makes. */
static rf_status plan_models(rf_plan *p)
{
    rf_status status = RF_OK;
    for (int i = 0; i < p->settings->n_models; i++) {
        const rf_model_settings *model = &p->settings->models[i].settings;
        rf_transform transform;
        RF_TRY(rf_model_settings_transform(model, &transform));
        const rf_vit_opts opts = rf_model_settings_opts(model, &transform);
        RF_TRY_DOING(rf_vit_read_config(model->path, &opts, &p->models[i]), "model.path");
    }
fail:
    return status;
}

/* Pictures of the groups that activations.share takes; the last group may be shorter. */
static int64_t take_share(const rf_plan *p)
{
    const int64_t g = p->settings->activations.group_pictures;
    const int64_t n_groups = rf_ceil_div(p->n_listed, g);
    const int64_t n = (int64_t)ceil(p->settings->activations.share * (double)n_groups);
    return rf_min_i64(n * g, p->n_listed);
}

static rf_status plan_store(rf_plan *p)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];

    RF_TRY(rf_run_store_path(p->settings, path));
    RF_TRY_DOING(rf_store_open(path, &p->store), "activations.store");
    const rf_store_head *head = rf_store_get_head(p->store);
    p->n_listed = head->n_pictures;
    p->n_pictures = take_share(p);
    for (int64_t s = 0; s < head->n_sites; s++) {
        p->picture_bytes += (double)p->n_pictures * (double)head->sites[s].n_rows *
                            (double)head->sites[s].width * (double)rf_dtype_bytes(head->dtype);
    }
fail:
    return status;
}

/* Bytes of the training pictures, by the sizes of up to 2000 of them. */
static rf_status plan_pictures(rf_plan *p)
{
    rf_status status = RF_OK;
    rf_picture_list *list = NULL;
    double bytes = 0;

    RF_TRY(rf_run_settings_pictures(p->settings, NULL, &list));
    p->n_listed = rf_picture_list_n(list, RF_SPLIT_TRAIN);
    p->n_pictures = take_share(p);
    const int64_t n = rf_min_i64(p->n_listed, MAX_STATS);
    for (int64_t i = 0; i < n; i++) {
        const int64_t idx = i * p->n_listed / n;
        bytes += (double)rf_max_i64(rf_picture_list_bytes(list, RF_SPLIT_TRAIN, idx), 0);
    }
    p->picture_bytes = n > 0 ? bytes / (double)n * (double)p->n_pictures : 0;
fail:
    rf_picture_list_close(list);
    return status;
}

/* The number of the site, which is new or was there. */
static int64_t find_site(rf_plan *p, int model, const rf_hook_point *point)
{
    int64_t i = 0;
    while (i < p->n_sites &&
           (p->sites[i].model != model || strcmp(p->sites[i].point.name, point->name) != 0)) {
        i++;
    }
    if (i == p->n_sites) {
        p->sites[p->n_sites++] = (rf_planned_site){.model = model, .point = *point};
    }
    return i;
}

/* A hook point and its rows of the class, as the model or the store says. */
static rf_status find_rows(const rf_plan *p, int model, const char *hook, rf_token_class tokens,
                           rf_hook_point *point, int64_t *first, int64_t *n_rows)
{
    rf_status status = RF_OK;
    if (p->store == NULL) {
        RF_TRY(rf_vit_hook_find(&p->models[model], hook, point));
        return rf_token_class_rows(&p->models[model], point, tokens, first, n_rows);
    }
    const int64_t s = rf_store_find(p->store, p->settings->models[model].name, hook);
    if (s < 0) {
        RF_FAIL(RF_ERR_SETTING, "the store '%s' has no '%s'", rf_store_path(p->store), hook);
    }
    const rf_store_site *site = &rf_store_get_head(p->store)->sites[s];
    *point = (rf_hook_point){.width = site->width};
    RF_TRY(rf_format(point->name, sizeof point->name, "%s", hook));
    RF_TRY(rf_store_class_rows(site, tokens, first, n_rows));
fail:
    return status;
}

/* The sites of a list, their widths and the rows that they have. */
static rf_status plan_sites(rf_plan *p, rf_planned_coder *c, const char *text, int *n,
                            int64_t *widths)
{
    rf_status status = RF_OK;
    char sites[RF_MAX_SITES][RF_NAME_LEN];
    const rf_token_class tokens = rf_coder_token_class(&c->spec->coder);

    *n = rf_coder_sites(text, sites);
    for (int i = 0; i < *n; i++) {
        int model = 0;
        const char *hook = NULL;
        rf_hook_point point;
        int64_t first = 0, n_rows = 0;
        RF_TRY(rf_run_settings_site(p->settings, sites[i], &model, &hook));
        RF_TRY(find_rows(p, model, hook, tokens, &point, &first, &n_rows));
        if (c->n_rows > 0 && n_rows != c->n_rows) {
            RF_FAIL(RF_ERR_SETTING,
                    "sites of one coder need equally many rows a picture: '%s' has %" PRId64
                    " and one before it %" PRId64,
                    sites[i], n_rows, c->n_rows);
        }
        c->n_rows = n_rows;
        widths[i] = point.width;
        c->reads[c->n_reads++] =
            (rf_planned_read){.site = find_site(p, model, &point), .first_row = first};
    }
fail:
    return status;
}

static rf_status plan_coder(rf_plan *p, const rf_coder_spec *spec, int n_ranks, rf_planned_coder *c)
{
    rf_status status = RF_OK;
    const rf_train_settings *train = &spec->train;

    c->spec = spec;
    c->architecture = rf_architecture_at(spec->coder.architecture);
    RF_TRY(plan_sites(p, c, spec->coder.input, &c->shape.n_in, c->shape.in));
    RF_TRY(plan_sites(p, c, spec->coder.target, &c->shape.n_out, c->shape.out));
    RF_TRY(rf_coder_cost_estimate(spec, &c->shape, n_ranks, &c->cost));
    const int64_t per_epoch = c->n_rows * p->n_pictures;
    c->n_tokens = train->total_tokens;
    if (c->n_tokens == 0) {
        RF_TRY(rf_mul_i64(per_epoch, train->epochs, "tokens", &c->n_tokens));
    }
    c->n_steps = rf_ceil_div(c->n_tokens, train->batch_tokens);
    c->epochs = per_epoch > 0 ? (double)c->n_tokens / (double)per_epoch : 0;
fail:
    if (status != RF_OK) {
        rf_error_context("coder '%s'", spec->coder.name);
    }
    return status;
}

/* At most so many different ones. */
static int64_t count_sites(const rf_run_settings *settings)
{
    char sites[RF_MAX_SITES][RF_NAME_LEN];
    int64_t n = 0;
    for (int64_t i = 0; i < settings->n_coders; i++) {
        n += rf_coder_sites(settings->coders[i].coder.input, sites);
        n += rf_coder_sites(settings->coders[i].coder.target, sites);
    }
    return n;
}

static rf_status plan_coders(rf_plan *p)
{
    rf_status status = RF_OK;
    const int64_t n = p->settings->n_coders;
    int n_groups = 1;

    RF_TRY(rf_train_count_groups(&p->settings->train, p->n_ranks, &n_groups));
    RF_ALLOC(p->coders, n);
    RF_ALLOC(p->sites, count_sites(p->settings));
    for (int64_t i = 0; i < n; i++) {
        RF_TRY(plan_coder(p, &p->settings->coders[i], p->n_ranks / n_groups, &p->coders[i]));
    }
fail:
    return status;
}

/* ---- what it comes to --------------------------------------------------------------------------
 */

static double n_updates(const rf_planned_coder *c)
{
    return (double)rf_ceil_div(c->n_steps, c->spec->train.accumulate);
}

/* Of the product that finds the codes: shared by the ranks. */
static double encode_flop(const rf_planned_coder *c)
{
    return c->cost.encode_flop * (double)c->n_tokens;
}

static double rest_flop(const rf_planned_coder *c)
{
    return c->cost.rest_flop * (double)c->n_tokens + c->cost.update_flop * n_updates(c);
}

/* ---- the tables --------------------------------------------------------------------------------
 */

static rf_status append_bytes(rf_str *out, const char *label, double bytes, const char *remark)
{
    char text[32];
    rf_format_bytes(bytes, text);
    return rf_str_append(out, "  %-34s %12s  %s\n", label, text, remark);
}

static rf_status append_coders(const rf_plan *p, rf_str *out)
{
    rf_status status = RF_OK;
    char bytes[32], width[48];
    RF_TRY(rf_str_append(out, "coders\n  %-28s %-12s %12s %9s %14s %9s %8s %12s\n", "name", "rule",
                         "width", "latents", "tokens", "steps", "epochs", "parameters"));
    for (int64_t i = 0; i < p->settings->n_coders; i++) {
        const rf_planned_coder *c = &p->coders[i];
        rf_format_bytes(c->cost.parameter_bytes, bytes);
        RF_TRY(rf_format(width, sizeof width, "%" PRId64, c->cost.width));
        if (c->cost.is_transcoder) {
            RF_TRY(rf_format(width, sizeof width, "%" PRId64 " to %" PRId64, c->cost.width,
                             c->cost.out_width));
        }
        RF_TRY(rf_str_append(
            out, "  %-28s %-12s %12s %9" PRId64 " %14" PRId64 " %9" PRId64 " %8.2f %12s\n",
            c->spec->coder.name, c->architecture->name, width, c->cost.n_latents, c->n_tokens,
            c->n_steps, c->epochs, bytes));
    }
fail:
    return status;
}

double rf_plan_model_bytes(const rf_plan *p)
{
    double bytes = 0;
    for (int i = 0; p->store == NULL && i < p->settings->n_models; i++) {
        bytes +=
            (double)rf_vit_weight_bytes(&p->models[i]) +
            (double)rf_vit_workspace_bytes(&p->models[i], p->settings->activations.group_pictures);
    }
    return bytes;
}

/* What both kinds of memory tables begin with. */
static rf_status append_held(const rf_plan *p, const rf_plan_layout *layout, rf_str *out)
{
    rf_status status = RF_OK;
    const rf_plan_memory *m = &layout->memory;
    const bool is_dealt = layout->ranks_per_coder > 0 || layout->coders_at_once > 0;
    const char *whose = is_dealt ? "of the rank and the pass with most" : "of all coders";

    RF_TRY(append_bytes(out, "parameters and state", m->parameters, whose));
    RF_TRY(append_bytes(out, "moments and sums", m->moments, whose));
    RF_TRY(append_bytes(out, "gradients", m->gradients, "of the largest coder, shared"));
    RF_TRY(append_bytes(out, "work space of a step", m->work, "about; shared"));
    RF_TRY(append_bytes(out, "pool of activations", m->pool, "and batches"));
    if (!p->on_device) {
        RF_TRY(append_bytes(out, "kept activations", m->kept, "activations.keep_bytes"));
    }
    RF_TRY(append_bytes(out, "model", m->model,
                        p->settings->n_models > 1
                            ? "weights and one group of pictures, of all models"
                            : "weights and one group of pictures"));
fail:
    return status;
}

static rf_status append_device_memory(const rf_plan *p, const rf_plan_layout *layout, rf_str *out)
{
    rf_status status = RF_OK;
    const rf_plan_memory *m = &layout->memory;

    RF_TRY(rf_str_append(out, "memory of the device of each of %d ranks\n", p->n_ranks));
    RF_TRY(append_held(p, layout, out));
    RF_TRY(append_bytes(out, "pictures", m->images, "on their way into the model"));
    RF_TRY(append_bytes(out, "scratch of operations", m->scratch, "about"));
    RF_TRY(append_bytes(out, "work space of libraries", m->libraries, "about"));
    RF_TRY(append_bytes(out, "on the device, in all", m->all, "about"));
    RF_TRY(rf_str_append(out, "memory of each rank on the host, besides\n"));
    RF_TRY(append_bytes(out, "kept activations", m->kept, "activations.keep_bytes"));
    RF_TRY(append_bytes(out, "read ahead", m->host - m->kept, "pictures, groups of a store"));
    RF_TRY(append_bytes(out, "on the host, in all", m->host, "about"));
fail:
    return status;
}

static rf_status append_memory(const rf_plan *p, const rf_plan_layout *layout, rf_str *out)
{
    rf_status status = RF_OK;

    if (p->on_device) {
        return append_device_memory(p, layout, out);
    }
    RF_TRY(rf_str_append(out, "memory of each of %d ranks\n", p->n_ranks));
    RF_TRY(append_held(p, layout, out));
    RF_TRY(append_bytes(out, "in all", layout->memory.all, "about"));
fail:
    return status;
}

/* "(to layer 11 of 12)" */
static rf_status append_depth(const rf_plan *p, const rf_plan_reading *reading, rf_str *out)
{
    rf_status status = RF_OK;
    if (p->store != NULL) {
        return rf_str_append(out, ", out of '%s'\n", rf_store_path(p->store));
    }
    for (int i = 0; i < p->settings->n_models; i++) {
        const char *name = p->settings->models[i].name;
        const int64_t layer = reading->layers[i];
        RF_TRY(rf_str_append(out, "%s%s%s", i == 0 ? " (" : ", ", name, *name != '\0' ? " " : ""));
        RF_TRY(layer > -2 ? rf_str_append(out, "to layer %" PRId64 " of %" PRId64, layer,
                                          p->models[i].n_layers)
                          : rf_str_append(out, "not read"));
    }
    RF_TRY(rf_str_append(out, ")\n"));
fail:
    return status;
}

/* Pictures that a pool must have for the batches of a coder to be mixed so well. */
static int64_t find_pool(const rf_plan *p, const rf_planned_coder *c, double share)
{
    const int64_t g = p->settings->activations.group_pictures;
    int64_t n = 1;
    while (n * g < p->n_pictures && rf_batch_entropy_share(p->n_pictures, n * g, c->n_rows,
                                                           c->spec->train.batch_tokens) < share) {
        n += rf_max_i64(1, n / 16);
    }
    return n;
}

/* How well batches are mixed: of the coder for which that is worst. */
static rf_status append_mixing(const rf_plan *p, rf_str *out)
{
    const rf_activations_settings *a = &p->settings->activations;
    const rf_planned_coder *worst = NULL;
    double least = 2;
    for (int64_t i = 0; i < p->settings->n_coders; i++) {
        const rf_planned_coder *c = &p->coders[i];
        const double share =
            rf_batch_entropy_share(p->n_pictures, a->pool_groups * a->group_pictures, c->n_rows,
                                   c->spec->train.batch_tokens);
        if (share < least) {
            least = share;
            worst = c;
        }
    }
    if (worst == NULL) {
        return RF_OK;
    }
    rf_status status =
        rf_str_append(out,
                      "  mixing: pools of %" PRId64 " pictures give batches %.0f %% of the entropy "
                      "(of pictures in a batch) that all pictures would",
                      rf_min_i64(a->pool_groups * a->group_pictures, p->n_pictures), 100 * least);
    if (status == RF_OK && least < 0.95) {
        status = rf_str_append(out, "; activations.pool_groups=%" PRId64 " gives 95 %%",
                               find_pool(p, worst, 0.95));
    }
    return status == RF_OK ? rf_str_append(out, "\n") : status;
}

static rf_status append_data(rf_plan *p, const rf_plan_layout *layout, rf_str *out)
{
    rf_status status = RF_OK;
    rf_plan_reading all;

    rf_plan_read(p, 0, p->settings->n_coders, &all);
    RF_TRY(rf_str_append(out,
                         "data\n  %" PRId64 " pictures to train on, %.4g epochs, %.0f pictures %s",
                         p->n_pictures, all.epochs, layout->n_forward,
                         p->store != NULL ? "read" : "through the model"));
    RF_TRY(append_depth(p, &all, out));
    RF_TRY(append_bytes(out, "read from disk",
                        p->n_listed > 0
                            ? p->picture_bytes * layout->n_forward /
                                  (double)(p->store != NULL ? p->n_pictures : p->n_listed)
                            : 0,
                        p->store != NULL ? "the store, all epochs and passes, all ranks"
                                         : "pictures, all epochs and passes, all ranks"));
    RF_TRY(append_bytes(out, "activations of an epoch",
                        all.site_bytes * (double)p->n_pictures / p->n_ranks,
                        layout->n_passes > 1 ? "of each rank, were it one pass" : "of each rank"));
    if (p->store == NULL) {
        const double elem = (double)rf_dtype_bytes(rf_activations_dtype(&p->settings->activations));
        RF_TRY(append_bytes(out, "an activation store of them",
                            all.site_bytes / sizeof(float) * elem * (double)p->n_listed,
                            "refract cache, in activations.dtype"));
    }
    if (p->settings->activations.source == RF_ACTIVATIONS_BOTH &&
        (p->n_pictures < p->n_listed || all.epochs < 1)) {
        RF_TRY(rf_str_append(out,
                             "  the store stays unfinished: activations.source=both writes what is "
                             "read, %.0f of %" PRId64
                             " pictures; `refract cache` adds the others\n",
                             fmin(all.epochs, 1) * (double)p->n_pictures, p->n_listed));
    }
    RF_TRY(append_mixing(p, out));
    if (all.epochs > 1 && layout->n_passes == 1) {
        RF_TRY(rf_str_append(out,
                             "  epochs after the first: %.0f %% of the pictures come from memory "
                             "(activations.keep_bytes)\n",
                             100 * all.kept_share));
    }
fail:
    return status;
}

static rf_status append_hours(rf_str *out, const char *label, double seconds, const char *remark)
{
    char text[32];
    rf_format_duration(seconds, text);
    return rf_str_append(out, "  %-34s %12s  %.3g hours%s\n", label, text, seconds / 3600, remark);
}

/* What the hours below are made from. */
static rf_status append_rate(const rf_plan *p, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out,
                         "time, an estimate: at the rate of a bare product timed just now (%.0f "
                         "GFLOP/s and %.1f GB/s on ",
                         p->flop_per_s / 1e9, p->bytes_per_s / 1e9));
    if (p->on_device && p->is_here) {
        return rf_str_append(out, "the device), as if all ranks had one like it; pictures are "
                                  "decoded beside it\n");
    }
    RF_TRY(rf_str_append(
        out,
        "%" PRId64 " threads a rank), as if all ranks were on machines like this one%s; "
        "pictures are decoded beside it\n",
        p->n_threads, p->on_device ? " and had no device: none here could be timed" : ""));
fail:
    return status;
}

static rf_status append_time(const rf_plan *p, const rf_plan_layout *layout, rf_str *out)
{
    rf_status status = RF_OK;
    double encode = 0, rest = 0;
    bool any_dense = false;
    for (int64_t i = 0; i < p->settings->n_coders; i++) {
        encode += encode_flop(&p->coders[i]);
        rest += rest_flop(&p->coders[i]);
        any_dense = any_dense || p->coders[i].architecture->may_be_dense;
    }
    RF_TRY(rf_str_append(out,
                         "arithmetic\n  %-34s %12.4g  FLOP\n  %-34s %12.4g  FLOP\n"
                         "  %-34s %12.4g  FLOP%s\n",
                         "model, forward", layout->model_flop, "steps, encoder products", encode,
                         "steps, the rest", rest,
                         any_dense ? ", as if codes that may be dense stayed so to the end" : ""));
    RF_TRY(append_rate(p, out));
    RF_TRY(append_hours(out, "model", layout->model_seconds, ""));
    RF_TRY(append_hours(out, "steps", layout->step_seconds, ""));
    RF_TRY(append_hours(out, "in all", layout->model_seconds + layout->step_seconds,
                        ", rather up to twice that"));
fail:
    return status;
}

rf_status rf_train_plan(const rf_run_settings *settings, int n_ranks, double device_bytes,
                        rf_str *out)
{
    rf_status status = RF_OK;
    rf_plan p = {.settings = settings, .n_ranks = n_ranks};

    RF_REQUIRE(n_ranks >= 1, "n_ranks = %d, expected >= 1", n_ranks);
    RF_TRY(rf_activations_settings_check(&settings->activations));
    if (settings->activations.source == RF_ACTIVATIONS_STORE) {
        RF_TRY(plan_store(&p));
    } else {
        RF_TRY(plan_models(&p));
        RF_TRY(plan_pictures(&p));
    }
    RF_TRY(plan_coders(&p));
    RF_TRY(rf_plan_measure(&p, device_bytes));
    rf_plan_layout layout = {.ranks_per_coder = settings->train.ranks_per_coder,
                             .coders_at_once = settings->train.coders_at_once};
    RF_TRY(rf_plan_lay_out(&p, &layout, NULL));
    RF_TRY(append_coders(&p, out));
    RF_TRY(append_data(&p, &layout, out));
    RF_TRY(append_memory(&p, &layout, out));
    RF_TRY(rf_plan_append_advice(&p, &layout, out));
    RF_TRY(append_time(&p, &layout, out));
    RF_TRY(rf_plan_append_layouts(&p, &layout, out));
fail:
    rf_free(p.sites);
    rf_free(p.coders);
    rf_store_close(p.store);
    return status;
}
