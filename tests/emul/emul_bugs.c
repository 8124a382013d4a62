/* The test of the tests: `emul_bugs CASE right|broken` runs one case as it should be or with its
 * bug, and says by its exit code what was seen: 0 the right result, 3 a wrong one, EMUL_EXIT the
 * emulation stopped it, anything else: a sanitizer's word. */
#include "broken_kernels.h"
#include "emul.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 256, WRONG = 3 };

typedef void (*kernel_fn)(cudaStream_t stream, int bug, const float *x, float *out);

static void must(cudaError_t error)
{
    if (error != cudaSuccess) {
        fprintf(stderr, "%s\n", cudaGetErrorString(error));
        exit(WRONG);
    }
}

static float *device_of(const float *host, size_t n_bytes)
{
    void *p = NULL;

    must(cudaMalloc(&p, n_bytes));
    if (host != NULL) {
        must(cudaMemcpy(p, host, n_bytes, cudaMemcpyHostToDevice));
    }
    return p;
}

static void set_x(float *x)
{
    for (int i = 0; i < N; i++) {
        x[i] = (float)(i % 7);
    }
}

/* ---- kernels ----------------------------------------------------------------------------------
 */

static float expected(const char *name, const float *x, int i)
{
    float sum = 0.0f;

    if (strcmp(name, "barrier") == 0) {
        for (int j = 0; j < N; j++) {
            sum += x[j];
        }
        return sum + (float)i * 2.0f * sum;
    }
    return 2.0f * x[i];
}

static int run_kernel(const char *name, kernel_fn kernel, int bug)
{
    float x[N], out[N], *d_x, *d_out;
    int n_wrong = 0, n = strcmp(name, "stack") == 0 ? 32 : N;

    set_x(x);
    d_x = device_of(x, sizeof x);
    d_out = device_of(NULL, sizeof out);
    kernel(NULL, bug, d_x, d_out);
    must(cudaGetLastError());
    must(cudaMemcpy(out, d_out, sizeof out, cudaMemcpyDeviceToHost));
    for (int i = 0; i < n; i++) {
        float got = out[i];

        if (strcmp(name, "blocks") == 0) {
            int count;

            memcpy(&count, &out[i], sizeof count);
            got = (float)count;
        }
        n_wrong += !(got == expected(name, x, i)) ? 1 : 0;
    }
    must(cudaFree(d_x));
    must(cudaFree(d_out));
    return n_wrong == 0 ? 0 : WRONG;
}

/* ---- host code --------------------------------------------------------------------------------
 */

/* Two streams, the second reads what the first writes. */
static int missing_event(int bug)
{
    float x[N], out[N], *d_x, *d_y, *d_out;
    cudaStream_t first, second;
    cudaEvent_t event;

    set_x(x);
    d_x = device_of(x, sizeof x);
    d_y = device_of(NULL, sizeof x);
    d_out = device_of(NULL, sizeof x);
    must(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
    must(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
    must(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    emul_b_unset(first, 0, d_x, d_y);
    must(cudaEventRecord(event, first));
    if (!bug) {
        must(cudaStreamWaitEvent(second, event, 0));
    }
    emul_b_unset(second, 0, d_y, d_out);
    must(cudaMemcpyAsync(out, d_out, sizeof out, cudaMemcpyDeviceToHost, second));
    return out[1] == 4.0f ? 0 : WRONG;
}

static int missing_wait(int bug)
{
    float x[N], got, *d_x, *pinned = NULL;

    set_x(x);
    d_x = device_of(x, sizeof x);
    must(cudaMallocHost((void **)&pinned, sizeof x));
    must(cudaMemcpyAsync(pinned, d_x, sizeof x, cudaMemcpyDeviceToHost, NULL));
    if (!bug) {
        must(cudaStreamSynchronize(NULL));
    }
    got = pinned[6];
    must(cudaDeviceSynchronize());
    return got == 6.0f ? 0 : WRONG;
}

static int early_reuse(int bug)
{
    float got[2], *d_x = device_of(NULL, sizeof got), *pinned = NULL;

    must(cudaMallocHost((void **)&pinned, sizeof got));
    pinned[0] = pinned[1] = 1.0f;
    must(cudaMemcpyAsync(d_x, pinned, sizeof got, cudaMemcpyHostToDevice, NULL));
    if (!bug) {
        must(cudaStreamSynchronize(NULL));
    }
    pinned[0] = pinned[1] = 2.0f;
    must(cudaMemcpy(got, d_x, sizeof got, cudaMemcpyDeviceToHost));
    return got[0] == 1.0f ? 0 : WRONG;
}

static int count_of_bytes(int bug)
{
    float x[4 * N] = {0}, *d_x = device_of(NULL, sizeof(float) * N);

    must(cudaMemcpy(d_x, x, sizeof(float) * N * (bug ? sizeof(float) : 1), cudaMemcpyHostToDevice));
    return 0;
}

static int host_touch(int bug)
{
    float x[N], *d_x;
    volatile float *p = x;

    set_x(x);
    d_x = device_of(x, sizeof x);
    if (bug) {
        p = d_x;
    }
    return p[6] == 6.0f ? 0 : WRONG;
}

static int host_pointer(int bug)
{
    float x[N], out[N], *d_x;

    set_x(x);
    d_x = device_of(x, sizeof x);
    emul_b_unset(NULL, 0, bug ? x : d_x, device_of(NULL, sizeof out));
    must(cudaDeviceSynchronize());
    return 0;
}

static int use_after_free(int bug)
{
    float x[N], out[N], *d_x, *d_out;

    set_x(x);
    d_x = device_of(x, sizeof x);
    d_out = device_of(NULL, sizeof out);
    emul_b_global_read(NULL, 0, d_x, d_out);
    must(cudaDeviceSynchronize());
    if (bug) {
        must(cudaFree(d_x));
    }
    emul_b_global_read(NULL, 0, d_x, d_out);
    must(cudaMemcpy(out, d_out, sizeof out, cudaMemcpyDeviceToHost));
    return out[1] == 2.0f ? 0 : WRONG;
}

/* ---- cases ------------------------------------------------------------------------------------
 */

static const struct {
    const char *name;
    kernel_fn kernel;
} kernels[] = {
    {"barrier", emul_b_barrier},
    {"divergent", emul_b_divergent},
    {"mask", emul_b_mask},
    {"exited", emul_b_exited},
    {"sync_warp", emul_b_sync_warp},
    {"global_write", emul_b_global_write},
    {"global_read", emul_b_global_read},
    {"shared_write", emul_b_shared_write},
    {"shared_read", emul_b_shared_read},
    {"unset", emul_b_unset},
    {"blocks", emul_b_blocks},
    {"stack", emul_b_stack},
    {"static_and_dynamic", emul_b_static},
};

static const struct {
    const char *name;
    int (*run)(int bug);
} hosts[] = {
    {"missing_event", missing_event},   {"missing_wait", missing_wait},
    {"early_reuse", early_reuse},       {"count_of_bytes", count_of_bytes},
    {"host_touch", host_touch},         {"host_pointer", host_pointer},
    {"use_after_free", use_after_free},
};

int main(int argc, char **argv)
{
    int bug = argc == 3 && strcmp(argv[2], "broken") == 0;

    for (size_t i = 0; argc == 3 && i < sizeof kernels / sizeof kernels[0]; i++) {
        if (strcmp(argv[1], kernels[i].name) == 0) {
            return run_kernel(argv[1], kernels[i].kernel, bug);
        }
    }
    for (size_t i = 0; argc == 3 && i < sizeof hosts / sizeof hosts[0]; i++) {
        if (strcmp(argv[1], hosts[i].name) == 0) {
            return hosts[i].run(bug);
        }
    }
    fprintf(stderr, "usage: emul_bugs CASE right|broken\n");
    return 2;
}
