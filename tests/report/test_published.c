/* A run beside published figures: whose is whose, what is blank, and files that are refused. */
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
    char dir[64], file[RF_PATH_LEN], csv_path[RF_PATH_LEN];
    rf_sweep_report *report;
    rf_str page, table;
    char *csv;
} bench;

static void write_file(const bench *b, const char *name, const char *text)
{
    char path[RF_PATH_LEN];
    OK(rf_path_join(path, b->dir, name));
    OK(rf_file_write_atomic(path, text, (int64_t)strlen(text)));
}

static const char config[] =
    "model: {path: models/vit}\n"
    "data: {path: pictures}\n"
    "coders:\n"
    "  - {name: a, input: blocks.1.hook_resid_post, latents: 200, k: 8}\n"
    "  - {name: a-b-lr1e-05, input: blocks.1.hook_resid_post, latents: 200, k: 16}\n"
    "  - {name: ab, input: blocks.1.hook_resid_post, latents: 200, k: 32}\n"
    "output: {dir: runs/first}\n";

static const char summary[] = "name,latents,n_batches,failed,stopped,selected,last_step,last_l0,"
                              "last_explained_variance\n"
                              "a,200,50,0,,0,49,8,0.6\n"
                              "a-b-lr1e-05,200,50,0,,0,49,16,0.75\n"
                              "ab,200,50,0,,0,49,32,0.9\n";

/* a is measured on both, a-b on the trained-on pictures alone, as nothing was held out. */
static const char eval[] =
    "{\"step\": 49, \"settings_hash\": \"1\", \"splits\": [{\"pictures\": \"held out\", "
    "\"coders\": "
    "["
    "{\"name\": \"a\", \"alive_percent\": 40, \"tokens\": {\"all\": {\"l0\": 7.5, "
    "\"explained_variance\": 0.5}, \"cls\": {\"l0\": 3}}, \"embedding\": {\"cosine_spliced\": "
    "0.875}, \"classification\": {\"ce\": null}},"
    "{\"name\": \"a-b-lr1e-05\", \"alive_percent\": null, \"tokens\": {\"all\": {\"l0\": null}}}]},"
    "{\"pictures\": \"trained on\", \"coders\": ["
    "{\"name\": \"a-b-lr1e-05\", \"alive_percent\": 50, \"tokens\": {\"all\": {\"l0\": 15}}}]}]}";

static const char theirs[] = "name,table,extra,explained_variance,l0,l0_cls,cosine_spliced,ce,"
                             "alive_percent\n"
                             "a,\"1, <b>\",x,0.75,8,2.5,1,6.25,100\n"
                             "a-b,2,y,0.5,,,,,99\n"
                             "nobody,3,z,1,2,3,4,5,6\n";

static int setup(void **state)
{
    bench *b = rf_calloc(1, sizeof *b);
    OK(rf_format(b->dir, sizeof b->dir, "/tmp/rf_published_XXXXXX"));
    assert_non_null(mkdtemp(b->dir));
    OK(rf_path_join(b->file, b->dir, "theirs.csv"));
    OK(rf_path_join(b->csv_path, b->dir, "published.csv"));
    write_file(b, "config.yaml", config);
    write_file(b, "summary.csv", summary);
    write_file(b, "theirs.csv", theirs);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    static const char *const names[] = {"config.yaml", "summary.csv", "theirs.csv", "eval.json",
                                        "published.csv"};
    bench *b = *state;
    char path[RF_PATH_LEN];
    rf_sweep_report_close(b->report);
    rf_str_fini(&b->page);
    rf_str_fini(&b->table);
    rf_free(b->csv);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        OK(rf_path_join(path, b->dir, names[i]));
        unlink(path);
    }
    assert_int_equal(rmdir(b->dir), 0);
    rf_free(b);
    return 0;
}

static void look(bench *b, const char *file)
{
    char path[RF_PATH_LEN];
    int64_t n_bytes = 0;
    OK(rf_sweep_report_open(b->dir, &b->report));
    OK(rf_published_read(b->report, file));
    OK(rf_sweep_report_page(b->report, &b->page));
    OK(rf_published_table(b->report, &b->table));
    OK(rf_published_write(b->report, path));
    if (path[0] != '\0') {
        assert_string_equal(path, b->csv_path);
        OK(rf_file_read(path, 1 << 20, &b->csv, &n_bytes));
    }
}

static void expect(const char *text, const char *words)
{
    if (text == NULL || strstr(text, words) == NULL) {
        fail_msg("'%s' is not in:\n%s", words, text != NULL ? text : "(nothing)");
    }
}

/* ---- side by side ------------------------------------------------------------------------------
 */

static void the_last_batch_stands_in_where_nothing_was_measured(void **state)
{
    bench *b = *state;
    look(b, b->file);
    assert_string_equal(
        b->csv, "coder,table,figure,pictures,ours,published,difference\n"
                "a,\"1, <b>\",explained_variance,\"trained on, last batch\",0.6,0.75,-0.15\n"
                "a,\"1, <b>\",l0,\"trained on, last batch\",8,8,0\n"
                "a,\"1, <b>\",l0_cls,\"trained on, last batch\",,2.5,\n"
                "a,\"1, <b>\",cosine_spliced,\"trained on, last batch\",,1,\n"
                "a,\"1, <b>\",ce,\"trained on, last batch\",,6.25,\n"
                "a,\"1, <b>\",alive_percent,\"trained on, last batch\",,100,\n"
                "a-b-lr1e-05,\"2\",explained_variance,\"trained on, last batch\",0.75,0.5,0.25\n"
                "a-b-lr1e-05,\"2\",alive_percent,\"trained on, last batch\",,99,\n");
}

static void what_eval_measured_goes_first_and_held_out_before_trained_on(void **state)
{
    bench *b = *state;
    write_file(b, "eval.json", eval);
    look(b, b->file);
    expect(b->csv, "a,\"1, <b>\",explained_variance,\"held out\",0.5,0.75,-0.25\n");
    expect(b->csv, "a,\"1, <b>\",l0_cls,\"held out\",3,2.5,0.5\n");
    expect(b->csv, "a,\"1, <b>\",cosine_spliced,\"held out\",0.875,1,-0.125\n");
    expect(b->csv, "a,\"1, <b>\",ce,\"held out\",,6.25,\n"); /* null: the model has no head */
    expect(b->csv, "a,\"1, <b>\",alive_percent,\"held out\",40,100,-60\n");
    expect(b->csv, "a-b-lr1e-05,\"2\",alive_percent,\"trained on\",50,99,-49\n");
    expect(b->csv, "a-b-lr1e-05,\"2\",explained_variance,\"trained on\",,0.5,\n");
}

static void a_point_of_a_sweep_is_known_by_the_name_without_suffixes(void **state)
{
    bench *b = *state;
    look(b, b->file);
    expect(b->csv, "\na-b-lr1e-05,\"2\","); /* a-b, which is longer than a */
    assert_null(strstr(b->csv, "\nab,"));   /* not a */
    assert_null(strstr(b->csv, "nobody"));
}

static void the_terminal_shows_what_both_have(void **state)
{
    bench *b = *state;
    look(b, b->file);
    expect(b->table.data, "EV");
    expect(b->table.data, "-0.1500");
    expect(b->table.data, "+0.2500");
    expect(b->table.data, "+0.0");
    assert_null(strstr(b->table.data, "alive")); /* nothing of ours */
    assert_null(strstr(b->table.data, "n/a"));
}

static void the_page_shows_all_that_was_published(void **state)
{
    bench *b = *state;
    look(b, b->file);
    expect(b->page.data, "<h2>Beside published figures</h2>");
    expect(b->page.data, "<td>1, &lt;b&gt;</td><td>trained on, last batch</td><td class=\"num "
                         "first\">0.6000</td><td class=\"num\">0.7500</td><td "
                         "class=\"num\">-0.1500</td>");
    expect(b->page.data, "alive %</th>");
    expect(b->page.data, "<td class=\"num first\"></td><td class=\"num\">100.0</td><td "
                         "class=\"num\"></td>");
    assert_true(strstr(b->page.data, "class=\"beside\"") > strstr(b->page.data, "class=\"coder"));
}

static void nothing_is_there_without_a_file(void **state)
{
    bench *b = *state;
    look(b, NULL);
    assert_null(b->csv);
    assert_null(b->table.data);
    assert_null(strstr(b->page.data, "Beside published"));
}

static void output_published_names_the_file(void **state)
{
    bench *b = *state;
    rf_str text = {0};
    OK(rf_str_append(&text, "%.*s{dir: runs/first, published: %s}\n",
                     (int)(strstr(config, "output: ") + 8 - config), config, b->file));
    write_file(b, "config.yaml", text.data);
    look(b, NULL);
    expect(b->csv, "a,\"1, <b>\",l0,");
    rf_str_fini(&text);
}

/* ---- what is refused ---------------------------------------------------------------------------
 */

static void bad_files_are_refused_with_the_place(void **state)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", "expected a column 'name'"},
        {"name\na\n", "expected a column 'name' and figures"},
        {"l0\n3\n", "expected a column 'name'"},
        {"name,l0\na,many\n", "row 1, column l0 is 'many', expected a number"},
        {"name,l0\na,nan\n", "row 1, column l0 is 'nan'"},
        {"name,l0\na,inf\n", "row 1, column l0 is 'inf'"},
        {"name,l0\na,1e999\n", "row 1, column l0"},
        {"name,l0\nb,1\na,2\na,3\n", "rows 2 and 3 are both of 'a'"},
        {"name,l0\n,1\n", "row 1 has a name of 0 bytes"},
        {"name,l0\na,1,2\n", ":2: 3 cells, expected 2"},
        {"name,l0\n\"a,1\n", "a quote that does not end"},
        {"name,table,l0\na,\033[2J,1\n", "column table holds a control character"},
        {"name,l0\nA,1\n", "of no coder of this run (of 'a', for one)"},
        {"name,l0\n", "of no coder of this run"},
    };
    bench *b = *state;
    OK(rf_sweep_report_open(b->dir, &b->report));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_file(b, "theirs.csv", cases[i].text);
        assert_true(rf_published_read(b->report, b->file) != RF_OK);
        expect(rf_error_text(), cases[i].words);
        assert_null(b->report->published);
    }
    assert_int_equal(rf_published_read(b->report, "/nowhere/theirs.csv"), RF_ERR_NOT_FOUND);
}

static void a_long_name_is_refused(void **state)
{
    bench *b = *state;
    rf_str text = {0};
    OK(rf_sweep_report_open(b->dir, &b->report));
    OK(rf_str_append(&text, "name,l0\n%0300d,1\n", 7));
    write_file(b, "theirs.csv", text.data);
    assert_int_equal(rf_published_read(b->report, b->file), RF_ERR_FORMAT);
    expect(rf_error_text(), "a name of 300 bytes");
    rf_str_fini(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_last_batch_stands_in_where_nothing_was_measured, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            what_eval_measured_goes_first_and_held_out_before_trained_on, setup, teardown),
        cmocka_unit_test_setup_teardown(a_point_of_a_sweep_is_known_by_the_name_without_suffixes,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(the_terminal_shows_what_both_have, setup, teardown),
        cmocka_unit_test_setup_teardown(the_page_shows_all_that_was_published, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_is_there_without_a_file, setup, teardown),
        cmocka_unit_test_setup_teardown(output_published_names_the_file, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_files_are_refused_with_the_place, setup, teardown),
        cmocka_unit_test_setup_teardown(a_long_name_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
