/* Tar files that others wrote, and ones that are damaged or hostile. */
#include "scratch.h"
#include "tar_writer.h"

#include <fcntl.h>
#include <pthread.h>

/* "folder-", thirty times the digits, and the file. */
static const char *long_name(void)
{
    static char name[400];
    if (name[0] == '\0') {
        int n = snprintf(name, sizeof name, "folder-");
        for (int i = 0; i < 30; i++) {
            n += snprintf(name + n, sizeof name - (size_t)n, "0123456789");
        }
        snprintf(name + n, sizeof name - (size_t)n, "/überlang.long.png");
    }
    return name;
}

/* ---- what Python's tarfile wrote (tests/golden/make_tar.py) -----------------------------------
 */

typedef struct wanted {
    const char *name;
    rf_tar_kind kind;
    int64_t n_bytes;
} wanted;

static const wanted all[] = {
    {"set/", RF_TAR_FOLDER, 0},
    {"set/grün.jpg", RF_TAR_FILE, 768},
    {"set/grün.cls", RF_TAR_FILE, 3},
    {"empty.png", RF_TAR_FILE, 0},
    {"block.webp", RF_TAR_FILE, 512},
    {"block.json", RF_TAR_FILE, 34},
    {NULL, RF_TAR_FILE, 4}, /* the long name, of which ustar has none */
    {"link.jpg", RF_TAR_OTHER, 0},
    {"hard.jpg", RF_TAR_OTHER, 0},
    {"../../up.jpeg", RF_TAR_FILE, 2},
    {"/root.jpg", RF_TAR_FILE, 1},
};
enum { N_ALL = sizeof all / sizeof all[0] };

static void check_data(const char *name, const char *bytes, int64_t n_bytes)
{
    if (strcmp(name, "set/grün.jpg") == 0) {
        for (int64_t i = 0; i < n_bytes; i++) {
            assert_int_equal((unsigned char)bytes[i], i % 256);
        }
    }
    if (strcmp(name, "set/grün.cls") == 0) {
        assert_string_equal(bytes, "17\n");
    }
    if (strcmp(name, "/root.jpg") == 0) {
        assert_string_equal(bytes, "r");
    }
    assert_int_equal(bytes[n_bytes], 0);
}

/* Walks, and reads each file twice: from `other` by place, and, where `here`, as it comes by. */
static void check_golden(const char *path, bool has_long, bool here)
{
    rf_tar *tar = NULL, *other = NULL;
    rf_tar_member m;
    bool has = false;
    assert_ok(rf_tar_open(path, &tar));
    assert_ok(rf_tar_open(path, &other));
    for (int i = 0; i < N_ALL; i++) {
        if (all[i].name == NULL && !has_long) {
            continue;
        }
        char *bytes = NULL;
        int64_t n_bytes = -1;
        assert_ok(rf_tar_next(tar, &m, &has));
        assert_true(has);
        assert_string_equal(m.name, all[i].name != NULL ? all[i].name : long_name());
        assert_int_equal(m.kind, all[i].kind);
        assert_int_equal(m.n_bytes, all[i].n_bytes);
        assert_int_equal(m.place % TAR_BLOCK, 0);
        if (m.kind != RF_TAR_FILE) {
            continue;
        }
        assert_ok(rf_tar_read(other, &m, 1000, &bytes, &n_bytes));
        assert_int_equal(n_bytes, m.n_bytes);
        check_data(m.name, bytes, n_bytes);
        rf_free(bytes);
        if (here) {
            assert_ok(rf_tar_read_here(tar, 1000, &bytes, &n_bytes));
            assert_int_equal(n_bytes, m.n_bytes);
            check_data(m.name, bytes, n_bytes);
            rf_free(bytes);
        }
    }
    assert_ok(rf_tar_next(tar, &m, &has));
    assert_false(has);
    assert_ok(rf_tar_next(tar, &m, &has));
    assert_false(has);
    rf_tar_close(tar);
    rf_tar_close(other);
}

static void members_of_ustar_gnu_and_pax_are_named_and_read(void **state)
{
    (void)state;
    int64_t live = rf_alloc_live();
    for (int here = 0; here < 2; here++) {
        check_golden(RF_GOLDEN_DIR "/tar/ustar.tar", false, here != 0);
        check_golden(RF_GOLDEN_DIR "/tar/gnu.tar", true, here != 0);
        check_golden(RF_GOLDEN_DIR "/tar/pax.tar", true, here != 0);
    }
    assert_int_equal(rf_alloc_live(), live);
}

static rf_status walk(const char *path, int64_t *n)
{
    rf_status status = RF_OK;
    rf_tar *tar = NULL;
    rf_tar_member m;
    bool has = true;
    *n = -1;
    RF_TRY(rf_tar_open(path, &tar));
    while (has) {
        (*n)++;
        RF_TRY(rf_tar_next(tar, &m, &has));
    }
fail:
    rf_tar_close(tar);
    return status;
}

static void sparse_members_are_refused(void **state)
{
    int64_t n = 0;
    (void)state;
    assert_refused(walk(RF_GOLDEN_DIR "/tar/sparse-gnu.tar", &n), RF_ERR_UNSUPPORTED, "sparse");
    assert_refused(walk(RF_GOLDEN_DIR "/tar/sparse-pax.tar", &n), RF_ERR_UNSUPPORTED, "sparse");
}

/* ---- ours -------------------------------------------------------------------------------------
 */

/* Three files of odd sizes; where each ends is in `ends`. */
static void make_three(rf_str *tar, int64_t ends[3])
{
    static const int64_t sizes[] = {700, 512, 40000};
    static char bytes[40000];
    memset(bytes, 'b', sizeof bytes);
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d.jpg", i);
        assert_ok(tar_put_bytes(tar, name, bytes, sizes[i]));
        ends[i] = tar->len;
    }
    assert_ok(tar_end(tar));
}

static void a_file_cut_anywhere_is_refused_with_the_place(void **state)
{
    rf_str tar = {0};
    int64_t ends[3], n = 0;
    char place[64], end[64];
    (void)state;
    make_three(&tar, ends);
    const char *path = scratch("cut.tar");
    put_file(path, tar.data, (size_t)tar.len);
    assert_ok(walk(path, &n));
    assert_int_equal(n, 3);
    const int64_t cuts[] = {0,
                            1,
                            511,
                            512,
                            600,
                            ends[0] - 1,
                            ends[0],
                            ends[0] + 1,
                            ends[0] + 512,
                            ends[1] - 1,
                            ends[1],
                            ends[1] + 5000,
                            ends[2] - 513,
                            ends[2] - 1,
                            ends[2],
                            ends[2] + 511};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        put_file(path, tar.data, (size_t)cuts[i]);
        assert_refused(walk(path, &n), RF_ERR_FORMAT, "cut.tar");
        if (cuts[i] >= ends[0]) {
            const int64_t at = cuts[i] >= ends[2]   ? ends[2]
                               : cuts[i] >= ends[1] ? ends[1]
                                                    : ends[0];
            snprintf(place, sizeof place, "at byte %" PRId64 ":", at);
            snprintf(end, sizeof end, "at byte %" PRId64 ":", cuts[i]); /* in what fills a block */
            if (strstr(rf_error_text(), place) == NULL && strstr(rf_error_text(), end) == NULL) {
                fail_msg("cut at %" PRId64 ": \"%s\", expected \"%s\"", cuts[i], rf_error_text(),
                         place);
            }
        }
    }
    put_file(path, tar.data, (size_t)ends[2] + 512); /* one block of zeros will do */
    assert_ok(walk(path, &n));
    rf_str_fini(&tar);
}

static void what_follows_the_end_is_refused(void **state)
{
    rf_str tar = {0};
    int64_t ends[3], n = 0;
    (void)state;
    make_three(&tar, ends);
    const int64_t len = tar.len;
    assert_ok(rf_str_append_bytes(&tar, tar.data, 0));
    char *copy = rf_calloc(len, 1);
    memcpy(copy, tar.data, (size_t)len);
    assert_ok(rf_str_append_bytes(&tar, copy, len)); /* cat a.tar a.tar */
    const char *path = scratch("two.tar");
    put_file(path, tar.data, (size_t)tar.len);
    assert_refused(walk(path, &n), RF_ERR_FORMAT, "two files put together");
    rf_free(copy);
    rf_str_fini(&tar);
}

static void damaged_headers_are_refused(void **state)
{
    rf_str tar = {0};
    int64_t ends[3], n = 0;
    (void)state;
    make_three(&tar, ends);
    const char *path = scratch("damaged.tar");
    for (int64_t at = ends[0]; at < ends[0] + 300; at += 37) {
        tar.data[at] ^= 0x20;
        put_file(path, tar.data, (size_t)tar.len);
        assert_refused(walk(path, &n), RF_ERR_FORMAT, "damaged.tar");
        tar.data[at] ^= 0x20;
    }
    rf_str_fini(&tar);
}

static void sizes_beyond_the_file_are_refused_without_the_memory(void **state)
{
    (void)state;
    const int64_t sizes[] = {513, INT64_C(1) << 32, (INT64_C(1) << 33) - 1};
    for (int i = 0; i < 3; i++) {
        rf_str tar = {0};
        int64_t n = 0;
        assert_ok(tar_header(&tar, "big.jpg", '0', sizes[i]));
        assert_ok(tar_end(&tar));
        const char *path = scratch("big.tar");
        put_file(path, tar.data, (size_t)tar.len);
        assert_refused(walk(path, &n), RF_ERR_FORMAT, sizes[i] > 1024 ? "cut short" : "big.tar");
        rf_str_fini(&tar);
    }
}

static void what_is_no_tar_is_refused_with_the_reason(void **state)
{
    static const struct {
        const char *bytes, *text;
        size_t n;
        rf_status status;
    } cases[] = {
        {"", "too few", 0, RF_ERR_FORMAT},
        {"\x1f\x8b\x08 and more", "gzip", 12, RF_ERR_UNSUPPORTED},
        {"BZh91AY", "bzip2", 7, RF_ERR_UNSUPPORTED},
        {"\xfd"
         "7zXZ",
         "xz", 6, RF_ERR_UNSUPPORTED},
        {"\x28\xb5\x2f\xfd 1234", "zstd", 9, RF_ERR_UNSUPPORTED},
        {"<html>", "too few", 6, RF_ERR_FORMAT},
    };
    int64_t n = 0;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *path = scratch("other.tar");
        put_file(path, cases[i].bytes, cases[i].n);
        assert_refused(walk(path, &n), cases[i].status, cases[i].text);
    }
    char noise[2000];
    for (size_t i = 0; i < sizeof noise; i++) {
        noise[i] = (char)(37 * i % 251 + 1);
    }
    put_file(scratch("noise.tar"), noise, sizeof noise);
    assert_refused(walk(scratch("noise.tar"), &n), RF_ERR_FORMAT, "noise.tar");
    assert_refused(walk(scratch("absent.tar"), &n), RF_ERR_NOT_FOUND, "absent.tar");
    assert_refused(walk(scratch_folder, &n), RF_ERR_IO, "expected a file");
    memset(noise, 0, sizeof noise);
    put_file(scratch("zeros.tar"), noise, 1024);
    assert_ok(walk(scratch("zeros.tar"), &n)); /* a tar file without members */
    assert_int_equal(n, 0);
}

static void reading_asks_for_the_member_that_was_listed(void **state)
{
    rf_str tar = {0};
    int64_t ends[3], n_bytes = 0;
    char *bytes = NULL;
    rf_tar *t = NULL;
    (void)state;
    make_three(&tar, ends);
    put_file(scratch("a.tar"), tar.data, (size_t)tar.len);
    assert_ok(rf_tar_open(scratch("a.tar"), &t));
    rf_tar_member m = {.name = "1.jpg", .place = ends[0], .n_bytes = 512};
    assert_ok(rf_tar_read(t, &m, 512, &bytes, &n_bytes));
    rf_free(bytes);
    assert_refused(rf_tar_read(t, &m, 511, &bytes, &n_bytes), RF_ERR_FORMAT, "at most 511");
    m.name = "2.jpg";
    assert_refused(rf_tar_read(t, &m, 512, &bytes, &n_bytes), RF_ERR_FORMAT, "was changed");
    m = (rf_tar_member){.name = "1.jpg", .place = ends[0], .n_bytes = 511};
    assert_refused(rf_tar_read(t, &m, 512, &bytes, &n_bytes), RF_ERR_FORMAT, "was changed");
    m = (rf_tar_member){.name = "1.jpg", .place = ends[0] + 512, .n_bytes = 512};
    assert_int_equal(rf_tar_read(t, &m, 512, &bytes, &n_bytes), RF_ERR_FORMAT);
    m.place = ends[2];
    assert_refused(rf_tar_read(t, &m, 512, &bytes, &n_bytes), RF_ERR_FORMAT, "was changed");
    m.place = tar.len + 5000;
    assert_int_equal(rf_tar_read(t, &m, 512, &bytes, &n_bytes), RF_ERR_FORMAT);
    m.place = -1;
    assert_int_equal(rf_tar_read(t, &m, 512, &bytes, &n_bytes), RF_ERR_INVALID_ARG);
    assert_null(bytes);
    rf_tar_close(t);
    rf_tar_close(NULL);
    rf_str_fini(&tar);
}

/* ---- threads ----------------------------------------------------------------------------------
 */

enum { N_THREADS = 4, N_ROUNDS = 50 };

static rf_tar *shared;
static int64_t shared_ends[3];

static void *read_many(void *arg)
{
    int64_t *n_wrong = arg;
    for (int i = 0; i < N_ROUNDS; i++) {
        char *bytes = NULL;
        int64_t n = 0;
        const rf_tar_member m = {.name = "2.jpg", .place = shared_ends[1], .n_bytes = 40000};
        *n_wrong += rf_tar_read(shared, &m, 40000, &bytes, &n) != RF_OK || n != 40000 ||
                    bytes[0] != 'b' || bytes[39999] != 'b';
        rf_free(bytes);
    }
    return NULL;
}

static void threads_read_at_once(void **state)
{
    rf_str tar = {0};
    pthread_t threads[N_THREADS];
    int64_t n_wrong[N_THREADS] = {0};
    (void)state;
    make_three(&tar, shared_ends);
    put_file(scratch("shared.tar"), tar.data, (size_t)tar.len);
    assert_ok(rf_tar_open(scratch("shared.tar"), &shared));
    for (int i = 0; i < N_THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, read_many, &n_wrong[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(n_wrong[i], 0);
    }
    rf_tar_close(shared);
    rf_str_fini(&tar);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_of_ustar_gnu_and_pax_are_named_and_read),
        cmocka_unit_test(sparse_members_are_refused),
        scratch_test(a_file_cut_anywhere_is_refused_with_the_place),
        scratch_test(what_follows_the_end_is_refused),
        scratch_test(damaged_headers_are_refused),
        scratch_test(sizes_beyond_the_file_are_refused_without_the_memory),
        scratch_test(what_is_no_tar_is_refused_with_the_reason),
        scratch_test(reading_asks_for_the_member_that_was_listed),
        scratch_test(threads_read_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
