/* The file of a model's weights, and what its tensors are called. */
#include "config_impl.h"

#include <stdio.h>
#include <string.h>

/* ---- finding the file -------------------------------------------------------------------------
 */

static const char *const plain_names[] = {
    "model.safetensors",
    "model.safetensors.index.json",
    "model.fp16.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model.fp16.bin",
    NULL,
};
static const char *const open_clip_names[] = {
    "open_clip_model.safetensors",
    "open_clip_model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.bin.index.json",
    NULL,
};

/* By its name: weights, and neither what a training run leaves nor a reference to compare with. */
static bool is_candidate(const char *name)
{
    static const char *const ends[] = {".safetensors", ".pt", ".pth", ".bin", ".pth.tar"};
    static const char *const others[] = {"reference",     "optimizer", "scheduler",
                                         "training_args", "rng_state", "scaler"};
    bool fits = false;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const size_t n = strlen(name), m = strlen(ends[i]);
        fits = fits || (n > m && strcmp(name + n - m, ends[i]) == 0);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        fits = fits && strncmp(name, others[i], strlen(others[i])) != 0;
    }
    return fits;
}

/* The only file in the folder that can be meant; `out` is "" where there is none. */
static rf_status find_single(const char *folder, char out[RF_PATH_LEN])
{
    rf_status status = RF_OK;
    char **names = NULL;
    int64_t n = 0, found = -1;
    out[0] = '\0';
    RF_TRY(rf_file_list(folder, &names, &n));
    for (int64_t i = 0; i < n; i++) {
        if (is_candidate(names[i])) {
            if (found >= 0) {
                RF_FAIL(RF_ERR_NOT_FOUND,
                        "'%s' has '%.64s' and '%.64s': which are the model's weights? Leave one, "
                        "or call it model.safetensors or pytorch_model.bin",
                        folder, names[found], names[i]);
            }
            found = i;
        }
    }
    if (found >= 0) {
        RF_TRY(rf_path_join(out, folder, names[found]));
    }
fail:
    rf_file_list_free(names, n);
    return status;
}

static rf_status find_weights(const char *folder, bool is_open_clip, char out[RF_PATH_LEN])
{
    rf_status status = RF_OK;
    const char *const *names = is_open_clip ? open_clip_names : plain_names;
    for (int i = 0; names[i] != NULL; i++) {
        RF_TRY(rf_path_join(out, folder, names[i]));
        if (rf_file_exists(out)) {
            goto fail;
        }
    }
    RF_TRY(find_single(folder, out));
fail:
    return status;
}

rf_status rf_vit_files_open_weights(rf_vit_files *files, bool is_open_clip, rf_weights_need need)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    RF_TRY(find_weights(files->folder, is_open_clip, path));
    if (path[0] == '\0') {
        if (need == RF_WEIGHTS_NEEDED) {
            RF_FAIL(RF_ERR_NOT_FOUND,
                    "'%s' has no weights: expected %s, an index of shards, or one *.safetensors, "
                    "*.pt, *.pth or *.bin",
                    files->folder,
                    is_open_clip ? "open_clip_model.safetensors" : "model.safetensors");
        }
        goto fail;
    }
    RF_TRY(rf_tensor_file_open(path, &files->weights));
    if (rf_tensor_file_count(files->weights) == 0) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' holds no tensors by name: expected a table of weights", path);
    }
    RF_TRY(rf_weights_find_prefix(files));
fail:
    return status;
}

/* ---- names ------------------------------------------------------------------------------------
 */

static const char in_out_mark[] = ":in_out";

/* The name of `spelling` (see rf_arch). False where it has none with this suffix. */
static bool spell(const rf_vit_files *f, const char *spelling, int64_t layer, const char *suffix,
                  char out[RF_NAME_LEN], bool *is_in_out)
{
    const bool is_outside = spelling[0] == '/';
    const char *text = spelling + (is_outside ? 1 : 0);
    const char *prefix = is_outside ? f->wrapper : f->prefix;
    size_t n = strlen(text);
    const size_t mark = sizeof in_out_mark - 1;
    *is_in_out = n > mark && strcmp(text + n - mark, in_out_mark) == 0;
    if (*is_in_out) {
        if (strcmp(suffix, ".bias") == 0) {
            return false;
        }
        n -= mark;
        suffix = "";
    } else if (n > 0 && text[n - 1] == '_' && suffix[0] == '.') {
        suffix++;
    }
    const char *hole = strstr(text, "{l}");
    int len = 0;
    if (hole == NULL) {
        len = snprintf(out, RF_NAME_LEN, "%s%.*s%s", prefix, (int)n, text, suffix);
    } else {
        len = snprintf(out, RF_NAME_LEN, "%s%.*s%" PRId64 "%.*s%s", prefix, (int)(hole - text),
                       text, layer, (int)(n - (size_t)(hole - text) - 3), hole + 3, suffix);
    }
    return len >= 0 && len < RF_NAME_LEN;
}

const rf_named_tensor *rf_weights_find(const rf_vit_files *files, rf_part part, const char *suffix,
                                       int64_t layer, char name[RF_NAME_LEN], bool *is_in_out)
{
    const char *const *spellings = files->arch->names[part];
    char tried[RF_NAME_LEN];
    bool in_out = false;
    name[0] = '\0';
    for (int i = 0; i < RF_MAX_SPELLINGS && spellings[i] != NULL; i++) {
        if (!spell(files, spellings[i], layer, suffix, tried, &in_out)) {
            continue;
        }
        const rf_named_tensor *t =
            files->weights != NULL ? rf_tensor_file_find(files->weights, tried) : NULL;
        if (t != NULL || name[0] == '\0') {
            memcpy(name, tried, sizeof tried);
            if (is_in_out != NULL) {
                *is_in_out = in_out;
            }
        }
        if (t != NULL) {
            return t;
        }
    }
    return NULL;
}

/* What training scripts put before every name; what is averaged over training comes first. */
static const char *const wrappers[] = {
    "",
    "state_dict.",
    "state_dict.module.",
    "state_dict.model.",
    "model.",
    "model.module.",
    "module.",
    "model_state_dict.",
    "target_encoder.module.backbone.",
    "target_encoder.backbone.",
    "target_encoder.module.",
    "target_encoder.",
    "teacher.backbone.",
    "teacher.module.backbone.",
    "encoder.module.backbone.",
    "encoder.backbone.",
    "encoder.module.",
    "encoder.",
    "backbone.",
};

rf_status rf_weights_find_prefix(rf_vit_files *files)
{
    rf_status status = RF_OK;
    const rf_arch *a = files->arch;
    const bool is_text = files->draft.config.input == RF_VIT_TEXT;
    const rf_part part = is_text ? RF_PART_TOKEN : RF_PART_PATCH;
    char name[RF_NAME_LEN];
    for (size_t w = 0; w < sizeof wrappers / sizeof *wrappers; w++) {
        for (int i = 0; i < RF_MAX_WORDS && a->prefixes[i] != NULL; i++) {
            RF_TRY(rf_format(files->wrapper, sizeof files->wrapper, "%s", wrappers[w]));
            RF_TRY(rf_format(files->prefix, sizeof files->prefix, "%s%s", wrappers[w],
                             a->prefixes[i]));
            if (rf_weights_find(files, part, is_text ? "" : ".weight", -1, name, NULL) != NULL) {
                goto fail;
            }
        }
    }
    files->wrapper[0] = '\0'; /* not there: the plan says so by the first name */
    RF_TRY(rf_format(files->prefix, sizeof files->prefix, "%s",
                     a->prefixes[0] != NULL ? a->prefixes[0] : ""));
fail:
    return status;
}
