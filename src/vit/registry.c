/* The registry by name, and the configs of its models without their files. */
#include "config_impl.h"

#include <string.h>

/* The name most like it, or NULL where none is. */
static const char *nearest(const char *name)
{
    const char *best = NULL;
    const int64_t n = (int64_t)strnlen(name, RF_NAME_LEN);
    int64_t distance = n < RF_NAME_LEN ? n / 3 + 1 : 0; /* farther is no likeness */
    for (int64_t i = 0; i < rf_registry_count(); i++) {
        const int64_t d = rf_str_distance(name, rf_registry_at(i)->name);
        if (d < distance) {
            distance = d;
            best = rf_registry_at(i)->name;
        }
    }
    return best;
}

rf_status rf_registry_find(const char *name, const rf_model **out)
{
    rf_status status = RF_OK;
    const rf_model *by_repo = NULL;
    bool is_unique = true;
    for (int64_t i = 0; i < rf_registry_count(); i++) {
        const rf_model *m = rf_registry_at(i);
        if (strcmp(m->name, name) == 0) {
            *out = m;
            return RF_OK;
        }
        if (m->repo != NULL && strcmp(m->repo, name) == 0) {
            is_unique = by_repo == NULL;
            by_repo = m;
        }
    }
    if (by_repo == NULL || !is_unique) {
        const char *other = nearest(name);
        RF_FAIL(RF_ERR_NOT_FOUND, "no model '%.128s' in the registry%s%s%s", name,
                other != NULL ? "; did you mean '" : "; 'refract info models' lists them",
                other != NULL ? other : "", other != NULL ? "'?" : "");
    }
    *out = by_repo;
fail:
    return status;
}

/* The config of a named architecture, as rf_vit_files_parse makes it from a config.json that only
 * names it. */
static rf_status config_by_arch(const char *arch, rf_vit_config *out)
{
    rf_status status = RF_OK;
    rf_vit_files files = {0};
    RF_TRY(rf_settings_defaults(&rf_draft_table, &files.draft));
    RF_TRY(rf_named_apply(arch, &files.draft, &files.arch));
    RF_TRY(rf_vit_files_settle(&files));
    RF_TRY(rf_vit_files_finish(&files));
    *out = files.config;
fail:
    return status;
}

rf_status rf_registry_config(const rf_model *model, rf_vit_config *out)
{
    rf_status status = RF_OK;
    if (model->arch == NULL) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "%s: %s", model->name, model->note);
    }
    RF_TRY_DOING(config_by_arch(model->arch, out), "%s", model->name);
    RF_TRY(rf_format(out->name, sizeof out->name, "%.*s", (int)sizeof out->name - 1, model->name));
fail:
    return status;
}

rf_status rf_registry_arch_config(const char *arch, rf_vit_config *out)
{
    rf_status status = config_by_arch(arch, out);
    if (status == RF_OK) {
        status = rf_format(out->name, sizeof out->name, "%.*s", (int)sizeof out->name - 1, arch);
    }
    return status;
}
