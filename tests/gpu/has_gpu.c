/* Whether there is a GPU to run the tests of label gpu on: 0, or 77 and why not. A driver that is
 * too old, or a GPU that does not answer, is a failure: nothing should be skipped for that. */
#include <cuda_runtime_api.h>

#include <stdbool.h>
#include <stdio.h>

enum { SKIPPED = 77 };

static int describe(int n)
{
    for (int i = 0; i < n; i++) {
        struct cudaDeviceProp p;
        const cudaError_t code = cudaGetDeviceProperties(&p, i);
        if (code != cudaSuccess) {
            printf("GPU %d: %s\n", i, cudaGetErrorString(code));
            return 1;
        }
        printf("GPU %d: %s, sm_%d%d, %.1f GB, second-level cache %.1f MB\n", i, p.name, p.major,
               p.minor, (double)p.totalGlobalMem * 1e-9, (double)p.l2CacheSize * 1e-6);
    }
    return 0;
}

int main(void)
{
    int n = 0, driver = 0, runtime = 0;
    (void)cudaDriverGetVersion(&driver); /* 0: there is none */
    (void)cudaRuntimeGetVersion(&runtime);
    const cudaError_t code = cudaGetDeviceCount(&n);
    const bool is_absent = code == cudaErrorNoDevice || driver == 0;
    if (is_absent) {
        printf("skipped: no GPU: %s\n", cudaGetErrorString(code));
        return SKIPPED;
    }
    printf("CUDA %d.%d, driver for %d.%d\n", runtime / 1000, runtime % 1000 / 10, driver / 1000,
           driver % 1000 / 10);
    if (code != cudaSuccess) {
        printf("GPUs: %s\n", cudaGetErrorString(code));
        return 1;
    }
    return describe(n);
}
