/* CUDA's kernel language for a host compiler (C++17): the built-ins that cuda/gpu_port.h allows.
 * Every thread of a block is a fiber (emul_schedule.cpp); launches queue on the stand-in's streams.
 */
#ifndef REFRACT_GPU_EMUL_H
#define REFRACT_GPU_EMUL_H

#include <cuda_runtime.h>
#if !defined(REFRACT_EMUL)
#error "the CUDA toolkit's headers come before tests/emul/include"
#endif

#include "emul.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

/* ---- vectors ----------------------------------------------------------------------------------
 */

#define EMUL_VECTOR2(type, name, align)                                                            \
    struct __attribute__((aligned(align))) name {                                                  \
        type x, y;                                                                                 \
    };                                                                                             \
    static inline name make_##name(type x, type y)                                                 \
    {                                                                                              \
        return name{x, y};                                                                         \
    }
#define EMUL_VECTOR4(type, name, align)                                                            \
    struct __attribute__((aligned(align))) name {                                                  \
        type x, y, z, w;                                                                           \
    };                                                                                             \
    static inline name make_##name(type x, type y, type z, type w)                                 \
    {                                                                                              \
        return name{x, y, z, w};                                                                   \
    }
EMUL_VECTOR2(float, float2, 8)
EMUL_VECTOR2(double, double2, 16)
EMUL_VECTOR2(int, int2, 8)
EMUL_VECTOR2(unsigned, uint2, 8)
EMUL_VECTOR2(long long, longlong2, 16)
EMUL_VECTOR2(unsigned long long, ulonglong2, 16)
EMUL_VECTOR2(unsigned short, ushort2, 4)
EMUL_VECTOR4(float, float4, 16)
EMUL_VECTOR4(int, int4, 16)
EMUL_VECTOR4(unsigned, uint4, 16)
EMUL_VECTOR4(unsigned short, ushort4, 8)
EMUL_VECTOR4(unsigned char, uchar4, 4)

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

/* ---- where a thread is ------------------------------------------------------------------------
 */

struct emul_place {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
    unsigned char *dynamic; /* dynamic shared memory of the block */
};
extern emul_place emul_now;
#define threadIdx (emul_now.thread)
#define blockIdx (emul_now.block)
#define blockDim (emul_now.block_dim)
#define gridDim (emul_now.grid_dim)
#define warpSize 32

/* ---- shared memory: a place in the source is one array per block, NaN at first ------------------
 */

void *emul_shared(const char *file, int line, size_t n_bytes);
#define GPU_SHARED(type, name, count)                                                              \
    type(&name)[count] =                                                                           \
        *reinterpret_cast<type(*)[count]>(emul_shared(__FILE__, __LINE__, sizeof(type) * (count)))
#define GPU_DYN_SHARED(type, name) type *name = reinterpret_cast<type *>(emul_now.dynamic)

/* ---- barriers and warps -----------------------------------------------------------------------
 */

enum emul_warp_kind {
    EMUL_SYNC,
    EMUL_IDX,
    EMUL_UP,
    EMUL_DOWN,
    EMUL_XOR,
    EMUL_BALLOT,
    EMUL_ANY,
    EMUL_ALL
};
void emul_barrier(const char *file, int line);
uint64_t emul_warp(const char *file, int line, unsigned mask, emul_warp_kind kind, uint64_t value,
                   int arg, int width);

template <class T>
static inline T emul_shuffle(const char *file, int line, emul_warp_kind kind, unsigned mask,
                             T value, int arg, int width = 32)
{
    static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8),
                  "shuffles move 4 or 8 bytes");
    uint64_t bits = 0;

    memcpy(&bits, &value, sizeof value);
    bits = emul_warp(file, line, mask, kind, bits, arg, width);
    memcpy(&value, &bits, sizeof value);
    return value;
}
struct emul_site {
    const char *file;
    int line;
    void sync_warp(unsigned mask = 0xffffffffu) const
    {
        emul_warp(file, line, mask, EMUL_SYNC, 0, 0, 32);
    }
};

#define __syncthreads() emul_barrier(__FILE__, __LINE__)
#define __syncwarp emul_site{__FILE__, __LINE__}.sync_warp
#define __shfl_sync(mask, ...) emul_shuffle(__FILE__, __LINE__, EMUL_IDX, mask, __VA_ARGS__)
#define __shfl_up_sync(mask, ...) emul_shuffle(__FILE__, __LINE__, EMUL_UP, mask, __VA_ARGS__)
#define __shfl_down_sync(mask, ...) emul_shuffle(__FILE__, __LINE__, EMUL_DOWN, mask, __VA_ARGS__)
#define __shfl_xor_sync(mask, ...) emul_shuffle(__FILE__, __LINE__, EMUL_XOR, mask, __VA_ARGS__)
#define EMUL_VOTE(kind, mask, predicate)                                                           \
    emul_warp(__FILE__, __LINE__, mask, kind, (predicate) ? 1 : 0, 0, 32)
#define __ballot_sync(mask, predicate)                                                             \
    (static_cast<unsigned>(EMUL_VOTE(EMUL_BALLOT, mask, predicate)))
#define __any_sync(mask, predicate) (static_cast<int>(EMUL_VOTE(EMUL_ANY, mask, predicate)))
#define __all_sync(mask, predicate) (static_cast<int>(EMUL_VOTE(EMUL_ALL, mask, predicate)))

/* ---- atomics: of integers only, as the sum of floats would depend on their order ----------------
 */

#define EMUL_ATOMIC(name, type, result)                                                            \
    static inline type name(type *p, type v)                                                       \
    {                                                                                              \
        type old = __atomic_load_n(p, __ATOMIC_RELAXED);                                           \
        while (!__atomic_compare_exchange_n(p, &old, result, false, __ATOMIC_RELAXED,              \
                                            __ATOMIC_RELAXED)) {                                   \
        }                                                                                          \
        return old;                                                                                \
    }
#define EMUL_ATOMICS(type)                                                                         \
    EMUL_ATOMIC(atomicAdd, type, static_cast<type>(old + v))                                       \
    EMUL_ATOMIC(atomicMax, type, (old < v ? v : old))                                              \
    EMUL_ATOMIC(atomicMin, type, (v < old ? v : old))                                              \
    EMUL_ATOMIC(atomicExch, type, v)                                                               \
    EMUL_ATOMIC(atomicOr, type, (old | v))                                                         \
    EMUL_ATOMIC(atomicAnd, type, (old & v))                                                        \
    static inline type atomicCAS(type *p, type compare, type v)                                    \
    {                                                                                              \
        __atomic_compare_exchange_n(p, &compare, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);    \
        return compare;                                                                            \
    }
EMUL_ATOMICS(int)
EMUL_ATOMICS(unsigned)
EMUL_ATOMICS(unsigned long long)
EMUL_ATOMIC(atomicMax, long long, (old < v ? v : old))
EMUL_ATOMIC(atomicMin, long long, (v < old ? v : old))

/* ---- arithmetic -------------------------------------------------------------------------------
 */

#define EMUL_BITS(name, from, to)                                                                  \
    static inline to name(from a)                                                                  \
    {                                                                                              \
        to b;                                                                                      \
        memcpy(&b, &a, sizeof b);                                                                  \
        return b;                                                                                  \
    }
EMUL_BITS(__float_as_int, float, int)
EMUL_BITS(__int_as_float, int, float)
EMUL_BITS(__float_as_uint, float, unsigned)
EMUL_BITS(__uint_as_float, unsigned, float)
EMUL_BITS(__double_as_longlong, double, long long)
EMUL_BITS(__longlong_as_double, long long, double)

#define EMUL_PURE(result, name, parameters, value)                                                 \
    static inline result name parameters                                                           \
    {                                                                                              \
        return value;                                                                              \
    }
EMUL_PURE(int, __popc, (unsigned a), __builtin_popcount(a))
EMUL_PURE(int, __popcll, (unsigned long long a), __builtin_popcountll(a))
EMUL_PURE(int, __ffs, (int a), __builtin_ffs(a))
EMUL_PURE(int, __ffsll, (long long a), __builtin_ffsll(a))
EMUL_PURE(int, __clz, (int a), a == 0 ? 32 : __builtin_clz(static_cast<unsigned>(a)))
EMUL_PURE(int, __clzll, (long long a),
          a == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(a)))
EMUL_PURE(unsigned, __umulhi, (unsigned a, unsigned b),
          static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32))
__extension__ typedef unsigned __int128 emul_uint128;
EMUL_PURE(unsigned long long, __umul64hi, (unsigned long long a, unsigned long long b),
          static_cast<unsigned long long>(static_cast<emul_uint128>(a) * b >> 64))
EMUL_PURE(float, rsqrtf, (float a), 1.0f / sqrtf(a))
EMUL_PURE(double, rsqrt, (double a), 1.0 / sqrt(a))
EMUL_PURE(float, __fadd_rn, (float a, float b), a + b)
EMUL_PURE(float, __fsub_rn, (float a, float b), a - b)
EMUL_PURE(float, __fmul_rn, (float a, float b), a *b)
EMUL_PURE(float, __fdiv_rn, (float a, float b), a / b)
EMUL_PURE(float, __fsqrt_rn, (float a), sqrtf(a))
EMUL_PURE(float, __fmaf_rn, (float a, float b, float c), fmaf(a, b, c))
EMUL_PURE(double, __dadd_rn, (double a, double b), a + b)
EMUL_PURE(double, __dsub_rn, (double a, double b), a - b)
EMUL_PURE(double, __dmul_rn, (double a, double b), a *b)
EMUL_PURE(double, __fma_rn, (double a, double b, double c), fma(a, b, c))
EMUL_PURE(float, __double2float_rn, (double a), static_cast<float>(a))

#define EMUL_MIN_MAX(type)                                                                         \
    EMUL_PURE(type, min, (type a, type b), b < a ? b : a)                                          \
    EMUL_PURE(type, max, (type a, type b), a < b ? b : a)
EMUL_MIN_MAX(int)
EMUL_MIN_MAX(unsigned)
EMUL_MIN_MAX(long)
EMUL_MIN_MAX(unsigned long)
EMUL_MIN_MAX(long long)
EMUL_MIN_MAX(unsigned long long)
EMUL_PURE(float, min, (float a, float b), fminf(a, b))
EMUL_PURE(float, max, (float a, float b), fmaxf(a, b))
EMUL_PURE(double, min, (double a, double b), fmin(a, b))
EMUL_PURE(double, max, (double a, double b), fmax(a, b))

template <class T> static inline T __ldg(const T *p)
{
    return *p;
}

/* ---- launches ---------------------------------------------------------------------------------
 */

/* What a grid needs to run; a launch puts its arguments behind it. */
struct emul_grid {
    const char *name;
    void (*thread)(const emul_grid *);
    void (*drop)(emul_grid *);
    dim3 grid, block;
    size_t shared_bytes, asked_bytes; /* dynamic; what cudaFuncSetAttribute asked for */
};
template <class... P> struct emul_call : emul_grid {
    void (*kernel)(P...);
    std::tuple<std::decay_t<P>...> args;
};

/* Whether a device would take the launch; otherwise the thread's last error says why not. */
bool emul_is_launchable(emul_grid *grid, const void *kernel, cudaStream_t stream);
void emul_push_grid(cudaStream_t stream, emul_grid *grid);
/* Stops if `p`, argument `i` of a kernel, is memory that a device cannot reach. */
void emul_check_pointer(const char *kernel, int i, const void *p);
/* The same for whatever in a struct looks like an address. */
void emul_check_struct(const char *kernel, int i, const void *p, size_t n_bytes);
unsigned emul_extent(const char *kernel, long long n);

template <class T> static inline void emul_check_arg(const char *kernel, int i, const T &arg)
{
    if constexpr (std::is_pointer<T>::value) {
        emul_check_pointer(kernel, i, reinterpret_cast<const void *>(arg));
    } else if constexpr (std::is_class<T>::value) {
        static_assert(std::is_trivially_copyable<T>::value, "arguments of kernels are plain data");
#if defined(__GNUC__) && !defined(__clang__)
        std::remove_const_t<T> plain = arg;
        __builtin_clear_padding(&plain); /* what was there before may look like an address */
        emul_check_struct(kernel, i, &plain, sizeof plain);
#endif
    }
}

template <class T> static inline dim3 emul_dim(const char *kernel, const T &n)
{
    if constexpr (std::is_same<T, dim3>::value) {
        return n;
    } else {
        return dim3(emul_extent(kernel, static_cast<long long>(n)));
    }
}

template <class... P> static void emul_thread(const emul_grid *grid)
{
    const emul_call<P...> *call = static_cast<const emul_call<P...> *>(grid);

    std::apply(call->kernel, call->args);
}

template <class... P> static void emul_drop(emul_grid *grid)
{
    delete static_cast<emul_call<P...> *>(grid);
}

template <class G, class B, class... P, class... A>
static void emul_launch(const char *name, void (*kernel)(P...), const G &grid, const B &block,
                        size_t shared_bytes, cudaStream_t stream, const A &...args)
{
    static_assert(sizeof...(P) == sizeof...(A), "a kernel needs all its arguments");
    emul_call<P...> *call = new emul_call<P...>;
    int i = 0;

    call->name = name;
    call->thread = emul_thread<P...>;
    call->drop = emul_drop<P...>;
    call->grid = emul_dim(name, grid);
    call->block = emul_dim(name, block);
    call->shared_bytes = shared_bytes;
    call->kernel = kernel;
    call->args = std::tuple<std::decay_t<P>...>(static_cast<P>(args)...);
    if (!emul_is_launchable(call, reinterpret_cast<const void *>(kernel), stream)) {
        delete call;
        return;
    }
    std::apply([&](const auto &...arg) { (emul_check_arg(name, ++i, arg), ...); }, call->args);
    emul_push_grid(stream, call);
}

#define GPU_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                 \
    emul_launch(#kernel, kernel, grid, block, static_cast<size_t>(shared_bytes), stream,           \
                __VA_ARGS__)

#endif
