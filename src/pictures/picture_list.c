/* Pictures of any kind of source, in an order and a split that depend on their names alone. */
#include "picture_list_impl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { TEXT_BLOCK = 1 << 16 };

struct picture_texts {
    picture_texts *next;
    int64_t used, cap;
    char text[];
};

/* ---- what sources add -------------------------------------------------------------------------
 */

const char *rf_picture_list_text(rf_picture_list *list, const char *text, int64_t len)
{
    picture_texts *block = list->texts;
    if (block == NULL || block->cap - block->used < len + 1) {
        const int64_t cap = rf_max_i64(TEXT_BLOCK, len + 1);
        block = rf_calloc((int64_t)sizeof *block + cap, 1);
        if (block == NULL) {
            return NULL;
        }
        *block = (picture_texts){.next = list->texts, .cap = cap};
        list->texts = block;
    }
    char *copy = block->text + block->used;
    memcpy(copy, text, (size_t)len);
    copy[len] = '\0';
    block->used += len + 1;
    return copy;
}

static void free_texts(rf_picture_list *list)
{
    while (list->texts != NULL) {
        picture_texts *next = list->texts->next;
        rf_free(list->texts);
        list->texts = next;
    }
}

rf_status rf_picture_list_add(rf_picture_list *list, const picture_entry *entry)
{
    if (list->n == list->cap) {
        int64_t cap = 2 * list->cap + 64;
        picture_entry *grown = rf_realloc(list->entries, list->cap, cap, sizeof *grown);
        if (grown == NULL) {
            return RF_ERR_NO_MEMORY;
        }
        list->entries = grown;
        list->cap = cap;
    }
    list->entries[list->n++] = *entry;
    return RF_OK;
}

/* ---- order and split ---------------------------------------------------------------------------
 */

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const picture_entry *)a)->name, ((const picture_entry *)b)->name);
}

static int compare_orders(const void *a, const void *b)
{
    uint64_t x = ((const picture_entry *)a)->order, y = ((const picture_entry *)b)->order;
    return x != y ? (x < y ? -1 : 1) : compare_names(a, b);
}

/* The order must be one of names. Only folders cannot have the same one twice. */
static rf_status sort(rf_picture_list *list, const char *path)
{
    qsort(list->entries, (size_t)list->n, sizeof list->entries[0], compare_names);
    for (int64_t i = 1; i < list->n; i++) {
        const picture_entry *a = &list->entries[i - 1], *b = &list->entries[i];
        if (strcmp(a->name, b->name) != 0) {
            continue;
        }
        if (a->shard >= 0) {
            return rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__,
                                  "two pictures are '%s': in %s at byte %" PRId64
                                  " and in %s at byte %" PRId64,
                                  a->name, list->shards[a->shard].path, a->place,
                                  list->shards[b->shard].path, b->place);
        }
        return rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__,
                              "%s: lines %" PRId64 " and %" PRId64 " are both '%s'", path,
                              rf_min_i64(a->place, b->place), rf_max_i64(a->place, b->place),
                              a->name);
    }
    return RF_OK;
}

/* A fixed seed and the name decide; the words that `max_pictures` orders by are other ones. */
static void set_keys(rf_picture_list *list, double holdout, uint64_t seed)
{
    for (int64_t i = 0; i < list->n; i++) {
        picture_entry *e = &list->entries[i];
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

static rf_status finish(rf_picture_list *list, const rf_picture_list_opts *opts)
{
    rf_status status = RF_OK;
    if (list->n == 0) {
        RF_FAIL(RF_ERR_NOT_FOUND, "no picture (.jpg .jpeg .png .webp) in '%s'", opts->path);
    }
    RF_TRY(sort(list, opts->path));
    RF_TRY(rf_picture_list_set_labels(list));
    set_keys(list, opts->holdout, opts->seed);
    keep_some(list, opts->max_pictures);
    RF_TRY(split(list));
    if (list->n_shards > 0) {
        RF_TRY(rf_picture_list_open_readers(list));
    }
fail:
    return status;
}

/* ---- which kind of source ---------------------------------------------------------------------
 */

static rf_status check_opts(const rf_picture_list_opts *opts)
{
    rf_status status = RF_OK;
    RF_REQUIRE(opts->holdout >= 0 && opts->holdout < 1, "holdout = %g, expected a share in [0, 1)",
               opts->holdout);
    RF_REQUIRE(opts->max_pictures >= 0, "max_pictures = %" PRId64 ", expected >= 0",
               opts->max_pictures);
fail:
    return status;
}

/* Words that say something of another kind of source would be passed over silently. */
static rf_status check_words(const rf_picture_list_opts *opts, bool is_list, bool is_kaggle)
{
    rf_status status = RF_OK;
    if (opts->root != NULL && opts->root[0] != '\0' && !is_list) {
        RF_FAIL(RF_ERR_SETTING,
                "root '%s' is for the paths in a list (.csv, .tsv, .txt), and '%s' is none",
                opts->root, opts->path);
    }
    if (opts->part != RF_PART_AUTO && !is_kaggle) {
        RF_FAIL(RF_ERR_SETTING,
                "part is for Kaggle's ImageNet; there is no LOC_synset_mapping.txt in '%s'",
                opts->path);
    }
fail:
    return status;
}

static rf_status set_list_folder(rf_picture_list *list, const rf_picture_list_opts *opts)
{
    const char *slash = strrchr(opts->path, '/');
    list->numbers = true;
    if (opts->root != NULL && opts->root[0] != '\0') {
        return rf_format(list->folder, sizeof list->folder, "%s", opts->root);
    }
    list->absolute_names = true;
    return slash == NULL ? rf_format(list->folder, sizeof list->folder, ".")
                         : rf_format(list->folder, sizeof list->folder, "%.*s",
                                     (int)(slash - opts->path) + (slash == opts->path), opts->path);
}

static rf_status read_list(rf_picture_list *list, const rf_picture_list_opts *opts)
{
    rf_status status = RF_OK;
    rf_file_map map = {0};
    RF_TRY(set_list_folder(list, opts));
    RF_TRY(rf_file_map_open(opts->path, &map));
    RF_TRY(rf_picture_list_read_rows(list, (const char *)map.bytes, map.n_bytes, opts->path));
fail:
    rf_file_map_close(&map);
    return status;
}

static bool has_classes(const rf_picture_list *list)
{
    for (int64_t i = 0; i < list->n; i++) {
        if (list->entries[i].label_is != NULL) {
            return true;
        }
    }
    return false;
}

/* Class folders, or shards: tar files beside class folders are what those came from. */
static rf_status read_folder(rf_picture_list *list, const rf_picture_list_opts *opts)
{
    rf_status status = RF_OK;
    RF_TRY(rf_format(list->folder, sizeof list->folder, "%s", opts->path));
    RF_TRY(rf_picture_list_find_shards(list, opts->path));
    RF_TRY(rf_picture_list_walk(list));
    if (has_classes(list)) {
        rf_picture_list_forget_shards(list);
    }
    if (list->n > 0 && list->n_shards > 0) {
        RF_FAIL(
            RF_ERR_SETTING,
            "'%s' holds tar files ('%s') and pictures ('%s'), so that either may be meant; name "
            "the tar files (%s/NAME-{000..123}.tar), or a folder without them",
            opts->path, list->shards[0].path, list->entries[0].name, opts->path);
    }
fail:
    return status;
}

/* What is read here is small, or a folder that each rank looks at by itself; shards are only named.
 */
static rf_status read_source(rf_picture_list *list, const rf_picture_list_opts *opts)
{
    rf_status status = RF_OK;
    const bool exists = rf_file_exists(opts->path), is_dir = rf_file_is_dir(opts->path);
    const bool is_kaggle = is_dir && rf_picture_list_is_kaggle(opts->path);
    const bool is_list = exists && !is_dir && rf_picture_list_is_list_name(opts->path);

    RF_TRY(check_words(opts, is_list, is_kaggle));
    if (is_kaggle) {
        RF_TRY(rf_picture_list_read_kaggle(list, opts->path, opts->part));
    } else if (is_dir) {
        RF_TRY(read_folder(list, opts));
    } else if (is_list) {
        RF_TRY(read_list(list, opts));
    } else if (rf_picture_list_is_shard_pattern(opts->path)) {
        RF_TRY(rf_picture_list_expand_shards(list, opts->path));
    } else {
        RF_FAIL(
            RF_ERR_NOT_FOUND,
            "'%s' %s; expected a folder of pictures or of tar shards, a list (.csv, .tsv, .txt) "
            "or shards (.tar, NAME-{000..123}.tar)",
            opts->path, exists ? "is none of what pictures come from" : "is not there");
    }
fail:
    return status;
}

/* ---- open --------------------------------------------------------------------------------------
 */

static rf_status agree(const rf_comm *comm, rf_status status)
{
    return comm != NULL ? rf_comm_agree(comm, status) : status;
}

/* Ranks that see other shards would wait for each other for ever. Collective. */
static rf_status check_same_shards(const rf_picture_list *list, const rf_comm *comm)
{
    rf_status status = RF_OK;
    uint64_t hash = RF_HASH_START;
    for (int64_t i = 0; i < list->n_shards; i++) {
        hash = rf_hash(hash, list->shards[i].path, strlen(list->shards[i].path) + 1);
    }
    uint64_t of_rank_0 = hash;
    RF_TRY(rf_comm_bcast(comm, &of_rank_0, (int64_t)sizeof of_rank_0, 0));
    if (hash != of_rank_0) {
        status = rf_error_raise(RF_ERR_SETTING, __FILE__, __LINE__,
                                "the tar shards found here (%" PRId64
                                ") differ from what rank 0 sees; all ranks need the same files",
                                list->n_shards);
    }
    status = rf_comm_agree(comm, status);
fail:
    return status;
}

rf_status rf_picture_list_open(const rf_picture_list_opts *opts, rf_picture_list **out)
{
    rf_status status = RF_OK;
    rf_picture_list *list = rf_calloc(1, sizeof *list);
    *out = NULL;
    status = list != NULL ? check_opts(opts) : RF_ERR_NO_MEMORY;
    if (status == RF_OK) {
        status = read_source(list, opts);
    }
    RF_TRY(agree(opts->comm, status));
    if (opts->comm != NULL) {
        RF_TRY(check_same_shards(list, opts->comm));
    }
    if (list->n_shards > 0) {
        RF_TRY(rf_picture_list_index_shards(list, opts->comm));
    }
    RF_TRY(agree(opts->comm, finish(list, opts)));
    *out = list;
    list = NULL;
fail:
    rf_picture_list_close(list);
    return status;
}

rf_status rf_picture_list_parse(const rf_picture_list_opts *opts, const void *text, int64_t n_bytes,
                                rf_picture_list **out)
{
    rf_status status = RF_OK;
    rf_picture_list *list = NULL;
    *out = NULL;
    RF_ALLOC(list, 1);
    RF_TRY(check_opts(opts));
    RF_REQUIRE(rf_picture_list_is_list_name(opts->path),
               "'%s', expected a name that ends in .csv, .tsv or .txt", opts->path);
    RF_TRY(check_words(opts, true, false));
    RF_TRY(set_list_folder(list, opts));
    RF_TRY(rf_picture_list_read_rows(list, text, n_bytes, opts->path));
    RF_TRY(finish(list, opts));
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
    rf_picture_list_close_readers(list);
    rf_picture_list_forget_shards(list);
    free_texts(list);
    rf_free(list->members[RF_SPLIT_TRAIN]);
    rf_free(list->members[RF_SPLIT_HELD_OUT]);
    rf_free(list->classes);
    rf_free(list->titles);
    rf_free(list->entries);
    rf_free(list);
}

/* ---- what is in it -----------------------------------------------------------------------------
 */

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
    const int64_t at = rf_picture_list_index(list, which, idx);
    RF_REQUIRE(at >= 0, "picture %" PRId64 ", expected 0 to %" PRId64, idx,
               rf_picture_list_n(list, which) - 1);
    const picture_entry *e = &list->entries[at];
    if (e->shard >= 0) {
        const picture_shard *shard = &list->shards[e->shard];
        RF_TRY(
            rf_format(out, RF_PATH_LEN, "%s/%s", shard->path, e->name + strlen(shard->name) + 1));
    } else if (list->absolute_names && e->name[0] == '/') {
        RF_TRY(rf_format(out, RF_PATH_LEN, "%s", e->name));
    } else {
        RF_TRY(rf_format(out, RF_PATH_LEN, "%s/%s", list->folder, e->name));
    }
fail:
    return status;
}

rf_status rf_picture_list_read(const rf_picture_list *list, rf_picture_split which, int64_t idx,
                               char **bytes, int64_t *n_bytes)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    const int64_t at = rf_picture_list_index(list, which, idx);
    *bytes = NULL;
    if (at >= 0 && list->entries[at].shard >= 0) {
        return rf_picture_list_read_member(list, at, bytes, n_bytes);
    }
    RF_TRY(rf_picture_list_path(list, which, idx, path));
    RF_TRY(rf_picture_read(path, bytes, n_bytes));
fail:
    return status;
}

int64_t rf_picture_list_bytes(const rf_picture_list *list, rf_picture_split which, int64_t idx)
{
    const int64_t at = rf_picture_list_index(list, which, idx);
    char path[RF_PATH_LEN];
    struct stat info;
    if (at < 0 || list->entries[at].n_bytes >= 0) {
        return at < 0 ? -1 : list->entries[at].n_bytes;
    }
    if (rf_picture_list_path(list, which, idx, path) != RF_OK || stat(path, &info) != 0) {
        return -1;
    }
    return (int64_t)info.st_size;
}

int64_t rf_picture_list_n_classes(const rf_picture_list *list)
{
    return list->n_classes;
}

const char *rf_picture_list_class(const rf_picture_list *list, int64_t idx)
{
    return idx >= 0 && idx < list->n_classes ? list->classes[idx] : NULL;
}

const char *rf_picture_list_class_title(const rf_picture_list *list, int64_t idx)
{
    return list->titles != NULL && idx >= 0 && idx < list->n_classes ? list->titles[idx] : NULL;
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
