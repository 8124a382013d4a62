/* One split of pictures: two passes of micro-batches over the ranks, and the figures. */
#include "eval_impl.h"

#include <math.h>
#include <string.h>

typedef rf_status (*group_work)(rf_eval_engine *e, int64_t first_local);

/* This rank's micro-batch of `round`, if it has one. */
static rf_status work_round(rf_eval_engine *e, int64_t round, group_work work)
{
    rf_status status = RF_OK;

    if (rf_interrupt_pending() != 0) {
        RF_FAIL(RF_ERR_INTERRUPTED, "evaluation was interrupted by signal %d; nothing was written",
                rf_interrupt_pending());
    }
    if (round < e->n_local_groups) {
        for (int f = 0; f < e->n_feeds; f++) {
            rf_eval_feed *feed = &e->feeds[f];
            RF_TRY(rf_image_feed_next(feed->feed, &feed->batch, &feed->images));
            RF_BUG(feed->batch != NULL, "the loader ended before round %" PRId64, round);
        }
        RF_TRY(work(e, e->local_first[round]));
    }
fail:
    return status;
}

/* Add the ranks' groups to the total in group order: rank 0's share of the sum begins with what
 * was added before, so the bits do not depend on how many ranks there are. */
static rf_status fold(rf_eval_engine *e, int64_t n)
{
    const bool is_first = rf_comm_rank(e->job->comm) == 0;
    for (int64_t i = 0; i < n; i++) {
        e->total[i] = is_first ? e->total[i] + e->group[i] : e->group[i];
        e->group[i] = 0;
    }
    return rf_comm_sum_f64(e->job->comm, e->total, n);
}

static rf_status start_feeds(rf_eval_engine *e)
{
    rf_status status = RF_OK;
    for (int f = 0; f < e->n_feeds; f++) {
        RF_TRY(rf_image_feed_start(e->feeds[f].feed, e->local, e->local_first, e->n_local_groups));
    }
fail:
    return status;
}

/* All micro-batches once. Collective. */
static rf_status run_pass(rf_eval_engine *e, group_work work, int64_t n_sums, const char *label)
{
    rf_status status = RF_OK;
    const int64_t size = rf_comm_size(e->job->comm);
    const int64_t n_rounds = rf_ceil_div(e->n_groups, size);

    e->label = label;
    e->n_done = 0;
    memset(e->total, 0, (size_t)n_sums * sizeof *e->total);
    RF_TRY(rf_comm_agree(e->job->comm, start_feeds(e)));
    for (int64_t round = 0; round < n_rounds; round++) {
        RF_TRY(rf_comm_agree(e->job->comm, work_round(e, round, work)));
        RF_TRY(fold(e, n_sums));
        e->n_done = rf_min_i64(e->n_chosen, (round + 1) * size * e->batch);
        rf_progress(label, e->n_done, e->n_chosen, "");
    }
fail:
    return status;
}

/* ---- after the first pass ---------------------------------------------------------------------
 */

/* The totals are those of every rank, so all of them fail alike. */
static rf_status check_totals(const rf_eval_engine *e)
{
    rf_status status = RF_OK;
    const rf_image_loader *loader =
        rf_image_feed_loader(e->feeds[0].feed); /* what one cannot read, none can */
    const double n_bad = e->total[RF_SUM_BAD], most = e->job->max_bad_share * (double)e->n_chosen;
    const char *name = NULL, *reason = NULL;

    for (int64_t i = 0; i < rf_image_loader_n_bad(loader); i++) {
        rf_image_loader_bad(loader, i, &name, &reason);
        rf_log(RF_LOG_WARN, "skipped %s: %s", name, reason);
    }
    if (n_bad > most) {
        RF_FAIL(RF_ERR_IO,
                "%.0f of %" PRId64 " pictures cannot be read, more than data.max_bad_share allows",
                n_bad, e->n_chosen);
    }
    for (int64_t i = 0; i < e->n_sums; i++) {
        if (!isfinite(e->total[i])) {
            RF_FAIL(RF_ERR_NUMERIC, "a sum over the evaluated tokens is not finite: the model gave "
                                    "values that are not numbers, or the coder did");
        }
    }
fail:
    return status;
}

static void set_means(rf_eval_engine *e)
{
    for (int64_t i = 0; i < e->n_ablations; i++) {
        const rf_eval_places *places = e->ablations[i].places;
        float *mean = e->ablations[i].mean;
        for (int l = 0; l < places->n; l++) {
            const rf_eval_site *site = &e->sites[places->at[l].site];
            const rf_site_sums sums = rf_eval_site_sums(site, e->total);
            rf_site_sums_mean(&sums, places->at[l].layout.spans[RF_EVAL_ALL], site->shift, mean);
            mean += site->width;
        }
    }
}

static double percent_recovered(double ce, double spliced, double zero)
{
    return zero - ce != 0 ? 100 * (zero - spliced) / (zero - ce) : (double)NAN;
}

static void fill_substitution(const rf_eval_engine *e, const rf_eval_part *part,
                              rf_substitution_figures *out)
{
    const double *total = e->total;
    const double *zero = total + e->ablations[part->ablation].zero_at;
    const double *swap = total + part->swap_at;
    const double *model = total + e->runners[e->sites[part->out.at[0].site].model].sums_at;
    const double n = total[RF_SUM_PICTURES], n_labelled = model[RF_SUM_LABELLED];

    out->n_pictures = (int64_t)n;
    out->n_labelled = (int64_t)n_labelled;
    if (n > 0) {
        out->cosine_spliced = swap[RF_SUM_SWAP_COSINE] / n;
        out->cosine_zero = zero[RF_SUM_SWAP_COSINE] / n;
    }
    if (n_labelled > 0) {
        out->ce = model[RF_SUM_CE] / n_labelled;
        out->ce_spliced = swap[RF_SUM_SWAP_CE] / n_labelled;
        out->ce_zero = zero[RF_SUM_SWAP_CE] / n_labelled;
        out->ce_recovered = percent_recovered(out->ce, out->ce_spliced, out->ce_zero);
        out->accuracy = 100 * model[RF_SUM_RIGHT] / n_labelled;
        out->accuracy_spliced = 100 * swap[RF_SUM_SWAP_RIGHT] / n_labelled;
        out->accuracy_zero = 100 * zero[RF_SUM_SWAP_RIGHT] / n_labelled;
    }
}

/* Figures by class of the places `out`, whose coder sums are `sums`. */
static void fill_classes(const rf_eval_engine *e, const rf_coder_sums *sums,
                         const rf_eval_place *places, int n_places, rf_token_figures *out)
{
    rf_site_sums sites[RF_MAX_SITES];
    rf_token_span spans[RF_MAX_SITES];

    for (int c = 0; c < RF_EVAL_N_CLASSES; c++) {
        for (int l = 0; l < n_places; l++) {
            sites[l] = rf_eval_site_sums(&e->sites[places[l].site], e->total);
            spans[l] = places[l].layout.spans[c];
        }
        rf_token_figures_compute(sums, (rf_eval_class)c, spans, sites, n_places, &out[c]);
    }
}

static rf_status fill_sites(const rf_eval_engine *e, const rf_eval_part *part,
                            rf_coder_figures *out)
{
    rf_status status = RF_OK;
    const rf_coder_sums *sums = (const rf_coder_sums *)(e->total + part->site_sums_at);

    if (part->out.n <= 1) {
        return RF_OK;
    }
    RF_ALLOC(out->sites, part->out.n);
    out->n_sites = part->out.n;
    for (int l = 0; l < part->out.n; l++) {
        const rf_eval_site *site = &e->sites[part->out.at[l].site];
        out->sites[l].width = site->width;
        RF_TRY(rf_eval_site_name(e, site, out->sites[l].site));
        fill_classes(e, &sums[l], &part->out.at[l], 1, out->sites[l].by_class);
    }
fail:
    return status;
}

/* "site, site" */
static rf_status join_sites(const rf_eval_engine *e, const rf_eval_places *places,
                            char out[RF_SITES_LEN])
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];
    size_t len = 0;

    for (int l = 0; l < places->n; l++) {
        RF_TRY(rf_eval_site_name(e, &e->sites[places->at[l].site], name));
        RF_TRY(rf_format(out + len, RF_SITES_LEN - len, "%s%s", l > 0 ? ", " : "", name));
        len += strlen(out + len);
    }
fail:
    return status;
}

static rf_status describe(const rf_eval_engine *e, const rf_eval_part *part, rf_coder_figures *out)
{
    rf_status status = RF_OK;
    const double none = (double)NAN;

    *out = (rf_coder_figures){.tokens = part->coder->tokens,
                              .n_latents = part->n_latents,
                              .width = part->in.width,
                              .out_width = part->out.width,
                              .substitution = {part->kind, 0, none, none, none, 0, none, none, none,
                                               none, none, none, none}};
    RF_TRY(rf_format(out->name, sizeof out->name, "%s", part->coder->name));
    RF_TRY(join_sites(e, &part->in, out->input));
    if (part->coder->n_out > 0) {
        RF_TRY(join_sites(e, &part->out, out->target));
    }
fail:
    return status;
}

static rf_status fill_coder(const rf_eval_engine *e, const rf_eval_part *part,
                            rf_coder_figures *out)
{
    rf_status status = RF_OK;

    RF_TRY(describe(e, part, out));
    fill_classes(e, (const rf_coder_sums *)(e->total + part->sums_at), part->out.at, part->out.n,
                 out->by_class);
    RF_TRY(fill_sites(e, part, out));
    for (int64_t i = 0; i < part->n_latents; i++) {
        out->n_alive += part->fired[i] > 0;
    }
    if (part->ablation >= 0) {
        fill_substitution(e, part, &out->substitution);
    }
fail:
    return status;
}

static rf_status fill_split(const rf_eval_engine *e, rf_split_figures *out)
{
    rf_status status = RF_OK;

    out->n_pictures = (int64_t)e->total[RF_SUM_PICTURES];
    out->n_bad = (int64_t)e->total[RF_SUM_BAD];
    out->pictures_hash = RF_HASH_START;
    for (int64_t i = 0; i < e->n_chosen; i++) {
        const char *name = rf_picture_list_name(e->job->pictures, e->split, e->chosen[i]);
        out->pictures_hash = rf_hash(out->pictures_hash, name, strlen(name) + 1);
    }
    RF_ALLOC(out->coders, e->job->n_coders);
    out->n_coders = e->job->n_coders;
    for (int64_t i = 0; i < out->n_coders; i++) {
        RF_TRY(fill_coder(e, &e->parts[i], &out->coders[i]));
    }
fail:
    return status;
}

/* ---- measure ----------------------------------------------------------------------------------
 */

static rf_status sum_fired(rf_eval_engine *e)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < e->job->n_coders; i++) {
        RF_TRY(rf_comm_sum_i64(e->job->comm, e->parts[i].fired, e->parts[i].n_latents));
    }
fail:
    return status;
}

/* The second pass: the means that it puts in place are those of the first. */
static rf_status run_mean_ablation(rf_eval_engine *e, rf_split_figures *out)
{
    rf_status status = RF_OK;
    const double n = e->total[RF_SUM_PICTURES];

    set_means(e);
    RF_TRY(run_pass(e, rf_eval_group_ablate, e->n_ablations, "mean ablation"));
    for (int64_t i = 0; n > 0 && i < out->n_coders; i++) {
        if (e->parts[i].ablation >= 0) {
            out->coders[i].substitution.cosine_mean = e->total[e->parts[i].ablation] / n;
        }
    }
fail:
    return status;
}

rf_status rf_eval_measure(const rf_eval_job *job, rf_picture_split split, rf_split_figures *out)
{
    rf_status status = RF_OK;
    rf_eval_engine engine = {.job = job, .split = split};

    *out = (rf_split_figures){.split = split == RF_SPLIT_TRAIN ? split : RF_SPLIT_HELD_OUT};
    RF_TRY(rf_comm_agree(job->comm, rf_eval_engine_init(&engine)));
    RF_TRY(run_pass(&engine, rf_eval_group_measure, engine.n_sums,
                    split == RF_SPLIT_TRAIN ? "trained on" : "held out"));
    RF_TRY(check_totals(&engine));
    RF_TRY(sum_fired(&engine));
    RF_TRY(rf_comm_agree(job->comm, fill_split(&engine, out)));
    if (engine.n_ablations > 0) {
        RF_TRY(run_mean_ablation(&engine, out));
    }
fail:
    rf_eval_engine_fini(&engine);
    if (status != RF_OK) {
        rf_split_figures_fini(out);
    }
    return status;
}

void rf_split_figures_fini(rf_split_figures *figures)
{
    for (int64_t i = 0; i < figures->n_coders; i++) {
        rf_free(figures->coders[i].sites);
    }
    rf_free(figures->coders);
    *figures = (rf_split_figures){.split = figures->split};
}
