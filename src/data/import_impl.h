/* What the importers share: a list of files in which activations lie in one regular way. */
#ifndef REFRACT_IMPORT_IMPL_H
#define REFRACT_IMPORT_IMPL_H

#include "refract/data.h"

/* Consecutive tokens of every layer. */
typedef struct rf_import_file {
    char *path;
    int64_t n_tokens;
} rf_import_file;

/* Where token t of a file is at layer l: element (t / item_rows) * item_stride + (t % item_rows) *
 * width + l * layer_stride. */
typedef struct rf_import_layout {
    rf_file_dtype dtype;
    int64_t n_layers, width;
    int64_t item_rows, item_stride, layer_stride;
} rf_import_layout;

/* A file's array. Its values are read where they lie in the file, and never through a map: a file
 * that is cut meanwhile is an error then, and not the end of the program. */
typedef struct rf_import_array {
    rf_raw_file *file;
    int64_t offset;          /* of the values in it */
    rf_tensor_file *tensors; /* of values that had to be put in order in memory, or NULL: t.bytes
                                are there */
    rf_named_tensor t;
    bool is_npy, is_torch;
} rf_import_array;

typedef struct rf_import {
    const char *kind;
    char model[RF_NAME_LEN]; /* what the activations are of */
    rf_import_file *files;
    int64_t n_files, files_cap;
    rf_import_layout layout;
    int64_t picture_rows; /* tokens of a picture */
    int64_t n_pictures;
    int64_t n_cls;          /* rows before the patches that the files speak of; -1: they do not */
    int64_t *layer_numbers; /* [n_layers]; NULL: the files do not say them */
    uint64_t hash;          /* of what the files say of themselves, and samples of the values */
    const char *default_point; /* NULL: none */
    char tensor[RF_NAME_LEN];
    int middle;            /* rf_import_middle, as it was asked for */
    bool has_layers;       /* what the middle axis of three is */
    rf_import_array array; /* of file `at` */
    int64_t at;            /* -1: none is open */
    unsigned char *run;    /* [run_bytes] values as they are in the file */
    int64_t run_bytes;
} rf_import;

/* import_files.c. All local. */

/* Look at `path` and every file of it. What was allocated is released by rf_import_close also on
 * failure. */
rf_status rf_import_open(const char *path, const rf_import_settings *settings, rf_import *out);
void rf_import_close(rf_import *imp);
/* Tokens first .. first + n - 1 of layer `layer` (index) as fp32, `out` [n, width]. */
rf_status rf_import_read(rf_import *imp, int64_t layer, int64_t first, int64_t n, float *out);
/* Append a file; `path` is copied. */
rf_status rf_import_add_file(rf_import *imp, const char *path, int64_t n_tokens);

/* import_saev.c: the files and their layout, by the folder's metadata.json. */
rf_status rf_import_open_saev(const char *folder, rf_import *out);

/* import_pictures.c: what a store says of the pictures and their rows. */

typedef struct rf_import_head {
    rf_store_head head;
    rf_store_site *sites;
    int64_t *layers; /* [n_sites] indices in the files */
    char (*points)[RF_NAME_LEN];
    uint8_t *classes;
    int32_t *positions;
    const char **names, **class_names;
    char *name_text, *class_text;
    int64_t *labels;
    rf_str settings;
} rf_import_head;

rf_status rf_import_describe(const rf_import *imp, const rf_import_settings *settings,
                             const char *path, rf_import_head *out);
void rf_import_head_fini(rf_import_head *head);

#endif
