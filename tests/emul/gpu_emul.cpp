/* Kernels on the host: the threads of a block take turns as fibers, block after block.
 *
 * A thread runs until it waits at a barrier or for its warp, or ends; then another one goes on. In
 * `forward`, `reverse` and `random` order a warp runs ahead as far as it can before the next one
 * gets a turn; in `lockstep` all warps go from one warp operation to the next together. A kernel
 * that is right gives the same bits in every order.
 *
 * A thread that never waits costs no switch: the fiber that ends one begins the next. Only in the
 * race checker (ThreadSanitizer) every thread has a fiber of its own: threads are ordered there by
 * barriers, __syncwarp and launches alone. It does not see blocks that are not watched. */
#include "gpu_emul.h"

#include "cudart_emul.h"
#include "emul_fiber.h"
#include "emul_races.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if EMUL_ASAN
#include <sanitizer/asan_interface.h>
extern "C" void __asan_get_shadow_mapping(size_t *scale, size_t *offset);
#endif
#if EMUL_TSAN
#include <sanitizer/tsan_interface.h>
#endif

emul_place emul_now;

namespace
{
const unsigned MOST_THREADS = 1024, MOST_WARPS = 32, MOST_SHARED_ARRAYS = 64;
const size_t SHARED_BYTES = 48 << 10;     /* of a block without asking */
const size_t SHARED_OPTIN_BYTES = 232448; /* the most that can be asked for */
const size_t SHARED_RED = 64;             /* red zone between arrays */
const size_t ARENA_BYTES = EMUL_TSAN ? size_t(1) << 30 : size_t(1) << 20;

enum thread_state { UNSTARTED, RUNNING, AT_BARRIER, AT_WARP, EXITED };

enum schedule { FORWARD, REVERSE, RANDOM, LOCKSTEP };

struct thread {
    thread_state state;
    uint3 idx;
    unsigned number; /* in the block */
    emul_fiber *fiber;
    const char *file; /* where it waits */
    int line;
    unsigned mask;
    emul_warp_kind kind;
    int arg, width;
    uint64_t value;
};

struct warp {
    unsigned ready;                   /* lanes that can go on */
    unsigned later;                   /* lockstep: that can in the next round */
    unsigned exists, exited, waiting; /* waiting: in a warp operation */
    unsigned char n_syncs[32];        /* of the group whose first lane this is */
};

struct shared_array {
    const char *file;
    int line;
    unsigned char *p;
    size_t n_bytes;
};

struct {
    const emul_grid *grid; /* NULL: none runs */
    schedule order;
    uint64_t random;
    unsigned change_below; /* random: how likely the turn goes to another warp, of 2^32 */
    unsigned n_threads, n_warps;
    /* the block */
    unsigned n_live, n_at_barrier, n_barriers;
    unsigned current_warp, warps_ready, warps_later;
    thread *current, *at_barrier; /* at_barrier: the first that came */
    emul_fiber *host;
    unsigned char *arena;
    size_t arena_used, shared_begin, static_bytes; /* shared_begin: of the arena, for this block */
    unsigned n_shared;
    bool watched; /* the block, by the race checker */
    shared_array shared[MOST_SHARED_ARRAYS];
    char *order_points; /* addresses for the race checker */
    char end_of_grid;
    warp warps[MOST_WARPS];
    thread threads[MOST_THREADS];
} now;
} // namespace

/* ---- what the race checker hears of ------------------------------------------------------------
 */

/* What was done before `release` of a point lies before what follows `acquire` of it. */
EMUL_UNSEEN static void release(char *point)
{
#if EMUL_TSAN
    if (now.watched) {
        __tsan_release(point);
    }
#else
    (void)point;
#endif
}

EMUL_UNSEEN static void acquire(char *point)
{
#if EMUL_TSAN
    if (now.watched) {
        __tsan_acquire(point);
    }
#else
    (void)point;
#endif
}

/* ---- what a misuse says ------------------------------------------------------------------------
 */

void emul_kernel_where(char *text, size_t text_bytes)
{
    if (now.grid == nullptr) {
        text[0] = '\0';
        return;
    }
    int n = snprintf(text, text_bytes, "kernel %s, block (%u,%u,%u)", now.grid->name,
                     emul_now.block.x, emul_now.block.y, emul_now.block.z);
    if (now.current != nullptr && n > 0 && size_t(n) < text_bytes) {
        snprintf(text + n, text_bytes - size_t(n), ", thread (%u,%u,%u)", now.current->idx.x,
                 now.current->idx.y, now.current->idx.z);
    }
}

bool emul_is_stack_guard(const void *p)
{
    if (now.current == nullptr || now.current->fiber == nullptr) {
        return false;
    }
    const char *stack = static_cast<const char *>(now.current->fiber->stack);

    return static_cast<const char *>(p) < stack &&
           static_cast<const char *>(p) >= stack - EMUL_GUARD_BYTES;
}

/* Stops, with what each thread of the block is doing. */
[[noreturn]] EMUL_UNSEEN static void stop(const char *what)
{
    static const char *const states[] = {"not begun", "running", "at __syncthreads",
                                         "at a warp operation", "exited"};
    char text[2048];
    size_t used = 0;
    int n_lines = 0;

    text[0] = '\0';
    for (unsigned i = 0; i < now.n_threads && n_lines < 12; n_lines++) {
        const thread *t = &now.threads[i];
        unsigned end = i + 1;

        while (end < now.n_threads && now.threads[end].state == t->state &&
               now.threads[end].line == t->line && now.threads[end].mask == t->mask) {
            end++;
        }
        int n = snprintf(text + used, sizeof text - used, "\n  threads %u to %u: %s", i, end - 1,
                         states[t->state]);
        used += n > 0 ? size_t(n) : 0;
        if ((t->state == AT_BARRIER || t->state == AT_WARP) && used < sizeof text) {
            n = snprintf(text + used, sizeof text - used, ", %s:%d, mask %08x", t->file, t->line,
                         t->mask);
            used += n > 0 ? size_t(n) : 0;
        }
        if (used >= sizeof text) {
            break;
        }
        i = end;
    }
    emul_die("%s%s", what, text);
}

/* ---- whose turn it is --------------------------------------------------------------------------
 */

EMUL_UNSEEN static unsigned next_random()
{
    now.random ^= now.random << 13;
    now.random ^= now.random >> 7;
    now.random ^= now.random << 17;
    return unsigned(now.random >> 32);
}

/* One of the bits set in `bits`, by the schedule; `last` is the one that had its turn. */
EMUL_UNSEEN static unsigned pick_bit(unsigned bits, unsigned last)
{
    unsigned others;

    switch (now.order) {
    case REVERSE:
        others = bits & ((1u << last) - 1u);
        return 31u - unsigned(__builtin_clz(others != 0 ? others : bits));
    case RANDOM:
        for (unsigned skip = next_random() % unsigned(__builtin_popcount(bits)); skip > 0; skip--) {
            bits &= bits - 1;
        }
        return unsigned(__builtin_ctz(bits));
    case FORWARD:
    case LOCKSTEP:
        break;
    }
    others = last < 31 ? bits & ~((2u << last) - 1u) : 0;
    return unsigned(__builtin_ctz(others != 0 ? others : bits));
}

EMUL_UNSEEN static void make_ready(unsigned w, unsigned lanes, bool at_once)
{
    if (now.order == LOCKSTEP && !at_once) {
        now.warps[w].later |= lanes;
        now.warps_later |= 1u << w;
    } else {
        now.warps[w].ready |= lanes;
        now.warps_ready |= 1u << w;
    }
}

/* All live threads have come to the barrier. */
EMUL_UNSEEN static void open_barrier()
{
    for (unsigned w = 0; w < now.n_warps; w++) {
        unsigned lanes = now.warps[w].exists & ~now.warps[w].exited;

        if (lanes != 0) {
            make_ready(w, lanes, true);
        }
    }
    now.n_at_barrier = 0;
    now.at_barrier = nullptr;
    now.n_barriers++;
}

/* The thread whose turn it is; NULL when all of the block have ended. */
EMUL_UNSEEN static thread *next_thread()
{
    for (;;) {
        if (now.warps_ready == 0 && now.warps_later != 0) {
            for (unsigned w = 0; w < now.n_warps; w++) {
                now.warps[w].ready |= now.warps[w].later;
                now.warps[w].later = 0;
            }
            now.warps_ready = now.warps_later;
            now.warps_later = 0;
        }
        if (now.warps_ready != 0) {
            break;
        }
        if (now.n_live == 0) {
            return nullptr;
        }
        if (now.n_at_barrier != now.n_live) {
            now.current = nullptr;
            stop("deadlock: a barrier or a warp operation that some threads never reach");
        }
        open_barrier();
    }
    if ((now.warps_ready >> now.current_warp & 1u) == 0 ||
        (now.order == RANDOM && next_random() < now.change_below)) {
        now.current_warp = pick_bit(now.warps_ready, now.current_warp);
    }
    warp *w = &now.warps[now.current_warp];
    unsigned last = now.current == nullptr ? 31u : now.current->number % 32;
    unsigned lane = pick_bit(w->ready, now.order == REVERSE && now.current == nullptr ? 0 : last);

    w->ready &= ~(1u << lane);
    if (w->ready == 0) {
        now.warps_ready &= ~(1u << now.current_warp);
    }
    return &now.threads[now.current_warp * 32 + lane];
}

EMUL_UNSEEN static void set_current(thread *t)
{
    now.current = t;
    emul_now.thread = t->idx;
}

/* Leave the fiber of `from` for the one of `to`. */
EMUL_UNSEEN static void go_on_with(emul_fiber *from, thread *to, bool ends)
{
    set_current(to);
    if (to->state == UNSTARTED) {
        to->fiber = emul_fiber_take();
    }
    to->state = RUNNING;
    emul_fiber_switch(from, to->fiber, ends);
}

/* The current thread waits. */
EMUL_UNSEEN static void wait_for_turn(thread *me)
{
    thread *next = next_thread();

    if (next == me) {
        me->state = RUNNING;
        set_current(me);
        return;
    }
    go_on_with(me->fiber, next, false);
}

/* ---- a thread's life ---------------------------------------------------------------------------
 */

EMUL_UNSEEN static void end_thread(thread *me)
{
    warp *w = &now.warps[me->number / 32];
    unsigned bit = 1u << me->number % 32;

    me->state = EXITED;
    w->exited |= bit;
    now.n_live--;
    if (w->waiting == 0) {
        return;
    }
    for (unsigned lanes = w->waiting; lanes != 0; lanes &= lanes - 1) {
        const thread *other = &now.threads[me->number / 32 * 32 + unsigned(__builtin_ctz(lanes))];

        if ((other->mask & bit) != 0) {
            stop("a warp operation names a lane that has exited");
        }
    }
}

/* A fiber: runs its thread, then others that have not begun, as long as there are such. */
EMUL_UNSEEN void emul_fiber_main()
{
    emul_fiber *fiber = now.current->fiber;

    for (;;) {
        thread *me = now.current;

        acquire(now.order_points);
        emul_races_begin_thread(now.watched);
        now.grid->thread(now.grid);
        emul_races_end_thread(now.watched);
        release(&now.end_of_grid);
        end_thread(me);
        thread *next = next_thread();
        if (next == nullptr) {
            emul_fiber_give(fiber, now.watched);
            emul_fiber_switch(fiber, now.host, true);
            abort(); /* not reached */
        }
        if (now.watched || next->state != UNSTARTED) {
            emul_fiber_give(fiber, now.watched);
            go_on_with(fiber, next, true);
            abort(); /* not reached */
        }
        next->fiber = fiber;
        next->state = RUNNING;
        set_current(next);
    }
}

/* ---- barriers and warps ------------------------------------------------------------------------
 */

EMUL_UNSEEN void emul_barrier(const char *file, int line)
{
    thread *me = now.current;
    char *point = now.order_points + 1 + now.n_barriers % 2;

    me->state = AT_BARRIER;
    me->file = file;
    me->line = line;
    me->mask = 0xffffffffu;
    if (now.at_barrier == nullptr) {
        now.at_barrier = me;
    } else if (now.at_barrier->line != line || strcmp(now.at_barrier->file, file) != 0) {
        stop("divergent __syncthreads: threads of a block wait at different ones");
    }
    now.n_at_barrier++;
    release(point);
    wait_for_turn(me);
    acquire(point);
}

/* Where lane `lane` reads. */
EMUL_UNSEEN static unsigned source_lane(const thread *t, unsigned lane)
{
    unsigned width = unsigned(t->width), base = lane / width * width;
    unsigned from = lane;

    switch (t->kind) {
    case EMUL_IDX:
        from = base + (unsigned(t->arg) & (width - 1));
        break;
    case EMUL_UP:
        from = unsigned(t->arg) <= lane - base ? lane - unsigned(t->arg) : lane;
        break;
    case EMUL_DOWN:
        from = unsigned(t->arg) < base + width - lane ? lane + unsigned(t->arg) : lane;
        break;
    case EMUL_XOR:
        from = (lane ^ unsigned(t->arg)) < base + width ? lane ^ unsigned(t->arg) : lane;
        break;
    case EMUL_SYNC:
    case EMUL_BALLOT:
    case EMUL_ANY:
    case EMUL_ALL:
        break;
    }
    return from;
}

/* All lanes of `mask` are in the same operation: each gets its result. */
EMUL_UNSEEN static void complete(thread *lanes, unsigned mask, emul_warp_kind kind)
{
    uint64_t in[32];
    unsigned votes = 0;

    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        unsigned lane = unsigned(__builtin_ctz(rest));

        in[lane] = lanes[lane].value;
        votes |= unsigned(in[lane] & 1) << lane;
    }
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        unsigned lane = unsigned(__builtin_ctz(rest));
        thread *t = &lanes[lane];

        if (kind == EMUL_BALLOT) {
            t->value = votes;
        } else if (kind == EMUL_ANY) {
            t->value = votes != 0;
        } else if (kind == EMUL_ALL) {
            t->value = votes == mask;
        } else if (kind != EMUL_SYNC) {
            unsigned from = source_lane(t, lane);

            if (from > 31 || (mask >> from & 1u) == 0) {
                now.current = t;
                stop("a shuffle reads a lane outside of its mask");
            }
            t->value = in[from];
        }
    }
}

/* Whether all lanes of the mask wait in the same operation as `me`. */
EMUL_UNSEEN static bool all_came(const thread *lanes, const thread *me, const warp *w)
{
    if ((w->waiting & me->mask) != me->mask) {
        return false;
    }
    for (unsigned rest = me->mask; rest != 0; rest &= rest - 1) {
        const thread *t = &lanes[__builtin_ctz(rest)];

        if (t->mask != me->mask || t->line != me->line || t->kind != me->kind ||
            (t->file != me->file && strcmp(t->file, me->file) != 0)) {
            return false; /* who waits for another one waits for ever: a deadlock is reported */
        }
    }
    return true;
}

EMUL_UNSEEN uint64_t emul_warp(const char *file, int line, unsigned mask, emul_warp_kind kind,
                               uint64_t value, int arg, int width)
{
    thread *me = now.current;
    unsigned n = me->number / 32, lane = me->number % 32;
    warp *w = &now.warps[n];
    unsigned char *n_syncs = &w->n_syncs[mask == 0 ? 0 : __builtin_ctz(mask)];
    char *point =
        now.order_points + 8 + (n * 32 + unsigned(n_syncs - w->n_syncs)) * 2 + *n_syncs % 2;

    me->state = AT_WARP;
    me->file = file;
    me->line = line;
    me->mask = mask;
    me->kind = kind;
    me->value = value;
    me->arg = arg;
    me->width = width;
    if ((mask >> lane & 1u) == 0) {
        stop("a warp operation whose mask does not name the caller");
    }
    if ((mask & (w->exited | ~w->exists)) != 0) {
        stop("a warp operation names a lane that has exited or never existed");
    }
    if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
        stop("the width of a shuffle is no power of two up to 32");
    }
    w->waiting |= 1u << lane;
    if (kind == EMUL_SYNC) {
        release(point);
    }
    if (all_came(&now.threads[n * 32], me, w)) {
        complete(&now.threads[n * 32], mask, kind);
        w->waiting &= ~mask;
        make_ready(n, mask, false);
        ++*n_syncs;
    }
    wait_for_turn(me);
    if (kind == EMUL_SYNC) {
        acquire(point);
    }
    return me->value;
}

/* ---- shared memory -----------------------------------------------------------------------------
 */

/* Not memset: the race checker would see it as an access of the calling thread. */
EMUL_UNSEEN static void fill_unset(unsigned char *p, size_t n_bytes)
{
#if EMUL_TSAN
    for (size_t i = 0; i < n_bytes; i++) {
        static_cast<volatile unsigned char *>(p)[i] = 0xff;
    }
#else
    memset(p, 0xff, n_bytes);
#endif
}

/* Red zones are NaN for who reads them, too. */
EMUL_UNSEEN static unsigned char red_byte(const unsigned char *p)
{
    return uintptr_t(p) % 2 != 0 ? 0xff : 0xf1;
}

EMUL_UNSEEN static unsigned char *add_shared(const char *file, int line, size_t n_bytes)
{
    size_t room = (n_bytes + 15) / 16 * 16 + SHARED_RED;
    unsigned char *p = now.arena + now.arena_used;

    if (now.n_shared == MOST_SHARED_ARRAYS) {
        stop("too many shared arrays in a kernel");
    }
    if (now.arena_used + room > ARENA_BYTES) {
        stop("too many blocks for the race checker: its shared memory is not used twice in a grid");
    }
    now.shared[now.n_shared++] = shared_array{file, line, p, n_bytes};
    now.arena_used += room;
#if EMUL_ASAN
    __asan_unpoison_memory_region(p, room);
#endif
    fill_unset(p, n_bytes);
    for (unsigned char *red = p + n_bytes; red < p + room; red++) {
        *static_cast<volatile unsigned char *>(red) = red_byte(red);
    }
#if EMUL_ASAN
    __asan_poison_memory_region(p + n_bytes, room - n_bytes);
#endif
    return p;
}

EMUL_UNSEEN void *emul_shared(const char *file, int line, size_t n_bytes)
{
    for (unsigned i = 0; i < now.n_shared; i++) {
        const shared_array *a = &now.shared[i];

        if (a->line == line && (a->file == file || strcmp(a->file, file) == 0)) {
            if (a->n_bytes != n_bytes) {
                stop("two shared arrays in one line");
            }
            return a->p;
        }
    }
    now.static_bytes += n_bytes;
    if (now.static_bytes > SHARED_BYTES) {
        stop("more than 48 KiB of static shared memory");
    }
    size_t all_bytes = now.static_bytes + now.grid->shared_bytes;
    if (all_bytes > SHARED_OPTIN_BYTES ||
        (all_bytes > SHARED_BYTES && now.grid->asked_bytes < now.grid->shared_bytes)) {
        stop("more shared memory, static and dynamic, than a block gets");
    }
    return add_shared(file, line, n_bytes);
}

#if !EMUL_ASAN
EMUL_UNSEEN static void check_shared()
{
    for (unsigned i = 0; i < now.n_shared; i++) {
        const shared_array *a = &now.shared[i];
        const unsigned char *end = a->p + (a->n_bytes + 15) / 16 * 16 + SHARED_RED;

        for (const unsigned char *p = a->p + a->n_bytes; p < end; p++) {
            if (*p != red_byte(p)) {
                emul_die("a write %zu bytes behind the end of a shared array of %zu bytes, %s:%d",
                         size_t(p - a->p) - a->n_bytes, a->n_bytes, a->file, a->line);
            }
        }
    }
}
#endif

EMUL_UNSEEN static void begin_shared()
{
    now.shared_begin = now.arena_used;
    now.n_shared = 0;
    now.static_bytes = 0;
    emul_now.dynamic = nullptr;
    if (now.grid->shared_bytes > 0) {
        emul_now.dynamic = add_shared("dynamic shared memory", 0, now.grid->shared_bytes);
    }
}

EMUL_UNSEEN static void end_shared()
{
#if EMUL_ASAN
    __asan_poison_memory_region(now.arena, now.arena_used);
#else
    check_shared();
#endif
    if (!now.watched) { /* a watched block's is used once in a grid */
        now.arena_used = now.shared_begin;
    }
}

/* ---- blocks and grids --------------------------------------------------------------------------
 */

EMUL_UNSEEN static void begin_block()
{
    now.n_live = now.n_threads;
    now.n_at_barrier = 0;
    now.n_barriers = 0;
    now.at_barrier = nullptr;
    now.current = nullptr;
    now.current_warp = now.order == REVERSE ? 0 : MOST_WARPS - 1;
    now.warps_ready = now.n_warps == 32 ? ~0u : (1u << now.n_warps) - 1u;
    now.warps_later = 0;
    now.change_below = now.order == RANDOM ? (1u << 30) >> next_random() % 4 * 8 : 0;
    for (unsigned w = 0; w < now.n_warps; w++) {
        unsigned n_lanes = now.n_threads - w * 32;

        now.warps[w] = warp();
        now.warps[w].exists = n_lanes >= 32 ? ~0u : (1u << n_lanes) - 1u;
        now.warps[w].ready = now.warps[w].exists;
    }
    for (unsigned i = 0; i < now.n_threads; i++) {
        now.threads[i].state = UNSTARTED;
        now.threads[i].fiber = nullptr;
        now.threads[i].line = 0;
        now.threads[i].mask = 0;
    }
    begin_shared();
    release(now.order_points);
}

EMUL_UNSEEN static void run_block()
{
    begin_block();
    now.host = emul_fiber_host(now.n_threads, now.watched);
    go_on_with(now.host, next_thread(), false);
    now.current = nullptr;
    end_shared();
}

EMUL_UNSEEN static void number_threads(dim3 block)
{
    unsigned i = 0;

    for (unsigned z = 0; z < block.z; z++) {
        for (unsigned y = 0; y < block.y; y++) {
            for (unsigned x = 0; x < block.x; x++, i++) {
                now.threads[i].idx = uint3{x, y, z};
                now.threads[i].number = i;
            }
        }
    }
    now.n_threads = i;
    now.n_warps = (i + 31) / 32;
}

static schedule read_order()
{
    static const char *const names[] = {"forward", "reverse", "random", "lockstep"};
    const char *text = getenv("REFRACT_EMUL_ORDER");

    if (text == nullptr || text[0] == '\0') {
        return FORWARD;
    }
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, names[i]) == 0) {
            return schedule(i);
        }
    }
    emul_die("REFRACT_EMUL_ORDER=%s: expected forward, reverse, random or lockstep", text);
}

EMUL_UNSEEN static void begin_grid(const emul_grid *grid)
{
    now.order = read_order();
    if (now.random == 0) {
        now.random =
            88172645463325252u ^ emul_env_bytes("REFRACT_EMUL_SEED", 0) * 0x9e3779b97f4a7c15u;
    }
    if (now.arena == nullptr) {
        now.arena =
            static_cast<unsigned char *>(mmap(nullptr, ARENA_BYTES, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (now.arena == MAP_FAILED) {
            emul_die("no memory for the blocks' shared memory");
        }
#if EMUL_ASAN
        __asan_poison_memory_region(now.arena, ARENA_BYTES);
#endif
    }
    now.arena_used = 0;
    now.grid = grid;
    emul_now.grid_dim = grid->grid;
    emul_now.block_dim = grid->block;
    number_threads(grid->block);
}

/* Addresses that stand for a block's order: its begin, two for its barriers (the next one may be
 * reached while some threads have not left this one), two for each group of lanes that syncs. One
 * for each block of a grid, or blocks would seem to be ordered. */
const size_t ORDER_POINTS = 8 + 32 * 32 * 2;

EMUL_UNSEEN static void run_grid(void *arg)
{
    const emul_grid *grid = static_cast<const emul_grid *>(arg);
    const size_t n_blocks = size_t(grid->grid.x) * grid->grid.y * grid->grid.z;
    static char no_points[ORDER_POINTS];
    size_t i = 0, n_watched = 0;

    if (emul_fails("kernel")) {
        emul_break_device(cudaErrorLaunchFailure);
        return;
    }
    const size_t n_points = emul_races_begin_grid(grid) * ORDER_POINTS;
    char *points = n_points > 0 ? static_cast<char *>(malloc(n_points)) : no_points;

    begin_grid(grid);
    for (unsigned z = 0; z < grid->grid.z; z++) {
        for (unsigned y = 0; y < grid->grid.y; y++) {
            for (unsigned x = 0; x < grid->grid.x; x++, i++) {
                emul_now.block = uint3{x, y, z};
                now.watched = emul_races_has_block(i, n_blocks);
                now.order_points = points + (now.watched ? n_watched++ * ORDER_POINTS : 0);
                run_block();
            }
        }
    }
    acquire(&now.end_of_grid); /* the last block is watched if any is */
    now.grid = nullptr;
    if (n_points > 0) {
        free(points);
    }
}

/* ---- launches ----------------------------------------------------------------------------------
 */

namespace
{
struct allowance {
    const void *kernel;
    size_t shared_bytes;
};
allowance allowances[256]; /* under the lock */
int n_allowances;
} // namespace

static size_t *asked_shared(const void *kernel)
{
    for (int i = 0; i < n_allowances; i++) {
        if (allowances[i].kernel == kernel) {
            return &allowances[i].shared_bytes;
        }
    }
    if (n_allowances == 256) {
        emul_die("more than 256 kernels");
    }
    allowances[n_allowances] = allowance{kernel, 0};
    return &allowances[n_allowances++].shared_bytes;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    cudaError_t error = emul_enter("cudaFuncSetAttribute", cudaErrorUnknown);

    if (error == cudaSuccess && attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value < 0 || size_t(value) > SHARED_OPTIN_BYTES) {
            error = cudaErrorInvalidValue;
        } else {
            *asked_shared(kernel) = size_t(value);
        }
    }
    return emul_leave(error);
}

bool emul_is_launchable(emul_grid *g, const void *kernel, cudaStream_t stream)
{
    cudaError_t error = emul_enter("launch", cudaErrorLaunchOutOfResources);
    size_t n_threads = size_t(g->block.x) * g->block.y * g->block.z;

    if (error == cudaSuccess &&
        (n_threads == 0 || n_threads > MOST_THREADS || g->block.z > 64 || g->grid.x == 0 ||
         g->grid.y == 0 || g->grid.z == 0 || g->grid.x > 0x7fffffffu || g->grid.y > 65535 ||
         g->grid.z > 65535)) {
        error = cudaErrorInvalidConfiguration;
    }
    g->asked_bytes = *asked_shared(kernel);
    if (error == cudaSuccess && g->shared_bytes > SHARED_BYTES &&
        g->shared_bytes > g->asked_bytes) {
        error = cudaErrorInvalidValue;
    }
    if (error == cudaSuccess && emul_stream_device(stream) != emul_current_device()) {
        error = cudaErrorInvalidResourceHandle;
    }
    if (error == cudaErrorInvalidConfiguration || error == cudaErrorInvalidValue ||
        error == cudaErrorInvalidResourceHandle) {
        fprintf(stderr,
                "emul: a launch of %s was refused: grid (%u,%u,%u), block (%u,%u,%u), %zu bytes of "
                "shared memory: %s\n",
                g->name, g->grid.x, g->grid.y, g->grid.z, g->block.x, g->block.y, g->block.z,
                g->shared_bytes, cudaGetErrorString(error));
    }
    return emul_leave(error) == cudaSuccess;
}

static void drop_grid(void *arg)
{
    emul_grid *grid = static_cast<emul_grid *>(arg);

    grid->drop(grid);
}

void emul_push_grid(cudaStream_t stream, emul_grid *grid)
{
    emul_push(stream, grid->name, run_grid, grid, drop_grid);
}

void emul_check_pointer(const char *kernel, int i, const void *p)
{
    char at[256];

    if (p != nullptr && !emul_is_device_range(p, 0) && !emul_is_pinned_range(p, 0)) {
        emul_describe(p, at, sizeof at);
        emul_die("argument %d of kernel %s, %p, is no memory of the device: %s", i, kernel, p, at);
    }
}

/* The address sanitizer's own memory, which two small numbers side by side may seem to point to. */
static bool is_shadow(uintptr_t word)
{
#if EMUL_ASAN
    size_t scale, offset;

    __asan_get_shadow_mapping(&scale, &offset);
    return word >= offset && word - offset < uintptr_t(1) << (47 - scale);
#else
    (void)word;
    return false;
#endif
}

void emul_check_struct(const char *kernel, int i, const void *p, size_t n_bytes)
{
    const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));

    for (size_t at = 0; at + sizeof(uintptr_t) <= n_bytes; at += sizeof(uintptr_t)) {
        uintptr_t word;
        unsigned char resident;

        memcpy(&word, static_cast<const char *>(p) + at, sizeof word);
        if (word >> 32 == 0 || word >> 47 != 0 || is_shadow(word)) {
            continue; /* a number */
        }
        /* Of the host. What looks like the device's may be a float and what was in its padding; the
         * kernel will show. */
        void *page_of = reinterpret_cast<void *>(word / page * page);
        if (!emul_touches_device(reinterpret_cast<void *>(word), 1) &&
            mincore(page_of, 1, &resident) == 0) {
            emul_check_pointer(kernel, i, reinterpret_cast<void *>(word));
        }
    }
}

unsigned emul_extent(const char *kernel, long long n)
{
    if (n < 0 || n > 0xffffffffll) {
        emul_die("%lld blocks or threads for kernel %s do not fit the launch's 32 bits", n, kernel);
    }
    return unsigned(n);
}
