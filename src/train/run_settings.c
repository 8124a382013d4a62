/* A run's settings: from a file and the command line to checked structs, and back to text. */
#include "run_impl.h"

#include <string.h>

static const char *const sections[] = {"model", "data",  "activations", "coder", "coders",
                                       "train", "sweep", "output",      NULL};

void rf_run_settings_free(rf_run_settings *settings)
{
    if (settings != NULL) {
        rf_free(settings->coders);
        rf_free(settings);
    }
}

/* `is_whole`: keys without a fallback must be there. */
static rf_status read_section(const rf_yaml *root, const rf_settings_table *table, bool is_whole,
                              void *out)
{
    rf_status status = RF_OK;
    bool *given = NULL;
    const rf_yaml *map = rf_yaml_find(root, table->section);

    RF_ALLOC(given, table->n_rows);
    RF_TRY(rf_settings_defaults(table, out));
    RF_TRY(rf_settings_read(table, map, table->section, NULL, out, given));
    if (is_whole) {
        RF_TRY(rf_settings_check_required(table, given, table->section, map != NULL ? map : root));
    }
fail:
    rf_free(given);
    return status;
}

/* `refract cache` writes activations.hooks without any coder. */
static rf_status read_coders(const rf_yaml *root, rf_run_settings *s)
{
    const bool has_coders =
        rf_yaml_find(root, "coder") != NULL || rf_yaml_find(root, "coders") != NULL;
    return has_coders || s->activations.hooks[0] == '\0'
               ? rf_coder_list_read(root, &s->train, &s->coders, &s->n_coders)
               : RF_OK;
}

static rf_status read_root(const rf_yaml *root, rf_run_settings *s)
{
    rf_status status = RF_OK;
    if (root->kind != RF_YAML_MAP) {
        return rf_yaml_fail(root, "expected a map of sections: model, data, coders, ...");
    }
    for (int64_t i = 0; i < root->n_items; i++) {
        if (!rf_setting_keys_have(sections, root->keys[i])) {
            return rf_setting_keys_raise(root->items[i], "", root->keys[i], sections);
        }
    }
    RF_TRY(read_section(root, &rf_activations_settings_table, true, &s->activations));
    RF_TRY(rf_activations_settings_check(&s->activations));
    /* A store stands for model and pictures. */
    const bool is_live = s->activations.source != RF_ACTIVATIONS_STORE;
    RF_TRY(rf_model_list_read(root, is_live, s));
    RF_TRY(read_section(root, &rf_data_settings_table, is_live, &s->data));
    RF_TRY(read_section(root, &rf_train_settings_table, true, &s->train));
    RF_TRY(read_section(root, &rf_output_settings_table, true, &s->output));
    RF_TRY(read_coders(root, s));
    RF_TRY(rf_model_list_check_sites(s));
    RF_TRY(rf_select_check(s->output.select));
fail:
    return status;
}

/* Takes `root`. */
static rf_status from_yaml(rf_yaml *root, const char *const *overrides, int64_t n_overrides,
                           rf_run_settings **out)
{
    rf_status status = RF_OK;
    rf_run_settings *s = NULL;

    for (int64_t i = 0; i < n_overrides; i++) {
        RF_TRY(rf_yaml_override(root, overrides[i]));
    }
    RF_ALLOC(s, 1);
    RF_TRY(read_root(root, s));
    *out = s;
    s = NULL;
fail:
    rf_run_settings_free(s);
    rf_yaml_free(root);
    return status;
}

rf_status rf_run_settings_load(const char *path, const char *const *overrides, int64_t n_overrides,
                               rf_run_settings **out)
{
    rf_yaml *root = NULL;
    *out = NULL;
    rf_status status = rf_yaml_load(path, &root);
    return status == RF_OK ? from_yaml(root, overrides, n_overrides, out) : status;
}

rf_status rf_run_settings_parse(const char *yaml, const char *name, const char *const *overrides,
                                int64_t n_overrides, rf_run_settings **out)
{
    rf_yaml *root = NULL;
    *out = NULL;
    rf_status status = rf_yaml_parse(yaml, (int64_t)strlen(yaml), name, &root);
    return status == RF_OK ? from_yaml(root, overrides, n_overrides, out) : status;
}

/* ---- back to text ------------------------------------------------------------------------------
 */

static rf_status write_section(const rf_settings_table *table, const void *settings, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "%s:\n", table->section));
    RF_TRY(rf_settings_write_yaml(table, settings, 2, out));
fail:
    return status;
}

/* "    key: value", unless `base` (NULL: none) has the same value. */
static rf_status write_key(const rf_setting *row, const void *settings, const void *base,
                           rf_str *out)
{
    rf_status status = RF_OK;
    rf_str value = {0}, usual = {0};
    RF_TRY(rf_settings_format(row, settings, &value));
    if (base != NULL) {
        RF_TRY(rf_settings_format(row, base, &usual));
    }
    if (base == NULL || strcmp(value.data, usual.data) != 0) {
        RF_TRY(rf_str_append(out, "    %s: %s\n", row->key, value.data));
    }
fail:
    rf_str_fini(&usual);
    rf_str_fini(&value);
    return status;
}

/* "  - name: x", the coder's other keys under it, and what it trains with otherwise than the run:
 * so that a word on the command line for all of them reaches all of them. */
static rf_status write_coder(const rf_run_settings *s, const rf_coder_spec *spec, rf_str *out)
{
    rf_status status = RF_OK;
    const rf_settings_table *coder = &rf_coder_settings_table, *train = &rf_train_settings_table;
    rf_coder_settings base = spec->coder;
    int64_t start = out->len;

    base.seed = s->train.seed; /* what a coder without one takes */
    for (int64_t i = 0; i < coder->n_rows; i++) {
        bool is_seed = strcmp(coder->rows[i].key, "seed") == 0;
        RF_TRY(write_key(&coder->rows[i], &spec->coder, is_seed ? &base : NULL, out));
    }
    out->data[start + 2] = '-'; /* before the first key */
    for (int64_t i = 0; i < train->n_rows; i++) {
        if (!rf_train_setting_is_of_run(train->rows[i].key)) {
            RF_TRY(write_key(&train->rows[i], &spec->train, &s->train, out));
        }
    }
fail:
    return status;
}

rf_status rf_run_settings_write_yaml(const rf_run_settings *s, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_model_list_write_yaml(s, out));
    RF_TRY(write_section(&rf_data_settings_table, &s->data, out));
    RF_TRY(write_section(&rf_activations_settings_table, &s->activations, out));
    RF_TRY(rf_str_append(out, "coders:\n"));
    for (int64_t i = 0; i < s->n_coders; i++) {
        RF_TRY(write_coder(s, &s->coders[i], out));
    }
    RF_TRY(write_section(&rf_train_settings_table, &s->train, out));
    RF_TRY(write_section(&rf_output_settings_table, &s->output, out));
fail:
    return status;
}

static const char *const lists_help[] = {
    "models",
    "Several models in one run, for coders over models: model: {base: {path: a}, tuned: {path: "
    "b}}, "
    "each with the settings of `model`. A site is then base:blocks.8.hook_resid_post; without a "
    "name it is of the first. On the command line: model.base.path=...",
    "each",
    "In a coder: lists walked together, {layer: 0..11}; one coder for each value, with "
    "{layer} filled in wherever the coder's settings have it.",
    "sweep",
    "Axes that multiply: {coder.k: [32, 64], train.lr: {log: [1e-4, 4e-4, 3]}}. Every "
    "coder is trained with every combination, under a name with a suffix for each axis "
    "(x-k32-lr0.0001-l1_0.01). A list of maps is several grids. Values are a list, a range a..b, "
    "or {log: [first, last, n]} or {linear: [first, last, n]}. On the command line: "
    "sweep.coder.k=[32,64]."};

rf_status rf_run_settings_write_help(bool markdown, rf_str *out)
{
    static const rf_settings_table *const tables[] = {
        &rf_model_settings_table, &rf_data_settings_table,  &rf_activations_settings_table,
        &rf_coder_settings_table, &rf_train_settings_table, &rf_output_settings_table};
    rf_status status = RF_OK;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        RF_TRY(rf_settings_write_help(tables[i], markdown, out));
        RF_TRY(rf_str_append(out, "\n"));
    }
    for (size_t i = 0; i < sizeof lists_help / sizeof *lists_help; i += 2) {
        RF_TRY(rf_str_append(out, markdown ? "## %s\n\n%s\n\n" : "%s: %s\n\n", lists_help[i],
                             lists_help[i + 1]));
    }
fail:
    return status;
}

/* ---- what two runs differ in -------------------------------------------------------------------
 */

/* Settings that shape nothing that is computed, or whose meaning a hash covers. */
static bool may_change(const char *section, const char *key)
{
    static const char *const free_keys[] = {"train.checkpoint_every",
                                            "train.log_every",
                                            "train.keep_checkpoints",
                                            "train.ranks_per_coder",
                                            "train.coders_at_once",
                                            "train.threads",
                                            "train.resume",
                                            "train.device",
                                            "train.max_skipped_share",
                                            "activations.keep_bytes",
                                            "activations.source",
                                            "activations.store",
                                            "activations.hooks",
                                            "activations.tokens",
                                            "activations.read_threads",
                                            "data.path",
                                            "data.root",
                                            "data.decode_threads",
                                            "data.max_bad_share",
                                            "model.path",
                                            "output.dir",
                                            "output.select",
                                            "output.published",
                                            "coders.max_skipped_share",
                                            NULL};
    char path[RF_NAME_LEN];
    return rf_format(path, sizeof path, "%s.%s", section, key) == RF_OK &&
           rf_setting_keys_have(free_keys, path);
}

/* SETTING when a row that shapes the result differs. `where` is the key path in front; `common`
 * (may be NULL) are settings of the run that a coder's are copies of where it has none. */
static rf_status compare(const rf_settings_table *table, const char *section, const char *where,
                         const void *then, const void *now, const void *common)
{
    rf_status status = RF_OK;
    rf_str a = {0}, b = {0}, c = {0};
    for (int64_t i = 0; i < table->n_rows; i++) {
        const rf_setting *row = &table->rows[i];
        if (common != NULL && rf_train_setting_is_of_run(row->key)) {
            continue; /* a coder's copy: compared with the run's */
        }
        a.len = b.len = 0;
        RF_TRY(rf_settings_format(row, then, &a));
        RF_TRY(rf_settings_format(row, now, &b));
        if (!may_change(section, row->key) && strcmp(a.data, b.data) != 0) {
            if (common != NULL) {
                RF_TRY(rf_settings_format(row, common, &c));
                where = strcmp(b.data, c.data) == 0 ? table->section : where;
            }
            RF_FAIL(RF_ERR_SETTING,
                    "%s.%s is %.200s and was %.200s in the checkpoint; set it back, or train in "
                    "another output.dir",
                    where, row->key, b.data, a.data);
        }
    }
fail:
    rf_str_fini(&a);
    rf_str_fini(&b);
    rf_str_fini(&c);
    return status;
}

/* Early stopping looks at the lines that are logged. */
static rf_status compare_log_every(const rf_run_settings *then, const rf_run_settings *now)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < now->n_coders; i++) {
        const rf_train_settings *t = &now->coders[i].train;
        const bool watches = t->stop_metric[0] != '\0' || t->bad_l0 > 0.0 || t->bad_ev > 0.0;
        if (watches && then->train.log_every != now->train.log_every) {
            RF_FAIL(RF_ERR_SETTING,
                    "train.log_every is %" PRId64 " and was %" PRId64
                    " in the checkpoint, and coder '%s' stops by what is logged; set it back, or "
                    "train in another output.dir",
                    now->train.log_every, then->train.log_every, now->coders[i].coder.name);
        }
    }
fail:
    return status;
}

static rf_status compare_coder(const rf_coder_spec *then, const rf_coder_spec *now,
                               const rf_train_settings *common, int64_t idx)
{
    rf_status status = RF_OK;
    char where[64];
    RF_TRY(rf_format(where, sizeof where, "coders.%" PRId64, idx));
    RF_TRY(compare(&rf_coder_settings_table, "coders", where, &then->coder, &now->coder, NULL));
    RF_TRY(compare(&rf_train_settings_table, "coders", where, &then->train, &now->train, common));
fail:
    return status;
}

/* `train` itself shapes the order of the data by its seed; all else of it is in the coders. */
static rf_status compare_seed(const rf_train_settings *then, const rf_train_settings *now)
{
    rf_status status = RF_OK;
    if (then->seed != now->seed) {
        RF_FAIL(RF_ERR_SETTING,
                "train.seed is %" PRId64 " and was %" PRId64
                " in the checkpoint; set it back, or train in another output.dir",
                now->seed, then->seed);
    }
fail:
    return status;
}

static rf_status compare_models(const rf_run_settings *then, const rf_run_settings *now)
{
    rf_status status = RF_OK;
    char where[RF_NAME_LEN + 16];

    if (then->n_models != now->n_models) {
        RF_FAIL(RF_ERR_SETTING,
                "the settings name %d models and the checkpoint has %d; set them back, or train in "
                "another output.dir",
                now->n_models, then->n_models);
    }
    for (int m = 0; m < now->n_models; m++) {
        const rf_named_model *a = &then->models[m], *b = &now->models[m];
        if (strcmp(a->name, b->name) != 0) {
            RF_FAIL(RF_ERR_SETTING,
                    "model %d is called '%s' and was '%s' in the checkpoint; set it back, or train "
                    "in another output.dir",
                    m, b->name, a->name);
        }
        RF_TRY(rf_model_list_key(now, m, where, sizeof where));
        RF_TRY(compare(&rf_model_settings_table, "model", where, &a->settings, &b->settings, NULL));
    }
fail:
    return status;
}

rf_status rf_run_settings_compare(const rf_run_settings *then, const rf_run_settings *now)
{
    rf_status status = RF_OK;
    RF_TRY(compare_models(then, now));
    RF_TRY(compare(&rf_data_settings_table, "data", "data", &then->data, &now->data, NULL));
    RF_TRY(compare(&rf_activations_settings_table, "activations", "activations", &then->activations,
                   &now->activations, NULL));
    RF_TRY(compare_seed(&then->train, &now->train));
    if (then->n_coders != now->n_coders) {
        RF_FAIL(RF_ERR_SETTING,
                "the settings name %" PRId64 " coders and the checkpoint has %" PRId64
                "; set them back, or train in another output.dir",
                now->n_coders, then->n_coders);
    }
    RF_TRY(compare_log_every(then, now));
    for (int64_t i = 0; i < then->n_coders; i++) {
        RF_TRY(compare_coder(&then->coders[i], &now->coders[i], &now->train, i));
    }
fail:
    return status;
}
