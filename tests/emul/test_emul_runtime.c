/* The stand-in of the CUDA runtime keeps CUDA's rules, and stops whoever relies on more. */
#include "emul_fixture.h"
#include "emul_kernels.h"

#include <math.h>
#include <pthread.h>

static cudaStream_t first, second; /* second is the newer one */

static int create_streams(void **state)
{
    (void)state;
    first = new_stream();
    second = new_stream();
    return 0;
}

static int destroy_streams(void **state)
{
    (void)state;
    unsetenv("REFRACT_EMUL_FAIL");
    unsetenv("REFRACT_EMUL_MEMORY");
    unsetenv("REFRACT_EMUL_DEVICES");
    unsetenv("REFRACT_EMUL_STREAMS");
    emul_mend_device();
    assert_cuda(cudaDeviceSynchronize());
    assert_cuda(cudaStreamDestroy(first));
    assert_cuda(cudaStreamDestroy(second));
    return 0;
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static void device_memory_begins_as_nan(void **state)
{
    float x[5], *d_x = device_of(NULL, sizeof x);

    (void)state;
    host_of(x, d_x, sizeof x);
    for (int i = 0; i < 5; i++) {
        assert_true(isnan(x[i]));
    }
    assert_int_equal((uintptr_t)d_x % 256, 0);
    assert_cuda(cudaFree(d_x));
}

static void read_device_memory(void)
{
    volatile float *p = device_of(NULL, 64);

    if (p[3] == 0.0f) {
        puts("read");
    }
}

static void write_device_memory(void)
{
    volatile float *p = device_of(NULL, 64);

    p[2] = 1.0f;
}

static void read_after_work(void)
{
    volatile float *p = device_of(NULL, 64);

    emul_k_add_one(NULL, (const float *)p, (float *)p, 16);
    cudaDeviceSynchronize();
    if (p[15] == 0.0f) {
        puts("read");
    }
}

static void the_host_cannot_touch_device_memory(void **state)
{
    (void)state;
    assert_stops(read_device_memory,
                 "the host touched device memory at +12 of an allocation of 64");
    assert_stops(write_device_memory, "+8 of an allocation of 64");
    assert_stops(read_after_work, "+60 of an allocation of 64");
}

static void memory_ends_where_it_was_set_to_end(void **state)
{
    void *p = NULL, *q = NULL;
    size_t free_bytes, total;

    (void)state;
    setenv("REFRACT_EMUL_MEMORY", "1000000", 1);
    assert_cuda(cudaMemGetInfo(&free_bytes, &total));
    assert_int_equal(total, 1000000);
    assert_int_equal(free_bytes, 1000000);
    assert_cuda(cudaMalloc(&p, 700000));
    assert_int_equal(cudaMalloc(&q, 300001), cudaErrorMemoryAllocation);
    assert_int_equal(cudaGetLastError(), cudaErrorMemoryAllocation);
    assert_cuda(cudaGetLastError());
    assert_cuda(cudaMalloc(&q, 300000));
    assert_cuda(cudaFree(q));
    assert_cuda(cudaFree(p));
    assert_cuda(cudaMemGetInfo(&free_bytes, &total));
    assert_int_equal(free_bytes, 1000000);
    assert_cuda(cudaMalloc(&p, 0));
    assert_null(p);
    assert_cuda(cudaFree(NULL));
}

static void free_twice(void)
{
    void *p = device_of(NULL, 64);

    cudaFree(p);
    cudaFree(p);
}

static void free_a_part(void)
{
    cudaFree((char *)device_of(NULL, 64) + 32);
}

static void free_pinned_in_use(void)
{
    void *d = device_of(NULL, 64), *p = NULL;

    cudaMallocHost(&p, 64);
    cudaMemcpyAsync(d, p, 64, cudaMemcpyHostToDevice, first);
    cudaFreeHost(p);
}

static void wrong_frees_stop(void **state)
{
    (void)state;
    assert_stops(free_twice, "which cudaMalloc did not give");
    assert_stops(free_a_part, "+32 of an allocation of 64");
    assert_stops(free_pinned_in_use, "was freed while a copy of it was queued");
}

static void pointers_know_what_they_are(void **state)
{
    cudaPointerAttributes a;
    float x, *d_x = device_of(NULL, sizeof x), *pinned = NULL;

    (void)state;
    assert_cuda(cudaMallocHost((void **)&pinned, sizeof x));
    assert_cuda(cudaPointerGetAttributes(&a, d_x));
    assert_int_equal(a.type, cudaMemoryTypeDevice);
    assert_cuda(cudaPointerGetAttributes(&a, pinned));
    assert_int_equal(a.type, cudaMemoryTypeHost);
    assert_cuda(cudaPointerGetAttributes(&a, &x));
    assert_int_equal(a.type, cudaMemoryTypeUnregistered);
    assert_true(emul_is_device_range(d_x, sizeof x));
    assert_false(emul_is_device_range(d_x, sizeof x + 1));
    assert_false(emul_is_device_range(&x, 1));
    assert_cuda(cudaFree(d_x));
    assert_false(emul_is_device_range(d_x, 1));
    assert_cuda(cudaFreeHost(pinned));
}

/* ---- copies -----------------------------------------------------------------------------------
 */

static void copy_more_than_there_is(void)
{
    float x[64] = {0};

    cudaMemcpy(device_of(NULL, 64), x, sizeof x, cudaMemcpyHostToDevice);
}

static void fill_elements_for_bytes(void)
{
    cudaMemsetAsync(device_of(NULL, 64), 0, 64 * sizeof(float), NULL);
}

static void copy_the_wrong_way(void)
{
    float x[16] = {0};

    cudaMemcpy(x, device_of(NULL, 64), sizeof x, cudaMemcpyHostToDevice);
}

static void copy_more_than_pinned(void)
{
    void *p = NULL;

    cudaMallocHost(&p, 32);
    cudaMemcpyAsync(device_of(NULL, 64), p, 64, cudaMemcpyHostToDevice, NULL);
}

static void copy_onto_itself(void)
{
    char *p = device_of(NULL, 64);

    cudaMemcpyAsync(p, p + 8, 32, cudaMemcpyDeviceToDevice, NULL);
}

static void copies_stay_inside_their_allocations(void **state)
{
    (void)state;
    assert_stops(copy_more_than_there_is, "256 bytes");
    assert_stops(fill_elements_for_bytes, "cudaMemsetAsync: its destination, 256 bytes");
    assert_stops(copy_the_wrong_way, "destination");
    assert_stops(copy_more_than_pinned, "source has 64 bytes");
    assert_stops(copy_onto_itself, "overlap");
}

static void a_pageable_source_may_be_reused_at_once_and_a_pinned_one_not(void **state)
{
    float x = 1.0f, *pinned = NULL, got[2], *d_x = device_of(NULL, sizeof got);

    (void)state;
    assert_cuda(cudaMallocHost((void **)&pinned, sizeof x));
    assert_true(isnan(*pinned));
    *pinned = 1.0f;
    assert_cuda(cudaMemcpyAsync(d_x, &x, sizeof x, cudaMemcpyHostToDevice, first));
    assert_cuda(cudaMemcpyAsync(d_x + 1, pinned, sizeof x, cudaMemcpyHostToDevice, first));
    x = 2.0f;
    *pinned = 2.0f;
    assert_cuda(cudaStreamSynchronize(first));
    host_of(got, d_x, sizeof got);
    assert_true(got[0] == 1.0f && got[1] == 2.0f);
    assert_cuda(cudaFreeHost(pinned));
    assert_cuda(cudaFree(d_x));
}

static void a_copy_to_pageable_memory_waits_and_one_to_pinned_memory_does_not(void **state)
{
    float x = 3.0f, *pinned = NULL, *d_x = device_of(&x, sizeof x);

    (void)state;
    assert_cuda(cudaMallocHost((void **)&pinned, sizeof x));
    *pinned = 0.0f;
    assert_cuda(cudaMemcpyAsync(pinned, d_x, sizeof x, cudaMemcpyDeviceToHost, first));
    assert_true(*pinned == 0.0f);
    x = 0.0f;
    assert_cuda(cudaMemcpyAsync(&x, d_x, sizeof x, cudaMemcpyDeviceToHost, first));
    assert_true(x == 3.0f && *pinned == 3.0f); /* what was in front has run, too */
    assert_cuda(cudaFreeHost(pinned));
    assert_cuda(cudaFree(d_x));
}

static void copies_in_two_dimensions_leave_the_rest(void **state)
{
    int x[12], got[12];
    int *d_x = device_of(NULL, sizeof x);

    (void)state;
    for (int i = 0; i < 12; i++) {
        x[i] = i;
    }
    assert_cuda(cudaMemsetAsync(d_x, 0, sizeof x, first));
    assert_cuda(cudaMemcpy2DAsync(d_x, 16, x, 12, 8, 3, cudaMemcpyHostToDevice, first));
    assert_cuda(cudaMemcpyAsync(got, d_x, sizeof got, cudaMemcpyDeviceToHost, first));
    assert_int_equal(got[0], 0);
    assert_int_equal(got[1], 1);
    assert_int_equal(got[2], 0);
    assert_int_equal(got[4], 3);
    assert_int_equal(got[9], 7);
    assert_int_equal(got[10], 0);
    assert_int_equal(cudaMemcpy2DAsync(d_x, 4, x, 12, 8, 3, cudaMemcpyHostToDevice, first),
                     cudaErrorInvalidPitchValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidPitchValue);
    assert_cuda(cudaFree(d_x));
}

/* ---- streams and events -------------------------------------------------------------------------
 */

/* first: x = 0 + 1; second: y = x + 1 afterwards, if it waits. */
static float add_on_two_streams(int wait, int swap)
{
    const float zero = 0.0f;
    cudaStream_t producer = swap ? second : first, consumer = swap ? first : second;
    cudaEvent_t event = new_event();
    float y = 0.0f, *d = device_of(NULL, 3 * sizeof(float));

    assert_cuda(cudaMemcpy(d, &zero, sizeof zero, cudaMemcpyHostToDevice));
    emul_k_add_one(producer, d, d + 1, 1);
    assert_cuda(cudaEventRecord(event, producer));
    if (wait) {
        assert_cuda(cudaStreamWaitEvent(consumer, event, 0));
    }
    emul_k_add_one(consumer, d + 1, d + 2, 1);
    assert_cuda(cudaMemcpyAsync(&y, d + 2, sizeof y, cudaMemcpyDeviceToHost, consumer));
    assert_cuda(cudaFree(d));
    assert_cuda(cudaEventDestroy(event));
    return y;
}

static void a_missing_event_gives_what_was_there_before(void **state)
{
    (void)state;
    for (int swap = 0; swap < 2; swap++) {
        assert_true(isnan(add_on_two_streams(0, swap)));
        assert_true(add_on_two_streams(1, swap) == 2.0f);
    }
    setenv("REFRACT_EMUL_STREAMS", "eager", 1);
    assert_true(add_on_two_streams(0, 0) == 2.0f);
    setenv("REFRACT_EMUL_STREAMS", "random", 1);
    assert_true(add_on_two_streams(1, 1) == 2.0f);
}

/* What is behind a wait may not run when only the work in front of the record has. */
static void a_later_write_overtakes_a_read_without_an_event(void **state)
{
    const float one = 1.0f;
    float got = 0.0f, *pinned = NULL, *d = device_of(&one, sizeof one);

    (void)state;
    assert_cuda(cudaMallocHost((void **)&pinned, sizeof one));
    assert_cuda(cudaMemcpyAsync(pinned, d, sizeof one, cudaMemcpyDeviceToHost, first));
    emul_k_add_one(second, d, d, 1);
    assert_cuda(cudaDeviceSynchronize());
    got = *pinned;
    assert_true(got == 2.0f);
    assert_cuda(cudaFreeHost(pinned));
    assert_cuda(cudaFree(d));
}

static void an_event_is_the_place_where_it_was_recorded(void **state)
{
    const float zero = 0.0f;
    cudaEvent_t event = new_event();
    float *d = device_of(&zero, sizeof zero), *pinned = NULL;

    (void)state;
    assert_cuda(cudaMallocHost((void **)&pinned, sizeof zero));
    assert_cuda(cudaEventQuery(event)); /* never recorded: complete */
    assert_cuda(cudaEventSynchronize(event));
    emul_k_add_one(first, d, d, 1);
    assert_cuda(cudaEventRecord(event, first));
    emul_k_add_one(first, d, d, 1);
    assert_cuda(cudaStreamWaitEvent(second, event, 0));
    assert_cuda(cudaEventRecord(event, first)); /* moves the event, not the wait */
    assert_cuda(cudaMemcpyAsync(pinned, d, sizeof zero, cudaMemcpyDeviceToHost, second));
    assert_cuda(cudaStreamSynchronize(second));
    assert_true(*pinned == 1.0f);
    assert_int_equal(cudaEventQuery(event), cudaErrorNotReady);
    assert_int_equal(cudaGetLastError(), cudaErrorNotReady);
    assert_cuda(cudaEventSynchronize(event));
    assert_cuda(cudaEventQuery(event));
    assert_cuda(cudaEventDestroy(event));
    assert_cuda(cudaFreeHost(pinned));
    assert_cuda(cudaFree(d));
}

static void queries_come_to_an_end(void **state)
{
    float *d = device_of(NULL, sizeof *d);
    cudaEvent_t event = new_event();
    int n_queries = 0;

    (void)state;
    for (int i = 0; i < 500; i++) {
        emul_k_add_one(first, d, d, 1);
        assert_cuda(cudaEventRecord(event, first));
        assert_cuda(cudaStreamWaitEvent(second, event, 0));
        emul_k_add_one(second, d, d, 1);
        assert_cuda(cudaEventRecord(event, second));
        assert_cuda(cudaStreamWaitEvent(first, event, 0));
    }
    while (cudaStreamQuery(second) == cudaErrorNotReady) {
        n_queries++;
    }
    assert_in_range(n_queries, 2, 500);
    cudaGetLastError();
    assert_cuda(cudaEventDestroy(event));
    assert_cuda(cudaFree(d));
}

static void times_of_events_are_there_when_they_are_complete(void **state)
{
    cudaEvent_t start = NULL, end = NULL;
    float ms = -1.0f;

    (void)state;
    assert_cuda(cudaEventCreate(&start));
    assert_cuda(cudaEventCreate(&end));
    assert_int_equal(cudaEventElapsedTime(&ms, start, end), cudaErrorInvalidResourceHandle);
    assert_cuda(cudaEventRecord(start, first));
    emul_k_nothing(first, 100, 256);
    assert_cuda(cudaEventRecord(end, first));
    assert_int_equal(cudaEventElapsedTime(&ms, start, end), cudaErrorNotReady);
    assert_cuda(cudaStreamSynchronize(first));
    assert_cuda(cudaEventElapsedTime(&ms, start, end));
    assert_true(ms > 0.0f && ms < 10000.0f);
    assert_cuda(cudaEventDestroy(start));
    assert_cuda(cudaEventDestroy(end));
    cudaGetLastError();
}

static void freeing_memory_waits_for_the_device(void **state)
{
    const float zero = 0.0f;
    float *d = device_of(&zero, sizeof zero), *pinned = NULL;

    (void)state;
    assert_cuda(cudaMallocHost((void **)&pinned, sizeof zero));
    emul_k_add_one(first, d, d, 1);
    assert_cuda(cudaMemcpyAsync(pinned, d, sizeof zero, cudaMemcpyDeviceToHost, first));
    assert_true(isnan(*pinned));
    assert_cuda(cudaFree(d));
    assert_true(*pinned == 1.0f);
    assert_cuda(cudaFreeHost(pinned));
}

static void the_default_stream_waits_for_blocking_streams_only(void **state)
{
    const float zero = 0.0f;
    cudaStream_t blocking = NULL;
    float *d = device_of(NULL, 2 * sizeof zero);
    float got = -1.0f;

    (void)state;
    assert_cuda(cudaStreamCreate(&blocking));
    emul_k_nothing(NULL, 1, 32);
    assert_cuda(cudaDeviceSynchronize());
    assert_cuda(cudaMemcpyAsync(d, &zero, sizeof zero, cudaMemcpyHostToDevice, blocking));
    assert_cuda(cudaMemcpyAsync(d + 1, &zero, sizeof zero, cudaMemcpyHostToDevice, first));
    host_of(&got, d, sizeof got);
    assert_true(got == 0.0f);
    host_of(&got, d + 1, sizeof got);
    assert_true(isnan(got));
    assert_cuda(cudaStreamDestroy(blocking));
    assert_cuda(cudaFree(d));
}

static void a_destroyed_stream_finishes_what_it_has(void **state)
{
    const float zero = 0.0f;
    cudaStream_t stream = new_stream();
    float got = -1.0f, *d = device_of(&zero, sizeof zero);

    (void)state;
    emul_k_add_one(stream, d, d, 1);
    assert_cuda(cudaStreamDestroy(stream));
    assert_cuda(cudaDeviceSynchronize());
    host_of(&got, d, sizeof got);
    assert_true(got == 1.0f);
    assert_cuda(cudaFree(d));
}

static void use_a_destroyed_stream(void)
{
    cudaStream_t stream = new_stream();

    cudaStreamDestroy(stream);
    cudaStreamSynchronize(stream);
}

static void a_destroyed_stream_is_not_used(void **state)
{
    (void)state;
    assert_stops(use_a_destroyed_stream, "is no stream");
}

/* ---- work of other stand-ins --------------------------------------------------------------------
 */

static int n_steps, n_dropped;

static bool is_third_step(void *arg)
{
    (void)arg;
    return ++n_steps >= 3;
}

static bool never(void *arg)
{
    (void)arg;
    return false;
}

static void count_drop(void *arg)
{
    (void)arg;
    n_dropped++;
}

static void work_that_is_not_ready_holds_up_its_stream_alone(void **state)
{
    const float zero = 0.0f;
    float *d = device_of(&zero, sizeof zero);

    (void)state;
    n_steps = n_dropped = 0;
    emul_push_until(first, "third step", is_third_step, NULL, count_drop);
    emul_k_add_one(first, d, d, 1);
    assert_int_equal(cudaStreamQuery(first), cudaErrorNotReady);
    assert_int_equal(n_steps, 1);
    assert_cuda(cudaStreamSynchronize(second));
    assert_int_equal(n_steps, 1);
    assert_cuda(cudaStreamSynchronize(first));
    assert_int_equal(n_steps, 3);
    assert_int_equal(n_dropped, 1);
    assert_cuda(cudaFree(d));
    cudaGetLastError();
}

static void work_that_never_ends_is_dropped_when_the_device_breaks(void **state)
{
    (void)state;
    n_dropped = 0;
    emul_push_until(first, "for ever", never, NULL, count_drop);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(cudaStreamQuery(first), cudaErrorNotReady);
    }
    emul_break_device(cudaErrorUnknown);
    assert_int_equal(cudaStreamQuery(first), cudaErrorUnknown);
    assert_int_equal(n_dropped, 1);
}

/* ---- errors on request --------------------------------------------------------------------------
 */

static void the_call_that_is_to_fail_fails(void **state)
{
    void *p = NULL;

    (void)state;
    setenv("REFRACT_EMUL_FAIL", "cudaMalloc:2,cudaStreamCreate:1+", 1);
    assert_cuda(cudaMalloc(&p, 8));
    assert_cuda(cudaFree(p));
    assert_int_equal(cudaMalloc(&p, 8), cudaErrorMemoryAllocation);
    assert_int_equal(cudaGetLastError(), cudaErrorMemoryAllocation);
    assert_cuda(cudaMalloc(&p, 8));
    assert_cuda(cudaFree(p));
    cudaGetLastError();
    for (int i = 0; i < 3; i++) {
        cudaStream_t s;

        assert_int_equal(cudaStreamCreate(&s), cudaErrorMemoryAllocation);
    }
    setenv("REFRACT_EMUL_FAIL", "launch:1", 1);
    emul_k_nothing(first, 1, 32);
    assert_int_equal(cudaGetLastError(), cudaErrorLaunchOutOfResources);
}

static void a_broken_kernel_surfaces_at_the_next_wait_and_stays(void **state)
{
    void *p = NULL;

    (void)state;
    setenv("REFRACT_EMUL_FAIL", "kernel:2", 1);
    emul_k_nothing(first, 1, 32);
    emul_k_nothing(first, 1, 32);
    emul_k_nothing(first, 1, 32);
    assert_cuda(cudaGetLastError());
    assert_int_equal(cudaStreamSynchronize(first), cudaErrorLaunchFailure);
    assert_int_equal(cudaGetLastError(), cudaErrorLaunchFailure);
    assert_int_equal(cudaGetLastError(), cudaErrorLaunchFailure);
    assert_int_equal(cudaMalloc(&p, 8), cudaErrorLaunchFailure);
    assert_int_equal(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    assert_string_equal(cudaGetErrorName(cudaErrorLaunchFailure), "cudaErrorLaunchFailure");
}

static void devices_are_as_many_as_were_set(void **state)
{
    char id[32];
    int n = -1, value = 0;
    void *p = NULL;

    (void)state;
    setenv("REFRACT_EMUL_DEVICES", "0", 1);
    assert_int_equal(cudaGetDeviceCount(&n), cudaErrorNoDevice);
    assert_int_equal(n, 0);
    assert_int_equal(cudaMalloc(&p, 8), cudaErrorNoDevice);
    setenv("REFRACT_EMUL_DEVICES", "2", 1);
    assert_cuda(cudaGetDeviceCount(&n));
    assert_int_equal(n, 2);
    assert_int_equal(cudaSetDevice(2), cudaErrorInvalidDevice);
    assert_cuda(cudaSetDevice(1));
    assert_cuda(cudaDeviceGetPCIBusId(id, sizeof id, 1));
    assert_string_equal(id, "0000:02:00.0");
    assert_cuda(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 1));
    assert_int_equal(value, 232448);
    emul_k_nothing(first, 1, 32); /* a stream of device 0 */
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidResourceHandle);
    assert_cuda(cudaSetDevice(0));
}

static void *on_another_thread(void *arg)
{
    cudaStream_t stream = NULL;
    float *d = arg;

    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    for (int i = 0; i < 200; i++) {
        emul_k_add_one(stream, d, d, 1);
        cudaStreamSynchronize(stream);
    }
    cudaStreamDestroy(stream);
    return NULL;
}

static void two_threads_of_the_host_may_use_the_device(void **state)
{
    const float zeros[2] = {0.0f, 0.0f};
    float got[2], *d = device_of(zeros, sizeof zeros);
    pthread_t other;

    (void)state;
    assert_int_equal(pthread_create(&other, NULL, on_another_thread, d), 0);
    on_another_thread(d + 1);
    pthread_join(other, NULL);
    host_of(got, d, sizeof got);
    assert_true(got[0] == 200.0f && got[1] == 200.0f);
    assert_cuda(cudaFree(d));
}

#define on_streams(f) cmocka_unit_test_setup_teardown(f, create_streams, destroy_streams)

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_streams(device_memory_begins_as_nan),
        on_streams(the_host_cannot_touch_device_memory),
        on_streams(memory_ends_where_it_was_set_to_end),
        on_streams(wrong_frees_stop),
        on_streams(pointers_know_what_they_are),
        on_streams(copies_stay_inside_their_allocations),
        on_streams(a_pageable_source_may_be_reused_at_once_and_a_pinned_one_not),
        on_streams(a_copy_to_pageable_memory_waits_and_one_to_pinned_memory_does_not),
        on_streams(copies_in_two_dimensions_leave_the_rest),
        on_streams(a_missing_event_gives_what_was_there_before),
        on_streams(a_later_write_overtakes_a_read_without_an_event),
        on_streams(an_event_is_the_place_where_it_was_recorded),
        on_streams(queries_come_to_an_end),
        on_streams(times_of_events_are_there_when_they_are_complete),
        on_streams(freeing_memory_waits_for_the_device),
        on_streams(the_default_stream_waits_for_blocking_streams_only),
        on_streams(a_destroyed_stream_finishes_what_it_has),
        on_streams(a_destroyed_stream_is_not_used),
        on_streams(work_that_is_not_ready_holds_up_its_stream_alone),
        on_streams(work_that_never_ends_is_dropped_when_the_device_breaks),
        on_streams(the_call_that_is_to_fail_fails),
        on_streams(a_broken_kernel_surfaces_at_the_next_wait_and_stays),
        on_streams(devices_are_as_many_as_were_set),
        on_streams(two_threads_of_the_host_may_use_the_device),
    };

    return cmocka_run_group_tests_name("emul_runtime", tests, NULL, NULL);
}
