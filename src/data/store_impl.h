/* What the files of the activation store share. */
#ifndef REFRACT_STORE_IMPL_H
#define REFRACT_STORE_IMPL_H

#include "refract/data.h"

#define RF_STORE_FORMAT "refract store"
enum { RF_STORE_VERSION = 1 };

/* Owned copies behind a head. */
typedef struct rf_store_text {
    rf_store_site *sites;
    char **models, **points, **names, **classes; /* blocks of rf_h5_read_names */
    int64_t *labels;
    char *model, *processing, *settings;
} rf_store_text;

/* Where the numbers are in the file. */
typedef struct rf_store_places {
    int64_t *values; /* [n_sites] */
    int64_t valid, checksum, done;
} rf_store_places;

typedef enum rf_store_use { RF_STORE_READ, RF_STORE_WRITE, RF_STORE_REPAIR } rf_store_use;

/* Behind "the file is damaged; ". */
#define RF_STORE_HOW_TO_REPAIR                                                                     \
    "the 'refract cache' command that wrote it, with repair=true behind it, writes the damaged "   \
    "groups again"

struct rf_store {
    char path[RF_PATH_LEN];
    rf_store_head head;
    rf_store_text text;
    rf_store_places at;
    int64_t n_groups;
    rf_raw_file *file;
    rf_store_use use;
    rf_folder_lock *lock; /* of rank 0 of a job that writes; NULL: nothing was to be written */
    uint8_t *done;      /* [n_groups] as far as this process knows; as it stands, to be repaired */
    uint64_t *checksum; /* [n_groups, n_sites + 1] of those */
    int64_t *pending;   /* [n_groups] groups that are written and not marked */
    int64_t n_pending, pending_bytes;
    double last_flush; /* rf_now */
};

/* store.c. Local. */

rf_status rf_store_open_for(const char *path, rf_store_use use, rf_store **out);
/* One writer of `path` at a time; NULL with a warning where the file system has no locks. */
rf_status rf_store_lock(const char *path, rf_folder_lock **out);
/* Mark that the group is to be written again. */
rf_status rf_store_unmark(rf_store *store, int64_t group);

/* store_head.c. Local. */

/* The whole file, every number of it still missing. */
rf_status rf_store_write_skeleton(const char *path, const rf_store_head *head);
/* Fill head, text, places and n_groups; checks all of them. What was allocated is released by
 * rf_store_fini_head also on failure. */
rf_status rf_store_read_head(rf_store *store);
void rf_store_fini_head(rf_store *store);
/* Names, sizes and rows in range. */
rf_status rf_store_check_head(const rf_store_head *head);
/* SETTING names the first thing in which they differ; in `settings` keys `path` and `root` may. */
rf_status rf_store_compare(const rf_store *store, const rf_store_head *wanted);

#endif
