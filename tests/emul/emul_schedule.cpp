/* Whose turn it is: the threads of a block take turns as fibers.
 *
 * A thread runs until it waits at a barrier or for its warp, or ends; then another one goes on. In
 * `forward`, `reverse` and `random` order a warp runs ahead as far as it can before the next one
 * gets a turn; in `lockstep` all warps go from one warp operation to the next together. A kernel
 * that is right gives the same bits in every order.
 *
 * A thread that never waits costs no switch: the fiber that ends one begins the next. Only in the
 * race checker (ThreadSanitizer) every thread has a fiber of its own: threads are ordered there by
 * barriers, __syncwarp and launches alone. It does not see blocks that are not watched. */
#include "emul_block.h"

#include "cudart_emul.h"
#include "emul_races.h"

#include <stdio.h>
#include <stdlib.h>

using namespace emul;

block emul::now;

namespace
{
enum schedule { FORWARD, REVERSE, RANDOM, LOCKSTEP };

struct {
    schedule order;
    uint64_t random;
    unsigned change_below; /* random: how likely the turn goes to another warp, of 2^32 */
    unsigned n_threads, n_warps;
    /* of the block */
    unsigned n_live, n_at_barrier, n_barriers;
    unsigned current_warp, warps_ready, warps_later;
    thread *at_barrier; /* the first that came */
    emul_fiber *host;
} turns;
} // namespace

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
[[noreturn]] EMUL_UNSEEN void emul::stop(const char *what)
{
    static const char *const states[] = {"not begun", "running", "at __syncthreads",
                                         "at a warp operation", "exited"};
    char text[2048];
    size_t used = 0;
    int n_lines = 0;

    text[0] = '\0';
    for (unsigned i = 0; i < turns.n_threads && n_lines < 12; n_lines++) {
        const thread *t = &now.threads[i];
        unsigned end = i + 1;

        while (end < turns.n_threads && now.threads[end].state == t->state &&
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
    turns.random ^= turns.random << 13;
    turns.random ^= turns.random >> 7;
    turns.random ^= turns.random << 17;
    return unsigned(turns.random >> 32);
}

/* One of the bits set in `bits`, by the schedule; `last` is the one that had its turn. */
EMUL_UNSEEN static unsigned pick_bit(unsigned bits, unsigned last)
{
    unsigned others;

    switch (turns.order) {
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

EMUL_UNSEEN static void make_ready(unsigned w, unsigned lanes)
{
    now.warps[w].ready |= lanes;
    turns.warps_ready |= 1u << w;
}

EMUL_UNSEEN void emul::release_lanes(unsigned w, unsigned lanes)
{
    if (turns.order == LOCKSTEP) {
        now.warps[w].later |= lanes;
        turns.warps_later |= 1u << w;
    } else {
        make_ready(w, lanes);
    }
}

/* All live threads have come to the barrier. */
EMUL_UNSEEN static void open_barrier()
{
    for (unsigned w = 0; w < turns.n_warps; w++) {
        unsigned lanes = now.warps[w].exists & ~now.warps[w].exited;

        if (lanes != 0) {
            make_ready(w, lanes);
        }
    }
    turns.n_at_barrier = 0;
    turns.at_barrier = nullptr;
    turns.n_barriers++;
}

/* The thread whose turn it is; NULL when all of the block have ended. */
EMUL_UNSEEN static thread *next_thread()
{
    for (;;) {
        if (turns.warps_ready == 0 && turns.warps_later != 0) {
            for (unsigned w = 0; w < turns.n_warps; w++) {
                now.warps[w].ready |= now.warps[w].later;
                now.warps[w].later = 0;
            }
            turns.warps_ready = turns.warps_later;
            turns.warps_later = 0;
        }
        if (turns.warps_ready != 0) {
            break;
        }
        if (turns.n_live == 0) {
            return nullptr;
        }
        if (turns.n_at_barrier != turns.n_live) {
            now.current = nullptr;
            stop("deadlock: a barrier or a warp operation that some threads never reach");
        }
        open_barrier();
    }
    if ((turns.warps_ready >> turns.current_warp & 1u) == 0 ||
        (turns.order == RANDOM && next_random() < turns.change_below)) {
        turns.current_warp = pick_bit(turns.warps_ready, turns.current_warp);
    }
    warp *w = &now.warps[turns.current_warp];
    unsigned last = now.current == nullptr ? 31u : now.current->number % 32;
    unsigned lane = pick_bit(w->ready, turns.order == REVERSE && now.current == nullptr ? 0 : last);

    w->ready &= ~(1u << lane);
    if (w->ready == 0) {
        turns.warps_ready &= ~(1u << turns.current_warp);
    }
    return &now.threads[turns.current_warp * 32 + lane];
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
EMUL_UNSEEN void emul::wait_for_turn(thread *me)
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
    turns.n_live--;
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

        emul_races_acquire(now.order_points, now.watched);
        emul_races_begin_thread(now.watched);
        now.grid->thread(now.grid);
        emul_races_end_thread(now.watched);
        emul_races_release(&now.end_of_grid, now.watched);
        end_thread(me);
        thread *next = next_thread();
        if (next == nullptr) {
            emul_fiber_give(fiber, now.watched);
            emul_fiber_switch(fiber, turns.host, true);
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

/* ---- a block -----------------------------------------------------------------------------------
 */

EMUL_UNSEEN void emul_barrier(const char *file, int line)
{
    thread *me = now.current;
    char *point = now.order_points + 1 + turns.n_barriers % 2;

    me->state = AT_BARRIER;
    me->file = file;
    me->line = line;
    me->mask = 0xffffffffu;
    if (turns.at_barrier == nullptr) {
        turns.at_barrier = me;
    } else if (turns.at_barrier->line != line || strcmp(turns.at_barrier->file, file) != 0) {
        stop("divergent __syncthreads: threads of a block wait at different ones");
    }
    turns.n_at_barrier++;
    emul_races_release(point, now.watched);
    wait_for_turn(me);
    emul_races_acquire(point, now.watched);
}

EMUL_UNSEEN void emul::begin_threads()
{
    turns.n_live = turns.n_threads;
    turns.n_at_barrier = 0;
    turns.n_barriers = 0;
    turns.at_barrier = nullptr;
    turns.current_warp = turns.order == REVERSE ? 0 : MOST_WARPS - 1;
    turns.warps_ready = turns.n_warps == 32 ? ~0u : (1u << turns.n_warps) - 1u;
    turns.warps_later = 0;
    turns.change_below = turns.order == RANDOM ? (1u << 30) >> next_random() % 4 * 8 : 0;
    for (unsigned w = 0; w < turns.n_warps; w++) {
        unsigned n_lanes = turns.n_threads - w * 32;

        now.warps[w] = warp();
        now.warps[w].exists = n_lanes >= 32 ? ~0u : (1u << n_lanes) - 1u;
        now.warps[w].ready = now.warps[w].exists;
    }
    for (unsigned i = 0; i < turns.n_threads; i++) {
        now.threads[i].state = UNSTARTED;
        now.threads[i].fiber = nullptr;
        now.threads[i].line = 0;
        now.threads[i].mask = 0;
    }
}

EMUL_UNSEEN void emul::run_threads()
{
    emul_races_release(now.order_points, now.watched);
    turns.host = emul_fiber_host(turns.n_threads, now.watched);
    go_on_with(turns.host, next_thread(), false);
    now.current = nullptr;
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
    turns.n_threads = i;
    turns.n_warps = (i + 31) / 32;
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

EMUL_UNSEEN void emul::begin_schedule(dim3 block)
{
    turns.order = read_order();
    if (turns.random == 0) {
        turns.random =
            88172645463325252u ^ emul_env_bytes("REFRACT_EMUL_SEED", 0) * 0x9e3779b97f4a7c15u;
    }
    number_threads(block);
}
