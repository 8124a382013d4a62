/* What a run is made of, and in which order: backend, model, pictures, stream, coders, work space.
 * Local work ends in an agreement, so that all ranks go on or fail together. */
#include "run_impl.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* ---- threads -----------------------------------------------------------------------------------
 */

/* Cores that I may use, shared by the ranks of this host that may use just the same ones: bound
 * ranks have cores of their own. */
static rf_status share_cores(const rf_comm *host, int64_t *out)
{
    rf_status status = RF_OK;
    cpu_set_t mine, *all = NULL;
    int64_t *bytes = NULL, n_same = 0;
    const int size = rf_comm_size(host);

    CPU_ZERO(&mine);
    if (sched_getaffinity(0, sizeof mine, &mine) != 0) { /* more CPUs than a set holds */
        CPU_SET(0, &mine);
    }
    RF_ALLOC(all, size);
    RF_ALLOC(bytes, size);
    for (int r = 0; r < size; r++) {
        bytes[r] = (int64_t)sizeof mine;
    }
fail:
    status = rf_comm_agree(host, status);
    if (status == RF_OK) {
        status = rf_comm_allgatherv(host, &mine, all, bytes);
    }
    for (int r = 0; status == RF_OK && r < size; r++) {
        n_same += CPU_EQUAL(&mine, &all[r]) ? 1 : 0;
    }
    if (status == RF_OK) {
        *out = rf_max_i64(1, CPU_COUNT(&mine) / n_same);
    }
    rf_free(bytes);
    rf_free(all);
    return status;
}

rf_status rf_training_count_threads(const rf_comm *comm, int64_t asked, int64_t *out)
{
    rf_status status = RF_OK;
    rf_comm *host = NULL;
    int64_t from_environment = 0, n_shared = 1;
    const char *text = getenv("OMP_NUM_THREADS");

    RF_TRY(rf_comm_split_host(comm, &host));
    RF_TRY(share_cores(host, &n_shared));
    if (asked > 0) {
        *out = asked;
    } else if (text != NULL && rf_parse_i64(text, &from_environment) == RF_OK &&
               from_environment > 0 && from_environment <= 4096) {
        *out = from_environment;
    } else {
        *out = n_shared;
    }
fail:
    rf_comm_destroy(host);
    return status;
}

/* ---- models, pictures ---------------------------------------------------------------------------
 */

static rf_status open_backend(rf_training *t)
{
    rf_status status = RF_OK;
    int n_threads = 1;

    if (t->settings->train.device == RF_DEVICE_CUDA) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "train.device: cuda: this version has no CUDA backend; use auto or cpu");
    }
    RF_TRY(rf_cast_int(t->n_threads, "train.threads", &n_threads));
    RF_TRY(rf_backend_cpu_create(n_threads, &t->be));
    RF_TRY(rf_stream_create(t->be, &t->stream));
fail:
    return status;
}

/* The size of the pictures that come out is what the model is opened for. */
static rf_status check_image_size(const rf_training *t, int model)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = rf_vit_get_config(t->vits[model]);
    const int64_t height = rf_transform_height(&t->transforms[model]);
    const int64_t width = rf_transform_width(&t->transforms[model]);
    char key[RF_NAME_LEN + 16];
    RF_TRY(rf_model_list_key(t->settings, model, key, sizeof key));
    if (height != c->image_height || width != c->image_width) {
        RF_FAIL(RF_ERR_SETTING,
                "pictures come out of preprocessor_config.json as %" PRId64 " x %" PRId64
                " and the model takes %" PRId64 " x %" PRId64 "; set %s.image_size=%" PRId64,
                height, width, c->image_height, c->image_width, key, height);
    }
fail:
    return status;
}

static int64_t scale_size(int64_t size, int64_t to, int64_t from)
{
    return (2 * size * to + from) / (2 * from); /* to the nearest */
}

rf_status rf_model_settings_transform(const rf_model_settings *model, rf_transform *out)
{
    rf_status status = RF_OK;
    const int64_t size = model->image_size;

    RF_TRY_DOING(rf_transform_load(model->path, out), "model.path");
    if (size > 0) { /* the same part of each picture, at another resolution */
        const int64_t height = rf_transform_height(out), width = rf_transform_width(out);
        out->shortest_edge = scale_size(out->shortest_edge, size, rf_min_i64(height, width));
        out->resize_height = scale_size(out->resize_height, size, height);
        out->resize_width = scale_size(out->resize_width, size, width);
        out->crop_height = out->crop_height > 0 ? size : 0;
        out->crop_width = out->crop_width > 0 ? size : 0;
        RF_TRY_DOING(rf_transform_check(out), "model.image_size");
    }
fail:
    return status;
}

rf_vit_opts rf_model_settings_opts(const rf_model_settings *model, const rf_transform *transform)
{
    return (rf_vit_opts){
        .image_height = rf_transform_height(transform),
        .image_width = rf_transform_width(transform),
        .products = model->products == 0 ? RF_F32 : RF_BF16,
        .processing = (model->fold_ln ? RF_FOLD_LN : 0U) |
                      (model->center_writing_weights ? RF_CENTRE_WRITING : 0U) |
                      (model->fold_value_biases ? RF_FOLD_VALUE_BIASES : 0U) |
                      (model->refactor_attention ? RF_REFACTOR_ATTENTION : 0U),
        .row = model->row[0] != '\0' ? model->row : NULL,
    };
}

static rf_status open_model(rf_training *t, int model)
{
    rf_status status = RF_OK;
    const rf_model_settings *settings = &t->settings->models[model].settings;
    rf_transform *transform = &t->transforms[model];
    RF_TRY(rf_model_settings_transform(settings, transform));
    /* DINOv2's config says 518 and its pictures are 224: positions are interpolated to these. */
    const rf_vit_opts opts = rf_model_settings_opts(settings, transform);
    RF_TRY_DOING(rf_vit_open(t->be, settings->path, &opts, &t->vits[model]), "model.path");
    t->n_vits = model + 1;
    RF_TRY(check_image_size(t, model));
fail:
    return status;
}

/* Of all models in order; of one, its own. */
static uint64_t hash_models(const rf_training *t)
{
    uint64_t hash = rf_vit_hash(t->vits[0]);
    for (int m = 1; m < t->n_vits; m++) {
        const uint64_t next = rf_vit_hash(t->vits[m]);
        hash = rf_hash(hash, &next, sizeof next);
    }
    return hash;
}

static rf_status open_models(rf_training *t)
{
    rf_status status = RF_OK;
    for (int m = 0; m < t->settings->n_models; m++) {
        const char *name = t->settings->models[m].name;
        status = open_model(t, m);
        if (status != RF_OK && name[0] != '\0') {
            rf_error_context("model '%s'", name);
        }
        RF_TRY(status);
    }
    t->model_hash = hash_models(t);
fail:
    return status;
}

rf_status rf_run_settings_pictures(const rf_run_settings *settings, rf_picture_list **out)
{
    const rf_picture_list_opts opts = {.folder = settings->data.path,
                                       .holdout = settings->data.holdout,
                                       .seed = (uint64_t)settings->train.seed,
                                       .max_pictures = settings->data.max_pictures};
    rf_status status = rf_picture_list_open(&opts, out);
    if (status != RF_OK) {
        rf_error_context("data.path");
    }
    return status;
}

static rf_status open_pictures(rf_training *t)
{
    rf_status status = RF_OK;
    RF_TRY(rf_run_settings_pictures(t->settings, &t->pictures));
    t->picture_hash = rf_picture_list_hash(t->pictures);
    if (rf_picture_list_n(t->pictures, RF_SPLIT_TRAIN) == 0) {
        RF_FAIL(RF_ERR_SETTING,
                "no picture is left to train on: all %" PRId64
                " of '%s' are held out; lower data.holdout",
                rf_picture_list_n(t->pictures, RF_SPLIT_ALL), t->settings->data.path);
    }
fail:
    return status;
}

/* Ranks that see other files than rank 0 would train on something else. Collective. */
static rf_status check_same_files(const rf_training *t)
{
    rf_status status = RF_OK;
    uint64_t mine[1 + RF_MAX_MODELS] = {t->picture_hash}, theirs[1 + RF_MAX_MODELS];
    char what[RF_NAME_LEN + 64] = "the list of pictures (data.path)", key[RF_NAME_LEN + 16];
    int first = 0;

    for (int m = 0; m < t->n_vits; m++) {
        mine[1 + m] = rf_vit_hash(t->vits[m]);
    }
    memcpy(theirs, mine, sizeof theirs);
    RF_TRY(rf_comm_bcast(t->comm, theirs, (int64_t)sizeof theirs, 0));
    while (first <= t->n_vits && theirs[first] == mine[first]) {
        first++;
    }
    if (first >= 1 && first <= t->n_vits) {
        status = rf_model_list_key(t->settings, first - 1, key, sizeof key);
        if (status == RF_OK) {
            status = rf_format(what, sizeof what, "the model (%s.path)", key);
        }
    }
    if (status == RF_OK && first <= t->n_vits) {
        status =
            rf_error_raise(RF_ERR_SETTING, __FILE__, __LINE__,
                           "%s differs from what rank 0 sees; all ranks need the same files", what);
    }
    status = rf_comm_agree(t->comm, status);
fail:
    return status;
}

/* ---- stream and coders -------------------------------------------------------------------------
 */

/* The hook points of `sites` and their widths. */
static rf_status find_sites(const rf_training *t, const char *sites, rf_reader_site *out,
                            int64_t *widths, int *n)
{
    rf_status status = RF_OK;
    char names[RF_MAX_SITES][RF_NAME_LEN];
    const int n_sites = rf_coder_sites(sites, names);

    for (int i = 0; i < n_sites; i++) {
        const char *hook = NULL;
        RF_TRY(rf_run_settings_site(t->settings, names[i], &out[i].model, &hook));
        RF_TRY_DOING(
            rf_vit_hook_find(rf_vit_get_config(t->vits[out[i].model]), hook, &out[i].point), "%s",
            names[i]);
        widths[i] = out[i].point.width;
    }
    *n = n_sites;
fail:
    return status;
}

static rf_status find_points(rf_training *t)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        rf_trained *c = &t->coders[i];
        const rf_coder_settings *s = &c->spec->coder;
        RF_TRY_DOING(find_sites(t, s->input, c->sites, c->shape.in, &c->n_in), "coder '%s': input",
                     s->name);
        RF_TRY_DOING(find_sites(t, s->target, c->sites + c->n_in, c->shape.out, &c->n_out),
                     "coder '%s': target", s->name);
        c->shape.n_in = c->n_in;
        c->shape.n_out = c->n_out;
    }
fail:
    return status;
}

static rf_status open_stream(rf_training *t)
{
    rf_status status = RF_OK;
    const rf_run_settings *s = t->settings;
    rf_reader_opts *readers = NULL;
    const rf_activation_stream_opts opts = {.vits = t->vits,
                                            .n_vits = t->n_vits,
                                            .stream = t->stream,
                                            .comm = t->comm,
                                            .pictures = t->pictures,
                                            .split = RF_SPLIT_TRAIN,
                                            .transforms = t->transforms,
                                            .group_pictures = s->activations.group_pictures,
                                            .pool_groups = s->activations.pool_groups,
                                            .seed = (uint64_t)s->train.seed,
                                            .keep_bytes = s->activations.keep_bytes,
                                            .decode_threads = s->data.decode_threads,
                                            .max_bad_share = s->data.max_bad_share};

    readers = rf_calloc(s->n_coders, sizeof *readers);
    RF_TRY(rf_comm_agree(t->comm, readers == NULL ? RF_ERR_NO_MEMORY : RF_OK));
    for (int64_t i = 0; i < s->n_coders; i++) {
        readers[i] = (rf_reader_opts){.sites = t->coders[i].sites,
                                      .n_sites = t->coders[i].n_in + t->coders[i].n_out,
                                      .tokens = rf_coder_token_class(&s->coders[i].coder),
                                      .batch_tokens = s->coders[i].train.batch_tokens,
                                      .epochs = s->coders[i].train.epochs,
                                      .total_tokens = s->coders[i].train.total_tokens};
    }
    RF_TRY(rf_activation_stream_open(&opts, readers, s->n_coders, &t->acts));
fail:
    rf_free(readers);
    return status;
}

static rf_status create_coder(rf_training *t, int64_t idx)
{
    rf_status status = RF_OK;
    rf_trained *c = &t->coders[idx];
    const rf_train_settings *train = &c->spec->train;

    RF_TRY(rf_coder_create(t->be, &c->spec->coder, &c->shape, &c->coder));
    const rf_optimiser_opts opts = {.kind = train->optimiser, .accumulate = train->accumulate};
    RF_TRY_DOING(rf_optimiser_create(t->be, c->coder, &opts, &c->opt), "coder '%s'",
                 c->spec->coder.name);
    c->n_batches = rf_activation_stream_n_batches(t->acts, idx);
    if (train->accumulate > c->n_batches) {
        RF_FAIL(RF_ERR_SETTING,
                "coder '%s': train.accumulate is %" PRId64 ", but it has %" PRId64
                " batches in all: it would never learn",
                c->spec->coder.name, train->accumulate, c->n_batches);
    }
    c->tokens_per_epoch = rf_activation_stream_tokens_per_epoch(t->acts, idx);
    c->n_tokens =
        train->total_tokens > 0 ? train->total_tokens : c->tokens_per_epoch * train->epochs;
    c->n_whole = rf_max_i64(c->n_tokens / train->batch_tokens, rf_min_i64(c->n_batches, 1));
    c->schedule = (rf_schedule){.kind = train->schedule,
                                .lr = train->lr,
                                .lr_end = train->lr_end,
                                .warmup_steps = train->warmup_steps,
                                .n_steps = c->n_batches,
                                .restarts = train->restarts,
                                .decay_share = train->decay_share};
fail:
    return status;
}

static rf_status create_coders(rf_training *t)
{
    rf_status status = RF_OK;
    const rf_coder **coders = NULL;
    rf_step_opts opts = {0};

    RF_ALLOC(coders, t->settings->n_coders);
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        RF_TRY(create_coder(t, i));
        coders[i] = t->coders[i].coder;
        opts.max_rows = rf_max_i64(opts.max_rows, t->settings->coders[i].train.batch_tokens);
    }
    RF_TRY(rf_step_create(t->be, t->comm, coders, t->settings->n_coders, &opts, &t->step));
fail:
    rf_free(coders);
    return status;
}

static rf_status open_local(rf_training *t)
{
    rf_status status = RF_OK;
    RF_TRY(rf_activations_settings_check(&t->settings->activations));
    RF_TRY(open_backend(t));
    RF_TRY(open_models(t));
    RF_TRY(open_pictures(t));
    RF_ALLOC(t->coders, t->settings->n_coders);
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        t->coders[i].spec = &t->settings->coders[i];
    }
    RF_TRY(find_points(t));
    RF_TRY(rf_run_settings_write_yaml(t->settings, &t->settings_yaml));
fail:
    return status;
}

rf_status rf_training_open(rf_training *t)
{
    rf_status status = RF_OK;
    RF_TRY(rf_training_count_threads(t->comm, t->settings->train.threads, &t->n_threads));
    RF_TRY(rf_comm_agree(t->comm, open_local(t)));
    RF_TRY(check_same_files(t));
    RF_TRY(open_stream(t));
    RF_TRY(rf_comm_agree(t->comm, create_coders(t)));
fail:
    return status;
}

void rf_training_close(rf_training *t)
{
    for (int64_t i = 0; t->coders != NULL && i < t->settings->n_coders; i++) {
        rf_tfevents_close(t->coders[i].events);
        rf_optimiser_destroy(t->coders[i].opt);
        rf_coder_destroy(t->coders[i].coder);
    }
    rf_step_destroy(t->step);
    rf_free(t->coders);
    rf_activation_stream_close(t->acts);
    rf_picture_list_close(t->pictures);
    for (int m = 0; m < t->n_vits; m++) {
        rf_vit_close(t->vits[m]);
    }
    rf_stream_destroy(t->stream);
    rf_backend_destroy(t->be);
    rf_str_fini(&t->settings_yaml);
    rf_folder_lock_release(t->lock);
}

/* ---- start values ------------------------------------------------------------------------------
 */

static rf_status init_on_device(rf_training *t, rf_trained *c, const float *rows, int64_t n,
                                int64_t width)
{
    rf_status status = RF_OK;
    void *device = NULL;
    const size_t n_bytes = (size_t)(n * width) * sizeof *rows;

    RF_TRY(rf_memory_alloc(t->be, RF_MEMORY_DEVICE, n_bytes, &device));
    RF_TRY(rf_copy_in(t->stream, device, rows, n_bytes));
    const rf_view sample = rf_view_2d(device, n, width);
    RF_TRY(rf_coder_init(c->coder, t->stream, &sample));
    RF_TRY(rf_stream_synchronise(t->stream));
fail:
    rf_memory_free(t->be, RF_MEMORY_DEVICE, device);
    return status;
}

/* Also refuses samples with nothing in them. */
static rf_status init_from(rf_training *t, rf_trained *c, const float *rows, int64_t n,
                           int64_t width)
{
    rf_status status = RF_OK;
    const char *name = c->spec->coder.name;
    if (n == 0) {
        RF_FAIL(RF_ERR_NUMERIC, "coder '%s': none of the first pictures could be read", name);
    }
    RF_TRY_DOING(init_on_device(t, c, rows, n, width), "coder '%s'", name);
fail:
    return status;
}

rf_status rf_training_init_coders(rf_training *t)
{
    rf_status status = RF_OK;
    float *rows = NULL;
    int64_t n = 0, width = 0;

    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        rf_trained *c = &t->coders[i];
        RF_TRY(rf_activation_stream_sample(t->acts, i, c->spec->train.sample_tokens, &rows, &n,
                                           &width));
        RF_TRY(rf_comm_agree(t->comm, init_from(t, c, rows, n, width)));
        rf_free(rows);
        rows = NULL;
    }
fail:
    rf_free(rows);
    return status;
}
