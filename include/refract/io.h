/* io: files of every kind. Readers treat each file as hostile: bounds before use, sizes capped, one
 * clear message that names the file and the place. Writers are atomic: temp name, flush, fsync,
 * rename, fsync of the folder; a failure leaves what was there before. All functions are local. */
#ifndef REFRACT_IO_H
#define REFRACT_IO_H

#include "refract/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- file: whole files, folders, atomic writing --------------------------------------------- */

bool rf_file_exists(const char *path);
bool rf_file_is_dir(const char *path);
/* All bytes of `path` and a '\0' behind them; refused above `max_bytes`. Caller frees. */
rf_status rf_file_read(const char *path, int64_t max_bytes, char **out, int64_t *n_bytes);
rf_status rf_file_write_atomic(const char *path, const void *bytes, int64_t n_bytes);
/* mkdir -p. */
rf_status rf_file_make_dirs(const char *path);
rf_status rf_path_join(char out[RF_PATH_LEN], const char *folder, const char *name);
/* Names in `folder` but "." and "..", sorted by strcmp. Caller frees with rf_file_list_free. */
rf_status rf_file_list(const char *folder, char ***names, int64_t *n_names);
void rf_file_list_free(char **names, int64_t n_names);
/* SIZE and whole content hashed (FNV-1a), for run records. */
rf_status rf_file_hash(const char *path, uint64_t *hash, int64_t *n_bytes);

/* A file under construction. Bytes go to `path`.tmp; `commit` makes it `path`, `abandon` removes
 * it. */
typedef struct rf_atomic_file rf_atomic_file;
rf_status rf_atomic_file_create(const char *path, rf_atomic_file **out);
rf_status rf_atomic_file_write(rf_atomic_file *f, const void *bytes, int64_t n_bytes);
const char *rf_atomic_file_temp_path(const rf_atomic_file *f);
/* Both take `f`. */
rf_status rf_atomic_file_commit(rf_atomic_file *f);
void rf_atomic_file_abandon(rf_atomic_file *f); /* NULL is fine */
/* For libraries that write by name (HDF5): fsync `temp_path`, rename it to `path`, fsync the
 * folder. */
rf_status rf_file_commit(const char *temp_path, const char *path);

/* A read-only map of a whole file. */
typedef struct rf_file_map {
    const unsigned char *bytes;
    int64_t n_bytes;
} rf_file_map;
rf_status rf_file_map_open(const char *path, rf_file_map *out);
void rf_file_map_close(rf_file_map *map);

/* Bytes of an existing file at given places; any number of threads and processes at once. Reading
 * behind its end is FORMAT. */
typedef struct rf_raw_file rf_raw_file;
rf_status rf_raw_file_open(const char *path, bool writable, rf_raw_file **out);
void rf_raw_file_close(rf_raw_file *f); /* NULL is fine */
rf_status rf_raw_file_size(const rf_raw_file *f, int64_t *n_bytes);
rf_status rf_raw_file_read(const rf_raw_file *f, int64_t offset, void *out, int64_t n_bytes);
rf_status rf_raw_file_write(rf_raw_file *f, int64_t offset, const void *bytes, int64_t n_bytes);
rf_status rf_raw_file_sync(rf_raw_file *f); /* what was written is on the disk */

/* A lock on a folder (flock on `folder`/.lock): UNSUPPORTED... IO with the holder's pid and host
 * when taken. */
typedef struct rf_folder_lock rf_folder_lock;
rf_status rf_folder_lock_take(const char *folder, rf_folder_lock **out);
/* The same on the file that is or will be at `path`, by `path`.lock, which goes with the lock. */
rf_status rf_folder_lock_take_file(const char *path, rf_folder_lock **out);
void rf_folder_lock_release(rf_folder_lock *lock); /* NULL is fine */

/* ---- json (jansson) -------------------------------------------------------------------------- */

typedef struct json_t rf_json; /* a jansson value; functions below borrow it */

/* Errors name the file, line and column. Release with rf_json_free. */
rf_status rf_json_load(const char *path, rf_json **out);
rf_status rf_json_parse(const char *text, int64_t n_bytes, const char *name, rf_json **out);
void rf_json_free(rf_json *root);
/* Member `key` (dots descend: "vision_config.hidden_size"), or NULL. Borrowed from `object`. */
const rf_json *rf_json_find(const rf_json *object, const char *key);
/* Value of `key`; when it is absent or null: `fallback` if given, else NOT_FOUND. A wrong type is
 * FORMAT. */
rf_status rf_json_get_i64(const rf_json *object, const char *key, const int64_t *fallback,
                          int64_t *out);
rf_status rf_json_get_f64(const rf_json *object, const char *key, const double *fallback,
                          double *out);
rf_status rf_json_get_bool(const rf_json *object, const char *key, const bool *fallback, bool *out);
/* Borrowed from `object`. */
rf_status rf_json_get_str(const rf_json *object, const char *key, const char *fallback,
                          const char **out);
/* Text as a JSON string, quotes included (non-UTF-8 bytes become U+FFFD); a double with 17 digits,
 * NaN and infinities as null. */
rf_status rf_json_append_str(rf_str *out, const char *text);
rf_status rf_json_append_f64(rf_str *out, double value);

/* ---- yaml and settings ------------------------------------------------------------------------
 */

typedef enum rf_yaml_kind { RF_YAML_SCALAR, RF_YAML_LIST, RF_YAML_MAP } rf_yaml_kind;

/* A node. Lists have `items`; maps have `items` with `keys` beside them. Anchors, aliases, tags and
 * duplicate keys are refused; depth is capped at 32, a file at 16 MiB. */
typedef struct rf_yaml {
    rf_yaml_kind kind;
    char *text;  /* of a scalar */
    bool quoted; /* "8" is text, 8 is a number */
    char **keys;
    struct rf_yaml **items;
    int64_t n_items;
    const char *file;         /* borrowed from the root; "command line" for overrides */
    int line, column;         /* from 1 */
    int key_line, key_column; /* of the key before it, in a map; 0 elsewhere */
} rf_yaml;

rf_status rf_yaml_load(const char *path, rf_yaml **out);
rf_status rf_yaml_parse(const char *text, int64_t n_bytes, const char *name, rf_yaml **out);
void rf_yaml_free(rf_yaml *root);
rf_yaml *rf_yaml_find(const rf_yaml *map, const char *key); /* or NULL; dots do not descend */
/* Raise SETTING with the place of `node` in front ("run.yaml:4:9: ..."; NULL: no place). */
rf_status rf_yaml_fail(const rf_yaml *node, const char *fmt, ...) RF_PRINTF(2, 3);
/* Put `assignment` ("train.lr=1e-3", "coders.0.k=64"; the value is YAML) into `root`, replacing or
 * adding. */
rf_status rf_yaml_override(rf_yaml *root, const char *assignment);
/* A deep copy. */
rf_status rf_yaml_copy(const rf_yaml *node, rf_yaml **out);
/* Replace every "{name}" in the scalars below `node` by `value`. */
rf_status rf_yaml_substitute(rf_yaml *node, const char *name, const char *value);

typedef enum rf_setting_type {
    RF_SETTING_BOOL,   /* bool */
    RF_SETTING_I64,    /* int64_t, in [min, max] */
    RF_SETTING_F64,    /* double, in [min, max] */
    RF_SETTING_TEXT,   /* char[size] */
    RF_SETTING_CHOICE, /* int: the index in `choices`, which ends in NULL */
    RF_SETTING_NAMES,  /* char[size]: a text or a list of texts, none empty, with a comma or of
                          RF_NAME_LEN bytes, joined by ", "; at most `max` of them where that is not
                          0 */
    RF_SETTING_I64_BY, /* int64_t[1 + choices]: a number in [min, max], or a map from names of
                          `choices` (or `any`) to such; any comes first, 0 is not said. "a|b" in
                          `choices`: b is another word for a */
} rf_setting_type;

/* One row describes a setting once; parser, checks, --help, the printed resolved settings, the copy
 * in checkpoints and docs/settings.md all come from it. */
typedef struct rf_setting {
    const char *key;
    rf_setting_type type;
    size_t offset;        /* offsetof in the section's struct */
    size_t size;          /* of a TEXT or NAMES field */
    const char *fallback; /* as it would be written; NULL: must be given */
    double min, max;
    const char *const *choices;
    const char *unit; /* "" or "tokens", "pictures" ... */
    const char *help; /* one sentence */
} rf_setting;

typedef struct rf_settings_table {
    const char *section; /* "train" */
    const char *help;
    const rf_setting *rows;
    int64_t n_rows;
} rf_settings_table;

/* Fill `out` with the fallbacks (required ones become zero or ""). */
rf_status rf_settings_defaults(const rf_settings_table *table, void *out);
/* Read `map` (NULL: nothing given) over what `inout` holds. An unknown key, a wrong type or a value
 * out of range is SETTING and names file, line, key path (`path` in front), what was expected and
 * the nearest valid key. `extra_keys` (ends in NULL, may be NULL) are left to the caller.
 * `given` (may be NULL, [n_rows]) tells which rows were set. */
rf_status rf_settings_read(const rf_settings_table *table, const rf_yaml *map, const char *path,
                           const char *const *extra_keys, void *inout, bool *given);
/* RF_ERR_SETTING when a required key was neither given nor has a fallback. */
rf_status rf_settings_check_required(const rf_settings_table *table, const bool *given,
                                     const char *path, const rf_yaml *where);
/* Text of the value of `row` in `settings`, as YAML (texts quoted where they must be). */
rf_status rf_settings_format(const rf_setting *row, const void *settings, rf_str *out);
/* "key: value" lines indented by `indent` spaces. */
rf_status rf_settings_write_yaml(const rf_settings_table *table, const void *settings, int indent,
                                 rf_str *out);
/* The table for --help (plain text) and for docs (Markdown). */
rf_status rf_settings_write_help(const rf_settings_table *table, bool markdown, rf_str *out);

/* ---- tensors by name ---------------------------------------------------------------------------
 */

typedef enum rf_file_dtype {
    RF_FILE_F64,
    RF_FILE_F32,
    RF_FILE_F16,
    RF_FILE_BF16,
    RF_FILE_I64,
    RF_FILE_I32,
    RF_FILE_I16,
    RF_FILE_I8,
    RF_FILE_U8,
    RF_FILE_BOOL
} rf_file_dtype;

enum { RF_FILE_MAX_DIMS = 8 };

typedef struct rf_named_tensor {
    const char *name;
    rf_file_dtype dtype;
    int n_dims;
    int64_t shape[RF_FILE_MAX_DIMS];
    int64_t n_elems;
    const unsigned char
        *bytes; /* little-endian, row-major, not necessarily aligned; borrowed from the file */
    int64_t n_bytes;
} rf_named_tensor;

/* A file of named tensors, mapped read-only. What it is, its content says and never its name:
 * - safetensors;
 * - PyTorch's archive (torch.save), zip or legacy layout, byte order little. The names of nested
 * maps and lists are joined by dots ("state_dict.conv.weight", "optimizer.state.0.exp_avg"; a key
 * that is neither text nor a whole number reads "?"), a tensor by itself is called "tensor", and
 * what is no tensor is left out. Nothing in it is executed: a global that is not one of a
 * checkpoint's known few is UNSUPPORTED, by name;
 * - an index of shards (*.safetensors.index.json, pytorch_model.bin.index.json): all of them.
 * Memory beside the map is bounded by a small multiple of the file. Errors name the file: FORMAT
 * (damaged, hostile), UNSUPPORTED (compressed, a program, an older layout, a type of element). */
typedef struct rf_tensor_file rf_tensor_file;
rf_status rf_tensor_file_open(const char *path, rf_tensor_file **out);
/* The same of `n_bytes` in memory, borrowed until the close; no index. `name` is for messages. */
rf_status rf_tensor_file_parse(const void *bytes, int64_t n_bytes, const char *name,
                               rf_tensor_file **out);
void rf_tensor_file_close(rf_tensor_file *f); /* NULL is fine */
int64_t rf_tensor_file_count(const rf_tensor_file *f);
const rf_named_tensor *rf_tensor_file_at(const rf_tensor_file *f,
                                         int64_t idx); /* by name in order; or NULL */
const rf_named_tensor *rf_tensor_file_find(const rf_tensor_file *f, const char *name); /* or NULL */
/* Where in the file the bytes of `t` begin; false when they lie in memory (what had to be put into
 * order, what was parsed there) or in one of several shards. */
bool rf_tensor_file_place(const rf_tensor_file *f, const rf_named_tensor *t, int64_t *offset);
const char *rf_tensor_file_metadata(const rf_tensor_file *f, const char *key); /* or NULL */
/* All elements as fp32 (F64, F32, F16, BF16 and integers), `out` [n_elems]. */
rf_status rf_named_tensor_read_f32(const rf_named_tensor *t, float *out);

/* Tensors to be written, bytes borrowed until the call returns (`n_bytes` must be what dtype and
 * shape say, `n_elems` is not looked at); `metadata` is pairs key, value, ...
 * of `n_metadata` pairs. */
rf_status rf_safetensors_write(const char *path, const rf_named_tensor *tensors, int64_t n_tensors,
                               const char *const *metadata, int64_t n_metadata);

/* ---- npy: one array of NumPy -------------------------------------------------------------------
 */

/* The array of `path` (npy 1.0 to 3.0; float16, 32, 64, signed integers, uint8, bool; either order)
 * as fp32 in row-major order. `shape` has room for `max_dims` (at most RF_FILE_MAX_DIMS); `*n_dims`
 * 0 is a single number. Caller frees `*out` with rf_free. Errors: FORMAT (damaged, truncated, more
 * than one array), UNSUPPORTED (objects, records, another type, big-endian, more dimensions). */
rf_status rf_npy_read_f32(const char *path, int max_dims, int *n_dims, int64_t *shape, float **out);
/* The same of `n_bytes` in memory; `name` is for messages. */
rf_status rf_npy_parse_f32(const void *bytes, int64_t n_bytes, const char *name, int max_dims,
                           int *n_dims, int64_t *shape, float **out);

/* What the array of `f` is and where in the file its data begins; only the header is read, and
 * `out`->bytes is NULL. Errors as above; UNSUPPORTED also where the first index runs fastest
 * (Fortran's order). */
rf_status rf_npy_describe(const rf_raw_file *f, const char *name, rf_named_tensor *out,
                          int64_t *offset);

/* ---- hdf5: flat files of named arrays, one writer ----------------------------------------------
 */

typedef enum rf_h5_type {
    RF_H5_F32,
    RF_H5_F64,
    RF_H5_F16,
    RF_H5_BF16, /* as h5py shows it: float32 */
    RF_H5_I32,
    RF_H5_I64,
    RF_H5_U8
} rf_h5_type;
typedef struct rf_h5_file rf_h5_file;
/* Writes `path`.tmp; rf_h5_commit closes it and makes it `path` (takes f also when it fails). */
rf_status rf_h5_create(const char *path, rf_h5_file **out);
rf_status rf_h5_open(const char *path, rf_h5_file **out);
rf_status rf_h5_commit(rf_h5_file *f);
void rf_h5_close(rf_h5_file *f); /* NULL is fine; a file under construction is removed */
/* Dataset `name` ("a/b" makes group a) of `shape`; checksummed (Fletcher32) where it has elements.
 */
rf_status rf_h5_write(rf_h5_file *f, const char *name, rf_h5_type type, int n_dims,
                      const int64_t *shape, const void *data);
/* Type and shape must be as said (FORMAT otherwise; the text names file and dataset). */
rf_status rf_h5_read(const rf_h5_file *f, const char *name, rf_h5_type type, int n_dims,
                     const int64_t *shape, void *data);
rf_status rf_h5_shape(const rf_h5_file *f, const char *name, int max_dims, int *n_dims,
                      int64_t *shape);
bool rf_h5_has(const rf_h5_file *f, const char *name);
/* Text stored as bytes. Read: caller frees. */
rf_status rf_h5_write_text(rf_h5_file *f, const char *name, const char *text);
rf_status rf_h5_read_text(const rf_h5_file *f, const char *name, char **out);
/* `n` texts, each padded with zeros to the longest. Read: caller frees with rf_free, one block. */
rf_status rf_h5_write_names(rf_h5_file *f, const char *name, const char *const *texts, int64_t n);
rf_status rf_h5_read_names(const rf_h5_file *f, const char *name, char ***texts, int64_t *n);
/* A dataset whose numbers are written later, not through HDF5: contiguous, at a place in the file
 * that is fixed now, zero and taking no room on the disk until then. No checksum. */
rf_status rf_h5_declare(rf_h5_file *f, const char *name, rf_h5_type type, int n_dims,
                        const int64_t *shape);
/* Where in the file the numbers of such a dataset lie; all of them do (FORMAT otherwise, as for
 * another type, shape or layout). */
rf_status rf_h5_locate(const rf_h5_file *f, const char *name, rf_h5_type type, int n_dims,
                       const int64_t *shape, int64_t *offset);
/* A text beside a dataset or group (NULL: the file), for people who look into it. */
rf_status rf_h5_describe(rf_h5_file *f, const char *name, const char *key, const char *text);

/* ---- checksum ----------------------------------------------------------------------------------
 */

/* XXH3 (64 bits, seed 0) of xxHash. */
uint64_t rf_checksum(const void *bytes, size_t n_bytes);

/* ---- picture: JPEG, PNG, WebP to RGB ------------------------------------------------------------
 */

typedef struct rf_picture {
    int64_t height, width;
    uint8_t *rgb;     /* [height, width, 3]; caller frees with rf_picture_fini */
    int64_t capacity; /* bytes at `rgb`, where a decoder took them; else 0 */
} rf_picture;

/* Decode as Pillow's Image.open(...).convert("RGB") does: grey, palette, alpha (dropped, not
 * blended), 16 bit, CMYK and YCCK (Adobe's inverted ones too). No EXIF rotation, as Pillow. Refuses
 * above 2^28 pixels, or 2^17 on a side. Errors: FORMAT (not a picture, damaged, truncated; the text
 * begins with `name`), UNSUPPORTED (too large, animated WebP), NO_MEMORY. */
rf_status rf_picture_decode(const void *bytes, int64_t n_bytes, const char *name, rf_picture *out);
/* The same into a picture of an earlier call (or zeros), whose memory is used again where it is
 * enough. */
rf_status rf_picture_decode_into(const void *bytes, int64_t n_bytes, const char *name,
                                 rf_picture *inout);

typedef enum rf_planes_colour {
    RF_PLANES_NONE, /* not a JPEG, or one without such planes (CMYK, unusual sampling) */
    RF_PLANES_GREY,
    RF_PLANES_RGB,
    RF_PLANES_YCBCR, /* JFIF's: full range, Cb and Cr around 128 */
} rf_planes_colour;

/* One channel. Its samples lie evenly over `cover_height` x `cover_width` of them, which is what
 * the picture covers: the last row and column may hang over its edge. */
typedef struct rf_plane {
    int64_t height, width, stride;
    double cover_height, cover_width;
    const uint8_t *bytes; /* of the planes' memory */
} rf_plane;

typedef struct rf_picture_planes {
    int64_t height, width; /* of the picture in the file */
    rf_planes_colour colour;
    int n_planes; /* 0, 1 or 3 */
    rf_plane planes[3];
    uint8_t *memory;
    int64_t capacity;
} rf_picture_planes;

/* The planes of a JPEG as they are coded: chroma at its own resolution, no conversion of colours;
 * faster, and not Pillow's pixels. Where the picture stays at least `least_height` x `least_width`,
 * it comes out at 1/2, 1/4 or 1/8 of its size (libjpeg's scaled inverse DCT). Other pictures are OK
 * with RF_PLANES_NONE: nothing about them was checked. `inout` is of an earlier call (or zeros),
 * its memory is used again. Errors as rf_picture_decode. */
rf_status rf_picture_decode_planes(const void *bytes, int64_t n_bytes, const char *name,
                                   int64_t least_height, int64_t least_width,
                                   rf_picture_planes *inout);
void rf_picture_planes_fini(rf_picture_planes *planes);
rf_status rf_picture_load(const char *path, rf_picture *out);
/* A file's bytes, at most as many as a picture may have; caller frees. */
rf_status rf_picture_read(const char *path, char **bytes, int64_t *n_bytes);
void rf_picture_fini(rf_picture *p);
/* For demos and tests: 8-bit RGB PNG. */
rf_status rf_picture_write_png(const char *path, const rf_picture *p);
/* By name: .jpg .jpeg .png .webp in any case. */
bool rf_picture_is_name(const char *name);

/* ---- tar: members of an uncompressed tar file ---------------------------------------------------
 */

typedef enum rf_tar_kind { RF_TAR_FILE, RF_TAR_FOLDER, RF_TAR_OTHER } rf_tar_kind;

typedef struct rf_tar_member {
    const char *name; /* as it stands, but for "./" before it: it may begin with '/', hold ".." */
    rf_tar_kind kind; /* OTHER: links, devices, pipes */
    int64_t place;    /* byte of its first header in the file */
    int64_t n_bytes;  /* of a FILE's data; 0 of others */
} rf_tar_member;

/* ustar, pax and GNU tar (long names, large sizes). Nothing is ever written to disk. */
typedef struct rf_tar rf_tar;
/* Errors: NOT_FOUND, IO, UNSUPPORTED (compressed: there is no random access), FORMAT (too short).
 */
rf_status rf_tar_open(const char *path, rf_tar **out);
void rf_tar_close(rf_tar *tar); /* NULL is fine */
/* The next member, headers only: data is passed over. `name` is borrowed until the next call; *has
 * is false at the end. Errors name file and byte: FORMAT (damaged, cut short, something behind the
 * end), UNSUPPORTED (sparse, a name of RF_PATH_LEN bytes or more). */
rf_status rf_tar_next(rf_tar *tar, rf_tar_member *out, bool *has);
/* The data of the member that rf_tar_next gave last, once, and a '\0' behind it; FORMAT above
 * `max_bytes`. Caller frees. */
rf_status rf_tar_read_here(rf_tar *tar, int64_t max_bytes, char **bytes, int64_t *n_bytes);
/* The same of any member, by place; name and size must still be what they were (FORMAT). Threads
 * may read at once, also while one of them walks. */
rf_status rf_tar_read(const rf_tar *tar, const rf_tar_member *member, int64_t max_bytes,
                      char **bytes, int64_t *n_bytes);

/* ---- tensorboard events -------------------------------------------------------------------------
 */

typedef struct rf_tfevents rf_tfevents;
/* Append-only file `folder`/events.out.tfevents.<time>.<tag>; each record is whole or absent after
 * a crash. */
rf_status rf_tfevents_open(const char *folder, const char *tag, rf_tfevents **out);
rf_status rf_tfevents_scalar(rf_tfevents *t, int64_t step, double wall_time, const char *name,
                             double value);
rf_status rf_tfevents_flush(rf_tfevents *t);
void rf_tfevents_close(rf_tfevents *t); /* NULL is fine */

#ifdef __cplusplus
}
#endif

#endif
