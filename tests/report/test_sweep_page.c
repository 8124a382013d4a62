/* The page of a sweep: complete, safe, and whole whatever a run left behind. */
#include "../../src/report/report_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
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

typedef struct bench {
    char dir[64];
    rf_sweep_report *report;
    rf_str page, table;
} bench;

static int setup(void **state)
{
    bench *b = rf_calloc(1, sizeof *b);
    OK(rf_format(b->dir, sizeof b->dir, "/tmp/rf_sweep_XXXXXX"));
    assert_non_null(mkdtemp(b->dir));
    *state = b;
    return 0;
}

static void path_of(const bench *b, const char *name, char path[RF_PATH_LEN])
{
    OK(rf_path_join(path, b->dir, name));
}

static int teardown(void **state)
{
    static const char *const names[] = {"config.yaml", "summary.csv", "metrics.jsonl", "eval.json",
                                        "sweep.html"};
    bench *b = *state;
    char path[RF_PATH_LEN];
    rf_sweep_report_close(b->report);
    rf_str_fini(&b->page);
    rf_str_fini(&b->table);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        path_of(b, names[i], path);
        unlink(path);
    }
    assert_int_equal(rmdir(b->dir), 0);
    rf_free(b);
    return 0;
}

static void write_file(const bench *b, const char *name, const char *text)
{
    char path[RF_PATH_LEN];
    path_of(b, name, path);
    OK(rf_file_write_atomic(path, text, (int64_t)strlen(text)));
}

/* Read the folder anew. */
static void look(bench *b)
{
    rf_sweep_report_close(b->report);
    b->report = NULL;
    b->page.len = b->table.len = 0;
    OK(rf_sweep_report_open(b->dir, &b->report));
    OK(rf_sweep_report_page(b->report, &b->page));
    OK(rf_sweep_report_table(b->report, &b->table));
}

static void expect_page(const bench *b, const char *words)
{
    if (strstr(b->page.data, words) == NULL) {
        fail_msg("'%s' is not in the page", words);
    }
}

static int64_t count(const char *text, const char *words)
{
    int64_t n = 0;
    for (const char *p = text; (p = strstr(p, words)) != NULL; p += strlen(words)) {
        n++;
    }
    return n;
}

/* ---- a run of four coders ----------------------------------------------------------------------
 */

static const char config[] =
    "model: {path: models/vit}\n"
    "data: {path: pictures}\n"
    "coders:\n"
    "  - {name: a, input: blocks.1.hook_resid_post, latents: 200, k: 8}\n"
    "  - {name: b, input: blocks.1.hook_resid_post, latents: 200, k: 16}\n"
    "  - {name: c, input: blocks.1.hook_resid_post, latents: 200, k: 32}\n"
    "  - {name: d, input: blocks.1.hook_resid_post, latents: 200, architecture: relu, l1: 0.5}\n"
    "output: {dir: runs/first, select: max ev where l0 <= 20}\n";

#define HEAD                                                                                       \
    "name,latents,n_batches,failed,stopped,selected,last_step,last_tokens,last_loss,last_mse,"     \
    "last_l0,last_explained_variance,last_dead,last_grad_norm,last_skipped,last_outliers\n"
static const char summary[] = HEAD "a,200,50,0,,0,49,6400,0.4,0.4,8,0.6,10,1,0,0\n"
                                   "b,200,50,0,,1,49,6400,0.3,0.3,16,0.7,5,1,0,0\n"
                                   "c,200,50,0,,0,49,6400,0.35,0.35,32,0.65,0,1,2,1\n"
                                   "d,200,50,1,bad run,0,9,1152,,,,,100,,0,0\n";

static void write_metrics(const bench *b, int64_t n_lines, const char *tail)
{
    static const char *const names[] = {"a", "b", "c", "d"};
    rf_str text = {0};
    for (int64_t i = 0; i < n_lines; i++) {
        for (int c = 0; c < 4; c++) {
            OK(rf_str_append(&text,
                             "{\"tick\": %" PRId64 ", \"coder\": \"%s\", \"step\": %" PRId64
                             ", \"tokens\": %" PRId64 ", \"loss\": %g, \"mse\": %g, \"l0\": %d, "
                             "\"explained_variance\": %s, \"dead\": 3, \"grad_norm\": 1.5}\n",
                             i, names[c], i + 1, (i + 1) * 128, 1.0 / (double)(i + 1),
                             1.0 / (double)(i + 1), 8 << c, c == 3 ? "null" : "0.5"));
        }
    }
    OK(rf_str_append(&text, "%s", tail));
    write_file(b, "metrics.jsonl", text.data);
    rf_str_fini(&text);
}

static void write_run(const bench *b)
{
    write_file(b, "config.yaml", config);
    write_file(b, "summary.csv", summary);
    write_metrics(b, 50, "");
}

/* ---- a page is well-formed ---------------------------------------------------------------------
 */

enum { MAX_DEPTH = 64, TAG_LEN = 16 };

static bool is_void(const char *tag)
{
    return strcmp(tag, "meta") == 0 || strcmp(tag, "!DOCTYPE") == 0;
}

/* Every element that begins ends, in order, and no text holds a bare '<'. */
static void expect_well_formed(const char *page)
{
    char open[MAX_DEPTH][TAG_LEN];
    int depth = 0;
    for (const char *p = strchr(page, '<'); p != NULL; p = strchr(p, '<')) {
        char tag[TAG_LEN] = "";
        const bool ends = p[1] == '/';
        const char *name = p + 1 + ends;
        const size_t n = strcspn(name, " />\n");
        if (n == 0 || n >= TAG_LEN) {
            fail_msg("no tag: '%.40s'", p);
        }
        memcpy(tag, name, n);
        const char *end = strchr(p, '>'); /* attributes hold none: it is an entity */
        assert_non_null(end);
        if (ends) {
            if (depth == 0 || strcmp(open[--depth], tag) != 0) {
                fail_msg("</%s> closes <%s>", tag, depth >= 0 ? open[depth] : "nothing");
            }
        } else if (end[-1] != '/' && !is_void(tag)) {
            assert_true(depth < MAX_DEPTH);
            memcpy(open[depth++], tag, TAG_LEN);
        }
        p = end;
        if (!ends && (strcmp(tag, "script") == 0 || strcmp(tag, "style") == 0)) {
            p = strstr(p, strcmp(tag, "script") == 0 ? "</script>" : "</style>");
            assert_non_null(p);
        }
    }
    assert_int_equal(depth, 0);
}

/* ---- tests -------------------------------------------------------------------------------------
 */

static void every_coder_is_in_every_part_of_the_page(void **state)
{
    bench *b = *state;
    write_run(b);
    look(b);
    expect_well_formed(b->page.data);
    assert_int_equal(count(b->page.data, "<tr class=\"coder"), 4);
    assert_int_equal(count(b->page.data, "<path class=\"ln"), 4 * RF_N_CURVES);
    assert_int_equal(count(b->page.data, "<g class=\"pt"), 3); /* d has no figures */
    expect_page(b, "<h1>first</h1>");
    expect_page(b, "models/vit");
}

static void the_page_asks_for_nothing_outside_itself(void **state)
{
    static const char *const words[] = {"http:",   "https:", "src=",   "href=", "url(",
                                        "@import", "<link",  "fetch(", "//cdn"};
    bench *b = *state;
    write_run(b);
    look(b);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strstr(b->page.data, words[i]) != NULL) {
            fail_msg("the page has '%s'", words[i]);
        }
    }
}

static void the_best_is_marked_once_and_said_in_words(void **state)
{
    bench *b = *state;
    write_run(b);
    look(b);
    assert_int_equal(count(b->page.data, "class=\"ring\""), 1);
    assert_int_equal(count(b->page.data, "<b class=\"tag\">best</b>"), 1);
    expect_page(b, "Best by <code>max ev where l0 &lt;= 20</code>: <strong>b</strong>");
    assert_non_null(strstr(b->table.data, "\n*  b "));
    assert_non_null(strstr(b->table.data, "* best by max ev where l0 <= 20: b"));
}

static void the_front_is_of_those_that_nobody_beats(void **state)
{
    bench *b = *state;
    write_run(b);
    look(b);
    assert_true(b->report->coders[0].on_front[0]);
    assert_true(b->report->coders[1].on_front[0]);
    assert_false(b->report->coders[2].on_front[0]); /* b has more with less */
    assert_false(b->report->coders[3].on_front[0]); /* failed */
}

static void each_site_has_a_front_of_its_own(void **state)
{
    bench *b = *state;
    write_run(b);
    write_file(b, "config.yaml",
               "model: {path: models/vit}\ndata: {path: pictures}\ncoders:\n"
               "  - {name: a, input: blocks.1.hook_resid_post, latents: 200, k: 8}\n"
               "  - {name: b, input: blocks.1.hook_resid_post, latents: 200, k: 16}\n"
               "  - {name: c, input: blocks.2.hook_resid_post, latents: 200, k: 32}\n"
               "output: {dir: runs/first}\n");
    look(b);
    assert_int_equal(b->report->sites.n, 2);
    assert_true(b->report->coders[2].on_front[0]);
    assert_int_equal(count(b->page.data, "<path class=\"front\""), 2);
}

static void of_equals_one_is_on_the_front(void **state)
{
    bench *b = *state;
    write_run(b);
    write_file(b, "summary.csv",
               HEAD "a,100,50,0,,0,49,6400,0.4,0.4,8,0.6,10,1,0,0\n"
                    "b,100,50,0,,0,49,6400,0.4,0.4,8,0.6,10,1,0,0\n");
    look(b);
    assert_true(b->report->coders[0].on_front[0]);
    assert_false(b->report->coders[1].on_front[0]);
}

static void a_failed_coder_says_why_and_stops_nobody(void **state)
{
    bench *b = *state;
    write_run(b);
    look(b);
    assert_int_equal(count(b->page.data, "<tr class=\"coder failed\""), 1);
    expect_page(b, "a bad run at step 9: L0 below");
    expect_page(b, "1 failed");
    expect_page(b, "2 of 50 batches skipped, 1 of them as outliers"); /* c */
    assert_int_equal(rf_sweep_end(b->report, &b->report->coders[0]), RF_END_DONE);
    assert_non_null(strstr(b->table.data, "failed"));
    assert_null(strstr(b->page.data, "nan"));
}

/* Batches it takes behind that are not among those that failed it. */
static void skipped_batches_are_counted_until_a_coder_fails(void **state)
{
    bench *b = *state;
    write_run(b);
    write_file(b, "summary.csv",
               "name,latents,n_batches,n_done,n_tried,n_skipped,n_outliers,failed,stopped,selected,"
               "last_step,last_tokens,last_skipped,last_outliers\n"
               "a,200,50,50,24,3,3,1,,0,20,640,1,1\n"
               "b,200,50,50,50,4,1,0,,1,49,640,2,0\n"
               "c,200,50,40,12,0,0,0,stop_metric,0,9,640,0,0\n"
               "d,200,50,40,40,0,0,0,,0,40,640,0,0\n");
    look(b);
    expect_page(b, "3 of the first 24 batches were skipped");
    expect_page(b, "4 of 50 batches skipped, 1 of them as outliers");
    expect_page(b, "stopped at step 12");
    expect_page(b, "step 40 of 50: interrupted");
}

static void a_failed_coder_is_never_on_the_front(void **state)
{
    bench *b = *state;
    write_run(b);
    write_file(b, "summary.csv",
               HEAD "a,100,50,0,,0,49,6400,0.4,0.4,8,0.6,10,1,0,0\n"
                    "b,100,50,1,,0,49,6400,0.1,0.1,4,0.9,10,1,40,0\n");
    look(b);
    assert_true(b->report->coders[0].on_front[0]);
    assert_false(b->report->coders[1].on_front[0]);
    assert_int_equal(count(b->page.data, "<path class=\"cross\""), 2); /* figure and row */
}

static void what_the_mean_explains_better_is_on_no_front(void **state)
{
    bench *b = *state;
    write_run(b);
    write_file(b, "summary.csv",
               HEAD "a,100,50,0,,0,49,6400,0.4,0.4,8,0.6,10,1,0,0\n"
                    "b,100,50,0,,0,49,6400,1.1,1.1,0.01,-0.1,10,1,0,0\n"
                    "c,100,50,0,,0,49,6400,0.3,0.3,16,0.7,10,1,0,0\n");
    look(b);
    assert_false(b->report->coders[1].on_front[0]);
    assert_true(b->report->coders[2].on_front[0]);
    expect_page(b, "1 of the marks lies outside"); /* and does not stretch the axes */
}

static void figures_that_are_no_numbers_break_nothing(void **state)
{
    bench *b = *state;
    write_run(b);
    write_file(b, "summary.csv",
               HEAD "a,100,50,1,,0,9,,,,,,,,50,0\n"
                    "b,100,50,1,,0,0,,,,,,,,50,0\n"
                    "c,100,50,0,,0,49,6400,1e300,1e300,0,-1e300,100,0,0,0\n"
                    "d,0,50,0,,0,0,,,,,,,,,\n");
    look(b);
    expect_well_formed(b->page.data);
    assert_null(strstr(b->page.data, "nan"));
    assert_null(strstr(b->page.data, "inf<"));
    assert_null(strstr(b->page.data, "inf "));
    expect_page(b, "too many batches were skipped, 50 or more");
}

static void settings_that_vary_are_columns_and_no_others(void **state)
{
    bench *b = *state;
    write_run(b);
    look(b);
    assert_int_equal(b->report->n_columns, 2);
    assert_string_equal(b->report->columns[0].row->key, "architecture");
    assert_string_equal(b->report->columns[1].row->key, "k");
    assert_string_equal(b->report->columns[1].values[1].data, "16");
    assert_string_equal(b->report->columns[1].values[3].data, ""); /* relu has no k */
}

static void hostile_texts_stay_text(void **state)
{
    bench *b = *state;
    write_file(b, "config.yaml",
               "model: {path: \"</style><script>alert(1)</script>\"}\n"
               "data: {path: \"'\\\"><img src=x onerror=alert(2)>\\u202e\"}\n"
               "coders:\n"
               "  - {name: a, input: \"<b>&amp;\\\"hook\", latents: 100}\n"
               "  - {name: b, input: \"<b>&amp;\\\"hook\", latents: 200}\n"
               "output: {dir: \"runs/<i>\\\"x\"}\n");
    write_file(b, "summary.csv",
               HEAD "a,100,50,0,<script>alert(3)</script>,0,49,1,1,1,1,1,1,1,1,1\n"
                    "\"</td>, \"\"\nx\",1,50,0,,0,49,1,1,1,1,1,1,1,1,1\n");
    write_file(b, "metrics.jsonl",
               "{\"tick\": 1, \"coder\": \"</script>\\u003cimg src=1>\", \"step\": 1}\n");
    write_file(b, "eval.json",
               "{\"step\": 1, \"settings_hash\": \"<script>alert(4)</script>\", \"splits\": []}");
    look(b);
    expect_well_formed(b->page.data);
    assert_null(strstr(b->page.data, "alert(1)</script>"));
    assert_null(strstr(b->page.data, "<img"));
    assert_null(strstr(b->page.data, "<i>\""));
    assert_int_equal(count(b->page.data, "<script>"), 1);
    assert_null(strstr(b->page.data, "\xe2\x80\xae"));
    expect_page(b, "&lt;/style&gt;&lt;script&gt;");
}

static void held_out_figures_stand_beside_trained_on_ones(void **state)
{
    bench *b = *state;
    write_run(b);
    write_file(b, "eval.json",
               "{\"step\": 50, \"splits\": [{\"pictures\": \"held out\", \"n_pictures\": 84, "
               "\"coders\": [{\"name\": \"b\", \"alive_percent\": 88.5, \"tokens\": {\"all\": "
               "{\"l0\": 16.1, \"explained_variance\": 0.6512, \"mse\": 0.25, \"cosine\": null}}}, "
               "{\"name\": \"nobody\"}]}, {\"pictures\": \"trained on\", \"n_pictures\": 90, "
               "\"coders\": [{\"name\": \"b\", \"tokens\": {\"all\": {\"l0\": 16, "
               "\"explained_variance\": 0.7012}}}]}]}");
    look(b);
    expect_well_formed(b->page.data);
    expect_page(b, "data-v=\"0.6512\">0.6512<");
    expect_page(b, "data-v=\"0.7012\">0.7012<");
    expect_page(b, "84 pictures, eval.json");
    assert_int_equal(count(b->page.data, "class=\"ring\""), 2); /* a figure of each */
    assert_null(strstr(b->page.data, "cosine</th>"));           /* nobody has one */
    assert_true(b->report->coders[1].on_front[1 + RF_HELD_OUT]);
    assert_false(b->report->coders[0].on_front[1 + RF_HELD_OUT]);
}

static void a_run_that_has_not_ended_is_told_as_far_as_it_went(void **state)
{
    bench *b = *state;
    write_file(b, "config.yaml", config);
    look(b); /* not a line yet */
    expect_well_formed(b->page.data);
    expect_page(b, "4 no step yet");
    write_metrics(b, 3, "{\"tick\": 9, \"coder\": \"a\", \"st"); /* torn */
    look(b);
    expect_well_formed(b->page.data);
    expect_page(b, "The run has not ended");
    expect_page(b, "step 3; the run has not ended");
    assert_int_equal(b->report->coders[0].step, 3);
    assert_int_equal(b->report->coders[0].curve.n, 3);
}

static void long_curves_are_thinned_and_keep_their_ends(void **state)
{
    bench *b = *state;
    write_run(b);
    write_metrics(b, 1004, ""); /* no multiple of a stride */
    look(b);
    const rf_curve *curve = &b->report->coders[1].curve;
    assert_true(curve->n > RF_CURVE_MAX_POINTS / 2 && curve->n <= RF_CURVE_MAX_POINTS + 1);
    assert_int_equal((int64_t)curve->points[0].tokens, 128);
    assert_int_equal((int64_t)curve->points[curve->n - 1].tokens, 1004 * 128);
    for (int64_t i = 1; i < curve->n; i++) {
        assert_true(curve->points[i].tokens > curve->points[i - 1].tokens);
    }
    assert_true(fabs(curve->points[0].y[RF_CURVE_DEAD] - 1.5) < 1e-12); /* 3 of 200, in % */
    expect_page(b, "thinned");
}

static void a_hundred_coders_make_a_page(void **state)
{
    bench *b = *state;
    rf_str text = {0};
    OK(rf_str_append(&text, "model: {path: m}\ndata: {path: p}\ncoders:\n"));
    for (int i = 0; i < 100; i++) {
        OK(rf_str_append(&text,
                         "  - {name: c%d, input: blocks.%d.hook_resid_post, latents: 200, k: %d}\n",
                         i, i % 12, 8 << (i % 5)));
    }
    OK(rf_str_append(&text, "output: {dir: runs/many}\n"));
    write_file(b, "config.yaml", text.data);
    rf_str_fini(&text);
    OK(rf_str_append(&text, HEAD));
    for (int i = 0; i < 100; i++) {
        OK(rf_str_append(&text, "c%d,100,50,0,,0,49,6400,0.4,0.4,%d,%g,10,1,0,0\n", i, 8 << (i % 5),
                         0.5 + 0.004 * i));
    }
    write_file(b, "summary.csv", text.data);
    rf_str_fini(&text);
    look(b);
    expect_well_formed(b->page.data);
    assert_int_equal(count(b->page.data, "<tr class=\"coder"), 100);
    assert_int_equal(b->report->series.n, 12); /* a colour for each layer */
    assert_int_equal(count(b->page.data, "<path class=\"front\""), 12);
    assert_non_null(strstr(b->table.data, "more: summary.csv has all"));
}

static void the_same_folder_gives_the_same_bytes(void **state)
{
    bench *b = *state;
    char path[RF_PATH_LEN], *text = NULL;
    int64_t n = 0;
    write_run(b);
    look(b);
    OK(rf_sweep_report_write(b->report, path));
    OK(rf_file_read(path, 1 << 24, &text, &n));
    assert_int_equal(n, b->page.len);
    assert_memory_equal(text, b->page.data, (size_t)n);
    look(b); /* sweep.html there or not */
    assert_memory_equal(text, b->page.data, (size_t)n);
    rf_free(text);
}

static void expect_refused(bench *b, const char *file, const char *text, rf_status wanted,
                           const char *words)
{
    rf_sweep_report *report = NULL;
    write_run(b);
    write_file(b, file, text);
    const int64_t live = rf_alloc_live();
    assert_int_equal(rf_sweep_report_open(b->dir, &report), wanted);
    assert_null(report);
    if (strstr(rf_error_text(), words) == NULL) {
        fail_msg("'%s' is not in '%s'", words, rf_error_text());
    }
    assert_int_equal(rf_alloc_live(), live);
}

static void damaged_files_are_refused_with_their_place(void **state)
{
    bench *b = *state;
    expect_refused(b, "summary.csv", "name,k\na\n", RF_ERR_FORMAT, "summary.csv:2: 1 cells");
    expect_refused(b, "summary.csv", "k\n1\n", RF_ERR_FORMAT, "no column 'name'");
    expect_refused(b, "summary.csv", "name,last_l0\na,much\n", RF_ERR_FORMAT, "column last_l0");
    expect_refused(b, "summary.csv", "name,latents\na,-3\n", RF_ERR_FORMAT, "expected a count");
    expect_refused(b, "summary.csv", "name,last_step\na,1e300\n", RF_ERR_FORMAT,
                   "expected a count");
    write_file(b, "summary.csv", summary);
    expect_refused(b, "metrics.jsonl", "{}\n{\"coder\": 3}\n", RF_ERR_NOT_FOUND, "metrics.jsonl:1");
    expect_refused(b, "metrics.jsonl", "{\"coder\": \"a\", \"l0\": \"x\"}\n", RF_ERR_FORMAT,
                   "metrics.jsonl:1: key 'l0'");
    expect_refused(b, "metrics.jsonl", "nonsense\n", RF_ERR_FORMAT, "metrics.jsonl:1");
    expect_refused(b, "eval.json", "{\"splits\": [{}]}", RF_ERR_NOT_FOUND, "eval.json: split 0");
    expect_refused(b, "eval.json", "{\"step\"", RF_ERR_FORMAT, "eval.json:1");
    expect_refused(b, "config.yaml", "coders: 3\n", RF_ERR_SETTING, "config.yaml");
}

static void a_folder_that_is_no_run_is_refused(void **state)
{
    bench *b = *state;
    rf_sweep_report *report = NULL;
    assert_int_equal(rf_sweep_report_open(b->dir, &report), RF_ERR_NOT_FOUND);
    assert_non_null(strstr(rf_error_text(), "no run folder"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_coder_is_in_every_part_of_the_page),
        TEST(the_page_asks_for_nothing_outside_itself),
        TEST(the_best_is_marked_once_and_said_in_words),
        TEST(the_front_is_of_those_that_nobody_beats),
        TEST(each_site_has_a_front_of_its_own),
        TEST(of_equals_one_is_on_the_front),
        TEST(a_failed_coder_says_why_and_stops_nobody),
        TEST(skipped_batches_are_counted_until_a_coder_fails),
        TEST(a_failed_coder_is_never_on_the_front),
        TEST(what_the_mean_explains_better_is_on_no_front),
        TEST(figures_that_are_no_numbers_break_nothing),
        TEST(settings_that_vary_are_columns_and_no_others),
        TEST(hostile_texts_stay_text),
        TEST(held_out_figures_stand_beside_trained_on_ones),
        TEST(a_run_that_has_not_ended_is_told_as_far_as_it_went),
        TEST(long_curves_are_thinned_and_keep_their_ends),
        TEST(a_hundred_coders_make_a_page),
        TEST(the_same_folder_gives_the_same_bytes),
        TEST(damaged_files_are_refused_with_their_place),
        TEST(a_folder_that_is_no_run_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
