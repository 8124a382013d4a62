/* Jobs done ahead by threads. Items are taken in the order in which they will be asked for, as long
 * as the slot of their job is free. */
#include "refract/base.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

typedef struct slot {
    int64_t job, n_left; /* ready when n_left is 0 */
    rf_status status;    /* of the first item that failed, and its text */
    int64_t failed_item;
    char text[RF_ERROR_TEXT_LEN];
} slot;

struct rf_prefetch {
    rf_prefetch_opts opts;
    pthread_mutex_t lock; /* guards what follows, up to the next blank line */
    pthread_cond_t work, done;
    slot *slots;      /* [n_slots] */
    int64_t *n_items; /* [n_jobs] */
    int64_t n_jobs;
    int64_t next_job, next_item; /* the item that a thread takes next */
    int64_t n_released;          /* jobs that the consumer is through with */
    int64_t n_busy;              /* threads at work */
    bool is_ending;

    pthread_t *threads;
    int64_t n_threads;
    int64_t n_delivered; /* the consumer's */
};

/* The next item, with the lock held; false when there is none (yet). */
static bool take(rf_prefetch *p, int64_t *job, int64_t *item)
{
    while (p->next_job < p->n_jobs && p->next_job < p->n_released + p->opts.n_slots) {
        const int64_t n = p->n_items[p->next_job];
        if (p->next_item == 0) {
            p->slots[p->next_job % p->opts.n_slots] =
                (slot){.job = p->next_job, .n_left = n, .status = RF_OK};
            if (n == 0) {
                pthread_cond_broadcast(&p->done);
            }
        }
        if (p->next_item < n) {
            *job = p->next_job;
            *item = p->next_item++;
            return true;
        }
        p->next_job++;
        p->next_item = 0;
    }
    return false;
}

/* With the lock held. Of several failures the first item's counts, whoever was first in time. */
static void note(slot *s, rf_status status, int64_t item)
{
    if (status != RF_OK && (s->status == RF_OK || item < s->failed_item)) {
        s->status = status;
        s->failed_item = item;
        memcpy(s->text, rf_error_text(), sizeof s->text);
    }
    s->n_left--;
}

static void *thread_main(void *arg)
{
    rf_prefetch *p = arg;
    int64_t job = 0, item = 0;
    pthread_mutex_lock(&p->lock);
    while (!p->is_ending) {
        if (!take(p, &job, &item)) {
            pthread_cond_wait(&p->work, &p->lock);
            continue;
        }
        const int64_t at = job % p->opts.n_slots;
        p->n_busy++;
        pthread_mutex_unlock(&p->lock);
        const rf_status status = p->opts.work(p->opts.self, job, item, at);
        pthread_mutex_lock(&p->lock);
        note(&p->slots[at], status, item);
        p->n_busy--;
        if (p->slots[at].n_left == 0 || p->n_busy == 0) {
            pthread_cond_broadcast(&p->done);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Signals go to the threads of the program, which know what to do about them. */
static rf_status start_threads(rf_prefetch *p)
{
    rf_status status = RF_OK;
    sigset_t all, before;
    int failed = 0;

    RF_ALLOC(p->threads, p->opts.n_threads);
    sigfillset(&all);
    RF_BUG(pthread_sigmask(SIG_SETMASK, &all, &before) == 0, "pthread_sigmask failed");
    while (p->n_threads < p->opts.n_threads && failed == 0) {
        failed = pthread_create(&p->threads[p->n_threads], NULL, thread_main, p);
        p->n_threads += failed == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed != 0) {
        RF_FAIL(RF_ERR_NO_MEMORY, "cannot start thread %" PRId64 " of %" PRId64 ": %s",
                p->n_threads + 1, p->opts.n_threads, strerror(failed));
    }
fail:
    return status;
}

rf_status rf_prefetch_create(const rf_prefetch_opts *opts, rf_prefetch **out)
{
    rf_status status = RF_OK;
    rf_prefetch *p = NULL;

    *out = NULL;
    RF_REQUIRE(opts->n_threads >= 1 && opts->n_slots >= 1,
               "%" PRId64 " threads and %" PRId64 " slots, expected 1 or more", opts->n_threads,
               opts->n_slots);
    RF_ALLOC(p, 1);
    p->opts = *opts;
    pthread_mutex_init(&p->lock, NULL); /* with default attributes these cannot fail on Linux */
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    RF_ALLOC(p->slots, opts->n_slots);
    RF_TRY(start_threads(p));
    *out = p;
    return RF_OK;
fail:
    rf_prefetch_destroy(p);
    return status;
}

void rf_prefetch_destroy(rf_prefetch *p)
{
    if (p == NULL) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->is_ending = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int64_t i = 0; i < p->n_threads; i++) {
        pthread_join(p->threads[i], NULL);
    }
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    rf_free(p->threads);
    rf_free(p->n_items);
    rf_free(p->slots);
    rf_free(p);
}

void rf_prefetch_stop(rf_prefetch *p)
{
    pthread_mutex_lock(&p->lock);
    p->n_jobs = 0;
    while (p->n_busy > 0) {
        pthread_cond_wait(&p->done, &p->lock);
    }
    p->n_delivered = 0;
    pthread_mutex_unlock(&p->lock);
}

rf_status rf_prefetch_start(rf_prefetch *p, const int64_t *n_items, int64_t n_jobs)
{
    rf_status status = RF_OK;
    int64_t *copy = NULL;

    RF_ALLOC(copy, n_jobs);
    if (n_jobs > 0) {
        memcpy(copy, n_items, (size_t)n_jobs * sizeof *copy);
    }
    rf_prefetch_stop(p);
    pthread_mutex_lock(&p->lock);
    rf_free(p->n_items);
    p->n_items = copy;
    for (int64_t i = 0; i < p->opts.n_slots; i++) {
        p->slots[i].job = -1;
    }
    p->next_job = p->next_item = p->n_released = 0;
    p->n_jobs = n_jobs;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
fail:
    return status;
}

rf_status rf_prefetch_next(rf_prefetch *p, int64_t *at)
{
    *at = -1;
    pthread_mutex_lock(&p->lock);
    const bool is_last = p->n_delivered == p->n_jobs;
    const slot *s = &p->slots[p->n_delivered % p->opts.n_slots];
    p->n_released = p->n_delivered; /* the slot that was borrowed until now */
    pthread_cond_broadcast(&p->work);
    while (!is_last && !(s->job == p->n_delivered && s->n_left == 0)) {
        pthread_cond_wait(&p->done, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    if (is_last) {
        return RF_OK;
    }
    *at = p->n_delivered++ % p->opts.n_slots;
    return s->status == RF_OK ? RF_OK : rf_error_restore(s->status, s->text);
}
