/* A checkpoint that rank 0 reads: all ranks get it, or fail together with its reason. */
#include "../../src/train/run_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static rf_comm *world;

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s", #call, rf_error_text());                                            \
        }                                                                                          \
    } while (0)

/* The file exists where rank 0 is; the others are told its name and do not look. */
typedef struct bench {
    char path[RF_PATH_LEN];
    rf_backend *be;
    rf_stream *stream;
    rf_coder_settings settings;
    rf_checkpoint_coder coder;
    rf_checkpoint checkpoint;
} bench;

static void make_coder(bench *b)
{
    const rf_coder_shape shape = rf_coder_shape_of(5);
    const rf_optimiser_opts opts = {.kind = RF_OPTIMISER_ADAM};
    OK(rf_coder_create(b->be, &b->settings, &shape, &b->coder.coder));
    OK(rf_optimiser_create(b->be, b->coder.coder, &opts, &b->coder.opt));
}

static int setup(void **state)
{
    bench *b = rf_calloc(1, sizeof *b);
    const char *temp = getenv("TMPDIR");
    OK(rf_backend_cpu_create(1, &b->be));
    OK(rf_stream_create(b->be, &b->stream));
    OK(rf_settings_defaults(&rf_coder_settings_table, &b->settings));
    b->settings.latents = 9;
    b->settings.k.any = 2;
    make_coder(b);
    b->coder.name = "coder";
    b->checkpoint = (rf_checkpoint){.tick = 12,
                                    .settings = "x",
                                    .backend = "y",
                                    .weight_processing = "none",
                                    .coders = &b->coder,
                                    .n_coders = 1};
    if (rf_comm_rank(world) == 0) {
        rf_view w = rf_coder_view(b->coder.coder, RF_CODER_W_ENC);
        for (int64_t i = 0; i < rf_view_n_elems(&w); i++) {
            ((float *)w.data)[i] = (float)i;
        }
        OK(rf_format(b->path, sizeof b->path, "%s/rf_mpi_checkpoint_XXXXXX",
                     temp != NULL ? temp : "/tmp"));
        int fd = mkstemp(b->path);
        assert_true(fd >= 0);
        close(fd);
        b->coder.batches_done = 34;
        b->coder.failed = true;
        b->coder.stopping =
            (rf_stopping){.stop = RF_STOP_BAD, .n_lines = 7, .n_worse = 3, .best = -0.1};
        OK(rf_checkpoint_write(b->path, b->stream, &b->checkpoint));
    } else {
        OK(rf_format(b->path, sizeof b->path, "/not/on/this/rank"));
    }
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    bench *b = *state;
    if (rf_comm_rank(world) == 0) {
        unlink(b->path);
    }
    rf_optimiser_destroy(b->coder.opt);
    rf_coder_destroy(b->coder.coder);
    rf_stream_destroy(b->stream);
    rf_backend_destroy(b->be);
    rf_free(b);
    return 0;
}

static void test_every_rank_gets_what_rank_0_reads(void **state)
{
    bench *b = *state;
    b->coder.batches_done = 0;
    b->coder.failed = false;
    b->coder.stopping = (rf_stopping){0};
    OK(rf_checkpoint_read(world, b->path, b->stream, &b->checkpoint));
    assert_int_equal(b->checkpoint.tick, 12);
    assert_int_equal(b->coder.batches_done, 34);
    assert_true(b->coder.failed);
    assert_int_equal(b->coder.stopping.stop, RF_STOP_BAD);
    assert_true(b->coder.stopping.n_lines == 7 && b->coder.stopping.n_worse == 3 &&
                b->coder.stopping.best == -0.1);
    rf_view w = rf_coder_view(b->coder.coder, RF_CODER_W_ENC);
    for (int64_t i = 0; i < rf_view_n_elems(&w); i++) {
        assert_true(((float *)w.data)[i] == (float)i);
    }
}

static void test_a_damaged_file_is_the_same_failure_on_every_rank(void **state)
{
    bench *b = *state;
    if (rf_comm_rank(world) == 0) {
        OK(rf_file_write_atomic(b->path, "no HDF5", 7));
    }
    const rf_status status = rf_checkpoint_read(world, b->path, b->stream, &b->checkpoint);
    assert_true(status == RF_ERR_FORMAT || status == RF_ERR_IO);
    assert_non_null(strstr(rf_error_text(), "rf_mpi_checkpoint"));
    if (rf_comm_size(world) > 1) {
        assert_non_null(strstr(rf_error_text(), "rank 0"));
    }
}

static void test_a_tensor_of_another_shape_is_the_same_failure_on_every_rank(void **state)
{
    bench *b = *state;
    rf_optimiser_destroy(b->coder.opt);
    rf_coder_destroy(b->coder.coder);
    b->settings.latents = 10;
    make_coder(b);
    assert_int_equal(rf_checkpoint_read(world, b->path, b->stream, &b->checkpoint), RF_ERR_FORMAT);
    assert_non_null(strstr(rf_error_text(), "W_enc"));
}

static void test_threads_are_shared_by_the_ranks_of_a_host(void **state)
{
    (void)state;
    int64_t n = 0;
    const char *set = getenv("OMP_NUM_THREADS");
    char *kept = set != NULL ? rf_strdup(set) : NULL;
    OK(rf_training_count_threads(world, 7, &n));
    assert_int_equal(n, 7); /* as asked */
    setenv("OMP_NUM_THREADS", "3", 1);
    OK(rf_training_count_threads(world, 0, &n));
    assert_int_equal(n, 3);
    unsetenv("OMP_NUM_THREADS");
    OK(rf_training_count_threads(world, 0, &n));
    assert_in_range(n, 1, sysconf(_SC_NPROCESSORS_ONLN));
    int64_t sum = n;
    OK(rf_comm_sum_i64(world, &sum, 1));
    assert_true(n == 1 || sum <= sysconf(_SC_NPROCESSORS_ONLN));
    if (kept != NULL) {
        setenv("OMP_NUM_THREADS", kept, 1);
    }
    rf_free(kept);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_rank_gets_what_rank_0_reads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_damaged_file_is_the_same_failure_on_every_rank,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_a_tensor_of_another_shape_is_the_same_failure_on_every_rank, setup, teardown),
        cmocka_unit_test(test_threads_are_shared_by_the_ranks_of_a_host),
    };
    if (rf_comm_start(&argc, &argv, &world) != RF_OK) {
        return 1;
    }
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    rf_comm_finish(world);
    return n_failed;
}
