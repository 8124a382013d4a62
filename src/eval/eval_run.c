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
    rf_vit *vit;
    rf_picture_list *pictures;
    rf_transform transform;
    int64_t *classes;
    rf_eval_coder *coders;
    int64_t n_coders;
} bench;

static rf_status open_model(rf_backend *be, const rf_run_settings *settings, bench *b)
{
    rf_status status = RF_OK;

    RF_TRY(rf_stream_create(be, &b->stream));
    RF_TRY(rf_model_settings_transform(&settings->model, &b->transform));
    const rf_vit_opts opts = rf_model_settings_opts(&settings->model, &b->transform);
    RF_TRY(rf_vit_open(be, settings->model.path, &opts, &b->vit));
fail:
    return status;
}

static rf_status open_pictures(const rf_run_settings *settings, bench *b)
{
    const rf_picture_list_opts opts = {.folder = settings->data.path,
                                       .holdout = settings->data.holdout,
                                       .seed = (uint64_t)settings->train.seed,
                                       .max_pictures = settings->data.max_pictures};
    return rf_picture_list_open(&opts, &b->pictures);
}

static rf_status load_coders(rf_backend *be, const rf_run *run, bench *b)
{
    rf_status status = RF_OK;
    const rf_run_settings *settings = rf_run_get_settings(run);

    RF_ALLOC(b->coders, settings->n_coders);
    b->n_coders = settings->n_coders;
    for (int64_t i = 0; i < b->n_coders; i++) {
        const rf_coder_settings *coder = &settings->coders[i].coder;
        b->coders[i].name = coder->name;
        b->coders[i].tokens = rf_coder_token_class(coder);
        RF_TRY(rf_vit_hook_find(rf_vit_get_config(b->vit), coder->input, &b->coders[i].point));
        RF_TRY(rf_run_load_coder(be, b->stream, run, i, &b->coders[i].coder));
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
    rf_free(b->classes);
    rf_picture_list_close(b->pictures);
    rf_vit_close(b->vit);
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
    RF_TRY(
        rf_format(out->model_name, sizeof out->model_name, "%s", rf_vit_get_config(b->vit)->name));
    RF_TRY(rf_format(out->model_path, sizeof out->model_path, "%s", settings->model.path));
    RF_TRY(rf_format(out->pictures_path, sizeof out->pictures_path, "%s", settings->data.path));
    RF_TRY(hash_settings(settings->output.dir, &out->settings_hash));
    out->step = rf_run_step(run);
    out->model_hash = rf_vit_hash(b->vit);
    rf_vit_processing_name(rf_vit_processing(b->vit), out->weight_processing);
    out->pictures_hash = rf_picture_list_hash(b->pictures);
    out->seed = (uint64_t)settings->train.seed;
fail:
    return status;
}

static rf_status open_all(rf_backend *be, const rf_run *run, bench *b, rf_eval_report *out)
{
    rf_status status = RF_OK;
    rf_str reason = {0};
    const rf_run_settings *settings = rf_run_get_settings(run);

    RF_TRY(open_model(be, settings, b));
    RF_TRY(open_pictures(settings, b));
    RF_TRY(load_coders(be, run, b));
    RF_TRY(rf_eval_match_classes(b->vit, b->pictures, &b->classes, &reason));
    if (reason.data != NULL) {
        out->ce_reason = rf_strdup(reason.data);
        status = out->ce_reason != NULL ? RF_OK : RF_ERR_NO_MEMORY;
    }
    RF_TRY(status);
    RF_TRY(describe(run, b, out));
fail:
    rf_str_fini(&reason);
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
    RF_TRY(rf_comm_agree(comm, open_all(be, run, &b, out)));
    const rf_eval_job job = {.comm = comm,
                             .vit = b.vit,
                             .stream = b.stream,
                             .pictures = b.pictures,
                             .transform = &b.transform,
                             .classes = b.classes,
                             .coders = b.coders,
                             .n_coders = b.n_coders,
                             .settings = *settings,
                             .seed = out->seed,
                             .decode_threads = run_settings->data.decode_threads,
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
    rf_free(report->ce_reason);
    report->ce_reason = NULL;
}
