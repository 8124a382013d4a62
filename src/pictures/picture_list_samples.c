/* The samples of a tar shard, as WebDataset has them: the members that share a name up to the first
 * dot behind the last slash. One is the picture, another may say its label. */
#include "picture_list_impl.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_CLS = 4096, MAX_JSON = 1 << 20 };

typedef enum member_kind {
    MEMBER_PICTURE, /* key.jpg */
    MEMBER_VIEW,    /* key.left.jpg: a picture where there is no other */
    MEMBER_CLS,
    MEMBER_JSON,
    MEMBER_NONE,
} member_kind;

typedef struct member {
    const char *name;  /* in the shard */
    const char *label; /* of CLS and JSON; NULL: it says none */
    int64_t key_len, place, n_bytes;
    member_kind kind;
} member;

typedef struct members {
    member *items;
    int64_t n, cap;
} members;

/* ---- one member --------------------------------------------------------------------------------
 */

static member_kind kind_of(const char *name, int64_t *key_len)
{
    const char *slash = strrchr(name, '/');
    const char *file = slash != NULL ? slash + 1 : name;
    const char *dot = strchr(file, '.');
    if (dot == NULL || dot == file) { /* of no sample, or hidden */
        return MEMBER_NONE;
    }
    *key_len = dot - name;
    if (rf_picture_is_name(file)) {
        return strchr(dot + 1, '.') == NULL ? MEMBER_PICTURE : MEMBER_VIEW;
    }
    if (strcasecmp(dot, ".cls") == 0) {
        return MEMBER_CLS;
    }
    return strcasecmp(dot, ".json") == 0 ? MEMBER_JSON : MEMBER_NONE;
}

static rf_status keep_label(rf_picture_list *list, const char *text, int64_t len, const char **out)
{
    const char *blanks = " \t\r\n";
    while (len > 0 && strchr(blanks, text[0]) != NULL && text[0] != '\0') {
        text++;
        len--;
    }
    while (len > 0 && strchr(blanks, text[len - 1]) != NULL && text[len - 1] != '\0') {
        len--;
    }
    if (len == 0) {
        return rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__, "an empty label");
    }
    if (len >= PICTURE_LIST_MAX_LABEL) {
        return rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__,
                              "a label of %" PRId64 " bytes, expected fewer than %d", len,
                              (int)PICTURE_LIST_MAX_LABEL);
    }
    for (int64_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] < ' ') {
            return rf_error_raise(RF_ERR_FORMAT, __FILE__, __LINE__,
                                  "a label with the control character %d in it", text[i]);
        }
    }
    *out = rf_picture_list_text(list, text, len);
    return *out != NULL ? RF_OK : RF_ERR_NO_MEMORY;
}

/* Its "label", else its "cls": a whole number or a text. */
static rf_status read_json(rf_picture_list *list, const char *text, int64_t n_bytes,
                           const char *name, const char **out)
{
    rf_status status = RF_OK;
    rf_json *root = NULL;
    char digits[32];
    const char *label = digits;
    int64_t number = 0;

    RF_TRY(rf_json_parse(text, n_bytes, name, &root));
    const char *key = rf_json_find(root, "label") != NULL ? "label" : "cls";
    const int64_t none = INT64_MIN;
    if (rf_json_get_i64(root, key, &none, &number) == RF_OK) {
        if (number == none) {
            goto fail; /* it says no label */
        }
        RF_TRY(rf_format(digits, sizeof digits, "%" PRId64, number));
    } else {
        RF_TRY(rf_json_get_str(root, key, NULL, &label));
    }
    RF_TRY(keep_label(list, label, (int64_t)strlen(label), out));
fail:
    rf_json_free(root);
    return status;
}

static rf_status read_label(rf_picture_list *list, rf_tar *tar, member *m)
{
    rf_status status = RF_OK;
    char *text = NULL;
    int64_t n_bytes = 0;
    const bool is_cls = m->kind == MEMBER_CLS;
    RF_TRY(rf_tar_read_here(tar, is_cls ? MAX_CLS : MAX_JSON, &text, &n_bytes));
    if (is_cls) {
        RF_TRY(keep_label(list, text, n_bytes, &m->label));
    } else {
        RF_TRY(read_json(list, text, n_bytes, m->name, &m->label));
    }
fail:
    rf_free(text);
    return status;
}

static rf_status add_member(members *all, const member *m)
{
    if (all->n == all->cap) {
        const int64_t cap = 2 * all->cap + 256;
        member *grown = rf_realloc(all->items, all->cap, cap, sizeof *grown);
        if (grown == NULL) {
            return RF_ERR_NO_MEMORY;
        }
        all->items = grown;
        all->cap = cap;
    }
    all->items[all->n++] = *m;
    return RF_OK;
}

static rf_status take_member(rf_picture_list *list, const picture_shard *shard, rf_tar *tar,
                             const rf_tar_member *found, members *all)
{
    rf_status status = RF_OK;
    const char *name = found->name;
    member m = {.place = found->place, .n_bytes = found->n_bytes};

    m.kind = kind_of(name, &m.key_len);
    if (m.kind == MEMBER_NONE || found->kind == RF_TAR_FOLDER) {
        return RF_OK;
    }
    if (found->kind != RF_TAR_FILE) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "%s: at byte %" PRId64 ": '%s' is a link or a device, expected a file; write the "
                "tar file again with --dereference --hard-dereference",
                shard->path, found->place, name);
    }
    if (strlen(shard->name) + 1 + strlen(name) >= RF_PATH_LEN) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "%s: at byte %" PRId64 ": the name of '%s' is too long",
                shard->path, found->place, name);
    }
    m.name = rf_picture_list_text(list, name, (int64_t)strlen(name));
    status = m.name != NULL ? RF_OK : RF_ERR_NO_MEMORY;
    if (status == RF_OK && (m.kind == MEMBER_CLS || m.kind == MEMBER_JSON)) {
        RF_TRY_DOING(read_label(list, tar, &m), "%s: at byte %" PRId64 ": '%s'", shard->path,
                     found->place, name);
    }
    RF_TRY(status);
    RF_TRY(add_member(all, &m));
fail:
    return status;
}

/* ---- samples -----------------------------------------------------------------------------------
 */

static bool same_key(const member *a, const member *b)
{
    return a->key_len == b->key_len && memcmp(a->name, b->name, (size_t)a->key_len) == 0;
}

/* Samples together; in each, kinds in order, and what has one name side by side. */
static int compare_members(const void *x, const void *y)
{
    const member *a = x, *b = y;
    const int order = memcmp(a->name, b->name, (size_t)rf_min_i64(a->key_len, b->key_len));
    if (order != 0 || a->key_len != b->key_len) {
        return order != 0 ? order : (a->key_len < b->key_len ? -1 : 1);
    }
    if (a->kind != b->kind) {
        return a->kind < b->kind ? -1 : 1;
    }
    const int names = strcmp(a->name, b->name);
    return names != 0 ? names : (a->place > b->place) - (a->place < b->place);
}

/* The members of one sample. A file that stands there twice was meant to replace the first, or was
 * not: nobody can tell. */
static rf_status add_sample(rf_picture_list *list, int64_t shard_idx, const member *first,
                            int64_t n, int64_t *n_left_out)
{
    rf_status status = RF_OK;
    const picture_shard *shard = &list->shards[shard_idx];
    char name[RF_PATH_LEN];
    const member *picture = first;
    picture_entry e = {.label = -1, .shard = shard_idx};

    for (int64_t i = 1; i < n; i++) {
        if (strcmp(first[i].name, first[i - 1].name) == 0) {
            RF_FAIL(RF_ERR_FORMAT, "%s: '%s' is there twice, at byte %" PRId64 " and %" PRId64,
                    shard->path, first[i].name, first[i - 1].place, first[i].place);
        }
    }
    if (first->kind > MEMBER_VIEW) { /* no picture in it */
        return RF_OK;
    }
    for (int64_t i = 1; i < n; i++) {
        *n_left_out += first[i].kind <= MEMBER_VIEW;
        if (first[i].kind == first->kind && first[i].place < picture->place) {
            picture = &first[i];
        }
        if (first[i].kind > MEMBER_VIEW && e.label_is == NULL) {
            e.label_is = first[i].label;
        }
    }
    e.place = picture->place;
    e.n_bytes = picture->n_bytes;
    RF_TRY(rf_format(name, sizeof name, "%s/%s", shard->name, picture->name));
    e.name = rf_picture_list_text(list, name, (int64_t)strlen(name));
    if (e.name == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    RF_TRY(rf_picture_list_add(list, &e));
fail:
    return status;
}

static rf_status add_samples(rf_picture_list *list, int64_t shard, members *all,
                             int64_t *n_left_out)
{
    rf_status status = RF_OK;
    if (all->n > 1) {
        qsort(all->items, (size_t)all->n, sizeof all->items[0], compare_members);
    }
    for (int64_t i = 0, n = 0; i < all->n; i += n) {
        for (n = 1; i + n < all->n && same_key(&all->items[i], &all->items[i + n]);) {
            n++;
        }
        RF_TRY(add_sample(list, shard, &all->items[i], n, n_left_out));
    }
fail:
    return status;
}

rf_status rf_picture_list_index_shard(rf_picture_list *list, int64_t shard, int64_t *n_left_out)
{
    rf_status status = RF_OK;
    rf_tar *tar = NULL;
    rf_tar_member found;
    members all = {0};
    bool has = false;

    RF_TRY(rf_tar_open(list->shards[shard].path, &tar));
    RF_TRY(rf_tar_next(tar, &found, &has));
    while (has) {
        RF_TRY(take_member(list, &list->shards[shard], tar, &found, &all));
        RF_TRY(rf_tar_next(tar, &found, &has));
    }
    RF_TRY(add_samples(list, shard, &all, n_left_out));
fail:
    rf_free(all.items);
    rf_tar_close(tar);
    return status;
}
