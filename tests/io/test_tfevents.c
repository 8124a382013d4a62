#include "scratch.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>

/* CRC-32C bit by bit: another way than the code under test goes. */
static uint32_t crc32c(const unsigned char *p, size_t n)
{
    uint32_t c = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int bit = 0; bit < 8; bit++) {
            c = (c >> 1) ^ ((c & 1) != 0 ? 0x82f63b78U : 0);
        }
    }
    return ~c;
}

static uint32_t masked(const unsigned char *p, size_t n)
{
    uint32_t c = crc32c(p, n);
    return ((c >> 15) | (c << 17)) + 0xa282ead8U;
}

static void the_checksum_of_the_test_is_the_published_one(void **state)
{
    (void)state;
    assert_int_equal(crc32c((const unsigned char *)"123456789", 9), 0xe3069283U);
}

/* The one event file of the test's folder. */
static char *read_events(int64_t *n)
{
    char **names = NULL, path[RF_PATH_LEN], *bytes = NULL;
    int64_t n_names = 0;
    assert_ok(rf_file_list(scratch_folder, &names, &n_names));
    assert_int_equal(n_names, 1);
    assert_int_equal(strncmp(names[0], "events.out.tfevents.", 20), 0);
    assert_ok(rf_path_join(path, scratch_folder, names[0]));
    assert_ok(rf_file_read(path, 1 << 24, &bytes, n));
    rf_file_list_free(names, n_names);
    return bytes;
}

/* Check both sums of the record at `at` and give its event; returns where the next one starts. */
static int64_t check_record(const char *bytes, int64_t n, int64_t at, const unsigned char **event,
                            uint64_t *event_bytes)
{
    const unsigned char *p = (const unsigned char *)bytes + at;
    uint32_t sum = 0;
    assert_true(n - at >= 16);
    memcpy(event_bytes, p, 8);
    memcpy(&sum, p + 8, 4);
    assert_int_equal(sum, masked(p, 8));
    assert_true((int64_t)*event_bytes <= n - at - 16);
    *event = p + 12;
    memcpy(&sum, p + 12 + *event_bytes, 4);
    assert_int_equal(sum, masked(p + 12, *event_bytes));
    return at + 16 + (int64_t)*event_bytes;
}

static void records_have_their_checksums_and_events_their_fields(void **state)
{
    rf_tfevents *t = NULL;
    const unsigned char *event = NULL;
    uint64_t n_event = 0;
    int64_t n = 0;
    (void)state;
    assert_ok(rf_tfevents_open(scratch_folder, "coder-a", &t));
    assert_ok(rf_tfevents_scalar(t, 300, 1.5, "loss", 0.25));
    assert_ok(rf_tfevents_flush(t));
    char *bytes = read_events(&n);
    int64_t at = check_record(bytes, n, 0, &event, &n_event);
    static const unsigned char version[] = "\x1a\x0d"
                                           "brain.Event:2";
    assert_int_equal(n_event, 9 + sizeof version - 1);
    assert_int_equal(event[0], 0x09); /* wall time: field 1, 8 bytes */
    assert_memory_equal(event + 9, version, sizeof version - 1);
    at = check_record(bytes, n, at, &event, &n_event);
    static const unsigned char expected[] = {
        0x09, 0,    0,    0,    0,    0,   0, 0xf8, 0x3f, /* wall time 1.5 */
        0x10, 0xac, 0x02,                                 /* step 300 */
        0x2a, 13,   0x0a, 11,                             /* summary, value */
        0x0a, 4,    'l',  'o',  's',  's',                /* tag */
        0x15, 0,    0,    0x80, 0x3e,                     /* simple_value 0.25 */
    };
    assert_int_equal(n_event, sizeof expected);
    assert_memory_equal(event, expected, sizeof expected);
    assert_int_equal(at, n);
    rf_free(bytes);
    rf_tfevents_close(t);
    rf_tfevents_close(NULL);
}

static void long_names_and_extreme_values_keep_records_whole(void **state)
{
    static char name[100001];
    rf_tfevents *t = NULL;
    const unsigned char *event = NULL;
    uint64_t n_event = 0;
    int64_t n = 0, at = 0, n_records = 0;
    (void)state;
    memset(name, 'n', sizeof name - 1);
    assert_ok(rf_tfevents_open(scratch_folder, "t", &t));
    assert_ok(rf_tfevents_scalar(t, INT64_MAX, 0, name, 1e300));
    assert_ok(rf_tfevents_scalar(t, 0, 0, "", NAN));
    assert_ok(rf_tfevents_scalar(t, -1, -1, "negative", -INFINITY));
    rf_tfevents_close(t);
    char *bytes = read_events(&n);
    while (at < n) {
        at = check_record(bytes, n, at, &event, &n_event);
        n_records++;
    }
    assert_int_equal(n_records, 4);
    rf_free(bytes);
}

static void two_runs_in_one_second_have_two_files(void **state)
{
    rf_tfevents *t[3] = {NULL};
    char **names = NULL;
    int64_t n = 0;
    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_ok(rf_tfevents_open(scratch_folder, "t", &t[i]));
    }
    assert_ok(rf_file_list(scratch_folder, &names, &n));
    assert_int_equal(n, 3);
    rf_file_list_free(names, n);
    for (int i = 0; i < 3; i++) {
        rf_tfevents_close(t[i]);
    }
}

static void a_record_that_does_not_fit_is_taken_back(void **state)
{
    struct rlimit limit = {.rlim_cur = 100, .rlim_max = RLIM_INFINITY};
    rf_tfevents *t = NULL;
    const unsigned char *event = NULL;
    uint64_t n_event = 0;
    int64_t n = 0, at = 0, n_records = 0;
    (void)state;
    assert_ok(rf_tfevents_open(scratch_folder, "t", &t)); /* 38 bytes */
    assert_ok(rf_tfevents_scalar(t, 1, 0, "a", 1));
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    rf_status status = rf_tfevents_scalar(t, 2, 0, "a", 2);
    limit.rlim_cur = RLIM_INFINITY;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_refused(status, RF_ERR_IO, "File too large");
    assert_ok(rf_tfevents_scalar(t, 3, 0, "a", 3));
    rf_tfevents_close(t);
    char *bytes = read_events(&n);
    while (at < n) {
        at = check_record(bytes, n, at, &event, &n_event);
        n_records++;
    }
    assert_int_equal(n_records, 3);
    rf_free(bytes);
}

static void a_wrong_folder_or_tag_is_refused(void **state)
{
    rf_tfevents *t = NULL;
    (void)state;
    assert_refused(rf_tfevents_open(scratch("none"), "t", &t), RF_ERR_NOT_FOUND,
                   "/none/events.out");
    assert_refused(rf_tfevents_open(scratch_folder, "a/b", &t), RF_ERR_INVALID_ARG, "'a/b'");
    assert_int_equal(rf_alloc_live(), 0);
}

/* "test_tfevents write FOLDER" writes a file for check_tfevents.py to read. */
static int write_sample(const char *folder)
{
    rf_tfevents *t = NULL;
    rf_status status = rf_tfevents_open(folder, "sample", &t);
    for (int64_t step = 0; step < 300 && status == RF_OK; step++) {
        status =
            rf_tfevents_scalar(t, step, 1e9 + (double)step, "train/loss", 1.0 / (double)(step + 1));
        if (status == RF_OK) {
            status = rf_tfevents_scalar(t, step * 1000000, 1e9, "l0", (double)step);
        }
    }
    rf_tfevents_close(t);
    return status != RF_OK;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_checksum_of_the_test_is_the_published_one),
        scratch_test(records_have_their_checksums_and_events_their_fields),
        scratch_test(long_names_and_extreme_values_keep_records_whole),
        scratch_test(two_runs_in_one_second_have_two_files),
        scratch_test(a_record_that_does_not_fit_is_taken_back),
        scratch_test(a_wrong_folder_or_tag_is_refused),
    };
    if (argc == 3 && strcmp(argv[1], "write") == 0) {
        return write_sample(argv[2]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
