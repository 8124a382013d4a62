/* Batches of images, decoded by threads ahead of the consumer: a group is a job of rf_prefetch, a
 * picture an item of it. */
#include "refract/pictures.h"

#include <pthread.h>
#include <string.h>

typedef struct slot {
    uint8_t *pixels; /* [max_images, H, W, 3], of opts.backend */
    uint8_t *valid;  /* [max_images] */
    char **reasons;  /* [max_images], NULL for a good picture */
    rf_image_batch batch;
} slot;

typedef struct bad_picture {
    int64_t picture;
    char *reason;
} bad_picture;

struct rf_image_loader {
    rf_image_loader_opts opts;
    int64_t image_bytes;
    slot *slots;
    int64_t n_slots;

    int64_t *pictures, *first;
    rf_prefetch *prefetch;
    pthread_mutex_t lock;      /* guards the readers */
    rf_image_reader **readers; /* those that no thread uses are the first n_free */
    int64_t n_free;
    int64_t n_delivered; /* groups; this and what follows belong to the consumer */
    uint8_t *seen;       /* [pictures of the split] */
    int64_t n_seen;
    bad_picture *bad; /* [n_bad], by picture */
    int64_t n_bad, bad_cap;
};

/* There are as many readers as threads: one is always free. */
static rf_image_reader *borrow_reader(rf_image_loader *l)
{
    pthread_mutex_lock(&l->lock);
    rf_image_reader *reader = l->readers[--l->n_free];
    pthread_mutex_unlock(&l->lock);
    return reader;
}

static void return_reader(rf_image_loader *l, rf_image_reader *reader)
{
    pthread_mutex_lock(&l->lock);
    l->readers[l->n_free++] = reader;
    pthread_mutex_unlock(&l->lock);
}

static rf_status load_image(rf_image_loader *l, int64_t picture, uint8_t *pixels)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN], *bytes = NULL;
    int64_t n_bytes = 0;
    rf_image_reader *reader = borrow_reader(l);
    RF_TRY(rf_picture_list_path(l->opts.list, l->opts.split, picture, path));
    RF_TRY(rf_picture_list_read(l->opts.list, l->opts.split, picture, &bytes, &n_bytes));
    RF_TRY(rf_image_reader_read(reader, bytes, n_bytes, path, pixels));
fail:
    return_reader(l, reader);
    rf_free(bytes);
    return status;
}

/* Image `i` of a group. */
static rf_status fill_image(void *self, int64_t group, int64_t i, int64_t at)
{
    rf_image_loader *l = self;
    const slot *s = &l->slots[at];
    uint8_t *pixels = s->pixels + i * l->image_bytes;
    rf_status status = load_image(l, l->pictures[l->first[group] + i], pixels);
    s->valid[i] = status == RF_OK;
    if (status != RF_OK) {
        memset(pixels, 0, (size_t)l->image_bytes);
    }
    if (status == RF_OK || status == RF_ERR_NO_MEMORY || status == RF_ERR_BUG) {
        return status;
    }
    s->reasons[i] = rf_strdup(rf_error_text());
    return s->reasons[i] != NULL ? RF_OK : RF_ERR_NO_MEMORY;
}

/* Memory that the device copies from without the driver's help, where there is one. */
static rf_status alloc_pixels(const rf_image_loader *l, int64_t n_bytes, uint8_t **out)
{
    rf_status status = RF_OK;
    void *pixels = NULL;
    if (l->opts.backend == NULL) {
        RF_ALLOC(*out, n_bytes);
        return RF_OK;
    }
    RF_TRY_DOING(rf_memory_alloc(l->opts.backend, RF_MEMORY_PINNED, (size_t)n_bytes, &pixels),
                 "pictures, read ahead");
    *out = pixels;
fail:
    return status;
}

static void free_pixels(const rf_image_loader *l, uint8_t *pixels)
{
    if (l->opts.backend == NULL) {
        rf_free(pixels);
    } else {
        rf_memory_free(l->opts.backend, RF_MEMORY_PINNED, pixels);
    }
}

static rf_status init_slots(rf_image_loader *l, int64_t n_slots)
{
    rf_status status = RF_OK;
    int64_t n_bytes = 0, height = rf_transform_height(&l->opts.transform),
            width = rf_transform_width(&l->opts.transform);
    RF_TRY(rf_mul_i64(l->opts.max_images, l->image_bytes, "images of a batch", &n_bytes));
    RF_ALLOC(l->slots, n_slots);
    l->n_slots = n_slots;
    for (int64_t i = 0; i < n_slots; i++) {
        slot *s = &l->slots[i];
        RF_TRY(alloc_pixels(l, n_bytes, &s->pixels));
        RF_ALLOC(s->valid, l->opts.max_images);
        RF_ALLOC(s->reasons, l->opts.max_images);
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

static rf_status create_readers(rf_image_loader *l, int64_t n)
{
    rf_status status = RF_OK;
    RF_ALLOC(l->readers, n);
    for (; l->n_free < n; l->n_free++) {
        RF_TRY(rf_image_reader_create(&l->opts.transform, l->opts.fast_decode,
                                      &l->readers[l->n_free]));
    }
fail:
    return status;
}

static void forget_reasons(rf_image_loader *l)
{
    for (int64_t i = 0; i < l->n_slots; i++) {
        slot *s = &l->slots[i];
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
    l->image_bytes =
        3 * rf_transform_height(&opts->transform) * rf_transform_width(&opts->transform);
    const int64_t n_threads = rf_max_i64(1, opts->n_threads);
    pthread_mutex_init(&l->lock, NULL); /* with default attributes it cannot fail on Linux */
    RF_TRY(create_readers(l, n_threads));
    RF_ALLOC(l->seen, rf_picture_list_n(opts->list, opts->split));
    RF_TRY(init_slots(l, 1 + (opts->n_ahead > 0 ? opts->n_ahead : 2)));
    RF_TRY(rf_prefetch_create(
        &(rf_prefetch_opts){
            .work = fill_image, .self = l, .n_threads = n_threads, .n_slots = l->n_slots},
        &l->prefetch));
    *out = l;
    l = NULL;
fail:
    rf_image_loader_destroy(l);
    return status;
}

void rf_image_loader_destroy(rf_image_loader *l)
{
    if (l == NULL) {
        return;
    }
    rf_prefetch_destroy(l->prefetch); /* its threads return their readers */
    for (int64_t i = 0; i < l->n_free; i++) {
        rf_image_reader_destroy(l->readers[i]);
    }
    pthread_mutex_destroy(&l->lock);
    rf_free(l->readers);
    forget_reasons(l);
    for (int64_t i = 0; i < l->n_slots; i++) {
        free_pixels(l, l->slots[i].pixels);
        rf_free(l->slots[i].valid);
        rf_free(l->slots[i].reasons);
    }
    for (int64_t i = 0; i < l->n_bad; i++) {
        rf_free(l->bad[i].reason);
    }
    rf_free(l->bad);
    rf_free(l->seen);
    rf_free(l->slots);
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

/* Takes the arrays. Threads read them: they are at rest here. */
static rf_status restart(rf_image_loader *l, int64_t *pictures, int64_t *first, int64_t n_groups)
{
    rf_status status = RF_OK;
    int64_t *n_items = NULL;

    rf_prefetch_stop(l->prefetch);
    forget_reasons(l);
    rf_free(l->pictures);
    rf_free(l->first);
    l->pictures = pictures;
    l->first = first;
    l->n_delivered = 0;
    RF_ALLOC(n_items, n_groups);
    for (int64_t g = 0; g < n_groups; g++) {
        n_items[g] = first[g + 1] - first[g];
    }
    RF_TRY(rf_prefetch_start(l->prefetch, n_items, n_groups));
fail:
    rf_free(n_items);
    return status;
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
    return restart(l, new_pictures, new_first, n_groups);
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

/* Count a group's pictures, and take over the reasons of the bad ones. */
static rf_status deliver(rf_image_loader *l, slot *s)
{
    rf_status status = RF_OK;
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
    int64_t at = -1;
    *out = NULL;
    RF_TRY(rf_prefetch_next(l->prefetch, &at));
    if (at >= 0) {
        slot *s = &l->slots[at];
        const int64_t group = l->n_delivered++;
        s->batch.n_images = l->first[group + 1] - l->first[group];
        s->batch.pictures = l->pictures + l->first[group];
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
