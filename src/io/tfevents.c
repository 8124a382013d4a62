/* Scalars for TensorBoard. A file is a row of records: length (8 bytes), its checksum, an Event in
 * protocol-buffer encoding, its checksum. */
#include "io_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct rf_tfevents {
    int fd;
    int64_t n_bytes; /* of whole records */
    char path[RF_PATH_LEN];
};

static uint32_t crc_table[256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void make_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) {
            c = (c & 1) != 0 ? c >> 1 ^ 0x82f63b78U : c >> 1; /* Castagnoli, reflected */
        }
        crc_table[i] = c;
    }
}

/* CRC-32C, turned and shifted as TFRecord wants it (a checksum over checksums is weak). */
static uint32_t masked_crc(const void *bytes, int64_t n_bytes)
{
    const unsigned char *p = bytes;
    uint32_t c = UINT32_MAX;
    pthread_once(&crc_once, make_crc_table);
    for (int64_t i = 0; i < n_bytes; i++) {
        c = crc_table[(c ^ p[i]) & 0xff] ^ c >> 8;
    }
    c ^= UINT32_MAX;
    return (c >> 15 | c << 17) + 0xa282ead8U;
}

/* Protocol-buffer fields: a key (number << 3 | wire type), then the value. */
static rf_status append_varint(rf_str *s, uint64_t v)
{
    unsigned char bytes[10];
    int n = 0;
    do {
        bytes[n] = (unsigned char)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
        n++;
    } while (v != 0);
    return rf_str_append_bytes(s, bytes, n);
}

static rf_status append_key(rf_str *s, uint64_t number, uint64_t wire_type)
{
    return append_varint(s, number << 3 | wire_type);
}

static rf_status append_bytes(rf_str *s, uint64_t number, const void *bytes, int64_t n)
{
    rf_status status = append_key(s, number, 2);
    if (status == RF_OK) {
        status = append_varint(s, (uint64_t)n);
    }
    return status == RF_OK ? rf_str_append_bytes(s, bytes, n) : status;
}

static rf_status append_wall_time(rf_str *s, double wall_time)
{
    rf_status status = append_key(s, 1, 1);
    return status == RF_OK ? rf_str_append_bytes(s, &wall_time, sizeof wall_time) : status;
}

/* One write, so that a record is whole or absent; what a full disk cut is taken back. */
static rf_status write_record(rf_tfevents *t, const rf_str *event)
{
    rf_status status = RF_OK;
    rf_str record = {0};
    uint64_t n = (uint64_t)event->len;
    uint32_t n_crc = masked_crc(&n, sizeof n), crc = masked_crc(event->data, event->len);

    RF_TRY(rf_str_append_bytes(&record, &n, sizeof n));
    RF_TRY(rf_str_append_bytes(&record, &n_crc, sizeof n_crc));
    RF_TRY(rf_str_append_bytes(&record, event->data, event->len));
    RF_TRY(rf_str_append_bytes(&record, &crc, sizeof crc));
    int reason = rf_file_write_all(t->fd, record.data, record.len);
    if (reason != 0) {
        status = rf_file_raise("write", t->path, reason);
        (void)!ftruncate(t->fd, t->n_bytes); /* the first error is the one to tell */
        goto fail;
    }
    t->n_bytes += record.len;
fail:
    rf_str_fini(&record);
    return status;
}

static rf_status write_version(rf_tfevents *t, double wall_time)
{
    static const char version[] = "brain.Event:2";
    rf_status status = RF_OK;
    rf_str event = {0};
    RF_TRY(append_wall_time(&event, wall_time));
    RF_TRY(append_bytes(&event, 3, version, sizeof version - 1));
    RF_TRY(write_record(t, &event));
fail:
    rf_str_fini(&event);
    return status;
}

/* A resume within the same second must not write into the file of the run before. */
static rf_status create_file(rf_tfevents *t, const char *folder, const char *tag, int64_t seconds)
{
    rf_status status = RF_OK;
    char name[RF_PATH_LEN];
    for (int again = 0; again < 1000; again++) {
        RF_TRY(rf_format(name, sizeof name, "events.out.tfevents.%" PRId64 ".%s", seconds, tag));
        if (again > 0) {
            RF_TRY(rf_format(name, sizeof name, "events.out.tfevents.%" PRId64 ".%s.%d", seconds,
                             tag, again));
        }
        RF_TRY(rf_path_join(t->path, folder, name));
        t->fd = open(t->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (t->fd >= 0) {
            return RF_OK;
        }
        if (errno != EEXIST) {
            break;
        }
    }
    status = rf_file_raise("create", t->path, errno);
fail:
    return status;
}

rf_status rf_tfevents_open(const char *folder, const char *tag, rf_tfevents **out)
{
    rf_status status = RF_OK;
    rf_tfevents *t = NULL;
    struct timespec now;

    *out = NULL;
    RF_REQUIRE(strchr(tag, '/') == NULL, "tag '%s' must not contain '/'", tag);
    RF_ALLOC(t, 1);
    t->fd = -1;
    clock_gettime(CLOCK_REALTIME, &now);
    RF_TRY(create_file(t, folder, tag, (int64_t)now.tv_sec));
    RF_TRY(write_version(t, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec));
    *out = t;
    t = NULL;
fail:
    rf_tfevents_close(t);
    return status;
}

rf_status rf_tfevents_scalar(rf_tfevents *t, int64_t step, double wall_time, const char *name,
                             double value)
{
    rf_status status = RF_OK;
    rf_str entry = {0}, summary = {0}, event = {0};
    float simple_value = (float)value;

    RF_TRY(append_bytes(&entry, 1, name, (int64_t)strlen(name)));
    RF_TRY(append_key(&entry, 2, 5));
    RF_TRY(rf_str_append_bytes(&entry, &simple_value, sizeof simple_value));
    RF_TRY(append_bytes(&summary, 1, entry.data, entry.len));
    RF_TRY(append_wall_time(&event, wall_time));
    RF_TRY(append_key(&event, 2, 0));
    RF_TRY(append_varint(&event, (uint64_t)step));
    RF_TRY(append_bytes(&event, 5, summary.data, summary.len));
    RF_TRY(write_record(t, &event));
fail:
    rf_str_fini(&event);
    rf_str_fini(&summary);
    rf_str_fini(&entry);
    return status;
}

rf_status rf_tfevents_flush(rf_tfevents *t)
{
    return fdatasync(t->fd) != 0 ? rf_file_raise("write", t->path, errno) : RF_OK;
}

void rf_tfevents_close(rf_tfevents *t)
{
    if (t != NULL) {
        if (t->fd >= 0) {
            close(t->fd);
        }
        rf_free(t);
    }
}
