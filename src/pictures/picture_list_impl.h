/* What the files of the picture list share: the list itself, which each kind of source fills with
 * names and classes, and the readers of texts and shards. */
#ifndef REFRACT_PICTURE_LIST_IMPL_H
#define REFRACT_PICTURE_LIST_IMPL_H

#include "refract/pictures.h"

enum {
    /* of labels that are numbers; a model's head has at most so many classes */
    PICTURE_LIST_MAX_CLASSES = 1 << 20,
    PICTURE_LIST_MAX_LABEL = 512,      /* bytes of a label, '\0' included */
    PICTURE_LIST_MAX_PICTURE = 1 << 30 /* bytes of a picture in a shard, as of a file */
};

typedef struct picture_entry {
    const char *name;     /* relative to the source */
    const char *label_is; /* what the source says: a class's name or number; NULL: none */
    int64_t label;        /* -1: none */
    uint64_t order;       /* small ones are kept by max_pictures */
    int64_t place;        /* the line of a list, the byte of a member in its shard */
    int64_t n_bytes;      /* of a member; -1: not known */
    int64_t shard;        /* -1: a file of its own */
    bool is_held_out;
} picture_entry;

/* A tar file whose members are pictures. */
typedef struct picture_shard {
    const char *path;
    const char *name; /* begins the names of its pictures: its file name without ".tar" */
} picture_shard;

/* Texts that live as long as the list: millions of names do not want a block each. */
typedef struct picture_texts picture_texts;

/* Shards that are open for reading. */
typedef struct picture_readers picture_readers;

struct rf_picture_list {
    char folder[RF_PATH_LEN];
    bool absolute_names;    /* a name that begins with '/' is a path by itself */
    bool numbers;           /* labels that are all numbers are the classes' indices */
    picture_entry *entries; /* [n], sorted by name once the list is open */
    int64_t n, cap;
    const char **classes, **titles; /* [n_classes]; titles may be NULL */
    int64_t n_classes;
    picture_shard *shards; /* [n_shards] */
    int64_t n_shards;
    picture_readers *readers; /* with shards */
    picture_texts *texts;
    int64_t *members[2]; /* of RF_SPLIT_TRAIN and RF_SPLIT_HELD_OUT: indices in entries */
    int64_t n_members[2];
};

/* A copy of `len` bytes of `text`, '\0' behind it, that belongs to the list; NULL: NO_MEMORY. */
const char *rf_picture_list_text(rf_picture_list *list, const char *text, int64_t len);
/* Append an entry; all it points to belongs to the list already. */
rf_status rf_picture_list_add(rf_picture_list *list, const picture_entry *entry);

/* Classes and labels out of what the entries say, once they are sorted by name. Where the list has
 * classes already, every label must be one of them. */
rf_status rf_picture_list_set_labels(rf_picture_list *list);

/* The sources: each adds its pictures. */

/* The pictures below list->folder; the first folder of a name is its class. */
rf_status rf_picture_list_walk(rf_picture_list *list);
/* The rows of a list whose text is given; `name` tells its form by its ending. */
rf_status rf_picture_list_read_rows(rf_picture_list *list, const char *text, int64_t n_bytes,
                                    const char *name);
bool rf_picture_list_is_list_name(const char *path);
/* Kaggle's ImageNet in the folder `root`. */
bool rf_picture_list_is_kaggle(const char *root);
rf_status rf_picture_list_read_kaggle(rf_picture_list *list, const char *root,
                                      rf_picture_part part);
/* The shards of a folder (none: n_shards stays 0), and those that a pattern names. */
rf_status rf_picture_list_find_shards(rf_picture_list *list, const char *folder);
rf_status rf_picture_list_expand_shards(rf_picture_list *list, const char *pattern);
bool rf_picture_list_is_shard_pattern(const char *path);
void rf_picture_list_forget_shards(rf_picture_list *list);
/* The pictures of all shards; ranks of `comm` (or NULL) share the work. Collective. */
rf_status rf_picture_list_index_shards(rf_picture_list *list, const rf_comm *comm);
/* The pictures of one shard; *n_left_out grows by the pictures of a sample but its first. */
rf_status rf_picture_list_index_shard(rf_picture_list *list, int64_t shard, int64_t *n_left_out);
/* The bytes of entry `at`. */
rf_status rf_picture_list_read_member(const rf_picture_list *list, int64_t at, char **bytes,
                                      int64_t *n_bytes);
rf_status rf_picture_list_open_readers(rf_picture_list *list);
void rf_picture_list_close_readers(rf_picture_list *list);

/* Rows of separated values (RFC 4180), or whole lines where `separator` is '\n'. */
typedef struct picture_rows {
    const char *text, *name; /* borrowed; `name` for messages */
    int64_t n_bytes, at;
    char separator;
    int64_t line, next_line; /* from 1: of the row, and behind it */
    char *buffer;            /* of the row's fields */
    int64_t used;
    const char **fields; /* [n_fields], in the buffer */
    int64_t n_fields;
} picture_rows;

rf_status rf_picture_rows_begin(picture_rows *rows, const char *text, int64_t n_bytes,
                                char separator, const char *name);
/* Rows without a character are passed over. */
rf_status rf_picture_rows_next(picture_rows *rows, bool *has);
/* Cut the row's one field at every `separator`, without quotes. */
rf_status rf_picture_rows_cut(picture_rows *rows, char separator);
void rf_picture_rows_end(picture_rows *rows);

#endif
