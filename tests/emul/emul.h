/* What the stand-ins of CUDA's libraries (the runtime, cuBLAS, NCCL) and the emulation of kernels
 * know of each other. Environment:
 *
 *     REFRACT_EMUL_ORDER    forward | reverse | random | lockstep: how the threads of a block take
 *                           turns (emul_schedule.cpp); REFRACT_EMUL_SEED for random
 *     REFRACT_EMUL_STREAMS  newest | oldest | random | ahead | eager: which stream of those that
 *                           may run does (cudart_order.c); ahead: first all others than the one
 *                           that is waited for; eager: everything at once, finds fewer bugs
 *     REFRACT_EMUL_DEVICES  how many devices there are (1); 0: none
 *     REFRACT_EMUL_MEMORY   bytes of each (8 GiB)
 *     REFRACT_EMUL_REPORT   set: at the end, the most bytes of each device that were in use
 *     REFRACT_EMUL_FAIL     "cudaMalloc:3,kernel:5": the third call of cudaMalloc fails, the fifth
 *                           kernel that runs breaks the device; "cudaMalloc:3+": and all after it
 *     REFRACT_EMUL_RACES    N: the race checker watches a sample: a kernel's first N launches of a
 *                           shape, later ever fewer, and of a grid the first two blocks and the
 *                           last one; 0: everything (emul_races.cpp)
 *
 * A misuse ends the process with words and exit code EMUL_EXIT. */
#ifndef REFRACT_EMUL_H
#define REFRACT_EMUL_H

#include "cuda_runtime_api.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { EMUL_EXIT = 86 };

/* Put work behind what `stream` (NULL: the default stream) holds. It runs when the host waits for
 * it, never before the work in front. `drop` (NULL: nothing) is called once: after `run`, or
 * instead of it if the device broke. `name` outlives the work. */
void emul_push(cudaStream_t stream, const char *name, void (*run)(void *), void *arg,
               void (*drop)(void *));
/* As emul_push for work that waits for another process: `step` is called until it returns true.
 * Until then the stream stays where it is, a query says cudaErrorNotReady, and other streams go
 * on. */
void emul_push_until(cudaStream_t stream, const char *name, bool (*step)(void *), void *arg,
                     void (*drop)(void *));
/* Let one piece of queued work run; false: none can. */
bool emul_go_on(void);

/* Whether all `n_bytes` from `p` on belong to one live allocation of device memory. 0 bytes: `p`
 * lies in one or at its end. */
bool emul_is_device_range(const void *p, size_t n_bytes);
/* The same for pinned host memory. */
bool emul_is_pinned_range(const void *p, size_t n_bytes);
/* "+16 of an allocation of 64 bytes of device memory", "host memory" ... into `text`. */
void emul_describe(const void *p, char *text, size_t text_bytes);
/* The device of a stream; of the calling thread for the default stream. */
int emul_stream_device(cudaStream_t stream);

/* Whether this call of `name` is to fail (REFRACT_EMUL_FAIL): counts the calls since the variable
 * was set or changed. */
bool emul_fails(const char *name);
/* The device is broken from now on: queued work is dropped, and every call returns `error`. */
void emul_break_device(cudaError_t error);
/* Forget a broken device and the thread's last error, as a new process would. For tests. */
void emul_mend_device(void);

/* Print "emul: ..." with where a kernel stood, if one runs, and exit with EMUL_EXIT. */
__attribute__((format(printf, 1, 2), noreturn)) void emul_die(const char *format, ...);

#ifdef __cplusplus
}
#endif
#endif
