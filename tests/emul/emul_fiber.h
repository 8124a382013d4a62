/* Fibers: stacks that take turns on one thread of the host. Private to emul_*.cpp. */
#ifndef REFRACT_EMUL_FIBER_H
#define REFRACT_EMUL_FIBER_H

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define EMUL_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMUL_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define EMUL_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define EMUL_TSAN 1
#endif
#endif
#if !defined(EMUL_ASAN)
#define EMUL_ASAN 0
#endif
#if !defined(EMUL_TSAN)
#define EMUL_TSAN 0
#endif

/* The emulation itself is no part of the kernel that is searched for races. */
#if EMUL_TSAN
#define EMUL_UNSEEN __attribute__((no_sanitize("thread"), noinline))
#else
#define EMUL_UNSEEN
#endif

#if !defined(EMUL_UCONTEXT) && !defined(__x86_64__) && !defined(__aarch64__)
#define EMUL_UCONTEXT 1
#endif
#if defined(EMUL_UCONTEXT)
#include <ucontext.h>
#endif

struct emul_fiber {
    emul_fiber *next; /* in the pool */
#if defined(EMUL_UCONTEXT)
    ucontext_t context;
#else
    void *sp;
#endif
    const void *stack; /* the lowest address */
    size_t stack_bytes;
    void *tsan, *fake; /* the sanitizers' */
};

/* Below every stack, untouchable: more than the locals of a kernel that should not have so many. */
const size_t EMUL_GUARD_BYTES = size_t(256) << 10;

/* A fiber that will begin with emul_fiber_main, from the pool. */
emul_fiber *emul_fiber_take();
/* Back to the pool: may be the one that runs, if it never runs again. `watched`: the race checker
 * knows what ran on it, and it rests as long as possible. */
void emul_fiber_give(emul_fiber *fiber, bool watched);
/* Leave `from`, which runs, for `to`. `ends`: nothing comes back to `from`. */
void emul_fiber_switch(emul_fiber *from, emul_fiber *to, bool ends);
/* The host's thread, which is about to run a grid. */
void emul_fiber_begin_grid();
/* The host's thread, which is about to run a block of `n_threads`. */
emul_fiber *emul_fiber_host(unsigned n_threads, bool watched);
/* Given by the user of fibers. Never returns. */
[[noreturn]] void emul_fiber_main();

#endif
