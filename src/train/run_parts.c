/* What a run has in every pass, and in which order: backend, model, pictures, what is known of the
 * coders, groups of ranks. Local work ends in an agreement, so that all ranks go on or fail
 * together.
 */
#include "run_impl.h"

#include <math.h>
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

    RF_TRY(rf_cast_int(t->n_threads, "train.threads", &n_threads));
    RF_TRY(rf_backend_create((rf_device)t->settings->train.device, t->comm, n_threads, &t->be));
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
        .products = model->products,
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

static rf_status open_models_or_store(rf_training *t)
{
    rf_status status = RF_OK;
    for (int m = 0; m < t->settings->n_models; m++) {
        t->names[m] = t->settings->models[m].name;
    }
    RF_TRY(rf_training_is_stored(t) ? rf_training_open_store(t) : open_models(t));
    RF_TRY(rf_training_describe_models(t));
fail:
    return status;
}

rf_status rf_run_settings_pictures(const rf_run_settings *settings, const rf_comm *comm,
                                   rf_picture_list **out)
{
    const rf_picture_list_opts opts = {.path = settings->data.path,
                                       .root = settings->data.root,
                                       .part = (rf_picture_part)settings->data.part,
                                       .holdout = settings->data.holdout,
                                       .seed = (uint64_t)settings->train.seed,
                                       .max_pictures = settings->data.max_pictures,
                                       .comm = comm};
    rf_status status = rf_picture_list_open(&opts, out);
    if (status != RF_OK) {
        rf_error_context("data.path");
    }
    return status;
}

/* Collective. */
static rf_status open_pictures(rf_training *t)
{
    rf_status status = RF_OK;
    RF_TRY(rf_run_settings_pictures(t->settings, t->comm, &t->pictures));
    t->picture_hash = rf_picture_list_hash(t->pictures);
    if (rf_picture_list_n(t->pictures, RF_SPLIT_TRAIN) == 0) {
        RF_FAIL(RF_ERR_SETTING,
                "no picture is left to train on: all %" PRId64
                " of '%s' are held out; lower data.holdout",
                rf_picture_list_n(t->pictures, RF_SPLIT_ALL), t->settings->data.path);
    }
fail:
    return rf_comm_agree(t->comm, status); /* ranks may see other folders: check_same_files */
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

/* ---- what is known of the coders
 * -------------------------------------------------------------------------
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
        RF_TRY_DOING(rf_training_find_point(t, out[i].model, hook, &out[i].point), "%s", names[i]);
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

rf_activation_stream_opts rf_training_stream_opts(const rf_training *t)
{
    const rf_run_settings *s = t->settings;
    return (rf_activation_stream_opts){.vits = t->vits,
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
                                       .fast_decode = s->data.fast_decode,
                                       .max_bad_share = s->data.max_bad_share,
                                       .dtype = rf_activations_dtype(&s->activations),
                                       .store = t->store,
                                       .model_names = t->names,
                                       .n_names = s->n_models,
                                       .read_threads = s->activations.read_threads,
                                       .share = s->activations.share};
}

rf_reader_opts rf_training_reader(const rf_trained *c)
{
    return (rf_reader_opts){.sites = c->sites,
                            .n_sites = c->n_in + c->n_out,
                            .tokens = rf_coder_token_class(&c->spec->coder),
                            .batch_tokens = c->spec->train.batch_tokens,
                            .epochs = c->spec->train.epochs,
                            .total_tokens = c->spec->train.total_tokens,
                            .max_norm = c->spec->coder.max_norm,
                            .first_rank = c->first_rank,
                            .n_ranks = c->n_ranks};
}

/* Rows of a picture that the coder sees, and how many pictures: as good as is known without a
 * stream. */
static rf_status count_rows(const rf_training *t, const rf_trained *c, int64_t *n_rows,
                            int64_t *n_pictures)
{
    int64_t first = 0;
    const rf_reader_site *site = &c->sites[0];
    const rf_token_class tokens = rf_coder_token_class(&c->spec->coder);

    if (!rf_training_is_stored(t)) {
        *n_pictures = rf_picture_list_n(t->pictures, RF_SPLIT_TRAIN);
        return rf_token_class_rows(rf_vit_get_config(t->vits[site->model]), &site->point, tokens,
                                   &first, n_rows);
    }
    const rf_store_head *head = rf_store_get_head(t->store);
    const int64_t s = rf_store_find(t->store, t->names[site->model], site->point.name);
    *n_pictures = head->n_pictures;
    *n_rows = 0;
    for (int64_t i = 0; s >= 0 && i < head->sites[s].n_rows; i++) {
        *n_rows += tokens == RF_TOKENS_ALL || tokens == RF_TOKENS_POOLED ||
                   head->sites[s].classes[i] == tokens;
    }
    return RF_OK;
}

/* Tokens and batches of its whole sequence; the stream has the last word where its pass begins. */
void rf_training_set_tokens(rf_trained *c, int64_t tokens_per_epoch)
{
    const rf_train_settings *train = &c->spec->train;
    c->tokens_per_epoch = tokens_per_epoch;
    c->n_tokens = train->total_tokens > 0 ? train->total_tokens : tokens_per_epoch * train->epochs;
    c->n_batches = rf_ceil_div(c->n_tokens, train->batch_tokens);
    c->n_whole = rf_max_i64(c->n_tokens / train->batch_tokens, rf_min_i64(c->n_batches, 1));
}

static rf_status measure_coder(rf_training *t, rf_trained *c)
{
    rf_status status = RF_OK;
    int64_t n_rows = 0, n_pictures = 0, tokens = 0, whole = 0;
    const int n_ranks = rf_comm_size(t->comm) / t->n_groups;
    const double share = t->settings->activations.share;

    RF_TRY(count_rows(t, c, &n_rows, &n_pictures));
    if (share > 0) { /* of groups, the last of which may be short: no fewer than the stream has */
        const int64_t g = t->settings->activations.group_pictures;
        const int64_t n_groups = (int64_t)ceil(share * (double)rf_ceil_div(n_pictures, g));
        n_pictures = rf_min_i64(n_groups * g, n_pictures);
    }
    RF_TRY(rf_mul_i64(n_rows, n_pictures, "tokens of an epoch", &tokens));
    RF_TRY(rf_mul_i64(tokens, c->spec->train.epochs, "tokens of all epochs", &whole));
    rf_training_set_tokens(c, tokens);
    RF_TRY(rf_coder_cost_estimate(c->spec, &c->shape, n_ranks, &c->cost));
fail:
    if (status != RF_OK) {
        rf_error_context("coder '%s'", c->spec->coder.name);
    }
    return status;
}

static rf_status measure_coders(rf_training *t)
{
    rf_status status = RF_OK;
    int64_t n_batches = 0;
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        const rf_trained *c = &t->coders[i];
        RF_TRY(measure_coder(t, &t->coders[i]));
        if (c->n_batches > INT64_MAX - n_batches) {
            RF_FAIL(RF_ERR_SETTING,
                    "coder '%s' has %" PRId64 " batches: with those before it more than can be "
                    "counted; lower train.epochs",
                    c->spec->coder.name, c->n_batches);
        }
        n_batches += c->n_batches;
    }
fail:
    return status;
}

/* ---- groups of ranks ---------------------------------------------------------------------------
 */

rf_status rf_train_count_groups(const rf_train_settings *settings, int n_ranks, int *out)
{
    rf_status status = RF_OK;
    const int64_t each = settings->ranks_per_coder;
    *out = 1;
    if (each > 0) {
        if (each > n_ranks || n_ranks % each != 0) {
            RF_FAIL(RF_ERR_SETTING,
                    "train.ranks_per_coder = %" PRId64
                    " does not divide the %d ranks of this run into groups; set it to a divisor of "
                    "%d, or to 0 for all ranks",
                    each, n_ranks, n_ranks);
        }
        *out = (int)(n_ranks / each);
    }
fail:
    return status;
}

/* Collective. */
static rf_status open_groups(rf_training *t)
{
    rf_status status = RF_OK;
    const int size = rf_comm_size(t->comm);
    RF_TRY(rf_train_count_groups(&t->settings->train, size, &t->n_groups));
    if (t->n_groups > 1) {
        RF_TRY(rf_comm_split(t->comm, rf_comm_rank(t->comm) / (size / t->n_groups), &t->group));
    }
fail:
    return status;
}

static rf_status open_local(rf_training *t)
{
    rf_status status = RF_OK;
    RF_TRY(rf_activations_settings_check(&t->settings->activations));
    RF_TRY(open_backend(t));
    RF_TRY(open_models_or_store(t));
    RF_ALLOC(t->coders, t->settings->n_coders);
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        t->coders[i].spec = &t->settings->coders[i];
    }
    RF_TRY(find_points(t));
    RF_TRY(rf_run_settings_write_yaml(t->settings, &t->settings_yaml));
fail:
    return status;
}

rf_status rf_training_open_data(rf_training *t)
{
    rf_status status = RF_OK;
    RF_TRY(rf_training_count_threads(t->comm, t->settings->train.threads, &t->n_threads));
    RF_TRY(rf_comm_agree(t->comm, open_local(t)));
    if (!rf_training_is_stored(t)) {
        RF_TRY(open_pictures(t));
    }
    RF_TRY(check_same_files(t));
fail:
    return status;
}

/* A store that is written while coders train has the sites of all of them. */
static rf_status check_passes(const rf_run_settings *s)
{
    rf_status status = RF_OK;
    const int64_t most = s->train.coders_at_once;
    if (s->activations.source == RF_ACTIVATIONS_BOTH && most > 0 && most < s->n_coders) {
        RF_FAIL(RF_ERR_SETTING,
                "activations.source is both, and train.coders_at_once = %" PRId64
                " makes more than one pass: write the store first (refract cache) and train from "
                "it with activations.source=store",
                most);
    }
fail:
    return status;
}

rf_status rf_training_open(rf_training *t)
{
    rf_status status = RF_OK;
    RF_TRY(open_groups(t));
    RF_TRY(check_passes(t->settings));
    RF_TRY(rf_training_open_data(t));
    RF_TRY(rf_comm_agree(t->comm, measure_coders(t)));
fail:
    return status;
}

void rf_training_close(rf_training *t)
{
    rf_training_close_pass(t);
    rf_free(t->coders);
    rf_store_close(t->store);
    rf_str_fini(&t->model_name);
    rf_picture_list_close(t->pictures);
    for (int m = 0; m < t->n_vits; m++) {
        rf_vit_close(t->vits[m]);
    }
    rf_stream_destroy(t->stream);
    rf_backend_destroy(t->be);
    rf_str_fini(&t->settings_yaml);
    rf_folder_lock_release(t->lock);
    rf_comm_destroy(t->group);
}
