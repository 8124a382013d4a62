#include "scratch.h"

static rf_yaml *parse(const char *text)
{
    rf_yaml *root = NULL;
    assert_ok(rf_yaml_parse(text, (int64_t)strlen(text), "run.yaml", &root));
    return root;
}

static const char *text_at(const rf_yaml *root, const char *a, const char *b)
{
    const rf_yaml *node = rf_yaml_find(root, a);
    node = b != NULL ? rf_yaml_find(node, b) : node;
    return node != NULL ? node->text : NULL;
}

static void reads_maps_lists_and_scalars_with_their_places(void **state)
{
    rf_yaml *root = parse("# a comment\ntrain: {lr: 4e-4, \"steps\": '8'}\ncoders:\n"
                          "  - name: a\n    each: {layer: 0..11}\n  -\n    - 1\n    - [2, 3]\n"
                          "empty:\ntext: |\n  two\n  lines\n");
    (void)state;
    const rf_yaml *lr = rf_yaml_find(rf_yaml_find(root, "train"), "lr");
    assert_string_equal(lr->text, "4e-4");
    assert_false(lr->quoted);
    assert_string_equal(lr->file, "run.yaml");
    assert_int_equal(lr->line, 2);
    assert_int_equal(lr->column, 13);
    assert_int_equal(lr->key_line, 2);
    assert_int_equal(lr->key_column, 9);
    assert_true(rf_yaml_find(rf_yaml_find(root, "train"), "steps")->quoted);
    const rf_yaml *coders = rf_yaml_find(root, "coders");
    assert_int_equal(coders->kind, RF_YAML_LIST);
    assert_int_equal(coders->n_items, 2);
    assert_string_equal(text_at(coders->items[0], "each", "layer"), "0..11");
    assert_int_equal(coders->items[0]->line, 4);
    assert_int_equal(coders->items[0]->column, 5);
    assert_string_equal(coders->items[1]->items[1]->items[1]->text, "3");
    assert_string_equal(text_at(root, "empty", NULL), "");
    assert_string_equal(text_at(root, "text", NULL), "two\nlines\n");
    assert_null(rf_yaml_find(root, "train.lr"));
    assert_null(rf_yaml_find(coders, "name"));
    assert_null(rf_yaml_find(NULL, "name"));
    rf_yaml_free(root);
}

static void nothing_is_an_empty_map(void **state)
{
    static const char *const texts[] = {"", "\n# only a comment\n", "{}", "---\n{}\n..."};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        rf_yaml *root = parse(texts[i]);
        assert_int_equal(root->kind, RF_YAML_MAP);
        assert_int_equal(root->n_items, 0);
        rf_yaml_free(root);
    }
    rf_yaml_free(NULL);
}

static void refuses_what_is_surprising_with_its_place(void **state)
{
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"a: 1\na: 2\n", "run.yaml:2:1: key 'a' is given twice"},
        {"a: {b: 1, \"b\": 2}\n", "run.yaml:1:11: key 'b' is given twice"},
        {"a: &x 1\n", "run.yaml:1:4: anchors (&name)"},
        {"a: &x {b: 1}\n", "anchors"},
        {"a: &x [1]\n", "anchors"},
        {"b: *x\n", "run.yaml:1:4: aliases (*name)"},
        {"a: 1\n*x : 2\n", "aliases"},
        {"a: !!int 1\n", "run.yaml:1:4: tags (!name)"},
        {"a: !mine [1]\n", "tags"},
        {"a: ! b\n", "tags"},
        {"%TAG ! tag:x,2000:\n---\na: 1\n", "tags (%TAG)"},
        {"a: 1\n---\nb: 2\n", "run.yaml:2:1: a second document"},
        {"[1, 2]: 3\n", "run.yaml:1:1: a key must be a single word"},
        {"? {a: 1}\n: 3\n", "a key must be a single word"},
        {"a: \"x\\0y\"\n", "run.yaml:1:4: a text must not contain a zero byte"},
        {"a: [1, 2\n", "run.yaml:2:1: "},
        {"a: b: c\n", "run.yaml:1:5: mapping values are not allowed"},
        {"a:\n\t- 1\n", "run.yaml:2:1: "},
        {"a: \xff\n", "run.yaml:1:"},
        {"a: \x01\n", "control characters are not allowed"},
        {"a: \"open\n", "run.yaml:"},
    };
    rf_yaml *root = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_refused(
            rf_yaml_parse(cases[i].text, (int64_t)strlen(cases[i].text), "run.yaml", &root),
            RF_ERR_FORMAT, cases[i].expected);
        assert_null(root);
    }
}

/* `n` times `open`. */
static rf_status parse_repeated(const char *open, int64_t n, rf_yaml **root)
{
    rf_str s = {0};
    for (int64_t i = 0; i < n; i++) {
        assert_ok(rf_str_append(&s, "%s", open));
    }
    rf_status status = rf_yaml_parse(s.data, s.len, "run.yaml", root);
    rf_str_fini(&s);
    return status;
}

static void depth_size_and_keys_are_capped(void **state)
{
    char text[200];
    rf_yaml *root = NULL;
    rf_str s = {0};
    (void)state;
    memset(text, '[', 32);
    memset(text + 32, ']', 32);
    text[64] = '\0';
    rf_yaml_free(parse(text)); /* 32 deep is fine */
    memset(text, '[', 33);
    memset(text + 33, ']', 33);
    text[66] = '\0';
    assert_refused(rf_yaml_parse(text, 66, "run.yaml", &root), RF_ERR_FORMAT,
                   "run.yaml:1:33: nested more than 32 deep");
    assert_refused(parse_repeated("[", 1 << 20, &root), RF_ERR_FORMAT, "nested more than 32");
    assert_refused(parse_repeated("- ", 1 << 19, &root), RF_ERR_FORMAT, "nested more than 32");
    assert_refused(parse_repeated("{a: ", 1 << 18, &root), RF_ERR_FORMAT, "nested more than 32");
    assert_refused(parse_repeated("#", (16 << 20) + 1, &root), RF_ERR_FORMAT, "at most 16 MiB");
    assert_ok(parse_repeated("#", 16 << 20, &root));
    rf_yaml_free(root);
    for (int i = 0; i < 1024; i++) {
        assert_ok(rf_str_append(&s, "k%d: 1\n", i));
    }
    rf_yaml_free(parse(s.data));
    assert_ok(rf_str_append(&s, "more: 1\n"));
    assert_refused(rf_yaml_parse(s.data, s.len, "run.yaml", &root), RF_ERR_FORMAT,
                   "run.yaml:1025:1: more than 1024 keys");
    rf_str_fini(&s);
}

static void loads_files_and_refuses_large_and_missing_ones(void **state)
{
    rf_yaml *root = NULL;
    (void)state;
    put_text(scratch("a.yaml"), "a: {b: c}\n");
    assert_ok(rf_yaml_load(scratch("a.yaml"), &root));
    assert_string_equal(text_at(root, "a", "b"), "c");
    assert_string_equal(root->file, scratch("a.yaml"));
    rf_yaml_free(root);
    assert_refused(rf_yaml_load(scratch("b.yaml"), &root), RF_ERR_NOT_FOUND, "/b.yaml'");
    char *large = rf_calloc((16 << 20) + 1, 1);
    memset(large, '#', (16 << 20) + 1);
    put_file(scratch("c.yaml"), large, (16 << 20) + 1);
    rf_free(large);
    assert_refused(rf_yaml_load(scratch("c.yaml"), &root), RF_ERR_FORMAT, "larger than");
}

static void an_override_replaces_adds_and_goes_into_lists(void **state)
{
    rf_yaml *root = parse("train: {lr: 1}\ncoders:\n  - k: 1\n  - k: 2\nnull_section:\n"
                          "sweep: {train.lr: [1, 2]}\n");
    (void)state;
    assert_ok(rf_yaml_override(root, "train.lr=1e-3"));
    assert_string_equal(text_at(root, "train", "lr"), "1e-3");
    assert_string_equal(rf_yaml_find(rf_yaml_find(root, "train"), "lr")->file, "command line");
    assert_ok(rf_yaml_override(root, "train.steps=\"8\""));
    assert_true(rf_yaml_find(rf_yaml_find(root, "train"), "steps")->quoted);
    assert_ok(rf_yaml_override(root, "coders.1.k=64"));
    assert_string_equal(text_at(rf_yaml_find(root, "coders")->items[1], "k", NULL), "64");
    assert_string_equal(text_at(rf_yaml_find(root, "coders")->items[0], "k", NULL), "1");
    assert_ok(rf_yaml_override(root, "coders.2.k=3"));
    assert_int_equal(rf_yaml_find(root, "coders")->n_items, 3);
    assert_ok(rf_yaml_override(root, "new.deep.er={a: [1, 2]}"));
    const rf_yaml *er = rf_yaml_find(rf_yaml_find(rf_yaml_find(root, "new"), "deep"), "er");
    assert_int_equal(rf_yaml_find(er, "a")->n_items, 2);
    assert_ok(rf_yaml_override(root, "null_section.x=1"));
    assert_string_equal(text_at(root, "null_section", "x"), "1");
    assert_ok(rf_yaml_override(root, "sweep.train.lr=[3]")); /* the key has a dot */
    assert_int_equal(rf_yaml_find(rf_yaml_find(root, "sweep"), "train.lr")->n_items, 1);
    assert_ok(rf_yaml_override(root, "output.select=max ev where l0 <= 500"));
    assert_string_equal(text_at(root, "output", "select"), "max ev where l0 <= 500");
    assert_ok(rf_yaml_override(root, "train.lr="));
    assert_string_equal(text_at(root, "train", "lr"), "");
    assert_ok(rf_yaml_override(root, "train={}"));
    assert_int_equal(rf_yaml_find(root, "train")->kind, RF_YAML_MAP);
    rf_yaml_free(root);
}

static void a_wrong_override_is_refused_and_changes_nothing(void **state)
{
    static const struct {
        rf_status status;
        const char *text, *expected;
    } cases[] = {
        {RF_ERR_SETTING, "train.lr", "'train.lr': expected key.path=value"},
        {RF_ERR_SETTING, "=1", "expected key.path=value"},
        {RF_ERR_SETTING, ".a=1", "an empty key"},
        {RF_ERR_SETTING, "train..lr=1", "an empty key"},
        {RF_ERR_SETTING, "train.=1", "an empty key"},
        {RF_ERR_SETTING, "train.lr.x=1", "nothing below 'lr': it is a value"},
        {RF_ERR_SETTING, "coders.2=1", "'2' is no index of a list of 1"},
        {RF_ERR_SETTING, "coders.-1=1", "'-1' is no index"},
        {RF_ERR_SETTING, "coders.k=1", "'k' is no index"},
        {RF_ERR_SETTING, "coders.99999999999999999999=1", "is no index"},
        {RF_ERR_FORMAT, "train.lr=[1", "command line:"},
        {RF_ERR_FORMAT, "train.lr=*x", "aliases"},
        {RF_ERR_SETTING, "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a=1",
         "more than 32 keys"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rf_yaml *root = parse("train: {lr: 1}\ncoders: [a]\n");
        assert_refused(rf_yaml_override(root, cases[i].text), cases[i].status, cases[i].expected);
        assert_int_equal(root->n_items, 2);
        assert_string_equal(text_at(root, "train", "lr"), "1");
        assert_int_equal(rf_yaml_find(root, "coders")->n_items, 1);
        rf_yaml_free(root);
    }
}

static void a_copy_outlives_what_it_was_made_from(void **state)
{
    rf_yaml *root = parse("a: {b: [1, 'two']}\n"), *part = NULL, *whole = NULL;
    (void)state;
    assert_ok(rf_yaml_override(root, "a.c=3"));
    assert_ok(rf_yaml_copy(root, &whole));
    assert_ok(rf_yaml_copy(rf_yaml_find(root, "a"), &part));
    rf_yaml_free(root);
    const rf_yaml *b = rf_yaml_find(part, "b");
    assert_string_equal(b->items[1]->text, "two");
    assert_true(b->items[1]->quoted);
    assert_string_equal(b->items[1]->file, "run.yaml");
    assert_int_equal(b->items[1]->column, 12);
    assert_int_equal(b->key_column, 5);
    rf_yaml_free(part);
    assert_string_equal(text_at(whole, "a", "c"), "3");
    assert_string_equal(rf_yaml_find(rf_yaml_find(whole, "a"), "c")->file, "command line");
    rf_yaml_free(whole);
}

static void substitution_reaches_every_scalar_below(void **state)
{
    rf_yaml *root = parse("a: 'x{layer}y{layer}'\nb: ['blocks.{layer}.h', {c: '{layers}'}]\n"
                          "'{layer}': 1\n");
    (void)state;
    assert_ok(rf_yaml_substitute(root, "layer", "11"));
    assert_string_equal(text_at(root, "a", NULL), "x11y11");
    assert_string_equal(rf_yaml_find(root, "b")->items[0]->text, "blocks.11.h");
    assert_string_equal(text_at(rf_yaml_find(root, "b")->items[1], "c", NULL), "{layers}");
    assert_non_null(rf_yaml_find(root, "{layer}"));            /* keys stay */
    assert_ok(rf_yaml_substitute(root, "layers", "{layers}")); /* no endless loop */
    rf_yaml_free(root);
}

static void a_failure_says_its_place(void **state)
{
    rf_yaml *root = parse("a:\n  b: 1\n");
    (void)state;
    const rf_yaml *b = rf_yaml_find(rf_yaml_find(root, "a"), "b");
    assert_refused(rf_yaml_fail(b, "b = %d: wrong", 1), RF_ERR_SETTING,
                   "run.yaml:2:6: b = 1: wrong");
    assert_ok(rf_yaml_override(root, "a.b=2"));
    b = rf_yaml_find(rf_yaml_find(root, "a"), "b");
    assert_refused(rf_yaml_fail(b, "wrong"), RF_ERR_SETTING, "command line: wrong");
    assert_refused(rf_yaml_fail(NULL, "wrong"), RF_ERR_SETTING, "wrong");
    rf_yaml_free(root);
    assert_int_equal(rf_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_maps_lists_and_scalars_with_their_places),
        cmocka_unit_test(nothing_is_an_empty_map),
        cmocka_unit_test(refuses_what_is_surprising_with_its_place),
        cmocka_unit_test(depth_size_and_keys_are_capped),
        scratch_test(loads_files_and_refuses_large_and_missing_ones),
        cmocka_unit_test(an_override_replaces_adds_and_goes_into_lists),
        cmocka_unit_test(a_wrong_override_is_refused_and_changes_nothing),
        cmocka_unit_test(a_copy_outlives_what_it_was_made_from),
        cmocka_unit_test(substitution_reaches_every_scalar_below),
        cmocka_unit_test(a_failure_says_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
