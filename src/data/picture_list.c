/* The pictures of a folder, in an order and a split that depend on their names alone. */
#include "refract/data.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 32 };

typedef struct entry {
    char *name;     /* relative to the folder */
    int64_t label;  /* -1: none */
    uint64_t order; /* small ones are kept by max_pictures */
    bool is_held_out;
} entry;

struct rf_picture_list {
    char folder[RF_PATH_LEN];
    entry *entries; /* [n], sorted by name */
    int64_t n, cap;
    char **classes; /* [n_classes], sorted */
    int64_t n_classes;
    int64_t *members[2]; /* of RF_SPLIT_TRAIN and RF_SPLIT_HELD_OUT: indices in entries */
    int64_t n_members[2];
};

static rf_status add_entry(rf_picture_list *list, const char *name)
{
    rf_status status = RF_OK;
    if (list->n == list->cap) {
        int64_t cap = 2 * list->cap + 64;
        entry *grown = rf_realloc(list->entries, list->cap, cap, sizeof *grown);
        if (grown == NULL) {
            return RF_ERR_NO_MEMORY;
        }
        list->entries = grown;
        list->cap = cap;
    }
    char *copy = rf_strdup(name);
    if (copy == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    list->entries[list->n++] = (entry){.name = copy, .label = -1};
    return status;
}

/* `prefix` is "" or ends in '/'. Only what is not named like a picture is asked whether it is a
 * folder: a call for each of a million files is slow on a network file system. */
static rf_status walk(rf_picture_list *list, const char *prefix, int depth)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN], name[RF_PATH_LEN];
    char **names = NULL;
    int64_t n_names = 0;
    if (depth > MAX_DEPTH) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "%s/%s: folders are nested deeper than %d", list->folder,
                prefix, (int)MAX_DEPTH);
    }
    RF_TRY(rf_format(path, sizeof path, "%s/%s", list->folder, prefix));
    RF_TRY(rf_file_list(path, &names, &n_names));
    for (int64_t i = 0; i < n_names; i++) {
        if (names[i][0] == '.') {
            continue;
        }
        RF_TRY(rf_format(name, sizeof name, "%s%s", prefix, names[i]));
        if (rf_picture_is_name(names[i])) {
            RF_TRY(add_entry(list, name));
            continue;
        }
        RF_TRY(rf_format(path, sizeof path, "%s/%s", list->folder, name));
        if (rf_file_is_dir(path)) {
            RF_TRY(rf_format(name, sizeof name, "%s%s/", prefix, names[i]));
            RF_TRY(walk(list, name, depth + 1));
        }
    }
fail:
    rf_file_list_free(names, n_names);
    return status;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

static int compare_orders(const void *a, const void *b)
{
    uint64_t x = ((const entry *)a)->order, y = ((const entry *)b)->order;
    return x != y ? (x < y ? -1 : 1) : compare_names(a, b);
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names are sorted, so that a class's pictures follow each other; classes themselves are not in
 * strcmp's order yet ("a-b/x" comes before "a/x"). */
static rf_status find_classes(rf_picture_list *list)
{
    rf_status status = RF_OK;
    const char *last = NULL;
    size_t last_len = 0;
    RF_ALLOC(list->classes, list->n); /* as many as pictures at most */
    for (int64_t i = 0; i < list->n; i++) {
        const char *name = list->entries[i].name, *slash = strchr(name, '/');
        size_t len = slash != NULL ? (size_t)(slash - name) : 0;
        if (slash == NULL || (last != NULL && len == last_len && memcmp(name, last, len) == 0)) {
            continue;
        }
        char *copy = NULL;
        RF_ALLOC(copy, (int64_t)len + 1);
        memcpy(copy, name, len);
        list->classes[list->n_classes++] = copy;
        last = name;
        last_len = len;
    }
    if (list->n_classes > 0) {
        qsort(list->classes, (size_t)list->n_classes, sizeof list->classes[0], compare_texts);
    }
fail:
    return status;
}

static rf_status set_labels(rf_picture_list *list)
{
    rf_status status = RF_OK;
    char name[RF_PATH_LEN];
    for (int64_t i = 0; i < list->n; i++) {
        const char *slash = strchr(list->entries[i].name, '/');
        if (slash == NULL) {
            continue;
        }
        RF_TRY(rf_format(name, sizeof name, "%.*s", (int)(slash - list->entries[i].name),
                         list->entries[i].name));
        const char *key = name;
        char **found = bsearch(&key, list->classes, (size_t)list->n_classes,
                               sizeof list->classes[0], compare_texts);
        RF_BUG(found != NULL, "class '%s' is not in the table", name);
        list->entries[i].label = found - list->classes;
    }
fail:
    return status;
}

/* A fixed seed and the name decide; the words that `max_pictures` orders by are other ones. */
static void set_keys(rf_picture_list *list, double holdout, uint64_t seed)
{
    for (int64_t i = 0; i < list->n; i++) {
        entry *e = &list->entries[i];
        uint32_t fixed[4], seeded[4];
        uint64_t hash = rf_hash(RF_HASH_START, e->name, strlen(e->name));
        rf_random_u32x4(0, RF_RANDOM_HOLDOUT, hash, 0, fixed);
        rf_random_u32x4(seed, RF_RANDOM_HOLDOUT, hash, 1, seeded);
        uint64_t bits = (uint64_t)fixed[0] << 32 | fixed[1];
        e->is_held_out = (double)(bits >> 11) * 0x1p-53 < holdout;
        e->order = (uint64_t)seeded[0] << 32 | seeded[1];
    }
}

static void keep_some(rf_picture_list *list, int64_t max_pictures)
{
    if (max_pictures == 0 || list->n <= max_pictures) {
        return;
    }
    qsort(list->entries, (size_t)list->n, sizeof list->entries[0], compare_orders);
    for (int64_t i = max_pictures; i < list->n; i++) {
        rf_free(list->entries[i].name);
    }
    list->n = max_pictures;
    qsort(list->entries, (size_t)list->n, sizeof list->entries[0], compare_names);
}

static rf_status split(rf_picture_list *list)
{
    rf_status status = RF_OK;
    RF_ALLOC(list->members[RF_SPLIT_TRAIN], list->n);
    RF_ALLOC(list->members[RF_SPLIT_HELD_OUT], list->n);
    for (int64_t i = 0; i < list->n; i++) {
        int side = list->entries[i].is_held_out ? RF_SPLIT_HELD_OUT : RF_SPLIT_TRAIN;
        list->members[side][list->n_members[side]++] = i;
    }
fail:
    return status;
}

rf_status rf_picture_list_open(const rf_picture_list_opts *opts, rf_picture_list **out)
{
    rf_status status = RF_OK;
    rf_picture_list *list = NULL;
    *out = NULL;
    RF_REQUIRE(opts->holdout >= 0 && opts->holdout < 1, "holdout = %g, expected a share in [0, 1)",
               opts->holdout);
    RF_REQUIRE(opts->max_pictures >= 0, "max_pictures = %" PRId64 ", expected >= 0",
               opts->max_pictures);
    RF_ALLOC(list, 1);
    RF_TRY(rf_format(list->folder, sizeof list->folder, "%s", opts->folder));
    if (!rf_file_is_dir(opts->folder)) {
        RF_FAIL(RF_ERR_NOT_FOUND, "'%s' is not a folder; expected a folder of pictures",
                opts->folder);
    }
    RF_TRY(walk(list, "", 0));
    if (list->n == 0) {
        RF_FAIL(RF_ERR_NOT_FOUND, "no picture (.jpg .jpeg .png .webp) in folder '%s'",
                opts->folder);
    }
    qsort(list->entries, (size_t)list->n, sizeof list->entries[0], compare_names);
    RF_TRY(find_classes(list));
    RF_TRY(set_labels(list));
    set_keys(list, opts->holdout, opts->seed);
    keep_some(list, opts->max_pictures);
    RF_TRY(split(list));
    *out = list;
    list = NULL;
fail:
    rf_picture_list_close(list);
    return status;
}

void rf_picture_list_close(rf_picture_list *list)
{
    if (list == NULL) {
        return;
    }
    for (int64_t i = 0; i < list->n; i++) {
        rf_free(list->entries[i].name);
    }
    for (int64_t i = 0; i < list->n_classes; i++) {
        rf_free(list->classes[i]);
    }
    rf_free(list->members[RF_SPLIT_TRAIN]);
    rf_free(list->members[RF_SPLIT_HELD_OUT]);
    rf_free(list->classes);
    rf_free(list->entries);
    rf_free(list);
}

int64_t rf_picture_list_n(const rf_picture_list *list, rf_picture_split which)
{
    return which == RF_SPLIT_ALL ? list->n : list->n_members[which];
}

int64_t rf_picture_list_index(const rf_picture_list *list, rf_picture_split which, int64_t idx)
{
    if (idx < 0 || idx >= rf_picture_list_n(list, which)) {
        return -1;
    }
    return which == RF_SPLIT_ALL ? idx : list->members[which][idx];
}

const char *rf_picture_list_name(const rf_picture_list *list, rf_picture_split which, int64_t idx)
{
    int64_t at = rf_picture_list_index(list, which, idx);
    return at >= 0 ? list->entries[at].name : NULL;
}

int64_t rf_picture_list_label(const rf_picture_list *list, rf_picture_split which, int64_t idx)
{
    int64_t at = rf_picture_list_index(list, which, idx);
    return at >= 0 ? list->entries[at].label : -1;
}

rf_status rf_picture_list_path(const rf_picture_list *list, rf_picture_split which, int64_t idx,
                               char out[RF_PATH_LEN])
{
    rf_status status = RF_OK;
    const char *name = rf_picture_list_name(list, which, idx);
    RF_REQUIRE(name != NULL, "picture %" PRId64 ", expected 0 to %" PRId64, idx,
               rf_picture_list_n(list, which) - 1);
    RF_TRY(rf_format(out, RF_PATH_LEN, "%s/%s", list->folder, name));
fail:
    return status;
}

int64_t rf_picture_list_n_classes(const rf_picture_list *list)
{
    return list->n_classes;
}

const char *rf_picture_list_class(const rf_picture_list *list, int64_t idx)
{
    return idx >= 0 && idx < list->n_classes ? list->classes[idx] : NULL;
}

uint64_t rf_picture_list_hash(const rf_picture_list *list)
{
    uint64_t hash = RF_HASH_START;
    for (int64_t i = 0; i < list->n; i++) {
        /* with the '\0', so that {"ab", "c"} and {"a", "bc"} differ */
        hash = rf_hash(hash, list->entries[i].name, strlen(list->entries[i].name) + 1);
    }
    return hash;
}
