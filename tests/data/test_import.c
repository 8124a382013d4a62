/* Activations that other tools wrote become the store that they should. Files of NumPy, safetensors
 * and PyTorch come from tests/golden/make_import.py, whose formula is value_of. */
#include "../../src/data/import_impl.h"
#include "../io/scratch.h"

#include <math.h>
#include <sys/stat.h>

static rf_comm *world;

static const char *golden(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/import/%s", RF_GOLDEN_DIR, name);
    return path;
}

static float value_of(int64_t p, int64_t l, int64_t t, int64_t d)
{
    return (float)((((p * 3 + l) * 5 + t) * 7 + d) * 37 % 251 - 125);
}

/* Settings of the words "key=value ..." and out=STORE. */
static rf_import_settings settings_of(const char *words, const char *store)
{
    rf_import_settings out;
    rf_yaml *root = NULL;
    char copy[1200], *rest = copy;
    assert_ok(rf_settings_defaults(&rf_import_settings_table, &out));
    assert_ok(rf_yaml_parse("{}", 2, "test", &root));
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strsep(&rest, " "); word != NULL; word = strsep(&rest, " ")) {
        if (word[0] != '\0') {
            assert_ok(rf_yaml_override(root, word));
        }
    }
    assert_ok(rf_settings_read(&rf_import_settings_table, root, "import", NULL, &out, NULL));
    rf_yaml_free(root);
    snprintf(out.out, sizeof out.out, "%s", store);
    return out;
}

static rf_status import(const char *path, const char *words, rf_import_report *report)
{
    rf_import_report other;
    const rf_import_settings settings = settings_of(words, scratch("store.h5"));
    return rf_import_run(world, path, &settings, report != NULL ? report : &other);
}

/* Of a type, as fp32. */
static float widened(rf_dtype dtype, const unsigned char *bytes, int64_t i)
{
    const rf_file_dtype types[] = {
        [RF_F32] = RF_FILE_F32, [RF_F16] = RF_FILE_F16, [RF_BF16] = RF_FILE_BF16};
    const int64_t n_bytes = (int64_t)rf_dtype_bytes(dtype);
    const rf_named_tensor t = {.name = "x",
                               .dtype = types[dtype],
                               .n_elems = 1,
                               .bytes = bytes + i * n_bytes,
                               .n_bytes = n_bytes};
    float out = 0;
    assert_ok(rf_named_tensor_read_f32(&t, &out));
    return out;
}

/* Every value of a site is that of the files' layer `layer`. */
static void check_site(const rf_store *store, int64_t s, int64_t layer)
{
    const rf_store_head *head = rf_store_get_head(store);
    const rf_store_site *site = &head->sites[s];
    for (int64_t g = 0; g < rf_store_n_groups(store); g++) {
        int64_t first = 0, i = 0;
        const int64_t n = rf_store_group(store, g, &first);
        unsigned char *block = rf_calloc(rf_store_block_bytes(store, g, s), 1);
        assert_ok(rf_store_read(store, g, s, block));
        for (int64_t p = 0; p < n; p++) {
            for (int64_t t = 0; t < site->n_rows; t++) {
                for (int64_t d = 0; d < site->width; d++, i++) {
                    if (!(widened(head->dtype, block, i) == value_of(first + p, layer, t, d))) {
                        fail_msg("site %d, picture %d, row %d, dimension %d: %g", (int)s,
                                 (int)(first + p), (int)t, (int)d,
                                 (double)widened(head->dtype, block, i));
                    }
                }
            }
        }
        rf_free(block);
    }
}

static rf_store *opened(int64_t n_pictures, int64_t n_sites, int64_t n_rows, int64_t width)
{
    rf_store *store = NULL;
    assert_ok(rf_store_open(scratch("store.h5"), &store));
    assert_ok(rf_store_check_finished(store));
    const rf_store_head *head = rf_store_get_head(store);
    assert_int_equal(head->n_pictures, n_pictures);
    assert_int_equal(head->n_sites, n_sites);
    for (int64_t s = 0; s < n_sites; s++) {
        assert_int_equal(head->sites[s].n_rows, n_rows);
        assert_int_equal(head->sites[s].point_rows, n_rows);
        assert_int_equal(head->sites[s].width, width);
    }
    return store;
}

/* ---- each kind ---------------------------------------------------------------------------------
 */

static void an_array_of_pictures_keeps_values_names_and_labels(void **state)
{
    static const uint8_t classes[5] = {RF_TOKENS_CLS, RF_TOKENS_PATCH, RF_TOKENS_PATCH,
                                       RF_TOKENS_PATCH, RF_TOKENS_PATCH};
    static const int32_t positions[5][3] = {
        {-1, -1, -1}, {0, 0, 0}, {0, 0, 1}, {0, 1, 0}, {0, 1, 1}};
    char words[1200], labels[512];
    rf_import_report report;
    (void)state;
    snprintf(labels, sizeof labels, "%s", golden("labels.npy"));
    snprintf(words, sizeof words, "cls=first group_pictures=2 point=blocks.3.x labels=%s names=%s",
             labels, golden("names.txt"));
    assert_ok(import(golden("images.npy"), words, &report));
    assert_string_equal(report.kind, "npy");
    assert_true(report.n_groups == 3 && report.n_written == 3 && report.n_pictures == 5);
    assert_true(report.n_bytes == 5 * 5 * 3 * 4 && report.n_not_finite == 0);
    rf_store *store = opened(5, 1, 5, 3);
    const rf_store_head *head = rf_store_get_head(store);
    check_site(store, 0, 0);
    assert_string_equal(head->sites[0].point, "blocks.3.x");
    assert_memory_equal(head->sites[0].classes, classes, sizeof classes);
    assert_memory_equal(head->sites[0].positions, positions, sizeof positions);
    assert_string_equal(head->names[3], "n01/picture 3.jpg");
    assert_true(head->labels[0] == 2 && head->labels[2] == -1 && head->n_classes == 3);
    assert_string_equal(head->classes[2], "2");
    assert_true(strstr(head->settings, "images.npy") != NULL);
    rf_store_close(store);
}

static void a_list_of_tokens_has_a_row_a_picture_or_as_many_as_is_said(void **state)
{
    (void)state;
    assert_ok(import(golden("tokens.npy"), "", NULL));
    rf_store *store = opened(20, 1, 1, 3);
    assert_int_equal(rf_store_get_head(store)->group_pictures, 4096);
    assert_int_equal(rf_store_get_head(store)->sites[0].classes[0], RF_TOKENS_PATCH);
    assert_int_equal(rf_store_get_head(store)->sites[0].positions[2], -1);
    assert_string_equal(rf_store_get_head(store)->names[19], "000000019");
    rf_store_close(store);
    remove(scratch("store.h5"));
    assert_ok(import(golden("tokens.npy"), "rows=5 cls=first dtype=fp16", NULL));
    store = opened(4, 1, 5, 3);
    check_site(store, 0, 0);
    rf_store_close(store);
    remove(scratch("store.h5"));
    assert_refused(import(golden("tokens.npy"), "rows=3 grid=none", NULL), RF_ERR_SETTING,
                   "has 20 tokens, which are not whole pictures");
}

static void a_folder_is_read_in_the_order_of_its_numbers(void **state)
{
    rf_import_report report;
    (void)state;
    assert_ok(import(golden("folder"), "group_pictures=3 dtype=bf16", &report));
    assert_true(report.n_groups == 3);
    rf_store *store = opened(7, 1, 4, 3);
    check_site(store, 0, 0);
    assert_int_equal(rf_store_get_head(store)->sites[0].positions[3 * 3 + 1], 1);
    rf_store_close(store);
}

static void every_layer_of_four_axes_is_a_site(void **state)
{
    (void)state;
    assert_ok(import(golden("whole.npy"), "point=l{layer}.x cls=first group_pictures=2", NULL));
    rf_store *store = opened(3, 2, 5, 4);
    check_site(store, 0, 0);
    check_site(store, 1, 1);
    assert_true(rf_store_find(store, "", "l1.x") == 1);
    rf_store_close(store);
    remove(scratch("store.h5"));
    assert_ok(import(golden("whole.npy"), "point=l{layer}.x cls=first numbers=4,9 layers=9", NULL));
    store = opened(3, 1, 5, 4);
    check_site(store, 0, 1);
    assert_string_equal(rf_store_get_head(store)->sites[0].point, "l9.x");
    rf_store_close(store);
    assert_refused(import(golden("whole.npy"), "cls=first", NULL), RF_ERR_SETTING,
                   "point=blocks.{layer}.hook_resid_post");
    assert_refused(import(golden("whole.npy"), "cls=first point=x{layer} layers=2", NULL),
                   RF_ERR_SETTING, "do not hold layer 2");
    assert_refused(import(golden("whole.npy"), "cls=first point=x{layer} layers=0..", NULL),
                   RF_ERR_SETTING, "layers=0..: expected numbers");
}

static void a_tensor_is_chosen_by_name_or_because_it_is_alone(void **state)
{
    rf_import_report report;
    (void)state;
    assert_ok(import(golden("one.safetensors"), "", &report));
    assert_string_equal(report.kind, "tensors");
    rf_store *store = opened(4, 1, 4, 3);
    check_site(store, 0, 0);
    rf_store_close(store);
    remove(scratch("store.h5"));
    assert_refused(import(golden("two.safetensors"), "", NULL), RF_ERR_SETTING,
                   "tensor= chooses one of acts, other");
    assert_refused(import(golden("two.safetensors"), "tensor=no", NULL), RF_ERR_SETTING,
                   "has no tensor 'no'");
    assert_ok(import(golden("two.safetensors"), "tensor=other", NULL));
    store = opened(4, 1, 4, 3);
    check_site(store, 0, 0);
    rf_store_close(store);
}

static void prismas_pictures_go_over_the_ends_of_its_files(void **state)
{
    (void)state;
    assert_ok(import(golden("prisma"),
                     "rows=5 cls=first numbers=9,11 point=blocks.{layer}.hook_mlp_out "
                     "dtype=fp16 group_pictures=3",
                     NULL));
    rf_store *store = opened(8, 2, 5, 3);
    check_site(store, 0, 0);
    check_site(store, 1, 1);
    assert_string_equal(rf_store_get_head(store)->sites[1].point, "blocks.11.hook_mlp_out");
    rf_store_close(store);
}

static void saevs_shards_say_themselves_what_they_are(void **state)
{
    static const char *const folders[] = {"saev", "saev-1", "saev-0"};
    static const int64_t shapes[][3] = {{7, 3, 5}, {4, 1, 4}, {5, 2, 5}};
    rf_import_report report;
    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_ok(import(golden(folders[i]), "group_pictures=2", &report));
        assert_string_equal(report.kind, "saev");
        rf_store *store = opened(shapes[i][0], shapes[i][1], shapes[i][2], 3);
        for (int64_t s = 0; s < shapes[i][1]; s++) {
            check_site(store, s, s);
        }
        assert_int_equal(rf_store_get_head(store)->sites[0].classes[0],
                         i == 1 ? RF_TOKENS_PATCH : RF_TOKENS_CLS);
        assert_string_equal(rf_store_get_head(store)->model, "tiny");
        rf_store_close(store);
        remove(scratch("store.h5"));
    }
    assert_ok(import(golden("saev"), "layers=11,1", NULL));
    rf_store *store = opened(7, 2, 5, 3);
    assert_string_equal(rf_store_get_head(store)->sites[0].point, "blocks.11.hook_resid_post");
    check_site(store, 0, 2);
    check_site(store, 1, 0);
    rf_store_close(store);
}

/* ---- continuing --------------------------------------------------------------------------------
 */

static void an_import_goes_on_where_it_stopped(void **state)
{
    rf_import_report report;
    uint64_t whole = 0, again = 0;
    (void)state;
    assert_ok(import(golden("saev"), "group_pictures=1", NULL));
    assert_ok(rf_file_hash(scratch("store.h5"), &whole, NULL));
    assert_ok(import(golden("saev"), "group_pictures=1", &report));
    assert_int_equal(report.n_written, 0);
    remove(scratch("store.h5"));
    rf_interrupt_raise(15);
    assert_refused(import(golden("saev"), "group_pictures=1", &report), RF_ERR_INTERRUPTED,
                   "signal 15");
    rf_interrupt_clear();
    assert_int_equal(report.n_written, 1);
    assert_ok(import(golden("saev"), "group_pictures=1", &report));
    assert_int_equal(report.n_written, 6);
    assert_ok(rf_file_hash(scratch("store.h5"), &again, NULL));
    assert_true(whole == again);
    assert_refused(import(golden("saev-0"), "group_pictures=1", NULL), RF_ERR_SETTING,
                   "store.h5' is a store of ");
    assert_refused(import(golden("saev"), "group_pictures=2", NULL), RF_ERR_SETTING,
                   "another activations.group_pictures");
}

/* ---- numbers that are none ---------------------------------------------------------------------
 */

static void put_npy(const char *path, const char *shape, const float *values, int64_t n)
{
    char header[118 + 10];
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\1\0\x76\0", 10);
    const int n_text =
        snprintf(header + 10, 118, "{'descr': '<f4', 'fortran_order': False, 'shape': %s}", shape);
    assert_true(n_text < 118);
    header[10 + n_text] = ' ';
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(header, 1, sizeof header, f), sizeof header);
    assert_int_equal(fwrite(values, sizeof *values, (size_t)n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void values_that_are_not_finite_are_kept_and_counted(void **state)
{
    static const float x[4] = {NAN, -INFINITY, 65519.0f, 65520.0f};
    unsigned char block[8];
    rf_import_report report;
    rf_store *store = NULL;
    (void)state;
    put_npy(scratch("x.npy"), "(2,2)", x, 4);
    assert_ok(import(scratch("x.npy"), "dtype=fp16", &report));
    assert_int_equal(report.n_not_finite, 2);
    assert_int_equal(report.n_too_large, 1);
    assert_ok(rf_store_open(scratch("store.h5"), &store));
    assert_ok(rf_store_read(store, 0, 0, block));
    assert_true(isnan(widened(RF_F16, block, 0)) && widened(RF_F16, block, 1) == -INFINITY);
    assert_true(widened(RF_F16, block, 2) == 65504.0f && widened(RF_F16, block, 3) == INFINITY);
    rf_store_close(store);
}

/* ---- what must be refused ----------------------------------------------------------------------
 */

static void arrays_that_are_no_activations_are_refused(void **state)
{
    static const struct {
        const char *name, *words;
        rf_status status;
        const char *text;
    } cases[] = {
        {"fortran.npy", "", RF_ERR_UNSUPPORTED, "fortran.npy' is in Fortran's order"},
        {"integers.npy", "", RF_ERR_UNSUPPORTED, "integers.npy': its elements are no floats"},
        {"one_dimension.npy", "", RF_ERR_FORMAT, "has 1 dimensions, expected 2 to 4"},
        {"images.npy", "", RF_ERR_SETTING, "5 patches a picture are no square"},
        {"images.npy", "grid=2x3", RF_ERR_SETTING, "do not fill the grid 2x3"},
        {"images.npy", "grid=5", RF_ERR_SETTING, "grid=5: expected"},
        {"images.npy", "cls=first registers=5", RF_ERR_SETTING, "6 CLS and register tokens"},
        {"images.npy", "rows=4", RF_ERR_SETTING, "rows=4, but"},
        {"images.npy", "grid=none names=nowhere.txt", RF_ERR_NOT_FOUND, "nowhere.txt"},
        {"images.npy", "grid=none point=a/b", RF_ERR_FORMAT, "'a/b' is no name"},
        {"nowhere.npy", "", RF_ERR_NOT_FOUND, "nowhere.npy"},
        {"names.txt", "", RF_ERR_FORMAT, "names.txt"},
        {"saev", "numbers=1,2,3", RF_ERR_SETTING, "say themselves"},
        {"saev", "layers=2", RF_ERR_SETTING, "do not hold layer 2"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_refused(import(golden(cases[i].name), cases[i].words, NULL), cases[i].status,
                       cases[i].text);
        assert_false(rf_file_exists(scratch("store.h5")));
    }
    const rf_import_settings nothing = settings_of("grid=none", "");
    rf_import_report report;
    assert_refused(rf_import_run(world, golden("images.npy"), &nothing, &report), RF_ERR_SETTING,
                   "out= says which store to write");
}

static void labels_and_names_must_be_as_many_as_pictures(void **state)
{
    char words[600];
    static const float labels[5] = {0, 1, 2, 3, 1.5f};
    (void)state;
    put_text(scratch("names.txt"), "a\nb\nc\nd\n");
    snprintf(words, sizeof words, "grid=none names=%s", scratch("names.txt"));
    assert_refused(import(golden("images.npy"), words, NULL), RF_ERR_SETTING,
                   "has 4 names, but there are 5 pictures");
    put_text(scratch("names.txt"), "a\nb\n\nd\ne\n");
    assert_refused(import(golden("images.npy"), words, NULL), RF_ERR_FORMAT, "line 3 is no name");
    snprintf(words, sizeof words, "grid=none labels=%s", scratch("labels.npy"));
    put_npy(scratch("labels.npy"), "(4,)", labels, 4);
    assert_refused(import(golden("images.npy"), words, NULL), RF_ERR_SETTING,
                   "no list of 5 labels");
    put_npy(scratch("labels.npy"), "(5,)", labels, 5);
    assert_refused(import(golden("images.npy"), words, NULL), RF_ERR_FORMAT, "label 4 is 1.5");
}

static void shapes_that_lie_are_refused_by_file(void **state)
{
    static const float x[12] = {0};
    static const struct {
        const char *shape, *text;
    } cases[] = {
        {"(2,7)", "truncated"},
        {"(0,3)", "its array is empty"},
        {"(4294967296,4294967296)", "overflows"},
        {"(3,-4)", "its shape has '-4'"},
        {"(1,1,1,3,4)", "5 dimensions"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_npy(scratch("x.npy"), cases[i].shape, x, strcmp(cases[i].shape, "(0,3)") == 0 ? 0 : 12);
        assert_refused(import(scratch("x.npy"), "", NULL), RF_ERR_FORMAT, cases[i].text);
        assert_refused(import(scratch("x.npy"), "", NULL), RF_ERR_FORMAT, "x.npy");
    }
    assert_int_equal(mkdir(scratch("mixed"), 0700), 0);
    put_npy(scratch("mixed/1.npy"), "(3,4)", x, 12);
    put_npy(scratch("mixed/2.npy"), "(4,3)", x, 12);
    assert_refused(import(scratch("mixed"), "", NULL), RF_ERR_FORMAT, "2.npy': its array differs");
    assert_int_equal(mkdir(scratch("empty"), 0700), 0);
    assert_refused(import(scratch("empty"), "", NULL), RF_ERR_NOT_FOUND, "has no .npy");
}

/* saev's metadata with one thing changed. */
static void put_saev(const char *change, const char *shards, int64_t n_bytes)
{
    char *zeros = rf_calloc(n_bytes + 1, 1), text[1024];
    snprintf(
        text, sizeof text,
        "{\"ckpt\": \"m\", \"layers\": [0, 1], \"content_tokens_per_example\": 4, \"cls_token\": "
        "false, \"d_model\": 3, \"n_examples\": 3, \"max_tokens_per_shard\": 16%s}",
        change);
    put_text(scratch("saev/metadata.json"), text);
    put_text(scratch("saev/shards.json"), shards);
    put_file(scratch("saev/acts000000.bin"), zeros, (size_t)n_bytes);
    put_file(scratch("saev/acts000001.bin"), zeros, (size_t)n_bytes);
    rf_free(zeros);
}

static void shards_that_lie_are_refused_by_file(void **state)
{
    enum { BYTES = 2 * 2 * 4 * 3 * 4 }; /* of a shard of two pictures */
    static const char *const good = "[{\"name\": \"acts000000.bin\", \"n_examples\": 2}, "
                                    "{\"name\": \"acts000001.bin\", \"n_examples\": 1}]";
    static const struct {
        const char *shards, *text;
        int64_t n_bytes;
    } cases[] = {
        {NULL, "acts000000.bin' has 191 bytes, expected 192 or more for 2 pictures", BYTES - 1},
        {"{}", "is no list of shards", BYTES},
        {"[]", "do not have the 3 pictures", BYTES},
        {"[{\"name\": \"../saev/acts000000.bin\", \"n_examples\": 2}]", "is no name of a shard",
         BYTES},
        {"[{\"name\": \"acts000000.bin\", \"n_examples\": 3}]", "has 3 pictures, expected 1 to 2",
         BYTES},
        {"[{\"name\": \"acts000000.bin\", \"n_examples\": 0}]", "n_examples is 0", BYTES},
        {"[{\"name\": \"acts000000.bin\", \"n_examples\": 2}, {\"name\": \"acts000001.bin\", "
         "\"n_examples\": 2}]",
         "do not have the 3 pictures", BYTES},
    };
    (void)state;
    assert_int_equal(mkdir(scratch("saev"), 0700), 0);
    put_saev("", good, BYTES);
    assert_ok(import(scratch("saev"), "", NULL));
    remove(scratch("store.h5"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_saev("", cases[i].shards != NULL ? cases[i].shards : good, cases[i].n_bytes);
        assert_refused(import(scratch("saev"), "", NULL), RF_ERR_FORMAT, cases[i].text);
    }
    put_saev("",
             "[{\"name\": \"nowhere.bin\", \"n_examples\": 2}, {\"name\": \"acts000001.bin\", "
             "\"n_examples\": 1}]",
             BYTES);
    assert_refused(import(scratch("saev"), "", NULL), RF_ERR_NOT_FOUND, "nowhere.bin");
    put_saev(", \"dtype\": \"float16\"", good, BYTES);
    assert_refused(import(scratch("saev"), "", NULL), RF_ERR_UNSUPPORTED, "dtype is 'float16'");
    put_text(scratch("saev/metadata.json"),
             "{\"layers\": [0], \"content_tokens_per_example\": 281474976710656, \"d_model\": "
             "281474976710656, \"n_examples\": 3, \"max_tokens_per_shard\": 281474976710656}");
    assert_refused(import(scratch("saev"), "", NULL), RF_ERR_INVALID_ARG, "overflow");
    put_text(
        scratch("saev/metadata.json"),
        "{\"layers\": [-1], \"content_tokens_per_example\": 1, \"d_model\": 1, \"n_examples\": 3, "
        "\"max_tokens_per_shard\": 1}");
    assert_refused(import(scratch("saev"), "", NULL), RF_ERR_FORMAT, "layers[0] is no number");
}

/* Each file, cut at every length, is refused or (what was cut off says nothing) gives the same. */
static void files_cut_anywhere_never_crash(void **state)
{
    static const char *const names[] = {"images.npy", "one.safetensors", "prisma/0.pt"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        char *bytes = NULL;
        int64_t n = 0;
        assert_ok(rf_file_read(golden(names[i]), 1 << 20, &bytes, &n));
        for (int64_t cut = 0; cut < n; cut += 1 + n / 97) {
            put_file(scratch("cut.npy"), bytes, (size_t)cut);
            assert_true(import(scratch("cut.npy"), "cls=first point=x{layer}", NULL) != RF_OK);
            assert_true(strstr(rf_error_text(), "cut.npy") != NULL);
        }
        rf_free(bytes);
    }
}

/* Open `path`, cut it to `n_left` bytes behind its beginning, and read all of it. */
static void check_cut_while_read(const char *path, const char *words, int64_t n_left)
{
    rf_import imp;
    const rf_import_settings settings = settings_of(words, scratch("store.h5"));
    assert_ok(rf_import_open(path, &settings, &imp));
    const int64_t n = imp.n_pictures * imp.picture_rows;
    float *x = rf_calloc(n * imp.layout.width, sizeof *x);
    assert_int_equal(truncate(imp.files[0].path, n_left), 0);
    const rf_status status = rf_import_read(&imp, 0, 0, n, x);
    if (status != RF_ERR_FORMAT || strstr(rf_error_text(), "it was cut short") == NULL ||
        strstr(rf_error_text(), imp.files[0].path) == NULL) {
        fail_msg("%s: status %d, \"%s\"", path, (int)status, rf_error_text());
    }
    rf_free(x);
    rf_import_close(&imp);
}

/* A whole page and more of values is gone: through a map this would kill the program. */
static void a_source_that_is_cut_while_it_is_read_is_an_error(void **state)
{
    enum { TOKENS = 30000 };
    char *zeros = rf_calloc(TOKENS * 3 * 4 + 1024, 1);
    static const char header[] = "{\"x\":{\"dtype\":\"F32\",\"shape\":[30000,3],"
                                 "\"data_offsets\":[0,360000]}}   ";
    const uint64_t n_header = sizeof header - 1;
    (void)state;
    put_npy(scratch("a.npy"), "(30000,3)", (const float *)(const void *)zeros, TOKENS * 3);
    check_cut_while_read(scratch("a.npy"), "", 4096);
    memcpy(zeros, &n_header, 8);
    memcpy(zeros + 8, header, (size_t)n_header);
    put_file(scratch("a.safetensors"), zeros, 8 + (size_t)n_header + TOKENS * 3 * 4);
    check_cut_while_read(scratch("a.safetensors"), "", 4096);
    memset(zeros, 0, 1024);
    assert_int_equal(mkdir(scratch("saev"), 0700), 0);
    put_text(scratch("saev/metadata.json"),
             "{\"ckpt\": \"m\", \"layers\": [0], \"content_tokens_per_example\": 30000, "
             "\"d_model\": 3, \"n_examples\": 1, \"max_tokens_per_shard\": 30000}");
    put_text(scratch("saev/shards.json"), "[{\"name\": \"acts000000.bin\", \"n_examples\": 1}]");
    put_file(scratch("saev/acts000000.bin"), zeros, TOKENS * 3 * 4);
    check_cut_while_read(scratch("saev"), "", 0);
    rf_free(zeros);
    char *bytes = NULL;
    int64_t n = 0;
    assert_ok(rf_file_read(golden("prisma/0.pt"), 1 << 20, &bytes, &n));
    put_file(scratch("a.pt"), bytes, (size_t)n);
    rf_free(bytes);
    check_cut_while_read(scratch("a.pt"), "", 0);
}

static void nothing_is_left_behind(void **state)
{
    (void)state;
    assert_int_equal(rf_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(an_array_of_pictures_keeps_values_names_and_labels),
        scratch_test(a_list_of_tokens_has_a_row_a_picture_or_as_many_as_is_said),
        scratch_test(a_folder_is_read_in_the_order_of_its_numbers),
        scratch_test(every_layer_of_four_axes_is_a_site),
        scratch_test(a_tensor_is_chosen_by_name_or_because_it_is_alone),
        scratch_test(prismas_pictures_go_over_the_ends_of_its_files),
        scratch_test(saevs_shards_say_themselves_what_they_are),
        scratch_test(an_import_goes_on_where_it_stopped),
        scratch_test(values_that_are_not_finite_are_kept_and_counted),
        scratch_test(arrays_that_are_no_activations_are_refused),
        scratch_test(labels_and_names_must_be_as_many_as_pictures),
        scratch_test(shapes_that_lie_are_refused_by_file),
        scratch_test(shards_that_lie_are_refused_by_file),
        scratch_test(files_cut_anywhere_never_crash),
        scratch_test(a_source_that_is_cut_while_it_is_read_is_an_error),
    };
    const struct CMUnitTest last[] = {cmocka_unit_test(nothing_is_left_behind)};
    if (rf_comm_start(NULL, NULL, &world) != RF_OK) {
        return 1;
    }
    const int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    rf_comm_finish(world);
    return n_failed + cmocka_run_group_tests(last, NULL, NULL);
}
