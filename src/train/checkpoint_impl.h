/* What the files of a checkpoint share: checkpoint.c reads, checkpoint_write.c writes,
 * checkpoint_tensors.c says what a coder has in one. */
#ifndef REFRACT_CHECKPOINT_IMPL_H
#define REFRACT_CHECKPOINT_IMPL_H

#include "run_impl.h"

enum {
    RF_CHECKPOINT_VERSION = 3,
    RF_CHECKPOINT_OLDEST = 2, /* had all coders of its run in one file, and no `held` */
    RF_CHECKPOINT_N_PROGRESS = 5,
    RF_CHECKPOINT_MAX_SITES = 2 + 2 * RF_MAX_SITES, /* numbers of "sites" */
    RF_CHECKPOINT_MAX_TENSORS = 128,                /* of a coder and its optimiser */
};
#define RF_CHECKPOINT_FORMAT "refract checkpoint"

/* The tensors of a coder and its optimiser, in the order of the file. */
typedef struct rf_checkpoint_list {
    int n;
    size_t most_bytes; /* of one */
    struct {
        char name[64]; /* below the coder's */
        rf_view view;
    } items[RF_CHECKPOINT_MAX_TENSORS];
} rf_checkpoint_list;

rf_status rf_checkpoint_list_tensors(const rf_checkpoint_coder *c, rf_checkpoint_list *list);
rf_status rf_checkpoint_type(const rf_view *view, rf_h5_type *out);
size_t rf_checkpoint_bytes(const rf_view *view);
/* Names of dataset `name` of coder `idx` of the run. */
rf_status rf_checkpoint_dataset(char out[RF_NAME_LEN], int64_t idx, const char *name);
/* As rf_comm_agree; NULL: there is nobody to ask. */
rf_status rf_checkpoint_agree(const rf_comm *comm, rf_status status);

#endif
