/* Checkpoints: what is written is read, and nothing else is; a failure keeps the one before. */
#include "../../src/train/run_impl.h"

#include <fcntl.h>
#include <math.h>
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
    rf_coder_shape shapes[N_CODERS];
    rf_optimiser_opts optimisers[N_CODERS];
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
    for (int64_t i = 0; view.data != NULL && i < rf_view_n_elems(&view); i++) {
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
        OK(rf_coder_create(w->be, &w->settings[i], &w->shapes[i], &c->coder));
        OK(rf_optimiser_create(w->be, c->coder, &w->optimisers[i], &c->opt));
        c->name = w->settings[i].name;
        for (int t = 0; filled && t < rf_coder_n_tensors(c->coder); t++) {
            fill(rf_coder_tensor_at(c->coder, t).view, (uint64_t)(1000 * i + t));
        }
        for (int t = 0; filled && t < rf_optimiser_n_tensors(c->opt); t++) {
            fill(rf_optimiser_tensor_view(c->opt, t), (uint64_t)(1000 * i + 500 + t));
        }
        c->batches_done = filled ? 41 + i : 0;
        c->failed = filled && i == 1;
        c->stopping = (rf_stopping){0};
        if (filled) {
            c->stopping = (rf_stopping){
                .stop = RF_STOP_METRIC, .n_lines = 30 + i, .n_worse = 4 + i, .best = 1.0 / (3 + i)};
        }
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
        w->settings[i].k.any = 2;
        w->shapes[i] = rf_coder_shape_of(WIDTH);
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

static void dump_view(rf_view v, rf_str *out)
{
    if (v.data != NULL) {
        OK(rf_str_append_bytes(out, v.data,
                               rf_view_n_elems(&v) * (int64_t)rf_dtype_bytes(v.dtype)));
    }
}

/* Every tensor of both coders, one after another, and what stands beside them. */
static void dump(const world *w, rf_str *out)
{
    for (int i = 0; i < N_CODERS; i++) {
        const rf_checkpoint_coder *c = &w->coders[i];
        for (int t = 0; t < rf_coder_n_tensors(c->coder); t++) {
            dump_view(rf_coder_tensor_at(c->coder, t).view, out);
        }
        for (int t = 0; t < rf_optimiser_n_tensors(c->opt); t++) {
            dump_view(rf_optimiser_tensor_view(c->opt, t), out);
        }
        OK(rf_str_append(out, "%" PRId64 " %d %d %" PRId64 " %" PRId64 " %a", c->batches_done,
                         c->failed, c->stopping.stop, c->stopping.n_lines, c->stopping.n_worse,
                         c->stopping.best));
    }
}

/* Write, make the coders anew, read: the same bits. */
static void assert_comes_back(world *w)
{
    rf_str before = {0}, after = {0};
    dump(w, &before);
    OK(rf_checkpoint_write(w->path, w->stream, &w->checkpoint));
    free_coders(w);
    make_coders(w, false);
    OK(rf_checkpoint_read(NULL, w->path, w->stream, &w->checkpoint));
    dump(w, &after);
    assert_int_equal(before.len, after.len);
    assert_memory_equal(before.data, after.data, (size_t)before.len);
    rf_str_fini(&before);
    rf_str_fini(&after);
}

/* The settings that `text`, a map, says. */
static rf_coder_settings parse_settings(const char *text, const char *name)
{
    rf_coder_settings out;
    rf_yaml *map = NULL;
    OK(rf_yaml_parse(text, (int64_t)strlen(text), "test", &map));
    OK(rf_settings_defaults(&rf_coder_settings_table, &out));
    OK(rf_settings_read(&rf_coder_settings_table, map, "coder", NULL, &out, NULL));
    OK(rf_format(out.name, sizeof out.name, "%s", name));
    rf_yaml_free(map);
    return out;
}

static void test_every_architecture_with_every_optimiser_is_read_bit_for_bit(void **state)
{
    world *w = *state;
    static const rf_coder_shape shapes[] = {
        {.n_in = 1, .in = {7}},
        {.n_in = 2, .in = {3, 5}},                      /* a crosscoder */
        {.n_in = 1, .n_out = 1, .in = {6}, .out = {4}}, /* a transcoder */
    };
    static const char *const of_shape[] = {"normalise: average", "normalise: per_dimension",
                                           "w_enc: independent, normalise: average"};
    for (int a = 0; a < rf_architecture_count(); a++) {
        for (int kind = RF_OPTIMISER_ADAM; kind <= RF_OPTIMISER_MUON; kind++) {
            const int s = (a + kind) % 3;
            char text[256], name[RF_NAME_LEN];
            free_coders(w);
            for (int i = 0; i < N_CODERS; i++) { /* the second also archetypal, and accumulates */
                OK(rf_format(text, sizeof text,
                             "{architecture: %s, latents: 12, k: 2, n_prefixes: 3, %s%s}",
                             rf_architecture_at(a)->name, of_shape[s],
                             i == 1 ? ", decoder: archetypal, archetypal_points: 5" : ""));
                OK(rf_format(name, sizeof name, "c%d", i));
                w->settings[i] = parse_settings(text, name);
                w->shapes[i] = shapes[s];
                w->optimisers[i] = (rf_optimiser_opts){.kind = kind, .accumulate = 1 + 3 * i};
            }
            make_coders(w, true);
            assert_comes_back(w);
            rf_coder_shape shape = {0};
            OK(rf_checkpoint_read_shape(w->path, 1, &w->settings[1], &shape));
            assert_memory_equal(&shape, &shapes[s], sizeof shape);
        }
    }
}

static void test_a_skip_and_free_rows_are_read_bit_for_bit(void **state)
{
    world *w = *state;
    free_coders(w);
    w->settings[0] = parse_settings("{architecture: topk, latents: 9, k: 2, skip: true}", "skip");
    w->shapes[0] = (rf_coder_shape){.n_in = 1, .n_out = 1, .in = {6}, .out = {6}};
    w->settings[1] = parse_settings(
        "{architecture: relu, latents: 9, decoder: free, penalty_by_norm: true}", "free");
    make_coders(w, true);
    assert_true(rf_coder_has(w->coders[0].coder, RF_CODER_W_SKIP));
    assert_comes_back(w);
}

static void test_everything_that_was_written_is_read_bit_for_bit(void **state)
{
    world *w = *state;
    rf_checkpoint_header header;

    assert_comes_back(w);
    w->checkpoint.tick = 0;
    OK(rf_checkpoint_read(NULL, w->path, w->stream, &w->checkpoint));
    assert_int_equal(w->checkpoint.tick, 99);
    OK(rf_checkpoint_read_header(w->path, &header));
    assert_true(header.picture_hash == UINT64_C(0xfedcba9876543210) && header.model_hash == 3);
    assert_int_equal(header.n_coders, N_CODERS);
    assert_string_equal(header.settings, "train: {lr: 1}\n");
    assert_string_equal(header.backend, "a machine");
    assert_string_equal(header.weight_processing, "fold_ln");
    rf_checkpoint_header_fini(&header);
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
    rf_coder_shape shape = {0};
    rf_checkpoint_coder c = {.name = "coder-1"};

    OK(rf_checkpoint_write(w->path, w->stream, &w->checkpoint));
    OK(rf_checkpoint_read_shape(w->path, 1, &w->settings[1], &shape));
    assert_memory_equal(&shape, &w->shapes[1], sizeof shape);
    OK(rf_coder_create(w->be, &w->settings[1], &shape, &c.coder));
    OK(rf_checkpoint_read_coder(w->path, w->stream, 1, &c));
    rf_view a = rf_coder_view(c.coder, RF_CODER_W_DEC);
    rf_view b = rf_coder_view(w->coders[1].coder, RF_CODER_W_DEC);
    assert_memory_equal(a.data, b.data, (size_t)rf_view_n_elems(&b) * sizeof(float));
    assert_int_equal(c.batches_done, 42);
    assert_int_equal(c.stopping.n_worse, 5);
    /* the shape of another coder is not believed */
    assert_int_equal(rf_checkpoint_read_shape(w->path, 0, &w->settings[1], &shape), RF_ERR_FORMAT);
    assert_int_equal(rf_checkpoint_read_shape(w->path, 9, &w->settings[1], &shape),
                     RF_ERR_NOT_FOUND);
    rf_coder_destroy(c.coder);
}

/* A file of `version` with `sites` for a coder whose W_enc is 13 x 7. */
static void write_sites(world *w, int64_t version, const int64_t *sites, int64_t n)
{
    rf_h5_file *f = NULL;
    const int64_t one = 1, w_enc[2] = {13, 7};
    static const float values[13 * 7];
    OK(rf_h5_create(w->path, &f));
    OK(rf_h5_write_text(f, "format", "refract checkpoint"));
    OK(rf_h5_write(f, "version", RF_H5_I64, 1, &one, &version));
    OK(rf_h5_write(f, "coders/00001/coder/W_enc", RF_H5_F32, 2, w_enc, values));
    OK(rf_h5_write(f, "coders/00001/sites", RF_H5_I64, 1, &n, sites));
    OK(rf_h5_commit(f));
}

static void test_sites_that_the_file_cannot_hold_are_not_believed(void **state)
{
    world *w = *state;
    const int64_t huge = INT64_MAX;
    rf_coder_shape shape;
    const struct {
        int64_t n, sites[6];
    } wrong[] = {
        {1, {1}},           {2, {1, 0}},          {3, {0, 1, 7}},
        {3, {1, 0, 0}},     {3, {1, 0, -7}},      {3, {1, 0, 8}},
        {3, {2, 0, 7}},     {4, {1, 0, 7, 7}},    {3, {-1, 2, 7}},
        {3, {33, 0, 7}},    {3, {1, -1, 7}},      {4, {1, 1, 7, 0}},
        {4, {1, 1, 7, -1}}, {4, {1, 1, 7, huge}}, {4, {2, 0, huge, huge}},
        {3, {huge, 2, 7}},  {4, {1, 1, 7, 200}}, /* 13 x 200 numbers are more than the file */
    };
    const int64_t right[][4] = {{1, 0, 7}, {2, 0, 3, 4}, {1, 1, 7, 9}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        write_sites(w, 2, wrong[i].sites, wrong[i].n);
        if (rf_checkpoint_read_shape(w->path, 1, &w->settings[1], &shape) != RF_ERR_FORMAT) {
            fail_msg("sites %zu were believed", i);
        }
    }
    for (size_t i = 0; i < 3; i++) {
        write_sites(w, 2, right[i], 2 + right[i][0] + right[i][1]);
        OK(rf_checkpoint_read_shape(w->path, 1, &w->settings[1], &shape));
        assert_int_equal(shape.n_in, right[i][0]);
        assert_int_equal(shape.n_out, right[i][1]);
    }
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

static void assert_format_before(rf_status status)
{
    assert_int_equal(status, RF_ERR_FORMAT);
    assert_non_null(strstr(rf_error_text(), "version 1"));
    assert_non_null(strstr(rf_error_text(), "train anew"));
}

/* By whatever a checkpoint is read with, also where what it asks for could be found. */
static void test_the_format_before_is_refused_with_the_reason(void **state)
{
    world *w = *state;
    rf_checkpoint_header header;
    rf_coder_shape shape = {0};
    rf_checkpoint_coder c = w->coders[1];
    const int64_t sites[] = {1, 0, WIDTH};

    write_sites(w, 2, sites, 3);
    OK(rf_checkpoint_read_shape(w->path, 1, &w->settings[1], &shape));
    write_sites(w, 1, sites, 3);
    assert_format_before(rf_checkpoint_read_shape(w->path, 1, &w->settings[1], &shape));
    assert_format_before(rf_checkpoint_read_coder(w->path, w->stream, 1, &c));
    assert_format_before(rf_checkpoint_read_header(w->path, &header));
    assert_format_before(rf_checkpoint_read(NULL, w->path, w->stream, &w->checkpoint));
}

static void test_progress_that_cannot_be_is_refused(void **state)
{
    world *w = *state;
    static const rf_stopping wrong[] = {
        {.stop = RF_N_STOPS},
        {.stop = -1},
        {.n_lines = -1},
        {.n_lines = 2, .n_worse = 3},
        {.n_lines = 2, .n_worse = -1},
        {.n_lines = 1, .best = NAN},
        {.n_lines = 1, .best = INFINITY},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        w->coders[0].stopping = wrong[i];
        OK(rf_checkpoint_write(w->path, w->stream, &w->checkpoint));
        assert_unreadable(w);
        assert_non_null(strstr(rf_error_text(), "progress of coder 0"));
    }
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
        cmocka_unit_test_setup_teardown(test_the_format_before_is_refused_with_the_reason, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_progress_that_cannot_be_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sites_that_the_file_cannot_hold_are_not_believed,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_every_architecture_with_every_optimiser_is_read_bit_for_bit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_skip_and_free_rows_are_read_bit_for_bit, setup,
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
