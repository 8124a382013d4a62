/* A user's row of the architecture table: the example of docs/models.md, and what must be refused.
 */
#include "../../src/vit/config_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void assert_ok(rf_status status)
{
    if (status != RF_OK) {
        fail_msg("%s: %s", rf_error_place(), rf_error_text());
    }
}

/* ---- a model with names of its own ------------------------------------------------------------
 */

typedef struct fixture {
    char folder[RF_PATH_LEN], row[RF_PATH_LEN], golden[RF_PATH_LEN];
    rf_backend *be;
} fixture;

static void write_text(const char *folder, const char *name, const char *text)
{
    char path[RF_PATH_LEN];
    assert_ok(rf_path_join(path, folder, name));
    assert_ok(rf_file_write_atomic(path, text, (int64_t)strlen(text)));
}

/* The name of a golden ViT's tensor as the model of the example calls it. */
static void rename_tensor(const char *name, char out[RF_NAME_LEN])
{
    static const char *const names[][2] = {
        {"embeddings.patch_embeddings.projection", "net.stem.conv"},
        {"embeddings.cls_token", "net.class"},
        {"embeddings.position_embeddings", "net.places"},
        {"attention.attention.query", "attention.to_q"},
        {"attention.attention.key", "attention.to_k"},
        {"attention.attention.value", "attention.to_v"},
        {"attention.output.dense", "attention.out"},
        {"intermediate.dense", "up"},
        {"output.dense", "down"},
        {"layernorm_before", "before"},
        {"layernorm_after", "behind"},
        {"encoder.layer.", "net.blocks."},
        {"layernorm", "net.final"},
    };
    char from[RF_NAME_LEN];
    assert_ok(rf_format(out, RF_NAME_LEN, "%s", name));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *at = strstr(out, names[i][0]);
        if (at != NULL) {
            memcpy(from, out, sizeof from);
            assert_ok(rf_format(out, RF_NAME_LEN, "%.*s%s%s", (int)(at - out), from, names[i][1],
                                from + (at - out) + strlen(names[i][0])));
        }
    }
}

static void write_renamed(const char *golden, const char *folder)
{
    char path[RF_PATH_LEN];
    rf_tensor_file *file = NULL;
    assert_ok(rf_path_join(path, golden, "model.safetensors"));
    assert_ok(rf_tensor_file_open(path, &file));
    const int64_t n = rf_tensor_file_count(file);
    rf_named_tensor *tensors = rf_calloc(n, sizeof *tensors);
    char(*names)[RF_NAME_LEN] = rf_calloc(n, sizeof *names);
    for (int64_t i = 0; i < n; i++) {
        tensors[i] = *rf_tensor_file_at(file, i);
        rename_tensor(tensors[i].name, names[i]);
        tensors[i].name = names[i];
    }
    assert_ok(rf_path_join(path, folder, "model.safetensors"));
    assert_ok(rf_safetensors_write(path, tensors, n, NULL, 0));
    rf_free(names);
    rf_free(tensors);
    rf_tensor_file_close(file);
}

/* The first block of docs/models.md that is fenced as `language`; caller frees. */
static char *block_of_page(const char *language)
{
    char path[RF_PATH_LEN], fence[32], *page = NULL;
    int64_t n_bytes = 0;
    assert_ok(rf_format(path, sizeof path, "%s/docs/models.md", RF_SOURCE_DIR));
    assert_ok(rf_file_read(path, 1 << 20, &page, &n_bytes));
    assert_ok(rf_format(fence, sizeof fence, "\n```%s\n", language));
    char *start = strstr(page, fence);
    assert_non_null(start);
    start += strlen(fence);
    char *end = strstr(start, "\n```");
    assert_non_null(end);
    end[1] = '\0';
    char *text = rf_strdup(start);
    rf_free(page);
    return text;
}

static int set_up(void **state)
{
    fixture *f = rf_calloc(1, sizeof *f);
    const char *tmp = getenv("TMPDIR");
    char *config = block_of_page("json"), *row = block_of_page("yaml");
    assert_ok(rf_format(f->folder, sizeof f->folder, "%s/refract-row-XXXXXX",
                        tmp != NULL ? tmp : "/tmp"));
    assert_non_null(mkdtemp(f->folder));
    assert_ok(rf_format(f->golden, sizeof f->golden, "%s/vit/vit", RF_GOLDEN_DIR));
    write_renamed(f->golden, f->folder);
    write_text(f->folder, "config.json", config);
    write_text(f->folder, "row.yaml", row);
    assert_ok(rf_path_join(f->row, f->folder, "row.yaml"));
    assert_ok(rf_backend_cpu_create(1, &f->be));
    rf_free(config);
    rf_free(row);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    static const char *const names[] = {"config.json", "row.yaml", "model.safetensors"};
    fixture *f = *state;
    char path[RF_PATH_LEN];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_ok(rf_path_join(path, f->folder, names[i]));
        unlink(path);
    }
    rmdir(f->folder);
    rf_backend_destroy(f->be);
    rf_free(f);
    return 0;
}

/* ---- it opens ---------------------------------------------------------------------------------
 */

static void assert_same_weights(const rf_vit *a, const rf_vit *b)
{
    assert_int_equal(a->weights.n_params, b->weights.n_params);
    assert_int_equal(a->weights.n_floats, b->weights.n_floats);
    for (int64_t i = 0; i < a->weights.n_params; i++) {
        assert_string_equal(a->weights.params[i].name, b->weights.params[i].name);
    }
    assert_memory_equal(a->weights.arena, b->weights.arena,
                        (size_t)a->weights.n_floats * sizeof(float));
}

static void test_the_example_of_the_page_opens_and_is_the_same_model(void **state)
{
    fixture *f = *state;
    rf_vit *own = NULL, *vit = NULL;
    assert_int_equal(rf_vit_open(f->be, f->folder, NULL, &own), RF_ERR_NOT_FOUND); /* no row */
    assert_ok(rf_vit_open(f->be, f->folder, &(rf_vit_opts){.row = f->row}, &own));
    assert_ok(rf_vit_open(f->be, f->golden, NULL, &vit));
    assert_string_equal(own->config.family, "mini");
    assert_same_weights(own, vit);
    rf_vit_config a = own->config, b = vit->config;
    memset(a.family, 0, sizeof a.family);
    memset(b.family, 0, sizeof b.family);
    memset(a.name, 0, sizeof a.name);
    memset(b.name, 0, sizeof b.name);
    assert_memory_equal(&a, &b, sizeof a);
    rf_vit_close(own);
    rf_vit_close(vit);
}

static void open_with(fixture *f, const char *row, rf_status expected, const char *word)
{
    rf_vit *vit = NULL;
    const int64_t live = rf_alloc_live();
    write_text(f->folder, "row.yaml", row);
    const rf_status got = rf_vit_open(f->be, f->folder, &(rf_vit_opts){.row = f->row}, &vit);
    if (got != expected || (word != NULL && strstr(rf_error_text(), word) == NULL)) {
        fail_msg("%s: status %d, '%s', expected status %d and '%s'", row, (int)got, rf_error_text(),
                 (int)expected, word != NULL ? word : "");
    }
    rf_vit_close(vit);
    assert_int_equal(rf_alloc_live(), live);
}

#define NAMES                                                                                      \
    "names: {patch: net.stem.conv, cls: net.class, position: [no, net.places], ln_final: "         \
    "/net.final,\n ln1: 'net.blocks.{l}.before', q: 'net.blocks.{l}.attention.to_q', k: "          \
    "'net.blocks.{l}.attention.to_k',\n v: 'net.blocks.{l}.attention.to_v', o: "                   \
    "'net.blocks.{l}.attention.out', ln2: 'net.blocks.{l}.behind',\n fc1: 'net.blocks.{l}.up', "   \
    "fc2: 'net.blocks.{l}.down'}\n"

static void test_a_row_may_say_everything_and_the_weights_the_sizes(void **state)
{
    fixture *f = *state;
    char path[RF_PATH_LEN];
    rf_vit *own = NULL, *vit = NULL;
    assert_ok(rf_path_join(path, f->folder, "config.json"));
    assert_int_equal(unlink(path), 0); /* not even a config */
    write_text(f->folder, "row.yaml",
               NAMES "settings: {n_heads: 3, has_cls: true, eps: 1e-12, image_size: 26}\n");
    assert_ok(rf_vit_open(f->be, f->folder, &(rf_vit_opts){.row = f->row}, &own));
    assert_ok(rf_vit_open(f->be, f->golden, NULL, &vit));
    assert_same_weights(own, vit);
    assert_int_equal(own->config.n_layers, 3);
    assert_int_equal(own->config.d_mlp, 52);
    rf_vit_close(own);
    rf_vit_close(vit);
    open_with(f, NAMES "settings: {has_cls: true}\n", RF_ERR_FORMAT, "nothing says n_heads");
    open_with(f, NAMES "settings: {n_heads: 3}\n", RF_ERR_FORMAT, "shape [1, 10, 36]");
}

static void test_an_architecture_can_be_built_upon(void **state)
{
    fixture *f = *state;
    open_with(f,
              "like: vit_small_patch16_224\n"
              "names: {patch: net.stem.conv, cls: net.class, position: net.places, ln_final: "
              "net.final}\n",
              RF_ERR_FORMAT, "has shape [36, 3, 8, 8], but config.json means [384, 3, 16, 16]");
}

/* ---- what must be refused ---------------------------------------------------------------------
 */

static void test_mistakes_are_named_with_their_line(void **state)
{
    fixture *f = *state;
    static const struct {
        const char *row, *word;
    } wrong[] = {
        {"like: vti\n", "row.yaml:1"},
        {"like: [vit]\n", "row.yaml:1"},
        {"like: clip_text\n", "is no vision tower"},
        {"like: vit\nnmaes: {}\n", "row.yaml:2"},
        {"like: vit\nnames:\n  pach: stem\n", "row.yaml:3"},
        {"like: vit\nnames:\n  pach: stem\n", "did you mean 'patch'"},
        {"like: vit\nnames: [stem]\n", "names must be a map"},
        {"like: vit\nnames: {patch: [a, b, c, d, e]}\n", "list of 1 to 4"},
        {"like: vit\nnames: {patch: {a: b}}\n", "patch"},
        {"like: vit\nkeys:\n  d_modle: width\n", "did you mean 'd_model'"},
        {"like: vit\nkeys: {d_model: [width]}\n", "d_model"},
        {"like: vit\nsettings:\n  has_clas: true\n", "row.yaml:3"},
        {"like: vit\nsettings: {pool: middle}\n", "patch_mean"},
        {"like: vit\nsettings: {n_layers: 1e9}\n", "n_layers"},
        {"like: vit\nsettings: {d_model: wide}\n", "d_model"},
        {"- like\n", "a row must be a map"},
        {"", "row"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        rf_vit_config c;
        write_text(f->folder, "row.yaml", wrong[i].row);
        const int64_t live = rf_alloc_live();
        const rf_status got = rf_vit_read_config(f->folder, &(rf_vit_opts){.row = f->row}, &c);
        if (got == RF_OK || strstr(rf_error_text(), wrong[i].word) == NULL) {
            fail_msg("%s: status %d, '%s', expected '%s'", wrong[i].row, (int)got, rf_error_text(),
                     wrong[i].word);
        }
        assert_int_equal(rf_alloc_live(), live);
    }
    open_with(f, NAMES "keys: {n_heads: no_such_key}\nsettings: {n_heads: 5, image_size: 26}\n",
              RF_ERR_FORMAT, "num_attention_heads 5");
    assert_int_equal(
        rf_vit_read_config(f->folder, &(rf_vit_opts){.row = "/nowhere.yaml"}, &(rf_vit_config){0}),
        RF_ERR_NOT_FOUND);
}

/* ---- the page ---------------------------------------------------------------------------------
 */

static void test_the_page_lists_the_settings_and_the_families(void **state)
{
    (void)state;
    char path[RF_PATH_LEN], *page = NULL, word[RF_NAME_LEN];
    int64_t n_bytes = 0;
    rf_str help = {0};
    assert_ok(rf_format(path, sizeof path, "%s/docs/models.md", RF_SOURCE_DIR));
    assert_ok(rf_file_read(path, 1 << 20, &page, &n_bytes));
    assert_ok(rf_settings_write_help(&rf_draft_table, true, &help));
    for (char *line = help.data, *end = NULL; line != NULL; line = end != NULL ? end + 1 : NULL) {
        end = strchr(line, '\n');
        if (end != NULL) {
            *end = '\0';
        }
        if (line[0] == '|' && strstr(page, line) == NULL) {
            fail_msg("docs/models.md lacks '%s'", line);
        }
    }
    for (int64_t i = 0; i < rf_arch_count(); i++) {
        assert_ok(rf_format(word, sizeof word, "`%s`", rf_arch_at(i)->family));
        if (strstr(page, word) == NULL) {
            fail_msg("docs/models.md lacks the family %s", word);
        }
    }
    for (int i = 0; i < RF_N_PARTS; i++) {
        assert_ok(rf_format(word, sizeof word, "`%s`", rf_part_name((rf_part)i)));
        if (strstr(page, word) == NULL) {
            fail_msg("docs/models.md lacks the part %s", word);
        }
    }
    rf_str_fini(&help);
    rf_free(page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_example_of_the_page_opens_and_is_the_same_model,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_row_may_say_everything_and_the_weights_the_sizes,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_an_architecture_can_be_built_upon, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_mistakes_are_named_with_their_line, set_up, tear_down),
        cmocka_unit_test(test_the_page_lists_the_settings_and_the_families),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
