/* Batches of images, decoded by threads ahead of the consumer. Group g is decoded into slot
 * g mod n_slots; threads take pictures one by one, in the order in which they will be asked for, as
 * long as the slot is free. Which thread decodes a picture changes nothing in the result. */
#include "refract/data.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

typedef struct slot {
    int64_t group, n_left; /* ready when n_left is 0 */
    float *pixels;         /* [max_images, 3, H, W] */
    uint8_t *valid;        /* [max_images] */
    char **reasons;        /* [max_images], NULL for a good picture */
    rf_status status;      /* a failure that is not the picture's fault, and its text */
    char text[RF_ERROR_TEXT_LEN];
    rf_image_batch batch;
} slot;

typedef struct bad_picture {
    int64_t picture;
    char *reason;
} bad_picture;

struct rf_image_loader {
    rf_image_loader_opts opts;
    int64_t image_elems;
    slot *slots;
    int64_t n_slots;

    pthread_mutex_t lock; /* guards what follows, up to the next blank line */
    pthread_cond_t work, done;
    int64_t *pictures, *first, n_groups;
    int64_t next_group, next_image; /* the picture that a thread takes next */
    int64_t n_released;             /* groups that the consumer is through with */
    int64_t n_busy;                 /* threads that decode now */
    bool is_stopping;

    pthread_t *threads;
    int64_t n_threads;
    int64_t n_delivered; /* groups; this and what follows belong to the consumer */
    uint8_t *seen;       /* [pictures of the split] */
    int64_t n_seen;
    bad_picture *bad; /* [n_bad], by picture */
    int64_t n_bad, bad_cap;
};

/* The next picture to decode, with the lock held; false when there is none (yet). */
static bool take(rf_image_loader *l, slot **out, int64_t *image)
{
    while (l->next_group < l->n_groups && l->next_group < l->n_released + l->n_slots) {
        slot *s = &l->slots[l->next_group % l->n_slots];
        int64_t n_images = l->first[l->next_group + 1] - l->first[l->next_group];
        if (l->next_image == 0) {
            s->group = l->next_group;
            s->n_left = n_images;
            s->status = RF_OK;
            s->batch.n_images = n_images;
            s->batch.pictures = l->pictures + l->first[l->next_group];
            if (n_images == 0) {
                pthread_cond_broadcast(&l->done);
            }
        }
        if (l->next_image < n_images) {
            *out = s;
            *image = l->next_image++;
            return true;
        }
        l->next_group++;
        l->next_image = 0;
    }
    return false;
}

static rf_status load_image(const rf_image_loader *l, int64_t picture, float *pixels)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    rf_picture p = {0};
    RF_TRY(rf_picture_list_path(l->opts.list, l->opts.split, picture, path));
    RF_TRY(rf_picture_load(path, &p));
    RF_TRY_DOING(rf_transform_apply(&l->opts.transform, &p, pixels), "%s", path);
fail:
    rf_picture_fini(&p);
    return status;
}

/* Without the lock: image `i` of `s` is this thread's alone. */
static rf_status fill_image(const rf_image_loader *l, slot *s, int64_t i)
{
    float *pixels = s->pixels + i * l->image_elems;
    rf_status status = load_image(l, s->batch.pictures[i], pixels);
    s->valid[i] = status == RF_OK;
    if (status != RF_OK) {
        memset(pixels, 0, (size_t)l->image_elems * sizeof *pixels);
    }
    if (status == RF_OK || status == RF_ERR_NO_MEMORY || status == RF_ERR_BUG) {
        return status;
    }
    s->reasons[i] = rf_strdup(rf_error_text());
    return s->reasons[i] != NULL ? RF_OK : RF_ERR_NO_MEMORY;
}

static void *thread_main(void *arg)
{
    rf_image_loader *l = arg;
    slot *s = NULL;
    int64_t image = 0;
    pthread_mutex_lock(&l->lock);
    while (!l->is_stopping) {
        if (!take(l, &s, &image)) {
            pthread_cond_wait(&l->work, &l->lock);
            continue;
        }
        l->n_busy++;
        pthread_mutex_unlock(&l->lock);
        rf_status status = fill_image(l, s, image);
        pthread_mutex_lock(&l->lock);
        if (status != RF_OK && s->status == RF_OK) {
            s->status = status;
            memcpy(s->text, rf_error_text(), sizeof s->text);
        }
        l->n_busy--;
        s->n_left--;
        if (s->n_left == 0 || l->n_busy == 0) {
            pthread_cond_broadcast(&l->done);
        }
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* Signals go to the threads of the program, which know what to do about them. */
static rf_status start_threads(rf_image_loader *l, int64_t n_threads)
{
    rf_status status = RF_OK;
    sigset_t all, before;
    RF_ALLOC(l->threads, n_threads);
    sigfillset(&all);
    RF_BUG(pthread_sigmask(SIG_SETMASK, &all, &before) == 0, "pthread_sigmask failed");
    int failed = 0;
    while (l->n_threads < n_threads && failed == 0) {
        failed = pthread_create(&l->threads[l->n_threads], NULL, thread_main, l);
        l->n_threads += failed == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed != 0) {
        RF_FAIL(RF_ERR_NO_MEMORY, "cannot start decoding thread %" PRId64 " of %" PRId64 ": %s",
                l->n_threads + 1, n_threads, strerror(failed));
    }
fail:
    return status;
}

static rf_status init_slots(rf_image_loader *l, int64_t n_slots)
{
    rf_status status = RF_OK;
    int64_t n_elems = 0, height = rf_transform_height(&l->opts.transform),
            width = rf_transform_width(&l->opts.transform);
    RF_TRY(rf_mul_i64(l->opts.max_images, l->image_elems, "images of a batch", &n_elems));
    RF_ALLOC(l->slots, n_slots);
    l->n_slots = n_slots;
    for (int64_t i = 0; i < n_slots; i++) {
        slot *s = &l->slots[i];
        RF_ALLOC(s->pixels, n_elems);
        RF_ALLOC(s->valid, l->opts.max_images);
        RF_ALLOC(s->reasons, l->opts.max_images);
        s->group = -1;
        s->batch = (rf_image_batch){
            .n_frames = 1,
            .n_channels = 3,
            .height = height,
            .width = width,
            .pixels = s->pixels,
            .valid = s->valid,
        };
    }
fail:
    return status;
}

static void forget_reasons(rf_image_loader *l)
{
    for (int64_t i = 0; i < l->n_slots; i++) {
        slot *s = &l->slots[i];
        s->group = -1;
        for (int64_t b = 0; s->reasons != NULL && b < l->opts.max_images; b++) {
            rf_free(s->reasons[b]);
            s->reasons[b] = NULL;
        }
    }
}

rf_status rf_image_loader_create(const rf_image_loader_opts *opts, rf_image_loader **out)
{
    rf_status status = RF_OK;
    rf_image_loader *l = NULL;
    *out = NULL;
    RF_REQUIRE(opts->list != NULL && opts->max_images >= 1 && opts->n_threads >= 0 &&
                   opts->n_ahead >= 0,
               "max_images = %" PRId64 ", n_threads = %" PRId64 ", n_ahead = %" PRId64
               ", expected >= 1, >= 0, >= 0 and a list",
               opts->max_images, opts->n_threads, opts->n_ahead);
    RF_TRY(rf_transform_check(&opts->transform));
    RF_ALLOC(l, 1);
    l->opts = *opts;
    l->image_elems =
        3 * rf_transform_height(&opts->transform) * rf_transform_width(&opts->transform);
    pthread_mutex_init(&l->lock, NULL); /* with default attributes these cannot fail on Linux */
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->done, NULL);
    RF_ALLOC(l->seen, rf_picture_list_n(opts->list, opts->split));
    RF_TRY(init_slots(l, 1 + (opts->n_ahead > 0 ? opts->n_ahead : 2)));
    RF_TRY(start_threads(l, opts->n_threads > 0 ? opts->n_threads : 1));
    *out = l;
    l = NULL;
fail:
    rf_image_loader_destroy(l);
    return status;
}

static void stop_threads(rf_image_loader *l)
{
    pthread_mutex_lock(&l->lock);
    l->is_stopping = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (int64_t i = 0; i < l->n_threads; i++) {
        pthread_join(l->threads[i], NULL);
    }
}

void rf_image_loader_destroy(rf_image_loader *l)
{
    if (l == NULL) {
        return;
    }
    stop_threads(l);
    forget_reasons(l);
    for (int64_t i = 0; i < l->n_slots; i++) {
        rf_free(l->slots[i].pixels);
        rf_free(l->slots[i].valid);
        rf_free(l->slots[i].reasons);
    }
    for (int64_t i = 0; i < l->n_bad; i++) {
        rf_free(l->bad[i].reason);
    }
    pthread_cond_destroy(&l->done);
    pthread_cond_destroy(&l->work);
    pthread_mutex_destroy(&l->lock);
    rf_free(l->bad);
    rf_free(l->seen);
    rf_free(l->slots);
    rf_free(l->threads);
    rf_free(l->first);
    rf_free(l->pictures);
    rf_free(l);
}

static rf_status check_groups(const rf_image_loader *l, const int64_t *pictures,
                              const int64_t *first, int64_t n_groups)
{
    rf_status status = RF_OK;
    int64_t n = rf_picture_list_n(l->opts.list, l->opts.split);
    RF_REQUIRE(n_groups >= 0 && (n_groups == 0 || first[0] == 0), "groups do not begin at 0");
    for (int64_t g = 0; g < n_groups; g++) {
        RF_REQUIRE(first[g] <= first[g + 1] && first[g + 1] - first[g] <= l->opts.max_images,
                   "group %" PRId64 " has %" PRId64 " pictures, expected 0 to %" PRId64, g,
                   first[g + 1] - first[g], l->opts.max_images);
        for (int64_t i = first[g]; i < first[g + 1]; i++) {
            RF_REQUIRE(pictures[i] >= 0 && pictures[i] < n,
                       "group %" PRId64 " asks for picture %" PRId64 " of %" PRId64, g, pictures[i],
                       n);
        }
    }
fail:
    return status;
}

/* Keep the threads from taking more, and wait for what they have. */
static void halt(rf_image_loader *l)
{
    pthread_mutex_lock(&l->lock);
    l->n_groups = 0;
    while (l->n_busy > 0) {
        pthread_cond_wait(&l->done, &l->lock);
    }
    pthread_mutex_unlock(&l->lock);
}

rf_status rf_image_loader_start(rf_image_loader *l, const int64_t *pictures, const int64_t *first,
                                int64_t n_groups)
{
    rf_status status = RF_OK;
    int64_t *new_pictures = NULL, *new_first = NULL;
    RF_TRY(check_groups(l, pictures, first, n_groups));
    int64_t n_pictures = n_groups > 0 ? first[n_groups] : 0;
    RF_ALLOC(new_pictures, n_pictures);
    RF_ALLOC(new_first, n_groups + 1);
    if (n_pictures > 0) {
        memcpy(new_pictures, pictures, (size_t)n_pictures * sizeof *pictures);
    }
    if (n_groups > 0) {
        memcpy(new_first, first, (size_t)(n_groups + 1) * sizeof *first);
    }
    halt(l);
    forget_reasons(l);
    rf_free(l->pictures);
    rf_free(l->first);
    l->n_delivered = 0;
    pthread_mutex_lock(&l->lock);
    l->pictures = new_pictures;
    l->first = new_first;
    l->next_group = l->next_image = l->n_released = 0;
    l->n_groups = n_groups;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    return RF_OK;
fail:
    rf_free(new_first);
    rf_free(new_pictures);
    return status;
}

/* Takes `reason`. Kept in order, so that the report does not depend on the order of the stream. */
static rf_status remember_bad(rf_image_loader *l, int64_t picture, char *reason)
{
    rf_status status = RF_OK;
    if (l->n_bad == l->bad_cap) {
        int64_t cap = 2 * l->bad_cap + 16;
        bad_picture *grown = rf_realloc(l->bad, l->bad_cap, cap, sizeof *grown);
        if (grown == NULL) {
            rf_free(reason);
            return RF_ERR_NO_MEMORY;
        }
        l->bad = grown;
        l->bad_cap = cap;
    }
    int64_t at = l->n_bad++;
    while (at > 0 && l->bad[at - 1].picture > picture) {
        l->bad[at] = l->bad[at - 1];
        at--;
    }
    l->bad[at] = (bad_picture){.picture = picture, .reason = reason};
    return status;
}

/* Count a ready slot's pictures, and take over the reasons of the bad ones. */
static rf_status deliver(rf_image_loader *l, slot *s)
{
    rf_status status = RF_OK;
    if (s->status != RF_OK) {
        return rf_error_restore(s->status, s->text);
    }
    for (int64_t i = 0; i < s->batch.n_images; i++) {
        int64_t picture = s->batch.pictures[i];
        char *reason = s->reasons[i];
        s->reasons[i] = NULL;
        if (l->seen[picture]) {
            rf_free(reason);
            continue;
        }
        l->seen[picture] = 1;
        l->n_seen++;
        if (reason != NULL) {
            RF_TRY(remember_bad(l, picture, reason));
        }
    }
fail:
    return status;
}

rf_status rf_image_loader_next(rf_image_loader *l, const rf_image_batch **out)
{
    rf_status status = RF_OK;
    slot *s = &l->slots[l->n_delivered % l->n_slots];
    *out = NULL;
    pthread_mutex_lock(&l->lock);
    bool is_last = l->n_delivered == l->n_groups;
    l->n_released = l->n_delivered; /* the batch that was borrowed until now */
    pthread_cond_broadcast(&l->work);
    while (!is_last && !(s->group == l->n_delivered && s->n_left == 0)) {
        pthread_cond_wait(&l->done, &l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    if (!is_last) {
        l->n_delivered++;
        RF_TRY(deliver(l, s));
        *out = &s->batch;
    }
fail:
    return status;
}

int64_t rf_image_loader_n_bad(const rf_image_loader *l)
{
    return l->n_bad;
}

void rf_image_loader_bad(const rf_image_loader *l, int64_t idx, const char **name,
                         const char **reason)
{
    bool is_one = idx >= 0 && idx < l->n_bad;
    *name = is_one ? rf_picture_list_name(l->opts.list, l->opts.split, l->bad[idx].picture) : NULL;
    *reason = is_one ? l->bad[idx].reason : NULL;
}

int64_t rf_image_loader_n_seen(const rf_image_loader *l)
{
    return l->n_seen;
}
