/* Runs on golden models, in a folder of the test that every rank sees. */
#ifndef REFRACT_TESTS_RUN_CASE_H
#define REFRACT_TESTS_RUN_CASE_H

#include "../../src/train/run_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MODELS RF_GOLDEN_DIR "/vit/"
#define PICTURES RF_GOLDEN_DIR "/pictures/accept"

static rf_comm *world;
static char folder[RF_PATH_LEN]; /* the same on every rank; rank 0 makes and removes it */

/* ---- models with a preprocessing, in a folder of the test --------------------------------------
 */

static rf_status link_file(const char *from, const char *dir, const char *name)
{
    rf_status status = RF_OK;
    char source[RF_PATH_LEN], path[RF_PATH_LEN];
    RF_TRY(rf_format(source, sizeof source, MODELS "%s/%s", from, name));
    RF_TRY(rf_path_join(path, dir, name));
    if (symlink(source, path) != 0) {
        RF_FAIL(RF_ERR_IO, "%s", path);
    }
fail:
    return status;
}

/* `name`: the golden model `from`, on pictures of `side` pixels. */
static rf_status make_model(const char *name, const char *from, int side)
{
    rf_status status = RF_OK;
    char dir[RF_PATH_LEN], path[RF_PATH_LEN], text[512];
    RF_TRY(rf_path_join(dir, folder, name));
    RF_TRY(rf_file_make_dirs(dir));
    RF_TRY(link_file(from, dir, "config.json"));
    RF_TRY(link_file(from, dir, "model.safetensors"));
    RF_TRY(rf_format(text, sizeof text,
                     "{\"image_processor_type\": \"ViTImageProcessor\", \"do_resize\": true, "
                     "\"size\": {\"height\": %d, \"width\": %d}, \"resample\": 2, "
                     "\"do_rescale\": true, \"rescale_factor\": 0.00392156862745098, "
                     "\"do_normalize\": false}",
                     side, side));
    RF_TRY(rf_path_join(path, dir, "preprocessor_config.json"));
    RF_TRY(rf_file_write_atomic(path, text, (int64_t)strlen(text)));
fail:
    return status;
}

/* clip: 3 x 3 patches of width 24; vit: as many of 36, from other pictures; twin: on those of clip;
 * registers: 4 x 4. All have a CLS token. Collective. */
static rf_status make_folder(void)
{
    rf_status status = RF_OK;
    const char *temp = getenv("TMPDIR");
    if (rf_comm_rank(world) == 0) {
        RF_TRY(rf_format(folder, sizeof folder, "%s/rf_run_parts_XXXXXX",
                         temp != NULL ? temp : "/tmp"));
        if (mkdtemp(folder) == NULL) {
            RF_FAIL(RF_ERR_IO, "%s", folder);
        }
        RF_TRY(make_model("clip", "clip_tower", 24));
        RF_TRY(make_model("vit", "vit", 26));
        RF_TRY(make_model("twin", "clip_projection", 24));
        RF_TRY(make_model("registers", "dinov2_registers", 28));
    }
fail:
    status = rf_comm_agree(world, status);
    if (status == RF_OK) {
        status = rf_comm_bcast(world, folder, sizeof folder, 0);
    }
    return status;
}

static void remove_below(const char *dir)
{
    char **names = NULL, path[RF_PATH_LEN];
    int64_t n = 0;
    if (rf_file_list(dir, &names, &n) != RF_OK) {
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        if (rf_path_join(path, dir, names[i]) == RF_OK && unlink(path) != 0) {
            remove_below(path);
        }
    }
    rf_file_list_free(names, n);
    rmdir(dir);
}

static void assert_on_all(bool ok)
{
    int64_t n_wrong = ok ? 0 : 1;
    if (!ok) {
        print_message("rank %d: %s\n", rf_comm_rank(world), rf_error_text());
    }
    assert_int_equal(rf_comm_sum_i64(world, &n_wrong, 1), RF_OK);
    assert_int_equal(n_wrong, 0);
}

/* `text` with %F replaced by the folder of the test, behind `out`. */
static void append_yaml(rf_str *out, const char *text)
{
    for (const char *hit = strstr(text, "%F"); hit != NULL; hit = strstr(text, "%F")) {
        assert_int_equal(rf_str_append(out, "%.*s%s", (int)(hit - text), text, folder), RF_OK);
        text = hit + 2;
    }
    assert_int_equal(rf_str_append(out, "%s", text), RF_OK);
}

static rf_run_settings *parse_yaml(const char *yaml)
{
    rf_run_settings *s = NULL;
    if (rf_run_settings_parse(yaml, "run.yaml", NULL, 0, &s) != RF_OK) {
        fail_msg("%s", rf_error_text());
    }
    return s;
}

#endif
