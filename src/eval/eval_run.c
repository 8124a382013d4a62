/* A run's coders, measured and recorded in its folder. */
#include "eval_impl.h"

#include <string.h>

/* Everything that a measurement borrows. */
typedef struct bench {
    rf_stream *stream;
    rf_eval_model models[RF_MAX_MODELS];
    rf_transform transforms[RF_MAX_MODELS];
    rf_eval_classifier classifier; /* of the one model, if settings name it */
    int64_t *classes[RF_MAX_MODELS];
    int n_models;
    rf_eval_pictures pictures;
    rf_eval_coder *coders;
    rf_reader_site *sites; /* [2 RF_MAX_SITES] of each coder */
    int64_t n_coders;
} bench;

static rf_status open_model(rf_backend *be, const rf_named_model *named, bench *b)
{
    rf_status status = RF_OK;
    const int m = b->n_models;
    rf_transform *transform = &b->transforms[m];
    rf_eval_model *model = &b->models[m];

    if (named->settings.path[0] == '\0') {
        RF_FAIL(RF_ERR_SETTING,
                "the run does not say where its model is, as it was trained from a store: write "
                "model.%s%spath=MODEL behind it",
                named->name, named->name[0] != '\0' ? "." : "");
    }
    RF_TRY(rf_model_settings_transform(&named->settings, transform));
    const rf_vit_opts opts = rf_model_settings_opts(&named->settings, transform);
    RF_TRY(rf_vit_open(be, named->settings.path, &opts, &model->vit));
    model->name = named->name;
    model->transform = transform;
    b->n_models++;
fail:
    return status;
}

static rf_status open_models(rf_backend *be, const rf_run_settings *settings, bench *b)
{
    rf_status status = RF_OK;

    RF_TRY(rf_stream_create(be, &b->stream));
    for (int m = 0; m < settings->n_models; m++) {
        RF_TRY(open_model(be, &settings->models[m], b));
    }
fail:
    return status;
}

/* The hook points of `sites`, behind those that `coder` has. */
static rf_status find_sites(const rf_run_settings *settings, const bench *b, const char *sites,
                            rf_reader_site *out, int *n)
{
    rf_status status = RF_OK;
    char names[RF_MAX_SITES][RF_NAME_LEN];
    const char *hook = NULL;

    *n = rf_coder_sites(sites, names);
    for (int i = 0; i < *n; i++) {
        RF_TRY(rf_run_settings_site(settings, names[i], &out[i].model, &hook));
        RF_TRY(
            rf_vit_hook_find(rf_vit_get_config(b->models[out[i].model].vit), hook, &out[i].point));
    }
fail:
    return status;
}

static rf_status load_coder(rf_backend *be, const rf_run *run, int64_t idx, bench *b)
{
    rf_status status = RF_OK;
    const rf_run_settings *settings = rf_run_get_settings(run);
    const rf_coder_settings *coder = &settings->coders[idx].coder;
    rf_reader_site *sites = b->sites + 2 * RF_MAX_SITES * b->n_coders;
    rf_eval_coder *out = &b->coders[b->n_coders];

    out->name = coder->name;
    out->tokens = rf_coder_token_class(coder);
    out->sites = sites;
    RF_TRY(find_sites(settings, b, coder->input, sites, &out->n_in));
    RF_TRY(find_sites(settings, b, coder->target, sites + out->n_in, &out->n_out));
    RF_TRY(rf_run_load_coder(be, b->stream, run, idx, &out->coder));
    b->n_coders++;
fail:
    return status;
}

/* Those that there are: some may wait for a pass that has not begun. */
static rf_status load_coders(rf_backend *be, const rf_run *run, bench *b)
{
    rf_status status = RF_OK;
    const rf_run_settings *settings = rf_run_get_settings(run);
    const double start = rf_now();
    int64_t pass = 0, n_passes = 0;

    RF_ALLOC(b->coders, settings->n_coders);
    RF_ALLOC(b->sites, 2 * RF_MAX_SITES * settings->n_coders);
    for (int64_t i = 0; i < settings->n_coders; i++) {
        if (rf_run_coder_waits(run, i, &pass, &n_passes)) {
            rf_log(RF_LOG_INFO, "left out %s: it waits for pass %" PRId64 " of %" PRId64,
                   settings->coders[i].coder.name, pass, n_passes);
            continue;
        }
        RF_TRY(load_coder(be, run, i, b));
        if (rf_now() - start > 1) { /* many, or large ones */
            rf_progress("load coders", i + 1, settings->n_coders, settings->coders[i].coder.name);
        }
    }
fail:
    return status;
}

static void close_bench(bench *b)
{
    for (int64_t i = 0; i < b->n_coders; i++) {
        rf_coder_destroy(b->coders[i].coder);
    }
    rf_free(b->coders);
    rf_free(b->sites);
    rf_eval_pictures_close(&b->pictures);
    rf_eval_classifier_fini(&b->classifier);
    for (int m = 0; m < b->n_models; m++) {
        rf_free(b->classes[m]);
        rf_vit_close(b->models[m].vit);
    }
    rf_stream_destroy(b->stream);
}

/* Of the run's config.yaml as it lies there: the same wherever the folder was moved to. */
static rf_status hash_settings(const char *run_dir, uint64_t *out)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    int64_t n_bytes = 0;

    RF_TRY(rf_path_join(path, run_dir, "config.yaml"));
    RF_TRY(rf_file_hash(path, out, &n_bytes));
fail:
    return status;
}

/* All of the report but the figures. */
static rf_status describe(const rf_run *run, const bench *b, rf_eval_report *out)
{
    rf_status status = RF_OK;
    const rf_run_settings *settings = rf_run_get_settings(run);
    const rf_picture_list *pictures = b->pictures.own != NULL ? b->pictures.own : b->pictures.other;

    RF_TRY(rf_format(out->run_dir, sizeof out->run_dir, "%s", settings->output.dir));
    RF_TRY(rf_format(out->checkpoint, sizeof out->checkpoint, "%s", rf_run_checkpoint_path(run)));
    RF_TRY(rf_path_join(out->json_path, settings->output.dir, "eval.json"));
    RF_TRY(rf_format(out->pictures_path, sizeof out->pictures_path, "%s", settings->data.path));
    RF_TRY(rf_format(out->split_paths[0], RF_PATH_LEN, "%s",
                     b->pictures.other != NULL ? out->settings.pictures : settings->data.path));
    RF_TRY(rf_format(out->split_paths[1], RF_PATH_LEN, "%s", settings->data.path));
    RF_TRY(hash_settings(settings->output.dir, &out->settings_hash));
    out->step = rf_run_step(run);
    out->pictures_hash = rf_picture_list_hash(pictures);
    out->seed = (uint64_t)settings->train.seed;
fail:
    return status;
}

/* ---- models -----------------------------------------------------------------------------------
 */

/* The run's weights are those that its coders were trained on, as far as names tell; an imported
 * store does not say. */
static rf_status check_processing(const rf_run *run, const bench *b)
{
    rf_status status = RF_OK;
    char mine[128];
    const char *trained = rf_run_weight_processing(run);

    rf_vit_processing_name(rf_vit_processing(b->models[0].vit), mine);
    if (b->n_models == 1 && trained[0] != '\0' && strcmp(mine, trained) != 0) {
        RF_FAIL(RF_ERR_SETTING,
                "the run's coders were trained on a model of weight processing '%s', this one has "
                "'%s': write model.KEY=true or false behind the run",
                trained, mine);
    }
fail:
    return status;
}

static rf_status load_classifier(const rf_run_settings *run, const rf_eval_settings *settings,
                                 bench *b)
{
    rf_status status = RF_OK;
    const rf_model_settings *model = &run->models[0].settings;
    double scale = settings->logit_scale;

    if (settings->classifier[0] == '\0') {
        return RF_OK;
    }
    if (b->n_models != 1) {
        RF_FAIL(RF_ERR_SETTING, "classifier is of one model, and the run has %d", b->n_models);
    }
    if (scale <= 0) {
        const char *row = model->row[0] != '\0' ? model->row : NULL;
        RF_TRY_DOING(
            rf_zero_shot_read_scale(model->path, row, &scale),
            "classifier: what its cosines are multiplied by (logit_scale=100 says CLIP's)");
    }
    RF_TRY_DOING(rf_eval_classifier_load(settings->classifier,
                                         rf_vit_get_config(b->models[0].vit)->d_out, scale,
                                         &b->classifier),
                 "classifier");
    b->models[0].classifier = &b->classifier;
fail:
    return status;
}

/* Model `m`: what it is. */
static rf_status describe_model(const rf_run_settings *settings, int m, const bench *b,
                                rf_eval_report *out)
{
    rf_status status = RF_OK;
    rf_evaluated_model *model = &out->models[m];
    const rf_vit *vit = b->models[m].vit;

    out->n_models = m + 1;
    RF_TRY(rf_format(model->name, sizeof model->name, "%s", settings->models[m].name));
    RF_TRY(
        rf_format(model->model_name, sizeof model->model_name, "%s", rf_vit_get_config(vit)->name));
    RF_TRY(rf_format(model->path, sizeof model->path, "%s", settings->models[m].settings.path));
    model->hash = rf_vit_hash(vit);
    model->n_classes = rf_eval_n_classes(&b->models[m]);
    if (b->models[m].classifier != NULL) {
        model->logit_scale = b->classifier.scale;
        model->classifier_hash = b->classifier.hash;
    }
    rf_vit_processing_name(rf_vit_processing(vit), model->weight_processing);
fail:
    return status;
}

static rf_status open_rest(rf_backend *be, const rf_run *run, bench *b, rf_eval_report *out)
{
    rf_status status = RF_OK;
    const rf_run_settings *settings = rf_run_get_settings(run);

    RF_TRY(check_processing(run, b));
    RF_TRY(load_classifier(settings, &out->settings, b));
    RF_TRY(load_coders(be, run, b));
    for (int m = 0; m < b->n_models; m++) {
        RF_TRY(describe_model(settings, m, b, out));
    }
    RF_TRY(describe(run, b, out));
fail:
    return status;
}

/* ---- measuring --------------------------------------------------------------------------------
 */

/* What the classes of `list` are to model `m`. Where a classifier was asked for, held-out pictures
 * have places in it. */
static rf_status match_model(const rf_picture_list *list, rf_picture_split split, int m, bench *b,
                             rf_eval_report *out)
{
    rf_status status = RF_OK;
    rf_str reason = {0};
    rf_eval_model *model = &b->models[m];
    rf_evaluated_model *described = &out->models[m];
    const char *how = NULL;

    model->classes = NULL;
    rf_free(b->classes[m]);
    b->classes[m] = NULL;
    RF_TRY(
        rf_eval_match_classes(model->vit, model->classifier, list, &b->classes[m], &how, &reason));
    model->classes = b->classes[m];
    if (split == RF_SPLIT_HELD_OUT) {
        described->class_match = how;
        if (how == NULL && model->classifier != NULL) {
            RF_FAIL(RF_ERR_SETTING, "classifier: %s", reason.data);
        }
    }
    if (how == NULL && described->ce_reason == NULL) {
        described->ce_reason = rf_strdup(reason.data);
        RF_TRY(described->ce_reason != NULL ? RF_OK : RF_ERR_NO_MEMORY);
    }
fail:
    rf_str_fini(&reason);
    return status;
}

/* Collective. */
static rf_status measure_split(rf_eval_job *job, rf_picture_split split, bench *b,
                               rf_eval_report *out)
{
    rf_status status = RF_OK;
    rf_picture_split part = split;

    job->pictures = rf_eval_pictures_of(&b->pictures, split, &part);
    for (int m = 0; m < b->n_models && status == RF_OK; m++) {
        status = match_model(job->pictures, split, m, b, out);
    }
    RF_TRY(rf_comm_agree(job->comm, status));
    RF_TRY(rf_eval_measure(job, part, &out->splits[split == RF_SPLIT_TRAIN ? 1 : 0]));
fail:
    return status;
}

static rf_status write_json(const rf_comm *comm, const rf_eval_report *report)
{
    rf_status status = RF_OK;
    rf_str json = {0};

    if (rf_comm_rank(comm) == 0) {
        RF_TRY(rf_eval_report_write_json(report, &json));
        RF_TRY(rf_file_write_atomic(report->json_path, json.data, json.len));
    }
fail:
    rf_str_fini(&json);
    return rf_comm_agree(comm, status);
}

rf_status rf_eval_run(const rf_comm *comm, rf_backend *be, const rf_run *run,
                      const rf_eval_settings *settings, rf_eval_report *out)
{
    rf_status status = RF_OK;
    const rf_run_settings *run_settings = rf_run_get_settings(run);
    bench b = {0};

    *out = (rf_eval_report){.settings = *settings};
    RF_TRY(rf_comm_agree(comm, rf_eval_settings_check(settings)));
    RF_TRY(rf_comm_agree(comm, open_models(be, run_settings, &b)));
    RF_TRY(rf_eval_pictures_open(comm, run_settings, settings, &b.pictures));
    RF_TRY(rf_comm_agree(comm, open_rest(be, run, &b, out)));
    rf_eval_job job = {.comm = comm,
                       .models = b.models,
                       .n_models = b.n_models,
                       .stream = b.stream,
                       .coders = b.coders,
                       .n_coders = b.n_coders,
                       .settings = *settings,
                       .seed = out->seed,
                       .decode_threads = run_settings->data.decode_threads,
                       .fast_decode = run_settings->data.fast_decode,
                       .max_bad_share = run_settings->data.max_bad_share};
    RF_TRY(measure_split(&job, RF_SPLIT_HELD_OUT, &b, out));
    if (settings->trained_on && b.pictures.own != NULL) {
        RF_TRY(measure_split(&job, RF_SPLIT_TRAIN, &b, out));
    }
    RF_TRY(write_json(comm, out));
fail:
    close_bench(&b);
    if (status != RF_OK) {
        rf_eval_report_fini(out);
    }
    return status;
}

void rf_eval_report_fini(rf_eval_report *report)
{
    rf_split_figures_fini(&report->splits[0]);
    rf_split_figures_fini(&report->splits[1]);
    for (int m = 0; m < report->n_models; m++) {
        rf_free(report->models[m].ce_reason);
        report->models[m].ce_reason = NULL;
    }
}
