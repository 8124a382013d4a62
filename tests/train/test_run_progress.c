/* How far coders came, by the checkpoints: what cannot be is refused, passes are counted as they
 * were, and who tells of a run finds the newest of each coder. */
#include "../../src/train/run_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s", #call, rf_error_text());                                            \
        }                                                                                          \
    } while (0)

enum { N = 5 };

static const char yaml[] =
    "model: {path: m}\ndata: {path: d}\n"
    "coders:\n"
    "  - {name: \"c{i}\", input: \"x{i}\", latents: 9, k: 2, each: {i: 0..4}}\n"
    "train: {coders_at_once: 2}\noutput: {dir: o}\n";

static void progress_that_cannot_be_is_refused_with_its_place(void **state)
{
    (void)state;
    const int64_t huge = INT64_MAX;
    static const rf_checkpoint_coder right[] = {
        {.n_batches = 7, .batches_done = 7},
        {.n_batches = 7, .batches_done = 6, .n_skipped = 6, .n_outliers = 6},
        {.n_batches = 0, .batches_done = 7}};
    const rf_checkpoint_coder wrong[] = {
        {.n_batches = 8, .batches_done = 1},
        {.n_batches = huge, .batches_done = 1},
        {.n_batches = huge, .batches_done = huge},
        {.n_batches = 0, .batches_done = 8},
        {.n_batches = 5, .batches_done = 6},
        {.n_batches = 7, .batches_done = 3, .n_skipped = 4},
        {.n_batches = 7, .batches_done = 3, .n_skipped = huge, .n_outliers = huge},
        {.n_batches = 7, .batches_done = 3, .n_skipped = 2, .n_outliers = 3},
    };
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        OK(rf_run_progress_check("c.h5", 3, &right[i], 7));
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(rf_run_progress_check("c.h5", 3, &wrong[i], 7), RF_ERR_FORMAT);
        assert_non_null(strstr(rf_error_text(), "'c.h5': coder 3 took"));
    }
    OK(rf_run_progress_check("c.h5", 3, &wrong[0], 0)); /* whoever has no plan believes the file */
}

static void passes_are_counted_as_they_were(void **state)
{
    (void)state;
    int64_t ends[12] = {0};
    rf_run_passes_note(ends, 0, 4);
    rf_run_passes_note(ends, 4, 6);
    rf_run_passes_note(ends, 10, 10); /* no pass */
    assert_int_equal(rf_run_passes_count(ends, 0, 2), 0);
    assert_int_equal(rf_run_passes_count(ends, 4, 2), 1); /* 4 at once then, 2 now */
    assert_int_equal(rf_run_passes_count(ends, 6, 1), 2);
    assert_int_equal(rf_run_passes_count(ends, 12, 5), 4); /* 6 .. 11 are not known */
    assert_int_equal(rf_run_passes_count(ends, 12, 0), 3);
    rf_run_passes_note(ends, 10, 12);
    assert_int_equal(rf_run_passes_count(ends, 12, 3), 5); /* 6 .. 9 in two, then 10 and 11 */
    assert_int_equal(rf_run_passes_left(5, 2), 3);
    assert_int_equal(rf_run_passes_left(5, 0), 1);
    assert_int_equal(rf_run_passes_left(0, 0), 0);
}

static void of_many_names_a_few_are_said(void **state)
{
    (void)state;
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    rf_str few = {0}, many = {0};
    for (int i = 0; i < 6; i++) {
        OK(rf_deal_append_name(&few, i, 6, names[i]));
    }
    for (int i = 0; i < 8; i++) {
        OK(rf_deal_append_name(&many, i, 8, names[i]));
    }
    assert_string_equal(few.data, "a, b, c, d, e, f");
    assert_string_equal(many.data, "a, b, c, d, e and 3 more");
    rf_str_fini(&many);
    rf_str_fini(&few);
}

/* ---- a folder ----------------------------------------------------------------------------------
 */

typedef struct bench {
    char dir[64];
    rf_run_settings *settings;
    rf_backend *be;
    rf_stream *s;
} bench;

static int setup(void **state)
{
    bench *b = rf_calloc(1, sizeof *b);
    char path[RF_PATH_LEN];
    OK(rf_format(b->dir, sizeof b->dir, "/tmp/rf_progress_XXXXXX"));
    assert_non_null(mkdtemp(b->dir));
    OK(rf_path_join(path, b->dir, "checkpoints"));
    OK(rf_file_make_dirs(path));
    OK(rf_path_join(path, b->dir, "config.yaml"));
    OK(rf_run_settings_parse(yaml, "run.yaml", NULL, 0, &b->settings));
    OK(rf_file_write_atomic(path, yaml, (int64_t)strlen(yaml)));
    OK(rf_backend_cpu_create(1, &b->be));
    OK(rf_stream_create(b->be, &b->s));
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    bench *b = *state;
    char path[RF_PATH_LEN], **names = NULL, folder[RF_PATH_LEN];
    int64_t n = 0;
    OK(rf_path_join(folder, b->dir, "checkpoints"));
    OK(rf_file_list(folder, &names, &n));
    for (int64_t i = 0; i < n; i++) {
        OK(rf_path_join(path, folder, names[i]));
        unlink(path);
    }
    rf_file_list_free(names, n);
    rmdir(folder);
    OK(rf_path_join(path, b->dir, "config.yaml"));
    unlink(path);
    assert_int_equal(rmdir(b->dir), 0);
    rf_stream_destroy(b->s);
    rf_backend_destroy(b->be);
    rf_run_settings_free(b->settings);
    rf_free(b);
    return 0;
}

/* Coders first .. end - 1, the last under the name of `like` if it has one, each with `like` and so
 * many learned and skipped batches. */
static void put(const bench *b, int64_t tick, int64_t first, int64_t end, rf_checkpoint_coder like,
                int64_t n_learned)
{
    const rf_coder_shape shape = rf_coder_shape_of(5);
    const rf_optimiser_opts opts = {.kind = RF_OPTIMISER_ADAM};
    char path[RF_PATH_LEN];
    rf_checkpoint_coder coders[N];
    const int64_t n = end - first;
    for (int64_t i = 0; i < n; i++) {
        const rf_coder_settings *settings = &b->settings->coders[first + i].coder;
        coders[i] = like;
        coders[i].name = i == n - 1 && like.name != NULL ? like.name : settings->name;
        OK(rf_coder_create(b->be, settings, &shape, &coders[i].coder));
        OK(rf_optimiser_create(b->be, coders[i].coder, &opts, &coders[i].opt));
        int64_t *counters = rf_coder_view(coders[i].coder, RF_CODER_COUNTERS).data;
        counters[RF_COUNTER_STEPS] = n_learned;
        counters[RF_COUNTER_SKIPPED] = like.n_skipped;
        counters[RF_COUNTER_OUTLIERS] = like.n_outliers;
    }
    const rf_checkpoint checkpoint = {.tick = tick,
                                      .settings = yaml,
                                      .backend = "y",
                                      .weight_processing = "none",
                                      .coders = coders,
                                      .n_coders = n,
                                      .first = first,
                                      .n_run = N};
    OK(rf_run_folder_checkpoint(b->dir, tick, path));
    OK(rf_checkpoint_write(path, b->s, &checkpoint));
    for (int64_t i = 0; i < n; i++) {
        rf_optimiser_destroy(coders[i].opt);
        rf_coder_destroy(coders[i].coder);
    }
}

static void every_coder_is_told_by_its_newest_file(void **state)
{
    const bench *b = *state;
    rf_coder_progress p[N];
    OK(rf_run_read_progress(b->dir, b->settings, p)); /* none yet: nobody waits for anybody */
    assert_false(p[0].is_known || p[N - 1].waits_for != 0);

    put(b, 10, 0, 2, (rf_checkpoint_coder){.n_batches = 40, .batches_done = 10}, 10);
    put(b, 40, 0, 2,
        (rf_checkpoint_coder){
            .n_batches = 40, .batches_done = 40, .failed = true, .n_skipped = 3, .n_outliers = 2},
        17);
    put(b, 50, 2, 3, (rf_checkpoint_coder){.n_batches = 40, .batches_done = 10}, 10);
    OK(rf_run_read_progress(b->dir, b->settings, p));
    assert_true(p[1].is_known && p[1].failed && p[1].batches_done == 40 && p[1].n_batches == 40);
    assert_true(p[1].n_tried == 20 && p[1].n_skipped == 3 && p[1].n_outliers == 2);
    assert_true(p[2].batches_done == 10 && p[2].n_tried == 10 && p[2].waits_for == 0);
    assert_true(!p[3].is_known && p[3].waits_for == 3 && p[3].n_passes == 3); /* 2, 1, then 2 */
    assert_true(p[4].waits_for == 3 && strcmp(p[4].stopped, "") == 0);
}

static void files_that_lie_tell_nothing(void **state)
{
    const bench *b = *state;
    rf_coder_progress p[N];
    put(b, 10, 0, 2, (rf_checkpoint_coder){.n_batches = 40, .batches_done = 10}, 10);
    put(b, 20, 0, 2, (rf_checkpoint_coder){.n_batches = 40, .batches_done = INT64_MAX}, 20);
    put(b, 30, 0, 2,
        (rf_checkpoint_coder){.n_batches = 40, .batches_done = 30, .n_skipped = INT64_MAX}, 20);
    put(b, 35, 0, 2, (rf_checkpoint_coder){.n_batches = -1, .batches_done = 0}, 0);
    OK(rf_run_read_progress(b->dir, b->settings, p));
    assert_true(p[0].is_known && p[0].batches_done == 10 && p[0].n_skipped == 0);
    put(b, 36, 0, 2, (rf_checkpoint_coder){.n_batches = 40, .batches_done = 36, .n_skipped = 4},
        INT64_MAX); /* believed as far as it can be */
    OK(rf_run_read_progress(b->dir, b->settings, p));
    assert_true(p[0].batches_done == 36 && p[0].n_tried == 36);
}

/* Coders of a pass that is over, whose file is gone, do not wait. */
static void a_lost_coder_is_told_from_one_that_waits(void **state)
{
    const bench *b = *state;
    rf_run *run = NULL;
    rf_coder *coder = NULL;
    int64_t pass = 0, n_passes = 0;
    put(b, 50, 2, 4, (rf_checkpoint_coder){.n_batches = 40, .batches_done = 10}, 10);
    OK(rf_run_open(b->dir, NULL, 0, &run));
    assert_false(rf_run_has_coder(run, 1) || rf_run_coder_waits(run, 1, &pass, &n_passes));
    assert_true(rf_run_has_coder(run, 2) && !rf_run_coder_waits(run, 3, &pass, &n_passes));
    assert_true(!rf_run_has_coder(run, 4) && rf_run_coder_waits(run, 4, &pass, &n_passes));
    assert_true(pass == 3 && n_passes == 3);
    assert_int_equal(rf_run_load_coder(b->be, b->s, run, 1, &coder), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "damaged or gone"));
    assert_int_equal(rf_run_load_coder(b->be, b->s, run, 4, &coder), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "waits for pass 3 of 3"));
    rf_run_close(run);
}

/* What is damaged takes nothing with it that is whole. */
static void a_damaged_coder_is_lost_alone(void **state)
{
    const bench *b = *state;
    rf_run *run = NULL;
    rf_coder *coder = NULL;
    put(b, 40, 0, 2, (rf_checkpoint_coder){.name = "stranger"}, 0);
    put(b, 50, 2, 4, (rf_checkpoint_coder){.n_batches = 40, .batches_done = 10}, 10);
    OK(rf_run_open(b->dir, NULL, 0, &run));
    assert_true(rf_run_has_coder(run, 0) && !rf_run_has_coder(run, 1));
    OK(rf_run_load_coder(b->be, b->s, run, 0, &coder));
    rf_coder_destroy(coder);
    rf_run_close(run);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(progress_that_cannot_be_is_refused_with_its_place),
        cmocka_unit_test(passes_are_counted_as_they_were),
        cmocka_unit_test(of_many_names_a_few_are_said),
        TEST(every_coder_is_told_by_its_newest_file),
        TEST(files_that_lie_tell_nothing),
        TEST(a_lost_coder_is_told_from_one_that_waits),
        TEST(a_damaged_coder_is_lost_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
