/* The test of the test: a device with a fault in one operation is caught, and one that differs by
 * what is allowed is not. Device and reference are both the CPU; the device's table has one
 * function replaced. */
#include "shadow.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s", #call, rf_error_text());                                            \
        }                                                                                          \
    } while (0)

/* The device: `right` are the CPU's functions, `ops` those that it is asked for. */
static const rf_backend_ops *right;
static rf_backend_ops ops;
static rf_backend *shadow;
static rf_stream *s;
static char caught[4096];

static void catch (void *user, const char *text)
{
    (void)user;
    snprintf(caught, sizeof caught, "%s", text);
}

static int open_shadow(void **state)
{
    (void)state;
    rf_backend *reference, *device;
    if (rf_backend_cpu_create(1, &reference) != RF_OK ||
        rf_backend_cpu_create(2, &device) != RF_OK) {
        return -1;
    }
    right = device->ops;
    ops = *right;
    device->ops = &ops;
    caught[0] = '\0';
    rf_shadow_set_handler(catch, NULL);
    if (rf_shadow_create(reference, device, &shadow) != RF_OK) {
        return -1;
    }
    return rf_stream_create(shadow, &s) == RF_OK ? 0 : -1;
}

static int close_shadow(void **state)
{
    (void)state;
    rf_stream_destroy(s);
    rf_backend_destroy(shadow);
    rf_shadow_set_handler(NULL, NULL);
    return 0;
}

/* The last call was found wrong, for the reason that has these words. */
static void assert_caught(const char *op, const char *words)
{
    if (strncmp(caught, op, strlen(op)) != 0 || strstr(caught, words) == NULL) {
        fail_msg("caught \"%s\", expected %s ... %s", caught, op, words);
    }
    caught[0] = '\0';
}

static void assert_clean(void)
{
    if (caught[0] != '\0') {
        fail_msg("caught \"%s\", expected nothing", caught);
    }
}

static float next_up(float x)
{
    return nextafterf(x, INFINITY);
}

/* ---- outputs ------------------------------------------------------------------------------- */

static int64_t at_fault; /* which element */

static rf_status update_one_ulp_off(rf_stream *t, const rf_update_args *args)
{
    rf_status status = right->update_rows(t, args);
    float *w = (float *)args->w.data + at_fault;
    *w = next_up(*w);
    return status;
}

static void one_bit_of_an_exact_operation_is_caught(void **state)
{
    (void)state;
    float w[6] = {1, 2, 3, 4, 5, 6}, g[6] = {6, 5, 4, 3, 2, 1};
    const rf_update_args args = {.kind = RF_UPDATE_PLAIN,
                                 .w = rf_view_2d(w, 2, 3),
                                 .g = rf_view_2d(g, 2, 3),
                                 .lr = 0.1,
                                 .t = 1};
    OK(rf_update_rows(s, &args));
    assert_clean();
    ops.update_rows = update_one_ulp_off;
    for (at_fault = 0; at_fault < 6; at_fault++) {
        OK(rf_update_rows(s, &args));
        assert_caught("update_rows: w: ", "expected the bits of");
    }
}

static double off_by;

static rf_status matmul_off(rf_stream *t, const rf_matmul_args *args)
{
    rf_status status = right->matmul(t, args);
    float *c = (float *)args->c.data + at_fault;
    *c += (float)off_by;
    return status;
}

static void rounding_is_allowed_where_bits_are_not_promised_and_no_more(void **state)
{
    (void)state;
    float a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, -1, 2, -2, 3, -3}, c[4];
    rf_matmul_args args = {
        .a = rf_view_2d(a, 2, 3), .b = rf_view_2d(b, 3, 2), .c = rf_view_2d(c, 2, 2), .alpha = 1};
    ops.matmul = matmul_off;
    for (at_fault = 0; at_fault < 4; at_fault++) {
        off_by = 2e-6; /* of sums of about 14 and 32: two units in the last place */
        OK(rf_matmul(s, &args));
        assert_clean();
        off_by = 1e-3;
        OK(rf_matmul(s, &args));
        assert_caught("matmul: c: ", "of its norm");
    }
    args.products = RF_PRODUCTS_TF32;
    at_fault = 0;
    OK(rf_matmul(s, &args)); /* 10 bits */
    assert_clean();
    off_by = (double)NAN;
    OK(rf_matmul(s, &args));
    assert_caught("matmul: c: ", "nan");
}

static rf_status attention_off(rf_stream *t, const rf_attention_args *args)
{
    rf_status status = right->attention(t, args);
    float *z = (float *)args->z.data + 2 * at_fault;
    z[0] *= (float)(1.0 + off_by);
    z[1] *= (float)(1.0 + off_by);
    return status;
}

/* Scores of query 0 are of size 1000, and may cost as many epsilons, 1.2e-4. Those of query 1 are
 * of size 1, but for one behind a mask, which weighs nothing. */
static void attention_may_be_off_by_the_rounding_of_its_scores_row_by_row(void **state)
{
    (void)state;
    float q[4] = {1000, -1000, 1, -1}, k[6] = {0.5f, -0.5f, 0.5f, -0.499f, 0.4f, -0.6f};
    float v[6] = {1, 2, 3, 4, 5, 6}, bias[6] = {0, 0, 0, 0, 0, -1e5f}, z[4];
    const int64_t queries[] = {1, 2, 1, 2}, keys[] = {1, 3, 1, 2};
    const rf_attention_args args = {.q = rf_view_nd(q, RF_F32, 4, queries),
                                    .k = rf_view_nd(k, RF_F32, 4, keys),
                                    .v = rf_view_nd(v, RF_F32, 4, keys),
                                    .bias = rf_view_nd(bias, RF_F32, 3, (int64_t[]){1, 2, 3}),
                                    .z = rf_view_nd(z, RF_F32, 4, queries),
                                    .scale = 1};
    ops.attention = attention_off;
    at_fault = 0;
    off_by = 1e-4;
    OK(rf_attention(s, &args));
    assert_clean();
    off_by = 2e-4;
    OK(rf_attention(s, &args));
    assert_caught("attention: z: row 0 ", "of its norm");
    at_fault = 1;
    off_by = 5e-6;
    OK(rf_attention(s, &args));
    assert_clean();
    off_by = 2e-5;
    OK(rf_attention(s, &args));
    assert_caught("attention: z: row 1 ", "of its norm");
}

static rf_status norm_never_written(rf_stream *t, const rf_layer_norm_args *args)
{
    (void)t;
    (void)args;
    return RF_OK;
}

static void an_output_that_is_left_alone_is_caught(void **state)
{
    (void)state;
    float x[4] = {1, 2, 3, 5}, y[4] = {0};
    ops.layer_norm = norm_never_written;
    OK(rf_layer_norm(s, &(rf_layer_norm_args){.x = rf_view_2d(x, 2, 2), .y = rf_view_2d(y, 2, 2)}));
    assert_caught("layer_norm: y: ", "row 0");
    assert_true(y[0] < -0.9f); /* the caller goes on with the reference's */
}

/* ---- what must not change ------------------------------------------------------------------ */

static int64_t written_at; /* an element, from the beginning of `y` */

static rf_status add_and_write(rf_stream *t, const rf_add_args *args)
{
    rf_status status = right->add(t, args);
    ((float *)args->y.data)[written_at] = 7.0f;
    return status;
}

static void writes_between_rows_before_and_behind_are_caught(void **state)
{
    (void)state;
    enum { N = 3, D = 5, STRIDE = 8 };
    float r[N * D] = {0}, y[N * STRIDE] = {0};
    rf_add_args args = {.r = rf_view_2d(r, N, D), .y = rf_view_2d(y, N, D)};
    args.y.stride[0] = STRIDE;
    ops.add = add_and_write;
    written_at = STRIDE + D;
    OK(rf_add(s, &args));
    assert_caught("add: the device changes what is not its to write", "that 'y' spans");
    written_at = (N - 1) * STRIDE + D;
    OK(rf_add(s, &args));
    assert_caught("add: ", "0 bytes behind the end of 'y'");
    written_at = (N - 1) * STRIDE + D + 63;
    OK(rf_add(s, &args));
    assert_caught("add: ", "252 bytes behind the end of 'y'");
    written_at = -1;
    OK(rf_add(s, &args));
    assert_caught("add: ", "4 bytes before 'y'");
    written_at = 1;
    OK(rf_add(s, &args));
    assert_caught("add: y: ", "expected the bits of 0");
}

static rf_status decode_changes_codes(rf_stream *t, const rf_decode_args *args)
{
    rf_status status = right->decode(t, args);
    args->codes->value[1] = 9.0f;
    return status;
}

static void inputs_that_change_are_caught(void **state)
{
    (void)state;
    int64_t row_start[2] = {0, 2};
    int32_t latent[2] = {0, 1};
    float value[2] = {1, 2}, w[4] = {1, 2, 3, 4}, out[2];
    rf_codes codes = {1, 2, row_start, latent, value, NULL};
    ops.decode = decode_changes_codes;
    OK(rf_decode(s, &(rf_decode_args){.codes = &codes,
                                      .w_dec = rf_view_2d(w, 2, 2),
                                      .out = rf_view_2d(out, 1, 2)}));
    assert_caught("decode: the device changes", "'value' spans");
}

/* ---- how arguments arrive ------------------------------------------------------------------ */

static const char *seen[3];

static rf_status gated_seen(rf_stream *t, rf_act act, const rf_view *gate, const rf_view *x,
                            const rf_view *y)
{
    seen[0] = gate->data;
    seen[1] = x->data;
    seen[2] = y->data;
    return right->gated(t, act, gate, x, y);
}

static void what_overlaps_for_the_caller_overlaps_for_the_device(void **state)
{
    (void)state;
    enum { N = 4, D = 3 };
    float both[N * 2 * D] = {1, 2, 3, 4, 5, 6, 7}, other[N * D] = {0};
    rf_view gate = rf_view_2d(both, N, D), x = rf_view_2d(both + D, N, D);
    gate.stride[0] = x.stride[0] = 2 * D;
    rf_view y = rf_view_2d(other, N, D);
    ops.gated = gated_seen;
    OK(rf_gated(s, RF_ACT_RELU, &gate, &x, &x)); /* interleaved, and in place */
    assert_ptr_equal(seen[1], seen[2]);
    assert_int_equal(seen[1] - seen[0], D * (int64_t)sizeof(float));
    OK(rf_gated(s, RF_ACT_RELU, &gate, &x, &y));
    assert_true(seen[2] - seen[1] > (int64_t)sizeof both ||
                seen[1] - seen[2] > (int64_t)sizeof other);
    assert_int_equal((uintptr_t)seen[2] % 64, (uintptr_t)other % 64);
    assert_true(seen[0] != (const char *)both);
    assert_clean();
}

static int n_device_calls;

static rf_status gather_counted(rf_stream *t, const rf_view *src, const rf_view *index,
                                const rf_view *dst)
{
    n_device_calls++;
    return right->gather_rows(t, src, index, dst);
}

static rf_status gather_fails(rf_stream *t, const rf_view *src, const rf_view *index,
                              const rf_view *dst)
{
    (void)t;
    (void)src;
    (void)index;
    (void)dst;
    return rf_error_raise(RF_ERR_NO_MEMORY, __FILE__, __LINE__, "no room");
}

static void what_the_reference_refuses_the_device_is_not_asked(void **state)
{
    (void)state;
    float src[2] = {1, 2}, dst[2];
    int64_t index[2] = {1, 7}, n = 2;
    rf_view from = rf_view_2d(src, 2, 1), to = rf_view_2d(dst, 2, 1);
    rf_view at = rf_view_nd(index, RF_I64, 1, &n);
    ops.gather_rows = gather_counted;
    assert_int_equal(rf_gather_rows(s, &from, &at, &to), RF_ERR_INVALID_ARG);
    assert_int_equal(n_device_calls, 0);
    assert_clean();
    index[1] = 0;
    OK(rf_gather_rows(s, &from, &at, &to));
    assert_int_equal(n_device_calls, 1);
    ops.gather_rows = gather_fails;
    OK(rf_gather_rows(s, &from, &at, &to));
    assert_caught("gather_rows: the device fails", "no room");
}

/* ---- codes --------------------------------------------------------------------------------- */

typedef enum code_fault { NO_FAULT, DROP, VALUE, LATENT, UNSPECIFIED, OVERFLOW } code_fault;
static code_fault fault;
static int64_t entry; /* at which */

static void drop(rf_codes *codes)
{
    for (int64_t e = entry; e + 1 < codes->row_start[codes->n_rows]; e++) {
        codes->latent[e] = codes->latent[e + 1];
        codes->value[e] = codes->value[e + 1];
    }
    for (int64_t b = 0; b <= codes->n_rows; b++) {
        codes->row_start[b] -= codes->row_start[b] > entry;
    }
}

static rf_status encode_with_a_fault(rf_stream *t, const rf_encode_args *args)
{
    rf_status status = right->encode(t, args);
    const rf_select_list *list = &args->lists[0];
    rf_codes *codes = list->codes;
    switch (fault) {
    case NO_FAULT:
        break;
    case DROP:
        drop(codes);
        break;
    case VALUE:
        codes->value[entry] = next_up(codes->value[entry]);
        break;
    case LATENT:
        codes->latent[entry] ^= 1;
        break;
    case UNSPECIFIED:
        codes->latent[codes->row_start[codes->n_rows]] = 5;
        codes->d_value[0] = 5.0f;
        break;
    case OVERFLOW:
        *list->overflow = 1;
        break;
    }
    return status;
}

enum { ROWS = 2, LATENTS = 6, ROOM = 16 };

typedef struct encoding {
    float x[ROWS * 2], w[LATENTS * 2], b[LATENTS], value[ROOM], d_value[ROOM];
    int64_t row_start[ROWS + 1], overflow;
    int32_t latent[ROOM];
    rf_codes codes;
    rf_encode_args args;
} encoding;

static void make_encoding(encoding *e, rf_select_rule rule)
{
    *e = (encoding){.x = {1, 2, -1, 3},
                    .w = {1, 0, 0, 1, 1, 1, -1, 1, 2, -1, 0, 2},
                    .b = {0, 0.5f, 0, 0, 1e-7f, 0}};
    e->codes = (rf_codes){ROWS, ROOM, e->row_start, e->latent, e->value, e->d_value};
    e->args = (rf_encode_args){.x = rf_view_2d(e->x, ROWS, 2),
                               .w_enc = rf_view_2d(e->w, LATENTS, 2),
                               .b_enc = rf_view_1d(e->b, LATENTS),
                               .n_lists = 1};
    e->args.lists[0] =
        (rf_select_list){.rule = rule, .k = 3, .codes = &e->codes, .overflow = &e->overflow};
}

static void faults_of_an_exact_selection_are_caught(void **state)
{
    (void)state;
    encoding e;
    static const char *const words[] = {"", "encode: row_start", "encode: value", "encode: latent",
                                        "", "encode: overflow"};
    make_encoding(&e, RF_SELECT_TOPK);
    ops.encode = encode_with_a_fault;
    for (fault = NO_FAULT; fault <= OVERFLOW; fault++) {
        for (entry = 0; entry < 6; entry++) {
            OK(rf_encode(s, &e.args));
            if (words[fault][0] == '\0') {
                assert_clean();
            } else {
                assert_caught(words[fault], "");
            }
        }
    }
}

static void an_open_selection_may_differ_at_the_threshold_alone(void **state)
{
    (void)state;
    encoding e;
    make_encoding(&e, RF_SELECT_POSITIVE);
    ops.encode = encode_with_a_fault;
    fault = NO_FAULT;
    OK(rf_encode(s, &e.args));
    assert_int_equal(e.row_start[1], 6); /* of which latent 4 holds 1e-7: 2 - 2 + 1e-7 */
    assert_int_equal(e.latent[4], 4);
    fault = DROP;
    for (entry = 0; entry < 6; entry++) {
        OK(rf_encode(s, &e.args));
        if (entry == 4) {
            assert_clean();
        } else {
            assert_caught("encode: latent: ", "no matter of rounding");
        }
    }
    fault = VALUE; /* a unit in the last place */
    entry = 2;
    OK(rf_encode(s, &e.args));
    assert_clean();
    fault = LATENT;
    OK(rf_encode(s, &e.args));
    assert_caught("encode: ", "");
}

/* ---- what stays ---------------------------------------------------------------------------- */

static void nothing_is_a_number_on_both_sides(void **state)
{
    (void)state;
    float x[3] = {NAN, INFINITY, 1}, y[3];
    rf_view from = rf_view_1d(x, 3), to = rf_view_1d(y, 3);
    OK(rf_activation(s, RF_ACT_GELU, &from, &to));
    assert_clean();
    assert_true(isnan(y[0]));
}

static void memory_goes_back_and_calls_are_counted(void **state)
{
    (void)state;
    const int64_t live = rf_alloc_live(), n = rf_shadow_n_compared("softmax_rows");
    rf_backend *reference, *device, *be;
    rf_stream *t;
    float x[8] = {1, 2, 3, 4};
    OK(rf_backend_cpu_create(1, &reference));
    OK(rf_backend_cpu_create(1, &device));
    OK(rf_shadow_create(reference, device, &be));
    OK(rf_stream_create(be, &t));
    rf_view rows = rf_view_2d(x, 2, 4);
    OK(rf_softmax_rows(t, &rows));
    rf_stream_destroy(t);
    rf_backend_destroy(be);
    assert_int_equal(rf_alloc_live(), live);
    assert_int_equal(rf_shadow_n_compared("softmax_rows"), n + 1);
}

/* What a backend has before its operations: name, destroy, alloc, free, memory, 3 of streams, 4 of
 * events, 4 that copy. */
enum { N_BEFORE = 16 };

static void every_operation_of_a_backend_is_in_the_table(void **state)
{
    (void)state;
    void (*const none)(void) = NULL;
    size_t n_ops = 0;
    while (rf_shadow_op_name((int)n_ops) != NULL) {
        n_ops++;
    }
    assert_int_equal(sizeof(rf_backend_ops) / sizeof none, N_BEFORE + n_ops);
    for (size_t i = 0; i < sizeof(rf_backend_ops) / sizeof none; i++) {
        assert_memory_not_equal((const char *)shadow->ops + i * sizeof none, &none, sizeof none);
    }
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, open_shadow, close_shadow)
    const struct CMUnitTest tests[] = {
        TEST(one_bit_of_an_exact_operation_is_caught),
        TEST(rounding_is_allowed_where_bits_are_not_promised_and_no_more),
        TEST(attention_may_be_off_by_the_rounding_of_its_scores_row_by_row),
        TEST(an_output_that_is_left_alone_is_caught),
        TEST(writes_between_rows_before_and_behind_are_caught),
        TEST(inputs_that_change_are_caught),
        TEST(what_overlaps_for_the_caller_overlaps_for_the_device),
        TEST(what_the_reference_refuses_the_device_is_not_asked),
        TEST(faults_of_an_exact_selection_are_caught),
        TEST(an_open_selection_may_differ_at_the_threshold_alone),
        TEST(nothing_is_a_number_on_both_sides),
        TEST(memory_goes_back_and_calls_are_counted),
        TEST(every_operation_of_a_backend_is_in_the_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
