/* pictures: from files to images that a model takes. A list of pictures and which of them are held
 * out, the preprocessing that a model's files ask for, batches of images that threads of their own
 * decode ahead of the consumer, and their way to a device. Functions are local but where they say
 * Collective. */
#ifndef REFRACT_PICTURES_H
#define REFRACT_PICTURES_H

#include "refract/base.h"
#include "refract/comm.h"
#include "refract/io.h"
#include "refract/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- settings of section `data` --------------------------------------------------------------
 */

typedef struct rf_data_settings {
    char path[RF_PATH_LEN];
    char root[RF_PATH_LEN];
    int part;               /* rf_picture_part */
    double holdout;         /* share in [0, 0.9] */
    int64_t max_pictures;   /* 0: all */
    double max_bad_share;   /* share in [0, 1] */
    int64_t decode_threads; /* of each rank; 0: one */
    bool fast_decode;       /* rf_image_reader_create's */
} rf_data_settings;

extern const rf_settings_table rf_data_settings_table;

/* ---- picture list: which files, their labels, and which are held out --------------------------
 */

typedef enum rf_picture_split { RF_SPLIT_TRAIN, RF_SPLIT_HELD_OUT, RF_SPLIT_ALL } rf_picture_split;

/* Of data sets that come in parts. */
typedef enum rf_picture_part { RF_PART_AUTO, RF_PART_TRAIN, RF_PART_VAL } rf_picture_part;

typedef struct rf_picture_list_opts {
    const char *path;
    const char *root;     /* where the paths in a list start; NULL or "": the list's own folder */
    rf_picture_part part; /* of Kaggle's ImageNet; AUTO: its training pictures */
    double holdout;       /* share in [0, 1) */
    uint64_t seed;        /* chooses which pictures `max_pictures` keeps, nothing else */
    int64_t max_pictures; /* 0: all */
    const rf_comm *comm;  /* ranks that share the work of looking into shards; NULL: this one */
} rf_picture_list_opts;

typedef struct rf_picture_list rf_picture_list;

/* The pictures that lie at `path`. What that is, is told by what lies there (docs/pictures.md):
 * - a folder with LOC_synset_mapping.txt is Kaggle's ImageNet: classes in that file's order;
 * - a folder of class folders, or of pictures: those below it at any depth (32 at most), by name
 *   (rf_picture_is_name); names that begin with a dot are passed over. The first folder of a
 *   picture's relative name is its class; pictures directly in the folder have none;
 * - a folder of .tar files and no pictures, a .tar file, or NAME-{000..123}.tar: WebDataset shards,
 *   whose pictures are named SHARD/KEY.ENDING;
 * - a .csv, .tsv or .txt file: a list, a path a row and perhaps a label. Whether a file is there is
 *   found out when it is read.
 * Labels of lists and shards that are all whole numbers are the classes' indices; else they are
 * names. Sorted by name (strcmp), so that the order is a pure function of the names; a name that
 * occurs twice is FORMAT. A picture is held out when a hash of its name is below `holdout`: adding,
 * removing or relabelling others never moves it, and a larger share only adds to the held-out ones.
 * Collective over opts->comm where that is given; all options must agree, and every rank gets the
 * same list. Errors: NOT_FOUND (nothing there, no picture in it), FORMAT and UNSUPPORTED (a damaged
 * or compressed shard, a wrong row; with the place), SETTING (either of two kinds; `root` or `part`
 * of a source that has none), IO. */
rf_status rf_picture_list_open(const rf_picture_list_opts *opts, rf_picture_list **out);
/* A list whose text is in memory; opts->path is its name, opts->comm is not looked at. */
rf_status rf_picture_list_parse(const rf_picture_list_opts *opts, const void *text, int64_t n_bytes,
                                rf_picture_list **out);
void rf_picture_list_close(rf_picture_list *list); /* NULL is fine */

int64_t rf_picture_list_n(const rf_picture_list *list, rf_picture_split split);
/* The place in RF_SPLIT_ALL of picture `idx` of `split`, or -1 when there is no such picture. */
int64_t rf_picture_list_index(const rf_picture_list *list, rf_picture_split split, int64_t idx);
/* Relative to the source, or NULL when there is no such picture. Borrowed from the list. */
const char *rf_picture_list_name(const rf_picture_list *list, rf_picture_split split, int64_t idx);
/* Class index, or -1 for a picture without a class. */
int64_t rf_picture_list_label(const rf_picture_list *list, rf_picture_split split, int64_t idx);
/* The bytes of its file, wherever that is; caller frees. Threads may read at once. */
rf_status rf_picture_list_read(const rf_picture_list *list, rf_picture_split split, int64_t idx,
                               char **bytes, int64_t *n_bytes);
/* How many they are, without reading them; -1: not known. */
int64_t rf_picture_list_bytes(const rf_picture_list *list, rf_picture_split split, int64_t idx);
/* Folder and name joined: for messages, and for lists whose pictures are files of their own. */
rf_status rf_picture_list_path(const rf_picture_list *list, rf_picture_split split, int64_t idx,
                               char out[RF_PATH_LEN]);

/* Folders and names: sorted by strcmp, also those of which `max_pictures` kept none. Numbers: 0 to
 * the largest, also those without a picture. Kaggle's: the synsets in the order of the mapping. */
int64_t rf_picture_list_n_classes(const rf_picture_list *list);
const char *rf_picture_list_class(const rf_picture_list *list, int64_t idx); /* or NULL */
/* What people call it, as "tench, Tinca tinca"; NULL where the source does not say. */
const char *rf_picture_list_class_title(const rf_picture_list *list, int64_t idx);
/* Of the relative names in order (not of the contents, not of the split): for run records. */
uint64_t rf_picture_list_hash(const rf_picture_list *list);

/* ---- resize: Pillow 13's Image.resize, bit for bit
 * -----------------------------------------------
 */

/* Numbers are Pillow's, and preprocessor_config.json's `resample`. */
typedef enum rf_resize_filter {
    RF_RESIZE_LANCZOS = 1,
    RF_RESIZE_BILINEAR = 2,
    RF_RESIZE_BICUBIC = 3,
} rf_resize_filter;

/* A rectangle of pixels; it lies inside what it is a part of. */
typedef struct rf_region {
    int64_t top, left, height, width;
} rf_region;

/* Resize `in` to `height` x `width`, and compute only `region` of the result: the bits are those of
 * the whole resize, cropped. Widens the filter when it shrinks (antialias). `out` [region.height,
 * region.width, 3]; the caller releases it with rf_picture_fini. Errors: INVALID_ARG, NO_MEMORY. */
rf_status rf_resize_picture(const rf_picture *in, int64_t height, int64_t width,
                            rf_resize_filter filter, const rf_region *region, rf_picture *out);

/* ---- transform: what preprocessor_config.json says --------------------------------------------
 */

/* How a centre crop rounds. */
typedef enum rf_crop_rule { RF_CROP_TRANSFORMERS, RF_CROP_TORCHVISION } rf_crop_rule;

/* In the order of the fields: resize, centre crop, scale, normalise. */
typedef struct rf_transform {
    int64_t shortest_edge;               /* pixels; > 0: resize the shorter side to it */
    int64_t resize_height, resize_width; /* > 0: resize to exactly this; all three 0: no resize */
    rf_resize_filter filter;
    int64_t crop_height,
        crop_width; /* 0: no crop; a picture that is smaller is padded with zeros */
    rf_crop_rule crop_rule;
    double scale;   /* of pixel values 0..255; 1: none */
    bool normalise; /* (value - mean) / std, by channel */
    float mean[3], std[3];
} rf_transform;

/* Read `model_dir`/preprocessor_config.json (or processor_config.json's `image_processor`), else
 * open_clip_config.json's preprocess_cfg, else config.json's pretrained_cfg as timm writes it. Of
 * transformers the image processors of CLIP, BiT (DINOv2's), ViT (DINO v1's too), DeiT and SigLIP,
 * as transformers 4 and 5 write them and as the feature extractors before them did; keys that are
 * absent have the defaults of the named processor. Errors: NOT_FOUND (no such file), FORMAT,
 * UNSUPPORTED (another processor or filter; images that would differ in size). */
rf_status rf_transform_load(const char *model_dir, rf_transform *out);
/* The same from JSON text, of transformers, OpenCLIP (whose inference transform is a resize of the
 * shorter side, or squashed, and a centre crop) and timm (crop_pct); `name` is for messages. timm's
 * is NOT_FOUND where the text has no pretrained_cfg. */
rf_status rf_transform_parse(const char *text, int64_t n_bytes, const char *name,
                             rf_transform *out);
rf_status rf_transform_parse_open_clip(const char *text, int64_t n_bytes, const char *name,
                                       rf_transform *out);
rf_status rf_transform_parse_timm(const char *text, int64_t n_bytes, const char *name,
                                  rf_transform *out);
/* Every field in range, and all pictures come out at one size. */
rf_status rf_transform_check(const rf_transform *t);
/* The size of what comes out, pixels. */
int64_t rf_transform_height(const rf_transform *t);
int64_t rf_transform_width(const rf_transform *t);
/* The same pixels come out of both. */
bool rf_transform_is_equal(const rf_transform *a, const rf_transform *b);
/* The resized and cropped picture, `out` [height, width, 3]; a picture that is smaller is padded
 * with black. */
rf_status rf_transform_bytes(const rf_transform *t, const rf_picture *picture, uint8_t *out);
/* What a channel's byte is to the model: `levels` [3, 256], scaled and normalised. */
void rf_transform_levels(const rf_transform *t, float *levels);
/* Both: `out` [3, height, width]. Equals transformers' PIL processors, and the inference transforms
 * of open_clip and timm to 1e-6 (given RGB pictures). */
rf_status rf_transform_apply(const rf_transform *t, const rf_picture *picture, float *out);

/* ---- image reader: from the bytes of a picture file to a model's input --------------------------
 */

/* One thread's: what it allocates serves the next picture too. */
typedef struct rf_image_reader rf_image_reader;
/* With `fast_decode`, JPEGs are decoded by rf_picture_decode_planes and resized before their
 * colours are converted: the same part of the picture, close to the same values. */
rf_status rf_image_reader_create(const rf_transform *transform, bool fast_decode,
                                 rf_image_reader **out);
void rf_image_reader_destroy(rf_image_reader *reader); /* NULL is fine */
/* `out` [height, width, 3] of the transform; `name` is for messages. Without fast_decode this is
 * rf_picture_decode and rf_transform_bytes. Errors: theirs. */
rf_status rf_image_reader_read(rf_image_reader *reader, const void *bytes, int64_t n_bytes,
                               const char *name, uint8_t *out);

/* ---- loader: batches of images, decoded ahead --------------------------------------------------
 */

/* B images; a picture has one frame and three channels. */
typedef struct rf_image_batch {
    int64_t n_images, n_frames, n_channels, height, width;
    const uint8_t *pixels;   /* [B, frames, H, W, C]; rf_transform_levels says what they mean */
    const uint8_t *valid;    /* [B]; 0: the picture could not be read, and its pixels are black */
    const int64_t *pictures; /* [B] indices in the loader's split */
} rf_image_batch;

typedef struct rf_image_loader_opts {
    const rf_picture_list *list; /* borrowed while the loader lives */
    rf_picture_split split;
    rf_transform transform;
    int64_t max_images;  /* of the largest group, >= 1 */
    int64_t n_threads;   /* 0: one */
    int64_t n_ahead;     /* batches decoded while the consumer holds one, >= 1; 0: two */
    bool fast_decode;    /* rf_image_reader_create's */
    rf_backend *backend; /* pixels lie in its pinned memory: copies of a batch must have run before
                            the next call of next, start or destroy. NULL: in ordinary memory */
} rf_image_loader_opts;

/* Threads of its own that read, decode and transform pictures ahead of one consumer. What a batch
 * holds depends on its picture indices only, not on threads or timing. */
typedef struct rf_image_loader rf_image_loader;
rf_status rf_image_loader_create(const rf_image_loader_opts *opts, rf_image_loader **out);
void rf_image_loader_destroy(rf_image_loader *loader); /* NULL is fine */

/* Begin (again) with these groups, in this order; batches of an earlier start that were not asked
 * for are dropped. Group g is pictures[first[g]] .. pictures[first[g + 1] - 1], indices in the
 * split, at most `max_images` of them; it may be empty. `pictures` [first[n_groups]] and `first`
 * [n_groups + 1] (NULL when n_groups = 0) are copied. */
rf_status rf_image_loader_start(rf_image_loader *loader, const int64_t *pictures,
                                const int64_t *first, int64_t n_groups);
/* The next group's batch; blocks until it is decoded. *out is NULL after the last group. Borrowed
 * from the loader until the next call of next, start or destroy. A picture that cannot be read or
 * decoded keeps its place with valid = 0 and is remembered; other failures (NO_MEMORY, BUG) are
 * returned. */
rf_status rf_image_loader_next(rf_image_loader *loader, const rf_image_batch **out);

/* The pictures of delivered batches that could not be read, each counted once over all starts. */
int64_t rf_image_loader_n_bad(const rf_image_loader *loader);
/* One of them, ordered by index in the split: its name and why; NULLs when there is no such entry.
 * Borrowed until the next call of next or destroy. */
void rf_image_loader_bad(const rf_image_loader *loader, int64_t idx, const char **name,
                         const char **reason);
/* Different pictures delivered so far, bad ones included. */
int64_t rf_image_loader_n_seen(const rf_image_loader *loader);

/* ---- feed: a loader's pictures as a model on a device takes them --------------------------------
 */

/* Decoding, copies and the model's work on `stream` overlap. Local. */
typedef struct rf_image_feed rf_image_feed;
/* `stream` is borrowed; `opts->backend` is the stream's. */
rf_status rf_image_feed_create(rf_stream *stream, const rf_image_loader_opts *opts,
                               rf_image_feed **out);
void rf_image_feed_destroy(rf_image_feed *feed); /* waits for `stream`; NULL is fine */
/* rf_image_loader_start's. */
rf_status rf_image_feed_start(rf_image_feed *feed, const int64_t *pictures, const int64_t *first,
                              int64_t n_groups);
/* The next group, as rf_image_loader_next; `images` [B, 3, H, W] (device, in the order of `stream`)
 * is theirs until the next call, a picture that could not be read 0. */
rf_status rf_image_feed_next(rf_image_feed *feed, const rf_image_batch **batch, rf_view *images);
/* For what could not be read. */
const rf_image_loader *rf_image_feed_loader(const rf_image_feed *feed);

#ifdef __cplusplus
}
#endif

#endif
