/* The coders of a run: `coders` (or `coder`), each with its own copy of the training settings,
 * after `each` and `sweep`. */
#include "run_impl.h"

#include <string.h>

enum { MAX_NAME = 100 };

bool rf_name_has_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           strchr("._+-", c) != NULL;
}

/* A name is a folder's name, beside those that a run makes itself. */
static rf_status check_name(const rf_yaml *where, const char *name)
{
    size_t n = strlen(name);
    static const char *const taken[] = {"checkpoints",   "config.yaml",   "eval.json",
                                        "metrics.jsonl", "summary.csv",   "sweep.html",
                                        "published.csv", "activations.h5"};
    bool is_safe = n > 0 && n <= MAX_NAME && name[0] != '.' && name[0] != '-';
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        is_safe = is_safe && strcmp(name, taken[i]) != 0;
    }
    for (size_t i = 0; i < n; i++) {
        is_safe = is_safe && rf_name_has_char(name[i]);
    }
    if (!is_safe) {
        return rf_yaml_fail(
            where,
            "'%.120s' cannot be a coder's name: it becomes a folder; expected 1 to "
            "%d letters, digits or ._+-, not '.' or '-' first, and no name of the run's own files",
            name, MAX_NAME);
    }
    return RF_OK;
}

/* `spatial` is the word of other tools for patch. */
static rf_status translate(rf_yaml *map)
{
    rf_yaml *tokens = rf_yaml_find(map, "tokens");
    bool is_spatial =
        tokens != NULL && tokens->kind == RF_YAML_SCALAR && strcmp(tokens->text, "spatial") == 0;
    return is_spatial ? rf_yaml_set_text(tokens, "patch") : RF_OK;
}

rf_status rf_train_keys_of_coder(const char ***out)
{
    rf_status status = RF_OK;
    const char **keys = NULL;
    int64_t n = 0;

    RF_TRY(rf_setting_keys_of(&rf_train_settings_table, &rf_coder_settings_table, &keys));
    for (int64_t i = 0; keys[i] != NULL; i++) {
        if (!rf_train_setting_is_of_run(keys[i])) {
            keys[n++] = keys[i];
        }
    }
    keys[n] = NULL;
fail:
    *out = keys;
    return status;
}

/* Settings of the whole run have no place in a coder. */
static rf_status refuse_keys_of_run(const rf_yaml *map, const char *path,
                                    const char *const *coder_keys)
{
    const rf_settings_table *table = &rf_train_settings_table;

    for (int64_t i = 0; i < table->n_rows; i++) {
        const char *key = table->rows[i].key;
        const rf_yaml *item = rf_yaml_find(map, key);
        if (item != NULL && rf_train_setting_is_of_run(key) &&
            !rf_setting_keys_have(coder_keys, key)) {
            return rf_yaml_fail(item,
                                "%s.%s belongs to the whole run: it can be set under `train` only",
                                path, key);
        }
    }
    return RF_OK;
}

static rf_status read_spec(const rf_yaml *map, const char *path, const rf_train_settings *train,
                           rf_coder_spec *out)
{
    rf_status status = RF_OK;
    const rf_settings_table *table = &rf_coder_settings_table;
    const char **coder_keys = NULL, **train_keys = NULL;
    bool *given = NULL;

    RF_TRY(rf_setting_keys_of(table, NULL, &coder_keys)); /* `seed` in a coder is the coder's */
    RF_TRY(rf_train_keys_of_coder(&train_keys));
    RF_TRY(refuse_keys_of_run(map, path, coder_keys));
    RF_ALLOC(given, table->n_rows);
    RF_TRY(rf_settings_defaults(table, &out->coder));
    RF_TRY(rf_settings_read(table, map, path, train_keys, &out->coder, given));
    RF_TRY(rf_settings_check_required(table, given, path, map));
    if (rf_yaml_find(map, "seed") == NULL) {
        out->coder.seed = train->seed;
    }
    out->train = *train;
    RF_TRY(rf_settings_read(&rf_train_settings_table, map, path, coder_keys, &out->train, NULL));
    RF_TRY_DOING(rf_train_settings_check(&out->train), "%s", path);
    if (out->coder.decoder == RF_DECODER_ARCHETYPAL &&
        out->coder.archetypal_points > out->train.sample_tokens) {
        RF_FAIL(RF_ERR_SETTING,
                "%s: archetypal_points is %" PRId64
                " and the sample they are drawn from has %" PRId64
                " tokens: ask for fewer, or for more tokens (train.sample_tokens)",
                path, out->coder.archetypal_points, out->train.sample_tokens);
    }
    RF_TRY(check_name(rf_yaml_find(map, "name"), out->coder.name));
fail:
    rf_free(given);
    rf_free(train_keys);
    rf_free(coder_keys);
    return status;
}

/* The name before suffixes; one coder without a name is called "coder". */
static rf_status give_name(rf_yaml *map, const char *path)
{
    rf_status status = RF_OK;
    rf_yaml *name = rf_yaml_find(map, "name");
    if (name == NULL) {
        return rf_yaml_override(map, "name=coder");
    }
    if (name->kind != RF_YAML_SCALAR) {
        status = rf_yaml_fail(name, "%s.name: expected a text", path);
    }
    return status;
}

/* One entry of the list, through `each` and `sweep`, to the end of `maps`. */
static rf_status expand(const rf_yaml *coder, const char *path, const rf_yaml *sweep,
                        rf_yaml_list *maps)
{
    rf_status status = RF_OK;
    rf_yaml_list each = {0};

    RF_TRY(rf_each_expand(coder, path, &each));
    for (int64_t i = 0; i < each.n; i++) {
        RF_TRY(give_name(each.nodes[i], path));
        RF_TRY(rf_sweep_expand(sweep, each.nodes[i], maps));
        if (maps->n > RF_MAX_CODERS) {
            status =
                rf_yaml_fail(coder, "%s: more than %d coders in all", path, (int)RF_MAX_CODERS);
            goto fail;
        }
    }
fail:
    rf_yaml_list_fini(&each);
    return status;
}

static rf_status check_unique(const rf_coder_spec *coders, int64_t n, const rf_yaml_list *maps)
{
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < i; j++) {
            if (strcmp(coders[i].coder.name, coders[j].coder.name) == 0) {
                return rf_yaml_fail(maps->nodes[i],
                                    "two coders are called '%s': expected a name for each "
                                    "(with `each`, put its key into the name: name: x-l{layer})",
                                    coders[i].coder.name);
            }
        }
    }
    return RF_OK;
}

/* Read all of `maps` behind what `out` holds; complaints say `path`. */
static rf_status read_maps(const rf_yaml_list *maps, int64_t first, const char *path,
                           const rf_train_settings *train, rf_coder_spec *coders)
{
    rf_status status = RF_OK;
    for (int64_t i = first; i < maps->n; i++) {
        RF_TRY(translate(maps->nodes[i]));
        RF_TRY(read_spec(maps->nodes[i], path, train, &coders[i]));
    }
fail:
    return status;
}

/* The entry `idx` of the coders in `root`, or NULL behind the last. */
static const rf_yaml *find_entry(const rf_yaml *root, int64_t idx, char path[64])
{
    const rf_yaml *one = rf_yaml_find(root, "coder"), *many = rf_yaml_find(root, "coders");
    rf_status status = rf_format(path, 64, one != NULL ? "coder" : "coders.%" PRId64, idx);
    if (status != RF_OK || (one != NULL && idx > 0)) {
        return NULL;
    }
    return one != NULL ? one : idx < many->n_items ? many->items[idx] : NULL;
}

static rf_status check_shape(const rf_yaml *root)
{
    const rf_yaml *one = rf_yaml_find(root, "coder"), *many = rf_yaml_find(root, "coders");
    if (one != NULL && many != NULL) {
        return rf_yaml_fail(one,
                            "both `coder` and `coders` are given: `coder` is the short form of "
                            "a list of one (the first of a list is coders.0)");
    }
    if (one == NULL && many == NULL) {
        return rf_yaml_fail(root,
                            "no coder: expected `coder` (a map) or `coders` (a list of maps)");
    }
    if (many != NULL && (many->kind != RF_YAML_LIST || many->n_items == 0)) {
        return rf_yaml_fail(many, "coders: expected a list of maps, one or more");
    }
    return RF_OK;
}

rf_status rf_coder_list_read(const rf_yaml *root, const rf_train_settings *train,
                             rf_coder_spec **out, int64_t *n_out)
{
    rf_status status = RF_OK;
    rf_yaml_list maps = {0};
    rf_coder_spec *coders = NULL;
    const rf_yaml *sweep = rf_yaml_find(root, "sweep"), *entry = NULL;
    char path[64];

    RF_TRY(check_shape(root));
    for (int64_t i = 0; (entry = find_entry(root, i, path)) != NULL; i++) {
        int64_t first = maps.n;
        RF_TRY(expand(entry, path, sweep, &maps));
        rf_coder_spec *grown = rf_realloc(coders, first, maps.n, sizeof *coders);
        if (grown == NULL) {
            status = RF_ERR_NO_MEMORY;
            goto fail;
        }
        coders = grown;
        RF_TRY(read_maps(&maps, first, path, train, coders));
    }
    RF_TRY(check_unique(coders, maps.n, &maps));
    *out = coders;
    *n_out = maps.n;
    coders = NULL;
fail:
    rf_free(coders);
    rf_yaml_list_fini(&maps);
    return status;
}
