/* What the files of the activation stream share: the order, the pool, and what hands activations
 * to it. */
#ifndef REFRACT_DATA_IMPL_H
#define REFRACT_DATA_IMPL_H

#include "refract/data.h"

/* ---- order: pure functions of the settings ----------------------------------------------------
 *
 * Words: a group's *slot* is its place in an epoch's order; a pool's *ordinal* counts pools over
 * epochs; a *position* counts tokens of a class over epochs. Where a share of the groups is used,
 * groups and pictures are counted among those, and rf_order_first_picture leads to the list's. */

typedef struct rf_order {
    uint64_t seed;
    int64_t n_pictures, group_pictures, pool_groups;
    int64_t n_groups, n_pools; /* of an epoch */
    int64_t n_listed;          /* pictures of the list */
    int64_t *kept;             /* [n_groups] groups of the list, rising; NULL: all */
} rf_order;

/* Where the one group that may be short went in an epoch; n_groups if there is none. */
typedef struct rf_order_epoch {
    int64_t epoch, short_slot;
} rf_order_epoch;

typedef struct rf_order_token {
    int64_t slot;    /* of its group */
    int64_t picture; /* in the group */
    int64_t row;     /* in the class */
} rf_order_token;

rf_status rf_order_init(rf_order *order, uint64_t seed, int64_t n_pictures, int64_t group_pictures,
                        int64_t pool_groups);
/* Use this share of the groups, in (0, 1], chosen by the seed: a larger one only adds to them. */
rf_status rf_order_use_share(rf_order *order, double share);
void rf_order_fini(rf_order *order);
/* Of a group, in the list. */
int64_t rf_order_first_picture(const rf_order *order, int64_t group);
rf_order_epoch rf_order_find_epoch(const rf_order *order, int64_t epoch);
int64_t rf_order_group(const rf_order *order, int64_t epoch, int64_t slot);
/* Pictures of a group. */
int64_t rf_order_group_size(const rf_order *order, int64_t group);
/* Pictures of an epoch that come before pool `pool`, 0 <= pool <= n_pools. */
int64_t rf_order_pool_first(const rf_order *order, rf_order_epoch epoch, int64_t pool);
/* Positions [*begin, *end) of a class of `n_rows` rows a picture that pool `pool` holds. */
void rf_order_pool_span(const rf_order *order, rf_order_epoch epoch, int64_t pool, int64_t n_rows,
                        int64_t *begin, int64_t *end);
/* The ordinal of the pool that holds `position`. */
int64_t rf_order_pool_at(const rf_order *order, int64_t n_rows, int64_t position);
/* Token `i` of the pool's permuted tokens. */
rf_order_token rf_order_token_at(const rf_order *order, rf_order_epoch epoch, int64_t pool,
                                 int64_t n_rows, int64_t i);

/* ---- sites and what fills them ----------------------------------------------------------------
 */

/* A hook point of a model that some reader reads; rows first_row .. first_row + n_rows - 1 of each
 * picture are held, which are all that its readers' classes name. */
typedef struct rf_site {
    int model;
    rf_hook_point point;
    int64_t first_row, n_rows;
} rf_site;

/* Where the activations of groups come from: pictures through a model, or a formula in a test. All
 * functions are local. */
typedef struct rf_group_source {
    void *self;
    /* Begin with these groups, as rf_image_loader_start. */
    rf_status (*start)(void *self, const int64_t *pictures, const int64_t *first, int64_t n_groups);
    /* The next group: rows[s] (device) [n_pictures, sites[s].n_rows, width]; valid (host)
     * [n_pictures]. */
    rf_status (*next)(void *self, const rf_site *sites, int64_t n_sites, int64_t n_pictures,
                      void *const *rows, uint8_t *valid);
    const char *(*name)(void *self, int64_t picture);
    const char *(*reason)(void *self, int64_t picture); /* why this rank could not read it */
    void (*destroy)(void *self);
} rf_group_source;

/* ---- parts of the stream ----------------------------------------------------------------------
 */

/* What a stream is made of beside its source and readers. */
typedef struct rf_stream_frame {
    rf_stream *stream;
    const rf_comm *comm;
    const rf_vit_config *configs[RF_MAX_MODELS]; /* [n_models], read by open only */
    int n_models;
    const rf_store *store;             /* what rows there are, where it is not NULL; */
    const char *models[RF_MAX_MODELS]; /* [n_models] what it calls the models */
    int64_t n_pictures, group_pictures, pool_groups;
    uint64_t seed;
    uint64_t pictures_hash; /* of the list, compared over ranks */
    int64_t keep_bytes;
    bool deals_as_first; /* of rf_keep_init */
    double max_bad_share;
    double share; /* of the groups; 0: all */
} rf_stream_frame;

typedef struct rf_pool_slot {
    int64_t group;
    int64_t owner; /* rank */
    int64_t local; /* which of the owner's groups in this pool */
} rf_pool_slot;

/* The pool that is in memory. */
typedef struct rf_pool {
    int64_t ordinal; /* -1: none */
    int64_t idx;     /* in its epoch */
    rf_order_epoch epoch;
    int64_t first_slot, n_slots;
    rf_pool_slot *slots;  /* [pool_groups] */
    int64_t *n_local;     /* [size] groups of each rank */
    int64_t *valid_bytes; /* [size] */
    uint8_t *valid;       /* [pool_groups, group_pictures], by slot, on every rank */
    uint8_t *local_valid; /* [pool_groups, group_pictures], of this rank's groups */
    uint8_t *gathered;    /* [pool_groups, group_pictures], by rank */
    void **rows;          /* [n_sites] device [capacity * group_pictures * n_rows, width] */
    void **group_rows;    /* [n_sites] where the group in work goes */
    int64_t capacity;     /* groups */
    int64_t queued_epoch; /* what the source was started with goes on at this slot; */
    int64_t queued_slot;  /* -1: start it anew */
} rf_pool;

/* Activations of an earlier epoch, on the rank that computed them. */
typedef struct rf_keep {
    bool is_on;          /* the same on every rank */
    int64_t *first_slot; /* [n_groups] slot of each group in epoch 0: which rank has it; NULL where
                            groups are dealt anew in each epoch */
    int64_t n_max;       /* groups that this rank may keep */
    int64_t block_bytes; /* of a group, all sites */
    void **blocks;       /* [n_max] pinned; NULL until computed */
    uint8_t *valid;      /* [n_max, group_pictures] */
    rf_stream *copies;   /* out of the pool, while the next group is made */
    rf_event *turn;
} rf_keep;

/* Pictures that could not be read; the same on every rank. */
typedef struct rf_bad_pictures {
    uint8_t *state; /* [n_listed] 0 not read yet, 1 good, 2 bad */
    int64_t n_seen, n_bad, n_named;
    rf_str lines; /* of the first n_named */
} rf_bad_pictures;

/* One of a reader's sites. */
typedef struct rf_reader_part {
    int64_t site;          /* of the stream */
    int64_t first_row;     /* of the class at the point */
    int64_t width, column; /* its place in the reader's rows */
} rf_reader_part;

typedef struct rf_reader {
    rf_reader_opts opts; /* `sites` are not looked at any more */
    rf_reader_part *parts;
    int n_parts;
    int64_t width;        /* of all parts */
    int64_t n_rows;       /* of the class a picture, at every part's point */
    uint8_t *row_classes; /* [n_rows] */
    int64_t tokens_per_epoch, total, n_batches;
    int first_rank, n_ranks; /* that share its batches */

    int64_t taken;        /* batches handed out; what follows is about the next one */
    int64_t begin, end;   /* its positions */
    int64_t filled;       /* positions before this have reached their owners */
    int64_t n_valid;      /* of those */
    int64_t first, count; /* this rank's rows of the batch */
    void *x;              /* device [capacity, width] */
    uint8_t *valid, *classes;
    rf_upload upload;  /* of `valid` */
    float *norm;       /* pinned, of max_norm; as the next */
    void *device_norm; /* [capacity] */
    int64_t *pictures, *tokens;
} rf_reader;

/* Where a token of the pool is. */
typedef struct rf_token_source {
    int64_t owner, local_picture; /* rank, and which of its pictures in the pool */
    int64_t row;                  /* of the class */
    int64_t picture;
    bool is_valid;
} rf_token_source;

/* Scratch of moving rows to the ranks that own them in a batch. */
typedef struct rf_exchange_scratch {
    rf_token_source *sources;         /* [max_batch] */
    int64_t *own;                     /* [max_batch] which of `sources` this rank sends */
    rf_upload index;                  /* rows to gather: of each part, [max_batch] */
    int64_t *send_bytes, *recv_bytes; /* [size] */
    int64_t *share_end, *next;        /* [size] */
    void *send, *recv;                /* device; NULL on one rank */
} rf_exchange_scratch;

struct rf_activation_stream {
    rf_stream *stream;
    rf_stream *copies; /* readers' small ones, to the device */
    const rf_comm *comm;
    int64_t rank, size;
    double max_bad_share;
    rf_order order;
    rf_site *sites;
    int64_t n_sites;
    rf_group_source source;
    rf_pool pool;
    rf_keep keep;
    rf_bad_pictures bad;
    rf_reader *readers;
    int64_t n_readers;
    rf_exchange_scratch scratch;
    int64_t at; /* ordinal of the pool that readers are in; -1: before the first */
    rf_order_epoch at_epoch;
};

/* As rf_activation_stream_open, from any source, which is taken (also on failure). Collective. */
rf_status rf_activation_stream_assemble(const rf_stream_frame *frame, rf_group_source source,
                                        const rf_reader_opts *readers, int64_t n_readers,
                                        rf_activation_stream **out);
/* That there are readers, with sites of models that exist. Local. */
rf_status rf_readers_check(const rf_reader_opts *readers, int64_t n_readers, int n_models);
/* The distinct points of `readers`, each with the rows that they read. Local. */
rf_status rf_site_list(const rf_stream_frame *frame, const rf_reader_opts *readers,
                       int64_t n_readers, rf_site **out, int64_t *n);
/* Where it is in `sites`, or n. */
int64_t rf_site_find(const rf_site *sites, int64_t n, const rf_reader_site *wanted);

/* site_rows.c: what the rows of a site are, by its model's configuration or by the store. Local. */

/* As rf_token_class_rows. */
rf_status rf_site_class_rows(const rf_stream_frame *frame, const rf_reader_site *site,
                             rf_token_class tokens, int64_t *first, int64_t *n_rows);
/* CLS, REGISTER or PATCH, and where in the grid. */
rf_token_class rf_site_class_of_row(const rf_stream_frame *frame, const rf_reader_site *site,
                                    int64_t row, int32_t position[3]);
/* For messages. */
const char *rf_site_model_name(const rf_stream_frame *frame, const rf_reader_site *site);

/* rf_pool_require, once what is kept of the pool before it is safe. Collective. */
rf_status rf_activation_stream_require(rf_activation_stream *st, int64_t ordinal);

rf_status rf_pool_init(rf_activation_stream *st);
void rf_pool_fini(rf_activation_stream *st);
/* Have pool `ordinal` in memory. Collective. */
rf_status rf_pool_require(rf_activation_stream *st, int64_t ordinal);
/* Rows of pictures that could not be read become zero, whatever the model makes of a blank one. */
rf_status rf_pool_clear_bad_rows(rf_stream *s, const rf_site *sites, int64_t n_sites,
                                 int64_t n_pictures, void *const *rows, const uint8_t *valid);
/* The token at `position` of the reader's sequence, which the pool holds. */
rf_token_source rf_pool_find(const rf_activation_stream *st, const rf_reader *rd, int64_t position);
/* Its row of the part's site, on the rank that has it. */
int64_t rf_pool_row(const rf_activation_stream *st, const rf_reader_part *part,
                    const rf_token_source *source);

/* `n_epochs`: of the longest reader; nothing is kept for one. `deals_as_first`: a rank gets the
 * same groups in every epoch also where nothing is kept. */
rf_status rf_keep_init(rf_activation_stream *st, int64_t keep_bytes, int64_t n_epochs,
                       bool deals_as_first);
void rf_keep_fini(rf_activation_stream *st);
bool rf_keep_has(const rf_activation_stream *st, int64_t group);
/* Copy a group that is kept into `rows`; `valid` [group_pictures]. */
rf_status rf_keep_load(rf_activation_stream *st, int64_t group, void *const *rows, uint8_t *valid);
/* Keep a group, if it is one of those that may be. Its rows must stay until rf_keep_let_go. */
rf_status rf_keep_store(rf_activation_stream *st, int64_t group, void *const *rows,
                        const uint8_t *valid);

/* What is queued from now on comes behind the copies of what is kept: the pool may be written. */
rf_status rf_keep_let_go(rf_activation_stream *st);

rf_status rf_bad_pictures_init(rf_activation_stream *st);
void rf_bad_pictures_fini(rf_activation_stream *st);
/* Count the pool's pictures. Collective; FORMAT when too many are bad. */
rf_status rf_bad_pictures_update(rf_activation_stream *st);

rf_status rf_reader_init(rf_activation_stream *st, const rf_stream_frame *frame,
                         const rf_reader_opts *opts, rf_reader *rd);
void rf_reader_fini(rf_activation_stream *st, rf_reader *rd);
/* Turn to batch number `batch_idx`, with nothing in it. */
void rf_reader_begin_batch(const rf_activation_stream *st, rf_reader *rd, int64_t batch_idx);
/* Move what the pool that readers are in holds of the batch to its owners. Collective. */
rf_status rf_reader_fill(rf_activation_stream *st, rf_reader *rd);
/* Rows of a whole batch whose norm is above max_norm become zero and not valid. Collective. */
rf_status rf_reader_drop_outliers(rf_activation_stream *st, rf_reader *rd);
rf_status rf_exchange_scratch_init(rf_activation_stream *st);
void rf_exchange_scratch_fini(rf_activation_stream *st);

#endif
