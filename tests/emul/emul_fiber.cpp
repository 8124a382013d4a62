/* Fibers with their own switch of stacks on x86-64 and aarch64, ucontext elsewhere; known to the
 * address and the thread sanitizer. */
#include "emul_fiber.h"

#include "emul.h"

#include <stdint.h>
#include <sys/mman.h>

#if EMUL_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if EMUL_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace
{
const size_t STACK_BYTES = size_t(EMUL_ASAN || EMUL_TSAN ? 256 : 64) << 10;
/* Tops of stacks that are all a multiple of a page apart would share a few lines of the cache. */
const size_t STACK_STAGGER = 5 * 64;
/* The race checker takes what ran on one fiber for ordered: so many before one is used again. */
const unsigned POOL_AT_MOST = EMUL_TSAN ? 2048 : 0;

emul_fiber *first_free, *last_free;
unsigned n_fibers, n_in_grid; /* n_in_grid: that watched threads of this grid had */
emul_fiber host;
emul_fiber *left; /* whose stack the last switch came from */
} // namespace

#if !defined(EMUL_UCONTEXT)
/* Save what a call preserves, swap stacks, restore. */
extern "C" void emul_swap_stacks(void **save_sp, void *load_sp);
#if defined(__x86_64__)
asm(R"(
.text
.globl emul_swap_stacks
.type emul_swap_stacks,@function
emul_swap_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emul_swap_stacks,.-emul_swap_stacks
)");
enum { SAVED_WORDS = 8, RETURN_WORD = 6 }; /* 6 registers, the return address, alignment */
#else
asm(R"(
.text
.globl emul_swap_stacks
.type emul_swap_stacks,%function
emul_swap_stacks:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size emul_swap_stacks,.-emul_swap_stacks
)");
enum { SAVED_WORDS = 20, RETURN_WORD = 11 };
#endif
#endif

/* After a switch, on the stack that was switched to. */
EMUL_UNSEEN static void arrive(void *fake)
{
#if EMUL_ASAN
    const void *bottom = nullptr;
    size_t n_bytes = 0;

    __sanitizer_finish_switch_fiber(fake, &bottom, &n_bytes);
    if (left == &host) {
        host.stack = bottom;
        host.stack_bytes = n_bytes;
    }
#else
    (void)fake;
#endif
}

EMUL_UNSEEN static void begin()
{
    arrive(nullptr);
    emul_fiber_main();
}

EMUL_UNSEEN static emul_fiber *create()
{
    const size_t page = 4096, n_bytes = STACK_BYTES + EMUL_GUARD_BYTES;
    char *p = static_cast<char *>(
        mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    emul_fiber *fiber = new emul_fiber();

    if (p == MAP_FAILED || mprotect(p, EMUL_GUARD_BYTES, PROT_NONE) != 0) {
        emul_die("no memory for the stack of a kernel's thread");
    }
    fiber->stack = p + EMUL_GUARD_BYTES;
    fiber->stack_bytes = STACK_BYTES - size_t(n_fibers) * STACK_STAGGER % page;
#if EMUL_TSAN
    fiber->tsan = __tsan_create_fiber(0);
#endif
    n_fibers++;
    return fiber;
}

EMUL_UNSEEN emul_fiber *emul_fiber_take()
{
    emul_fiber *fiber = first_free;

    if (fiber == nullptr) {
        fiber = create();
    } else {
        first_free = fiber->next;
    }
#if EMUL_ASAN
    __asan_unpoison_memory_region(fiber->stack, fiber->stack_bytes);
#endif
#if defined(EMUL_UCONTEXT)
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = const_cast<void *>(fiber->stack);
    fiber->context.uc_stack.ss_size = fiber->stack_bytes;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, begin, 0);
#else
    void **sp = reinterpret_cast<void **>(uintptr_t(fiber->stack) + fiber->stack_bytes);

    sp -= SAVED_WORDS;
    for (int i = 0; i < SAVED_WORDS; i++) {
        sp[i] = nullptr;
    }
    sp[RETURN_WORD] = reinterpret_cast<void *>(begin);
    fiber->sp = sp;
#endif
    fiber->fake = nullptr;
    return fiber;
}

EMUL_UNSEEN void emul_fiber_give(emul_fiber *fiber, bool watched)
{
    if (watched && first_free != nullptr) {
        fiber->next = nullptr; /* behind all others */
        last_free->next = fiber;
        last_free = fiber;
        return;
    }
    last_free = first_free == nullptr ? fiber : last_free;
    fiber->next = first_free; /* its stack is still in the cache */
    first_free = fiber;
}

EMUL_UNSEEN void emul_fiber_begin_grid()
{
    n_in_grid = 0;
}

EMUL_UNSEEN emul_fiber *emul_fiber_host(unsigned n_threads, bool watched)
{
#if EMUL_TSAN
    /* Stacks are made here: one that a fiber made would look as if they shared it. New ones go to
     * the front: those behind have the longest rest. */
    unsigned n = n_in_grid += watched ? n_threads : 0;

    host.tsan = __tsan_get_current_fiber();
    n = n < POOL_AT_MOST ? n : POOL_AT_MOST;
    n = n < n_threads ? n_threads : n;
    while (n_fibers < n) {
        emul_fiber_give(create(), false);
    }
#else
    (void)n_threads;
    (void)watched;
    (void)POOL_AT_MOST;
#endif
    return &host;
}

EMUL_UNSEEN void emul_fiber_switch(emul_fiber *from, emul_fiber *to, bool ends)
{
    left = from;
#if EMUL_ASAN
    __sanitizer_start_switch_fiber(ends ? nullptr : &from->fake, to->stack, to->stack_bytes);
#else
    (void)ends;
#endif
#if EMUL_TSAN
    __tsan_switch_to_fiber(to->tsan, 1); /* 1: no order comes of it */
#endif
#if defined(EMUL_UCONTEXT)
    swapcontext(&from->context, &to->context);
#else
    emul_swap_stacks(&from->sp, to->sp);
#endif
    arrive(from->fake);
}
