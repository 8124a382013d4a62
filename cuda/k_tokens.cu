/* Pictures to rows, rows to tokens, rows by index, means, rotary positions; and their gradients.
 * Sums over pictures, tokens and rows go in their order, one thread an element. */
#include "k_tokens.h"

#include "device_math.h"

enum { BLOCK = 256 };

/* Columns along x, anything else along y. */
static __device__ inline int64_t column(void)
{
    return (int64_t)blockIdx.x * BLOCK + threadIdx.x;
}

static dim3 grid_of(int64_t n, int64_t d)
{
    return dim3(rf_blocks(d, BLOCK), rf_blocks_y(n));
}

/* ---- patches -----------------------------------------------------------------------------------
 */

/* Where element j of row i is in the images. */
static __device__ inline int64_t pixel_of(const rf_patches &p, int64_t i, int64_t j)
{
    const int64_t px = i % p.n_x, py = i / p.n_x % p.n_y, t = i / p.n_x / p.n_y % p.n_t;
    const int64_t b = i / p.n_x / p.n_y / p.n_t;
    const int64_t x = j % p.patch, y = j / p.patch % p.patch;
    const int64_t f = j / p.patch / p.patch % p.tubelet, c = j / p.patch / p.patch / p.tubelet;
    return b * p.stride[0] + (t * p.tubelet + f) * p.stride[1] + c * p.stride[2] +
           (py * p.patch + y) * p.stride[3] + px * p.patch + x;
}

static __global__ void patch_rows(rf_patches p, int64_t n, int64_t d)
{
    const int64_t j = column();
    for (int64_t i = blockIdx.y; i < n && j < d; i += gridDim.y) {
        p.rows.data[i * p.rows.stride + j] = p.images[pixel_of(p, i, j)];
    }
}

void rf_k_patch_rows(cudaStream_t stream, rf_patches p)
{
    const int64_t n = p.n_pictures * p.n_t * p.n_y * p.n_x;
    const int64_t d = p.n_channels * p.tubelet * p.patch * p.patch;
    GPU_LAUNCH(patch_rows, grid_of(n, d), dim3(BLOCK), 0, stream, p, n, d);
}

/* What pixel (c, y, x) of frame f of picture b went to; 0 at a border that fills no patch. */
static __device__ inline float from_rows(const rf_patches &p, int64_t b, int64_t f, int64_t c,
                                         int64_t y, int64_t x)
{
    const int64_t t = f / p.tubelet, py = y / p.patch, px = x / p.patch;
    float value = 0.0f;
    if (t < p.n_t && py < p.n_y && px < p.n_x) {
        const int64_t row = ((b * p.n_t + t) * p.n_y + py) * p.n_x + px;
        const int64_t at = ((c * p.tubelet + f % p.tubelet) * p.patch + y % p.patch) * p.patch;
        value = p.rows.data[row * p.rows.stride + at + x % p.patch];
    }
    return value;
}

/* A thread has one pixel of all frames: they may share their memory. */
static __global__ void patch_rows_grad(rf_patches p)
{
    const int64_t x = column(), n_lines = p.n_pictures * p.n_channels * p.height;
    for (int64_t i = blockIdx.y; i < n_lines && x < p.width; i += gridDim.y) {
        const int64_t y = i % p.height, c = i / p.height % p.n_channels;
        const int64_t b = i / p.height / p.n_channels;
        float *to = p.images + b * p.stride[0] + c * p.stride[2] + y * p.stride[3] + x;
        for (int64_t f = 0; f < p.n_frames; f++) {
            to[f * p.stride[1]] = 0.0f;
        }
        for (int64_t f = 0; f < p.n_frames; f++) {
            to[f * p.stride[1]] += from_rows(p, b, f, c, y, x);
        }
    }
}

void rf_k_patch_rows_grad(cudaStream_t stream, rf_patches p)
{
    const int64_t n_lines = p.n_pictures * p.n_channels * p.height;
    GPU_LAUNCH(patch_rows_grad, grid_of(n_lines, p.width), dim3(BLOCK), 0, stream, p);
}

/* ---- tokens ------------------------------------------------------------------------------------
 */

static __global__ void embed_tokens(rf_tokens t, int64_t n)
{
    const int64_t j = column(), n_tokens = t.n_prefix + t.n_patches;
    for (int64_t i = blockIdx.y; i < n && j < t.d; i += gridDim.y) {
        const int64_t token = i % n_tokens - t.n_prefix, b = i / n_tokens;
        float value;
        if (token < 0) {
            value = t.prefix.data[(token + t.n_prefix) * t.prefix.stride + j];
        } else {
            value = t.patches.data[(b * t.n_patches + token) * t.patches.stride + j];
            if (t.position.data != NULL) {
                value += t.position.data[token * t.position.stride + j];
            }
        }
        t.out[i * t.d + j] = value;
    }
}

void rf_k_embed_tokens(cudaStream_t stream, rf_tokens t)
{
    const int64_t n = t.n_pictures * (t.n_prefix + t.n_patches);
    GPU_LAUNCH(embed_tokens, grid_of(n, t.d), dim3(BLOCK), 0, stream, t, n);
}

static __global__ void patches_of_tokens(rf_tokens t, int64_t n)
{
    const int64_t j = column(), n_tokens = t.n_prefix + t.n_patches;
    for (int64_t i = blockIdx.y; i < n && j < t.d; i += gridDim.y) {
        const int64_t from = i / t.n_patches * n_tokens + t.n_prefix + i % t.n_patches;
        t.patches.data[i * t.patches.stride + j] = t.out[from * t.d + j];
    }
}

/* Sums over pictures, of one token each. */
static __global__ void sum_over_pictures(rf_tokens t)
{
    const int64_t j = column(), n_tokens = t.n_prefix + t.n_patches;
    for (int64_t token = blockIdx.y; token < n_tokens && j < t.d; token += gridDim.y) {
        const rf_rows to = token < t.n_prefix ? t.prefix : t.position;
        const int64_t row = token < t.n_prefix ? token : token - t.n_prefix;
        if (to.data != NULL) {
            double sum = 0.0;
            for (int64_t b = 0; b < t.n_pictures; b++) {
                sum += (double)t.out[(b * n_tokens + token) * t.d + j];
            }
            float *at = to.data + row * to.stride + j;
            *at = (float)((double)*at + sum);
        }
    }
}

void rf_k_embed_tokens_grad(cudaStream_t stream, rf_tokens t)
{
    const int64_t n = t.n_pictures * t.n_patches;
    if (t.patches.data != NULL && n > 0) {
        GPU_LAUNCH(patches_of_tokens, grid_of(n, t.d), dim3(BLOCK), 0, stream, t, n);
    }
    if (t.prefix.data != NULL || t.position.data != NULL) {
        GPU_LAUNCH(sum_over_pictures, grid_of(t.n_prefix + t.n_patches, t.d), dim3(BLOCK), 0,
                   stream, t);
    }
}

/* ---- rows by index -----------------------------------------------------------------------------
 */

static __global__ void gather_rows(rf_rows src, int64_t n, const int64_t *index, rf_rows dst,
                                   int64_t m, int64_t d)
{
    const int64_t j = column();
    for (int64_t i = blockIdx.y; i < m && j < d; i += gridDim.y) {
        const int64_t row = index[i];
        const bool is_row = row >= 0 && row < n;
        dst.data[i * dst.stride + j] =
            is_row ? src.data[row * src.stride + j] : __uint_as_float(0x7fc00000u);
    }
}

void rf_k_gather_rows(cudaStream_t stream, rf_rows src, int64_t n, const int64_t *index,
                      rf_rows dst, int64_t m, int64_t d)
{
    GPU_LAUNCH(gather_rows, grid_of(m, d), dim3(BLOCK), 0, stream, src, n, index, dst, m, d);
}

/* A row may be named twice: a thread has a column of all of them. */
static __global__ void gather_rows_grad(rf_rows dst, int64_t m, const int64_t *index, rf_rows src,
                                        int64_t n, int64_t d)
{
    const int64_t j = column();
    for (int64_t i = 0; i < m && j < d; i++) {
        const int64_t row = index[i];
        if (row >= 0 && row < n) {
            src.data[row * src.stride + j] += dst.data[i * dst.stride + j];
        }
    }
}

void rf_k_gather_rows_grad(cudaStream_t stream, rf_rows dst, int64_t m, const int64_t *index,
                           rf_rows src, int64_t n, int64_t d)
{
    GPU_LAUNCH(gather_rows_grad, dim3(rf_blocks(d, BLOCK)), dim3(BLOCK), 0, stream, dst, m, index,
               src, n, d);
}

/* ---- means -------------------------------------------------------------------------------------
 */

static __global__ void mean_tokens(const float *x, int64_t picture_stride, int64_t token_stride,
                                   int64_t n, rf_rows y, int64_t n_pictures, int64_t d)
{
    const int64_t j = column();
    for (int64_t b = blockIdx.y; b < n_pictures && j < d; b += gridDim.y) {
        double sum = 0.0;
        for (int64_t t = 0; t < n; t++) {
            sum += (double)x[b * picture_stride + t * token_stride + j];
        }
        y.data[b * y.stride + j] = (float)(sum / (double)n);
    }
}

void rf_k_mean_tokens(cudaStream_t stream, const float *x, int64_t picture_stride,
                      int64_t token_stride, int64_t n, rf_rows y, int64_t n_pictures, int64_t d)
{
    GPU_LAUNCH(mean_tokens, grid_of(n_pictures, d), dim3(BLOCK), 0, stream, x, picture_stride,
               token_stride, n, y, n_pictures, d);
}

static __global__ void mean_tokens_grad(rf_rows d_y, int64_t n, float *d_x, int64_t picture_stride,
                                        int64_t token_stride, int64_t n_pictures, int64_t d)
{
    const int64_t j = column();
    for (int64_t i = blockIdx.y; i < n_pictures * n && j < d; i += gridDim.y) {
        const int64_t b = i / n, t = i % n;
        d_x[b * picture_stride + t * token_stride + j] += d_y.data[b * d_y.stride + j] / (float)n;
    }
}

void rf_k_mean_tokens_grad(cudaStream_t stream, rf_rows d_y, int64_t n, float *d_x,
                           int64_t picture_stride, int64_t token_stride, int64_t n_pictures,
                           int64_t d)
{
    GPU_LAUNCH(mean_tokens_grad, grid_of(n_pictures * n, d), dim3(BLOCK), 0, stream, d_y, n, d_x,
               picture_stride, token_stride, n_pictures, d);
}

/* ---- rotary positions --------------------------------------------------------------------------
 */

/* A thread turns one pair (a, b), read before it is written: turned(a) = -b, turned(b) = a.
 * Products and sums are rounded apart, as the models' own code does. */
static __global__ void rotary(rf_turned r, int64_t n)
{
    const int64_t j = column();
    for (int64_t i = blockIdx.y; i < n && j < r.n_heads * r.half; i += gridDim.y) {
        const int64_t b = i / r.n_tokens, t = i % r.n_tokens, h = j / r.half, k = j % r.half;
        const int64_t at_a = r.is_adjacent ? 2 * k : k,
                      at_b = r.is_adjacent ? at_a + 1 : k + r.half;
        const float *x = r.x + b * r.x_stride[0] + t * r.x_stride[1] + h * r.x_stride[2];
        float *y = r.y + b * r.y_stride[0] + t * r.y_stride[1] + h * r.y_stride[2];
        const float *c = r.cos.data + t * r.cos.stride, *s = r.sin.data + t * r.sin.stride;
        const float xa = x[at_a], xb = x[at_b];
        if (r.is_transposed) {
            y[at_a] = xa * c[at_a] + xb * s[at_b];
            y[at_b] = xb * c[at_b] - xa * s[at_a];
        } else {
            y[at_a] = xa * c[at_a] - xb * s[at_a];
            y[at_b] = xb * c[at_b] + xa * s[at_b];
        }
    }
}

void rf_k_rotary(cudaStream_t stream, rf_turned t)
{
    const int64_t n = t.n_pictures * t.n_tokens;
    GPU_LAUNCH(rotary, grid_of(n, t.n_heads * t.half), dim3(BLOCK), 0, stream, t, n);
}

/* ---- sums over rows ----------------------------------------------------------------------------
 */

static __global__ void dot_blocks(rf_rows x, rf_rows y, int64_t n, int64_t d, float *partial)
{
    const int64_t j = column(), n_blocks = (n + RF_K_COLUMN_ROWS - 1) / RF_K_COLUMN_ROWS;
    for (int64_t k = blockIdx.y; k < n_blocks && j < d; k += gridDim.y) {
        const int64_t end = (k + 1) * RF_K_COLUMN_ROWS < n ? (k + 1) * RF_K_COLUMN_ROWS : n;
        float sum = 0.0f;
        for (int64_t i = k * RF_K_COLUMN_ROWS; i < end; i++) {
            sum = fmaf(x.data[i * x.stride + j], y.data[i * y.stride + j], sum);
        }
        partial[k * d + j] = sum;
    }
}

static __global__ void add_blocks(const float *partial, int64_t n_blocks, int64_t d, float *out)
{
    const int64_t j = column();
    if (j < d) {
        double sum = 0.0;
        for (int64_t k = 0; k < n_blocks; k++) {
            sum += (double)partial[k * d + j];
        }
        out[j] = (float)((double)out[j] + sum);
    }
}

void rf_k_column_dot(cudaStream_t stream, rf_rows x, rf_rows y, int64_t n, int64_t d,
                     float *partial, float *out)
{
    const int64_t n_blocks = (n + RF_K_COLUMN_ROWS - 1) / RF_K_COLUMN_ROWS;
    GPU_LAUNCH(dot_blocks, grid_of(n_blocks, d), dim3(BLOCK), 0, stream, x, y, n, d, partial);
    GPU_LAUNCH(add_blocks, dim3(rf_blocks(d, BLOCK)), dim3(BLOCK), 0, stream, partial, n_blocks, d,
               out);
}
