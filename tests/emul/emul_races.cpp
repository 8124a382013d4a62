/* A barrier costs the race checker a clock of all threads for each of them, so a whole test program
 * takes hours. A sample finds what there is to find: a kernel's code is the same in every block and
 * in most launches of a shape, and blocks that race do so with their neighbours. */
#include "emul_races.h"

#include "cudart_emul.h"

#include <stdlib.h>

#include <map>
#include <tuple>

namespace
{
/* The kernel, whether a grid has several blocks along x, y and z, and the threads of one. */
typedef std::tuple<const char *, bool, bool, bool, unsigned, unsigned> shape;

enum { FIRST_BLOCKS = 2 };
bool is_sample, is_watched;
} // namespace

/* The first `n_first` launches of a shape, and then ever fewer. */
static bool is_in_sample(const emul_grid *g, size_t n_first)
{
    static std::map<shape, size_t> n_launches;
    const size_t i = n_launches[shape{g->name, g->grid.x > 1, g->grid.y > 1, g->grid.z > 1,
                                      g->block.x, g->block.y}]++;

    return i < n_first || (i & (i - 1)) == 0;
}

/* The host's thread has an order with everything: what it does need not be looked at. */
static void end_host()
{
    emul_races_end_thread(false);
}

static void begin_host()
{
    static bool is_begun;

    if (!is_begun && atexit(end_host) == 0) {
        is_begun = true;
        emul_races_begin_thread(false);
    }
}

size_t emul_races_begin_grid(const emul_grid *grid)
{
    const size_t n_blocks = size_t(grid->grid.x) * grid->grid.y * grid->grid.z;
    const size_t n_first = EMUL_TSAN ? emul_env_bytes("REFRACT_EMUL_RACES", 0) : 0;

    is_sample = n_first > 0;
    is_watched = EMUL_TSAN && (!is_sample || is_in_sample(grid, n_first));
    if (is_sample) {
        begin_host();
    }
    emul_fiber_begin_grid();
    if (!is_watched) {
        return 0;
    }
    return is_sample && n_blocks > FIRST_BLOCKS + 1 ? FIRST_BLOCKS + 1 : n_blocks;
}

bool emul_races_has_block(size_t i, size_t n_blocks)
{
    return is_watched && (!is_sample || i < FIRST_BLOCKS || i + 1 == n_blocks);
}
