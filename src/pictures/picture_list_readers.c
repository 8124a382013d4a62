/* Pictures out of shards: a few shards stay open, since a process may have far more of them than
 * it may open files. */
#include "picture_list_impl.h"

#include <pthread.h>
#include <string.h>

enum { MAX_OPEN = 128 };

typedef struct reader {
    rf_tar *tar; /* NULL: not open */
    int64_t n_users, last_used;
} reader;

struct picture_readers {
    pthread_mutex_t lock;
    reader *shards; /* [n] */
    int64_t n, n_open, clock;
};

rf_status rf_picture_list_open_readers(rf_picture_list *list)
{
    rf_status status = RF_OK;
    picture_readers *r = NULL;
    RF_ALLOC(r, 1);
    r->n = list->n_shards;
    RF_ALLOC(r->shards, r->n);
    if (pthread_mutex_init(&r->lock, NULL) != 0) {
        RF_FAIL(RF_ERR_NO_MEMORY, "cannot make a lock");
    }
    list->readers = r;
    r = NULL;
fail:
    if (r != NULL) {
        rf_free(r->shards);
        rf_free(r);
    }
    return status;
}

void rf_picture_list_close_readers(rf_picture_list *list)
{
    picture_readers *r = list->readers;
    if (r == NULL) {
        return;
    }
    for (int64_t i = 0; i < r->n; i++) {
        rf_tar_close(r->shards[i].tar);
    }
    pthread_mutex_destroy(&r->lock);
    rf_free(r->shards);
    rf_free(r);
    list->readers = NULL;
}

/* With the lock: close the shard that was used longest ago, of those that nobody reads. */
static void close_one(picture_readers *r)
{
    reader *oldest = NULL;
    for (int64_t i = 0; i < r->n; i++) {
        reader *s = &r->shards[i];
        if (s->tar != NULL && s->n_users == 0 &&
            (oldest == NULL || s->last_used < oldest->last_used)) {
            oldest = s;
        }
    }
    if (oldest != NULL) {
        rf_tar_close(oldest->tar);
        oldest->tar = NULL;
        r->n_open--;
    }
}

static rf_status take(picture_readers *r, const char *path, int64_t shard)
{
    rf_status status = RF_OK;
    reader *s = &r->shards[shard];
    pthread_mutex_lock(&r->lock);
    if (s->tar == NULL) {
        if (r->n_open >= MAX_OPEN) {
            close_one(r);
        }
        status = rf_tar_open(path, &s->tar);
        r->n_open += status == RF_OK;
    }
    s->n_users += status == RF_OK;
    s->last_used = ++r->clock;
    pthread_mutex_unlock(&r->lock);
    return status;
}

static void give_back(picture_readers *r, int64_t shard)
{
    pthread_mutex_lock(&r->lock);
    r->shards[shard].n_users--;
    pthread_mutex_unlock(&r->lock);
}

rf_status rf_picture_list_read_member(const rf_picture_list *list, int64_t at, char **bytes,
                                      int64_t *n_bytes)
{
    const picture_entry *e = &list->entries[at];
    const picture_shard *shard = &list->shards[e->shard];
    const rf_tar_member member = {
        .name = e->name + strlen(shard->name) + 1, .place = e->place, .n_bytes = e->n_bytes};
    picture_readers *r = list->readers;

    rf_status status = take(r, shard->path, e->shard);
    if (status == RF_OK) {
        status =
            rf_tar_read(r->shards[e->shard].tar, &member, PICTURE_LIST_MAX_PICTURE, bytes, n_bytes);
        give_back(r, e->shard);
    }
    return status;
}
