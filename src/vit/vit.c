/* Opening and closing a model, and what is known about it without running it. */
#include "config_impl.h"

#include <jansson.h>

/* transformers: id2label {"0": "tench"}; timm: label_names ["n01440764"], and label_descriptions by
 * these. NULL where the config has none. */
static rf_status class_name_at(const rf_json *json, int64_t idx, const char **out)
{
    rf_status status = RF_OK;
    char key[32];
    const rf_json *labels = rf_json_find(json, "id2label");
    const rf_json *names = rf_json_find(json, "label_names");
    const rf_json *descriptions = rf_json_find(json, "label_descriptions");
    *out = NULL;
    if (labels != NULL) {
        RF_TRY(rf_format(key, sizeof key, "%" PRId64, idx));
        RF_TRY(rf_json_get_str(labels, key, "", out));
    } else if (json_is_array(names)) {
        *out = json_string_value(json_array_get(names, (size_t)idx));
        const rf_json *long_name = *out != NULL ? json_object_get(descriptions, *out) : NULL;
        *out = json_is_string(long_name) ? json_string_value(long_name) : *out;
    }
fail:
    return status;
}

static rf_status read_class_names(const rf_vit_files *files, rf_vit *vit)
{
    rf_status status = RF_OK;
    const char *name = NULL;
    if (vit->config.n_classes == 0) {
        return RF_OK;
    }
    RF_ALLOC(vit->class_names, vit->config.n_classes);
    for (int64_t i = 0; i < vit->config.n_classes; i++) {
        RF_TRY_DOING(class_name_at(files->json, i, &name), "%s/config.json: labels", files->folder);
        if (name != NULL && name[0] != '\0') {
            vit->class_names[i] = rf_strdup(name);
            RF_TRY(vit->class_names[i] == NULL ? RF_ERR_NO_MEMORY : RF_OK);
        }
    }
fail:
    return status;
}

rf_status rf_vit_open(rf_backend *be, const char *folder, const rf_vit_opts *opts, rf_vit **out)
{
    rf_status status = RF_OK;
    rf_vit_files files = {0};
    rf_stream *s = NULL;
    rf_vit *vit = NULL;

    *out = NULL;
    RF_TRY(rf_vit_files_open(folder, opts, RF_WEIGHTS_NEEDED, &files));
    RF_ALLOC(vit, 1);
    vit->be = be;
    vit->config = files.config;
    vit->products = files.opts.products;
    RF_TRY(rf_stream_create(be, &s));
    RF_TRY(rf_weights_load(be, s, &files, &vit->weights));
    RF_TRY(rf_vit_process_weights(vit, s, files.opts.processing));
    RF_TRY(read_class_names(&files, vit));
    *out = vit;
    vit = NULL;
fail:
    rf_stream_destroy(s);
    rf_vit_close(vit);
    rf_vit_files_close(&files);
    return status;
}

void rf_vit_close(rf_vit *vit)
{
    if (vit == NULL) {
        return;
    }
    for (int64_t i = 0; vit->class_names != NULL && i < vit->config.n_classes; i++) {
        rf_free(vit->class_names[i]);
    }
    rf_free(vit->class_names);
    rf_workspace_fini(vit);
    rf_backward_fini(vit);
    rf_weights_fini(vit->be, &vit->weights);
    rf_free(vit);
}

rf_status rf_vit_read_config(const char *folder, const rf_vit_opts *opts, rf_vit_config *out)
{
    rf_status status = RF_OK;
    rf_vit_files files = {0};
    RF_TRY(rf_vit_files_open(folder, opts, RF_WEIGHTS_IF_THERE, &files));
    if (files.weights != NULL) {
        RF_TRY(rf_weights_check(&files));
    }
    *out = files.config;
fail:
    rf_vit_files_close(&files);
    return status;
}

const rf_vit_config *rf_vit_get_config(const rf_vit *vit)
{
    return &vit->config;
}

uint64_t rf_vit_hash(const rf_vit *vit)
{
    return vit->weights.hash;
}

const char *rf_vit_class_name(const rf_vit *vit, int64_t idx)
{
    return vit->class_names != NULL && idx >= 0 && idx < vit->config.n_classes
               ? vit->class_names[idx]
               : NULL;
}

unsigned rf_vit_processing(const rf_vit *vit)
{
    return vit->processing;
}
