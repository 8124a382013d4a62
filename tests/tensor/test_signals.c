/* Signals while products run. oneDNN's kernels point the stack pointer at memory of the heap: a
 * handler that runs then writes its frame over what lies before that memory. */
#include "dense_fixture.h"

#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    N_THREADS = 2,
    M = 480,
    N = 768,
    K = 384,
    N_SIGNALS = 300,
    STACK_BYTES = 1 << 20, /* far more than products take */
};

/* A place in the thread's stack that is further out than all frames of a product. */
static _Thread_local uintptr_t home;
static _Atomic int64_t n_seen;
static atomic_bool is_done;

/* Elsewhere the heap is damaged now: nothing that allocates can report it. */
static void on_signal(int number)
{
    static const char text[] = "a handler ran in a thread whose stack pointer was elsewhere\n";
    const uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    (void)number;
    if (here > home || home - here > STACK_BYTES) {
        (void)!write(STDERR_FILENO, text, sizeof text - 1);
        _exit(1);
    }
    n_seen++;
}

typedef struct team {
    pthread_t threads[N_THREADS];
} team;

/* Frames of later regions begin near this one's. */
static void note_homes(team *t)
{
#pragma omp parallel num_threads(N_THREADS)
    {
        home = (uintptr_t)__builtin_frame_address(0) + STACK_BYTES / 16;
        t->threads[omp_get_thread_num()] = pthread_self();
    }
}

/* Signals to every thread by turns. */
static void *send_signals(void *arg)
{
    const team *t = arg;
    for (int i = 0; !is_done; i++) {
        pthread_kill(t->threads[i % N_THREADS], SIGUSR1);
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    return NULL;
}

static pthread_t begin_signals(team *t)
{
    pthread_t sender;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
    n_seen = 0;
    is_done = false;
    note_homes(t);
    assert_int_equal(pthread_create(&sender, NULL, send_signals, t), 0);
    return sender;
}

static void end_signals(pthread_t sender)
{
    is_done = true;
    assert_int_equal(pthread_join(sender, NULL), 0);
}

static rf_matmul_args product(float *a, float *b, float *c, unsigned variant)
{
    const bool ta = (variant & 1U) != 0, tb = (variant & 2U) != 0;
    return (rf_matmul_args){.a = ta ? rf_view_2d(a, K, M) : rf_view_2d(a, M, K),
                            .b = tb ? rf_view_2d(b, N, K) : rf_view_2d(b, K, N),
                            .c = rf_view_2d(c, M, N),
                            .trans_a = ta ? RF_TRANS : RF_NO_TRANS,
                            .trans_b = tb ? RF_TRANS : RF_NO_TRANS,
                            .alpha = 1.0f};
}

/* One layout of the operands: kernels differ by it. */
static void try_variant(fixture f, unsigned variant)
{
    float *a = random_floats(M * K, 1), *b = random_floats(N * K, 2);
    float *calm = random_floats(M * N, 3), *c = random_floats(M * N, 3);
    rf_matmul_args args = product(a, b, calm, variant);
    team t;
    assert_int_equal(rf_matmul(f.s, &args), RF_OK);
    args.c.data = c;
    const pthread_t sender = begin_signals(&t);
    while (n_seen < N_SIGNALS) {
        assert_int_equal(rf_matmul(f.s, &args), RF_OK);
        assert_memory_equal(c, calm, sizeof *c * M * N);
    }
    end_signals(sender);
    rf_free(c);
    rf_free(calm);
    rf_free(b);
    rf_free(a);
}

static void test_handlers_run_on_the_stack_of_the_thread_that_multiplies(void **state)
{
    (void)state;
    fixture f = open_threads(N_THREADS);
    for (unsigned variant = 0; variant < 4; variant++) {
        try_variant(f, variant);
    }
    close_threads(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handlers_run_on_the_stack_of_the_thread_that_multiplies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
