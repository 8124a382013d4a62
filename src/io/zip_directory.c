/* The directory of a zip archive. Sizes and places come from the central directory; the header in
 * front of each entry must agree with it. PyTorch writes a data descriptor behind every entry and
 * zip64 fields in the end record whether they are needed or not. */
#include "zip_impl.h"

#include <stdlib.h>
#include <string.h>

enum {
    LOCAL_BYTES = 30,
    CENTRAL_BYTES = 46,
    END_BYTES = 22,
    END64_BYTES = 56,
    LOCATOR_BYTES = 20,
    MOST_COMMENT_BYTES = 65535,
    FLAG_ENCRYPTED = 1,
    FLAG_DESCRIPTOR = 8, /* sizes in the local header may be zero */
    EXTRA_ZIP64 = 1,
};

#define ALL_ONES_32 UINT32_C(0xffffffff)

typedef struct directory {
    int64_t first, n_bytes, n_entries;
} directory;

static uint64_t get(const unsigned char *p, int n_bytes)
{
    uint64_t v = 0;
    memcpy(&v, p, (size_t)n_bytes);
    return v;
}

static bool is_record(const unsigned char *p, const char *mark)
{
    return memcmp(p, mark, 4) == 0;
}

/* The end record: its comment runs to the end of the file. */
static rf_status find_end(const unsigned char *bytes, int64_t n_bytes, int64_t *out)
{
    rf_status status = RF_OK;
    int64_t last = n_bytes - END_BYTES, least = rf_max_i64(0, last - MOST_COMMENT_BYTES);
    for (int64_t at = last; at >= least; at--) {
        if (is_record(bytes + at, "PK\5\6") && (int64_t)get(bytes + at + 20, 2) == last - at) {
            *out = at;
            return RF_OK;
        }
    }
    RF_FAIL(RF_ERR_FORMAT, "it begins as a zip archive but has no end record (a truncated file?)");
fail:
    return status;
}

/* The zip64 end record, where the 32-bit one at `end` has a locator in front of it. */
static rf_status find_end64(const unsigned char *bytes, int64_t end, int64_t *out)
{
    rf_status status = RF_OK;
    int64_t locator = end - LOCATOR_BYTES;
    *out = -1;
    if (locator >= 0 && is_record(bytes + locator, "PK\6\7")) {
        uint64_t at = get(bytes + locator + 8, 8);
        if (locator < END64_BYTES || at > (uint64_t)(locator - END64_BYTES) ||
            !is_record(bytes + at, "PK\6\6")) {
            RF_FAIL(RF_ERR_FORMAT, "its zip64 end record is not where it is said to be");
        }
        *out = (int64_t)at;
    }
fail:
    return status;
}

static rf_status find_directory(const unsigned char *bytes, int64_t n_bytes, directory *out)
{
    rf_status status = RF_OK;
    int64_t end = 0, end64 = -1;
    RF_TRY(find_end(bytes, n_bytes, &end));
    RF_TRY(find_end64(bytes, end, &end64));

    bool is_64 = end64 >= 0;
    int64_t limit = is_64 ? end64 : end;
    const unsigned char *p = bytes + limit;
    uint64_t disks = is_64 ? get(p + 16, 4) | get(p + 20, 4) : get(p + 4, 2) | get(p + 6, 2);
    uint64_t n_entries = is_64 ? get(p + 32, 8) : get(p + 10, 2);
    uint64_t size = is_64 ? get(p + 40, 8) : get(p + 12, 4);
    uint64_t first = is_64 ? get(p + 48, 8) : get(p + 16, 4);
    if (disks != 0) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "it is one of several parts of a zip archive");
    }
    if (first > (uint64_t)limit || size > (uint64_t)limit - first) {
        RF_FAIL(RF_ERR_FORMAT, "its zip directory is outside the file (a truncated file?)");
    }
    if (n_entries > size / CENTRAL_BYTES) {
        RF_FAIL(RF_ERR_FORMAT, "its zip directory has no room for %" PRIu64 " entries", n_entries);
    }
    *out = (directory){
        .first = (int64_t)first, .n_bytes = (int64_t)size, .n_entries = (int64_t)n_entries};
fail:
    return status;
}

/* Replace the fields of an entry that are all ones by those of its zip64 extra field, in order. */
static rf_status read_extra(const unsigned char *extra, int64_t n_bytes, uint64_t *const field[3])
{
    rf_status status = RF_OK;
    int64_t at = 0;
    while (n_bytes - at >= 4) {
        int64_t n = (int64_t)get(extra + at + 2, 2), id = (int64_t)get(extra + at, 2);
        at += 4;
        if (n > n_bytes - at) {
            RF_FAIL(RF_ERR_FORMAT, "its extra fields are cut");
        }
        if (id == EXTRA_ZIP64) {
            int64_t used = 0;
            for (int i = 0; i < 3; i++) {
                if (*field[i] == ALL_ONES_32 && n - used >= 8) {
                    *field[i] = get(extra + at + used, 8);
                    used += 8;
                }
            }
            return RF_OK;
        }
        at += n;
    }
fail:
    return status;
}

/* The local header at `start` names the same entry; where its bytes are. */
static rf_status check_local(const unsigned char *bytes, int64_t limit, uint64_t start,
                             uint64_t n_packed, rf_zip_entry *e)
{
    rf_status status = RF_OK;
    if (limit < LOCAL_BYTES || start > (uint64_t)(limit - LOCAL_BYTES)) {
        RF_FAIL(RF_ERR_FORMAT, "it starts outside the file (a truncated file?)");
    }
    const unsigned char *p = bytes + start;
    int64_t room = limit - (int64_t)start - LOCAL_BYTES;
    int64_t name_len = (int64_t)get(p + 26, 2), extra_len = (int64_t)get(p + 28, 2);
    if (!is_record(p, "PK\3\4") || name_len != e->name_len || name_len + extra_len > room ||
        memcmp(p + LOCAL_BYTES, e->name, (size_t)name_len) != 0) {
        RF_FAIL(RF_ERR_FORMAT, "the header in front of it is another's");
    }
    uint64_t said = get(p + 18, 4);
    if ((get(p + 6, 2) & FLAG_DESCRIPTOR) == 0 && said != ALL_ONES_32 && said != n_packed) {
        RF_FAIL(RF_ERR_FORMAT,
                "the header in front of it says %" PRIu64 " bytes, the directory %" PRIu64, said,
                n_packed);
    }
    if (n_packed > (uint64_t)(room - name_len - extra_len)) {
        RF_FAIL(RF_ERR_FORMAT, "its %" PRIu64 " bytes end outside the file (a truncated file?)",
                n_packed);
    }
    e->bytes = p + LOCAL_BYTES + name_len + extra_len;
    e->n_bytes = (int64_t)n_packed;
fail:
    return status;
}

/* The entry at `*at` of the directory; moves `*at` behind it. */
static rf_status read_entry(const unsigned char *bytes, const directory *d, int64_t *at,
                            rf_zip_entry *e)
{
    rf_status status = RF_OK;
    const unsigned char *p = bytes + d->first + *at;
    int64_t room = d->n_bytes - *at - CENTRAL_BYTES;
    if (room < 0 || !is_record(p, "PK\1\2")) {
        RF_FAIL(RF_ERR_FORMAT, "its zip directory is damaged at byte %" PRId64, d->first + *at);
    }
    uint64_t flags = get(p + 8, 2), method = get(p + 10, 2);
    uint64_t n_packed = get(p + 20, 4), n_plain = get(p + 24, 4), start = get(p + 42, 4);
    int64_t extra_len = (int64_t)get(p + 30, 2), comment_len = (int64_t)get(p + 32, 2);
    e->name_len = (int64_t)get(p + 28, 2);
    e->name = (const char *)p + CENTRAL_BYTES;
    if (e->name_len + extra_len + comment_len > room) {
        RF_FAIL(RF_ERR_FORMAT, "its zip directory is damaged at byte %" PRId64, d->first + *at);
    }
    RF_TRY(read_extra(p + CENTRAL_BYTES + e->name_len, extra_len,
                      (uint64_t *const[3]){&n_plain, &n_packed, &start}));
    if ((flags & FLAG_ENCRYPTED) != 0) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "it is encrypted");
    }
    e->is_stored = method == 0;
    if (e->is_stored && n_packed != n_plain) {
        RF_FAIL(RF_ERR_FORMAT, "it is stored, but its two sizes differ");
    }
    RF_TRY(check_local(bytes, d->first, start, n_packed, e));
    *at += CENTRAL_BYTES + e->name_len + extra_len + comment_len;
fail:
    return status;
}

static int compare_entries(const void *a, const void *b)
{
    const rf_zip_entry *s = a, *t = b;
    int64_t n = rf_min_i64(s->name_len, t->name_len);
    int order = memcmp(s->name, t->name, (size_t)n);
    return order != 0 ? order : (s->name_len > t->name_len) - (s->name_len < t->name_len);
}

rf_status rf_zip_read(const unsigned char *bytes, int64_t n_bytes, rf_zip *out)
{
    rf_status status = RF_OK;
    directory d = {0};
    int64_t at = 0;

    *out = (rf_zip){0};
    RF_TRY(find_directory(bytes, n_bytes, &d));
    RF_ALLOC(out->entries, d.n_entries);
    for (int64_t i = 0; i < d.n_entries; i++) {
        RF_TRY_DOING(read_entry(bytes, &d, &at, &out->entries[i]),
                     "entry %" PRId64 " of its zip directory", i);
    }
    if (at != d.n_bytes) {
        RF_FAIL(RF_ERR_FORMAT, "its zip directory holds more than its %" PRId64 " entries",
                d.n_entries);
    }
    out->n_entries = d.n_entries;
    if (d.n_entries > 1) {
        qsort(out->entries, (size_t)d.n_entries, sizeof *out->entries, compare_entries);
    }
    for (int64_t i = 1; i < d.n_entries; i++) {
        if (compare_entries(&out->entries[i - 1], &out->entries[i]) == 0) {
            RF_FAIL(RF_ERR_FORMAT, "two entries of its zip directory are called '%.*s'",
                    (int)rf_min_i64(200, out->entries[i].name_len), out->entries[i].name);
        }
    }
fail:
    if (status != RF_OK) {
        rf_zip_fini(out);
    }
    return status;
}

void rf_zip_fini(rf_zip *zip)
{
    rf_free(zip->entries);
    *zip = (rf_zip){0};
}

const rf_zip_entry *rf_zip_find(const rf_zip *zip, const char *name)
{
    const rf_zip_entry key = {.name = name, .name_len = (int64_t)strlen(name)};
    return zip->n_entries == 0 ? NULL
                               : bsearch(&key, zip->entries, (size_t)zip->n_entries,
                                         sizeof *zip->entries, compare_entries);
}
