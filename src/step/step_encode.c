/* Codes of a step: the lists that its coder asks for from one pass over the products, and
 * BatchTopK's cut over all ranks. */
#include "step_impl.h"

#include <math.h>
#include <string.h>

enum { N_BINS = 65536 };

/* ---- k by class of token ------------------------------------------------------------------------
 */

/* How a batch is shared out. Where k does not differ by class, all rows are of class 0. */
typedef struct batch_shares {
    bool has_classes;
    int64_t k[RF_MAX_ROW_CLASSES];     /* of a row */
    int64_t total[RF_MAX_ROW_CLASSES]; /* of BatchTopK: of the valid rows of all ranks */
} batch_shares;

/* Classes of this rank's rows to the device; n_rows += its valid ones of each. */
static rf_status put_classes(rf_step_job *job, int64_t n_rows[RF_MAX_ROW_CLASSES])
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const uint8_t *classes = job->batch->classes; /* NULL: not known, class 0 */
    const size_t n = (size_t)job->n_local;
    uint8_t *valid = NULL;
    RF_ALLOC(valid, job->n_local);
    RF_TRY(rf_copy_out(step->s, valid, step->local.valid, n));
    if (classes == NULL) {
        RF_TRY(rf_fill_bytes(step->s, step->row_class, 0, n));
    } else {
        RF_TRY(rf_copy_in(step->s, step->row_class, classes, n));
    }
    RF_TRY(rf_stream_synchronise(step->s));
    for (int64_t b = 0; b < job->n_local; b++) {
        const int c = classes == NULL || classes[b] >= RF_MAX_ROW_CLASSES ? 0 : classes[b];
        n_rows[c] += valid[b] != 0;
    }
fail:
    rf_free(valid);
    return status;
}

static rf_status share_out(rf_step_job *job, batch_shares *out)
{
    rf_status status = RF_OK;
    const rf_comm *comm = job->step->comm;
    int64_t n_rows[RF_MAX_ROW_CLASSES] = {0};
    *out = (batch_shares){.has_classes = rf_coder_has_class_k(job->coder)};
    if (!out->has_classes) {
        out->k[0] = job->k;
        out->total[0] = job->k * job->batch->n_valid;
        return RF_OK;
    }
    RF_TRY(rf_comm_agree(comm, put_classes(job, n_rows)));
    RF_TRY(rf_comm_sum_i64(comm, n_rows, RF_MAX_ROW_CLASSES));
    rf_coder_class_k(job->coder, job->rates->k_scale, out->k);
    for (int c = 0; c < RF_MAX_ROW_CLASSES; c++) {
        out->total[c] = out->k[c] * n_rows[c];
    }
fail:
    return status;
}

/* What a list reads of it. */
static void set_classes(const rf_step_job *job, const batch_shares *shares, rf_select_list *list)
{
    if (shares->has_classes) {
        list->row_class = job->step->row_class;
        memcpy(list->class_k, list->rule == RF_SELECT_BATCH_TOPK ? shares->total : shares->k,
               sizeof list->class_k);
    }
}

/* ---- encode ------------------------------------------------------------------------------------
 */

static rf_select_list aux_list(rf_step_job *job)
{
    rf_step *step = job->step;
    step->local.codes[RF_STEP_AUX].n_rows = job->n_local;
    step->local.codes[RF_STEP_AUX].capacity = job->n_local * job->aux_k;
    step->global.codes[RF_STEP_AUX].capacity = job->n_rows * job->aux_k;
    return (rf_select_list){.rule = RF_SELECT_TOPK,
                            .k = job->aux_k,
                            .eligible = step->dead,
                            .codes = &step->local.codes[RF_STEP_AUX]};
}

static rf_encode_args common_args(rf_step_job *job)
{
    return (rf_encode_args){.x = rf_step_seen(job, false),
                            .w_enc = rf_coder_view(job->coder, RF_CODER_W_ENC),
                            .b_enc = rf_coder_view(job->coder, RF_CODER_B_ENC),
                            .products = (rf_products)job->settings->products,
                            .row_valid = job->step->local.valid,
                            .n_refused = &job->step->scalars->refused};
}

/* Room depends on this coder alone, never on the others that share the memory. */
static void set_room(rf_step_job *job, int list, int64_t n_local, int64_t slot)
{
    rf_step *step = job->step;
    step->local.codes[list].n_rows = job->n_local;
    step->local.codes[list].capacity = n_local * slot;
    step->global.codes[list].capacity = job->n_rows * slot;
}

/* MultiTopK: more of each row. */
static rf_select_list second_list(rf_step_job *job, const batch_shares *shares)
{
    rf_select_list list = {.rule = RF_SELECT_TOPK,
                           .k = job->second_k,
                           .codes = &job->step->local.codes[RF_STEP_SECOND]};
    set_room(job, RF_STEP_SECOND, job->n_local, job->second_k);
    set_classes(job, shares, &list);
    for (int c = 0; shares->has_classes && c < RF_MAX_ROW_CLASSES; c++) {
        int64_t second_k = 0;
        job->architecture->second(job->settings, shares->k[c], &second_k);
        list.class_k[c] = rf_min_i64(second_k, job->second_k);
    }
    return list;
}

/* All lists of the coder. */
static rf_encode_args encode_args(rf_step_job *job, const batch_shares *shares)
{
    rf_step *step = job->step;
    rf_step_rows *mine = &step->local;
    const rf_architecture *a = job->architecture;
    rf_encode_args args = common_args(job);
    rf_select_rule rule = a->rule(job->settings);
    bool is_batch = rule == RF_SELECT_BATCH_TOPK;
    int64_t total = 0;
    int64_t slot = a->may_be_dense ? a->row_capacity(job->settings, job->n_latents) : job->k;

    for (int c = 0; c < RF_MAX_ROW_CLASSES; c++) {
        total += shares->total[c];
    }
    set_room(job, RF_STEP_MAIN, is_batch ? job->n_rows : job->n_local, slot);
    args.lists[args.n_lists] = (rf_select_list){.rule = rule,
                                                .k = is_batch ? total : job->k,
                                                .threshold = job->act.threshold,
                                                .codes = &mine->codes[RF_STEP_MAIN],
                                                .overflow = &step->scalars->overflow};
    set_classes(job, shares, &args.lists[args.n_lists++]);
    if (job->second_k > 0) {
        args.lists[args.n_lists++] = second_list(job, shares);
    }
    if (job->act.act == RF_CODER_JUMP) {
        set_room(job, RF_STEP_WINDOW, job->n_local, slot);
        args.lists[args.n_lists++] =
            (rf_select_list){.rule = RF_SELECT_WINDOW,
                             .threshold = job->act.threshold,
                             .window = (float)rf_coder_bandwidth(job->coder, &job->state),
                             .codes = &mine->codes[RF_STEP_WINDOW],
                             .overflow = &step->scalars->window_overflow};
    }
    if (job->aux_k > 0) {
        args.lists[args.n_lists++] = aux_list(job);
    }
    return args;
}

/* counts: overflows, refused rows. */
static rf_status encode_local(rf_step_job *job, const batch_shares *shares, int64_t counts[2])
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    double seconds[2] = {0.0, 0.0};
    int64_t overflow[2] = {0, 0};
    rf_encode_args args = encode_args(job, shares);
    args.seconds = step->opts.part_seconds == NULL ? NULL : seconds;
    RF_TRY(rf_encode(step->s, &args));
    if (job->architecture->may_be_dense) {
        RF_TRY(rf_copy_out(step->s, &overflow[0], &step->scalars->overflow, sizeof(int64_t)));
    }
    if (job->act.act == RF_CODER_JUMP) {
        RF_TRY(
            rf_copy_out(step->s, &overflow[1], &step->scalars->window_overflow, sizeof(int64_t)));
    }
    RF_TRY(rf_copy_out(step->s, &counts[1], &step->scalars->refused, sizeof counts[1]));
    RF_TRY(rf_stream_synchronise(step->s));
    counts[0] = overflow[0] + overflow[1];
    rf_step_lap(step, RF_PART_SELECT);
    if (step->opts.part_seconds != NULL) { /* of the whole encode, what products took */
        step->opts.part_seconds[RF_PART_SELECT] -= seconds[0];
        step->opts.part_seconds[RF_PART_PRODUCT] += seconds[0];
    }
fail:
    return status;
}

/* ---- BatchTopK over ranks ----------------------------------------------------------------------
 */

/* Counts of the values of `rows` of this rank by half of their bits, on the host
 * (step->host_starts). */
static rf_status count_mine(rf_step_job *job, rf_class_rows rows, int32_t upper)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(rf_codes_histogram(step->s, &step->local.codes[RF_STEP_MAIN], rows, upper,
                              step->histogram));
    RF_TRY(rf_copy_out(step->s, step->host_starts, step->histogram, sizeof(int64_t) * N_BINS));
    RF_TRY(rf_stream_synchronise(step->s));
fail:
    return status;
}

static rf_status begin_count(rf_step_job *job, rf_class_rows rows, int32_t upper)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(rf_codes_histogram(step->s, &step->local.codes[RF_STEP_MAIN], rows, upper,
                              step->histogram));
    RF_TRY(rf_exchange_begin(step));
fail:
    return status;
}

static rf_status fetch_count(rf_step *step)
{
    rf_status status = RF_OK;
    RF_TRY(
        rf_copy_out(step->exchange, step->host_starts, step->histogram, sizeof(int64_t) * N_BINS));
    RF_TRY(rf_stream_synchronise(step->exchange));
fail:
    return status;
}

/* The same, summed over ranks. */
static rf_status count_all(rf_step_job *job, rf_class_rows rows, int32_t upper)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(rf_comm_agree(step->comm, begin_count(job, rows, upper)));
    status = rf_all_sum_i64(step->exchange, step->comm, step->histogram, N_BINS);
    RF_TRY(rf_comm_agree(step->comm, status != RF_OK ? status : fetch_count(step)));
fail:
    return status;
}

/* The bin of the n-th largest (n from 1); *above: how many lie in higher bins. */
static int32_t find_bin(const int64_t *counts, int64_t n, int64_t *above)
{
    int32_t bin = N_BINS;
    *above = 0;
    while (bin > 0 && *above + counts[bin - 1] < n) {
        *above += counts[--bin];
    }
    return bin - 1;
}

/* Of the `n_equal` values with bits `upper`, `lower` that stay, this rank's: ranks before have the
 * first choice, as their rows come first. */
static rf_status share_ties(rf_step_job *job, rf_class_rows rows, int32_t upper, int32_t lower,
                            int64_t n_equal, int64_t *n_ties)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const int rank = rf_comm_rank(step->comm), size = rf_comm_size(step->comm);
    int64_t before = 0;
    RF_TRY(rf_comm_agree(step->comm, count_mine(job, rows, upper)));
    const int64_t mine = step->host_starts[lower];
    for (int r = 0; r < size; r++) {
        step->offsets[r] = sizeof(int64_t);
    }
    RF_TRY(rf_comm_allgatherv(step->comm, &mine, step->counts, step->offsets));
    for (int r = 0; r < rank; r++) {
        before += step->counts[r];
    }
    *n_ties = rf_max_i64(0, rf_min_i64(mine, n_equal - before));
fail:
    return status;
}

/* Of `rows` of all ranks' lists the `k` largest stay. *least: the least of them, 0 where there are
 * none. */
static rf_status cut_rows(rf_step_job *job, rf_class_rows rows, int64_t k, float *least)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    int64_t n = 0, above = 0, above_low = 0, n_ties = 0;
    *least = 0.0f;
    RF_TRY(count_all(job, rows, -1));
    for (int i = 0; i < N_BINS; i++) {
        n += step->host_starts[i];
    }
    if (n == 0) {
        return RF_OK;
    }
    const int64_t nth = rf_min_i64(n, k);
    const int32_t upper = find_bin(step->host_starts, nth, &above);
    RF_TRY(count_all(job, rows, upper));
    const int32_t lower = find_bin(step->host_starts, nth - above, &above_low);
    const uint32_t bits = ((uint32_t)upper << 16) | (uint32_t)lower;
    memcpy(least, &bits, sizeof *least);
    if (n > k) {
        RF_TRY(share_ties(job, rows, upper, lower, nth - above - above_low, &n_ties));
        RF_TRY(rf_comm_agree(step->comm, rf_codes_keep(step->s, &step->local.codes[RF_STEP_MAIN],
                                                       rows, *least, n_ties)));
    }
fail:
    return status;
}

/* A running threshold is a mean over about the last tenth of the steps, until that is more than
 * 1 / threshold_rate of them: what was kept before the coder could do anything does not count. */
static const double RECENT = 10.0;

static void follow(const rf_step_job *job, float least, float *sum, float *mass)
{
    const double n_steps = (double)job->state.counters[RF_COUNTER_STEPS];
    const float rate = (float)fmax(job->settings->threshold_rate, RECENT / (n_steps + RECENT));
    *sum += rate * (least - *sum);
    *mass += rate * (1.0f - *mass);
}

/* Of the lists of all ranks the largest stay, of each class its own; the least of them moves the
 * running thresholds, that of its class and that of all. */
static rf_status cut_over_ranks(rf_step_job *job, const batch_shares *shares)
{
    rf_status status = RF_OK;
    rf_coder_state *state = &job->state;
    rf_class_rows rows = {.row_class = shares->has_classes ? job->step->row_class : NULL};
    float least, least_of_all = INFINITY;
    for (; rows.which < RF_MAX_ROW_CLASSES; rows.which++) {
        const int64_t k = shares->total[rows.which];
        const int idx = rows.which - (int)RF_TOKENS_CLS;
        if (k == 0) {
            continue;
        }
        RF_TRY(cut_rows(job, rows, k, &least));
        if (least > 0.0f) {
            least_of_all = fminf(least_of_all, least);
        }
        if (least > 0.0f && shares->has_classes && idx >= 0 && idx < RF_K_CLASSES) {
            float *mean = state->class_thresholds[idx];
            follow(job, least, &mean[0], &mean[1]);
        }
    }
    if (isfinite(least_of_all)) {
        follow(job, least_of_all, &state->scalars[RF_SCALAR_THRESHOLD],
               &state->scalars[RF_SCALAR_THRESHOLD_MASS]);
    }
fail:
    return status;
}

/* ---- together ----------------------------------------------------------------------------------
 */

/* What is known before there are codes. */
static rf_status queue_inputs(const rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_step_rows *l = &job->step->local, *g = &job->step->global;
    RF_TRY(rf_exchange_queue_rows(job, l->seen, g->seen, sizeof(float) * (size_t)job->width));
    if (!rf_coder_subtracts(job->coder)) {
        RF_TRY(rf_exchange_queue_rows(job, l->target, g->target,
                                      sizeof(float) * (size_t)job->out_width));
    }
    RF_TRY(rf_exchange_queue_rows(job, l->valid, g->valid, 1));
    rf_step_lap(job->step, RF_PART_EXCHANGE);
fail:
    return status;
}

rf_status rf_step_encode(rf_step_job *job)
{
    rf_status status = RF_OK;
    const rf_comm *comm = job->step->comm;
    bool is_batch = job->architecture->rule(job->settings) == RF_SELECT_BATCH_TOPK;
    int64_t counts[2] = {0, 0}; /* overflow, refused */
    batch_shares shares;
    RF_TRY(share_out(job, &shares));
    status = queue_inputs(job);
    RF_TRY(rf_comm_agree(comm, status != RF_OK ? status : encode_local(job, &shares, counts)));
    RF_TRY(rf_comm_sum_i64(comm, counts, 2));
    job->metrics->skipped = counts[1] > 0;
    job->is_dense = counts[0] > 0;
    if (is_batch && !job->metrics->skipped) {
        RF_TRY(cut_over_ranks(job, &shares));
        rf_step_lap(job->step, RF_PART_SELECT);
    }
fail:
    return status;
}

static rf_status encode_aux_local(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_encode_args args = common_args(job);
    args.n_lists = 1;
    args.lists[0] = aux_list(job);
    RF_TRY(rf_encode(job->step->s, &args));
    RF_TRY(rf_exchange_begin(job->step));
fail:
    return status;
}

rf_status rf_step_encode_aux(rf_step_job *job)
{
    rf_status status = RF_OK;
    RF_TRY(rf_comm_agree(job->step->comm, encode_aux_local(job)));
    rf_step_lap(job->step, RF_PART_AUX);
fail:
    return status;
}
