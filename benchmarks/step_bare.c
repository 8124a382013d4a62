/* Bare products (step_bare.h). */
#include "step_bare.h"

#include <dnnl.h>
#include <omp.h>

static const struct {
    const char *name;
    int64_t rows, latents; /* 0: whole, on all threads */
} forms[MAX_BARE] = {
    {"whole", 0, 0}, {"tiles 256 x 1024", 256, 1024}, {"tiles 512 x 2048", 512, 2048}};

int bare_count(const bare *b)
{
    return b->on_cpu ? MAX_BARE : 1;
}

const char *bare_name(const bare *b, int which)
{
    return b->on_cpu ? forms[which].name : rf_products_names[b->products];
}

rf_status bare_init(bare *b)
{
    rf_status status = RF_OK;
    rf_backend *be = rf_stream_backend(b->s);
    const int64_t tiles = b->on_cpu ? (int64_t)omp_get_max_threads() * 512 * 2048 : 0;
    const size_t n = (size_t)rf_max_i64(b->batch * b->latents, tiles);
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, n * sizeof(float), (void **)&b->results));
    if (!b->on_cpu && b->products == RF_PRODUCTS_BF16) {
        const int64_t shape[] = {b->latents, b->width};
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE,
                               (size_t)(b->latents * b->width) * sizeof(uint16_t), &b->w_half));
        const rf_view half = rf_view_nd(b->w_half, RF_BF16, 2, shape);
        RF_TRY(rf_convert(b->s, &b->w, &half));
    }
fail:
    return status;
}

void bare_fini(bare *b)
{
    if (b->s != NULL) {
        rf_memory_free(rf_stream_backend(b->s), RF_MEMORY_DEVICE, b->results);
        rf_memory_free(rf_stream_backend(b->s), RF_MEMORY_DEVICE, b->w_half);
    }
}

static void on_cpu(const bare *b, int which, const float *x)
{
    const float *w = b->w.data;
    const int64_t d = b->width, rows = forms[which].rows, latents = forms[which].latents;
    if (rows == 0) {
        dnnl_sgemm('N', 'T', b->batch, b->latents, d, 1.0f, x, d, w, d, 0.0f, b->results,
                   b->latents);
        return;
    }
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t r = 0; r < b->batch; r += rows) {
        float *out = b->results + omp_get_thread_num() * rows * latents;
        for (int64_t f = 0; f < b->latents; f += latents) {
            dnnl_sgemm('N', 'T', rf_min_i64(rows, b->batch - r),
                       rf_min_i64(latents, b->latents - f), d, 1.0f, x + r * d, d, w + f * d, d,
                       0.0f, out, latents);
        }
    }
}

/* bf16: x is rounded on the way, a pass over little memory; and w is taken for its transpose, which
 * rf_matmul wants there: the same shape, and speed does not hang on which number stands where. */
static rf_status on_device(const bare *b, const float *x)
{
    rf_status status = RF_OK;
    rf_matmul_args args = {.a = rf_view_2d((void *)(uintptr_t)x, b->batch, b->width),
                           .b = b->w,
                           .c = rf_view_2d(b->results, b->batch, b->latents),
                           .trans_b = RF_TRANS,
                           .products = b->products,
                           .alpha = 1.0f};
    if (b->w_half != NULL) {
        const int64_t shape[] = {b->width, b->latents};
        args.b = rf_view_nd(b->w_half, RF_BF16, 2, shape);
        args.trans_b = RF_NO_TRANS;
        args.products = RF_PRODUCTS_F32; /* b's type says it */
    }
    RF_TRY(rf_matmul(b->s, &args));
    RF_TRY(rf_stream_synchronise(b->s));
fail:
    return status;
}

rf_status bare_run(const bare *b, int which, const float *x, double *seconds)
{
    rf_status status = RF_OK;
    const double t0 = rf_now();
    if (b->on_cpu) {
        on_cpu(b, which, x);
    } else {
        RF_TRY(on_device(b, x));
    }
    *seconds = rf_now() - t0;
fail:
    return status;
}
