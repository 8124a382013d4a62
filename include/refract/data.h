/* data: from pictures to what coders see: a model that looks at them, the stream of its activations
 * in the order of the run, and the store that keeps them. Functions are local but where they say
 * Collective. */
#ifndef REFRACT_DATA_H
#define REFRACT_DATA_H

#include "refract/base.h"
#include "refract/comm.h"
#include "refract/io.h"
#include "refract/pictures.h"
#include "refract/tensor.h"
#include "refract/vit.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- session: a model and pictures for it, for programs that look at a few
 * -----------------------
 */

/* Open parts; all belong to the session. */
typedef struct rf_session {
    rf_backend *be;
    rf_stream *stream;
    rf_vit *vit;
    rf_transform transform;
    float *pixels; /* host, one picture */
    void *device;  /* the pictures loaded last */
    int64_t capacity;
} rf_session;

/* The model of `folder` on `device`, the CPU with `n_threads` (0: what OpenMP says), for the
 * pictures that its preprocessing makes. `opts` (may be NULL) as for rf_vit_open; image sizes of 0
 * are the preprocessing's. Local. Errors: UNSUPPORTED, NOT_FOUND (no such device), those of
 * rf_vit_open. */
rf_status rf_session_open(const char *folder, rf_device device, int n_threads,
                          const rf_vit_opts *opts, rf_session *out);
/* Load, transform and copy in pictures: `images` [n, 3, H, W] (device) is valid until the next
 * call. */
rf_status rf_session_load(rf_session *session, const char *const *paths, int64_t n,
                          rf_view *images);
void rf_session_close(rf_session *session);

/* ---- settings of section `activations` --------------------------------------------------------
 */

typedef enum rf_activations_source {
    RF_ACTIVATIONS_LIVE,
    RF_ACTIVATIONS_STORE,
    RF_ACTIVATIONS_BOTH,
} rf_activations_source;

enum { RF_HOOKS_LEN = 8192 };

typedef struct rf_activations_settings {
    int source;               /* rf_activations_source */
    char store[RF_PATH_LEN];  /* "": activations.h5 in output.dir */
    int dtype;                /* rf_activations_dtype */
    char hooks[RF_HOOKS_LEN]; /* joined by ", "; "": those that the coders read */
    int tokens;               /* rf_token_class, of `hooks` */
    double share;             /* of the groups, (0, 1] */
    int64_t read_threads;     /* of each rank; 0: two */
    int64_t keep_bytes;       /* of each rank */
    int64_t group_pictures;   /* pictures of a group */
    int64_t pool_groups;      /* groups of a pool */
} rf_activations_settings;

extern const rf_settings_table rf_activations_settings_table;
/* SETTING when keys mean nothing together. */
rf_status rf_activations_settings_check(const rf_activations_settings *settings);
rf_dtype rf_activations_dtype(const rf_activations_settings *settings);

/* ---- token classes: which rows of a hook point a coder sees ------------------------------------
 */

typedef enum rf_token_class {
    RF_TOKENS_ALL,
    RF_TOKENS_CLS,
    RF_TOKENS_REGISTER,
    RF_TOKENS_PATCH,
    RF_TOKENS_POOLED, /* the one row of hook_pooled */
} rf_token_class;

/* By number, ends in NULL: `choices` of a setting. */
extern const char *const rf_token_class_names[];
/* Also reads `spatial`, as patch. SETTING when there is no such class. */
rf_status rf_token_class_parse(const char *text, rf_token_class *out);
/* Rows *first .. *first + *n_rows - 1 of each picture at `point` are of class `tokens`; what the
 * point holds is [B, rows, width] (heads lie side by side in the width). SETTING when the point has
 * no such rows: patterns have none, hook_embed has patches only, hook_pooled one row. */
rf_status rf_token_class_rows(const rf_vit_config *config, const rf_hook_point *point,
                              rf_token_class tokens, int64_t *first, int64_t *n_rows);
/* Of row `row` at `point`: CLS, REGISTER or PATCH. A pooled row and a distillation token count as
 * CLS. */
rf_token_class rf_token_class_of_row(const rf_vit_config *config, const rf_hook_point *point,
                                     int64_t row);
/* Where in the grid row `row` at `point` is: (t, y, x), or -1, -1, -1 for what is no patch. */
void rf_token_position_of_row(const rf_vit_config *config, const rf_hook_point *point, int64_t row,
                              int32_t out[3]);

/* ---- activation store: docs/format-store.md ----------------------------------------------------
 */

enum { RF_STORE_MAX_SITES = 4096 };

/* A hook point whose rows first_row .. first_row + n_rows - 1 are held for every picture. */
typedef struct rf_store_site {
    const char *model; /* "" of a run whose one model has no name */
    const char *point;
    int64_t first_row, n_rows, width;
    int64_t point_rows;       /* of the hook point, held or not */
    const uint8_t *classes;   /* [n_rows] RF_TOKENS_CLS, _REGISTER, _PATCH or _POOLED */
    const int32_t *positions; /* [n_rows, 3] (t, y, x) in the grid, -1 of what is no patch */
} rf_store_site;

/* What a store says of itself. */
typedef struct rf_store_head {
    rf_dtype dtype; /* RF_F32, RF_F16 or RF_BF16 */
    int64_t n_pictures, group_pictures;
    const rf_store_site *sites; /* [n_sites] */
    int64_t n_sites;
    const char *const *names;   /* [n_pictures] */
    const int64_t *labels;      /* [n_pictures], -1: none */
    const char *const *classes; /* [n_classes] */
    int64_t n_classes;
    uint64_t model_hash, picture_hash;
    double holdout;
    const char *model;      /* its name, or what the file was imported from */
    const char *processing; /* of the model's weights */
    const char *settings;   /* YAML of what made it, "" */
} rf_store_head;

typedef struct rf_store rf_store;

/* Make a store at `path`, or go on with the one that is there and says the same of itself (keys
 * `path` and `root` of its settings may differ); a finished one is opened too. Rank 0 makes the
 * file and its folder, and holds a lock on it until the close where anything is missing; every rank
 * opens it. Collective; `head` must agree. Errors: SETTING (another store is there: what differs),
 * FORMAT, IO (another job writes it). */
rf_status rf_store_create(const rf_comm *comm, const char *path, const rf_store_head *head,
                          rf_store **out);
/* Compare every block of the store at `path` with its checksum, and mark the groups that do not
 * match, or cannot be read, as not there: rf_store_create and writing what is missing then end with
 * the bytes that the store had. `n_checked` are groups that were marked as there, `n_damaged` of
 * them are to be written again. Nothing else is changed. Collective. Errors: NOT_FOUND, IO (another
 * job writes it), INTERRUPTED, FORMAT (its description is damaged: nothing can be saved). */
rf_status rf_store_repair(const rf_comm *comm, const char *path, int64_t *n_checked,
                          int64_t *n_damaged);
/* Open for reading. Local. Errors: NOT_FOUND; FORMAT (no store, cut short, hostile), UNSUPPORTED
 * (another version). A store that is not finished is opened: rf_store_check_finished. */
rf_status rf_store_open(const char *path, rf_store **out);
/* Flushes as well as it can. NULL is fine. Local. */
void rf_store_close(rf_store *store);
const rf_store_head *rf_store_get_head(const rf_store *store);
const char *rf_store_path(const rf_store *store);
int64_t rf_store_n_groups(const rf_store *store);
/* Pictures first .. first + n - 1; returns n. */
int64_t rf_store_group(const rf_store *store, int64_t group, int64_t *first);
/* Bytes of the group's block of a site. */
int64_t rf_store_block_bytes(const rf_store *store, int64_t group, int64_t site);
/* The site of that name, or -1. */
int64_t rf_store_find(const rf_store *store, const char *model, const char *point);
/* As rf_token_class_rows, of what the site holds; rows count from the point's first. SETTING when
 * the point has no such rows or the site does not hold them all. */
rf_status rf_store_class_rows(const rf_store_site *site, rf_token_class tokens, int64_t *first,
                              int64_t *n_rows);
/* FORMAT, with the first group that is missing, unless all are there. */
rf_status rf_store_check_finished(const rf_store *store);

/* The rest is local. One thread of a process writes and asks; any may read. */

/* Whether all of a group is there; looks into the file for groups that other ranks write. */
rf_status rf_store_has(rf_store *store, int64_t group, bool *out);
/* A group's blocks, [pictures, rows, width] of the store's type in host memory, one a site, and
 * which of its pictures are valid. */
rf_status rf_store_write(rf_store *store, int64_t group, const void *const *blocks,
                         const uint8_t *valid);
/* Bring what was written to the disk, then mark it as done; rf_store_write does so by itself
 * every 256 MiB and two seconds. */
rf_status rf_store_flush(rf_store *store);
/* A block of a group that the store has, into `out` [rf_store_block_bytes]. FORMAT when it does not
 * match its checksum. */
rf_status rf_store_read(const rf_store *store, int64_t group, int64_t site, void *out);
/* [pictures of the group] of a group that the store has. */
rf_status rf_store_read_valid(const rf_store *store, int64_t group, uint8_t *valid);

/* ---- import: activations that other tools wrote, as a store ------------------------------------
 */

typedef enum rf_import_middle { RF_MIDDLE_AUTO, RF_MIDDLE_ROWS, RF_MIDDLE_LAYERS } rf_import_middle;
typedef enum rf_import_cls { RF_CLS_AUTO, RF_CLS_FIRST, RF_CLS_NONE } rf_import_cls;

typedef struct rf_import_settings {
    char out[RF_PATH_LEN];
    int dtype;              /* rf_import_dtype */
    int64_t group_pictures; /* 0: 16, or 4096 of single rows */
    char point[RF_NAME_LEN], tensor[RF_NAME_LEN];
    char layers[RF_PATH_LEN], numbers[RF_PATH_LEN]; /* "3,6" or "0..11"; "": all, counted from 0 */
    int64_t rows; /* tokens of a picture; 0: what the array says */
    int middle;   /* rf_import_middle */
    int cls;      /* rf_import_cls */
    int64_t registers;
    char grid[32]; /* "HxW", "none", "": a square */
    char labels[RF_PATH_LEN], names[RF_PATH_LEN];
} rf_import_settings;

extern const rf_settings_table rf_import_settings_table;

typedef struct rf_import_report {
    const char *kind; /* "npy", "tensors" or "saev" */
    int64_t n_sites, n_pictures, n_groups;
    int64_t n_written; /* groups, in this call */
    double n_bytes;    /* of all values */
    int64_t n_not_finite,
        n_too_large; /* values of those: NaN or infinite; finite but not in dtype */
    double seconds;
} rf_import_report;

/* Whether `path` is something that rf_import_run reads: a folder, or a file that begins as npy,
 * safetensors or a PyTorch archive, or is called like one. */
bool rf_import_is_source(const char *path);
/* Make the store settings->out of what lies at `path` (docs/store.md): an npy, safetensors or
 * PyTorch file, a folder of them that are alike but for the first axis, or a folder of saev's
 * shards. A part of it is in memory at a time. Goes on with a store that is not finished.
 * Collective; `settings` must agree. Errors: INTERRUPTED (a signal: what is written stays),
 * NOT_FOUND, FORMAT, UNSUPPORTED (the file and what is wrong with it), SETTING, those of
 * rf_store_create. */
rf_status rf_import_run(const rf_comm *comm, const char *path, const rf_import_settings *settings,
                        rf_import_report *report);

/* ---- activation stream: one pass over the pictures, any number of readers ----------------------
 *
 * The order is a pure function of (seed, number of pictures, group_pictures, pool_groups): not of
 * ranks, threads, memory, other readers or where a run was resumed. A group is `group_pictures`
 * consecutive pictures (the last may be fewer); an epoch permutes the groups; each `pool_groups` of
 * them in that order make a pool (the last of an epoch may be fewer); a pool's tokens of a class
 * are permuted; a reader's sequence is pool after pool, epoch after epoch, and its batches are cut
 * from that one after the other, across pools and epochs. Pictures that could not be read keep
 * their tokens, marked as not valid. */

/* How well pools mix: the expected entropy of the pictures that the tokens of a batch are of, with
 * pools of `pool_pictures`, over that of a batch drawn from all `n_pictures`. Each has `rows`
 * tokens of the reader's class. 0 to 1. */
double rf_batch_entropy_share(int64_t n_pictures, int64_t pool_pictures, int64_t rows,
                              int64_t batch_tokens);

enum { RF_TOKEN_TILE = 64 }; /* batches are split over ranks in tiles of so many tokens */

/* One rank's share of a batch: the sites of its reader side by side, under one index. A row whose
 * picture could not be decoded stays in its place, zero and not valid: no coder sees it and no mean
 * counts it. */
typedef struct rf_token_batch {
    rf_view x;                /* [n_local, D], device: the reader's sites, in order */
    const uint8_t *row_valid; /* [n_local], device */
    rf_stream *stream;        /* on which these are made, and later overwritten: who reads them on
                                 another waits for it, and lets it wait. NULL: they stay as they are */
    int64_t first_row;        /* of this rank's share in the batch */
    int64_t n_rows;           /* of the whole batch, all ranks */
    int64_t n_valid;          /* valid ones of these */
    int64_t batch_idx;        /* in the reader's sequence */
    const int64_t *pictures;  /* [n_local], host: which picture of the split a row is of, */
    const int64_t *tokens;    /* and which row of its (first) hook point */
    const uint8_t *classes;   /* [n_local], host: RF_TOKENS_CLS, _REGISTER or _PATCH (POOLED: CLS);
                                 NULL: not known */
} rf_token_batch;

enum { RF_MAX_MODELS = 8 };

typedef struct rf_activation_stream_opts {
    rf_vit *const *vits; /* [n_vits] of one backend; pointers are borrowed while the stream lives.
                            None: everything comes from `store`, pictures and transforms too */
    int n_vits;
    rf_stream *stream;               /* of that backend */
    const rf_comm *comm;             /* ranks that share the work */
    const rf_picture_list *pictures; /* the same on every rank */
    rf_picture_split split;
    const rf_transform *transforms; /* [n_vits] of each model; its size is the model's image size */
    int64_t group_pictures, pool_groups;
    uint64_t seed;
    int64_t keep_bytes;     /* of each rank, for activations that a later epoch reads again */
    int64_t decode_threads; /* of each rank; 0: one */
    bool fast_decode;       /* rf_image_reader_create's */
    double max_bad_share;   /* of the pictures read so far that may be bad */
    rf_dtype dtype;         /* F32, F16 or BF16: values are rounded to it, as a store holds them */
    rf_store *store;        /* borrowed; NULL: none. Without models: all groups come from it. With
                               them: those that it has; the others are written to it, whose sites are
                               those of the readers (rf_store_create_for) */
    const char *const *model_names; /* what the store calls the models [n_vits, or n_names where
                                       there are none]; NULL: one without a name */
    int n_names;
    int64_t read_threads; /* of each rank, for the store; 0: two */
    double share;         /* in (0, 1]: of the groups, the others are left out; 0: all */
} rf_activation_stream_opts;

/* A hook point of one of the models. */
typedef struct rf_reader_site {
    int model; /* index in vits */
    rf_hook_point point;
} rf_reader_site;

/* A reader is one coder's sequence of batches. Its sites must have equally many rows of the class a
 * picture, and rows that belong together must be of one class (and in one place of the grid). */
typedef struct rf_reader_opts {
    const rf_reader_site *sites; /* [n_sites], 1 to 2 * RF_MAX_SITES, copied */
    int n_sites;
    rf_token_class tokens;
    int64_t batch_tokens;
    int64_t epochs;       /* >= 1 */
    int64_t total_tokens; /* > 0: the sequence ends after so many, and `epochs` is not looked at */
    double max_norm;      /* > 0: rows (all sites together) of a larger norm are not valid */
    int first_rank, n_ranks; /* which ranks share its batches, as rf_comm_share over these alone:
                                the others have no row of them; n_ranks 0: all */
} rf_reader_opts;

typedef struct rf_activation_stream rf_activation_stream;

/* Open at the beginning of every reader's sequence; runs no model yet. Collective; everything but
 * pointers and decode_threads must agree (checked). Errors: INVALID_ARG, SETTING (a point without
 * tokens of the class, sites that do not fit together), NO_MEMORY. */
rf_status rf_activation_stream_open(const rf_activation_stream_opts *opts,
                                    const rf_reader_opts *readers, int64_t n_readers,
                                    rf_activation_stream **out);
void rf_activation_stream_close(rf_activation_stream *st); /* NULL is fine */

/* What a store says of the models beside what the options hold. */
typedef struct rf_store_origin {
    uint64_t model_hash;
    const char *model, *processing, *settings;
    double holdout;
} rf_store_origin;

/* rf_store_create with what the models of `opts` give at the sites of `readers`. Collective. */
rf_status rf_store_create_for(const rf_activation_stream_opts *opts, const rf_reader_opts *readers,
                              int64_t n_readers, const rf_store_origin *origin, const char *path,
                              rf_store **out);
/* Make every group that opts->store lacks, and write it; `n_written` (may be NULL) counts those of
 * all ranks. A signal or a failure on any rank stops all, and what is written stays. Collective.
 * Errors: INTERRUPTED, FORMAT when too large a share of the pictures is bad, IO. */
rf_status rf_store_fill(const rf_activation_stream_opts *opts, const rf_reader_opts *readers,
                        int64_t n_readers, int64_t *n_written);

/* Batches of a reader's whole sequence; the last may be short. */
int64_t rf_activation_stream_n_batches(const rf_activation_stream *st, int64_t reader);
int64_t rf_activation_stream_tokens_per_epoch(const rf_activation_stream *st, int64_t reader);

/* The first `n` valid tokens of the reader's sequence inside pool 0 of epoch 0, or as many as there
 * are: the same rows on every rank. `rows` [n_out, width] (host), all sites side by side, is to be
 * released with rf_free.
 * The stream stays where it is, and a pool made here at the beginning is not made again.
 * Collective. Errors: those of rf_activation_stream_advance. */
rf_status rf_activation_stream_sample(rf_activation_stream *st, int64_t reader, int64_t n,
                                      float **rows, int64_t *n_out, int64_t *width);

/* Go to where reader r has taken batches_done[r] batches [n_readers]. Makes again only the pools
 * that the readers' next batches begin in up to the first that one of them ends in: at most two
 * where no batch is larger than a pool. Collective; `batches_done` must agree. */
rf_status rf_activation_stream_seek(rf_activation_stream *st, const int64_t *batches_done);

/* The reader's next batch, if the pools made so far hold all of it: else, and at the end of the
 * sequence, *has is false. `out` is borrowed until the next call with this reader, or of advance,
 * seek or close. Collective. */
rf_status rf_activation_stream_next(rf_activation_stream *st, int64_t reader, rf_token_batch *out,
                                    bool *has);

/* Make the next pool: decode and run the model on this rank's groups of it. Each reader must have
 * taken the batches that it has in the pool before; rows of batches that are not complete are kept
 * by the ranks that will own them. *more is false, and nothing is made, when every reader is at its
 * end. Collective. Errors: FORMAT when too large a share of the pictures read so far is bad (names
 * some), those of the model. */
rf_status rf_activation_stream_advance(rf_activation_stream *st, bool *more);

/* Pictures so far, on all ranks, that could not be read, each counted once; `names_and_reasons`
 * (may be NULL) gets a line for each of the first hundred. The same on every rank. */
rf_status rf_activation_stream_bad(const rf_activation_stream *st, int64_t *n_bad,
                                   rf_str *names_and_reasons);

#ifdef __cplusplus
}
#endif

#endif
