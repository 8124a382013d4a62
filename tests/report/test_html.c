/* Text that is safe in a page, numbers that are short. */
#include "../../src/report/report_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void expect(const char *text, const char *wanted)
{
    rf_str out = {0};
    assert_int_equal(rf_str_append(&out, "%s", ""), RF_OK);
    assert_int_equal(rf_html_append(&out, text), RF_OK);
    assert_string_equal(out.data, wanted);
    rf_str_fini(&out);
}

static void what_html_reads_becomes_entities(void **state)
{
    (void)state;
    expect("", "");
    expect("topk-k32", "topk-k32");
    expect("</td><script>alert(1)</script>", "&lt;/td&gt;&lt;script&gt;alert(1)&lt;/script&gt;");
    expect("\" onload='x' & &amp;", "&quot; onload=&#39;x&#39; &amp; &amp;amp;");
    expect("\xce\xbb \xe2\x86\x92 \xf0\x9f\x98\x80\n\t",
           "\xce\xbb \xe2\x86\x92 \xf0\x9f\x98\x80\n\t");
}

static void what_is_no_text_becomes_a_replacement(void **state)
{
    (void)state;
#define REPLACED "\xef\xbf\xbd"
    expect("a\xff"
           "b",
           "a" REPLACED "b");
    expect("\xc3", REPLACED);                           /* cut in the middle */
    expect("\xc0\xbc", REPLACED REPLACED);              /* an overlong '<' */
    expect("\xed\xa0\x80", REPLACED REPLACED REPLACED); /* a surrogate */
    expect("a\x01\x1b"
           "b\x7f",
           "a" REPLACED REPLACED "b" REPLACED);
    expect("a\xe2\x80\xae"
           "b",
           "a" REPLACED "b"); /* what follows would read from the right */
}

static void numbers_are_short_and_have_their_unit(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *wanted;
    } cases[] = {{0, "0"},
                 {1, "1"},
                 {-0.25, "-0.25"},
                 {1234, "1234"},
                 {12345, "12.35k"},
                 {50000, "50k"},
                 {1e6, "1M"},
                 {1.25e9, "1.25G"},
                 {3e12, "3T"},
                 {1e-5, "1e-05"},
                 {-2e6, "-2M"},
                 {1e300, "1e+300"},
                 {999999.9, "1M"},
                 {(double)INFINITY, "inf"},
                 {(double)NAN, "n/a"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[32];
        rf_html_short(cases[i].value, out);
        assert_string_equal(out, cases[i].wanted);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_html_reads_becomes_entities),
        cmocka_unit_test(what_is_no_text_becomes_a_replacement),
        cmocka_unit_test(numbers_are_short_and_have_their_unit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
