/* One split of pictures: two passes of micro-batches over the ranks, and the figures. */
#include "eval_impl.h"

#include <math.h>
#include <string.h>

typedef rf_status (*group_work)(rf_eval_engine *e, const rf_image_batch *batch,
                                int64_t first_local);

/* This rank's micro-batch of `round`, if it has one. */
static rf_status work_round(rf_eval_engine *e, rf_image_loader *loader, int64_t round,
                            group_work work)
{
    rf_status status = RF_OK;
    const rf_image_batch *batch = NULL;

    if (rf_interrupt_pending() != 0) {
        RF_FAIL(RF_ERR_INTERRUPTED, "evaluation was interrupted by signal %d; nothing was written",
                rf_interrupt_pending());
    }
    if (round < e->n_local_groups) {
        RF_TRY(rf_image_loader_next(loader, &batch));
        RF_BUG(batch != NULL, "the loader ended before round %" PRId64, round);
        RF_TRY(work(e, batch, e->local_first[round]));
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

/* All micro-batches once. Collective. */
static rf_status run_pass(rf_eval_engine *e, rf_image_loader *loader, group_work work,
                          int64_t n_sums, const char *label)
{
    rf_status status = RF_OK;
    const int64_t size = rf_comm_size(e->job->comm);
    const int64_t n_rounds = rf_ceil_div(e->n_groups, size);

    memset(e->total, 0, (size_t)n_sums * sizeof *e->total);
    RF_TRY(rf_comm_agree(
        e->job->comm, rf_image_loader_start(loader, e->local, e->local_first, e->n_local_groups)));
    for (int64_t round = 0; round < n_rounds; round++) {
        RF_TRY(rf_comm_agree(e->job->comm, work_round(e, loader, round, work)));
        RF_TRY(fold(e, n_sums));
        rf_progress(label, rf_min_i64(e->n_chosen, (round + 1) * size * e->batch), e->n_chosen, "");
    }
fail:
    return status;
}

/* ---- after the first pass ---------------------------------------------------------------------
 */

/* The totals are those of every rank, so all of them fail alike. */
static rf_status check_totals(const rf_eval_engine *e, const rf_image_loader *loader)
{
    rf_status status = RF_OK;
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
        const rf_eval_site *site = &e->sites[e->ablations[i].site];
        const rf_site_sums sums =
            rf_site_sums_bind(e->total + site->sums_at, site->n_positions, site->width);
        rf_site_sums_mean(&sums, e->ablations[i].span, site->shift, e->ablations[i].mean);
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
    const double n = total[RF_SUM_PICTURES], n_labelled = total[RF_SUM_LABELLED];

    out->n_pictures = (int64_t)n;
    out->n_labelled = (int64_t)n_labelled;
    if (n > 0) {
        out->cosine_spliced = swap[RF_SUM_SWAP_COSINE] / n;
        out->cosine_zero = zero[RF_SUM_SWAP_COSINE] / n;
    }
    if (n_labelled > 0) {
        out->ce = total[RF_SUM_CE] / n_labelled;
        out->ce_spliced = swap[RF_SUM_SWAP_CE] / n_labelled;
        out->ce_zero = zero[RF_SUM_SWAP_CE] / n_labelled;
        out->ce_recovered = percent_recovered(out->ce, out->ce_spliced, out->ce_zero);
    }
}

static rf_status fill_coder(const rf_eval_engine *e, const rf_eval_part *part,
                            rf_coder_figures *out)
{
    rf_status status = RF_OK;
    const rf_eval_site *site = &e->sites[part->site];
    const rf_site_sums sums =
        rf_site_sums_bind(e->total + site->sums_at, site->n_positions, site->width);
    const double none = (double)NAN;

    *out = (rf_coder_figures){.tokens = part->coder->tokens,
                              .n_latents = part->n_latents,
                              .width = site->width,
                              .substitution = {0, none, none, none, 0, none, none, none, none}};
    RF_TRY(rf_format(out->name, sizeof out->name, "%s", part->coder->name));
    RF_TRY(rf_format(out->hook, sizeof out->hook, "%s", part->coder->point.name));
    for (int c = 0; c < RF_EVAL_N_CLASSES; c++) {
        rf_token_figures_compute((const rf_coder_sums *)(e->total + part->sums_at),
                                 (rf_eval_class)c, part->layout.spans[c], &sums, &out->by_class[c]);
    }
    for (int64_t i = 0; i < part->n_latents; i++) {
        out->n_alive += part->fired[i] > 0;
    }
    if (e->job->settings.substitution) {
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

static rf_status open_loader(const rf_eval_engine *e, rf_image_loader **out)
{
    const rf_image_loader_opts opts = {.list = e->job->pictures,
                                       .split = e->split,
                                       .transform = *e->job->transform,
                                       .max_images = e->batch,
                                       .n_threads = e->job->decode_threads};
    return rf_image_loader_create(&opts, out);
}

/* The second pass: the means that it puts in place are those of the first. */
static rf_status run_mean_ablation(rf_eval_engine *e, rf_image_loader *loader,
                                   rf_split_figures *out)
{
    rf_status status = RF_OK;
    const double n = e->total[RF_SUM_PICTURES];

    set_means(e);
    RF_TRY(run_pass(e, loader, rf_eval_group_ablate, e->n_ablations, "mean ablation"));
    for (int64_t i = 0; n > 0 && i < out->n_coders; i++) {
        out->coders[i].substitution.cosine_mean = e->total[e->parts[i].ablation] / n;
    }
fail:
    return status;
}

rf_status rf_eval_measure(const rf_eval_job *job, rf_picture_split split, rf_split_figures *out)
{
    rf_status status = RF_OK;
    rf_eval_engine engine = {.job = job, .split = split};
    rf_image_loader *loader = NULL;

    *out = (rf_split_figures){.split = split};
    status = rf_eval_engine_init(&engine);
    if (status == RF_OK) {
        status = open_loader(&engine, &loader);
    }
    RF_TRY(rf_comm_agree(job->comm, status));
    RF_TRY(run_pass(&engine, loader, rf_eval_group_measure, engine.n_sums,
                    split == RF_SPLIT_HELD_OUT ? "held out" : "trained on"));
    RF_TRY(check_totals(&engine, loader));
    RF_TRY(sum_fired(&engine));
    RF_TRY(rf_comm_agree(job->comm, fill_split(&engine, out)));
    if (job->settings.substitution) {
        RF_TRY(run_mean_ablation(&engine, loader, out));
    }
fail:
    rf_image_loader_destroy(loader);
    rf_eval_engine_fini(&engine);
    if (status != RF_OK) {
        rf_split_figures_fini(out);
    }
    return status;
}

void rf_split_figures_fini(rf_split_figures *figures)
{
    rf_free(figures->coders);
    *figures = (rf_split_figures){.split = figures->split};
}
