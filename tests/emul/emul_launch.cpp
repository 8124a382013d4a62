/* Launches, and what a device would refuse of them or fall over. */
#include "emul_block.h"

#include "cudart_emul.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#if EMUL_ASAN
extern "C" void __asan_get_shadow_mapping(size_t *scale, size_t *offset);
#endif

using namespace emul;

namespace
{
struct allowance {
    const void *kernel;
    size_t shared_bytes;
};
allowance allowances[256]; /* under the lock */
int n_allowances;
} // namespace

static size_t *asked_shared(const void *kernel)
{
    for (int i = 0; i < n_allowances; i++) {
        if (allowances[i].kernel == kernel) {
            return &allowances[i].shared_bytes;
        }
    }
    if (n_allowances == 256) {
        emul_die("more than 256 kernels");
    }
    allowances[n_allowances] = allowance{kernel, 0};
    return &allowances[n_allowances++].shared_bytes;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    cudaError_t error = emul_enter("cudaFuncSetAttribute", cudaErrorUnknown);

    if (error == cudaSuccess && attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value < 0 || size_t(value) > SHARED_OPTIN_BYTES) {
            error = cudaErrorInvalidValue;
        } else {
            *asked_shared(kernel) = size_t(value);
        }
    }
    return emul_leave(error);
}

bool emul_is_launchable(emul_grid *g, const void *kernel, cudaStream_t stream)
{
    cudaError_t error = emul_enter("launch", cudaErrorLaunchOutOfResources);
    size_t n_threads = size_t(g->block.x) * g->block.y * g->block.z;

    if (error == cudaSuccess &&
        (n_threads == 0 || n_threads > MOST_THREADS || g->block.z > 64 || g->grid.x == 0 ||
         g->grid.y == 0 || g->grid.z == 0 || g->grid.x > 0x7fffffffu || g->grid.y > 65535 ||
         g->grid.z > 65535)) {
        error = cudaErrorInvalidConfiguration;
    }
    g->asked_bytes = *asked_shared(kernel);
    if (error == cudaSuccess && g->shared_bytes > SHARED_BYTES &&
        g->shared_bytes > g->asked_bytes) {
        error = cudaErrorInvalidValue;
    }
    if (error == cudaSuccess && emul_stream_device(stream) != emul_current_device()) {
        error = cudaErrorInvalidResourceHandle;
    }
    if (error == cudaErrorInvalidConfiguration || error == cudaErrorInvalidValue ||
        error == cudaErrorInvalidResourceHandle) {
        fprintf(stderr,
                "emul: a launch of %s was refused: grid (%u,%u,%u), block (%u,%u,%u), %zu bytes of "
                "shared memory: %s\n",
                g->name, g->grid.x, g->grid.y, g->grid.z, g->block.x, g->block.y, g->block.z,
                g->shared_bytes, cudaGetErrorString(error));
    }
    return emul_leave(error) == cudaSuccess;
}

void emul_check_pointer(const char *kernel, int i, const void *p)
{
    char at[256];

    if (p != nullptr && !emul_is_device_range(p, 0) && !emul_is_pinned_range(p, 0)) {
        emul_describe(p, at, sizeof at);
        emul_die("argument %d of kernel %s, %p, is no memory of the device: %s", i, kernel, p, at);
    }
}

/* The address sanitizer's own memory, which two small numbers side by side may seem to point to. */
static bool is_shadow(uintptr_t word)
{
#if EMUL_ASAN
    size_t scale, offset;

    __asan_get_shadow_mapping(&scale, &offset);
    return word >= offset && word - offset < uintptr_t(1) << (47 - scale);
#else
    (void)word;
    return false;
#endif
}

void emul_check_struct(const char *kernel, int i, const void *p, size_t n_bytes)
{
    const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));

    for (size_t at = 0; at + sizeof(uintptr_t) <= n_bytes; at += sizeof(uintptr_t)) {
        uintptr_t word;
        unsigned char resident;

        memcpy(&word, static_cast<const char *>(p) + at, sizeof word);
        if (word >> 32 == 0 || word >> 47 != 0 || is_shadow(word)) {
            continue; /* a number */
        }
        /* Of the host. What looks like the device's may be a float and what was in its padding; the
         * kernel will show. */
        void *page_of = reinterpret_cast<void *>(word / page * page);
        if (!emul_touches_device(reinterpret_cast<void *>(word), 1) &&
            mincore(page_of, 1, &resident) == 0) {
            emul_check_pointer(kernel, i, reinterpret_cast<void *>(word));
        }
    }
}

unsigned emul_extent(const char *kernel, long long n)
{
    if (n < 0 || n > 0xffffffffll) {
        emul_die("%lld blocks or threads for kernel %s do not fit the launch's 32 bits", n, kernel);
    }
    return unsigned(n);
}
