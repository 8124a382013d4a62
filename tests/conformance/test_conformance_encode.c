/* Encode under every rule, and what makes codes smaller, at the shapes that matter to devices; the
 * shadow compares. */
#include "conformance_fixture.h"

#include <math.h>

typedef struct sizes {
    int64_t n, d, f;
} sizes;

/* Rows, widths and dictionaries: tiny, ragged, one past a warp and a tile, wide, none. */
static const sizes all_sizes[] = {{1, 1, 1},     {3, 31, 100},  {70, 33, 257}, {2, 1536, 1025},
                                  {5, 64, 4100}, {257, 8, 333}, {0, 5, 7}};
enum { N_SIZES = sizeof all_sizes / sizeof all_sizes[0] };

static rf_codes *room(int64_t n, int64_t capacity)
{
    rf_codes *c = block(1, sizeof *c);
    *c = (rf_codes){.n_rows = n,
                    .capacity = capacity,
                    .row_start = block(n + 1, sizeof(int64_t)),
                    .latent = block(capacity, sizeof(int32_t)),
                    .value = block(capacity, sizeof(float)),
                    .d_value = block(capacity, sizeof(float))};
    return c;
}

static rf_encode_args problem(const sizes *z)
{
    rf_encode_args args = {.x = apart(z->n, z->d, 1),
                           .w_enc = apart(z->f, z->d, 2),
                           .b_enc = vector(z->f),
                           .n_lists = 1,
                           .n_refused = block(1, sizeof(int64_t))};
    for (int64_t i = 0; i + 1 < z->f && i < 40; i += 2) { /* ties: two latents of one row */
        float *w = (float *)args.w_enc.data;
        memcpy(w + (i + 1) * args.w_enc.stride[0], w + i * args.w_enc.stride[0],
               sizeof *w * (size_t)z->d);
        ((float *)args.b_enc.data)[i + 1] = ((float *)args.b_enc.data)[i];
    }
    return args;
}

static void encode(rf_encode_args *args)
{
    for (int p = RF_PRODUCTS_F32; p <= RF_PRODUCTS_TF32; p++) {
        args->products = (rf_products)p;
        OK(rf_encode(s, args));
    }
    args->products = RF_PRODUCTS_F32;
}

static void the_k_largest_of_rows(void **state)
{
    (void)state;
    for (int i = 0; i < N_SIZES; i++) {
        const sizes *z = &all_sizes[i];
        const int64_t ks[] = {1, 4, 33, 257, z->f};
        rf_encode_args args = problem(z);
        rf_select_list *list = &args.lists[0];
        for (size_t j = 0; j < sizeof ks / sizeof ks[0]; j++) {
            *list = (rf_select_list){.rule = RF_SELECT_TOPK,
                                     .k = ks[j],
                                     .codes = room(z->n, z->n * rf_min_i64(ks[j], z->f))};
            encode(&args);
        }
        list->eligible = flags(z->f);
        args.row_valid = flags(z->n);
        encode(&args);
        list->row_class = flags(z->n);
        list->class_k[1] = 3 < list->k ? 3 : list->k;
        encode(&args);
        forget(NULL);
    }
}

static void the_k_largest_of_a_batch(void **state)
{
    (void)state;
    for (int i = 0; i < N_SIZES; i++) {
        const sizes *z = &all_sizes[i];
        const int64_t whole = z->n * z->f, ks[] = {0, 1, 4 * z->n, 33, whole};
        rf_encode_args args = problem(z);
        rf_select_list *list = &args.lists[0];
        for (size_t j = 0; j < sizeof ks / sizeof ks[0]; j++) {
            *list = (rf_select_list){.rule = RF_SELECT_BATCH_TOPK,
                                     .k = ks[j],
                                     .codes = room(z->n, rf_min_i64(ks[j], whole))};
            encode(&args);
        }
        args.row_valid = flags(z->n);
        list->eligible = flags(z->f);
        encode(&args);
        list->row_class = flags(z->n);
        list->class_k[0] = rf_min_i64(7, list->k);
        list->class_k[1] = list->k - list->class_k[0];
        encode(&args);
        forget(NULL);
    }
}

static void all_that_is_above_near_or_positive(void **state)
{
    (void)state;
    for (int i = 0; i < N_SIZES; i++) {
        const sizes *z = &all_sizes[i];
        float floor[RF_MAX_ROW_CLASSES] = {0.5f, 1.5f, -1.0f};
        rf_encode_args args = problem(z);
        args.n_lists = 3;
        for (int l = 0; l < 3; l++) {
            args.lists[l] = (rf_select_list){.rule = (rf_select_rule)(RF_SELECT_ABOVE + l),
                                             .floor = floor,
                                             .window = 0.5f,
                                             .codes = room(z->n, z->n * z->f),
                                             .overflow = block(1, sizeof(int64_t))};
        }
        args.lists[2].threshold = vector(z->f);
        encode(&args);
        args.lists[0].row_class = flags(z->n);
        args.lists[1].threshold = vector(z->f);
        args.lists[1].eligible = flags(z->f);
        args.row_valid = flags(z->n);
        encode(&args);
        for (int l = 0; l < 3; l++) { /* too little room for most */
            args.lists[l].codes->capacity = z->n * z->f / 64;
        }
        encode(&args);
        forget(NULL);
    }
}

static void two_lists_of_one_product(void **state)
{
    (void)state;
    const sizes z = {65, 40, 700};
    rf_encode_args args = problem(&z);
    uint8_t *dead = flags(z.f);
    args.n_lists = 4;
    args.lists[0] = (rf_select_list){.rule = RF_SELECT_TOPK, .k = 5, .codes = room(z.n, 5 * z.n)};
    args.lists[1] = (rf_select_list){
        .rule = RF_SELECT_TOPK, .k = 64, .eligible = dead, .codes = room(z.n, 64 * z.n)};
    args.lists[2] =
        (rf_select_list){.rule = RF_SELECT_BATCH_TOPK, .k = 300, .codes = room(z.n, 300)};
    args.lists[3] = (rf_select_list){.rule = RF_SELECT_POSITIVE,
                                     .codes = room(z.n, z.n * z.f),
                                     .overflow = block(1, sizeof(int64_t))};
    encode(&args);
}

static void rows_that_no_bound_holds_for(void **state)
{
    (void)state;
    static const float odd[] = {INFINITY, -INFINITY, NAN, 3e38f, 0.0f, 1e-40f, -1.0f};
    const sizes z = {9, 33, 130};
    rf_encode_args args = problem(&z);
    for (int64_t b = 0; b < 7; b++) {
        ((float *)args.x.data)[b * args.x.stride[0] + 2] = odd[b];
    }
    for (int64_t j = 0; j < z.d; j++) {
        ((float *)args.x.data)[4 * args.x.stride[0] + j] = 0.0f;
    }
    args.lists[0] = (rf_select_list){.rule = RF_SELECT_TOPK, .k = 40, .codes = room(z.n, 40 * z.n)};
    encode(&args);
    args.lists[0].rule = RF_SELECT_BATCH_TOPK;
    encode(&args);
}

/* Every tile beats what came before, all are equal, none is positive. */
static void orders_that_are_hard_on_a_running_bound(void **state)
{
    (void)state;
    const sizes z = {33, 4, 2100};
    for (int kind = 0; kind < 4; kind++) {
        rf_encode_args args = problem(&z);
        for (int64_t i = 0; i < z.f; i++) {
            const float by[] = {(float)i, (float)(z.f - i), 1.0f, -1.0f - (float)i};
            for (int64_t j = 0; j < z.d; j++) {
                ((float *)args.w_enc.data)[i * args.w_enc.stride[0] + j] = 0.0f;
            }
            ((float *)args.b_enc.data)[i] = by[kind];
        }
        args.lists[0] =
            (rf_select_list){.rule = RF_SELECT_TOPK, .k = 37, .codes = room(z.n, 37 * z.n)};
        encode(&args);
        args.lists[0].rule = RF_SELECT_BATCH_TOPK;
        encode(&args);
        forget(NULL);
    }
}

static void counts_and_cuts(void **state)
{
    (void)state;
    for (int i = 0; i < N_SIZES; i++) {
        const sizes *z = &all_sizes[i];
        const int64_t k = rf_min_i64(9, z->f);
        rf_encode_args args = problem(z);
        rf_codes *codes = room(z->n, z->n * k);
        int64_t *counts = block(65536, sizeof *counts);
        args.lists[0] = (rf_select_list){.rule = RF_SELECT_TOPK, .k = k, .codes = codes};
        OK(rf_encode(s, &args));
        rf_class_rows rows = {NULL, 0};
        OK(rf_codes_histogram(s, codes, rows, -1, counts));
        const int64_t n = codes->row_start[z->n];
        const float middle = n > 0 ? codes->value[n / 2] : 1.0f;
        uint32_t bits;
        memcpy(&bits, &middle, sizeof bits);
        rows = (rf_class_rows){flags(z->n), 1};
        OK(rf_codes_histogram(s, codes, rows, (int32_t)(bits >> 16), counts));
        OK(rf_codes_keep(s, codes, rows, middle, 1));
        OK(rf_codes_keep(s, codes, (rf_class_rows){rows.row_class, 0}, middle, 0));
        OK(rf_codes_keep(s, codes, (rf_class_rows){NULL, 0}, middle * 1.5f, 3));
        forget(NULL);
    }
}

/* The GPU's, where it is linked: a tile's rows, and its latents in whole steps (0: as the cache
 * says). All that is above fits into a tile of its cache. */
__attribute__((weak)) void rf_cuda_encode_set_tile(int64_t n_rows, int64_t n_latents);

static void what_a_batch_in_tiles_selects(void **state)
{
    if (rf_cuda_encode_set_tile == NULL) {
        skip();
    }
    rf_cuda_encode_set_tile(30, 256);
    the_k_largest_of_rows(state);
    the_k_largest_of_a_batch(state);
    all_that_is_above_near_or_positive(state);
    two_lists_of_one_product(state);
    rows_that_no_bound_holds_for(state);
    orders_that_are_hard_on_a_running_bound(state);
    rf_cuda_encode_set_tile(0, 0);
}

static void each_of_them_was_compared(void **state)
{
    (void)state;
    assert_compared(RF_SHADOW_ENCODE);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_teardown(test, forget)
    const struct CMUnitTest tests[] = {
        TEST(the_k_largest_of_rows),
        TEST(the_k_largest_of_a_batch),
        TEST(all_that_is_above_near_or_positive),
        TEST(two_lists_of_one_product),
        TEST(rows_that_no_bound_holds_for),
        TEST(orders_that_are_hard_on_a_running_bound),
        TEST(counts_and_cuts),
        TEST(what_a_batch_in_tiles_selects),
        TEST(each_of_them_was_compared),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
