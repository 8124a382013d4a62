/* A user's row of the architecture table, out of a YAML file:
 *
 *   like: vit                       # a family or a named architecture; without it, all is said
 * here family: my-vit prefixes: ["", "net."] names: {patch: stem.conv, q: "layers.{l}.query"}    #
 * by part; a list where spellings differ keys: {d_model: embed_width}    # settings by the config's
 * keys settings: {n_heads: 6}          # settings by themselves
 */
#include "config_impl.h"

#include <string.h>

static rf_status scalar_text(const rf_yaml *node, const char *what, const char **out)
{
    if (node->kind != RF_YAML_SCALAR) {
        return rf_yaml_fail(node, "%s must be a text", what);
    }
    *out = node->text;
    return RF_OK;
}

/* One text, or a list of up to `max`. */
static rf_status read_words(const rf_yaml *node, const char *what, const char **out, int64_t max)
{
    rf_status status = RF_OK;
    memset(out, 0, (size_t)max * sizeof *out);
    if (node->kind == RF_YAML_SCALAR) {
        out[0] = node->text;
        return RF_OK;
    }
    if (node->kind != RF_YAML_LIST || node->n_items < 1 || node->n_items > max) {
        RF_TRY(rf_yaml_fail(node, "%s must be a text or a list of 1 to %" PRId64, what, max));
    }
    for (int64_t i = 0; i < node->n_items; i++) {
        RF_TRY(scalar_text(node->items[i], what, &out[i]));
    }
fail:
    return status;
}

static const char *nearest_part(const char *word)
{
    rf_part best = RF_PART_PATCH;
    int64_t distance = INT64_MAX;
    for (int i = 0; i < RF_N_PARTS; i++) {
        const int64_t d = rf_str_distance(word, rf_part_name((rf_part)i));
        if (d < distance) {
            distance = d;
            best = (rf_part)i;
        }
    }
    return rf_part_name(best);
}

static rf_yaml at_key(const rf_yaml *item)
{
    rf_yaml at = *item;
    at.line = item->key_line > 0 ? item->key_line : item->line;
    at.column = item->key_line > 0 ? item->key_column : item->column;
    return at;
}

static rf_status read_names(const rf_yaml *map, rf_arch *arch)
{
    rf_status status = RF_OK;
    if (map->kind != RF_YAML_MAP) {
        RF_TRY(rf_yaml_fail(map, "names must be a map of parts to names"));
    }
    for (int64_t i = 0; i < map->n_items; i++) {
        const rf_part part = rf_part_by_name(map->keys[i]);
        if (part == RF_N_PARTS) {
            const rf_yaml at = at_key(map->items[i]);
            RF_TRY(rf_yaml_fail(&at, "there is no part '%s'; did you mean '%s'?", map->keys[i],
                                nearest_part(map->keys[i])));
        }
        RF_TRY(read_words(map->items[i], map->keys[i], arch->names[part], RF_MAX_SPELLINGS));
    }
fail:
    return status;
}

static const char *nearest_field(const char *word)
{
    const char *best = "";
    int64_t distance = INT64_MAX;
    for (int64_t i = 0; i < rf_draft_table.n_rows; i++) {
        const int64_t d = rf_str_distance(word, rf_draft_table.rows[i].key);
        if (d < distance) {
            distance = d;
            best = rf_draft_table.rows[i].key;
        }
    }
    return best;
}

static rf_status read_keys(const rf_yaml *map, rf_key keys[RF_MAX_KEYS])
{
    rf_status status = RF_OK;
    if (map->kind != RF_YAML_MAP || map->n_items >= RF_MAX_KEYS) {
        RF_TRY(rf_yaml_fail(map, "keys must be a map of settings to keys of the config"));
    }
    for (int64_t i = 0; i < map->n_items; i++) {
        if (rf_draft_field(map->keys[i]) == NULL) {
            const rf_yaml at = at_key(map->items[i]);
            RF_TRY(rf_yaml_fail(&at, "there is no setting '%s'; did you mean '%s'?", map->keys[i],
                                nearest_field(map->keys[i])));
        }
        keys[i] = (rf_key){.field = map->keys[i]};
        RF_TRY(scalar_text(map->items[i], map->keys[i], &keys[i].key));
    }
fail:
    return status;
}

static rf_status check_sections(const rf_yaml *row)
{
    static const char *const known[] = {"like",  "family", "prefixes", "config",
                                        "names", "keys",   "settings"};
    rf_status status = RF_OK;
    if (row->kind != RF_YAML_MAP) {
        RF_TRY(rf_yaml_fail(row, "a row must be a map of like, family, prefixes, config, names, "
                                 "keys and settings"));
    }
    for (int64_t i = 0; i < row->n_items; i++) {
        bool is_known = false;
        for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
            is_known = is_known || strcmp(row->keys[i], known[k]) == 0;
        }
        if (!is_known) {
            const rf_yaml at = at_key(row->items[i]);
            RF_TRY(rf_yaml_fail(&at,
                                "unknown key '%s': a row has like, family, prefixes, config, "
                                "names, keys and settings",
                                row->keys[i]));
        }
    }
fail:
    return status;
}

static rf_status read_like(rf_vit_files *files, const rf_yaml *node)
{
    rf_status status = RF_OK;
    rf_draft ignored = {0};
    const rf_arch *base = NULL;
    RF_TRY(scalar_text(node, "like", &files->like));
    RF_TRY(rf_settings_defaults(&rf_draft_table, &ignored));
    if (rf_named_apply(files->like, &ignored, &base) != RF_OK) {
        RF_TRY(rf_yaml_fail(node, "like: %.400s", rf_error_text()));
    }
    if (base->tower != files->opts.tower) {
        RF_TRY(rf_yaml_fail(node, "'%s' is no %s tower", files->like,
                            files->opts.tower == RF_TOWER_TEXT ? "text" : "vision"));
    }
    files->own_arch = *base;
fail:
    return status;
}

rf_status rf_row_load(rf_vit_files *files)
{
    rf_status status = RF_OK;
    rf_arch *a = &files->own_arch;
    const rf_yaml *part = NULL;
    RF_TRY(rf_yaml_load(files->opts.row, &files->row));
    RF_TRY(check_sections(files->row));
    *a = (rf_arch){.family = "own", .library = "own", .prefixes = {""}};
    if ((part = rf_yaml_find(files->row, "like")) != NULL) {
        RF_TRY(read_like(files, part));
    }
    if ((part = rf_yaml_find(files->row, "family")) != NULL) {
        RF_TRY(scalar_text(part, "family", &a->family));
    }
    if ((part = rf_yaml_find(files->row, "prefixes")) != NULL) {
        RF_TRY(read_words(part, "prefixes", a->prefixes, RF_MAX_WORDS));
    }
    if ((part = rf_yaml_find(files->row, "config")) != NULL) {
        RF_TRY(read_words(part, "config", a->config_roots, RF_MAX_WORDS));
    }
    if ((part = rf_yaml_find(files->row, "names")) != NULL) {
        RF_TRY(read_names(part, a));
    }
    if ((part = rf_yaml_find(files->row, "keys")) != NULL) {
        RF_TRY(read_keys(part, files->own_keys));
    }
fail:
    return status;
}
