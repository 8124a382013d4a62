/* Trees of settings: find, copy, override from the command line, substitute, complain. */
#include "io_impl.h"

#include <stdio.h>
#include <string.h>

static const char command_line[] = "command line";

rf_yaml *rf_yaml_find(const rf_yaml *map, const char *key)
{
    if (map != NULL && map->kind == RF_YAML_MAP) {
        for (int64_t i = 0; i < map->n_items; i++) {
            if (strcmp(map->keys[i], key) == 0) {
                return map->items[i];
            }
        }
    }
    return NULL;
}

rf_status rf_yaml_fail(const rf_yaml *node, const char *fmt, ...)
{
    char text[RF_ERROR_TEXT_LEN];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (node == NULL) {
        return rf_error_raise(RF_ERR_SETTING, __FILE__, __LINE__, "%s", text);
    }
    if (strcmp(node->file, command_line) == 0) { /* lines of an override tell nothing */
        return rf_error_raise(RF_ERR_SETTING, __FILE__, __LINE__, "%s: %s", node->file, text);
    }
    return rf_error_raise(RF_ERR_SETTING, __FILE__, __LINE__, "%s:%d:%d: %s", node->file,
                          node->line, node->column, text);
}

static rf_status copy_below(const rf_yaml *node, rf_yaml *copy);

/* `file` NULL: the copy is a root of its own. */
static rf_status copy_node(const rf_yaml *node, const char *file, rf_yaml **out)
{
    rf_yaml *copy = file == NULL ? rf_yaml_new_root(node->kind, node->file)
                                 : rf_yaml_new(node->kind, file, node->line, node->column);
    rf_status status = copy == NULL ? RF_ERR_NO_MEMORY : copy_below(node, copy);
    if (status != RF_OK) {
        rf_yaml_free(copy);
        copy = NULL;
    }
    *out = copy;
    return status;
}

static rf_status copy_below(const rf_yaml *node, rf_yaml *copy)
{
    rf_status status = RF_OK;
    copy->quoted = node->quoted;
    copy->line = node->line;
    copy->column = node->column;
    copy->key_line = node->key_line;
    copy->key_column = node->key_column;
    if (node->text != NULL) {
        copy->text = rf_strdup(node->text);
        if (copy->text == NULL) {
            return RF_ERR_NO_MEMORY;
        }
    }
    for (int64_t i = 0; i < node->n_items && status == RF_OK; i++) {
        rf_yaml *item = NULL;
        /* A part that was put in from elsewhere keeps its own file. */
        bool same_file = node->items[i]->file == node->file;
        status = copy_node(node->items[i], same_file ? copy->file : NULL, &item);
        if (status == RF_OK) {
            status = rf_yaml_append(copy, node->keys != NULL ? node->keys[i] : NULL, item);
        }
    }
    return status;
}

rf_status rf_yaml_copy(const rf_yaml *node, rf_yaml **out)
{
    return copy_node(node, NULL, out);
}

/* Put `item` (taken) at index `idx` of `parent`; behind its last: append, under `key`. */
static rf_status put(rf_yaml *parent, int64_t idx, const char *key, rf_yaml *item)
{
    if (idx == parent->n_items) {
        return rf_yaml_append(parent, parent->kind == RF_YAML_MAP ? key : NULL, item);
    }
    rf_yaml_free(parent->items[idx]);
    parent->items[idx] = item;
    return RF_OK;
}

/* Where in `parent` the head of `path` is (n_items: to be added) and how long that head is. A key
 * of a map may contain dots itself ("train.lr" under sweep), so the longest one that is there wins.
 */
static rf_status find_head(const rf_yaml *parent, const char *path, int64_t *idx, size_t *head_len)
{
    rf_status status = RF_OK;
    size_t first = strcspn(path, ".");
    *idx = parent->n_items;
    *head_len = first;
    if (first == 0) {
        RF_FAIL(RF_ERR_SETTING, "expected key.path=value, got an empty key");
    }
    if (parent->kind == RF_YAML_LIST) {
        char digits[16]; /* more than any list has */
        int64_t n = -1;
        if (strspn(path, "0123456789") == first && first < sizeof digits) {
            RF_TRY(rf_format(digits, sizeof digits, "%.*s", (int)first, path));
            RF_TRY(rf_parse_i64(digits, &n));
        }
        if (n < 0 || n > parent->n_items) {
            RF_FAIL(RF_ERR_SETTING, "'%.*s' is no index of a list of %" PRId64, (int)first, path,
                    parent->n_items);
        }
        *idx = n;
        return RF_OK;
    }
    size_t best = 0;
    for (int64_t i = 0; i < parent->n_items; i++) {
        size_t len = strlen(parent->keys[i]);
        bool is_head =
            strncmp(path, parent->keys[i], len) == 0 && (path[len] == '.' || path[len] == '\0');
        if (is_head && len > best) {
            best = len;
            *idx = i;
            *head_len = len;
        }
    }
fail:
    return status;
}

/* An empty value ("train:") may become a map. */
static bool is_empty(const rf_yaml *node)
{
    return node->kind == RF_YAML_SCALAR && node->text[0] == '\0' && !node->quoted;
}

/* Takes `value`. */
static rf_status assign(rf_yaml *root, const char *path, rf_yaml *value)
{
    rf_status status = RF_OK;
    char key[RF_NAME_LEN];
    rf_yaml *parent = root;

    for (;;) {
        int64_t idx = 0;
        size_t head_len = 0;
        if (parent->kind == RF_YAML_SCALAR) {
            RF_FAIL(RF_ERR_SETTING, "there is nothing below '%s': it is a value", key);
        }
        RF_TRY(find_head(parent, path, &idx, &head_len));
        RF_TRY(rf_format(key, sizeof key, "%.*s", (int)head_len, path));
        path += head_len;
        if (*path == '\0') {
            rf_yaml *taken = value;
            value = NULL;
            RF_TRY(put(parent, idx, key, taken));
            return RF_OK;
        }
        path++;
        if (idx == parent->n_items || is_empty(parent->items[idx])) {
            rf_yaml *map = rf_yaml_new(RF_YAML_MAP, command_line, 1, 1);
            if (map == NULL) {
                status = RF_ERR_NO_MEMORY;
                goto fail;
            }
            RF_TRY(put(parent, idx, key, map));
        }
        parent = parent->items[idx];
    }
fail:
    rf_yaml_free(value);
    return status;
}

/* Nodes of an override name the constant text as their file: they may go to any tree. */
static void mark_command_line(rf_yaml *node)
{
    node->file = command_line;
    for (int64_t i = 0; i < node->n_items; i++) {
        mark_command_line(node->items[i]);
    }
}

static bool is_too_deep(const char *path)
{
    int depth = 1;
    for (const char *p = path; *p != '\0'; p++) {
        depth += *p == '.';
    }
    return depth > 32;
}

rf_status rf_yaml_override(rf_yaml *root, const char *assignment)
{
    rf_status status = RF_OK;
    const char *equals = strchr(assignment, '=');
    rf_yaml *value = NULL;
    char path[RF_PATH_LEN];

    if (equals == NULL || equals == assignment) {
        RF_FAIL(RF_ERR_SETTING, "expected key.path=value");
    }
    RF_TRY(rf_format(path, sizeof path, "%.*s", (int)(equals - assignment), assignment));
    if (is_too_deep(path)) {
        RF_FAIL(RF_ERR_SETTING, "more than 32 keys in one path");
    }
    RF_TRY(rf_yaml_parse(equals + 1, (int64_t)strlen(equals + 1), command_line, &value));
    /* Nothing is an empty value here, no map. */
    if (value->kind == RF_YAML_MAP && value->n_items == 0 && strchr(equals, '{') == NULL) {
        value->kind = RF_YAML_SCALAR;
        value->text = rf_strdup("");
        if (value->text == NULL) {
            status = RF_ERR_NO_MEMORY;
            goto fail;
        }
    }
    mark_command_line(value);
    status = assign(root, path, value);
    value = NULL;
fail:
    rf_yaml_free(value);
    if (status != RF_OK) {
        rf_error_context("setting '%.200s'", assignment);
    }
    return status;
}

static rf_status substitute_text(rf_yaml *node, const char *pattern, const char *value)
{
    rf_status status = RF_OK;
    rf_str text = {0};
    size_t n = strlen(pattern);
    const char *p = node->text, *hit = NULL;

    if (strstr(p, pattern) == NULL) {
        return RF_OK;
    }
    while ((hit = strstr(p, pattern)) != NULL) {
        RF_TRY(rf_str_append(&text, "%.*s%s", (int)(hit - p), p, value));
        p = hit + n;
    }
    RF_TRY(rf_str_append(&text, "%s", p));
    rf_free(node->text);
    node->text = text.data;
    return RF_OK;
fail:
    rf_str_fini(&text);
    return status;
}

static rf_status substitute_below(rf_yaml *node, const char *pattern, const char *value)
{
    rf_status status = RF_OK;
    if (node->kind == RF_YAML_SCALAR) {
        return substitute_text(node, pattern, value);
    }
    for (int64_t i = 0; i < node->n_items; i++) {
        RF_TRY(substitute_below(node->items[i], pattern, value));
    }
fail:
    return status;
}

rf_status rf_yaml_substitute(rf_yaml *node, const char *name, const char *value)
{
    rf_status status = RF_OK;
    char pattern[RF_NAME_LEN + 2];
    RF_TRY(rf_format(pattern, sizeof pattern, "{%s}", name));
    RF_TRY(substitute_below(node, pattern, value));
fail:
    return status;
}
