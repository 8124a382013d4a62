/* The block of threads that runs: what the parts of the emulation know of it. Private to
 * emul_schedule, emul_warp, emul_shared, emul_grid and emul_launch. */
#ifndef REFRACT_EMUL_BLOCK_H
#define REFRACT_EMUL_BLOCK_H

#include "emul_fiber.h"
#include "gpu_emul.h"

namespace emul
{
const unsigned MOST_THREADS = 1024, MOST_WARPS = 32;
const size_t SHARED_BYTES = 48 << 10;     /* of a block without asking */
const size_t SHARED_OPTIN_BYTES = 232448; /* the most that can be asked for */

enum thread_state { UNSTARTED, RUNNING, AT_BARRIER, AT_WARP, EXITED };

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

struct block {
    const emul_grid *grid; /* NULL: none runs */
    bool watched;          /* by the race checker */
    char *order_points;    /* addresses for it: see emul_grid.cpp */
    char end_of_grid;
    thread *current;
    warp warps[MOST_WARPS];
    thread threads[MOST_THREADS];
};
extern block now;

/* ---- emul_schedule.cpp -----------------------------------------------------------------------
 */
/* A grid begins whose blocks have the shape `block`: reads what the schedule is to be. */
void begin_schedule(dim3 block);
/* A block begins; nothing of it has run. */
void begin_threads();
/* All its threads, by turns, to their ends. */
void run_threads();
/* The current thread, `me`, waits until it is its turn again. */
void wait_for_turn(thread *me);
/* Lanes of warp `w` whose warp operation is complete can go on: in lockstep in the next round. */
void release_lanes(unsigned w, unsigned lanes);
/* Stops, with what each thread of the block is doing. */
[[noreturn]] void stop(const char *what);

/* ---- emul_shared.cpp -------------------------------------------------------------------------
 */
void begin_shared_of_grid();
void begin_shared_of_block();
void end_shared_of_block();
} // namespace emul

#endif
