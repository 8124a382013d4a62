/* Attention against loops in double: with biases, with other queries than keys, with one q for all
 * pictures; and the bits that it promises. */
#include "dense_fixture.h"

#include <math.h>
#include <string.h>

typedef enum bias_kind { NO_BIAS, BIAS_OF_HEADS, BIAS_OF_ALL, MASK } bias_kind;
typedef enum query_kind { OWN_QUERIES, SHARED_QUERIES } query_kind;

typedef struct heads {
    int64_t n_pictures, n_queries, n_keys, n_heads, width;
    float *q, *kv, *z, *pattern, *bias;
    rf_attention_args args;
} heads;

static float *make_bias(const heads *h, bias_kind kind, int64_t *n)
{
    *n = kind == NO_BIAS ? 0 : kind == BIAS_OF_HEADS ? h->n_heads : 1;
    float *bias = random_floats(*n * h->n_queries * h->n_keys, 12);
    for (int64_t i = 0; i < *n * h->n_queries * h->n_keys && kind == MASK; i++) {
        const int64_t query = i / h->n_keys, key = i % h->n_keys; /* the first row keeps one key */
        bias[i] = key > query ? -INFINITY : 0.0f;
    }
    return bias;
}

/* k and v interleaved in one buffer, as a fused projection leaves them. */
static heads make_heads(const int64_t shape[5], bias_kind bias, query_kind queries)
{
    heads h = {shape[0], shape[1], shape[2], shape[3], shape[4],       NULL,
               NULL,     NULL,     NULL,     NULL,     {.scale = 0.3f}};
    const int64_t d = h.n_heads * h.width;
    const int64_t of_q[4] = {h.n_pictures, h.n_queries, h.n_heads, h.width};
    const int64_t of_k[4] = {h.n_pictures, h.n_keys, h.n_heads, h.width};
    int64_t n_bias;
    h.q = random_floats(h.n_pictures * h.n_queries * d, 8);
    h.kv = random_floats(2 * h.n_pictures * h.n_keys * d, 9);
    h.z = random_floats(h.n_pictures * h.n_queries * d, 10);
    h.pattern = random_floats(h.n_pictures * h.n_heads * h.n_queries * h.n_keys, 11);
    h.bias = make_bias(&h, bias, &n_bias);
    h.args.q = rf_view_nd(h.q, RF_F32, 4, of_q);
    h.args.q.stride[0] = queries == SHARED_QUERIES ? 0 : h.args.q.stride[0];
    h.args.k = rf_view_nd(h.kv, RF_F32, 4, of_k);
    h.args.k.stride[0] = h.n_keys * 2 * d;
    h.args.k.stride[1] = 2 * d;
    h.args.v = h.args.k;
    h.args.v.data = h.kv + d;
    h.args.z = rf_view_nd(h.z, RF_F32, 4, of_q);
    if (n_bias > 0) {
        h.args.bias = rf_view_nd(h.bias, RF_F32, 3, (int64_t[]){n_bias, h.n_queries, h.n_keys});
    }
    return h;
}

static void ask_for_pattern(heads *h)
{
    h->args.pattern = rf_view_nd(h->pattern, RF_F32, 4,
                                 (int64_t[]){h->n_pictures, h->n_heads, h->n_queries, h->n_keys});
}

static size_t z_bytes(const heads *h)
{
    return (size_t)(h->n_pictures * h->n_queries * h->n_heads * h->width) * sizeof(float);
}

static void free_heads(heads *h)
{
    rf_free(h->q);
    rf_free(h->kv);
    rf_free(h->z);
    rf_free(h->pattern);
    rf_free(h->bias);
}

/* e^score of a query and a key. */
static double weight_of(const heads *h, int64_t b, int64_t head, int64_t query, int64_t key)
{
    const rf_view *q = &h->args.q, *k = &h->args.k, *bias = &h->args.bias;
    const float *x = (const float *)q->data + b * q->stride[0] + query * q->stride[1];
    const float *y = (const float *)k->data + b * k->stride[0] + key * k->stride[1];
    double sum = 0.0;
    for (int64_t j = head * h->width; j < (head + 1) * h->width; j++) {
        sum += (double)x[j] * (double)y[j];
    }
    sum *= (double)h->args.scale;
    if (bias->data != NULL) {
        const int64_t of = bias->shape[0] == 1 ? 0 : head;
        sum += (double)h->bias[(of * h->n_queries + query) * h->n_keys + key];
    }
    return exp(sum);
}

static void check_attention(const heads *h)
{
    const int64_t d = h->n_heads * h->width, n = h->n_queries;
    for (int64_t i = 0; i < h->n_pictures * h->n_heads * n; i++) {
        const int64_t query = i % n, head = i / n % h->n_heads, b = i / n / h->n_heads;
        double total = 0.0, z = 0.0;
        for (int64_t key = 0; key < h->n_keys; key++) {
            total += weight_of(h, b, head, query, key);
        }
        for (int64_t key = 0; key < h->n_keys; key++) {
            double p = weight_of(h, b, head, query, key) / total;
            z += p * (double)h->kv[(b * h->n_keys + key) * 2 * d + d + head * h->width];
            /* exp of a score of order 10 rounded in fp32 */
            assert_true(fabs((double)h->pattern[i * h->n_keys + key] - p) <= 5e-6);
        }
        assert_true(fabs((double)h->z[(b * n + query) * d + head * h->width] - z) <= 2e-5);
    }
}

/* At once without a pattern, at once with one, and by parts: right, and the same bits. */
static void try_heads(fixture f, heads *h)
{
    float *z = rf_calloc((int64_t)z_bytes(h), 1);
    assert_int_equal(rf_attention(f.s, &h->args), RF_OK);
    memcpy(z, h->z, z_bytes(h));
    ask_for_pattern(h);
    assert_int_equal(rf_attention(f.s, &h->args), RF_OK);
    check_attention(h);
    assert_memory_equal(z, h->z, z_bytes(h));
    memset(h->z, 0, z_bytes(h));
    rf_view rows = rf_view_2d(h->pattern, h->n_pictures * h->n_heads * h->n_queries, h->n_keys);
    assert_int_equal(rf_attention_scores(f.s, &h->args), RF_OK);
    assert_int_equal(rf_softmax_rows(f.s, &rows), RF_OK);
    assert_int_equal(rf_attention_mix(f.s, &h->args), RF_OK);
    assert_memory_equal(z, h->z, z_bytes(h));
    rf_free(z);
}

/* pictures, queries, keys, heads, width; the last is more than one tile of scores. */
static const int64_t shapes[][5] = {{1, 1, 1, 1, 1},    {2, 5, 5, 3, 7},     {3, 17, 17, 2, 16},
                                    {1, 50, 50, 4, 64}, {2, 33, 33, 1, 100}, {2, 1, 50, 3, 24},
                                    {3, 7, 2, 2, 8},    {1, 40, 9, 2, 5},    {1, 131, 3001, 1, 3}};

static void test_attention_equals_double_loops_at_once_and_by_parts(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (int bias = NO_BIAS; bias <= MASK; bias++) {
            heads h = make_heads(shapes[i], (bias_kind)bias, OWN_QUERIES);
            try_heads(f, &h);
            free_heads(&h);
        }
    }
    close_threads(f);
}

static void test_one_q_serves_every_picture(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    heads h = make_heads((int64_t[]){4, 2, 19, 3, 8}, BIAS_OF_HEADS, SHARED_QUERIES);
    try_heads(f, &h);
    free_heads(&h);
    close_threads(f);
}

static void test_a_masked_key_has_weight_zero_and_no_influence(void **state)
{
    (void)state;
    fixture f = open_threads(1);
    const int64_t n = 21;
    heads h = make_heads((int64_t[]){2, n, n, 2, 8}, MASK, OWN_QUERIES);
    ask_for_pattern(&h);
    assert_int_equal(rf_attention(f.s, &h.args), RF_OK);
    for (int64_t i = 0; i < 2 * 2 * n; i++) {
        for (int64_t key = i % n + 1; key < n; key++) {
            assert_true(h.pattern[i * n + key] == 0.0f);
        }
    }
    assert_true(h.pattern[0] == 1.0f); /* all but one are -inf */
    float *before = rf_calloc((int64_t)z_bytes(&h), 1);
    memcpy(before, h.z, z_bytes(&h));
    for (int64_t j = 0; j < 2 * 16; j++) { /* k and v of the last key of the first picture */
        h.kv[(n - 1) * 2 * 16 + j] += 1.0f;
    }
    assert_int_equal(rf_attention(f.s, &h.args), RF_OK);
    assert_memory_equal(before, h.z, (size_t)((n - 1) * 16) * sizeof(float));
    assert_memory_not_equal(before + (n - 1) * 16, h.z + (n - 1) * 16, 16 * sizeof(float));
    rf_free(before);
    free_heads(&h);
    close_threads(f);
}

static void test_attention_has_the_same_bits_on_one_to_four_threads(void **state)
{
    (void)state;
    float *first = NULL;
    for (int n_threads = 1; n_threads <= 4; n_threads++) {
        fixture f = open_threads(n_threads);
        heads h = make_heads((int64_t[]){3, 65, 70, 6, 32}, BIAS_OF_HEADS, OWN_QUERIES);
        assert_int_equal(rf_attention(f.s, &h.args), RF_OK);
        if (first == NULL) {
            first = h.z;
            h.z = NULL;
        } else {
            assert_memory_equal(first, h.z, z_bytes(&h));
        }
        free_heads(&h);
        close_threads(f);
    }
    rf_free(first);
}

static void test_a_picture_has_the_same_bits_alone(void **state)
{
    (void)state;
    fixture f = open_threads(2);
    heads h = make_heads((int64_t[]){5, 50, 50, 3, 16}, BIAS_OF_HEADS, OWN_QUERIES);
    const size_t n_bytes = z_bytes(&h) / 5;
    float *all = rf_calloc((int64_t)z_bytes(&h), 1);
    assert_int_equal(rf_attention(f.s, &h.args), RF_OK);
    memcpy(all, h.z, z_bytes(&h));
    rf_attention_args one = h.args;
    one.q = rf_view_rows(one.q, 3, 1);
    one.k = rf_view_rows(one.k, 3, 1);
    one.v = rf_view_rows(one.v, 3, 1);
    one.z = rf_view_rows(one.z, 0, 1);
    assert_int_equal(rf_attention(f.s, &one), RF_OK);
    assert_memory_equal((char *)all + 3 * n_bytes, h.z, n_bytes);
    rf_free(all);
    free_heads(&h);
    close_threads(f);
}

static void test_attention_refuses_views_that_do_not_fit(void **state)
{
    (void)state;
    fixture f = open_threads(1);
    heads h = make_heads((int64_t[]){2, 4, 6, 2, 3}, BIAS_OF_HEADS, OWN_QUERIES);
    assert_int_equal(rf_attention_scores(f.s, &h.args), RF_ERR_INVALID_ARG); /* no pattern */
    assert_int_equal(rf_attention_mix(f.s, &h.args), RF_ERR_INVALID_ARG);
    rf_attention_args bad = h.args;
    bad.v.shape[1] = 5;
    assert_int_equal(rf_attention(f.s, &bad), RF_ERR_INVALID_ARG);
    assert_non_null(strstr(rf_error_text(), "of v"));
    bad = h.args;
    bad.k.shape[2] = 1;
    assert_int_equal(rf_attention(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = h.args;
    bad.k.shape[1] = bad.v.shape[1] = 0;
    bad.bias.data = NULL;
    assert_int_equal(rf_attention(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = h.args;
    bad.z.stride[0] = 0;
    assert_int_equal(rf_attention(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = h.args;
    bad.pattern = rf_view_nd(h.pattern, RF_F32, 4, (int64_t[]){2, 2, 6, 4});
    assert_int_equal(rf_attention(f.s, &bad), RF_ERR_INVALID_ARG);
    bad = h.args;
    bad.bias = rf_view_nd(h.bias, RF_F32, 3, (int64_t[]){2, 6, 4});
    assert_int_equal(rf_attention(f.s, &bad), RF_ERR_INVALID_ARG);
    bad.bias = rf_view_nd(h.bias, RF_F32, 3, (int64_t[]){3, 4, 6});
    assert_int_equal(rf_attention(f.s, &bad), RF_ERR_INVALID_ARG);
    bad.bias = h.args.bias;
    bad.bias.stride[0] = 48;
    assert_int_equal(rf_attention(f.s, &bad), RF_ERR_INVALID_ARG);
    free_heads(&h);
    close_threads(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention_equals_double_loops_at_once_and_by_parts),
        cmocka_unit_test(test_one_q_serves_every_picture),
        cmocka_unit_test(test_a_masked_key_has_weight_zero_and_no_influence),
        cmocka_unit_test(test_attention_has_the_same_bits_on_one_to_four_threads),
        cmocka_unit_test(test_a_picture_has_the_same_bits_alone),
        cmocka_unit_test(test_attention_refuses_views_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
