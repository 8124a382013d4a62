#include "scratch.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { N_LARGE = (4 << 20) / 4 + 12345 }; /* of fp32: one chunk and a ragged rest */

static void limit_file_size(rlim_t bytes)
{
    struct rlimit limit = {.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void write_small(const char *path)
{
    static const float w[2][3] = {{1, 2, 3}, {4, 5, -0.0f}};
    static const double d[1] = {0.1};
    static const int64_t big = INT64_C(1) << 40;
    static const int32_t ids[3] = {-1, 0, 1};
    rf_h5_file *f = NULL;
    assert_ok(rf_h5_create(path, &f));
    assert_ok(rf_h5_write(f, "coder/a/w", RF_H5_F32, 2, (int64_t[]){2, 3}, w));
    assert_ok(rf_h5_write(f, "coder/a/d", RF_H5_F64, 1, (int64_t[]){1}, d));
    assert_ok(rf_h5_write(f, "step", RF_H5_I64, 0, NULL, &big));
    assert_ok(rf_h5_write(f, "ids", RF_H5_I32, 1, (int64_t[]){3}, ids));
    assert_ok(rf_h5_write(f, "empty", RF_H5_F32, 2, (int64_t[]){0, 7}, NULL));
    assert_ok(rf_h5_write_text(f, "config", "a: b\n"));
    assert_ok(rf_h5_write_text(f, "no-text", ""));
    assert_ok(rf_h5_commit(f));
}

static void what_is_written_reads_back(void **state)
{
    float w[2][3];
    double d = 0;
    int64_t big = 0, shape[8];
    int32_t ids[3];
    int n_dims = 0;
    char *text = NULL;
    rf_h5_file *f = NULL;
    (void)state;
    write_small(scratch("a.h5"));
    assert_false(rf_file_exists(scratch("a.h5.tmp")));
    assert_ok(rf_h5_open(scratch("a.h5"), &f));
    assert_ok(rf_h5_read(f, "coder/a/w", RF_H5_F32, 2, (int64_t[]){2, 3}, w));
    assert_true(w[1][1] == 5 && w[0][2] == 3);
    assert_ok(rf_h5_read(f, "coder/a/d", RF_H5_F64, 1, (int64_t[]){1}, &d));
    assert_true(d == 0.1);
    assert_ok(rf_h5_read(f, "step", RF_H5_I64, 0, NULL, &big));
    assert_true(big == INT64_C(1) << 40);
    assert_ok(rf_h5_read(f, "ids", RF_H5_I32, 1, (int64_t[]){3}, ids));
    assert_int_equal(ids[0], -1);
    assert_ok(rf_h5_read(f, "empty", RF_H5_F32, 2, (int64_t[]){0, 7}, NULL));
    assert_ok(rf_h5_shape(f, "empty", 8, &n_dims, shape));
    assert_true(n_dims == 2 && shape[0] == 0 && shape[1] == 7);
    assert_ok(rf_h5_shape(f, "step", 8, &n_dims, shape));
    assert_int_equal(n_dims, 0);
    assert_ok(rf_h5_read_text(f, "config", &text));
    assert_string_equal(text, "a: b\n");
    rf_free(text);
    assert_ok(rf_h5_read_text(f, "no-text", &text));
    assert_string_equal(text, "");
    rf_free(text);
    assert_true(rf_h5_has(f, "coder/a/w") && rf_h5_has(f, "step"));
    assert_false(rf_h5_has(f, "coder/b/w") || rf_h5_has(f, "") || rf_h5_has(f, "/step") ||
                 rf_h5_has(f, "step/x") || rf_h5_has(f, "coder/../step"));
    rf_h5_close(f);
    rf_h5_close(NULL);
}

static void shapes_around_a_chunk_keep_every_element(void **state)
{
    static const int64_t shapes[][3] = {
        {N_LARGE, 1, 1}, {1, N_LARGE, 1},       {3, (4 << 20) / 4 + 1, 1},
        {7, 100003, 3},  {(4 << 20) / 4, 1, 1}, {1, 1, (4 << 20) / 4 + 1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int64_t n = shapes[i][0] * shapes[i][1] * shapes[i][2];
        float *x = rf_calloc(n, sizeof *x), *back = rf_calloc(n, sizeof *back);
        rf_h5_file *f = NULL;
        for (int64_t j = 0; j < n; j++) {
            x[j] = (float)(j % 8388593);
        }
        assert_ok(rf_h5_create(scratch("a.h5"), &f));
        assert_ok(rf_h5_write(f, "x", RF_H5_F32, 3, shapes[i], x));
        assert_ok(rf_h5_commit(f));
        assert_ok(rf_h5_open(scratch("a.h5"), &f));
        assert_ok(rf_h5_read(f, "x", RF_H5_F32, 3, shapes[i], back));
        rf_h5_close(f);
        assert_memory_equal(x, back, (size_t)n * sizeof *x);
        rf_free(x);
        rf_free(back);
    }
}

static void the_same_arrays_give_the_same_bytes_at_another_time(void **state)
{
    uint64_t first = 0, second = 0;
    (void)state;
    write_small(scratch("1.h5"));
    usleep(1100000); /* times in HDF5 are whole seconds */
    void *holes = rf_calloc(1 << 20, 1);
    memset(holes, 0xee, 1 << 20); /* what padding must not be made of */
    rf_free(holes);
    write_small(scratch("2.h5"));
    assert_ok(rf_file_hash(scratch("1.h5"), &first, NULL));
    assert_ok(rf_file_hash(scratch("2.h5"), &second, NULL));
    assert_true(first == second);
}

static void type_and_shape_must_be_as_said(void **state)
{
    float w[6];
    int64_t n = 0;
    int n_dims = 0;
    char *text = NULL;
    rf_h5_file *f = NULL;
    (void)state;
    write_small(scratch("a.h5"));
    assert_ok(rf_h5_open(scratch("a.h5"), &f));
    assert_refused(rf_h5_read(f, "coder/a/w", RF_H5_F32, 2, (int64_t[]){3, 2}, w), RF_ERR_FORMAT,
                   "/a.h5': dataset 'coder/a/w' has the shape [2, 3], expected [3, 2]");
    assert_refused(rf_h5_read(f, "coder/a/w", RF_H5_F32, 1, (int64_t[]){6}, w), RF_ERR_FORMAT,
                   "[2, 3], expected [6]");
    assert_refused(rf_h5_read(f, "step", RF_H5_I64, 1, (int64_t[]){1}, w), RF_ERR_FORMAT,
                   "the shape [], expected [1]");
    assert_refused(rf_h5_read(f, "coder/a/w", RF_H5_I32, 2, (int64_t[]){2, 3}, w), RF_ERR_FORMAT,
                   "'coder/a/w' is not of int32");
    assert_refused(rf_h5_read(f, "coder/a/w", RF_H5_F64, 2, (int64_t[]){2, 3}, w), RF_ERR_FORMAT,
                   "'coder/a/w' is not of fp64");
    assert_refused(rf_h5_read(f, "none", RF_H5_F32, 0, NULL, w), RF_ERR_NOT_FOUND,
                   "/a.h5' has no dataset 'none'");
    assert_refused(rf_h5_read(f, "coder/a", RF_H5_F32, 0, NULL, w), RF_ERR_FORMAT,
                   "cannot open dataset 'coder/a': HDF5: ");
    assert_refused(rf_h5_shape(f, "coder/a/w", 1, &n_dims, &n), RF_ERR_FORMAT,
                   "has 2 dimensions, expected at most 1");
    assert_refused(rf_h5_read_text(f, "ids", &text), RF_ERR_FORMAT, "'ids' is not of uint8");
    assert_refused(rf_h5_read_text(f, "step", &text), RF_ERR_FORMAT, "is no text");
    assert_refused(rf_h5_write(f, "x", RF_H5_F32, 0, NULL, w), RF_ERR_INVALID_ARG, "for reading");
    rf_h5_close(f);
}

static void mistakes_of_the_writer_are_refused(void **state)
{
    float x[4] = {0};
    rf_h5_file *f = NULL;
    (void)state;
    assert_ok(rf_h5_create(scratch("a.h5"), &f));
    assert_ok(rf_h5_write(f, "a/x", RF_H5_F32, 1, (int64_t[]){4}, x));
    assert_refused(rf_h5_write(f, "a/x", RF_H5_F32, 1, (int64_t[]){4}, x), RF_ERR_INVALID_ARG,
                   "a dataset 'a/x' already");
    assert_refused(rf_h5_write(f, "a", RF_H5_F32, 1, (int64_t[]){4}, x), RF_ERR_INVALID_ARG,
                   "already");
    static const char *const names[] = {"", "/x", "x/", "a//b", ".", "..", "a/../b", "./x"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_refused(rf_h5_write(f, names[i], RF_H5_F32, 1, (int64_t[]){4}, x),
                       RF_ERR_INVALID_ARG, "is no dataset name");
    }
    assert_refused(rf_h5_write(f, "y", RF_H5_F32, 1, (int64_t[]){-1}, x), RF_ERR_INVALID_ARG, "-1");
    assert_refused(rf_h5_write(f, "y", RF_H5_F32, 9, (int64_t[9]){0}, x), RF_ERR_INVALID_ARG,
                   "9 dimensions");
    assert_refused(rf_h5_write(f, "y", RF_H5_F32, 2, (int64_t[]){INT64_MAX, 3}, x),
                   RF_ERR_INVALID_ARG, "overflows");
    assert_refused(rf_h5_write(f, "y", (rf_h5_type)99, 1, (int64_t[]){4}, x), RF_ERR_INVALID_ARG,
                   "type 99");
    assert_ok(rf_h5_commit(f)); /* mistakes do not spoil the file */
    assert_ok(rf_h5_open(scratch("a.h5"), &f));
    assert_true(rf_h5_has(f, "a/x"));
    assert_refused(rf_h5_commit(f), RF_ERR_INVALID_ARG, "opened for reading");
    assert_true(rf_file_exists(scratch("a.h5")));
    assert_refused(rf_h5_create(scratch("no/a.h5"), &f), RF_ERR_NOT_FOUND, "no/a.h5.tmp");
}

static void a_file_that_is_not_committed_leaves_the_old_one(void **state)
{
    float x[4] = {0};
    rf_h5_file *f = NULL;
    (void)state;
    put_text(scratch("a.h5"), "old");
    assert_ok(rf_h5_create(scratch("a.h5"), &f));
    assert_ok(rf_h5_write(f, "x", RF_H5_F32, 1, (int64_t[]){4}, x));
    rf_h5_close(f);
    assert_file_is(scratch("a.h5"), "old");
    assert_false(rf_file_exists(scratch("a.h5.tmp")));
    put_text(scratch("a.h5.tmp"), "of a killed writer");
    write_small(scratch("a.h5"));
    assert_ok(rf_h5_open(scratch("a.h5"), &f));
    rf_h5_close(f);
}

static rf_status save(const char *path)
{
    rf_status status = RF_OK;
    rf_h5_file *f = NULL;
    float *x = NULL;
    RF_ALLOC(x, N_LARGE);
    RF_TRY(rf_h5_create(path, &f));
    RF_TRY(rf_h5_write(f, "a/small", RF_H5_F32, 1, (int64_t[]){1000}, x));
    RF_TRY(rf_h5_write(f, "a/large", RF_H5_F32, 1, (int64_t[]){N_LARGE}, x));
    RF_TRY(rf_h5_write(f, "b/small", RF_H5_F32, 1, (int64_t[]){1000}, x));
    RF_TRY(rf_h5_write_text(f, "config", "a: b\n"));
    status = rf_h5_commit(f);
    f = NULL;
fail:
    rf_h5_close(f);
    rf_free(x);
    return status;
}

/* HDF5 keeps what it could not write and fails again when it is closed: so a process of its own for
 * every limit, which must end by itself and say the reason. */
static int try_limit(rlim_t bytes)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit limit = {.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        rf_status status = save(scratch("a.h5"));
        bool is_named = strstr(rf_error_text(), "/a.h5': File too large") != NULL;
        int code = status == RF_OK ? 0 : status != RF_ERR_IO ? 12 : is_named ? 1 : 13;
        exit(rf_alloc_live() != 0 ? 10 : code); /* HDF5 closes what is open: it must not crash */
    }
    int result = 0;
    assert_int_equal(waitpid(pid, &result, 0), pid);
    assert_true(WIFEXITED(result));
    return WEXITSTATUS(result);
}

static void a_full_disk_leaves_the_old_file_whole_wherever_it_strikes(void **state)
{
    static const rlim_t limits[] = {10,      50,      100,     500,     1000,    2000,    3000,
                                    4000,    4100,    4500,    5000,    6000,    8000,    100000,
                                    2000000, 2100000, 4000000, 4194304, 4200000, 4250000, 4253000};
    int n_failed = 0;
    (void)state;
    put_text(scratch("a.h5"), "old");
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        int result = try_limit(limits[i]);
        if (result != 1) {
            fail_msg("at %ld bytes the result is %d", (long)limits[i], result);
        }
        n_failed += result == 1;
        assert_file_is(scratch("a.h5"), "old");
        assert_false(rf_file_exists(scratch("a.h5.tmp")));
    }
    assert_true(n_failed > 0);
    assert_int_equal(try_limit(1 << 24), 0);
}

static void after_a_full_disk_the_process_goes_on(void **state)
{
    rf_h5_file *f = NULL;
    float *x = rf_calloc(N_LARGE, sizeof *x);
    (void)state;
    write_small(scratch("a.h5"));
    assert_ok(rf_h5_create(scratch("a.h5"), &f));
    limit_file_size(100000);
    rf_status status = rf_h5_write(f, "x", RF_H5_F32, 1, (int64_t[]){N_LARGE}, x);
    limit_file_size(RLIM_INFINITY);
    assert_refused(status, RF_ERR_IO, "dataset 'x': cannot write");
    assert_refused(rf_h5_write(f, "y", RF_H5_F32, 1, (int64_t[]){1}, x), RF_ERR_INVALID_ARG,
                   "a write to it failed");
    assert_refused(rf_h5_commit(f), RF_ERR_INVALID_ARG, "a write to it failed");
    rf_free(x);
    assert_ok(rf_h5_open(scratch("a.h5"), &f)); /* the old one */
    assert_true(rf_h5_has(f, "coder/a/w"));
    rf_h5_close(f);
    assert_ok(save(scratch("a.h5"))); /* there is room again */
}

static void a_flipped_bit_in_the_data_is_noticed(void **state)
{
    enum { N = 5000 };
    static float x[N];
    char *bytes = NULL;
    int64_t n = 0;
    rf_h5_file *f = NULL;
    (void)state;
    for (int i = 0; i < N; i++) {
        x[i] = 1234.5f;
    }
    assert_ok(rf_h5_create(scratch("a.h5"), &f));
    assert_ok(rf_h5_write(f, "w", RF_H5_F32, 1, (int64_t[]){N}, x));
    assert_ok(rf_h5_commit(f));
    assert_ok(rf_file_read(scratch("a.h5"), 1 << 20, &bytes, &n));
    char *hit = memmem(bytes, (size_t)n, x, 100);
    assert_non_null(hit);
    hit[401] ^= 4;
    put_file(scratch("b.h5"), bytes, (size_t)n);
    rf_free(bytes);
    assert_ok(rf_h5_open(scratch("b.h5"), &f));
    assert_refused(rf_h5_read(f, "w", RF_H5_F32, 1, (int64_t[]){N}, x), RF_ERR_FORMAT,
                   "/b.h5': cannot read dataset 'w': HDF5: ");
    rf_h5_close(f);
}

static void files_that_are_no_hdf5_are_refused(void **state)
{
    char *bytes = NULL;
    int64_t n = 0;
    rf_h5_file *f = NULL;
    (void)state;
    put_text(scratch("a.h5"), "");
    assert_refused(rf_h5_open(scratch("a.h5"), &f), RF_ERR_FORMAT, "/a.h5' is no HDF5 file");
    put_text(scratch("a.h5"), "a text that is longer than a signature of HDF5 would ever be");
    assert_refused(rf_h5_open(scratch("a.h5"), &f), RF_ERR_FORMAT, "/a.h5' is no HDF5 file");
    assert_refused(rf_h5_open(scratch("b.h5"), &f), RF_ERR_NOT_FOUND, "/b.h5'");
    write_small(scratch("a.h5"));
    assert_ok(rf_file_read(scratch("a.h5"), 1 << 20, &bytes, &n));
    for (int64_t cut = 8; cut < n; cut += 97) {
        put_file(scratch("cut.h5"), bytes, (size_t)cut);
        assert_refused(rf_h5_open(scratch("cut.h5"), &f), RF_ERR_FORMAT, "/cut.h5'");
    }
    bytes[12] = 8; /* the superblock's base: HDF5 would look for everything elsewhere */
    put_file(scratch("base.h5"), bytes, (size_t)n);
    assert_refused(rf_h5_open(scratch("base.h5"), &f), RF_ERR_UNSUPPORTED, "/base.h5'");
    bytes[12] = 0;
    bytes[20] = 48; /* its extension: that of a driver */
    put_file(scratch("more.h5"), bytes, (size_t)n);
    assert_refused(rf_h5_open(scratch("more.h5"), &f), RF_ERR_UNSUPPORTED, "an extension");
    bytes[8] = 0; /* its version: HDF5's older kind, without checksums */
    put_file(scratch("old.h5"), bytes, (size_t)n);
    rf_free(bytes);
    assert_refused(rf_h5_open(scratch("old.h5"), &f), RF_ERR_UNSUPPORTED,
                   "/old.h5' is of HDF5's older kind");
}

/* A file from elsewhere must not make us read a third one. */
static void links_and_data_outside_the_file_are_refused(void **state)
{
    float x[4] = {0};
    rf_h5_file *f = NULL;
    (void)state;
    assert_ok(rf_h5_open(RF_SOURCE_DIR "/tests/io/refuse/links.h5", &f));
    assert_false(rf_h5_has(f, "out") || rf_h5_has(f, "soft"));
    assert_refused(rf_h5_read(f, "out", RF_H5_I32, 1, (int64_t[]){3}, x), RF_ERR_NOT_FOUND,
                   "'out'");
    assert_refused(rf_h5_read(f, "outside", RF_H5_F32, 1, (int64_t[]){4}, x), RF_ERR_FORMAT,
                   "'outside' has its data in other files");
    assert_refused(rf_h5_read(f, "virtual", RF_H5_F32, 1, (int64_t[]){4}, x), RF_ERR_FORMAT,
                   "'virtual' has its data in other files");
    assert_refused(rf_h5_read(f, "below/inside", RF_H5_F32, 1, (int64_t[]){4}, x), RF_ERR_NOT_FOUND,
                   "'below/inside'");
    assert_ok(rf_h5_read(f, "inside", RF_H5_F32, 1, (int64_t[]){4}, x));
    assert_true(x[3] == 3);
    rf_h5_close(f);
}

static void nothing_is_left_behind(void **state)
{
    (void)state;
    assert_int_equal(rf_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(what_is_written_reads_back),
        scratch_test(shapes_around_a_chunk_keep_every_element),
        scratch_test(the_same_arrays_give_the_same_bytes_at_another_time),
        scratch_test(type_and_shape_must_be_as_said),
        scratch_test(mistakes_of_the_writer_are_refused),
        scratch_test(a_file_that_is_not_committed_leaves_the_old_one),
        scratch_test(a_full_disk_leaves_the_old_file_whole_wherever_it_strikes),
        scratch_test(after_a_full_disk_the_process_goes_on),
        scratch_test(a_flipped_bit_in_the_data_is_noticed),
        scratch_test(files_that_are_no_hdf5_are_refused),
        cmocka_unit_test(links_and_data_outside_the_file_are_refused),
        cmocka_unit_test(nothing_is_left_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
