/* Codes of a step: the lists that its coder asks for from one pass over the products, and
 * BatchTopK's cut over all ranks. */
#include "step_impl.h"

#include <math.h>
#include <string.h>

enum { N_BINS = 65536 };

/* ---- k of rows ---------------------------------------------------------------------------------
 */

static int32_t second_k_of(const rf_step_job *job, int64_t k)
{
    int64_t second_k = 0;
    if (job->architecture->second != NULL) {
        job->architecture->second(job->settings, k, &second_k);
    }
    return (int32_t)rf_min_i64(second_k, job->n_latents);
}

/* k of this rank's rows, for the main and the second list, where it differs by class; on the
 * device. */
static rf_status set_row_k(rf_step_job *job, bool *has)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    int32_t *k = NULL;
    const int64_t n = job->n_local, *by_class = job->settings->k.of;
    *has = job->batch->classes != NULL && (by_class[0] > 0 || by_class[1] > 0 || by_class[2] > 0);
    if (*has && n > 0) {
        RF_ALLOC(k, 2 * n);
        rf_coder_row_k(job->coder, job->batch->classes, n, k);
        for (int64_t b = 0; b < n; b++) {
            const double scaled = (double)k[b] * job->rates->k_scale + 0.5;
            k[b] = (int32_t)rf_max_i64(1, rf_min_i64((int64_t)scaled, job->k));
            k[n + b] = second_k_of(job, k[b]);
        }
        RF_TRY(rf_copy_in(step->s, step->row_k, k, sizeof *k * (size_t)(2 * n)));
        RF_TRY(rf_stream_synchronise(step->s));
    }
fail:
    rf_free(k);
    return status;
}

/* ---- encode ------------------------------------------------------------------------------------
 */

static rf_select_list aux_list(rf_step_job *job)
{
    rf_step *step = job->step;
    step->local.codes[STEP_AUX].n_rows = job->n_local;
    step->local.codes[STEP_AUX].capacity = job->n_local * job->aux_k;
    step->global.codes[STEP_AUX].capacity = job->n_rows * job->aux_k;
    return (rf_select_list){.rule = RF_SELECT_TOPK,
                            .k = job->aux_k,
                            .eligible = step->dead,
                            .codes = &step->local.codes[STEP_AUX]};
}

static rf_encode_args common_args(rf_step_job *job)
{
    return (rf_encode_args){.x = rf_step_seen(job, false),
                            .w_enc = rf_coder_view(job->coder, RF_CODER_W_ENC),
                            .b_enc = rf_coder_view(job->coder, RF_CODER_B_ENC),
                            .products = job->settings->products == 1 ? RF_BF16 : RF_F32,
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

/* All lists of the coder. `total_k`: of BatchTopK, the whole batch. */
static rf_encode_args encode_args(rf_step_job *job, int64_t total_k, bool has_row_k)
{
    rf_step *step = job->step;
    rf_step_rows *mine = &step->local;
    const rf_architecture *a = job->architecture;
    rf_encode_args args = common_args(job);
    rf_select_rule rule = a->rule(job->settings);
    const int32_t *row_k = has_row_k && rule == RF_SELECT_TOPK ? step->row_k : NULL;
    int64_t slot = a->may_be_dense ? a->row_capacity(job->settings, job->n_latents) : job->k;

    set_room(job, STEP_MAIN, rule == RF_SELECT_BATCH_TOPK ? job->n_rows : job->n_local, slot);
    args.lists[args.n_lists++] =
        (rf_select_list){.rule = rule,
                         .k = rule == RF_SELECT_BATCH_TOPK ? rf_max_i64(1, total_k) : job->k,
                         .row_k = row_k,
                         .threshold = job->act.threshold,
                         .codes = &mine->codes[STEP_MAIN],
                         .overflow = &step->scalars->overflow};
    if (job->second_k > 0) {
        set_room(job, STEP_SECOND, job->n_local, job->second_k);
        args.lists[args.n_lists++] =
            (rf_select_list){.rule = RF_SELECT_TOPK,
                             .k = job->second_k,
                             .row_k = row_k == NULL ? NULL : step->row_k + job->n_local,
                             .codes = &mine->codes[STEP_SECOND]};
    }
    if (job->act.act == RF_CODER_JUMP) {
        set_room(job, STEP_WINDOW, job->n_local, slot);
        args.lists[args.n_lists++] =
            (rf_select_list){.rule = RF_SELECT_WINDOW,
                             .threshold = job->act.threshold,
                             .window = (float)rf_coder_bandwidth(job->coder, &job->state),
                             .codes = &mine->codes[STEP_WINDOW],
                             .overflow = &step->scalars->window_overflow};
    }
    if (job->aux_k > 0) {
        args.lists[args.n_lists++] = aux_list(job);
    }
    return args;
}

/* counts: overflows, refused rows. */
static rf_status encode_local(rf_step_job *job, int64_t total_k, bool has_row_k, int64_t counts[2])
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    double seconds[2] = {0.0, 0.0};
    int64_t overflow[2] = {0, 0};
    rf_encode_args args = encode_args(job, total_k, has_row_k);
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

/* Counts of values by half of their bits, summed over ranks, on the host (step->host_starts). */
static rf_status histogram(rf_step_job *job, int32_t upper)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    RF_TRY(rf_comm_agree(step->comm, rf_codes_histogram(step->s, &step->local.codes[STEP_MAIN],
                                                        upper, step->histogram)));
    RF_TRY(rf_all_sum_i64(step->s, step->comm, step->histogram, N_BINS));
    RF_TRY(rf_copy_out(step->s, step->host_starts, step->histogram, sizeof(int64_t) * N_BINS));
    RF_TRY(rf_stream_synchronise(step->s));
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

/* The n-th largest value on all ranks, and how many of those that equal it belong to the n. */
static rf_status find_nth(rf_step_job *job, int64_t n, float *value, int64_t *n_equal)
{
    rf_status status = RF_OK;
    int64_t above, above_low;
    RF_TRY(histogram(job, -1));
    int32_t upper = find_bin(job->step->host_starts, n, &above);
    RF_TRY(histogram(job, upper));
    int32_t lower = find_bin(job->step->host_starts, n - above, &above_low);
    uint32_t bits = ((uint32_t)upper << 16) | (uint32_t)lower;
    memcpy(value, &bits, sizeof *value);
    *n_equal = n - above - above_low;
fail:
    return status;
}

/* Entries of this rank that equal `value`; n_ties gets those of it that are kept: ranks before have
 * the first choice, as their rows come first. */
static rf_status share_ties(rf_step_job *job, float value, int64_t n_equal, int64_t *n_ties)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    const int rank = rf_comm_rank(step->comm), size = rf_comm_size(step->comm);
    rf_codes *codes = &step->local.codes[STEP_MAIN];
    float *values = NULL;
    int64_t n = 0, mine = 0, before = 0;
    status = rf_codes_count(step->s, codes, &n);
    values = status == RF_OK ? rf_calloc(n + 1, sizeof *values) : NULL;
    status = status == RF_OK && values == NULL ? RF_ERR_NO_MEMORY : status;
    if (status == RF_OK) {
        status = rf_copy_out(step->s, values, codes->value, sizeof *values * (size_t)n);
    }
    if (status == RF_OK) {
        status = rf_stream_synchronise(step->s);
    }
    RF_TRY(rf_comm_agree(step->comm, status));
    for (int64_t e = 0; e < n; e++) {
        mine += values[e] >= value && values[e] <= value;
    }
    for (int r = 0; r < size; r++) {
        step->offsets[r] = sizeof(int64_t);
    }
    RF_TRY(rf_comm_allgatherv(step->comm, &mine, step->counts, step->offsets));
    for (int r = 0; r < rank; r++) {
        before += step->counts[r];
    }
    *n_ties = rf_max_i64(0, rf_min_i64(mine, n_equal - before));
fail:
    rf_free(values);
    return status;
}

/* The running threshold is a mean over about the last tenth of the steps, until that is more than
 * 1 / threshold_rate of them: what was kept before the coder could do anything does not count. */
static const double RECENT = 10.0;

/* Of the lists of all ranks the `total_k` largest stay; the least of them moves the running
 * threshold. */
static rf_status cut_over_ranks(rf_step_job *job, int64_t total_k)
{
    rf_status status = RF_OK;
    rf_step *step = job->step;
    float *threshold = &job->state.scalars[RF_SCALAR_THRESHOLD], least;
    float *mass = &job->state.scalars[RF_SCALAR_THRESHOLD_MASS];
    const double n_steps = (double)job->state.counters[RF_COUNTER_STEPS];
    const float rate = (float)fmax(job->settings->threshold_rate, RECENT / (n_steps + RECENT));
    int64_t n = 0, n_equal, n_ties;
    RF_TRY(rf_comm_agree(step->comm, rf_codes_count(step->s, &step->local.codes[STEP_MAIN], &n)));
    RF_TRY(rf_comm_sum_i64(step->comm, &n, 1));
    if (n == 0) {
        goto fail;
    }
    RF_TRY(find_nth(job, rf_min_i64(n, total_k), &least, &n_equal));
    if (n > total_k) {
        RF_TRY(share_ties(job, least, n_equal, &n_ties));
        RF_TRY(rf_comm_agree(step->comm,
                             rf_codes_keep(step->s, &step->local.codes[STEP_MAIN], least, n_ties)));
    }
    *threshold += rate * (least - *threshold);
    *mass += rate * (1.0f - *mass);
fail:
    return status;
}

/* ---- together ----------------------------------------------------------------------------------
 */

rf_status rf_step_encode(rf_step_job *job)
{
    rf_status status = RF_OK;
    const rf_comm *comm = job->step->comm;
    bool is_batch = job->architecture->rule(job->settings) == RF_SELECT_BATCH_TOPK;
    bool has_row_k = false;
    int64_t counts[2] = {0, 0}, total_k = 0; /* overflow, refused */
    RF_TRY(rf_comm_agree(comm, set_row_k(job, &has_row_k)));
    if (is_batch) {
        total_k = job->k * job->batch->n_valid;
    }
    RF_TRY(rf_comm_agree(comm, encode_local(job, total_k, has_row_k, counts)));
    RF_TRY(rf_comm_sum_i64(comm, counts, 2));
    job->metrics->skipped = counts[1] > 0;
    job->is_dense = counts[0] > 0;
    if (is_batch && !job->metrics->skipped) {
        RF_TRY(cut_over_ranks(job, total_k));
        rf_step_lap(job->step, RF_PART_SELECT);
    }
fail:
    return status;
}

rf_status rf_step_encode_aux(rf_step_job *job)
{
    rf_status status = RF_OK;
    rf_encode_args args = common_args(job);
    args.n_lists = 1;
    args.lists[0] = aux_list(job);
    RF_TRY(rf_comm_agree(job->step->comm, rf_encode(job->step->s, &args)));
    rf_step_lap(job->step, RF_PART_AUX);
fail:
    return status;
}
