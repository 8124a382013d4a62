/* A run's folder: which checkpoints there are, which stay, and metrics cut back to one of them. */
#include "../../src/train/run_impl.h"

#include <math.h>
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

static int setup(void **state)
{
    char *dir = rf_calloc(RF_PATH_LEN, 1);
    const char *temp = getenv("TMPDIR");
    OK(rf_format(dir, RF_PATH_LEN, "%s/rf_run_folder_XXXXXX", temp != NULL ? temp : "/tmp"));
    assert_non_null(mkdtemp(dir));
    *state = dir;
    return 0;
}

static void remove_below(const char *dir)
{
    char **names = NULL, path[RF_PATH_LEN];
    int64_t n = 0;
    OK(rf_file_list(dir, &names, &n));
    for (int64_t i = 0; i < n; i++) {
        OK(rf_path_join(path, dir, names[i]));
        if (rf_file_is_dir(path)) {
            remove_below(path);
        } else {
            unlink(path);
        }
    }
    rf_file_list_free(names, n);
    rmdir(dir);
}

static int teardown(void **state)
{
    remove_below(*state);
    rf_free(*state);
    return 0;
}

static void put(const char *dir, const char *name, const char *text)
{
    char path[RF_PATH_LEN];
    OK(rf_path_join(path, dir, name));
    OK(rf_file_write_atomic(path, text, (int64_t)strlen(text)));
}

static void put_checkpoint(const char *dir, int64_t tick)
{
    char path[RF_PATH_LEN];
    OK(rf_path_join(path, dir, "checkpoints"));
    OK(rf_file_make_dirs(path));
    OK(rf_run_folder_checkpoint(dir, tick, path));
    OK(rf_file_write_atomic(path, "x", 1));
}

static void assert_ticks(const char *dir, const int64_t *expected, int64_t n_expected)
{
    int64_t *ticks = NULL, n = 0;
    OK(rf_run_folder_list(dir, &ticks, &n));
    assert_int_equal(n, n_expected);
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(ticks[i], expected[i]);
    }
    rf_free(ticks);
}

static void test_checkpoints_are_listed_by_number_and_strangers_are_not(void **state)
{
    const char *dir = *state;
    static const int64_t expected[] = {0, 9, 10, 123456789012};
    assert_ticks(dir, NULL, 0); /* no folder yet */
    for (int i = 3; i >= 0; i--) {
        put_checkpoint(dir, expected[i]);
    }
    put(dir, "checkpoints/step-00000011.h5.tmp", "x");
    put(dir, "checkpoints/step-00000012.h5.bad", "x");
    put(dir, "checkpoints/step-.h5", "x");
    put(dir, "checkpoints/step--1.h5", "x");
    put(dir, "checkpoints/step-1e3.h5", "x");
    put(dir, "checkpoints/step-99999999999999999999999.h5", "x");
    put(dir, "checkpoints/notes.txt", "x");
    assert_ticks(dir, expected, 4);
}

static void test_pruning_keeps_the_newest_and_what_is_not_ours(void **state)
{
    const char *dir = *state;
    static const int64_t left[] = {20, 30, 40};
    char path[RF_PATH_LEN];
    for (int64_t tick = 10; tick <= 40; tick += 10) {
        put_checkpoint(dir, tick);
    }
    put(dir, "checkpoints/step-00000030.h5.tmp", "x"); /* of a run that was killed */
    put(dir, "checkpoints/notes.txt", "x");
    OK(rf_run_folder_prune(dir, 30, 2)); /* 40 is of another time: not counted, not removed */
    assert_ticks(dir, left, 3);
    OK(rf_path_join(path, dir, "checkpoints/step-00000030.h5.tmp"));
    assert_false(rf_file_exists(path));
    OK(rf_path_join(path, dir, "checkpoints/notes.txt"));
    assert_true(rf_file_exists(path));
}

static void test_a_folder_is_used_once_something_of_a_run_is_in_it(void **state)
{
    const char *dir = *state;
    bool used = true;
    put(dir, "notes.txt", "mine");
    OK(rf_run_folder_is_used(dir, &used));
    assert_false(used);
    put_checkpoint(dir, 3);
    OK(rf_run_folder_is_used(dir, &used));
    assert_true(used);
    OK(rf_run_folder_set_aside(dir, 3));
    OK(rf_run_folder_is_used(dir, &used));
    assert_false(used);
    put(dir, "config.yaml", "");
    OK(rf_run_folder_is_used(dir, &used));
    assert_true(used);
}

static rf_metrics_line make_line(const char *coder, int64_t tick)
{
    rf_metrics_line line = {.tick = tick,
                            .step = tick - 1,
                            .tokens = tick * 4096,
                            .epoch = 0.1 * (double)tick,
                            .lr = 1e-3 / 3,
                            .m = {.loss = 1.0 / 3,
                                  .mse = 0.3,
                                  .l0 = 32,
                                  .explained_variance = -0.25,
                                  .n_dead = 5,
                                  .n_fired = 77,
                                  .grad_norm = 1e-30},
                            .k = 32,
                            .p = NAN,
                            .threshold = 0.125,
                            .n_resampled = 11,
                            .n_skipped = 2,
                            .n_outliers = 1,
                            .stopped = 1,
                            .tokens_per_s = 12345.678};
    OK(rf_format(line.coder, sizeof line.coder, "%s", coder));
    return line;
}

static void write_lines(const char *path, int64_t first, int64_t last)
{
    rf_metrics_log *log = NULL;
    OK(rf_metrics_log_open(path, &log));
    for (int64_t tick = first; tick <= last; tick++) {
        const rf_metrics_line a = make_line("a", tick), b = make_line("b", tick);
        OK(rf_metrics_log_write(log, &a));
        OK(rf_metrics_log_write(log, &b));
    }
    OK(rf_metrics_log_close(log));
}

static void test_a_line_of_metrics_reads_back_with_all_its_digits(void **state)
{
    (void)state;
    rf_str text = {0};
    rf_metrics_line line = make_line("a \"quoted\" name", 7), back;
    line.m.aux = NAN;
    OK(rf_metrics_append_json(&line, &text));
    assert_int_equal(text.data[text.len - 1], '\n');
    assert_null(memchr(text.data, '\n', (size_t)text.len - 1));
    assert_non_null(strstr(text.data, "\"aux\": null"));
    OK(rf_metrics_parse_json(text.data, text.len, &back));
    assert_string_equal(back.coder, line.coder);
    assert_int_equal(back.tick, 7);
    assert_int_equal(back.step, 6);
    assert_int_equal(back.tokens, line.tokens);
    assert_true(back.lr == line.lr && back.m.loss == line.m.loss && back.epoch == line.epoch);
    assert_true(back.m.explained_variance == -0.25 && back.m.grad_norm == 1e-30);
    assert_true(isnan(back.m.aux));
    assert_int_equal(back.m.n_dead, 5);
    assert_int_equal(back.n_skipped, 2);
    assert_int_equal(back.n_outliers, 1);
    assert_int_equal(back.n_resampled, 11);
    assert_int_equal(back.stopped, 1);
    assert_true(back.k == 32 && isnan(back.p) && back.threshold == 0.125);
    assert_non_null(strstr(text.data, "\"sparsity\": "));
    assert_non_null(strstr(text.data, "\"extra\": "));
    rf_str_fini(&text);
}

static void test_metrics_are_cut_back_to_the_checkpoint(void **state)
{
    char path[RF_PATH_LEN], *all = NULL, *cut = NULL, *again = NULL;
    int64_t n_all = 0, n_cut = 0, n_again = 0;
    bool has = false;
    rf_metrics_line last;

    OK(rf_path_join(path, *state, "metrics.jsonl"));
    OK(rf_metrics_cut(path, 5)); /* no file is fine */
    write_lines(path, 1, 9);
    OK(rf_file_read(path, 1 << 20, &all, &n_all));
    OK(rf_metrics_cut(path, 5));
    OK(rf_file_read(path, 1 << 20, &cut, &n_cut));
    assert_true(n_cut < n_all);
    assert_memory_equal(all, cut, (size_t)n_cut);
    OK(rf_metrics_find_last(path, "b", 100, &last, &has));
    assert_true(has && last.tick == 5);
    OK(rf_metrics_find_last(path, "b", 2, &last, &has)); /* steps are one below ticks here */
    assert_true(has && last.tick == 3);
    OK(rf_metrics_find_last(path, "c", 100, &last, &has));
    assert_false(has);
    write_lines(path, 6, 9); /* the run goes on: the file is what it was */
    OK(rf_file_read(path, 1 << 20, &again, &n_again));
    assert_int_equal(n_all, n_again);
    assert_memory_equal(all, again, (size_t)n_all);
    OK(rf_metrics_cut(path, 0));
    rf_free(again);
    OK(rf_file_read(path, 1 << 20, &again, &n_again));
    assert_int_equal(n_again, 0);
    rf_free(all);
    rf_free(cut);
    rf_free(again);
}

static void test_a_torn_line_goes_with_the_cut(void **state)
{
    char path[RF_PATH_LEN], *all = NULL, *cut = NULL;
    int64_t n_all = 0, n_cut = 0;

    OK(rf_path_join(path, *state, "metrics.jsonl"));
    write_lines(path, 1, 3);
    OK(rf_file_read(path, 1 << 20, &all, &n_all));
    for (int64_t len = n_all - 1; len > n_all - 40; len--) {
        OK(rf_file_write_atomic(path, all, len));
        OK(rf_metrics_cut(path, 100));
        OK(rf_file_read(path, 1 << 20, &cut, &n_cut));
        assert_true(n_cut < len && cut[n_cut - 1] == '\n');
        rf_free(cut);
    }
    rf_free(all);
}

static void test_select_finds_the_best_that_fits(void **state)
{
    (void)state;
    rf_metrics_line lines[4];
    int64_t best = 0;
    static const double ev[] = {0.7, 0.9, 0.8, 0.99}, l0[] = {10, 600, 500, 20};
    for (int i = 0; i < 4; i++) {
        lines[i] = make_line("a", 1);
        lines[i].m.explained_variance = ev[i];
        lines[i].m.l0 = l0[i];
    }
    lines[3].coder[0] = '\0'; /* failed, or never stepped */
    OK(rf_select_best("max ev where l0 <= 500", lines, 4, &best));
    assert_int_equal(best, 2);
    OK(rf_select_best("max explained_variance", lines, 4, &best));
    assert_int_equal(best, 1);
    OK(rf_select_best("min l0 where ev > 0.7 and l0 < 600", lines, 4, &best));
    assert_int_equal(best, 2);
    OK(rf_select_best("max ev where l0 < 1", lines, 4, &best));
    assert_int_equal(best, -1);
    OK(rf_select_best("", lines, 4, &best));
    assert_int_equal(best, -1);
    static const char *const wrong[] = {"best ev",
                                        "max",
                                        "max speed",
                                        "max ev where",
                                        "max ev l0 < 5",
                                        "max ev where l0 = 5",
                                        "max ev where l0 < five",
                                        "max ev where l0 < 5 where ev > 1"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(rf_select_check(wrong[i]), RF_ERR_SETTING);
    }
}

static void test_the_summary_has_a_row_for_each_coder_and_quotes_what_it_must(void **state)
{
    char path[RF_PATH_LEN], *text = NULL;
    int64_t n = 0;
    rf_coder_spec specs[2];
    const rf_metrics_line lines[2] = {make_line("a", 5), {.coder = ""}};
    rf_summary_row rows[2];

    for (int i = 0; i < 2; i++) {
        OK(rf_settings_defaults(&rf_coder_settings_table, &specs[i].coder));
        OK(rf_settings_defaults(&rf_train_settings_table, &specs[i].train));
        rows[i] = (rf_summary_row){.spec = &specs[i],
                                   .last = &lines[i],
                                   .n_batches = 12,
                                   .batches_done = 11,
                                   .n_tried = 9,
                                   .n_skipped = 3,
                                   .n_outliers = 2,
                                   .failed = i == 1,
                                   .stop = i == 1 ? RF_STOP_BAD : RF_STOP_METRIC};
    }
    OK(rf_format(specs[0].coder.name, sizeof specs[0].coder.name, "a"));
    OK(rf_format(specs[0].coder.input, sizeof specs[0].coder.input, "x,\"y\""));
    OK(rf_path_join(path, *state, "summary.csv"));
    OK(rf_summary_write(path, rows, 2, 0));
    OK(rf_file_read(path, 1 << 20, &text, &n));
    int64_t n_lines = 0;
    for (const char *p = text; *p != '\0'; p++) {
        n_lines += *p == '\n';
    }
    assert_int_equal(n_lines, 3);
    assert_int_equal(strncmp(text, "name,input,", 11), 0);
    assert_non_null(strstr(text, "\na,\"x,\"\"y\"\"\","));
    assert_non_null(strstr(text, ",n_batches,n_done,n_tried,n_skipped,n_outliers,failed,stopped,"
                                 "selected,last_step,"));
    assert_non_null(
        strstr(text, ",12,11,9,3,2,0,stop_metric,1,4,")); /* not failed, selected, step 4 */
    assert_non_null(strstr(text, ",12,11,9,3,2,1,bad run,0,0,,,,")); /* failed: no figures */
    assert_non_null(strstr(text, "0.33333333333333331"));            /* full precision */
    rf_free(text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_checkpoints_are_listed_by_number_and_strangers_are_not),
        TEST(test_pruning_keeps_the_newest_and_what_is_not_ours),
        TEST(test_a_folder_is_used_once_something_of_a_run_is_in_it),
        TEST(test_a_line_of_metrics_reads_back_with_all_its_digits),
        TEST(test_metrics_are_cut_back_to_the_checkpoint),
        TEST(test_a_torn_line_goes_with_the_cut),
        TEST(test_select_finds_the_best_that_fits),
        TEST(test_the_summary_has_a_row_for_each_coder_and_quotes_what_it_must),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
