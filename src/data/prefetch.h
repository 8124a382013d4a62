/* Work that threads do ahead of one consumer, in order. Jobs are numbered from 0; job j fills slot
 * j mod n_slots and consists of items, which any threads do. Which thread does what changes nothing
 * in the result. */
#ifndef REFRACT_PREFETCH_H
#define REFRACT_PREFETCH_H

#include "refract/base.h"

typedef struct rf_prefetch_opts {
    /* Do item `item` of job `job`, for slot `slot`. Called by several threads at once, for
     * different items. */
    rf_status (*work)(void *self, int64_t job, int64_t item, int64_t slot);
    void *self;
    int64_t n_threads, n_slots; /* >= 1 */
} rf_prefetch_opts;

typedef struct rf_prefetch rf_prefetch;
rf_status rf_prefetch_create(const rf_prefetch_opts *opts, rf_prefetch **out);
/* Waits for the threads. NULL is fine. */
void rf_prefetch_destroy(rf_prefetch *p);
/* No thread is at work any more, and none begins before rf_prefetch_start: what `work` reads may
 * change. */
void rf_prefetch_stop(rf_prefetch *p);
/* Begin anew with jobs of so many items; `n_items` [n_jobs] is copied. */
rf_status rf_prefetch_start(rf_prefetch *p, const int64_t *n_items, int64_t n_jobs);
/* Wait for the next job; its slot is the consumer's until the next call. The status is that of the
 * job's first item that failed, with its text. *slot is -1 after the last job. */
rf_status rf_prefetch_next(rf_prefetch *p, int64_t *slot);

#endif
