/* The tar shards of a source: which they are, and what is in them. Ranks share the work of looking;
 * what each found goes to all. */
#include "picture_list_impl.h"

#include <string.h>
#include <strings.h>

enum { MAX_SHARDS = 1 << 20, MAX_BRACES = 8 };

/* ---- which shards ------------------------------------------------------------------------------
 */

/* The length of `path` without the ending of a tar file, or -1. Compressed ones are named too, so
 * that they are refused and not passed over. */
static int64_t tar_stem(const char *path)
{
    static const char *const endings[] = {".tar",     ".tar.gz", ".tgz",    ".tar.bz2",
                                          ".tar.zst", ".tar.xz", ".tar.lz4"};
    const size_t n = strlen(path);
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        const size_t m = strlen(endings[i]);
        if (n > m && strcasecmp(path + n - m, endings[i]) == 0) {
            return (int64_t)(n - m);
        }
    }
    return -1;
}

bool rf_picture_list_is_shard_pattern(const char *path)
{
    return tar_stem(path) > 0;
}

static rf_status add_shard(rf_picture_list *list, const char *path)
{
    rf_status status = RF_OK;
    const char *slash = strrchr(path, '/');
    const char *file = slash != NULL ? slash + 1 : path;
    const int64_t stem = tar_stem(file);

    if (stem < 0) {
        RF_FAIL(RF_ERR_SETTING, "'%s' is no name of a tar file, expected one that ends in .tar",
                path);
    }
    if (list->n_shards == MAX_SHARDS) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "more than %d shards", (int)MAX_SHARDS);
    }
    if ((list->n_shards & (list->n_shards - 1)) == 0) { /* full at each power of two */
        const int64_t cap = list->n_shards > 0 ? 2 * list->n_shards : 1;
        picture_shard *grown = rf_realloc(list->shards, list->n_shards, cap, sizeof *grown);
        if (grown == NULL) {
            return RF_ERR_NO_MEMORY;
        }
        list->shards = grown;
    }
    picture_shard *shard = &list->shards[list->n_shards];
    shard->path = rf_picture_list_text(list, path, (int64_t)strlen(path));
    shard->name = rf_picture_list_text(list, file, stem);
    if (shard->path == NULL || shard->name == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    list->n_shards++;
    list->numbers = true;
fail:
    return status;
}

void rf_picture_list_forget_shards(rf_picture_list *list)
{
    rf_free(list->shards);
    list->shards = NULL;
    list->n_shards = 0;
    list->numbers = false;
}

rf_status rf_picture_list_find_shards(rf_picture_list *list, const char *folder)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    char **names = NULL;
    int64_t n = 0;

    RF_TRY(rf_file_list(folder, &names, &n));
    for (int64_t i = 0; i < n; i++) {
        if (names[i][0] != '.' && tar_stem(names[i]) > 0) {
            RF_TRY(rf_path_join(path, folder, names[i]));
            RF_TRY(rf_file_is_dir(path) ? RF_OK : add_shard(list, path));
        }
    }
fail:
    rf_file_list_free(names, n);
    return status;
}

/* One place of a pattern: texts before, in and behind its first braces. */
typedef struct braces {
    const char *before, *body, *behind;
    int n_before, n_body;
} braces;

static rf_status expand(rf_picture_list *list, const char *pattern, int depth);

static rf_status expand_one(rf_picture_list *list, const braces *b, const char *item, int n_item,
                            int depth)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    RF_TRY(rf_format(path, sizeof path, "%.*s%.*s%s", b->n_before, b->before, n_item, item,
                     b->behind));
    RF_TRY(expand(list, path, depth + 1));
fail:
    return status;
}

/* "000..123": with a leading zero all numbers are as wide as the wider end. */
static rf_status expand_range(rf_picture_list *list, const braces *b, int64_t n_first, int depth)
{
    rf_status status = RF_OK;
    char ends[2][32], item[32];
    int64_t from = 0, to = 0;
    const int64_t n_last = b->n_body - n_first - 2;

    RF_TRY(rf_format(ends[0], sizeof ends[0], "%.*s", (int)n_first, b->body));
    RF_TRY(rf_format(ends[1], sizeof ends[1], "%.*s", (int)n_last, b->body + n_first + 2));
    for (int i = 0; i < 2; i++) {
        if (ends[i][0] == '\0' || ends[i][strspn(ends[i], "0123456789")] != '\0') {
            RF_FAIL(RF_ERR_SETTING, "{%.*s}, expected a range of numbers as {000..123}", b->n_body,
                    b->body);
        }
        RF_TRY(rf_parse_i64(ends[i], i == 0 ? &from : &to));
    }
    if (from > to || to - from >= MAX_SHARDS) {
        RF_FAIL(RF_ERR_SETTING, "{%.*s}, expected a range that rises, of at most %d numbers",
                b->n_body, b->body, (int)MAX_SHARDS);
    }
    const bool padded = (ends[0][0] == '0' && n_first > 1) || (ends[1][0] == '0' && n_last > 1);
    const int width = padded ? (int)rf_max_i64(n_first, n_last) : 1;
    for (int64_t i = from; i <= to; i++) {
        RF_TRY(rf_format(item, sizeof item, "%0*" PRId64, width, i));
        RF_TRY(expand_one(list, b, item, (int)strlen(item), depth));
    }
fail:
    return status;
}

/* "train,val" */
static rf_status expand_words(rf_picture_list *list, const braces *b, int depth)
{
    rf_status status = RF_OK;
    const char *end = b->body + b->n_body;
    for (const char *item = b->body; item <= end;) {
        const char *comma = memchr(item, ',', (size_t)(end - item));
        const char *item_end = comma != NULL ? comma : end;
        RF_TRY(expand_one(list, b, item, (int)(item_end - item), depth));
        item = item_end + 1;
    }
fail:
    return status;
}

static rf_status expand(rf_picture_list *list, const char *pattern, int depth)
{
    rf_status status = RF_OK;
    const char *open = strchr(pattern, '{');
    const char *close = open != NULL ? strchr(open, '}') : NULL;
    if (open == NULL) {
        return add_shard(list, pattern);
    }
    if (close == NULL || memchr(open + 1, '{', (size_t)(close - open - 1)) != NULL ||
        depth == MAX_BRACES) {
        RF_FAIL(RF_ERR_SETTING,
                "'%s': expected braces that close, at most %d pairs, none in another", pattern,
                (int)MAX_BRACES);
    }
    const braces b = {.before = pattern,
                      .n_before = (int)(open - pattern),
                      .body = open + 1,
                      .n_body = (int)(close - open - 1),
                      .behind = close + 1};
    const char *dots = strstr(b.body, "..");
    if (dots != NULL && dots + 2 <= close) {
        RF_TRY(expand_range(list, &b, dots - b.body, depth));
    } else {
        RF_TRY(expand_words(list, &b, depth));
    }
fail:
    return status;
}

rf_status rf_picture_list_expand_shards(rf_picture_list *list, const char *pattern)
{
    return rf_file_exists(pattern) ? add_shard(list, pattern) : expand(list, pattern, 0);
}

/* ---- exchange ----------------------------------------------------------------------------------
 */

/* An entry as it travels; the name's and the label's bytes follow. */
typedef struct packed_entry {
    int64_t shard, place, n_bytes;
    int64_t name_len, label_len; /* label_len -1: no label */
} packed_entry;

static rf_status pack(const rf_picture_list *list, rf_str *out)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < list->n; i++) {
        const picture_entry *e = &list->entries[i];
        const packed_entry p = {.shard = e->shard,
                                .place = e->place,
                                .n_bytes = e->n_bytes,
                                .name_len = (int64_t)strlen(e->name),
                                .label_len =
                                    e->label_is != NULL ? (int64_t)strlen(e->label_is) : -1};
        RF_TRY(rf_str_append_bytes(out, &p, (int64_t)sizeof p));
        RF_TRY(rf_str_append_bytes(out, e->name, p.name_len));
        RF_TRY(rf_str_append_bytes(out, e->label_is, rf_max_i64(p.label_len, 0)));
    }
fail:
    return status;
}

static rf_status unpack(rf_picture_list *list, const char *bytes, int64_t n_bytes)
{
    rf_status status = RF_OK;
    const char *end = bytes + n_bytes;
    while (bytes < end) {
        packed_entry p;
        memcpy(&p, bytes, sizeof p);
        bytes += sizeof p;
        picture_entry e = {.label = -1, .shard = p.shard, .place = p.place, .n_bytes = p.n_bytes};
        e.name = rf_picture_list_text(list, bytes, p.name_len);
        bytes += p.name_len;
        if (p.label_len >= 0) {
            e.label_is = rf_picture_list_text(list, bytes, p.label_len);
            bytes += p.label_len;
        }
        if (e.name == NULL || (p.label_len >= 0 && e.label_is == NULL)) {
            return RF_ERR_NO_MEMORY;
        }
        RF_TRY(rf_picture_list_add(list, &e));
    }
fail:
    return status;
}

/* Every rank gets what the others found. Collective. */
static rf_status exchange(rf_picture_list *list, const rf_comm *comm)
{
    rf_status status = RF_OK;
    const int size = rf_comm_size(comm), rank = rf_comm_rank(comm);
    rf_str mine = {0};
    int64_t *n_bytes = NULL, n_all = 0, at = 0;
    char *all = NULL;

    n_bytes = rf_calloc(size, sizeof *n_bytes);
    RF_TRY(rf_comm_agree(comm, n_bytes != NULL ? pack(list, &mine) : RF_ERR_NO_MEMORY));
    n_bytes[rank] = mine.len;
    RF_TRY(rf_comm_sum_i64(comm, n_bytes, size));
    for (int r = 0; r < size; r++) {
        n_all += n_bytes[r];
    }
    all = rf_calloc(n_all, 1);
    RF_TRY(rf_comm_agree(comm, all != NULL ? RF_OK : RF_ERR_NO_MEMORY));
    RF_TRY(rf_comm_allgatherv(comm, mine.data, all, n_bytes));
    for (int r = 0; r < size; at += n_bytes[r++]) {
        if (r != rank && status == RF_OK) {
            status = unpack(list, all + at, n_bytes[r]);
        }
    }
    status = rf_comm_agree(comm, status);
fail:
    rf_free(all);
    rf_free(n_bytes);
    rf_str_fini(&mine);
    return status;
}

static rf_status index_share(rf_picture_list *list, int rank, int size, int64_t *n_left_out)
{
    rf_status status = RF_OK;
    for (int64_t s = rank; s < list->n_shards; s += size) {
        RF_TRY(rf_picture_list_index_shard(list, s, n_left_out));
        if (rank == 0 && list->n_shards > 1) {
            rf_progress("looking into tar shards", rf_min_i64(s + size, list->n_shards),
                        list->n_shards, "");
        }
    }
fail:
    return status;
}

rf_status rf_picture_list_index_shards(rf_picture_list *list, const rf_comm *comm)
{
    rf_status status = RF_OK;
    const int rank = comm != NULL ? rf_comm_rank(comm) : 0;
    const int size = comm != NULL ? rf_comm_size(comm) : 1;
    int64_t n_left_out = 0;

    status = index_share(list, rank, size, &n_left_out);
    if (comm != NULL) {
        RF_TRY(rf_comm_agree(comm, status));
        RF_TRY(exchange(list, comm));
        RF_TRY(rf_comm_sum_i64(comm, &n_left_out, 1));
    }
    RF_TRY(status);
    if (n_left_out > 0 && rank == 0) {
        rf_log(RF_LOG_WARN,
               "%" PRId64 " pictures in tar shards are not the first of their sample (the files "
               "with one name up to the first dot) and are left out",
               n_left_out);
    }
fail:
    return status;
}
