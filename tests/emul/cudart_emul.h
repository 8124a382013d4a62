/* Private to tests/emul/cudart_*.c: the parts of the runtime's stand-in. */
#ifndef REFRACT_CUDART_EMUL_H
#define REFRACT_CUDART_EMUL_H

#include "emul.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The one lock; the same thread may take it again. */
void emul_lock(void);
void emul_unlock(void);

/* Begin a call of the interface: takes the lock, and returns the error that it has to return at
 * once: asked for by REFRACT_EMUL_FAIL (`on_request`), of a broken device, or that there is none.
 */
cudaError_t emul_enter(const char *name, cudaError_t on_request);
/* End it: notes the thread's last error, gives the lock back, returns `error`. */
cudaError_t emul_leave(cudaError_t error);
/* The device's lasting error. */
cudaError_t emul_broken(void);
void emul_set_last_error(cudaError_t error);

int emul_n_devices(void);
int emul_current_device(void);
size_t emul_env_bytes(const char *name, size_t otherwise);

/* ---- cudart_heap.c: memory; all under the lock ---------------------------------------------- */
/* Device memory may be touched between begin and end, which nest. */
void emul_heap_begin(void);
void emul_heap_end(void);
/* After work called `name`: stops if it wrote behind or before an allocation. */
void emul_heap_check(const char *name);
void *emul_heap_allocate(int device, size_t n_bytes); /* NULL: no room */
bool emul_heap_free(void *p);
size_t emul_heap_used(int device);
size_t emul_heap_limit(void);
void *emul_pinned_allocate(size_t n_bytes);
bool emul_pinned_free(void *p);
/* Whether any byte of it lies in the device's part of the address space. */
bool emul_touches_device(const void *p, size_t n_bytes);
int emul_device_of(const void *p); /* -1: none */

/* ---- cudart_streams.c, cudart_order.c: all under the lock ------------------------------------ */
/* Runs all work on all streams, also of other devices. False: the device broke. */
void emul_finish_all(void);
void emul_finish_stream(cudaStream_t stream);
void emul_drop_all(void);
bool emul_is_stream(cudaStream_t stream);
bool emul_stream_is_idle(cudaStream_t stream);
/* Whether queued copies touch this host memory. */
bool emul_is_host_range_queued(const void *p, size_t n_bytes);
/* As emul_push, of a copy that touches host memory when it runs. */
void emul_push_copy(cudaStream_t stream, const char *name, void (*run)(void *), void *arg,
                    void (*drop)(void *), const void *host, size_t host_bytes);

/* ---- emul_schedule.cpp ----------------------------------------------------------------------- */
/* "kernel k, block (0,0,0), thread (5,0,0)" into `text`; "" if none runs. */
void emul_kernel_where(char *text, size_t text_bytes);
/* Whether `p` lies in the guard below a stack of a kernel's thread. */
bool emul_is_stack_guard(const void *p);

#ifdef __cplusplus
}
#endif
#endif
