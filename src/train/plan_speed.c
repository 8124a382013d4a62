/* Where a plan's arithmetic will be done, what memory there is, and how fast a product is here. */
#include "plan_impl.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

enum {
    PRODUCT_SIDE = 1024, /* of the CPU's product */
    DEVICE_SIDE = 256,   /* a device's grows from here until it takes ENOUGH_SECONDS */
    LARGEST_SIDE = 4096,
    PRODUCT_RUNS = 5,
};
static const double ENOUGH_SECONDS = 2e-3;

/* ---- memory ------------------------------------------------------------------------------------
 */

/* MemAvailable, shared by the ranks as if all were here; 0 where the system does not say. */
static double find_free_bytes(int n_ranks)
{
    static const char key[] = "MemAvailable:";
    double bytes = 0;
    char line[256];
    FILE *f = fopen("/proc/meminfo", "re");

    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        int64_t kib = 0;
        if (strncmp(line, key, sizeof key - 1) == 0) {
            char *digits = line + strcspn(line, "0123456789");
            digits[strspn(digits, "0123456789")] = '\0';
            bytes = rf_parse_i64(digits, &kib) == RF_OK ? (double)kib * 1024 / n_ranks : 0;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return bytes;
}

static double find_device_bytes(const rf_backend *be)
{
    int64_t free_bytes = 0, all_bytes = 0;
    rf_backend_memory(be, &free_bytes, &all_bytes);
    return (double)free_bytes;
}

/* ---- speed -------------------------------------------------------------------------------------
 */

/* The best of a few, in seconds. */
static rf_status time_side(rf_stream *s, void *const *blocks, int64_t n, rf_products products,
                           double *out)
{
    rf_status status = RF_OK;
    const rf_matmul_args args = {.a = rf_view_2d(blocks[0], n, n),
                                 .b = rf_view_2d(blocks[1], n, n),
                                 .c = rf_view_2d(blocks[2], n, n),
                                 .products = products,
                                 .trans_b = RF_TRANS,
                                 .alpha = 1};
    *out = INFINITY;
    for (int i = 0; i < PRODUCT_RUNS; i++) {
        const double start = rf_now();
        RF_TRY(rf_matmul(s, &args));
        RF_TRY(rf_stream_synchronise(s));
        *out = fmin(*out, rf_now() - start);
    }
fail:
    return status;
}

/* As the coders multiply: TF32 where all nominate in no more than that. */
static rf_products products_of(const rf_plan *p)
{
    for (int64_t i = 0; i < p->settings->n_coders; i++) {
        if (p->settings->coders[i].coder.products == RF_PRODUCTS_F32) {
            return RF_PRODUCTS_F32;
        }
    }
    return RF_PRODUCTS_TF32;
}

/* FLOP a second of a product, and bytes a second of a copy. */
static rf_status time_product(rf_plan *p, rf_stream *s, void *const *blocks, size_t n_bytes)
{
    rf_status status = RF_OK;
    const bool is_device = p->on_device && p->is_here;
    double n = is_device ? DEVICE_SIDE : PRODUCT_SIDE, product = 0, copy = INFINITY;

    RF_TRY(time_side(s, blocks, (int64_t)n, products_of(p), &product));
    while (is_device && product < ENOUGH_SECONDS && n < LARGEST_SIDE) {
        n *= 2;
        RF_TRY(time_side(s, blocks, (int64_t)n, products_of(p), &product));
    }
    for (int i = 0; i < PRODUCT_RUNS; i++) {
        const double start = rf_now();
        RF_TRY(rf_copy_within(s, blocks[0], blocks[1], n_bytes));
        RF_TRY(rf_stream_synchronise(s));
        copy = fmin(copy, rf_now() - start);
    }
    p->flop_per_s = 2.0 * n * n * n / fmax(product, 1e-9);
    p->bytes_per_s = 2.0 * (double)n_bytes / fmax(copy, 1e-9);
fail:
    return status;
}

static rf_status time_backend(rf_plan *p, rf_backend *be)
{
    rf_status status = RF_OK;
    rf_stream *s = NULL;
    void *blocks[3] = {NULL};
    const size_t n_bytes = sizeof(float) * LARGEST_SIDE * LARGEST_SIDE; /* beyond caches */

    RF_TRY(rf_stream_create(be, &s));
    for (int i = 0; i < 3; i++) {
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, n_bytes, &blocks[i]));
        RF_TRY(rf_fill_bytes(s, blocks[i], i, n_bytes));
    }
    RF_TRY(time_product(p, s, blocks, n_bytes));
fail:
    for (int i = 0; i < 3; i++) {
        rf_memory_free(be, RF_MEMORY_DEVICE, blocks[i]);
    }
    rf_stream_destroy(s);
    return status;
}

/* ---- both --------------------------------------------------------------------------------------
 */

/* The backend that train.device asks for; the CPU's where this machine has no other. */
static rf_status open_backend(rf_plan *p, int n_threads, bool is_told, rf_backend **out)
{
    rf_status status = RF_OK;
    const rf_device device = (rf_device)p->settings->train.device;

    status = rf_backend_create(device, NULL, n_threads, out);
    p->is_here = status == RF_OK && strcmp(rf_backend_name(*out), "cpu") != 0;
    p->on_device = p->is_here || is_told || (device != RF_DEVICE_CPU && device != RF_DEVICE_AUTO);
    if (status == RF_ERR_UNSUPPORTED || status == RF_ERR_NOT_FOUND) { /* plans for elsewhere */
        status = rf_backend_cpu_create(n_threads, out);
    }
    return status;
}

rf_status rf_plan_measure(rf_plan *p, double device_bytes)
{
    rf_status status = RF_OK;
    rf_backend *be = NULL;
    cpu_set_t cores;
    int n_threads = 1;

    if (device_bytes > 0 && p->settings->train.device == RF_DEVICE_CPU) {
        RF_FAIL(RF_ERR_USAGE, "memory of a device, but train.device is the CPU");
    }
    CPU_ZERO(&cores);
    const int64_t n_cores = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
    p->n_threads = p->settings->train.threads > 0 ? p->settings->train.threads
                                                  : rf_max_i64(1, n_cores / p->n_ranks);
    RF_TRY(rf_cast_int(rf_min_i64(p->n_threads, n_cores), "threads", &n_threads));
    RF_TRY(open_backend(p, n_threads, device_bytes > 0, &be));
    if (!p->on_device) {
        p->free_bytes = find_free_bytes(p->n_ranks);
    } else {
        p->free_bytes = device_bytes > 0 ? device_bytes : p->is_here ? find_device_bytes(be) : 0;
    }
    status = time_backend(p, be);
    if (status == RF_ERR_NO_MEMORY && p->is_here) { /* a device that is full already */
        p->is_here = false;
        rf_backend_destroy(be);
        be = NULL;
        RF_TRY(rf_backend_cpu_create(n_threads, &be));
        status = time_backend(p, be);
    }
fail:
    rf_backend_destroy(be);
    return status;
}
