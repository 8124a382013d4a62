/* YAML text to a tree, through the events of libyaml: settings need maps, lists and scalars, and
 * nothing of what makes YAML surprising. */
#include "io_impl.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

enum {
    MAX_DEPTH = 32,
    MAX_BYTES = 16 << 20, /* resolved settings of thousands of coders */
    MAX_KEYS = 1024,      /* a map is searched one by one */
};

typedef struct reader {
    yaml_parser_t yaml;
    yaml_event_t event; /* the one being looked at */
    const char *name;   /* of the file, as messages say it */
    const char *file;   /* the same text, in the root's block */
} reader;

rf_yaml *rf_yaml_new_root(rf_yaml_kind kind, const char *file)
{
    size_t n = strlen(file) + 1;
    rf_yaml *root = rf_calloc((int64_t)(sizeof *root + n), 1);
    if (root != NULL) {
        char *copy = (char *)(root + 1);
        memcpy(copy, file, n);
        root->kind = kind;
        root->file = copy;
    }
    return root;
}

rf_yaml *rf_yaml_new(rf_yaml_kind kind, const char *file, int line, int column)
{
    rf_yaml *node = rf_calloc(1, sizeof *node);
    if (node != NULL) {
        node->kind = kind;
        node->file = file;
        node->line = line;
        node->column = column;
    }
    return node;
}

void rf_yaml_free(rf_yaml *root)
{
    if (root != NULL) {
        for (int64_t i = 0; i < root->n_items; i++) {
            if (root->keys != NULL) {
                rf_free(root->keys[i]);
            }
            rf_yaml_free(root->items[i]);
        }
        rf_free(root->keys);
        rf_free(root->items);
        rf_free(root->text);
        rf_free(root);
    }
}

/* Room for one more: arrays double at powers of two. */
static rf_status grow(rf_yaml *parent)
{
    int64_t n = parent->n_items;
    if (n != 0 && (n & (n - 1)) != 0) {
        return RF_OK;
    }
    int64_t cap = n == 0 ? 1 : 2 * n;
    struct rf_yaml **items = rf_realloc(parent->items, n, cap, sizeof *items);
    if (items == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    parent->items = items;
    if (parent->kind == RF_YAML_MAP) {
        char **keys = rf_realloc(parent->keys, n, cap, sizeof *keys);
        if (keys == NULL) {
            return RF_ERR_NO_MEMORY;
        }
        parent->keys = keys;
    }
    return RF_OK;
}

rf_status rf_yaml_append(rf_yaml *parent, const char *key, rf_yaml *item)
{
    rf_status status = RF_OK;
    char *copy = NULL;

    RF_BUG((key != NULL) == (parent->kind == RF_YAML_MAP),
           "a key belongs to a map, and only there");
    if (key != NULL) {
        copy = rf_strdup(key);
        if (copy == NULL) {
            status = RF_ERR_NO_MEMORY;
            goto fail;
        }
    }
    RF_TRY(grow(parent));
    if (key != NULL) {
        parent->keys[parent->n_items] = copy;
    }
    parent->items[parent->n_items++] = item;
    return RF_OK;
fail:
    rf_free(copy);
    rf_yaml_free(item);
    return status;
}

static void explain_at(const reader *r, yaml_mark_t at, const char *what)
{
    rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__, "%s:%zu:%zu: %s", r->name, at.line + 1,
                   at.column + 1, what);
}

/* The status, after its text was recorded. */
#define FAIL_AT(r, at, what) (explain_at((r), (at), (what)), RF_ERR_FORMAT)

static rf_status next_event(reader *r)
{
    yaml_event_delete(&r->event);
    if (yaml_parser_parse(&r->yaml, &r->event)) {
        return RF_OK;
    }
    const yaml_parser_t *y = &r->yaml;
    if (y->error == YAML_MEMORY_ERROR) {
        return rf_error_raise(RF_ERR_NO_MEMORY, __FILE__, __LINE__, "%s: no memory to parse it",
                              r->name);
    }
    const char *problem = y->problem != NULL ? y->problem : "not valid YAML";
    if (y->error == YAML_READER_ERROR) { /* the bytes are no text: there is no line yet */
        return rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__, "%s:%zu:%zu: %s (byte %zu)",
                              r->name, y->mark.line + 1, y->mark.column + 1, problem,
                              y->problem_offset);
    }
    char text[256];
    snprintf(text, sizeof text, "%s%s%s", problem, y->context != NULL ? ", " : "",
             y->context != NULL ? y->context : "");
    return FAIL_AT(r, y->problem_mark, text);
}

static rf_status check_plain(const reader *r, const yaml_char_t *anchor, const yaml_char_t *tag)
{
    if (anchor != NULL) {
        return FAIL_AT(r, r->event.start_mark, "anchors (&name) are not supported");
    }
    if (tag != NULL) {
        return FAIL_AT(r, r->event.start_mark, "tags (!name) are not supported");
    }
    return RF_OK;
}

/* The current event as a node without children. */
static rf_status make_node(const reader *r, rf_yaml **out)
{
    rf_status status = RF_OK;
    rf_yaml *node = NULL;
    const yaml_event_t *e = &r->event;
    rf_yaml_kind kind = RF_YAML_SCALAR;

    switch (e->type) {
    case YAML_SCALAR_EVENT:
        RF_TRY(check_plain(r, e->data.scalar.anchor, e->data.scalar.tag));
        break;
    case YAML_SEQUENCE_START_EVENT:
        kind = RF_YAML_LIST;
        RF_TRY(check_plain(r, e->data.sequence_start.anchor, e->data.sequence_start.tag));
        break;
    case YAML_MAPPING_START_EVENT:
        kind = RF_YAML_MAP;
        RF_TRY(check_plain(r, e->data.mapping_start.anchor, e->data.mapping_start.tag));
        break;
    case YAML_ALIAS_EVENT:
        return FAIL_AT(r, e->start_mark, "aliases (*name) are not supported");
    default:
        return FAIL_AT(r, e->start_mark, "expected a value");
    }
    int line = (int)e->start_mark.line + 1, column = (int)e->start_mark.column + 1;
    /* The first node is the root: it holds the name that all others borrow. */
    node = r->file == NULL ? rf_yaml_new_root(kind, r->name)
                           : rf_yaml_new(kind, r->file, line, column);
    if (node == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    node->line = line;
    node->column = column;
    if (kind == RF_YAML_SCALAR) {
        const char *text = (const char *)e->data.scalar.value;
        if (strlen(text) != e->data.scalar.length) {
            status = FAIL_AT(r, e->start_mark, "a text must not contain a zero byte");
            goto fail;
        }
        node->quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
        node->text = rf_strdup(text);
        if (node->text == NULL) {
            status = RF_ERR_NO_MEMORY;
            goto fail;
        }
    }
    *out = node;
    return RF_OK;
fail:
    rf_yaml_free(node);
    return status;
}

/* The key that the current event is; moves on to its value. */
static rf_status read_key(reader *r, const rf_yaml *map, rf_yaml **key)
{
    rf_status status = RF_OK;
    rf_yaml *node = NULL;
    char text[RF_NAME_LEN + 64];

    RF_TRY(make_node(r, &node));
    if (node->kind != RF_YAML_SCALAR) {
        status = FAIL_AT(r, r->event.start_mark, "a key must be a single word");
        goto fail;
    }
    if (map->n_items >= MAX_KEYS) {
        status = FAIL_AT(r, r->event.start_mark, "more than 1024 keys in one map");
        goto fail;
    }
    if (rf_yaml_find(map, node->text) != NULL) {
        snprintf(text, sizeof text, "key '%.100s' is given twice", node->text);
        status = FAIL_AT(r, r->event.start_mark, text);
        goto fail;
    }
    RF_TRY(next_event(r));
    *key = node;
    return RF_OK;
fail:
    rf_yaml_free(node);
    return status;
}

static rf_status read_node(reader *r, int depth, rf_yaml **out);

/* The items of `parent`, whose start is the current event; stops at its end event. */
static rf_status read_items(reader *r, int depth, rf_yaml *parent)
{
    rf_status status = RF_OK;
    bool is_map = parent->kind == RF_YAML_MAP;
    yaml_event_type_t end = is_map ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
    rf_yaml *key = NULL, *item = NULL;

    for (;;) {
        RF_TRY(next_event(r));
        if (r->event.type == end) {
            break;
        }
        if (is_map) {
            RF_TRY(read_key(r, parent, &key));
        }
        RF_TRY(read_node(r, depth + 1, &item));
        if (is_map) {
            item->key_line = key->line;
            item->key_column = key->column;
        }
        RF_TRY(rf_yaml_append(parent, is_map ? key->text : NULL, item));
        rf_yaml_free(key);
        key = NULL;
    }
fail:
    rf_yaml_free(key);
    return status;
}

/* The node that starts with the current event. */
static rf_status read_node(reader *r, int depth, rf_yaml **out)
{
    rf_status status = RF_OK;
    rf_yaml *node = NULL;

    *out = NULL;
    if (depth > MAX_DEPTH) {
        status = FAIL_AT(r, r->event.start_mark, "nested more than 32 deep");
        goto fail;
    }
    RF_TRY(make_node(r, &node));
    if (r->file == NULL) {
        r->file = node->file;
    }
    if (node->kind != RF_YAML_SCALAR) {
        RF_TRY(read_items(r, depth, node));
    }
    *out = node;
    return RF_OK;
fail:
    rf_yaml_free(node);
    return status;
}

static rf_status read_document(reader *r, rf_yaml **root)
{
    rf_status status = RF_OK;

    RF_TRY(next_event(r)); /* start of the stream */
    RF_TRY(next_event(r));
    if (r->event.type == YAML_STREAM_END_EVENT) {
        *root = rf_yaml_new_root(RF_YAML_MAP, r->name);
        if (*root == NULL) {
            return RF_ERR_NO_MEMORY;
        }
        (*root)->line = (*root)->column = 1;
        return RF_OK;
    }
    if (r->event.data.document_start.tag_directives.start !=
        r->event.data.document_start.tag_directives.end) {
        return FAIL_AT(r, r->event.start_mark, "tags (%TAG) are not supported");
    }
    RF_TRY(next_event(r));
    RF_TRY(read_node(r, 1, root));
    RF_TRY(next_event(r)); /* end of the document */
    RF_TRY(next_event(r));
    if (r->event.type != YAML_STREAM_END_EVENT) {
        return FAIL_AT(r, r->event.start_mark, "a second document (---) is not supported");
    }
fail:
    return status;
}

rf_status rf_yaml_parse(const char *text, int64_t n_bytes, const char *name, rf_yaml **out)
{
    rf_status status = RF_OK;
    reader r = {.name = name};
    rf_yaml *root = NULL;

    *out = NULL;
    RF_REQUIRE(n_bytes >= 0, "n_bytes = %" PRId64 ", expected >= 0", n_bytes);
    if (n_bytes > MAX_BYTES) {
        RF_FAIL(RF_ERR_FORMAT, "%s: %" PRId64 " bytes of settings, expected at most 16 MiB", name,
                n_bytes);
    }
    if (!yaml_parser_initialize(&r.yaml)) {
        RF_FAIL(RF_ERR_NO_MEMORY, "%s: no memory to parse it", name);
    }
    yaml_parser_set_input_string(&r.yaml, (const unsigned char *)text, (size_t)n_bytes);
    status = read_document(&r, &root);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.yaml);
    if (status == RF_OK) {
        *out = root;
        root = NULL;
    }
fail:
    rf_yaml_free(root);
    return status;
}

rf_status rf_yaml_load(const char *path, rf_yaml **out)
{
    rf_status status = RF_OK;
    char *text = NULL;
    int64_t n_bytes = 0;

    *out = NULL;
    RF_TRY(rf_file_read(path, MAX_BYTES, &text, &n_bytes));
    RF_TRY(rf_yaml_parse(text, n_bytes, path, out));
fail:
    rf_free(text);
    return status;
}
