/* What a measurement needs beside sites: the choice of pictures, feeds, places in the arena of
 * sums, buffers. */
#include "eval_impl.h"

#include <string.h>

/* Entries of dense codes that are held at once. */
enum { DENSE_CAPACITY = 1 << 22 };

/* ---- which pictures ---------------------------------------------------------------------------
 */

/* At most `most` (0: all) of the split, by a keyed permutation, in rising order. */
static rf_status choose_pictures(rf_eval_engine *e, int64_t most)
{
    rf_status status = RF_OK;
    const int64_t n = rf_picture_list_n(e->job->pictures, e->split);
    uint8_t *is_chosen = NULL;

    e->n_chosen = most == 0 ? n : rf_min_i64(n, most);
    RF_ALLOC(is_chosen, n);
    RF_ALLOC(e->chosen, e->n_chosen);
    for (int64_t i = 0; i < e->n_chosen; i++) {
        is_chosen[rf_permute(e->job->seed, RF_RANDOM_EVAL_SAMPLE, (uint64_t)e->split, 0, n, i)] = 1;
    }
    for (int64_t i = 0, at = 0; i < n; i++) {
        if (is_chosen[i] != 0) {
            e->chosen[at++] = i;
        }
    }
fail:
    rf_free(is_chosen);
    return status;
}

/* Micro-batch g goes to rank g mod size. */
static rf_status deal_pictures(rf_eval_engine *e)
{
    rf_status status = RF_OK;
    const int64_t rank = rf_comm_rank(e->job->comm), size = rf_comm_size(e->job->comm);

    e->n_groups = rf_ceil_div(e->n_chosen, e->batch);
    RF_ALLOC(e->local, e->n_chosen);
    RF_ALLOC(e->local_first, e->n_groups + 1);
    for (int64_t g = rank; g < e->n_groups; g += size) {
        const int64_t first = g * e->batch;
        const int64_t n = rf_min_i64(e->batch, e->n_chosen - first);
        memcpy(e->local + e->n_local, e->chosen + first, (size_t)n * sizeof *e->local);
        e->n_local += n;
        e->local_first[++e->n_local_groups] = e->n_local;
    }
fail:
    return status;
}

/* ---- feeds ------------------------------------------------------------------------------------
 */

static rf_status open_feed(rf_eval_engine *e, const rf_eval_model *model, rf_eval_feed *feed)
{
    const rf_image_loader_opts opts = {.list = e->job->pictures,
                                       .split = e->split,
                                       .transform = *model->transform,
                                       .max_images = e->batch,
                                       .n_threads = e->job->decode_threads,
                                       .fast_decode = e->job->fast_decode};

    feed->transform = model->transform;
    return rf_image_feed_create(e->job->stream, &opts, &feed->feed);
}

/* Models of one transform share their pictures. */
static rf_status open_feeds(rf_eval_engine *e)
{
    rf_status status = RF_OK;

    RF_ALLOC(e->feeds, e->job->n_models);
    for (int m = 0; m < e->job->n_models; m++) {
        rf_eval_runner *runner = &e->runners[m];
        int f = 0;
        if (runner->n_reads == 0) {
            continue;
        }
        while (f < e->n_feeds &&
               !rf_transform_is_equal(e->feeds[f].transform, runner->model->transform)) {
            f++;
        }
        runner->feed = f;
        if (f == e->n_feeds) {
            e->n_feeds++;
            RF_TRY(open_feed(e, runner->model, &e->feeds[f]));
        }
    }
fail:
    return status;
}

/* ---- sums and buffers -------------------------------------------------------------------------
 */

/* `n` places of the arena. */
static int64_t take(int64_t *at, int64_t n)
{
    *at += n;
    return *at - n;
}

static void place_sums(rf_eval_engine *e)
{
    int64_t at = RF_SUM_HEAD;
    for (int m = 0; m < e->job->n_models; m++) {
        e->runners[m].sums_at = take(&at, RF_SUM_MODEL);
    }
    for (int64_t i = 0; i < e->n_sites; i++) {
        rf_eval_site *site = &e->sites[i];
        site->sums_at =
            take(&at, site->is_target ? rf_site_sums_len(site->n_positions, site->width) : 0);
    }
    for (int64_t i = 0; i < e->n_ablations; i++) {
        e->ablations[i].zero_at = take(&at, RF_SUM_SWAP);
    }
    for (int64_t i = 0; i < e->job->n_coders; i++) {
        rf_eval_part *part = &e->parts[i];
        part->sums_at = take(&at, RF_CODER_SUMS_LEN);
        part->swap_at = take(&at, RF_SUM_SWAP);
        part->site_sums_at = take(&at, part->out.n > 1 ? part->out.n * RF_CODER_SUMS_LEN : 0);
    }
    e->n_sums = at;
}

/* Entries that one row may have. */
static int64_t row_capacity(const rf_coder *coder)
{
    const int64_t k = rf_coder_k(coder);
    return rf_coder_rows_for(coder, k) >= 1 ? k : rf_coder_n_latents(coder);
}

/* Room for the codes of as many rows as a coder encodes at once. */
static int64_t codes_capacity(const rf_eval_engine *e)
{
    int64_t capacity = 1;
    for (int64_t i = 0; i < e->job->n_coders; i++) {
        const rf_coder *coder = e->job->coders[i].coder;
        const int64_t n_latents = rf_coder_n_latents(coder), row = row_capacity(coder);
        const int64_t all = e->batch * e->parts[i].in.n_rows * row;
        capacity = rf_max_i64(
            capacity, row == n_latents ? rf_min_i64(all, rf_max_i64(row, DENSE_CAPACITY)) : all);
    }
    return capacity;
}

static rf_status device_floats(const rf_eval_engine *e, int64_t n, float **out)
{
    return rf_memory_alloc(rf_stream_backend(e->job->stream), RF_MEMORY_DEVICE,
                           (size_t)n * sizeof **out, (void **)out);
}

static rf_status init_device(rf_eval_engine *e)
{
    rf_status status = RF_OK;
    rf_backend *be = rf_stream_backend(e->job->stream);
    const int64_t n_cells = e->max_rows * e->max_width;

    RF_TRY(device_floats(e, n_cells, &e->rows));
    RF_TRY(device_floats(e, n_cells, &e->seen));
    RF_TRY(device_floats(e, n_cells, &e->swap));
    RF_TRY(device_floats(e, e->max_rows * e->max_in, &e->row_shift));
    RF_TRY(device_floats(e, e->max_rows * e->max_in, &e->row_scale));
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)e->max_rows, (void **)&e->row_valid));
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, (size_t)e->max_rows, (void **)&e->row_class));
    RF_TRY(rf_codes_create(be, e->max_rows, codes_capacity(e), &e->codes));
fail:
    return status;
}

int64_t rf_eval_n_classes(const rf_eval_model *model)
{
    return model->classifier != NULL ? model->classifier->classes.n_classes
                                     : rf_vit_get_config(model->vit)->n_classes;
}

static rf_status init_host(rf_eval_engine *e)
{
    rf_status status = RF_OK;
    const int64_t n_cells = e->max_rows * e->max_width;
    int64_t d_out = 0, n_classes = 0;

    for (int m = 0; m < e->job->n_models; m++) {
        rf_eval_runner *runner = &e->runners[m];
        const rf_vit_config *c = rf_vit_get_config(runner->model->vit);
        d_out = rf_max_i64(d_out, c->d_out);
        n_classes = rf_max_i64(n_classes, rf_eval_n_classes(runner->model));
        if (e->job->settings.substitution && runner->n_reads > 0) {
            RF_ALLOC(runner->clean, e->n_local * c->d_out);
        }
    }
    RF_ALLOC(e->valid, e->batch);
    RF_ALLOC(e->x, n_cells);
    RF_ALLOC(e->y, n_cells);
    RF_ALLOC(e->y_hat, n_cells);
    RF_ALLOC(e->row_valid_host, e->max_rows);
    RF_ALLOC(e->row_class_host, e->max_rows);
    RF_ALLOC(e->row_start, e->max_rows + 1);
    RF_ALLOC(e->latent, e->codes.capacity);
    RF_ALLOC(e->n_active, e->max_rows);
    RF_ALLOC(e->embedding, e->batch * d_out);
    RF_ALLOC(e->logits, e->batch * n_classes);
    RF_ALLOC(e->group, e->n_sums);
    RF_ALLOC(e->total, e->n_sums);
fail:
    return status;
}

rf_status rf_eval_engine_init(rf_eval_engine *e)
{
    rf_status status = RF_OK;
    const rf_eval_settings *settings = &e->job->settings;

    RF_REQUIRE(e->job->n_coders >= 1, "n_coders = %" PRId64 ", expected >= 1", e->job->n_coders);
    RF_REQUIRE(settings->micro_batch >= 1, "micro_batch = %" PRId64 ", expected >= 1",
               settings->micro_batch);
    e->batch = settings->micro_batch;
    RF_TRY(choose_pictures(e, e->split == RF_SPLIT_TRAIN ? settings->max_trained_on
                                                         : settings->max_held_out));
    RF_TRY(deal_pictures(e));
    RF_TRY(rf_eval_sites_init(e));
    RF_TRY(open_feeds(e));
    place_sums(e);
    RF_TRY(init_device(e));
    RF_TRY(init_host(e));
fail:
    return status;
}

static void free_feeds(rf_eval_engine *e)
{
    for (int f = 0; f < e->n_feeds; f++) {
        rf_image_feed_destroy(e->feeds[f].feed);
    }
    rf_free(e->feeds);
    for (int m = 0; e->runners != NULL && m < e->job->n_models; m++) {
        rf_free(e->runners[m].clean);
    }
}

void rf_eval_engine_fini(rf_eval_engine *e)
{
    rf_backend *be = rf_stream_backend(e->job->stream);
    void *device[] = {e->rows,      e->seen,      e->swap,     e->row_shift,
                      e->row_scale, e->row_valid, e->row_class};
    void *host[] = {e->total,          e->group,       e->logits,    e->embedding,
                    e->n_active,       e->latent,      e->row_start, e->row_class_host,
                    e->row_valid_host, e->y_hat,       e->y,         e->x,
                    e->valid,          e->local_first, e->local,     e->chosen};

    rf_codes_destroy(be, &e->codes);
    for (size_t i = 0; i < sizeof device / sizeof device[0]; i++) {
        rf_memory_free(be, RF_MEMORY_DEVICE, device[i]);
    }
    for (size_t i = 0; i < sizeof host / sizeof host[0]; i++) {
        rf_free(host[i]);
    }
    free_feeds(e);
    rf_eval_sites_fini(e);
    *e = (rf_eval_engine){.job = NULL};
}
