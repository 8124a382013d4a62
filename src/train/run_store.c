/* A run and its activation store: where that is, what it says of the models where these are not
 * there, and writing it. */
#include "run_impl.h"

#include <string.h>

bool rf_training_is_stored(const rf_training *t)
{
    return t->settings->activations.source == RF_ACTIVATIONS_STORE;
}

rf_status rf_run_store_path(const rf_run_settings *settings, char out[RF_PATH_LEN])
{
    const char *path = settings->activations.store;
    return path[0] != '\0' ? rf_format(out, RF_PATH_LEN, "%s", path)
                           : rf_path_join(out, settings->output.dir, "activations.h5");
}

/* ---- in place of the models --------------------------------------------------------------------
 */

/* What would make other batches, or let evaluation use pictures that were trained on. */
static rf_status check_store(const rf_training *t)
{
    rf_status status = RF_OK;
    const rf_store_head *head = rf_store_get_head(t->store);
    const rf_dtype dtype = rf_activations_dtype(&t->settings->activations);

    RF_TRY(rf_store_check_finished(t->store));
    if (head->dtype != dtype) {
        static const char *const names[] = {
            [RF_F32] = "fp32", [RF_F16] = "fp16", [RF_BF16] = "bf16"};
        RF_FAIL(RF_ERR_SETTING,
                "activations.dtype is %s and the store '%s' holds %s: set "
                "activations.dtype=%s",
                names[dtype], rf_store_path(t->store), names[head->dtype], names[head->dtype]);
    }
    const char *line = strstr(head->settings, "  max_pictures: ");
    int64_t held = 0;
    char number[32];
    if (line != NULL &&
        rf_format(number, sizeof number, "%.*s", (int)strcspn(line + 16, "\n"), line + 16) ==
            RF_OK &&
        rf_parse_i64(number, &held) == RF_OK && held != t->settings->data.max_pictures) {
        RF_FAIL(RF_ERR_SETTING,
                "data.max_pictures is %" PRId64 " and the store '%s' was written with %" PRId64
                ": set it so, and take a part of the store by activations.share",
                t->settings->data.max_pictures, rf_store_path(t->store), held);
    }
    if (head->holdout != t->settings->data.holdout) {
        RF_FAIL(
            RF_ERR_SETTING,
            "data.holdout is %g and the store '%s' was written with %g: set data.holdout=%g, so "
            "that evaluation uses pictures that are not in it",
            t->settings->data.holdout, rf_store_path(t->store), head->holdout, head->holdout);
    }
fail:
    return status;
}

rf_status rf_training_open_store(rf_training *t)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];

    RF_TRY(rf_run_store_path(t->settings, path));
    RF_TRY_DOING(rf_store_open(path, &t->store), "activations.store");
    RF_TRY(check_store(t));
    t->model_hash = rf_store_get_head(t->store)->model_hash;
    t->picture_hash = rf_store_get_head(t->store)->picture_hash;
fail:
    return status;
}

/* The names that the store has, for a message. */
static rf_status raise_no_site(const rf_training *t, const char *model, const char *hook)
{
    enum { MANY = 12 };
    rf_status status = RF_OK;
    rf_str names = {0};
    const rf_store_head *head = rf_store_get_head(t->store);

    for (int64_t s = 0; s < head->n_sites && s < MANY; s++) {
        const rf_store_site *site = &head->sites[s];
        RF_TRY(rf_str_append(&names, "%s%s%s%s", s == 0 ? "" : ", ", site->model,
                             site->model[0] != '\0' ? ":" : "", site->point));
    }
    status = rf_error_raise(RF_ERR_SETTING, __FILE__, __LINE__,
                            "the store '%s' has no '%s%s%s'; it has %s%s", rf_store_path(t->store),
                            model, model[0] != '\0' ? ":" : "", hook, names.data,
                            head->n_sites > MANY ? " and more" : "");
fail:
    rf_str_fini(&names);
    return status;
}

rf_status rf_training_find_point(const rf_training *t, int model, const char *hook,
                                 rf_hook_point *out)
{
    rf_status status = RF_OK;

    if (!rf_training_is_stored(t)) {
        return rf_vit_hook_find(rf_vit_get_config(t->vits[model]), hook, out);
    }
    const char *name = t->settings->models[model].name;
    const int64_t s = rf_store_find(t->store, name, hook);
    if (s < 0) {
        return raise_no_site(t, name, hook);
    }
    *out = (rf_hook_point){.width = rf_store_get_head(t->store)->sites[s].width};
    RF_TRY(rf_format(out->name, sizeof out->name, "%s", hook));
fail:
    return status;
}

rf_status rf_training_describe_models(rf_training *t)
{
    rf_status status = RF_OK;

    RF_TRY(rf_str_append(&t->model_name, "%s", "")); /* a text, even of none */
    if (rf_training_is_stored(t)) {
        const rf_store_head *head = rf_store_get_head(t->store);
        RF_TRY(rf_str_append(&t->model_name, "%s", head->model));
        RF_TRY(rf_format(t->processing, sizeof t->processing, "%s", head->processing));
        return RF_OK;
    }
    for (int i = 0; i < t->n_vits; i++) {
        const char *name = t->settings->models[i].name;
        RF_TRY(rf_str_append(&t->model_name, "%s%s%s%s", i == 0 ? "" : ", ", name,
                             name[0] != '\0' ? ":" : "", rf_vit_get_config(t->vits[i])->name));
    }
    RF_TRY(rf_summary_processing(t->vits, t->n_vits, t->processing));
fail:
    return status;
}

/* ---- writing -----------------------------------------------------------------------------------
 */

/* Threads and places of a run change nothing in a store: these are not said in it. */
static bool is_of_store(const char *key)
{
    static const char *const not_said[] = {
        "decode_threads", "read_threads", "max_bad_share", "source", "store", "share",
        "keep_bytes",     "pool_groups",  "hooks",         "tokens", NULL};
    return !rf_setting_keys_have(not_said, key);
}

static rf_status append_section(const rf_settings_table *table, const void *settings, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "%s:\n", table->section));
    for (int64_t i = 0; i < table->n_rows; i++) {
        if (is_of_store(table->rows[i].key)) {
            RF_TRY(rf_str_append(out, "  %s: ", table->rows[i].key));
            RF_TRY(rf_settings_format(&table->rows[i], settings, out));
            RF_TRY(rf_str_append(out, "\n"));
        }
    }
fail:
    return status;
}

/* What made a store, YAML. */
static rf_status describe_making(const rf_run_settings *s, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_model_list_write_yaml(s, out));
    RF_TRY(append_section(&rf_data_settings_table, &s->data, out));
    RF_TRY(append_section(&rf_activations_settings_table, &s->activations, out));
fail:
    return status;
}

rf_status rf_training_create_store(rf_training *t, const rf_activation_stream_opts *opts,
                                   const rf_reader_opts *readers, int64_t n_readers)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN], folder[RF_PATH_LEN];
    rf_str making = {0};
    rf_store_origin origin = {.model_hash = t->model_hash,
                              .model = t->model_name.data,
                              .processing = t->processing,
                              .holdout = t->settings->data.holdout};

    RF_TRY(rf_comm_agree(t->comm, describe_making(t->settings, &making)));
    origin.settings = making.data;
    RF_TRY(rf_run_store_path(t->settings, path));
    RF_TRY(rf_format(folder, sizeof folder, "%s", path));
    char *slash = strrchr(folder, '/');
    if (slash != NULL && slash != folder) {
        *slash = '\0';
        RF_TRY(
            rf_comm_agree(t->comm, rf_comm_rank(t->comm) == 0 ? rf_file_make_dirs(folder) : RF_OK));
    }
    RF_TRY(rf_store_create_for(opts, readers, n_readers, &origin, path, &t->store));
fail:
    rf_str_fini(&making);
    return status;
}
