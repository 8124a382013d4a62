/* Sums over ranks whose order does not depend on the library that moves the bytes. */
#include "k_ranks.h"

#include "gpu_port.h"

enum { THREADS = 256 };

/* Bound by memory: n_ranks + 1 floats an element. */
static __global__ void sum_in_rank_order(const float *copies, int n_ranks, int rank, int64_t n,
                                         float *own)
{
    const int64_t step = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step) {
        const float mine = own[i];
        float sum = rank == 0 ? mine : copies[i];
        for (int r = 1; r < n_ranks; r++) {
            sum += r == rank ? mine : copies[r * n + i];
        }
        own[i] = sum;
    }
}

void rf_k_sum_in_rank_order(cudaStream_t stream, const float *copies, int n_ranks, int rank,
                            int64_t n, float *own)
{
    if (n > 0) {
        const int64_t blocks = (n + THREADS - 1) / THREADS;
        GPU_LAUNCH(sum_in_rank_order, dim3((unsigned)(blocks < 65535 ? blocks : 65535), 1, 1),
                   dim3(THREADS, 1, 1), 0, stream, copies, n_ranks, rank, n, own);
    }
}
