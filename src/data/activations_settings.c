/* The settings of section `activations`. */
#include "refract/data.h"

#define FIELD(name) .offset = offsetof(rf_activations_settings, name)

static const char *const sources[] = {"live", "store", "both", NULL};

static const rf_setting rows[] = {
    {.key = "source",
     .type = RF_SETTING_CHOICE,
     FIELD(source),
     .fallback = "live",
     .choices = sources,
     .unit = "",
     .help = "Where activations come from: live runs the model while coders train."},
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

    if (settings->source != RF_ACTIVATIONS_LIVE) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "activations.source: %s: this version has no activation store; use live",
                sources[settings->source]);
    }
fail:
    return status;
}
