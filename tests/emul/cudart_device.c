/* Stand-in for the CUDA runtime: devices, errors, failures on request. */
#include "cudart_emul.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_DEVICES = 16, MOST_FAILURES = 8, MOST_NAME = 64 };

static pthread_mutex_t lock;
static pthread_once_t lock_once = PTHREAD_ONCE_INIT;
static cudaError_t broken; /* the lasting error; guarded by the lock */
static _Thread_local int current_device;
static _Thread_local cudaError_t last_error;

static void make_lock(void)
{
    pthread_mutexattr_t attributes;

    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

void emul_lock(void)
{
    pthread_once(&lock_once, make_lock);
    pthread_mutex_lock(&lock);
}

void emul_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

void emul_die(const char *format, ...)
{
    char where[256];
    va_list args;

    fflush(stdout);
    fputs("emul: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    emul_kernel_where(where, sizeof where);
    fprintf(stderr, "%s%s\n", where[0] != '\0' ? "\n  in " : "", where);
    fflush(stderr);
    _exit(EMUL_EXIT);
}

/* ---- settings ---------------------------------------------------------------------------------
 */

size_t emul_env_bytes(const char *name, size_t otherwise)
{
    const char *text = getenv(name);
    char *end = NULL;
    unsigned long long value;

    if (text == NULL || text[0] == '\0') {
        return otherwise;
    }
    value = strtoull(text, &end, 10);
    if (*end != '\0') {
        emul_die("%s=%s is no number", name, text);
    }
    return (size_t)value;
}

int emul_n_devices(void)
{
    size_t n = emul_env_bytes("REFRACT_EMUL_DEVICES", 1);

    if (n > MOST_DEVICES) {
        emul_die("REFRACT_EMUL_DEVICES=%zu, at most %d", n, MOST_DEVICES);
    }
    return (int)n;
}

int emul_current_device(void)
{
    return current_device;
}

typedef struct failure {
    char name[MOST_NAME];
    long at, seen;
    bool and_after;
} failure;

static struct {
    char text[512];
    failure failures[MOST_FAILURES];
    int n_failures;
} wanted;

/* One "name:n" or "name:n+" of REFRACT_EMUL_FAIL. */
static void read_failure(const char *item, size_t n_chars)
{
    const char *colon = memchr(item, ':', n_chars);
    failure *f = &wanted.failures[wanted.n_failures];
    char *end = NULL;

    if (colon == NULL || colon == item || colon - item >= MOST_NAME ||
        wanted.n_failures == MOST_FAILURES) {
        emul_die("REFRACT_EMUL_FAIL=%s: expected name:n, at most %d of them", wanted.text,
                 MOST_FAILURES);
    }
    memset(f, 0, sizeof *f);
    memcpy(f->name, item, (size_t)(colon - item));
    f->at = strtol(colon + 1, &end, 10);
    f->and_after = *end == '+';
    if (f->at <= 0 || (size_t)(end - item) + (f->and_after ? 1u : 0u) != n_chars) {
        emul_die("REFRACT_EMUL_FAIL=%s: expected name:n", wanted.text);
    }
    wanted.n_failures++;
}

static void read_failures(const char *text)
{
    const char *item = text;

    wanted.n_failures = 0;
    if (strlen(text) >= sizeof wanted.text) {
        emul_die("REFRACT_EMUL_FAIL is too long");
    }
    memcpy(wanted.text, text, strlen(text) + 1);
    while (*item != '\0') {
        size_t n_chars = strcspn(item, ",");

        if (n_chars > 0) {
            read_failure(item, n_chars);
        }
        item += n_chars + (item[n_chars] == ',' ? 1 : 0);
    }
}

bool emul_fails(const char *name)
{
    const char *text = getenv("REFRACT_EMUL_FAIL");
    bool fails = false;

    emul_lock();
    if (strcmp(text != NULL ? text : "", wanted.text) != 0) {
        read_failures(text != NULL ? text : "");
    }
    for (int i = 0; i < wanted.n_failures; i++) {
        failure *f = &wanted.failures[i];

        if (strcmp(f->name, name) == 0) {
            f->seen++;
            fails = fails || f->seen == f->at || (f->and_after && f->seen > f->at);
        }
    }
    emul_unlock();
    return fails;
}

/* ---- errors -----------------------------------------------------------------------------------
 */

cudaError_t emul_broken(void)
{
    return broken;
}

void emul_set_last_error(cudaError_t error)
{
    last_error = error;
}

void emul_break_device(cudaError_t error)
{
    emul_lock();
    if (broken == cudaSuccess) {
        broken = error;
        emul_drop_all();
    }
    emul_unlock();
}

void emul_mend_device(void)
{
    emul_lock();
    broken = cudaSuccess;
    last_error = cudaSuccess;
    emul_unlock();
}

cudaError_t emul_enter(const char *name, cudaError_t on_request)
{
    emul_lock();
    if (emul_n_devices() == 0) {
        return cudaErrorNoDevice;
    }
    if (broken != cudaSuccess) {
        return broken;
    }
    return emul_fails(name) ? on_request : cudaSuccess;
}

cudaError_t emul_leave(cudaError_t error)
{
    if (error != cudaSuccess) {
        last_error = error;
    }
    emul_unlock();
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return broken != cudaSuccess ? broken : last_error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = cudaPeekAtLastError();

    last_error = cudaSuccess;
    return error;
}

/* Our own words; the numbers and names are CUDA's. */
#define ERROR_LIST(X)                                                                              \
    X(cudaSuccess, "no error")                                                                     \
    X(cudaErrorInvalidValue, "invalid argument")                                                   \
    X(cudaErrorMemoryAllocation, "out of memory")                                                  \
    X(cudaErrorInitializationError, "initialization error")                                        \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument")                             \
    X(cudaErrorInvalidPitchValue, "invalid pitch argument")                                        \
    X(cudaErrorInvalidDevicePointer, "invalid device pointer")                                     \
    X(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")                        \
    X(cudaErrorInsufficientDriver, "the driver is older than the runtime needs")                   \
    X(cudaErrorDevicesUnavailable, "the devices are busy or unavailable")                          \
    X(cudaErrorInvalidDeviceFunction, "invalid device function")                                   \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                     \
    X(cudaErrorInvalidDevice, "invalid device ordinal")                                            \
    X(cudaErrorNoKernelImageForDevice, "no kernel image is available for this device")             \
    X(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered")                            \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle")                                   \
    X(cudaErrorNotReady, "device not ready")                                                       \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered")                         \
    X(cudaErrorLaunchOutOfResources, "too many resources requested for launch")                    \
    X(cudaErrorLaunchTimeout, "the launch timed out and was terminated")                           \
    X(cudaErrorLaunchFailure, "unspecified launch failure")                                        \
    X(cudaErrorNotSupported, "operation not supported")                                            \
    X(cudaErrorUnknown, "unknown error")

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define ERROR_NAME(name, words)                                                                    \
    case name:                                                                                     \
        return #name;
        ERROR_LIST(ERROR_NAME)
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
#define ERROR_WORDS(name, words)                                                                   \
    case name:                                                                                     \
        return words;
        ERROR_LIST(ERROR_WORDS)
    }
    return "unrecognized error code";
}

/* ---- devices ----------------------------------------------------------------------------------
 */

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    cudaError_t error = emul_enter("cudaGetDeviceCount", cudaErrorInitializationError);

    *count = error == cudaSuccess ? emul_n_devices() : 0;
    return emul_leave(error);
}

cudaError_t cudaGetDevice(int *device)
{
    cudaError_t error = emul_enter("cudaGetDevice", cudaErrorUnknown);

    *device = current_device;
    return emul_leave(error);
}

cudaError_t cudaSetDevice(int device)
{
    cudaError_t error = emul_enter("cudaSetDevice", cudaErrorDevicesUnavailable);

    if (error == cudaSuccess && (device < 0 || device >= emul_n_devices())) {
        error = cudaErrorInvalidDevice;
    }
    if (error == cudaSuccess) {
        current_device = device;
    }
    return emul_leave(error);
}

/* An H100's figures, with fewer multiprocessors: grids that are sized by them stay small. */
static const struct {
    cudaDeviceAttr attribute;
    int value;
} attributes[] = {
    {cudaDevAttrMaxThreadsPerBlock, 1024},
    {cudaDevAttrMaxBlockDimX, 1024},
    {cudaDevAttrMaxBlockDimY, 1024},
    {cudaDevAttrMaxBlockDimZ, 64},
    {cudaDevAttrMaxGridDimX, 2147483647},
    {cudaDevAttrMaxGridDimY, 65535},
    {cudaDevAttrMaxGridDimZ, 65535},
    {cudaDevAttrMaxSharedMemoryPerBlock, 49152},
    {cudaDevAttrTotalConstantMemory, 65536},
    {cudaDevAttrWarpSize, 32},
    {cudaDevAttrMaxRegistersPerBlock, 65536},
    {cudaDevAttrClockRate, 1980000},
    {cudaDevAttrMultiProcessorCount, 4},
    {cudaDevAttrConcurrentKernels, 1},
    {cudaDevAttrEccEnabled, 1},
    {cudaDevAttrPciDeviceId, 0},
    {cudaDevAttrMemoryClockRate, 2619000},
    {cudaDevAttrGlobalMemoryBusWidth, 5120},
    {cudaDevAttrL2CacheSize, 50 << 20},
    {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
    {cudaDevAttrUnifiedAddressing, 1},
    {cudaDevAttrPciDomainId, 0},
    {cudaDevAttrComputeCapabilityMajor, 9},
    {cudaDevAttrComputeCapabilityMinor, 0},
    {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 233472},
    {cudaDevAttrMaxRegistersPerMultiprocessor, 65536},
    {cudaDevAttrMaxSharedMemoryPerBlockOptin, 232448},
};

static int attribute_of(cudaDeviceAttr attribute, int device, cudaError_t *error)
{
    if (attribute == cudaDevAttrPciBusId) {
        return device + 1;
    }
    for (size_t i = 0; i < sizeof attributes / sizeof attributes[0]; i++) {
        if (attributes[i].attribute == attribute) {
            return attributes[i].value;
        }
    }
    *error = cudaErrorInvalidValue;
    return 0;
}

static cudaError_t enter_device(const char *name, int device)
{
    cudaError_t error = emul_enter(name, cudaErrorUnknown);

    if (error == cudaSuccess && (device < 0 || device >= emul_n_devices())) {
        error = cudaErrorInvalidDevice;
    }
    return error;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    cudaError_t error = enter_device("cudaDeviceGetAttribute", device);

    if (error == cudaSuccess) {
        *value = attribute_of(attribute, device, &error);
    }
    return emul_leave(error);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    cudaError_t error = enter_device("cudaGetDeviceProperties", device);

    if (error == cudaSuccess) {
        memset(p, 0, sizeof *p);
        snprintf(p->name, sizeof p->name, "emulated device %d", device);
        p->totalGlobalMem = emul_heap_limit();
        p->sharedMemPerBlock =
            (size_t)attribute_of(cudaDevAttrMaxSharedMemoryPerBlock, device, &error);
        p->regsPerBlock = attribute_of(cudaDevAttrMaxRegistersPerBlock, device, &error);
        p->warpSize = attribute_of(cudaDevAttrWarpSize, device, &error);
        p->maxThreadsPerBlock = attribute_of(cudaDevAttrMaxThreadsPerBlock, device, &error);
        p->major = attribute_of(cudaDevAttrComputeCapabilityMajor, device, &error);
        p->minor = attribute_of(cudaDevAttrComputeCapabilityMinor, device, &error);
        p->pciBusID = attribute_of(cudaDevAttrPciBusId, device, &error);
        p->multiProcessorCount = attribute_of(cudaDevAttrMultiProcessorCount, device, &error);
        p->maxThreadsPerMultiProcessor =
            attribute_of(cudaDevAttrMaxThreadsPerMultiProcessor, device, &error);
        p->l2CacheSize = attribute_of(cudaDevAttrL2CacheSize, device, &error);
        p->sharedMemPerMultiprocessor =
            (size_t)attribute_of(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device, &error);
        p->sharedMemPerBlockOptin =
            (size_t)attribute_of(cudaDevAttrMaxSharedMemoryPerBlockOptin, device, &error);
    }
    return emul_leave(error);
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int n_bytes, int device)
{
    cudaError_t error = enter_device("cudaDeviceGetPCIBusId", device);

    if (error == cudaSuccess && n_bytes < 13) {
        error = cudaErrorInvalidValue;
    }
    if (error == cudaSuccess) {
        snprintf(id, (size_t)n_bytes, "0000:%02X:00.0", (unsigned)device + 1);
    }
    return emul_leave(error);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    cudaError_t error = emul_enter("cudaMemGetInfo", cudaErrorUnknown);
    size_t used = emul_heap_used(current_device);

    *total_bytes = emul_heap_limit();
    *free_bytes = used < *total_bytes ? *total_bytes - used : 0;
    return emul_leave(error);
}
