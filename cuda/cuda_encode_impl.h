/* Private to encode on a GPU: cuda_encode.c plans, shares memory out and walks the tiles,
 * cuda_encode_lists.c does what a list's rule asks for. */
#ifndef REFRACT_CUDA_ENCODE_IMPL_H
#define REFRACT_CUDA_ENCODE_IMPL_H

#include "cuda_impl.h"
#include "k_batch_topk.h"
#include "k_encode.h"
#include "k_encode_pool.h"
#include "k_select.h"

/* One list. */
typedef struct rf_cuda_list {
    const rf_select_list *list;
    rf_k_bounds bounds; /* of exact rules */
    rf_k_topk topk;     /* of TOPK */
    rf_k_batch batch;   /* of BATCH_TOPK */
    rf_k_pool pool;     /* of the others */
    int64_t *start;     /* [B + 1] where rows begin */
    int64_t n_unpruned; /* tiles that a BATCH_TOPK list took since it was pruned */
    char *zeroed;       /* counters, which begin with 0 */
    size_t zeroed_bytes;
} rf_cuda_list;

typedef struct rf_cuda_encode_plan {
    const rf_encode_args *args;
    cudaStream_t stream;
    int64_t n_rows, width, n_latents;
    int64_t block_rows, tile, n_steps; /* tile: whole steps */
    float *products;                   /* [block_rows, tile] */
    rf_k_operand x, w;                 /* with copies where products are of bf16 */
    rf_k_exact exact;
    rf_k_extremes *extremes;
    float *norm, *row_scale; /* [F], [B] */
    uint8_t *row_on;         /* [B] */
    rf_cuda_list lists[RF_MAX_LISTS];
} rf_cuda_encode_plan;

/* Shares memory out; with carver->base NULL only adds up. */
void rf_cuda_list_carve(rf_carver *carver, const rf_cuda_encode_plan *plan, rf_cuda_list *list);
/* Before the first tile: bounds and counters. */
rf_status rf_cuda_list_begin(const rf_cuda_encode_plan *plan, rf_cuda_list *list);
void rf_cuda_list_take(const rf_cuda_encode_plan *plan, rf_cuda_list *list, rf_k_tile tile);
/* After the last tile: codes. */
void rf_cuda_list_finish(const rf_cuda_encode_plan *plan, rf_cuda_list *list);

/* For tests: so many rows and latents a tile (in whole steps) instead of what the cache holds; 0:
 * as the cache says. */
void rf_cuda_encode_set_tile(int64_t n_rows, int64_t n_latents);

#endif
