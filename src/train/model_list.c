/* The models of a run: one, or several by name; and the sites that coders name of them. */
#include "run_impl.h"

#include <string.h>

/* ---- reading -----------------------------------------------------------------------------------
 */

/* Names stand in key paths and before the ':' of a site. */
static rf_status check_name(const rf_yaml *where, const char *name)
{
    bool is_safe = name[0] != '\0' && name[0] != '-' && strlen(name) < RF_NAME_LEN;
    for (const char *p = name; *p != '\0'; p++) {
        is_safe = is_safe && rf_name_has_char(*p) && *p != '.';
    }
    if (!is_safe) {
        return rf_yaml_fail(where,
                            "'%.120s' cannot be a model's name: expected letters, digits or _+-, "
                            "not '-' first",
                            name);
    }
    return RF_OK;
}

static rf_status read_model(const rf_yaml *root, const rf_yaml *map, const char *path,
                            bool is_needed, rf_model_settings *out)
{
    rf_status status = RF_OK;
    const rf_settings_table *table = &rf_model_settings_table;
    bool *given = NULL;

    RF_ALLOC(given, table->n_rows);
    RF_TRY(rf_settings_defaults(table, out));
    RF_TRY(rf_settings_read(table, map, path, NULL, out, given));
    if (is_needed) {
        RF_TRY(rf_settings_check_required(table, given, path, map != NULL ? map : root));
    }
fail:
    rf_free(given);
    return status;
}

static int64_t count_maps(const rf_yaml *section)
{
    int64_t n = 0;
    for (int64_t i = 0; section != NULL && i < section->n_items; i++) {
        n += section->items[i]->kind == RF_YAML_MAP;
    }
    return n;
}

/* Settings of one model beside maps of others. */
static rf_status raise_mixed(const rf_yaml *section)
{
    int64_t plain = 0, map = 0;
    for (int64_t i = section->n_items; i-- > 0;) {
        *(section->items[i]->kind == RF_YAML_MAP ? &map : &plain) = i;
    }
    return rf_yaml_fail(section->items[plain],
                        "model.%.100s stands beside the map model.%.100s: expected settings of one "
                        "model, or nothing but models by name (model.%.100s.path)",
                        section->keys[plain], section->keys[map], section->keys[map]);
}

rf_status rf_model_list_read(const rf_yaml *root, bool is_needed, rf_run_settings *s)
{
    rf_status status = RF_OK;
    const rf_yaml *section = rf_yaml_find(root, rf_model_settings_table.section);
    const bool is_map = section != NULL && section->kind == RF_YAML_MAP;
    const int64_t n_maps = is_map ? count_maps(section) : 0;
    char path[RF_NAME_LEN + 16];

    if (n_maps == 0) {
        s->n_models = 1;
        return read_model(root, section, "model", is_needed, &s->models[0].settings);
    }
    if (n_maps < section->n_items) {
        return raise_mixed(section);
    }
    if (n_maps > RF_MAX_MODELS) {
        return rf_yaml_fail(section, "model: %" PRId64 " models: expected at most %d", n_maps,
                            RF_MAX_MODELS);
    }
    for (int64_t i = 0; i < n_maps; i++) {
        rf_named_model *model = &s->models[i];
        RF_TRY(check_name(section->items[i], section->keys[i]));
        RF_TRY(rf_format(model->name, sizeof model->name, "%s", section->keys[i]));
        RF_TRY(rf_format(path, sizeof path, "model.%s", model->name));
        RF_TRY(read_model(root, section->items[i], path, is_needed, &model->settings));
    }
    s->n_models = (int)n_maps;
fail:
    return status;
}

rf_status rf_model_list_write_yaml(const rf_run_settings *s, rf_str *out)
{
    rf_status status = RF_OK;
    const rf_settings_table *table = &rf_model_settings_table;

    RF_TRY(rf_str_append(out, "%s:\n", table->section));
    for (int m = 0; m < s->n_models; m++) {
        const bool is_named = s->models[m].name[0] != '\0';
        if (is_named) {
            RF_TRY(rf_str_append(out, "  %s:\n", s->models[m].name));
        }
        RF_TRY(rf_settings_write_yaml(table, &s->models[m].settings, is_named ? 4 : 2, out));
    }
fail:
    return status;
}

rf_status rf_model_list_key(const rf_run_settings *s, int model, char *out, size_t out_bytes)
{
    const char *name = s->models[model].name;
    return rf_format(out, out_bytes, "model%s%s", name[0] != '\0' ? "." : "", name);
}

/* ---- sites -------------------------------------------------------------------------------------
 */

/* SETTING: no model has the name before the ':' of `site`. */
static rf_status raise_no_model(const rf_run_settings *s, const char *site, int n_name)
{
    rf_status status = RF_OK;
    rf_str names = {0};

    if (s->models[0].name[0] == '\0') {
        RF_FAIL(RF_ERR_SETTING,
                "'%.200s' names the model '%.*s', and the run has one model without a name; write "
                "the hook point alone, or model: {%.*s: {path: ...}}",
                site, n_name, site, n_name, site);
    }
    for (int m = 0; m < s->n_models; m++) {
        RF_TRY(rf_str_append(&names, "%s%s", m == 0 ? "" : ", ", s->models[m].name));
    }
    RF_FAIL(RF_ERR_SETTING, "'%.200s': there is no model '%.*s'; the models are %s", site, n_name,
            site, names.data);
fail:
    rf_str_fini(&names);
    return status;
}

rf_status rf_run_settings_site(const rf_run_settings *settings, const char *site, int *model,
                               const char **hook)
{
    const char *colon = strchr(site, ':');
    const size_t n_name = colon != NULL ? (size_t)(colon - site) : 0;

    *model = 0;
    *hook = site;
    if (colon == NULL) {
        return RF_OK;
    }
    for (int m = 0; m < settings->n_models; m++) {
        const char *name = settings->models[m].name;
        if (n_name > 0 && strlen(name) == n_name && strncmp(name, site, n_name) == 0) {
            *model = m;
            *hook = colon + 1;
            return RF_OK;
        }
    }
    return raise_no_model(settings, site, (int)rf_min_i64((int64_t)n_name, 100));
}

rf_status rf_model_list_check_sites(const rf_run_settings *s)
{
    rf_status status = RF_OK;
    char sites[RF_MAX_SITES][RF_NAME_LEN];

    for (int64_t c = 0; c < s->n_coders; c++) {
        const rf_coder_settings *coder = &s->coders[c].coder;
        for (int side = 0; side < 2; side++) {
            const int n = rf_coder_sites(side == 0 ? coder->input : coder->target, sites);
            for (int i = 0; i < n; i++) {
                int model = 0;
                const char *hook = NULL;
                RF_TRY_DOING(rf_run_settings_site(s, sites[i], &model, &hook), "coder '%s': %s",
                             coder->name, side == 0 ? "input" : "target");
            }
        }
    }
fail:
    return status;
}
