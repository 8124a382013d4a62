/* Bare products of a forward pass (forward_bare.h). */
#include "forward_bare.h"

#include <dnnl.h>
#include <omp.h>

static int64_t weights_of_layer(const bare *b)
{
    return 12 * b->width * b->width;
}

static int64_t n_weights(const bare *b)
{
    return b->patch_values * b->width + b->layers * weights_of_layer(b);
}

/* n numbers on the device. */
static rf_status make_floats(const bare *b, int64_t n, float **out)
{
    rf_status status = RF_OK;
    const size_t n_bytes = (size_t)n * sizeof(float);
    float *host = NULL;
    RF_ALLOC(host, n);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        host[i] = (float)(i % 1021) * 1e-3f - 0.5f;
    }
    RF_TRY(rf_memory_alloc(rf_stream_backend(b->s), RF_MEMORY_DEVICE, n_bytes, (void **)out));
    RF_TRY(rf_copy_in(b->s, *out, host, n_bytes));
    RF_TRY(rf_stream_synchronise(b->s));
fail:
    rf_free(host);
    return status;
}

static rf_status make_half(bare *b)
{
    rf_status status = RF_OK;
    const int64_t n = n_weights(b);
    const rf_view from = rf_view_1d(b->weights, n);
    RF_TRY(rf_memory_alloc(rf_stream_backend(b->s), RF_MEMORY_DEVICE, (size_t)n * sizeof *b->half,
                           (void **)&b->half));
    const rf_view to = rf_view_nd(b->half, RF_BF16, 1, &n);
    RF_TRY(rf_convert(b->s, &from, &to));
fail:
    return status;
}

rf_status bare_init(bare *b)
{
    rf_status status = RF_OK;
    const int64_t n = b->batch * b->tokens, pattern = b->tokens * b->tokens;
    const int64_t patch_rows = b->batch * b->patches * b->patch_values;
    RF_TRY(make_floats(b, n * b->width, &b->rows));
    RF_TRY(make_floats(b, rf_max_i64(n * 4 * b->width, patch_rows), &b->hidden));
    RF_TRY(make_floats(b, n * b->width, &b->out));
    RF_TRY(make_floats(b, (b->on_cpu ? b->threads : b->batch * b->heads) * pattern, &b->scores));
    RF_TRY(make_floats(b, n_weights(b), &b->weights));
    if (b->has_half) {
        RF_TRY(make_half(b));
    }
fail:
    return status;
}

void bare_fini(bare *b)
{
    if (b->s != NULL) {
        void *const all[] = {b->rows, b->hidden, b->out, b->scores, b->weights, b->half};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            rf_memory_free(rf_stream_backend(b->s), RF_MEMORY_DEVICE, all[i]);
        }
    }
}

/* c [m, n] = a [m, k] . w [k, n], w from weight `at` on. */
static rf_status multiply(const bare *b, rf_products products, int64_t m, int64_t n, int64_t k,
                          float *a, int64_t at, float *c)
{
    if (b->on_cpu) {
        dnnl_sgemm('N', 'N', m, n, k, 1.0f, a, k, b->weights + at, n, 0.0f, c, n);
        return RF_OK;
    }
    const bool is_half = products == RF_PRODUCTS_BF16;
    const int64_t shape[] = {k, n};
    const rf_matmul_args args = {.a = rf_view_2d(a, m, k),
                                 .b = is_half ? rf_view_nd(b->half + at, RF_BF16, 2, shape)
                                              : rf_view_2d(b->weights + at, k, n),
                                 .c = rf_view_2d(c, m, n),
                                 .products = is_half ? RF_PRODUCTS_F32 : products,
                                 .alpha = 1.0f};
    return rf_matmul(b->s, &args);
}

static void attention_on_cpu(const bare *b)
{
    const int64_t d = b->width, t = b->tokens, width = d / b->heads;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < b->batch * b->heads; i++) {
        const int64_t at = i / b->heads * t * d + i % b->heads * width;
        float *scores = b->scores + omp_get_thread_num() * t * t;
        dnnl_sgemm('N', 'T', t, t, width, 1.0f, b->rows + at, d, b->hidden + at, d, 0.0f, scores,
                   t);
        dnnl_sgemm('N', 'N', t, width, t, 1.0f, scores, t, b->hidden + at, d, 0.0f, b->out + at, d);
    }
}

static rf_status attention(const bare *b, rf_products products)
{
    rf_status status = RF_OK;
    const int64_t heads[] = {b->batch, b->tokens, b->heads, b->width / b->heads};
    const int64_t pattern[] = {b->batch, b->heads, b->tokens, b->tokens};
    const rf_attention_args args = {.q = rf_view_nd(b->rows, RF_F32, 4, heads),
                                    .k = rf_view_nd(b->hidden, RF_F32, 4, heads),
                                    .v = rf_view_nd(b->hidden, RF_F32, 4, heads),
                                    .z = rf_view_nd(b->out, RF_F32, 4, heads),
                                    .pattern = rf_view_nd(b->scores, RF_F32, 4, pattern),
                                    .scale = 1.0f,
                                    .products = products};
    if (b->on_cpu) {
        attention_on_cpu(b);
        return RF_OK;
    }
    RF_TRY(rf_attention_scores(b->s, &args));
    RF_TRY(rf_attention_mix(b->s, &args));
fail:
    return status;
}

rf_status bare_run(const bare *b, rf_products products)
{
    rf_status status = RF_OK;
    const int64_t d = b->width, n = b->batch * b->tokens;
    int64_t w = b->patch_values * d;
    RF_TRY(multiply(b, products, b->batch * b->patches, d, b->patch_values, b->hidden, 0, b->rows));
    for (int64_t layer = 0; layer < b->layers; layer++, w += weights_of_layer(b)) {
        for (int64_t i = 0; i < 3; i++) { /* q, k and v */
            RF_TRY(multiply(b, products, n, d, d, b->rows, w + i * d * d, b->out));
        }
        RF_TRY(attention(b, products));
        RF_TRY(multiply(b, products, n, d, d, b->rows, w + 3 * d * d, b->out));
        RF_TRY(multiply(b, products, n, 4 * d, d, b->rows, w + 4 * d * d, b->hidden));
        RF_TRY(multiply(b, products, n, d, 4 * d, b->hidden, w + 8 * d * d, b->out));
    }
    RF_TRY(rf_stream_synchronise(b->s));
fail:
    return status;
}
