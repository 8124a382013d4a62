/* The settings of section `activations`. */
#include "refract/data.h"

#define FIELD(name) .offset = offsetof(rf_activations_settings, name)

static const char *const sources[] = {"live", "store", "both", NULL};
static const char *const dtypes[] = {"fp32", "fp16", "bf16", NULL};

static const rf_setting rows[] = {
    {.key = "source",
     .type = RF_SETTING_CHOICE,
     FIELD(source),
     .fallback = "live",
     .choices = sources,
     .unit = "",
     .help =
         "Where activations come from: live runs the model while coders train, store reads what "
         "'refract cache' wrote, both runs it in the first epoch and reads what it wrote later."},
    {.key = "store",
     .type = RF_SETTING_TEXT,
     FIELD(store),
     .size = RF_PATH_LEN,
     .fallback = "",
     .unit = "",
     .help = "File of the activation store; empty is activations.h5 in output.dir."},
    {.key = "dtype",
     .type = RF_SETTING_CHOICE,
     FIELD(dtype),
     .fallback = "fp32",
     .choices = dtypes,
     .unit = "",
     .help = "Type of the store; live activations are rounded through it too, so that every source "
             "gives the same batches."},
    {.key = "hooks",
     .type = RF_SETTING_NAMES,
     FIELD(hooks),
     .size = RF_HOOKS_LEN,
     .fallback = "",
     .unit = "",
     .help =
         "Hook points that 'refract cache' writes, MODEL:POINT with several models, {0..11} for "
         "a range; empty is those that the coders read."},
    {.key = "tokens",
     .type = RF_SETTING_CHOICE,
     FIELD(tokens),
     .fallback = "all",
     .choices = rf_token_class_names,
     .unit = "",
     .help = "Rows of `hooks` that are written."},
    {.key = "share",
     .type = RF_SETTING_F64,
     FIELD(share),
     .fallback = "1",
     .min = 1e-6,
     .max = 1,
     .unit = "share",
     .help = "Train on this share of the pictures: of their groups, chosen by train.seed."},
    {.key = "read_threads",
     .type = RF_SETTING_I64,
     FIELD(read_threads),
     .fallback = "0",
     .min = 0,
     .max = 256,
     .unit = "threads",
     .help = "Threads of each rank that read the store ahead of the coders; 0 is two."},
    {.key = "keep_bytes",
     .type = RF_SETTING_I64,
     FIELD(keep_bytes),
     .fallback = "0",
     .min = 0,
     .max = 1e15,
     .unit = "bytes",
     .help = "Memory of each rank for activations of the first epoch that later ones read again."},
    {.key = "group_pictures",
     .type = RF_SETTING_I64,
     FIELD(group_pictures),
     .fallback = "16",
     .min = 1,
     .max = 65536,
     .unit = "pictures",
     .help = "Consecutive pictures that stay together and go through the model at once."},
    {.key = "pool_groups",
     .type = RF_SETTING_I64,
     FIELD(pool_groups),
     .fallback = "16",
     .min = 1,
     .max = 65536,
     .unit = "groups",
     .help = "Groups whose tokens are mixed with each other; all ranks together hold so many."},
};

const rf_settings_table rf_activations_settings_table = {
    .section = "activations",
    .help = "How activations reach the coders. The order depends on group_pictures and pool_groups "
            "and never on memory or ranks.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
};

rf_status rf_activations_settings_check(const rf_activations_settings *settings)
{
    rf_status status = RF_OK;

    if (settings->hooks[0] == '\0' && settings->tokens != RF_TOKENS_ALL) {
        RF_FAIL(RF_ERR_SETTING,
                "activations.tokens: %s without activations.hooks: coders say themselves which "
                "tokens they see",
                rf_token_class_names[settings->tokens]);
    }
fail:
    return status;
}

rf_dtype rf_activations_dtype(const rf_activations_settings *settings)
{
    static const rf_dtype types[] = {RF_F32, RF_F16, RF_BF16};
    return types[settings->dtype];
}
