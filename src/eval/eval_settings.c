/* The settings of `refract eval`. */
#include "refract/eval.h"

#define FIELD(name) .offset = offsetof(rf_eval_settings, name)

static const char *const part_names[] = {"auto", "train", "val", NULL}; /* rf_picture_part */

static const rf_setting rows[] = {
    {.key = "max_held_out",
     .type = RF_SETTING_I64,
     FIELD(max_held_out),
     .fallback = "0",
     .min = 0,
     .max = 1e12,
     .unit = "pictures",
     .help = "Held-out pictures to measure on, chosen by the seed; 0 is all of them."},
    {.key = "max_trained_on",
     .type = RF_SETTING_I64,
     FIELD(max_trained_on),
     .fallback = "512",
     .min = 0,
     .max = 1e12,
     .unit = "pictures",
     .help = "Pictures trained on to measure on beside them; 0 is all of them."},
    {.key = "micro_batch",
     .type = RF_SETTING_I64,
     FIELD(micro_batch),
     .fallback = "16",
     .min = 1,
     .max = 4096,
     .unit = "pictures",
     .help = "Pictures of one forward pass; sums are added in groups of so many."},
    {.key = "substitution",
     .type = RF_SETTING_BOOL,
     FIELD(substitution),
     .fallback = "true",
     .unit = "",
     .help = "Also run the model with reconstructions, zeros and means in the place of tokens."},
    {.key = "trained_on",
     .type = RF_SETTING_BOOL,
     FIELD(trained_on),
     .fallback = "true",
     .unit = "",
     .help = "Also measure on pictures trained on, beside those held out."},
    {.key = "classifier",
     .type = RF_SETTING_TEXT,
     FIELD(classifier),
     .size = RF_PATH_LEN,
     .fallback = "",
     .unit = "",
     .help = "A zero-shot classifier (refract zero-shot, or a .npy of Prisma's), whose cross "
             "entropy is measured; empty: the model's own head, if it has one."},
    {.key = "logit_scale",
     .type = RF_SETTING_F64,
     FIELD(logit_scale),
     .fallback = "0",
     .min = 0,
     .max = 1e6,
     .unit = "",
     .help = "What the cosines to the classifier's vectors are multiplied by; 0 is the model's own "
             "(CLIP's 100), 1 as in the figures that Prisma published."},
    {.key = "pictures",
     .type = RF_SETTING_TEXT,
     FIELD(pictures),
     .size = RF_PATH_LEN,
     .fallback = "",
     .unit = "",
     .help =
         "Other pictures than those that the run held out, as data.path names them; all of them "
         "are measured on."},
    {.key = "root",
     .type = RF_SETTING_TEXT,
     FIELD(root),
     .size = RF_PATH_LEN,
     .fallback = "",
     .unit = "",
     .help = "Where the paths start if pictures is a list; empty: the list's own folder."},
    {.key = "part",
     .type = RF_SETTING_CHOICE,
     FIELD(part),
     .fallback = "auto",
     .choices = part_names,
     .unit = "",
     .help = "Of Kaggle's ImageNet as pictures: train or val; auto: train."},
};

const rf_settings_table rf_eval_settings_table = {
    .section = "eval",
    .help = "What 'refract eval' measures on.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
};

rf_status rf_eval_settings_check(const rf_eval_settings *s)
{
    rf_status status = RF_OK;
    const bool has_classifier = s->classifier[0] != '\0';

    if (s->pictures[0] == '\0' && (s->root[0] != '\0' || s->part != RF_PART_AUTO)) {
        RF_FAIL(RF_ERR_SETTING, "root and part are of pictures=, which is not given (of the run's "
                                "own pictures, data.root says where they are)");
    }
    if (has_classifier && !s->substitution) {
        RF_FAIL(RF_ERR_SETTING, "classifier is not used with substitution=false: leave one out");
    }
    if (!has_classifier && s->logit_scale > 0) {
        RF_FAIL(RF_ERR_SETTING, "logit_scale is of classifier=, which is not given");
    }
fail:
    return status;
}
