/* Views, memory, copies and order. */
#include "refract/tensor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

static void test_a_view_of_rows_starts_at_its_first_row(void **state)
{
    (void)state;
    float data[24];
    rf_view v = rf_view_2d(data, 6, 4);
    rf_view r = rf_view_rows(v, 2, 3);
    assert_ptr_equal(r.data, data + 8);
    assert_int_equal(r.shape[0], 3);
    assert_int_equal(rf_view_n_elems(&r), 12);
    assert_true(rf_view_is_contiguous(&r));
    rf_view absent = rf_view_rows(rf_view_2d(NULL, 6, 4), 2, 3);
    assert_null(absent.data);
}

static void test_contiguity_ignores_dimensions_of_one_and_empty_views(void **state)
{
    (void)state;
    float data[12];
    rf_view v = rf_view_2d(data, 3, 4);
    v.stride[0] = 5;
    assert_false(rf_view_is_contiguous(&v));
    v.shape[0] = 1;
    assert_true(rf_view_is_contiguous(&v));
    v.shape[0] = 0;
    assert_true(rf_view_is_contiguous(&v));
    rf_view scalar = rf_view_nd(data, RF_F32, 0, NULL);
    assert_int_equal(rf_view_n_elems(&scalar), 1);
    assert_true(rf_view_is_contiguous(&scalar));
}

static void test_dtypes_have_their_sizes(void **state)
{
    (void)state;
    assert_int_equal(rf_dtype_bytes(RF_F32), 4);
    assert_int_equal(rf_dtype_bytes(RF_F16), 2);
    assert_int_equal(rf_dtype_bytes(RF_BF16), 2);
    assert_int_equal(rf_dtype_bytes(RF_I32), 4);
    assert_int_equal(rf_dtype_bytes(RF_I64), 8);
    assert_int_equal(rf_dtype_bytes(RF_U8), 1);
}

static void test_memory_is_zeroed_aligned_and_returned(void **state)
{
    (void)state;
    int64_t live = rf_alloc_live();
    rf_backend *be = NULL;
    rf_stream *s = NULL;
    rf_event *e = NULL;
    void *p = NULL;
    assert_int_equal(rf_backend_cpu_create(2, &be), RF_OK);
    assert_string_equal(rf_backend_name(be), "cpu");
    assert_non_null(strstr(rf_backend_describe(be), "oneDNN"));
    assert_int_equal(rf_memory_alloc(be, RF_MEMORY_PINNED, 100, &p), RF_OK);
    assert_int_equal((uintptr_t)p % 64, 0);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(((char *)p)[i], 0);
    }
    assert_int_equal(rf_stream_create(be, &s), RF_OK);
    assert_ptr_equal(rf_stream_backend(s), be);
    assert_int_equal(rf_event_create(be, &e), RF_OK);
    char out[8];
    assert_int_equal(rf_copy_in(s, p, "refract", 8), RF_OK);
    assert_int_equal(rf_copy_within(s, (char *)p + 8, p, 8), RF_OK);
    assert_int_equal(rf_fill_bytes(s, p, 'x', 1), RF_OK);
    assert_int_equal(rf_event_record(e, s), RF_OK);
    assert_int_equal(rf_event_wait(e, s), RF_OK);
    assert_int_equal(rf_stream_synchronise(s), RF_OK);
    assert_int_equal(rf_copy_out(s, out, (char *)p + 8, 8), RF_OK);
    assert_string_equal(out, "refract");
    assert_int_equal(((char *)p)[0], 'x');
    rf_event_destroy(e);
    rf_stream_destroy(s);
    rf_memory_free(be, RF_MEMORY_PINNED, p);
    rf_memory_free(be, RF_MEMORY_PINNED, NULL);
    rf_backend_destroy(be);
    rf_event_destroy(NULL);
    rf_stream_destroy(NULL);
    rf_backend_destroy(NULL);
    assert_int_equal(rf_alloc_live(), live);
}

static void test_a_request_beyond_memory_is_an_error(void **state)
{
    (void)state;
    rf_backend *be = NULL;
    void *p = NULL;
    assert_int_equal(rf_backend_cpu_create(-1, &be), RF_ERR_INVALID_ARG);
    assert_int_equal(rf_backend_cpu_create(1, &be), RF_OK);
    assert_int_equal(rf_memory_alloc(be, RF_MEMORY_DEVICE, SIZE_MAX, &p), RF_ERR_NO_MEMORY);
    assert_int_equal(rf_memory_alloc(be, RF_MEMORY_DEVICE, 0, &p), RF_OK);
    rf_memory_free(be, RF_MEMORY_DEVICE, p);
    rf_backend_destroy(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_view_of_rows_starts_at_its_first_row),
        cmocka_unit_test(test_contiguity_ignores_dimensions_of_one_and_empty_views),
        cmocka_unit_test(test_dtypes_have_their_sizes),
        cmocka_unit_test(test_memory_is_zeroed_aligned_and_returned),
        cmocka_unit_test(test_a_request_beyond_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
