/* Checkpoints: what is written is read, and nothing else is; a failure keeps the one before. */
#include "../../src/train/run_impl.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

enum { WIDTH = 7, N_CODERS = 2, SEED = 11 };

/* Two coders of unlike shape, with their moments, all filled with numbers. */
typedef struct world {
    char dir[RF_PATH_LEN], path[RF_PATH_LEN];
    rf_backend *be;
    rf_stream *stream;
    rf_coder_settings settings[N_CODERS];
    rf_checkpoint_coder coders[N_CODERS];
    rf_checkpoint checkpoint;
} world;

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s", #call, rf_error_text());                                            \
        }                                                                                          \
    } while (0)

static void fill(rf_view view, uint64_t key)
{
    for (int64_t i = 0; i < rf_view_n_elems(&view); i++) {
        uint32_t r[4];
        rf_random_u32x4(SEED, RF_RANDOM_TEST, key, (uint64_t)i, r);
        if (view.dtype == RF_F32) {
            ((float *)view.data)[i] = (float)r[0] / 4e9f - 0.5f;
        } else {
            ((int64_t *)view.data)[i] = r[0];
        }
    }
}

static void make_coders(world *w, bool filled)
{
    for (int i = 0; i < N_CODERS; i++) {
        rf_checkpoint_coder *c = &w->coders[i];
        OK(rf_coder_create(w->be, &w->settings[i], WIDTH, &c->coder));
        OK(rf_optimiser_create(w->be, c->coder, &c->opt));
        c->name = w->settings[i].name;
        for (int t = 0; filled && t < rf_coder_n_tensors(c->coder); t++) {
            fill(rf_coder_tensor_at(c->coder, t).view, (uint64_t)(100 * i + t));
        }
        for (int t = 0; filled && t < rf_optimiser_n_tensors(c->opt); t++) {
            fill(rf_optimiser_tensor_view(c->opt, t), (uint64_t)(100 * i + 50 + t));
        }
        c->batches_done = filled ? 41 + i : 0;
        c->failed = filled && i == 1;
    }
}

static void free_coders(world *w)
{
    for (int i = 0; i < N_CODERS; i++) {
        rf_optimiser_destroy(w->coders[i].opt);
        rf_coder_destroy(w->coders[i].coder);
        w->coders[i] = (rf_checkpoint_coder){0};
    }
}

static int setup(void **state)
{
    world *w = rf_calloc(1, sizeof *w);
    const char *temp = getenv("TMPDIR");
    OK(rf_format(w->dir, sizeof w->dir, "%s/rf_checkpoint_XXXXXX", temp != NULL ? temp : "/tmp"));
    assert_non_null(mkdtemp(w->dir));
    OK(rf_path_join(w->path, w->dir, "c.h5"));
    OK(rf_backend_cpu_create(1, &w->be));
    OK(rf_stream_create(w->be, &w->stream));
    for (int i = 0; i < N_CODERS; i++) {
        OK(rf_settings_defaults(&rf_coder_settings_table, &w->settings[i]));
        OK(rf_format(w->settings[i].name, sizeof w->settings[i].name, "coder-%d", i));
        w->settings[i].latents = 5 + 8 * i;
        w->settings[i].k = 2;
    }
    make_coders(w, true);
    w->checkpoint = (rf_checkpoint){.tick = 99,
                                    .picture_hash = UINT64_C(0xfedcba9876543210),
                                    .model_hash = 3,
                                    .settings = "train: {lr: 1}\n",
                                    .backend = "a machine",
                                    .weight_processing = "fold_ln",
                                    .coders = w->coders,
                                    .n_coders = N_CODERS};
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    char **names = NULL, path[RF_PATH_LEN];
    int64_t n = 0;
    free_coders(w);
    rf_stream_destroy(w->stream);
    rf_backend_destroy(w->be);
    OK(rf_file_list(w->dir, &names, &n));
    for (int64_t i = 0; i < n; i++) {
        OK(rf_path_join(path, w->dir, names[i]));
        unlink(path);
    }
    rf_file_list_free(names, n);
    rmdir(w->dir);
    rf_free(w);
    return 0;
}

/* Every tensor of both coders, one after another. */
static void dump(const world *w, rf_str *out)
{
    for (int i = 0; i < N_CODERS; i++) {
        const rf_checkpoint_coder *c = &w->coders[i];
        for (int t = 0; t < rf_coder_n_tensors(c->coder); t++) {
            rf_view v = rf_coder_tensor_at(c->coder, t).view;
            OK(rf_str_append_bytes(out, v.data,
                                   rf_view_n_elems(&v) * (int64_t)rf_dtype_bytes(v.dtype)));
        }
        for (int t = 0; t < rf_optimiser_n_tensors(c->opt); t++) {
            rf_view v = rf_optimiser_tensor_view(c->opt, t);
            OK(rf_str_append_bytes(out, v.data,
                                   rf_view_n_elems(&v) * (int64_t)rf_dtype_bytes(v.dtype)));
        }
        OK(rf_str_append_bytes(out, &c->batches_done, sizeof c->batches_done));
        OK(rf_str_append_bytes(out, &c->failed, sizeof c->failed));
    }
}

static void test_everything_that_was_written_is_read_bit_for_bit(void **state)
{
    world *w = *state;
    rf_str before = {0}, after = {0};
    rf_checkpoint_header header;

    dump(w, &before);
    OK(rf_checkpoint_write(w->path, w->stream, &w->checkpoint));
    free_coders(w);
    make_coders(w, false);
    w->checkpoint.tick = 0;
    OK(rf_checkpoint_read(NULL, w->path, w->stream, &w->checkpoint));
    dump(w, &after);
    assert_int_equal(before.len, after.len);
    assert_memory_equal(before.data, after.data, (size_t)before.len);
    assert_int_equal(w->checkpoint.tick, 99);
    OK(rf_checkpoint_read_header(w->path, &header));
    assert_true(header.picture_hash == UINT64_C(0xfedcba9876543210) && header.model_hash == 3);
    assert_int_equal(header.n_coders, N_CODERS);
    assert_string_equal(header.settings, "train: {lr: 1}\n");
    assert_string_equal(header.backend, "a machine");
    assert_string_equal(header.weight_processing, "fold_ln");
    rf_checkpoint_header_fini(&header);
    rf_str_fini(&before);
    rf_str_fini(&after);
}

static void test_the_same_state_gives_the_same_bytes(void **state)
{
    world *w = *state;
    char *first = NULL, *second = NULL;
    int64_t n_first = 0, n_second = 0;
    OK(rf_checkpoint_write(w->path, w->stream, &w->checkpoint));
    OK(rf_file_read(w->path, 1 << 24, &first, &n_first));
    sleep(1); /* a time stamp would differ */
    OK(rf_checkpoint_write(w->path, w->stream, &w->checkpoint));
    OK(rf_file_read(w->path, 1 << 24, &second, &n_second));
    assert_int_equal(n_first, n_second);
    assert_memory_equal(first, second, (size_t)n_first);
    rf_free(first);
    rf_free(second);
}

static void test_one_coder_is_read_without_its_moments(void **state)
{
    world *w = *state;
    int64_t width = 0;
    rf_checkpoint_coder c = {.name = "coder-1"};

    OK(rf_checkpoint_write(w->path, w->stream, &w->checkpoint));
    OK(rf_checkpoint_read_width(w->path, 1, &w->settings[1], &width));
    assert_int_equal(width, WIDTH);
    OK(rf_coder_create(w->be, &w->settings[1], width, &c.coder));
    OK(rf_checkpoint_read_coder(w->path, w->stream, 1, &c));
    rf_view a = rf_coder_view(c.coder, RF_CODER_W_DEC);
    rf_view b = rf_coder_view(w->coders[1].coder, RF_CODER_W_DEC);
    assert_memory_equal(a.data, b.data, (size_t)rf_view_n_elems(&b) * sizeof(float));
    assert_int_equal(c.batches_done, 42);
    /* the shape of another coder is not believed */
    assert_int_equal(rf_checkpoint_read_width(w->path, 0, &w->settings[1], &width), RF_ERR_FORMAT);
    assert_int_equal(rf_checkpoint_read_width(w->path, 9, &w->settings[1], &width),
                     RF_ERR_NOT_FOUND);
    rf_coder_destroy(c.coder);
}

static void assert_unreadable(world *w)
{
    const rf_status status = rf_checkpoint_read(NULL, w->path, w->stream, &w->checkpoint);
    if (status != RF_ERR_FORMAT && status != RF_ERR_IO && status != RF_ERR_NOT_FOUND) {
        fail_msg("status %d: %s", (int)status, rf_error_text());
    }
    assert_true(strlen(rf_error_text()) > 0);
}

static void test_other_shapes_names_and_numbers_are_refused(void **state)
{
    world *w = *state;
    OK(rf_checkpoint_write(w->path, w->stream, &w->checkpoint));

    w->coders[1].name = "another";
    assert_unreadable(w);
    assert_non_null(strstr(rf_error_text(), "another"));
    w->coders[1].name = w->settings[1].name;
    w->checkpoint.n_coders = 1;
    assert_unreadable(w);
    w->checkpoint.n_coders = 2;

    free_coders(w); /* a dictionary of another size */
    w->settings[0].latents = 6;
    make_coders(w, false);
    assert_unreadable(w);
    assert_non_null(strstr(rf_error_text(), "coders/00000/"));

    rf_view counters = rf_coder_view(w->coders[0].coder, RF_CODER_COUNTERS);
    ((int64_t *)counters.data)[0] = -1;
    OK(rf_checkpoint_write(w->path, w->stream, &w->checkpoint));
    assert_unreadable(w);
    assert_non_null(strstr(rf_error_text(), "counters"));
}

static void test_files_that_are_no_checkpoint_are_refused(void **state)
{
    world *w = *state;
    rf_h5_file *f = NULL;
    rf_checkpoint_header header;
    const int64_t one = 1, version = 7;

    assert_unreadable(w); /* not there */
    OK(rf_file_write_atomic(w->path, "", 0));
    assert_unreadable(w);
    OK(rf_file_write_atomic(w->path, "some text, not HDF5", 19));
    assert_unreadable(w);
    OK(rf_h5_create(w->path, &f));
    OK(rf_h5_write_text(f, "format", "refract store"));
    OK(rf_h5_commit(f));
    assert_unreadable(w);
    assert_non_null(strstr(rf_error_text(), "refract store"));
    OK(rf_h5_create(w->path, &f));
    OK(rf_h5_write_text(f, "format", "refract checkpoint"));
    OK(rf_h5_write(f, "version", RF_H5_I64, 1, &one, &version));
    OK(rf_h5_commit(f));
    assert_int_equal(rf_checkpoint_read_header(w->path, &header), RF_ERR_FORMAT);
    assert_non_null(strstr(rf_error_text(), "version 7"));
}

static void test_a_file_from_before_weight_processing_had_none(void **state)
{
    world *w = *state;
    rf_h5_file *f = NULL;
    rf_checkpoint_header header;
    const int64_t one = 1;
    static const char *const numbers[] = {"version", "tick", "n_coders", "picture_hash",
                                          "model_hash"};

    OK(rf_h5_create(w->path, &f));
    OK(rf_h5_write_text(f, "format", "refract checkpoint"));
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        OK(rf_h5_write(f, numbers[i], RF_H5_I64, 1, &one, &one));
    }
    OK(rf_h5_write_text(f, "settings", "train: {lr: 1}\n"));
    OK(rf_h5_write_text(f, "backend", "a machine"));
    OK(rf_h5_commit(f));
    OK(rf_checkpoint_read_header(w->path, &header));
    assert_string_equal(header.weight_processing, "none");
    rf_checkpoint_header_fini(&header);
}

static void test_a_truncated_file_is_refused_at_any_length(void **state)
{
    world *w = *state;
    char *bytes = NULL;
    int64_t n = 0;
    OK(rf_checkpoint_write(w->path, w->stream, &w->checkpoint));
    OK(rf_file_read(w->path, 1 << 24, &bytes, &n));
    for (int64_t len = 0; len < n; len += 1 + n / 40) {
        OK(rf_file_write_atomic(w->path, bytes, len));
        assert_unreadable(w);
    }
    rf_free(bytes);
}

/* Bytes that nothing reads (padding, unused parts of HDF5's structures) may change unseen; values
 * that are read never. */
static void test_flipped_bytes_never_give_other_values(void **state)
{
    world *w = *state;
    char *bytes = NULL;
    int64_t n = 0, n_refused = 0;
    rf_str before = {0};

    dump(w, &before);
    OK(rf_checkpoint_write(w->path, w->stream, &w->checkpoint));
    OK(rf_file_read(w->path, 1 << 24, &bytes, &n));
    for (int64_t at = 0; at < n; at += 1 + n / 500) {
        bytes[at] = (char)(bytes[at] ^ 0x10);
        OK(rf_file_write_atomic(w->path, bytes, n));
        bytes[at] = (char)(bytes[at] ^ 0x10);
        if (rf_checkpoint_read(NULL, w->path, w->stream, &w->checkpoint) == RF_OK) {
            rf_str after = {0};
            dump(w, &after);
            assert_int_equal(after.len, before.len);
            if (memcmp(before.data, after.data, (size_t)before.len) != 0) {
                fail_msg("byte %lld of %lld changed what was read", (long long)at, (long long)n);
            }
            rf_str_fini(&after);
        } else {
            n_refused++;
        }
    }
    assert_true(n_refused > 0);
    rf_str_fini(&before);
    rf_free(bytes);
}

static void test_a_full_disk_keeps_the_checkpoint_before(void **state)
{
    world *w = *state;
    char *before = NULL, *after = NULL;
    int64_t n_before = 0, n_after = 0;
    struct rlimit old, small;

    OK(rf_checkpoint_write(w->path, w->stream, &w->checkpoint));
    OK(rf_file_read(w->path, 1 << 24, &before, &n_before));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = (rlim_t)(n_before / 2);
    signal(SIGXFSZ, SIG_IGN); /* a write beyond the limit fails with EFBIG */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    w->checkpoint.tick = 100;
    const rf_status status = rf_checkpoint_write(w->path, w->stream, &w->checkpoint);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(status, RF_ERR_IO);
    assert_non_null(strstr(rf_error_text(), "checkpoint"));
    OK(rf_file_read(w->path, 1 << 24, &after, &n_after));
    assert_int_equal(n_before, n_after);
    assert_memory_equal(before, after, (size_t)n_before);
    w->checkpoint.tick = 0;
    OK(rf_checkpoint_read(NULL, w->path, w->stream, &w->checkpoint));
    assert_int_equal(w->checkpoint.tick, 99);
    rf_free(before);
    rf_free(after);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_everything_that_was_written_is_read_bit_for_bit, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_same_state_gives_the_same_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_coder_is_read_without_its_moments, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_other_shapes_names_and_numbers_are_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_files_that_are_no_checkpoint_are_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_file_from_before_weight_processing_had_none, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_truncated_file_is_refused_at_any_length, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_flipped_bytes_never_give_other_values, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_full_disk_keeps_the_checkpoint_before, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
