/* Which tokens of which hook points the coders of a measurement read and reconstruct, and what
 * several of them share. */
#include "eval_impl.h"

#include <string.h>

/* ---- reading a site ---------------------------------------------------------------------------
 */

static rf_status read_tokens(void *user, const rf_hook_point *point, const rf_view *act,
                             rf_stream *s)
{
    rf_status status = RF_OK;
    const rf_eval_site *site = user;
    const int64_t n = rf_view_n_elems(act);

    RF_BUG(n % (site->n_positions * site->width) == 0,
           "%s holds %" PRId64 " values, expected some times %" PRId64 " x %" PRId64, point->name,
           n, site->n_positions, site->width);
    RF_TRY(rf_copy_within(s, site->act, act->data, (size_t)n * sizeof *site->act));
fail:
    return status;
}

static rf_status read_resid(void *user, const rf_hook_point *point, const rf_view *act,
                            rf_stream *s)
{
    const rf_eval_site *site = user;
    (void)point;
    return rf_copy_within(s, site->resid, act->data, (size_t)rf_view_n_elems(act) * sizeof(float));
}

static rf_status device_floats(const rf_eval_engine *e, int64_t n, float **out)
{
    return rf_memory_alloc(rf_stream_backend(e->job->stream), RF_MEMORY_DEVICE,
                           (size_t)n * sizeof **out, (void **)out);
}

/* Swapped passes begin at the block of a site: what lies before it does not change. */
static rf_status read_block_of(rf_eval_engine *e, rf_eval_site *site)
{
    rf_status status = RF_OK;
    rf_eval_runner *runner = &e->runners[site->model];
    const rf_vit_config *c = rf_vit_get_config(runner->model->vit);
    char name[RF_NAME_LEN];
    rf_hook *read = &runner->reads[runner->n_reads];

    if (!e->job->settings.substitution || site->resid != NULL || site->point.layer < 0 ||
        site->point.layer >= c->n_layers) {
        return RF_OK;
    }
    RF_TRY(rf_format(name, sizeof name, "blocks.%" PRId64 ".hook_resid_pre", site->point.layer));
    *read = (rf_hook){.fn = read_resid, .user = site};
    RF_TRY(rf_vit_hook_find(c, name, &read->point));
    RF_TRY(device_floats(e, e->batch * c->n_tokens * c->d_model, &site->resid));
    runner->n_reads++;
fail:
    return status;
}

/* The site of `of`, made if nobody read there before; `layout` says its size. */
static rf_status find_site(rf_eval_engine *e, const rf_reader_site *of,
                           const rf_token_layout *layout, int64_t *idx)
{
    rf_status status = RF_OK;
    rf_eval_runner *runner = &e->runners[of->model];
    const int64_t n = e->batch * layout->n_positions * layout->width;
    int64_t i = 0;

    while (i < e->n_sites && (e->sites[i].model != of->model ||
                              strcmp(e->sites[i].point.name, of->point.name) != 0)) {
        i++;
    }
    *idx = i;
    if (i < e->n_sites) {
        return RF_OK;
    }
    rf_eval_site *site = &e->sites[e->n_sites++];
    *site = (rf_eval_site){.model = of->model,
                           .point = of->point,
                           .n_positions = layout->n_positions,
                           .width = layout->width};
    runner->reads[runner->n_reads++] =
        (rf_hook){.point = site->point, .fn = read_tokens, .user = site};
    RF_TRY(device_floats(e, n, &site->act));
    RF_ALLOC(site->act_host, n);
    RF_ALLOC(site->shift, layout->width);
fail:
    return status;
}

rf_site_sums rf_eval_site_sums(const rf_eval_site *site, double *arena)
{
    return rf_site_sums_bind(arena + site->sums_at, site->n_positions, site->width);
}

rf_status rf_eval_site_name(const rf_eval_engine *e, const rf_eval_site *site,
                            char out[RF_NAME_LEN])
{
    const char *model = e->job->models[site->model].name;
    return rf_format(out, RF_NAME_LEN, "%s%s%s", model, model[0] != '\0' ? ":" : "",
                     site->point.name);
}

/* ---- the tokens of a coder --------------------------------------------------------------------
 */

static rf_status add_place(rf_eval_engine *e, const rf_reader_site *of, rf_token_class tokens,
                           rf_eval_places *places)
{
    rf_status status = RF_OK;
    rf_eval_place *place = &places->at[places->n];

    RF_REQUIRE(of->model >= 0 && of->model < e->job->n_models, "model %d of %d", of->model,
               e->job->n_models);
    RF_TRY(rf_token_layout_init(rf_vit_get_config(e->job->models[of->model].vit), &of->point,
                                tokens, &place->layout));
    RF_TRY(find_site(e, of, &place->layout, &place->site));
    places->n_rows = place->layout.spans[RF_EVAL_ALL].count;
    places->width += place->layout.width;
    places->n++;
fail:
    return status;
}

/* Rows that belong together are of as many tokens of a picture everywhere. */
static rf_status check_rows(const rf_eval_engine *e, const rf_eval_part *part,
                            const rf_eval_places *places)
{
    rf_status status = RF_OK;
    const rf_eval_place *first = &part->in.at[0];
    const int64_t n = first->layout.spans[RF_EVAL_ALL].count;

    for (int i = 0; i < places->n; i++) {
        const rf_eval_place *place = &places->at[i];
        if (place->layout.spans[RF_EVAL_ALL].count != n) {
            RF_FAIL(RF_ERR_SETTING,
                    "%s has %" PRId64 " tokens of the class '%s' a picture and %s has %" PRId64
                    ": expected equally many",
                    e->sites[first->site].point.name, n, rf_token_class_names[part->coder->tokens],
                    e->sites[place->site].point.name, place->layout.spans[RF_EVAL_ALL].count);
        }
    }
fail:
    return status;
}

static rf_status check_widths(const rf_eval_part *part)
{
    rf_status status = RF_OK;
    const rf_eval_coder *coder = part->coder;
    const rf_coder_shape *shape = rf_coder_get_shape(coder->coder);
    const bool is_transcoder = coder->n_out > 0;

    RF_REQUIRE(shape->n_in == coder->n_in && shape->n_out == coder->n_out,
               "a coder of %d and %d sites, given %d and %d", shape->n_in, shape->n_out,
               coder->n_in, coder->n_out);
    for (int i = 0; i < coder->n_in + coder->n_out; i++) {
        const bool is_in = i < coder->n_in;
        const int64_t width = is_in ? shape->in[i] : shape->out[i - coder->n_in];
        RF_REQUIRE(width == coder->sites[i].point.width,
                   "a coder of width %" PRId64 ", but %s is %" PRId64 " wide", width,
                   coder->sites[i].point.name, coder->sites[i].point.width);
    }
    RF_BUG(rf_coder_is_transcoder(coder->coder) == is_transcoder, "a target that is none");
fail:
    return status;
}

static rf_status find_places(rf_eval_engine *e, rf_eval_part *part)
{
    rf_status status = RF_OK;
    const rf_eval_coder *coder = part->coder;

    RF_REQUIRE(coder->n_in >= 1 && coder->n_in <= RF_MAX_SITES && coder->n_out >= 0 &&
                   coder->n_out <= RF_MAX_SITES,
               "%d sites of input, %d of target", coder->n_in, coder->n_out);
    RF_TRY(check_widths(part));
    for (int i = 0; i < coder->n_in; i++) {
        RF_TRY(add_place(e, &coder->sites[i], coder->tokens, &part->in));
    }
    for (int i = 0; i < coder->n_out; i++) {
        RF_TRY(add_place(e, &coder->sites[coder->n_in + i], coder->tokens, &part->out));
    }
    RF_TRY(check_rows(e, part, &part->in));
    RF_TRY(check_rows(e, part, &part->out));
    if (coder->n_out == 0) {
        part->out = part->in;
    }
fail:
    return status;
}

/* Class of each token of a picture. */
static rf_status find_classes(const rf_eval_engine *e, rf_eval_part *part)
{
    rf_status status = RF_OK;
    const rf_eval_place *place = &part->in.at[0];
    const rf_eval_site *site = &e->sites[place->site];
    const rf_vit_config *config = rf_vit_get_config(e->job->models[site->model].vit);
    const int64_t first = place->layout.spans[RF_EVAL_ALL].first;

    RF_ALLOC(part->row_class, part->in.n_rows);
    for (int64_t r = 0; r < part->in.n_rows; r++) {
        part->row_class[r] = (uint8_t)rf_token_class_of_row(config, &site->point, first + r);
    }
fail:
    return status;
}

/* ---- targets ----------------------------------------------------------------------------------
 */

/* Vectors near the means of new targets: what `part` decodes no code to. With them variances lose
 * no digits. */
static rf_status find_shifts(rf_eval_engine *e, const rf_eval_part *part)
{
    rf_status status = RF_OK;
    rf_backend *be = rf_stream_backend(e->job->stream);
    const int64_t d = part->in.width, n_out = part->out.width;
    const uint8_t is_valid = 0;
    float *device = NULL, *host = NULL;
    uint8_t *device_valid = NULL;

    RF_ALLOC(host, n_out);
    RF_TRY(device_floats(e, d + n_out, &device));
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, 1, (void **)&device_valid));
    RF_TRY(rf_fill_bytes(e->job->stream, device, 0, (size_t)(d + n_out) * sizeof *device));
    RF_TRY(rf_copy_in(e->job->stream, device_valid, &is_valid, 1));
    const rf_view x = rf_view_2d(device, 1, d), y_hat = rf_view_2d(device + d, 1, n_out);
    RF_TRY(rf_coder_reconstruct(part->coder->coder, e->job->stream, &x, device_valid, NULL, &y_hat,
                                NULL));
    RF_TRY(rf_copy_out(e->job->stream, host, device + d, (size_t)n_out * sizeof *host));
    RF_TRY(rf_stream_synchronise(e->job->stream));
    for (int64_t i = 0, column = 0; i < part->out.n; i++) {
        rf_eval_site *site = &e->sites[part->out.at[i].site];
        if (!site->is_target) {
            memcpy(site->shift, host + column, (size_t)site->width * sizeof *host);
            site->is_target = true;
        }
        column += site->width;
    }
fail:
    rf_memory_free(be, RF_MEMORY_DEVICE, device_valid);
    rf_memory_free(be, RF_MEMORY_DEVICE, device);
    rf_free(host);
    return status;
}

static rf_substitution_kind kind_of(const rf_eval_engine *e, const rf_eval_coder *coder)
{
    const int n = coder->n_in + coder->n_out;
    if (!e->job->settings.substitution) {
        return RF_SUBSTITUTION_OFF;
    }
    for (int i = 1; i < n; i++) {
        if (coder->sites[i].model != coder->sites[0].model) {
            return RF_SUBSTITUTION_SEVERAL_MODELS;
        }
    }
    if (coder->n_out > 1 || (coder->n_out == 0 && coder->n_in > 1)) {
        return RF_SUBSTITUTION_ALL_SITES;
    }
    return coder->n_out == 1 ? RF_SUBSTITUTION_TARGET : RF_SUBSTITUTION_INPUT;
}

static bool places_are_equal(const rf_eval_places *a, const rf_eval_places *b)
{
    bool equal = a->n == b->n;
    for (int i = 0; equal && i < a->n; i++) {
        const rf_token_span p = a->at[i].layout.spans[RF_EVAL_ALL];
        const rf_token_span q = b->at[i].layout.spans[RF_EVAL_ALL];
        equal = a->at[i].site == b->at[i].site && p.first == q.first && p.count == q.count;
    }
    return equal;
}

static rf_status find_ablation(rf_eval_engine *e, rf_eval_part *part)
{
    rf_status status = RF_OK;
    int64_t i = 0;

    for (int l = 0; l < part->out.n; l++) {
        RF_TRY(read_block_of(e, &e->sites[part->out.at[l].site]));
    }
    while (i < e->n_ablations && !places_are_equal(e->ablations[i].places, &part->out)) {
        i++;
    }
    part->ablation = i;
    if (i == e->n_ablations) {
        rf_eval_ablation *ablation = &e->ablations[e->n_ablations++];
        *ablation = (rf_eval_ablation){.places = &part->out};
        RF_ALLOC(ablation->mean, part->out.width);
    }
fail:
    return status;
}

/* ---- all coders -------------------------------------------------------------------------------
 */

static rf_status init_part(rf_eval_engine *e, int64_t idx)
{
    rf_status status = RF_OK;
    const rf_eval_coder *coder = &e->job->coders[idx];
    rf_eval_part *part = &e->parts[idx];

    part->coder = coder;
    part->n_latents = rf_coder_n_latents(coder->coder);
    part->kind = kind_of(e, coder);
    part->ablation = -1;
    RF_TRY(find_places(e, part));
    RF_TRY(find_classes(e, part));
    RF_TRY(find_shifts(e, part));
    RF_ALLOC(part->fired, part->n_latents);
    if (part->kind != RF_SUBSTITUTION_OFF && part->kind != RF_SUBSTITUTION_SEVERAL_MODELS) {
        RF_TRY(find_ablation(e, part));
    }
    e->max_rows = rf_max_i64(e->max_rows, e->batch * part->in.n_rows);
    e->max_width = rf_max_i64(e->max_width, rf_max_i64(part->in.width, part->out.width));
    e->max_in = rf_max_i64(e->max_in, coder->n_in);
fail:
    if (status != RF_OK) {
        rf_error_context("coder %s", coder->name);
    }
    return status;
}

rf_status rf_eval_sites_init(rf_eval_engine *e)
{
    rf_status status = RF_OK;
    const int64_t n_coders = e->job->n_coders;
    int64_t n_sites = 0;

    for (int64_t i = 0; i < n_coders; i++) {
        n_sites += e->job->coders[i].n_in + e->job->coders[i].n_out;
    }
    RF_ALLOC(e->runners, e->job->n_models);
    for (int m = 0; m < e->job->n_models; m++) {
        e->runners[m].model = &e->job->models[m];
        RF_ALLOC(e->runners[m].reads, 2 * n_sites);
    }
    RF_ALLOC(e->parts, n_coders);
    RF_ALLOC(e->sites, n_sites);
    RF_ALLOC(e->ablations, n_coders);
    for (int64_t i = 0; i < n_coders; i++) {
        RF_TRY(init_part(e, i));
    }
fail:
    return status;
}

void rf_eval_sites_fini(rf_eval_engine *e)
{
    rf_backend *be = rf_stream_backend(e->job->stream);

    for (int64_t i = 0; i < e->n_sites; i++) {
        rf_memory_free(be, RF_MEMORY_DEVICE, e->sites[i].act);
        rf_memory_free(be, RF_MEMORY_DEVICE, e->sites[i].resid);
        rf_free(e->sites[i].act_host);
        rf_free(e->sites[i].shift);
    }
    for (int64_t i = 0; i < e->n_ablations; i++) {
        rf_free(e->ablations[i].mean);
    }
    for (int64_t i = 0; e->parts != NULL && i < e->job->n_coders; i++) {
        rf_free(e->parts[i].fired);
        rf_free(e->parts[i].row_class);
    }
    for (int m = 0; e->runners != NULL && m < e->job->n_models; m++) {
        rf_free(e->runners[m].reads);
    }
    rf_free(e->sites);
    rf_free(e->ablations);
    rf_free(e->parts);
    rf_free(e->runners);
}
