/* A run's coders, measured and recorded in its folder. */
#include "refract/eval.h"

static const rf_setting rows[] = {
    {.key = "max_held_out",
     .type = RF_SETTING_I64,
     .offset = offsetof(rf_eval_settings, max_held_out),
     .fallback = "0",
     .min = 0,
     .max = 1e12,
     .unit = "pictures",
     .help = "Held-out pictures to measure on, chosen by the seed; 0 is all of them."},
    {.key = "max_trained_on",
     .type = RF_SETTING_I64,
     .offset = offsetof(rf_eval_settings, max_trained_on),
     .fallback = "512",
     .min = 0,
     .max = 1e12,
     .unit = "pictures",
     .help = "Pictures trained on to measure on beside them; 0 is all of them."},
    {.key = "micro_batch",
     .type = RF_SETTING_I64,
     .offset = offsetof(rf_eval_settings, micro_batch),
     .fallback = "16",
     .min = 1,
     .max = 4096,
     .unit = "pictures",
     .help = "Pictures of one forward pass; sums are added in groups of so many."},
    {.key = "substitution",
     .type = RF_SETTING_BOOL,
     .offset = offsetof(rf_eval_settings, substitution),
     .fallback = "true",
     .unit = "",
     .help = "Also run the model with reconstructions, zeros and means in the place of tokens."},
};

const rf_settings_table rf_eval_settings_table = {
    .section = "eval",
    .help = "What 'refract eval' measures on.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
};

/* Everything that a measurement borrows. */
typedef struct bench {
    rf_stream *stream;
    rf_eval_model models[RF_MAX_MODELS];
    rf_transform transforms[RF_MAX_MODELS];
    int64_t *classes[RF_MAX_MODELS];
    int n_models;
    rf_picture_list *pictures;
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
    rf_reader_site *sites = b->sites + 2 * RF_MAX_SITES * idx;
    rf_eval_coder *out = &b->coders[idx];

    out->name = coder->name;
    out->tokens = rf_coder_token_class(coder);
    out->sites = sites;
    RF_TRY(find_sites(settings, b, coder->input, sites, &out->n_in));
    RF_TRY(find_sites(settings, b, coder->target, sites + out->n_in, &out->n_out));
    RF_TRY(rf_run_load_coder(be, b->stream, run, idx, &out->coder));
fail:
    return status;
}

static rf_status load_coders(rf_backend *be, const rf_run *run, bench *b)
{
    rf_status status = RF_OK;
    const rf_run_settings *settings = rf_run_get_settings(run);

    RF_ALLOC(b->coders, settings->n_coders);
    RF_ALLOC(b->sites, 2 * RF_MAX_SITES * settings->n_coders);
    b->n_coders = settings->n_coders;
    for (int64_t i = 0; i < b->n_coders; i++) {
        RF_TRY(load_coder(be, run, i, b));
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
    rf_picture_list_close(b->pictures);
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

    RF_TRY(rf_format(out->run_dir, sizeof out->run_dir, "%s", settings->output.dir));
    RF_TRY(rf_format(out->checkpoint, sizeof out->checkpoint, "%s", rf_run_checkpoint_path(run)));
    RF_TRY(rf_path_join(out->json_path, settings->output.dir, "eval.json"));
    RF_TRY(rf_format(out->pictures_path, sizeof out->pictures_path, "%s", settings->data.path));
    RF_TRY(hash_settings(settings->output.dir, &out->settings_hash));
    out->step = rf_run_step(run);
    out->pictures_hash = rf_picture_list_hash(b->pictures);
    out->seed = (uint64_t)settings->train.seed;
fail:
    return status;
}

/* Model `m`: what it is, and what its classes are or why it has none. */
static rf_status describe_model(const rf_run_settings *settings, int m, bench *b,
                                rf_eval_report *out)
{
    rf_status status = RF_OK;
    rf_str reason = {0};
    rf_evaluated_model *model = &out->models[m];
    const rf_vit *vit = b->models[m].vit;

    out->n_models = m + 1;
    RF_TRY(rf_format(model->name, sizeof model->name, "%s", settings->models[m].name));
    RF_TRY(
        rf_format(model->model_name, sizeof model->model_name, "%s", rf_vit_get_config(vit)->name));
    RF_TRY(rf_format(model->path, sizeof model->path, "%s", settings->models[m].settings.path));
    model->hash = rf_vit_hash(vit);
    rf_vit_processing_name(rf_vit_processing(vit), model->weight_processing);
    RF_TRY(rf_eval_match_classes(vit, b->pictures, &b->classes[m], &reason));
    b->models[m].classes = b->classes[m];
    if (reason.data != NULL) {
        model->ce_reason = rf_strdup(reason.data);
        status = model->ce_reason != NULL ? RF_OK : RF_ERR_NO_MEMORY;
    }
fail:
    rf_str_fini(&reason);
    return status;
}

static rf_status open_rest(rf_backend *be, const rf_run *run, bench *b, rf_eval_report *out)
{
    rf_status status = RF_OK;
    const rf_run_settings *settings = rf_run_get_settings(run);

    RF_TRY(load_coders(be, run, b));
    for (int m = 0; m < b->n_models; m++) {
        RF_TRY(describe_model(settings, m, b, out));
    }
    RF_TRY(describe(run, b, out));
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
    RF_TRY(rf_comm_agree(comm, open_models(be, run_settings, &b)));
    RF_TRY(rf_run_settings_pictures(run_settings, comm, &b.pictures));
    RF_TRY(rf_comm_agree(comm, open_rest(be, run, &b, out)));
    const rf_eval_job job = {.comm = comm,
                             .models = b.models,
                             .n_models = b.n_models,
                             .stream = b.stream,
                             .pictures = b.pictures,
                             .coders = b.coders,
                             .n_coders = b.n_coders,
                             .settings = *settings,
                             .seed = out->seed,
                             .decode_threads = run_settings->data.decode_threads,
                             .fast_decode = run_settings->data.fast_decode,
                             .max_bad_share = run_settings->data.max_bad_share};
    RF_TRY(rf_eval_measure(&job, RF_SPLIT_HELD_OUT, &out->splits[0]));
    RF_TRY(rf_eval_measure(&job, RF_SPLIT_TRAIN, &out->splits[1]));
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
