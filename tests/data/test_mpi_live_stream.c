/* A live stream: pictures of a folder, good and damaged ones, through a model. The model is a
 * double that hands its hooks the pixels, so that each row tells what it was made of. */
#include "refract/data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define PICTURES RF_GOLDEN_DIR "/pictures"

enum {
    SIDE = 12,
    LARGE_SIDE = 16,
    IMAGE_ELEMS = 3 * SIDE * SIDE,
    MAX_IMAGE_ELEMS = 3 * LARGE_SIDE * LARGE_SIDE,
    WIDTH = 8,
    GROUP = 4
};

static rf_comm *world;
static rf_backend *backend;
static rf_stream *stream;
static rf_picture_list *list;

static const rf_transform small = {.shortest_edge = 14,
                                   .filter = RF_RESIZE_BICUBIC,
                                   .crop_height = SIDE,
                                   .crop_width = SIDE,
                                   .scale = 1.0 / 255.0};
static const rf_transform large = {.resize_height = LARGE_SIDE,
                                   .resize_width = LARGE_SIDE,
                                   .filter = RF_RESIZE_BILINEAR,
                                   .scale = 1.0 / 255.0,
                                   .normalise = true,
                                   .mean = {0.5f, 0.4f, 0.3f},
                                   .std = {0.2f, 0.3f, 0.4f}};

/* ---- the double -------------------------------------------------------------------------------
 */

struct rf_vit {
    rf_vit_config config;
    int64_t n_forwards;
    const void *images; /* of the last one */
};

#define DOUBLE(name_, side)                                                                        \
    {                                                                                              \
        .config = {                                                                                \
            .name = name_,                                                                         \
            .image_height = side,                                                                  \
            .image_width = side,                                                                   \
            .n_channels = 3,                                                                       \
            .grid = {1, 2, 3},                                                                     \
            .n_patches = 6,                                                                        \
            .n_prefix = 3,                                                                         \
            .n_registers = 2,                                                                      \
            .n_tokens = 9,                                                                         \
            .has_cls = true                                                                        \
        }                                                                                          \
    }

/* The first two take the same pictures. */
static rf_vit model = DOUBLE("double", SIDE), twin = DOUBLE("twin", SIDE),
              large_model = DOUBLE("large", LARGE_SIDE);
static rf_vit *const vits[] = {&model, &twin, &large_model};
static rf_transform transforms[3]; /* main fills it: small, small, large */

const rf_vit_config *rf_vit_get_config(const rf_vit *vit)
{
    return &vit->config;
}

static int64_t n_rows_of(rf_hook_shape shape)
{
    return shape == RF_HOOK_POOLED ? 1 : shape == RF_HOOK_PATCHES ? 6 : 9;
}

/* Row t of picture b at a point of layer l is pixels (l + t) * WIDTH .. of the picture. */
rf_status rf_vit_forward(rf_vit *vit, rf_stream *s, const rf_view *images, const rf_hook *hooks,
                         int64_t n_hooks, rf_vit_stop stop, rf_vit_output *out)
{
    rf_status status = RF_OK;
    float *act = NULL;
    int64_t n = images->shape[0], elems = rf_view_n_elems(images) / n;
    vit->n_forwards++;
    vit->images = images->data;
    RF_REQUIRE(images->shape[2] == vit->config.image_height && stop == RF_VIT_STOP_AFTER_HOOKS &&
                   out == NULL,
               "unexpected call");
    RF_ALLOC(act, n * 9 * WIDTH);
    for (int64_t h = 0; h < n_hooks; h++) {
        const rf_hook_point *p = &hooks[h].point;
        int64_t n_rows = n_rows_of(p->shape);
        for (int64_t b = 0; b < n; b++) {
            const float *image = (const float *)images->data + b * elems;
            memcpy(act + b * n_rows * WIDTH, image + p->layer * WIDTH,
                   (size_t)(n_rows * WIDTH) * sizeof *act);
        }
        const int64_t tokens[] = {n, n_rows, WIDTH}, heads[] = {n, n_rows, 2, WIDTH / 2};
        rf_view view = p->shape == RF_HOOK_POOLED  ? rf_view_2d(act, n, WIDTH)
                       : p->shape == RF_HOOK_HEADS ? rf_view_nd(act, RF_F32, 4, heads)
                                                   : rf_view_nd(act, RF_F32, 3, tokens);
        RF_TRY(hooks[h].fn(hooks[h].user, p, &view, s));
    }
fail:
    rf_free(act);
    return status;
}

/* ---- readers and what they should see ---------------------------------------------------------
 */

enum { N_READERS = 5 };

static const rf_reader_site resid = {
    0, {.name = "resid", .layer = 1, .shape = RF_HOOK_TOKENS, .width = WIDTH}};
static const rf_reader_site embed = {
    0, {.name = "embed", .layer = 2, .shape = RF_HOOK_PATCHES, .width = WIDTH}};
static const rf_reader_site z = {0,
                                 {.name = "z", .layer = 3, .shape = RF_HOOK_HEADS, .width = WIDTH}};
static const rf_reader_site pooled = {
    0, {.name = "pooled", .layer = 4, .shape = RF_HOOK_POOLED, .width = WIDTH}};

static const rf_reader_opts readers[N_READERS] = {
    {&resid, 1, RF_TOKENS_PATCH, .batch_tokens = 70, .epochs = 2},
    {&resid, 1, RF_TOKENS_REGISTER, .batch_tokens = 20, .epochs = 1},
    {&embed, 1, RF_TOKENS_ALL, .batch_tokens = 64, .epochs = 1},
    {&z, 1, RF_TOKENS_ALL, .batch_tokens = 90, .epochs = 1},
    {&pooled, 1, RF_TOKENS_POOLED, .batch_tokens = 9, .epochs = 2},
};

static rf_activation_stream_opts stream_opts(double max_bad_share)
{
    return (rf_activation_stream_opts){.vits = vits,
                                       .n_vits = 3,
                                       .stream = stream,
                                       .comm = world,
                                       .pictures = list,
                                       .split = RF_SPLIT_ALL,
                                       .transforms = transforms,
                                       .group_pictures = GROUP,
                                       .pool_groups = 3,
                                       .seed = 3,
                                       .decode_threads = 2,
                                       .max_bad_share = max_bad_share};
}

/* One after the other, without loader or stream; false for a damaged one. */
static bool load_as(const rf_transform *t, int64_t picture, float *out)
{
    char path[RF_PATH_LEN];
    rf_picture p = {0};
    bool ok = rf_picture_list_path(list, RF_SPLIT_ALL, picture, path) == RF_OK &&
              rf_picture_load(path, &p) == RF_OK && rf_transform_apply(t, &p, out) == RF_OK;
    if (!ok) {
        memset(out, 0, IMAGE_ELEMS * sizeof *out);
    }
    rf_picture_fini(&p);
    return ok;
}

static bool load_alone(int64_t picture, float *out)
{
    return load_as(&small, picture, out);
}

static void assert_on_all(bool ok)
{
    int64_t n_wrong = ok ? 0 : 1;
    assert_int_equal(rf_comm_sum_i64(world, &n_wrong, 1), RF_OK);
    assert_int_equal(n_wrong, 0);
}

static int64_t count_wrong(const rf_reader_opts *r, const rf_token_batch *batch)
{
    float image[IMAGE_ELEMS];
    int64_t n_wrong = 0;
    const float *x = batch->x.data;
    for (int64_t i = 0; i < batch->x.shape[0]; i++) {
        bool ok = load_alone(batch->pictures[i], image);
        n_wrong += batch->row_valid[i] != ok;
        n_wrong +=
            memcmp(x + i * WIDTH, image + (r->sites[0].point.layer + batch->tokens[i]) * WIDTH,
                   WIDTH * sizeof *x) != 0;
    }
    return n_wrong;
}

static void rows_are_what_the_model_makes_of_each_picture(void **state)
{
    (void)state;
    const rf_activation_stream_opts opts = stream_opts(1);
    rf_activation_stream *st = NULL;
    int64_t n_pictures = rf_picture_list_n(list, RF_SPLIT_ALL), n_wrong = 0, n_bad = 0;
    int64_t n_tokens[N_READERS] = {0}, live = rf_alloc_live();
    bool ok = true, more = true;
    assert_int_equal(rf_activation_stream_open(&opts, readers, N_READERS, &st), RF_OK);
    while (more) {
        bool any = false;
        for (int64_t r = 0; r < N_READERS; r++) {
            rf_token_batch batch;
            bool has = false;
            ok = rf_activation_stream_next(st, r, &batch, &has) == RF_OK && ok;
            n_wrong += has ? count_wrong(&readers[r], &batch) : 0;
            n_tokens[r] += has ? batch.n_rows : 0;
            any = any || has;
        }
        if (!any) {
            ok = rf_activation_stream_advance(st, &more) == RF_OK && ok;
        }
    }
    const int64_t per_picture[N_READERS] = {2 * 6, 2, 6, 9, 2 * 1};
    for (int64_t r = 0; r < N_READERS; r++) {
        ok = ok && n_tokens[r] == n_pictures * per_picture[r];
    }
    for (int64_t i = 0; i < n_pictures; i++) {
        float image[IMAGE_ELEMS];
        n_bad += !load_alone(i, image);
    }
    int64_t counted = 0;
    rf_str lines = {0};
    ok = rf_activation_stream_bad(st, &counted, &lines) == RF_OK && ok;
    assert_on_all(ok && n_wrong == 0);
    assert_on_all(n_bad > 0 && counted == n_bad && lines.data != NULL);
    for (int64_t i = 0; i < n_pictures; i++) {
        float image[IMAGE_ELEMS];
        const char *name = rf_picture_list_name(list, RF_SPLIT_ALL, i);
        bool is_named = strstr(lines.data, name) != NULL;
        ok = ok && is_named == !load_alone(i, image);
    }
    assert_on_all(ok);
    rf_str_fini(&lines);
    rf_activation_stream_close(st);
    assert_on_all(rf_alloc_live() == live);
}

/* Columns of the sites of a row: model 0, model 2, model 1. */
static int64_t count_wrong_sites(const rf_reader_opts *r, const rf_token_batch *batch)
{
    float image[MAX_IMAGE_ELEMS];
    int64_t n_wrong = 0, width = r->n_sites * WIDTH;
    const float *x = batch->x.data;
    n_wrong += batch->x.shape[1] != width;
    for (int64_t i = 0; i < batch->x.shape[0]; i++) {
        for (int s = 0; s < r->n_sites; s++) {
            const rf_reader_site *site = &r->sites[s];
            bool ok = load_as(&transforms[site->model], batch->pictures[i], image);
            const float *expected = image + (site->point.layer + batch->tokens[i]) * WIDTH;
            n_wrong += batch->row_valid[i] != ok;
            for (int k = 0; k < WIDTH; k++) {
                n_wrong += !(x[i * width + s * WIDTH + k] == (ok ? expected[k] : 0));
            }
        }
    }
    return n_wrong;
}

static void models_see_the_same_pictures_each_through_its_own_transform(void **state)
{
    (void)state;
    const rf_reader_site sites[] = {{0, resid.point}, {2, resid.point}, {1, resid.point}};
    const rf_reader_opts both = {
        .sites = sites, .n_sites = 3, .tokens = RF_TOKENS_PATCH, .batch_tokens = 70, .epochs = 1};
    const rf_reader_opts two[] = {
        both,
        {.sites = sites, .n_sites = 2, .tokens = RF_TOKENS_CLS, .batch_tokens = 9, .epochs = 1}};
    rf_activation_stream_opts opts = stream_opts(1);
    rf_activation_stream *st = NULL;
    int64_t n_wrong = 0, n_rows = 0, live = rf_alloc_live();
    bool ok = true, more = true;
    opts.decode_threads = 3;
    model.n_forwards = twin.n_forwards = large_model.n_forwards = 0;
    assert_int_equal(rf_activation_stream_open(&opts, two, 2, &st), RF_OK);
    while (more) {
        bool any = false;
        for (int64_t r = 0; r < 2; r++) {
            rf_token_batch batch;
            bool has = false;
            ok = rf_activation_stream_next(st, r, &batch, &has) == RF_OK && ok;
            n_wrong += has ? count_wrong_sites(&two[r], &batch) : 0;
            n_rows += has ? batch.n_rows : 0;
            any = any || has;
        }
        if (!any) {
            ok = rf_activation_stream_advance(st, &more) == RF_OK && ok;
        }
    }
    assert_on_all(ok && n_wrong == 0);
    assert_on_all(n_rows == rf_picture_list_n(list, RF_SPLIT_ALL) * 7);
    /* one pass of each model; twins share decoded pixels, the third has its own */
    assert_on_all(model.n_forwards == twin.n_forwards &&
                  model.n_forwards == large_model.n_forwards);
    assert_on_all(model.images == twin.images);
    assert_on_all(model.n_forwards == 0 || model.images != large_model.images);
    rf_activation_stream_close(st);
    assert_on_all(rf_alloc_live() == live);
}

static void a_model_that_nobody_reads_does_not_run(void **state)
{
    (void)state;
    const rf_activation_stream_opts opts = stream_opts(1);
    rf_activation_stream *st = NULL;
    bool more = false;
    twin.n_forwards = large_model.n_forwards = 0;
    assert_int_equal(rf_activation_stream_open(&opts, readers, N_READERS, &st), RF_OK);
    rf_status status = rf_activation_stream_advance(st, &more);
    assert_on_all(status == RF_OK && twin.n_forwards == 0 && large_model.n_forwards == 0);
    rf_activation_stream_close(st);
}

static void a_share_of_bad_pictures_ends_it_and_says_why(void **state)
{
    (void)state;
    const rf_activation_stream_opts opts = stream_opts(0.01);
    rf_activation_stream *st = NULL;
    rf_status status = RF_OK;
    bool more = true;
    assert_int_equal(rf_activation_stream_open(&opts, readers + 4, 1, &st), RF_OK);
    while (more && status == RF_OK) {
        rf_token_batch batch;
        bool has = true;
        while (status == RF_OK && has) {
            status = rf_activation_stream_next(st, 0, &batch, &has);
        }
        status = rf_activation_stream_advance(st, &more);
    }
    assert_on_all(status == RF_ERR_FORMAT && strstr(rf_error_text(), "max_bad_share") != NULL &&
                  strstr(rf_error_text(), "refuse/") != NULL);
    rf_activation_stream_close(st);
}

static void pictures_of_another_size_than_the_models_are_refused(void **state)
{
    (void)state;
    rf_activation_stream_opts opts = stream_opts(1);
    rf_transform other = small;
    rf_activation_stream *st = NULL;
    int64_t live = rf_alloc_live();
    other.crop_width = other.crop_height = SIDE + 1;
    const rf_transform others[] = {other, small, large};
    opts.transforms = others;
    rf_status status = rf_activation_stream_open(&opts, readers, N_READERS, &st);
    assert_on_all(status == RF_ERR_INVALID_ARG && st == NULL &&
                  strstr(rf_error_text(), "13 x 13") != NULL && rf_alloc_live() == live);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_what_the_model_makes_of_each_picture),
        cmocka_unit_test(models_see_the_same_pictures_each_through_its_own_transform),
        cmocka_unit_test(a_model_that_nobody_reads_does_not_run),
        cmocka_unit_test(a_share_of_bad_pictures_ends_it_and_says_why),
        cmocka_unit_test(pictures_of_another_size_than_the_models_are_refused),
    };
    const rf_picture_list_opts opts = {.path = PICTURES};
    int n_failed = 1;
    transforms[0] = transforms[1] = small;
    transforms[2] = large;
    if (rf_comm_start(&argc, &argv, &world) == RF_OK &&
        rf_backend_cpu_create(1, &backend) == RF_OK &&
        rf_stream_create(backend, &stream) == RF_OK &&
        rf_picture_list_open(&opts, &list) == RF_OK) {
        n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    }
    rf_picture_list_close(list);
    rf_stream_destroy(stream);
    rf_backend_destroy(backend);
    rf_comm_finish(world);
    return n_failed;
}
