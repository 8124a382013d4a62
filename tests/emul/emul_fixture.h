/* What the tests of the emulation share: device arrays, and endings of the process as results. */
#ifndef REFRACT_EMUL_FIXTURE_H
#define REFRACT_EMUL_FIXTURE_H

#include "emul.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define assert_cuda(call) assert_int_equal((call), cudaSuccess)

static inline void *device_of(const void *host, size_t n_bytes)
{
    void *p = NULL;

    assert_cuda(cudaMalloc(&p, n_bytes));
    if (host != NULL) {
        assert_cuda(cudaMemcpy(p, host, n_bytes, cudaMemcpyHostToDevice));
    }
    return p;
}

static inline void host_of(void *host, const void *device, size_t n_bytes)
{
    assert_cuda(cudaMemcpy(host, device, n_bytes, cudaMemcpyDeviceToHost));
}

static inline cudaStream_t new_stream(void)
{
    cudaStream_t stream = NULL;

    assert_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

static inline cudaEvent_t new_event(void)
{
    cudaEvent_t event = NULL;

    assert_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return event;
}

/* The exit code of a process that calls `f`, with what it printed in `said`; 0 if `f` returned. */
static inline int exit_code_of(void (*f)(void), char *said, size_t said_bytes)
{
    int ends[2], code = 0;
    size_t n = 0;
    ssize_t got;
    pid_t child;

    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        f();
        _exit(0);
    }
    close(ends[1]);
    while ((got = read(ends[0], said + n, said_bytes - 1 - n)) > 0) {
        n += (size_t)got;
    }
    said[n] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &code, 0), child);
    return WIFEXITED(code) ? WEXITSTATUS(code) : 128 + WTERMSIG(code);
}

/* `f` ends the process, with words that hold `words`. */
static inline void assert_stops_at(const char *file, int line, void (*f)(void), const char *words)
{
    char said[8192];
    int code = exit_code_of(f, said, sizeof said);

    if (code != EMUL_EXIT || strstr(said, words) == NULL) {
        print_error("exit code %d, expected %d; expected \"%s\" in:\n%s\n", code, EMUL_EXIT, words,
                    said);
        _fail(file, line);
    }
}
#define assert_stops(f, words) assert_stops_at(__FILE__, __LINE__, (f), (words))

#endif
