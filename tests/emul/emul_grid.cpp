/* A grid: its blocks run one after another when its stream comes to it. */
#include "emul_block.h"

#include "cudart_emul.h"
#include "emul_races.h"

#include <stdlib.h>

using namespace emul;

emul_place emul_now;

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

    begin_schedule(grid->block);
    begin_shared_of_grid();
    now.grid = grid;
    emul_now.grid_dim = grid->grid;
    emul_now.block_dim = grid->block;
    for (unsigned z = 0; z < grid->grid.z; z++) {
        for (unsigned y = 0; y < grid->grid.y; y++) {
            for (unsigned x = 0; x < grid->grid.x; x++, i++) {
                emul_now.block = uint3{x, y, z};
                now.watched = emul_races_has_block(i, n_blocks);
                now.order_points = points + (now.watched ? n_watched++ * ORDER_POINTS : 0);
                begin_threads();
                begin_shared_of_block();
                run_threads();
                end_shared_of_block();
            }
        }
    }
    emul_races_acquire(&now.end_of_grid, now.watched); /* the last block is watched if any is */
    now.grid = nullptr;
    if (n_points > 0) {
        free(points);
    }
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
