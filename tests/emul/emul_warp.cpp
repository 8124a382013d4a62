/* Warp operations: each lane waits until all lanes of its mask are in the same one. */
#include "emul_block.h"

#include "emul_races.h"

using namespace emul;

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
        emul_races_release(point, now.watched);
    }
    if (all_came(&now.threads[n * 32], me, w)) {
        complete(&now.threads[n * 32], mask, kind);
        w->waiting &= ~mask;
        release_lanes(n, mask);
        ++*n_syncs;
    }
    wait_for_turn(me);
    if (kind == EMUL_SYNC) {
        emul_races_acquire(point, now.watched);
    }
    return me->value;
}
