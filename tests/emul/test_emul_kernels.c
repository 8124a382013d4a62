/* Kernels under emulation: right, and with the same bits in every order of their threads. */
#include "emul_fixture.h"
#include "emul_kernels.h"

#include <math.h>

static const char *const orders[] = {"forward", "reverse", "random", "lockstep"};
enum { N_ORDERS = 4 };

static float *numbers(int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    uint32_t state = 1;

    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) / 16777216.0f - 0.5f;
    }
    return x;
}

/* |y - norm(x)| of one row, at most. */
static double norm_error(const float *x, const float *y, int64_t n)
{
    double mean = 0.0, squares = 0.0, worst = 0.0;

    for (int64_t c = 0; c < n; c++) {
        mean += (double)x[c] / (double)n;
    }
    for (int64_t c = 0; c < n; c++) {
        squares += ((double)x[c] - mean) * ((double)x[c] - mean) / (double)n;
    }
    for (int64_t c = 0; c < n; c++) {
        double e = fabs((double)y[c] - ((double)x[c] - mean) / sqrt(squares + 1e-5));

        worst = e <= worst ? worst : e; /* NaN is the worst */
    }
    return worst;
}

static void sums_over_a_block_are_right_and_the_same_in_every_order(void **state)
{
    enum { ROWS = 5, COLUMNS = 777 };
    float *x = numbers(ROWS * COLUMNS), *first = malloc(sizeof(float) * ROWS * COLUMNS);
    float *y = malloc(sizeof(float) * ROWS * COLUMNS);
    float *d_x = device_of(x, sizeof(float) * ROWS * COLUMNS);
    float *d_y = device_of(NULL, sizeof(float) * ROWS * COLUMNS);

    (void)state;
    for (int order = 0; order < N_ORDERS; order++) {
        setenv("REFRACT_EMUL_ORDER", orders[order], 1);
        emul_k_norm_rows(NULL, d_x, d_y, ROWS, COLUMNS);
        host_of(y, d_y, sizeof(float) * ROWS * COLUMNS);
        if (order == 0) {
            memcpy(first, y, sizeof(float) * ROWS * COLUMNS);
        }
        assert_memory_equal(y, first, sizeof(float) * ROWS * COLUMNS);
        for (int r = 0; r < ROWS; r++) {
            /* fp32 sums of 777 numbers below 1/2: a few 1e-7 */
            assert_false(!(norm_error(x + r * COLUMNS, y + r * COLUMNS, COLUMNS) <= 3e-6));
        }
    }
    assert_cuda(cudaFree(d_x));
    assert_cuda(cudaFree(d_y));
    free(x);
    free(y);
    free(first);
}

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return x < y ? 1 : x > y ? -1 : 0;
}

static void a_sort_in_dynamic_shared_memory_is_right_in_every_order(void **state)
{
    static const struct {
        int n_rows, n_cols, block;
    } shapes[] = {{3, 200, 256}, {1, 1, 32}, {2, 1024, 1024}, {1, 33, 64}};

    (void)state;
    for (int i = 0; i < 4 * N_ORDERS; i++) {
        int n_rows = shapes[i / 4].n_rows, n_cols = shapes[i / 4].n_cols;
        size_t n_bytes = sizeof(float) * (size_t)(n_rows * n_cols);
        float *z = numbers(n_rows * n_cols), *sorted = malloc(n_bytes), *d_z;

        setenv("REFRACT_EMUL_ORDER", orders[i % 4], 1);
        memcpy(sorted, z, n_bytes);
        for (int r = 0; r < n_rows; r++) {
            qsort(sorted + r * n_cols, (size_t)n_cols, sizeof(float), falling);
        }
        d_z = device_of(z, n_bytes);
        emul_k_sort_rows(NULL, d_z, n_rows, n_cols, shapes[i / 4].block);
        host_of(z, d_z, n_bytes);
        assert_memory_equal(z, sorted, n_bytes);
        assert_cuda(cudaFree(d_z));
        free(z);
        free(sorted);
    }
}

/* What thread t of two warps has to get. */
static void warp_results_of(int t, double *want)
{
    int lane = t % 32, base = t - lane;
    float f = (float)t + 0.5f;

    want[0] = base + 3.5;
    want[1] = base + (lane ^ 1) + 0.25;
    want[2] = base + lane / 8 * 8 + 1;
    want[3] = lane == 0 ? (double)f : (double)f - 1.0;
    want[4] = lane % 16 < 3 ? t : t - 3;
    want[5] = lane + 5 < 32 ? t + 5 : t;
    want[6] = (lane % 4 + 2 < 4 ? t + 2 : t) + 0.25;
    want[7] = (double)((long long)(base + (lane ^ 16)) << 40);
    want[8] = base + (lane ^ 6);
    want[9] = base == 0 ? 0x49249249u : 0x92492492u; /* multiples of 3 up to 31; from 32 on */
    want[10] = base == 32;
    want[11] = base == 0;
    want[12] = 5;
    want[13] = 8;
    want[14] = (t == 0 ? 32 : __builtin_clz((unsigned)t)) +
               100.0 * (t == 0 ? 64 : __builtin_clzll((unsigned long long)t));
    want[15] = (double)f + (t < 7 ? 7 - t : t - 7);
}

static void shuffles_and_votes_do_what_cuda_says(void **state)
{
    double out[64 * EMUL_N_WARP_RESULTS], want[EMUL_N_WARP_RESULTS];
    double *d_out = device_of(NULL, sizeof out);

    (void)state;
    for (int order = 0; order < N_ORDERS; order++) {
        setenv("REFRACT_EMUL_ORDER", orders[order], 1);
        emul_k_warp_results(NULL, d_out);
        host_of(out, d_out, sizeof out);
        for (int t = 0; t < 64; t++) {
            warp_results_of(t, want);
            for (int i = 0; i < EMUL_N_WARP_RESULTS; i++) {
                if (out[t * EMUL_N_WARP_RESULTS + i] != want[i]) {
                    fail_msg("thread %d, result %d: %g, expected %g", t, i,
                             out[t * EMUL_N_WARP_RESULTS + i], want[i]);
                }
            }
        }
    }
    assert_cuda(cudaFree(d_out));
}

static void warp_operations_wait_for_the_lanes_of_their_mask_only(void **state)
{
    int out[32], x[32], *d_out = device_of(NULL, sizeof out), *d_x;

    (void)state;
    for (int i = 0; i < 32; i++) {
        x[i] = i * i;
    }
    d_x = device_of(x, sizeof x);
    for (int order = 0; order < N_ORDERS; order++) {
        setenv("REFRACT_EMUL_ORDER", orders[order], 1);
        emul_k_half_warps(NULL, d_out);
        host_of(out, d_out, sizeof out);
        assert_int_equal(out[0], 120);
        for (int i = 16; i < 32; i++) {
            assert_int_equal(out[i], 376);
        }
        emul_k_reverse_in_warp(NULL, d_x, d_out);
        host_of(out, d_out, sizeof out);
        for (int i = 0; i < 32; i++) {
            assert_int_equal(out[i], x[31 - i]);
        }
    }
    assert_cuda(cudaFree(d_out));
    assert_cuda(cudaFree(d_x));
}

static void atomics_lose_nothing(void **state)
{
    enum { N = 1000 };
    static const int before[7] = {0, -1, 1, 0, -1, 0, 0};
    int out[7], *d_out;
    unsigned long long sum = 0, *d_sum;

    (void)state;
    for (int order = 0; order < N_ORDERS; order++) {
        setenv("REFRACT_EMUL_ORDER", orders[order], 1);
        sum = 0;
        d_out = device_of(before, sizeof before);
        d_sum = device_of(&sum, sizeof sum);
        emul_k_atomics(NULL, d_out, d_sum, N);
        host_of(out, d_out, sizeof out);
        host_of(&sum, d_sum, sizeof sum);
        assert_int_equal(out[0], N * (N - 1) / 2);
        assert_int_equal(out[1], N - 1);
        assert_int_equal(out[2], 1 - N);
        assert_int_equal(out[3], (1 << 20) - 1);
        assert_int_equal(out[4], ~((1 << 20) - 1));
        assert_int_equal(out[5], 77);
        assert_int_equal(out[6], 0);
        assert_int_equal(sum >> 32, N * (N - 1) / 2);
        assert_cuda(cudaFree(d_out));
        assert_cuda(cudaFree(d_sum));
    }
}

static void every_thread_of_every_block_runs_once(void **state)
{
    int out[12 * 64] = {0}, *d_out = device_of(out, sizeof out);

    (void)state;
    for (int order = 0; order < N_ORDERS; order++) {
        setenv("REFRACT_EMUL_ORDER", orders[order], 1);
        emul_k_index_3d(NULL, d_out);
        host_of(out, d_out, sizeof out);
        for (int i = 0; i < 12 * 64; i++) {
            assert_int_equal(out[i], order + 1);
        }
    }
    assert_cuda(cudaFree(d_out));
}

static void shared_memory_above_48_kib_must_be_asked_for(void **state)
{
    enum { MOST = 232448 / 4 };
    float *out = malloc(sizeof(float) * MOST), *d_out = device_of(NULL, sizeof(float) * MOST);

    (void)state;
    emul_k_big_shared(NULL, d_out, 12288, 0);
    assert_cuda(cudaGetLastError());
    emul_k_big_shared(NULL, d_out, 12289, 0);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    emul_k_big_shared(NULL, d_out, MOST, 1);
    assert_cuda(cudaGetLastError());
    host_of(out, d_out, sizeof(float) * MOST);
    assert_true(out[0] == (float)(MOST - 1) && out[MOST - 1] == 0.0f);
    emul_k_big_shared(NULL, d_out, MOST + 1, 1);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_cuda(cudaFree(d_out));
    free(out);
}

static void launches_that_no_device_takes_are_refused(void **state)
{
    (void)state;
    emul_k_nothing(NULL, 1, 1025);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidConfiguration);
    emul_k_nothing(NULL, 0, 32);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidConfiguration);
    emul_k_nothing(NULL, 1, 0);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidConfiguration);
    emul_k_nothing(NULL, (int64_t)1 << 31, 32);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidConfiguration);
    emul_k_nothing(NULL, 65536, 1024);
    assert_cuda(cudaGetLastError());
    assert_cuda(cudaDeviceSynchronize());
}

static void launch_5_billion_blocks(void)
{
    emul_k_nothing(NULL, 5000000000, 32);
}

static void launch_with_host_memory(void)
{
    float x[4] = {0}, *y = NULL;

    cudaMalloc((void **)&y, sizeof x);
    emul_k_add_one(NULL, x, y, 4);
}

static void launch_with_host_memory_in_a_struct(void)
{
    float x[4] = {0};
    emul_pair pair = {.x = x};

    cudaMalloc((void **)&pair.y, sizeof x);
    emul_k_add_one_pair(NULL, pair, 4);
}

static void arguments_that_a_device_cannot_use_stop_the_launch(void **state)
{
    (void)state;
    assert_stops(launch_5_billion_blocks, "do not fit");
    assert_stops(launch_with_host_memory, "argument 1 of kernel add_one");
    assert_stops(launch_with_host_memory_in_a_struct, "argument 1 of kernel add_one_pair");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_over_a_block_are_right_and_the_same_in_every_order),
        cmocka_unit_test(a_sort_in_dynamic_shared_memory_is_right_in_every_order),
        cmocka_unit_test(shuffles_and_votes_do_what_cuda_says),
        cmocka_unit_test(warp_operations_wait_for_the_lanes_of_their_mask_only),
        cmocka_unit_test(atomics_lose_nothing),
        cmocka_unit_test(every_thread_of_every_block_runs_once),
        cmocka_unit_test(shared_memory_above_48_kib_must_be_asked_for),
        cmocka_unit_test(launches_that_no_device_takes_are_refused),
        cmocka_unit_test(arguments_that_a_device_cannot_use_stop_the_launch),
    };

    return cmocka_run_group_tests_name("emul_kernels", tests, NULL, NULL);
}
