/* From one coder's map to many: lists of values, `each` (walked together) and `sweep` (axes
 * multiply). All on the YAML tree, so that every value is read and checked by the tables as if it
 * had been written out, and complaints name the line where it stands. */
#include "run_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_VALUES = 4096,
    MAX_AXES = 32,
};

/* ---- lists of nodes -------------------------------------------------------------------------- */

void rf_yaml_list_fini(rf_yaml_list *list)
{
    for (int64_t i = 0; i < list->n; i++) {
        rf_yaml_free(list->nodes[i]);
    }
    rf_free(list->nodes);
    *list = (rf_yaml_list){0};
}

rf_status rf_yaml_list_append(rf_yaml_list *list, rf_yaml *node)
{
    rf_yaml **nodes = rf_realloc(list->nodes, list->n, list->n + 1, sizeof *nodes);
    if (nodes == NULL) {
        rf_yaml_free(node);
        return RF_ERR_NO_MEMORY;
    }
    list->nodes = nodes;
    list->nodes[list->n++] = node;
    return RF_OK;
}

static rf_status append_copy(rf_yaml_list *list, const rf_yaml *node)
{
    rf_yaml *copy = NULL;
    rf_status status = rf_yaml_copy(node, &copy);
    return status == RF_OK ? rf_yaml_list_append(list, copy) : status;
}

/* A plain value that stands where `at` does. */
static rf_status append_text(rf_yaml_list *list, const rf_yaml *at, const char *text)
{
    rf_status status = RF_OK;
    rf_yaml *node = NULL;
    RF_TRY(rf_yaml_parse(text, (int64_t)strlen(text), at->file, &node));
    node->line = at->line;
    node->column = at->column;
    node->key_line = at->key_line;
    node->key_column = at->key_column;
    RF_TRY(rf_yaml_list_append(list, node));
fail:
    return status;
}

static void remove_key(rf_yaml *map, const char *key)
{
    for (int64_t i = 0; i < map->n_items; i++) {
        if (strcmp(map->keys[i], key) == 0) {
            rf_free(map->keys[i]);
            rf_yaml_free(map->items[i]);
            map->n_items--;
            /* The arrays keep their length: they are as long as the next power of two or longer. */
            memmove(&map->keys[i], &map->keys[i + 1],
                    (size_t)(map->n_items - i) * sizeof map->keys[0]);
            memmove(&map->items[i], &map->items[i + 1],
                    (size_t)(map->n_items - i) * sizeof map->items[0]);
            return;
        }
    }
}

rf_status rf_yaml_map_set(rf_yaml *map, const char *key, const rf_yaml *value)
{
    rf_status status = RF_OK;
    char assignment[RF_NAME_LEN + 4];
    rf_yaml *copy = NULL;

    RF_TRY(rf_yaml_copy(value, &copy));
    if (rf_yaml_find(map, key) == NULL) {
        RF_TRY(rf_format(assignment, sizeof assignment, "%s=0", key));
        RF_TRY(rf_yaml_override(map, assignment));
    }
    for (int64_t i = 0; i < map->n_items; i++) {
        if (strcmp(map->keys[i], key) == 0) {
            rf_yaml_free(map->items[i]);
            map->items[i] = copy;
            copy = NULL;
            break;
        }
    }
fail:
    rf_yaml_free(copy);
    return status;
}

rf_status rf_yaml_set_text(rf_yaml *scalar, const char *text)
{
    char *copy = rf_strdup(text);
    if (copy == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    rf_free(scalar->text);
    scalar->text = copy;
    return RF_OK;
}

/* ---- values: a list, a range, a progression ----------------------------------------------------
 */

/* "a..b", both whole numbers. */
static bool parse_range(const rf_yaml *node, int64_t *first, int64_t *last)
{
    char head[32];
    const char *dots = strstr(node->text, "..");
    return !node->quoted && dots != NULL &&
           rf_format(head, sizeof head, "%.*s", (int)(dots - node->text), node->text) == RF_OK &&
           rf_parse_i64(head, first) == RF_OK && rf_parse_i64(dots + 2, last) == RF_OK;
}

static rf_status append_scalar(rf_yaml_list *list, const rf_yaml *node, const char *path)
{
    rf_status status = RF_OK;
    int64_t first = 0, last = 0;
    char text[32];

    if (node->kind != RF_YAML_SCALAR || (node->text[0] == '\0' && !node->quoted)) {
        return rf_yaml_fail(node, "%s: expected a value or a range a..b", path);
    }
    if (!parse_range(node, &first, &last)) {
        return append_copy(list, node);
    }
    if (first > last || (uint64_t)last - (uint64_t)first >= MAX_VALUES) {
        return rf_yaml_fail(node, "%s: the range %s: expected a..b with a <= b, at most %d values",
                            path, node->text, MAX_VALUES);
    }
    for (int64_t v = first; v <= last; v++) {
        RF_TRY(rf_format(text, sizeof text, "%" PRId64, v));
        RF_TRY(append_text(list, node, text));
    }
fail:
    return status;
}

/* {log: [first, last, n]} or {linear: [first, last, n]}. The ends are as written, what lies between
 * has six digits, so that names made of it stay short. */
static rf_status append_progression(rf_yaml_list *list, const rf_yaml *node, const char *path)
{
    rf_status status = RF_OK;
    bool is_log = node->n_items == 1 && strcmp(node->keys[0], "log") == 0;
    bool is_linear = node->n_items == 1 && strcmp(node->keys[0], "linear") == 0;
    const rf_yaml *args = is_log || is_linear ? node->items[0] : NULL;
    double first = 0, last = 0;
    int64_t n = 0;
    char text[48];

    bool is_whole = args != NULL && args->kind == RF_YAML_LIST && args->n_items == 3 &&
                    args->items[0]->kind == RF_YAML_SCALAR &&
                    args->items[1]->kind == RF_YAML_SCALAR &&
                    args->items[2]->kind == RF_YAML_SCALAR &&
                    rf_parse_f64(args->items[0]->text, &first) == RF_OK &&
                    rf_parse_f64(args->items[1]->text, &last) == RF_OK &&
                    rf_parse_i64(args->items[2]->text, &n) == RF_OK;
    if (!is_whole || n < 2 || n > MAX_VALUES || (is_log && !(first > 0 && last > 0))) {
        return rf_yaml_fail(node,
                            "%s: expected a list of values, a range a..b, {log: [first, last, n]} "
                            "or {linear: [first, last, n]} with n of 2 to %d%s",
                            path, MAX_VALUES, is_log ? " and both ends above 0" : "");
    }
    RF_TRY(append_copy(list, args->items[0]));
    for (int64_t i = 1; i < n - 1; i++) {
        double t = (double)i / (double)(n - 1);
        double v =
            is_log ? exp(log(first) + t * (log(last) - log(first))) : first + t * (last - first);
        RF_TRY(rf_format(text, sizeof text, "%.6g", v));
        RF_TRY(append_text(list, node, text));
    }
    RF_TRY(append_copy(list, args->items[1]));
fail:
    return status;
}

static rf_status check_n_values(const rf_yaml *node, const char *path, int64_t n)
{
    if (n == 0 || n > MAX_VALUES) {
        return rf_yaml_fail(node, "%s: a list of %" PRId64 " values: expected 1 to %d", path, n,
                            MAX_VALUES);
    }
    return RF_OK;
}

rf_status rf_yaml_read_values(const rf_yaml *node, const char *path, rf_yaml_list *out)
{
    rf_status status = RF_OK;
    if (node->kind == RF_YAML_MAP) {
        return append_progression(out, node, path);
    }
    if (node->kind == RF_YAML_SCALAR) {
        return append_scalar(out, node, path);
    }
    for (int64_t i = 0; i < node->n_items; i++) {
        RF_TRY(append_scalar(out, node->items[i], path));
    }
    RF_TRY(check_n_values(node, path, out->n));
fail:
    return status;
}

rf_status rf_yaml_read_any_values(const rf_yaml *node, const char *path, rf_yaml_list *out)
{
    rf_status status = RF_OK;
    if (node->kind != RF_YAML_LIST) {
        return rf_yaml_read_values(node, path, out);
    }
    for (int64_t i = 0; i < node->n_items; i++) {
        const rf_yaml *item = node->items[i];
        if (item->kind == RF_YAML_SCALAR) {
            RF_TRY(append_scalar(out, item, path));
        } else {
            RF_TRY(append_copy(out, item));
        }
    }
    RF_TRY(check_n_values(node, path, out->n));
fail:
    return status;
}

/* ---- each --------------------------------------------------------------------------------------
 */

/* "{name}" alone is the value itself: a number where the value is one. */
static void unquote_whole(rf_yaml *node, const char *pattern)
{
    for (int64_t i = 0; i < node->n_items; i++) {
        unquote_whole(node->items[i], pattern);
    }
    if (node->kind == RF_YAML_SCALAR && strcmp(node->text, pattern) == 0) {
        node->quoted = false;
    }
}

static bool has_text(const rf_yaml *node, const char *pattern)
{
    bool has = node->kind == RF_YAML_SCALAR && strstr(node->text, pattern) != NULL;
    for (int64_t i = 0; i < node->n_items && !has; i++) {
        has = has_text(node->items[i], pattern);
    }
    return has;
}

/* Where a key of `each` stands: nowhere, in the coder's name alone, or in what it is. */
typedef enum use { USE_NONE, USE_NAME, USE_SETTING } use;

static use find_use(const rf_yaml *coder, const char *pattern)
{
    use found = USE_NONE;
    for (int64_t i = 0; i < coder->n_items; i++) {
        if (has_text(coder->items[i], pattern)) {
            const bool is_name = strcmp(coder->keys[i], "name") == 0;
            found = is_name && found == USE_NONE ? USE_NAME : is_name ? found : USE_SETTING;
        }
    }
    return found;
}

/* Refuses a {name} that no key of `each` fills. */
static rf_status check_filled(const rf_yaml *node, const char *path)
{
    rf_status status = RF_OK;
    if (node->kind == RF_YAML_SCALAR) {
        const char *open = strchr(node->text, '{');
        if (open != NULL && strchr(open, '}') != NULL) {
            return rf_yaml_fail(node, "%s: nothing fills '%.100s': expected its name under `each`",
                                path, open);
        }
    }
    for (int64_t i = 0; i < node->n_items; i++) {
        RF_TRY(check_filled(node->items[i], path));
    }
fail:
    return status;
}

/* *most: the best use of a key so far. */
static rf_status fill(rf_yaml *coder, const char *name, const rf_yaml *value, use *most)
{
    rf_status status = RF_OK;
    char pattern[RF_NAME_LEN];
    RF_TRY(rf_format(pattern, sizeof pattern, "{%s}", name));
    const use found = find_use(coder, pattern);
    *most = found > *most ? found : *most;
    if (found == USE_NONE) {
        return rf_yaml_fail(value,
                            "each.%.40s: its values go nowhere, as no setting of the coder has "
                            "'%.40s': write it where they belong (%.40s: \"%.40s\"), or leave the "
                            "key out",
                            name, pattern, name, pattern);
    }
    unquote_whole(coder, pattern);
    RF_TRY(rf_yaml_substitute(coder, name, value->text));
fail:
    return status;
}

/* The values of every key of `each`, all of one length. */
static rf_status read_each(const rf_yaml *each, const char *path, rf_yaml_list *values,
                           int64_t *n_coders)
{
    rf_status status = RF_OK;
    char where[128];
    if (each->kind != RF_YAML_MAP || each->n_items == 0 || each->n_items > MAX_AXES) {
        return rf_yaml_fail(each, "%s.each: expected a map of lists: {layer: 0..11}", path);
    }
    for (int64_t i = 0; i < each->n_items; i++) {
        RF_TRY(rf_format(where, sizeof where, "%s.each.%.40s", path, each->keys[i]));
        RF_TRY(rf_yaml_read_values(each->items[i], where, &values[i]));
        if (values[i].n != values[0].n) {
            status = rf_yaml_fail(each->items[i],
                                  "%s has %" PRId64 " values and %s.each.%.40s has %" PRId64
                                  ": they are walked together",
                                  where, values[i].n, path, each->keys[0], values[0].n);
            goto fail;
        }
    }
    *n_coders = values[0].n;
fail:
    return status;
}

rf_status rf_each_expand(const rf_yaml *coder, const char *path, rf_yaml_list *out)
{
    rf_status status = RF_OK;
    rf_yaml_list values[MAX_AXES] = {{0}};
    const rf_yaml *each = rf_yaml_find(coder, "each");
    int64_t n = 1, n_keys = 0;

    if (coder->kind != RF_YAML_MAP) {
        return rf_yaml_fail(coder, "%s: expected a map of settings (key: value)", path);
    }
    if (each != NULL) {
        RF_TRY(read_each(each, path, values, &n));
        n_keys = each->n_items;
    }
    for (int64_t i = 0; i < n; i++) {
        RF_TRY(append_copy(out, coder));
        rf_yaml *copy = out->nodes[out->n - 1];
        remove_key(copy, "each");
        use most = USE_NONE;
        for (int64_t a = 0; a < n_keys; a++) {
            RF_TRY(fill(copy, each->keys[a], values[a].nodes[i], &most));
        }
        RF_TRY(check_filled(copy, path));
        if (n > 1 && most == USE_NAME) {
            status = rf_yaml_fail(each,
                                  "%s.each: '{%.40s}' stands in the coder's name alone: %" PRId64
                                  " coders would be the same one; write it into a setting too",
                                  path, each->keys[0], n);
            goto fail;
        }
    }
fail:
    for (int64_t i = 0; i < MAX_AXES; i++) {
        rf_yaml_list_fini(&values[i]);
    }
    return status;
}

/* ---- sweep -------------------------------------------------------------------------------------
 */

typedef struct axis {
    const char *key; /* without "coder." or "train." */
    rf_yaml_list values;
} axis;

typedef struct grid {
    axis axes[MAX_AXES];
    int64_t n_axes, n_points;
} grid;

static void grid_fini(grid *g)
{
    for (int64_t i = 0; i < g->n_axes; i++) {
        rf_yaml_list_fini(&g->axes[i].values);
    }
}

/* What axes are checked against. */
typedef struct axis_keys {
    const char **coder, **train; /* train: those that a coder may have for itself */
} axis_keys;

/* `name` is "coder.KEY" or "train.KEY"; `item` its values. */
static rf_status check_axis_key(const rf_yaml *item, const char *name, const axis_keys *keys)
{
    bool is_coder = strncmp(name, "coder.", 6) == 0, is_train = strncmp(name, "train.", 6) == 0;
    if (!is_coder && !is_train) {
        return rf_yaml_fail(item, "sweep: '%.100s' is no axis: expected coder.KEY or train.KEY",
                            name);
    }
    const char *key = name + 6;
    if (strcmp(key, "name") == 0) {
        return rf_yaml_fail(item, "sweep: a name is no axis: names get a suffix for each axis");
    }
    if (is_coder && rf_setting_keys_have(keys->coder, key)) {
        return RF_OK;
    }
    if (rf_train_setting_is_of_run(key)) {
        return rf_yaml_fail(item, "sweep: '%s' belongs to the whole run: it is no axis", name);
    }
    if (!rf_setting_keys_have(keys->train, key)) {
        return rf_setting_keys_raise(item, is_coder ? "sweep: coder." : "sweep: train.", key,
                                     is_coder ? keys->coder : keys->train);
    }
    return RF_OK;
}

/* One axis: `prefix` ("" or "coder." or "train.") and `name` are its key. */
static rf_status read_axis(const rf_yaml *item, const char *prefix, const char *name,
                           const axis_keys *keys, grid *g)
{
    rf_status status = RF_OK;
    char whole[RF_NAME_LEN], where[RF_NAME_LEN + 16];

    if (g->n_axes == MAX_AXES) {
        return rf_yaml_fail(item, "sweep: more than %d axes", MAX_AXES);
    }
    if (rf_format(whole, sizeof whole, "%s%s", prefix, name) != RF_OK) {
        return rf_yaml_fail(item, "sweep: '%.60s...' is no axis", name);
    }
    RF_TRY(check_axis_key(item, whole, keys));
    for (int64_t i = 0; i < g->n_axes; i++) {
        if (strcmp(g->axes[i].key, whole + 6) == 0) {
            return rf_yaml_fail(item, "sweep: %s is there twice", whole);
        }
    }
    axis *a = &g->axes[g->n_axes++];
    a->key = prefix[0] != '\0' ? name : name + 6;
    RF_TRY(rf_format(where, sizeof where, "sweep: %.60s", whole));
    RF_TRY(rf_yaml_read_any_values(item, where, &a->values));
    g->n_points *= a->values.n;
    if (g->n_points > RF_MAX_CODERS) {
        status = rf_yaml_fail(item, "sweep: more than %d coders", RF_MAX_CODERS);
    }
fail:
    return status;
}

/* {coder.k: ..., train.lr: ...}, or {coder: {k: ...}}, as `sweep.coder.k=[..]` on the command line
 * makes it. */
static rf_status read_grid(const rf_yaml *map, const axis_keys *keys, grid *g)
{
    rf_status status = RF_OK;
    if (map->kind != RF_YAML_MAP || map->n_items == 0) {
        return rf_yaml_fail(map, "sweep: expected a map of axes: {coder.k: [32, 64]}");
    }
    g->n_points = 1;
    for (int64_t i = 0; i < map->n_items; i++) {
        const rf_yaml *item = map->items[i];
        const bool is_coder = strcmp(map->keys[i], "coder") == 0;
        if (item->kind != RF_YAML_MAP || (!is_coder && strcmp(map->keys[i], "train") != 0)) {
            RF_TRY(read_axis(item, "", map->keys[i], keys, g));
            continue;
        }
        for (int64_t j = 0; j < item->n_items; j++) {
            RF_TRY(
                read_axis(item->items[j], is_coder ? "coder." : "train.", item->keys[j], keys, g));
        }
    }
    if (g->n_axes == 0) {
        status = rf_yaml_fail(map, "sweep: expected a map of axes: {coder.k: [32, 64]}");
    }
fail:
    return status;
}

/* A number in its shortest form, a map as its keys and values, all else as it is written. */
static rf_status append_value(rf_str *out, const rf_yaml *value)
{
    rf_status status = RF_OK;
    char text[64];
    double number = 0;

    if (value->kind != RF_YAML_SCALAR) {
        for (int64_t i = 0; i < value->n_items; i++) {
            const char *key = value->kind == RF_YAML_MAP ? value->keys[i] : "";
            RF_TRY(rf_str_append(out, "%s%.40s", i > 0 ? "_" : "", key));
            RF_TRY(append_value(out, value->items[i]));
        }
        return RF_OK;
    }
    snprintf(text, sizeof text, "%.40s", value->text);
    if (!value->quoted && rf_parse_f64(value->text, &number) == RF_OK) {
        for (int digits = 1; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, number);
            if (strtod(text, NULL) == number) {
                break;
            }
        }
        if (number == rint(number) && fabs(number) < 1e15) { /* 64, not 6e+01 */
            snprintf(text, sizeof text, "%.0f", number);
        }
    }
    RF_TRY(rf_str_append(out, "%s", text));
fail:
    return status;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* "-k64", "-l1_0.01", "-architecture_relu": a '_' where key and value would run together; only what
 * a folder's name may hold. */
static rf_status append_suffix(rf_str *name, const char *key, const rf_yaml *value)
{
    rf_status status = RF_OK;
    rf_str text = {0};

    RF_TRY(rf_str_append(&text, "%s", ""));
    RF_TRY(append_value(&text, value));
    for (int64_t i = 0; i < text.len; i++) {
        text.data[i] = rf_name_has_char(text.data[i]) ? text.data[i] : '_';
    }
    const bool runs_together = is_digit(key[strlen(key) - 1]) || !is_digit(text.data[0]);
    RF_TRY(rf_str_append(name, "-%s%s%s", key, runs_together ? "_" : "", text.data));
fail:
    rf_str_fini(&text);
    return status;
}

static rf_status add_point(const rf_yaml *coder, const grid *g, int64_t point, rf_yaml_list *out)
{
    rf_status status = RF_OK;
    rf_str name = {0};
    const rf_yaml *value[MAX_AXES] = {NULL};

    for (int64_t i = g->n_axes; i-- > 0;) { /* the last axis is the fastest */
        value[i] = g->axes[i].values.nodes[point % g->axes[i].values.n];
        point /= g->axes[i].values.n;
    }
    RF_TRY(append_copy(out, coder));
    rf_yaml *copy = out->nodes[out->n - 1];
    rf_yaml *name_node = rf_yaml_find(copy, "name");
    RF_BUG(name_node != NULL, "a coder has no name before the sweep");
    RF_TRY(rf_str_append(&name, "%s", name_node->text));
    for (int64_t i = 0; i < g->n_axes; i++) {
        RF_TRY(rf_yaml_map_set(copy, g->axes[i].key, value[i]));
        RF_TRY(append_suffix(&name, g->axes[i].key, value[i]));
    }
    RF_TRY(rf_yaml_set_text(name_node, name.data));
    name_node->quoted = true;
fail:
    rf_str_fini(&name);
    return status;
}

static rf_status expand_grid(const rf_yaml *map, const rf_yaml *coder, rf_yaml_list *out)
{
    rf_status status = RF_OK;
    axis_keys keys = {0};
    grid g = {0};

    RF_TRY(rf_setting_keys_of(&rf_coder_settings_table, NULL, &keys.coder));
    RF_TRY(rf_train_keys_of_coder(&keys.train));
    RF_TRY(read_grid(map, &keys, &g));
    for (int64_t p = 0; p < g.n_points; p++) {
        RF_TRY(add_point(coder, &g, p, out));
    }
fail:
    grid_fini(&g);
    rf_free(keys.train);
    rf_free(keys.coder);
    return status;
}

rf_status rf_sweep_expand(const rf_yaml *sweep, const rf_yaml *coder, rf_yaml_list *out)
{
    rf_status status = RF_OK;
    if (sweep == NULL) {
        return append_copy(out, coder);
    }
    if (sweep->kind != RF_YAML_LIST) {
        return expand_grid(sweep, coder, out);
    }
    if (sweep->n_items == 0) {
        return rf_yaml_fail(sweep, "sweep: an empty list: expected maps of axes");
    }
    for (int64_t i = 0; i < sweep->n_items; i++) { /* several grids */
        RF_TRY(expand_grid(sweep->items[i], coder, out));
    }
fail:
    return status;
}
