/* Launchers of what ranks do with what they got from each other. */
#ifndef REFRACT_K_RANKS_H
#define REFRACT_K_RANKS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* own [n] = the sum over ranks in rising order, element by element: those of `rank` are in `own`,
 * those of the others in copies [n_ranks, n], whose row `rank` is not read. */
void rf_k_sum_in_rank_order(cudaStream_t stream, const float *copies, int n_ranks, int rank,
                            int64_t n, float *own);

#ifdef __cplusplus
}
#endif

#endif
