/* Batches of images: their content, their order, restarts, and pictures that cannot be read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "refract/pictures.h"

/* Its folder accept/ holds pictures of every kind, refuse/ the damaged ones, and three lie in the
 * folder itself: good and bad ones in one list. */
#define PICTURES RF_GOLDEN_DIR "/pictures"

enum { SIDE = 12, IMAGE_ELEMS = 3 * SIDE * SIDE };

static const rf_transform small = {.shortest_edge = 14,
                                   .filter = RF_RESIZE_BICUBIC,
                                   .crop_height = SIDE,
                                   .crop_width = SIDE,
                                   .scale = 1.0 / 255.0,
                                   .normalise = true,
                                   .mean = {0.5F, 0.4F, 0.3F},
                                   .std = {0.2F, 0.3F, 0.4F}};

static rf_picture_list *list;
static int64_t n_all;

static int open_list(void **state)
{
    const rf_picture_list_opts opts = {.path = PICTURES};
    (void)state;
    rf_status status = rf_picture_list_open(&opts, &list);
    n_all = status == RF_OK ? rf_picture_list_n(list, RF_SPLIT_ALL) : 0;
    return status != RF_OK;
}

static int close_list(void **state)
{
    (void)state;
    rf_picture_list_close(list);
    return 0;
}

static rf_image_loader *make_loader(int64_t n_threads, int64_t n_ahead)
{
    rf_image_loader *loader = NULL;
    const rf_image_loader_opts opts = {.list = list,
                                       .split = RF_SPLIT_ALL,
                                       .transform = small,
                                       .max_images = 7,
                                       .n_threads = n_threads,
                                       .n_ahead = n_ahead};
    assert_int_equal(rf_image_loader_create(&opts, &loader), RF_OK);
    return loader;
}

/* Ragged groups over all pictures in a keyed order, every fourth group empty. */
static int64_t make_groups(uint64_t key, int64_t pictures[], int64_t first[])
{
    int64_t n = 0, n_groups = 0;
    first[0] = 0;
    for (int64_t i = 0; i < n_all; i++) {
        pictures[i] = rf_permute(0, RF_RANDOM_TEST, key, 0, n_all, i);
    }
    while (n < n_all) {
        int64_t take = n_groups % 4 == 3 ? 0 : 1 + (5 * n_groups + 6) % 7;
        n = rf_min_i64(n + take, n_all);
        first[++n_groups] = n;
    }
    first[++n_groups] = n; /* an empty one at the end */
    return n_groups;
}

static bool load_alone(int64_t picture, uint8_t *out)
{
    char path[RF_PATH_LEN];
    rf_picture p;
    assert_int_equal(rf_picture_list_path(list, RF_SPLIT_ALL, picture, path), RF_OK);
    bool is_good = rf_picture_load(path, &p) == RF_OK;
    memset(out, 0, IMAGE_ELEMS);
    if (is_good) {
        assert_int_equal(rf_transform_bytes(&small, &p, out), RF_OK);
    }
    rf_picture_fini(&p);
    return is_good;
}

static void check_batch(const rf_image_batch *b, const int64_t *pictures, int64_t n)
{
    assert_int_equal(b->n_images, n);
    assert_int_equal(b->n_frames, 1);
    assert_int_equal(b->n_channels, 3);
    assert_int_equal(b->height, SIDE);
    assert_int_equal(b->width, SIDE);
    for (int64_t i = 0; i < n; i++) {
        uint8_t want[IMAGE_ELEMS];
        bool is_good = load_alone(pictures[i], want);
        assert_int_equal(b->pictures[i], pictures[i]);
        assert_int_equal(b->valid[i], is_good);
        assert_memory_equal(b->pixels + i * IMAGE_ELEMS, want, sizeof want);
    }
}

static void batches_are_the_groups_that_were_asked_for_whatever_the_threads(void **state)
{
    static const int64_t shapes[][2] = {{0, 0}, {1, 1}, {3, 1}, {2, 4}, {8, 30}};
    int64_t pictures[256], first[257];
    (void)state;
    assert_in_range(n_all, 50, 256);
    int64_t n_groups = make_groups(1, pictures, first);
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        int64_t n_live = rf_alloc_live();
        rf_image_loader *loader = make_loader(shapes[s][0], shapes[s][1]);
        const rf_image_batch *b = NULL;
        assert_int_equal(rf_image_loader_start(loader, pictures, first, n_groups), RF_OK);
        for (int64_t g = 0; g < n_groups; g++) {
            assert_int_equal(rf_image_loader_next(loader, &b), RF_OK);
            assert_non_null(b);
            check_batch(b, pictures + first[g], first[g + 1] - first[g]);
        }
        for (int again = 0; again < 2; again++) {
            assert_int_equal(rf_image_loader_next(loader, &b), RF_OK);
            assert_null(b);
        }
        rf_image_loader_destroy(loader);
        assert_int_equal(rf_alloc_live(), n_live);
    }
}

static void a_start_drops_what_was_not_asked_for(void **state)
{
    int64_t pictures[256], first[257];
    const rf_image_batch *b = NULL;
    rf_image_loader *loader = make_loader(3, 3);
    (void)state;
    for (uint64_t key = 0; key < 20; key++) {
        int64_t n_groups = make_groups(key, pictures, first);
        assert_int_equal(rf_image_loader_start(loader, pictures, first, n_groups), RF_OK);
        for (int64_t g = 0; g < (int64_t)(key % 3); g++) {
            assert_int_equal(rf_image_loader_next(loader, &b), RF_OK);
            check_batch(b, pictures + first[g], first[g + 1] - first[g]);
        }
    }
    assert_int_equal(rf_image_loader_start(loader, NULL, NULL, 0), RF_OK);
    assert_int_equal(rf_image_loader_next(loader, &b), RF_OK);
    assert_null(b);
    rf_image_loader_destroy(loader);
}

static void a_loader_that_was_never_started_has_nothing(void **state)
{
    const rf_image_batch *b = NULL;
    rf_image_loader *loader = make_loader(2, 2);
    (void)state;
    assert_int_equal(rf_image_loader_next(loader, &b), RF_OK);
    assert_null(b);
    rf_image_loader_destroy(loader);
    rf_image_loader_destroy(NULL);
}

static void bad_pictures_are_counted_once_and_named_in_order(void **state)
{
    int64_t pictures[256], first[257], n_bad = 0;
    const rf_image_batch *b = NULL;
    const char *name = NULL, *reason = NULL, *last = "";
    uint8_t scratch[IMAGE_ELEMS];
    rf_image_loader *loader = make_loader(2, 2);
    (void)state;
    for (int64_t i = 0; i < n_all; i++) {
        n_bad += !load_alone(i, scratch);
    }
    assert_in_range(n_bad, 19, 25);
    for (uint64_t epoch = 0; epoch < 2; epoch++) {
        int64_t n_groups = make_groups(epoch, pictures, first);
        assert_int_equal(rf_image_loader_start(loader, pictures, first, n_groups), RF_OK);
        do {
            assert_int_equal(rf_image_loader_next(loader, &b), RF_OK);
        } while (b != NULL);
    }
    assert_int_equal(rf_image_loader_n_seen(loader), n_all);
    assert_int_equal(rf_image_loader_n_bad(loader), n_bad);
    for (int64_t i = 0; i < n_bad; i++) {
        rf_image_loader_bad(loader, i, &name, &reason);
        assert_non_null(strstr(name, "refuse/"));
        assert_non_null(strstr(reason, name));
        assert_true(strcmp(last, name) < 0);
        last = name;
    }
    rf_image_loader_bad(loader, n_bad, &name, &reason);
    assert_null(name);
    assert_null(reason);
    rf_image_loader_destroy(loader);
}

static void only_delivered_pictures_are_counted(void **state)
{
    int64_t pictures[256], first[257];
    const rf_image_batch *b = NULL;
    rf_image_loader *loader = make_loader(4, 20);
    (void)state;
    int64_t n_groups = make_groups(0, pictures, first);
    assert_int_equal(rf_image_loader_start(loader, pictures, first, n_groups), RF_OK);
    assert_int_equal(rf_image_loader_next(loader, &b), RF_OK);
    assert_int_equal(rf_image_loader_n_seen(loader), b->n_images);
    rf_image_loader_destroy(loader);
}

static void wrong_requests_are_refused_and_leave_the_loader_usable(void **state)
{
    const int64_t one[] = {0}, beyond[] = {n_all}, eight[] = {0, 1, 2, 3, 4, 5, 6, 7};
    const int64_t to_1[] = {0, 1}, to_8[] = {0, 8}, back[] = {0, 1, 0}, late[] = {1, 1};
    const rf_image_batch *b = NULL;
    rf_image_loader *loader = make_loader(1, 1), *none = NULL;
    (void)state;
    assert_int_equal(rf_image_loader_start(loader, beyond, to_1, 1), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_image_loader_start(loader, eight, to_8, 1), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_image_loader_start(loader, one, back, 2), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_image_loader_start(loader, one, late, 1), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_image_loader_start(loader, one, to_1, -1), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_image_loader_start(loader, one, to_1, 1), RF_OK);
    assert_int_equal(rf_image_loader_next(loader, &b), RF_OK);
    check_batch(b, one, 1);
    rf_image_loader_destroy(loader);

    rf_image_loader_opts opts = {.list = list, .transform = small, .max_images = 0};
    assert_int_equal(rf_image_loader_create(&opts, &none), RF_ERR_INVALID_ARG);
    opts.max_images = 1;
    opts.transform.crop_height = -1;
    assert_int_equal(rf_image_loader_create(&opts, &none), RF_ERR_INVALID_ARG);
    assert_null(none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_are_the_groups_that_were_asked_for_whatever_the_threads),
        cmocka_unit_test(a_start_drops_what_was_not_asked_for),
        cmocka_unit_test(a_loader_that_was_never_started_has_nothing),
        cmocka_unit_test(bad_pictures_are_counted_once_and_named_in_order),
        cmocka_unit_test(only_delivered_pictures_are_counted),
        cmocka_unit_test(wrong_requests_are_refused_and_leave_the_loader_usable),
    };
    return cmocka_run_group_tests(tests, open_list, close_list);
}
