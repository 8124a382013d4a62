/* The settings of section `data`. */
#include "refract/pictures.h"

#define FIELD(name) .offset = offsetof(rf_data_settings, name)

static const char *const part_names[] = {"auto", "train", "val", NULL}; /* rf_picture_part */

static const rf_setting rows[] = {
    {.key = "path",
     .type = RF_SETTING_TEXT,
     FIELD(path),
     .size = RF_PATH_LEN,
     .unit = "",
     .help = "Pictures: a folder of class folders or of pictures, a list (.csv, .tsv, .txt), "
             "WebDataset shards (a folder of .tar, or NAME-{000..123}.tar), or Kaggle's ImageNet; "
             "docs/pictures.md says how they are told apart."},
    {.key = "root",
     .type = RF_SETTING_TEXT,
     FIELD(root),
     .size = RF_PATH_LEN,
     .fallback = "",
     .unit = "",
     .help = "Of a list: the folder that its paths start in; empty: the list's own."},
    {.key = "part",
     .type = RF_SETTING_CHOICE,
     FIELD(part),
     .fallback = "auto",
     .choices = part_names,
     .unit = "",
     .help = "Of Kaggle's ImageNet: its training or its validation pictures; auto: train."},
    {.key = "holdout",
     .type = RF_SETTING_F64,
     FIELD(holdout),
     .fallback = "0.02",
     .min = 0,
     .max = 0.9,
     .unit = "share",
     .help = "Pictures kept from training for evaluation, chosen by a hash of their names."},
    {.key = "max_pictures",
     .type = RF_SETTING_I64,
     FIELD(max_pictures),
     .fallback = "0",
     .min = 0,
     .max = 1e15,
     .unit = "pictures",
     .help = "Use only so many pictures, spread over the folder; 0 uses all."},
    {.key = "max_bad_share",
     .type = RF_SETTING_F64,
     FIELD(max_bad_share),
     .fallback = "0.01",
     .min = 0,
     .max = 1,
     .unit = "share",
     .help = "Stop when more of the pictures than this cannot be read."},
    {.key = "decode_threads",
     .type = RF_SETTING_I64,
     FIELD(decode_threads),
     .fallback = "0",
     .min = 0,
     .max = 256,
     .unit = "threads",
     .help = "Threads of each rank that decode pictures ahead of the model; 0 is one."},
    {.key = "fast_decode",
     .type = RF_SETTING_BOOL,
     FIELD(fast_decode),
     .fallback = "false",
     .unit = "",
     .help = "Decode JPEGs faster, to pixels that differ a little from Pillow's; docs/pictures.md "
             "says by how much."},
};

const rf_settings_table rf_data_settings_table = {
    .section = "data",
    .help = "Where the pictures are, and which of them are held out.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
};
