/* Shared memory of a block: NaN at first, with red zones between the arrays. */
#include "emul_block.h"

#include "cudart_emul.h"

#include <sys/mman.h>

#if EMUL_ASAN
#include <sanitizer/asan_interface.h>
#endif

using namespace emul;

namespace
{
const unsigned MOST_SHARED_ARRAYS = 64;
const size_t SHARED_RED = 64; /* red zone between arrays */
const size_t ARENA_BYTES = EMUL_TSAN ? size_t(1) << 30 : size_t(1) << 20;

struct shared_array {
    const char *file;
    int line;
    unsigned char *p;
    size_t n_bytes;
};

struct {
    unsigned char *arena;
    size_t arena_used, block_begin, static_bytes; /* block_begin: of the arena, for this block */
    unsigned n_arrays;
    shared_array arrays[MOST_SHARED_ARRAYS];
} shared;
} // namespace

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
    unsigned char *p = shared.arena + shared.arena_used;

    if (shared.n_arrays == MOST_SHARED_ARRAYS) {
        stop("too many shared arrays in a kernel");
    }
    if (shared.arena_used + room > ARENA_BYTES) {
        stop("too many blocks for the race checker: its shared memory is not used twice in a grid");
    }
    shared.arrays[shared.n_arrays++] = shared_array{file, line, p, n_bytes};
    shared.arena_used += room;
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
    for (unsigned i = 0; i < shared.n_arrays; i++) {
        const shared_array *a = &shared.arrays[i];

        if (a->line == line && (a->file == file || strcmp(a->file, file) == 0)) {
            if (a->n_bytes != n_bytes) {
                stop("two shared arrays in one line");
            }
            return a->p;
        }
    }
    shared.static_bytes += n_bytes;
    if (shared.static_bytes > SHARED_BYTES) {
        stop("more than 48 KiB of static shared memory");
    }
    size_t all_bytes = shared.static_bytes + now.grid->shared_bytes;
    if (all_bytes > SHARED_OPTIN_BYTES ||
        (all_bytes > SHARED_BYTES && now.grid->asked_bytes < now.grid->shared_bytes)) {
        stop("more shared memory, static and dynamic, than a block gets");
    }
    return add_shared(file, line, n_bytes);
}

#if !EMUL_ASAN
EMUL_UNSEEN static void check_shared()
{
    for (unsigned i = 0; i < shared.n_arrays; i++) {
        const shared_array *a = &shared.arrays[i];
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

EMUL_UNSEEN void emul::begin_shared_of_block()
{
    shared.block_begin = shared.arena_used;
    shared.n_arrays = 0;
    shared.static_bytes = 0;
    emul_now.dynamic = nullptr;
    if (now.grid->shared_bytes > 0) {
        emul_now.dynamic = add_shared("dynamic shared memory", 0, now.grid->shared_bytes);
    }
}

EMUL_UNSEEN void emul::end_shared_of_block()
{
#if EMUL_ASAN
    __asan_poison_memory_region(shared.arena, shared.arena_used);
#else
    check_shared();
#endif
    if (!now.watched) { /* a watched block's is used once in a grid */
        shared.arena_used = shared.block_begin;
    }
}

EMUL_UNSEEN void emul::begin_shared_of_grid()
{
    if (shared.arena == nullptr) {
        shared.arena =
            static_cast<unsigned char *>(mmap(nullptr, ARENA_BYTES, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (shared.arena == MAP_FAILED) {
            emul_die("no memory for the blocks' shared memory");
        }
#if EMUL_ASAN
        __asan_poison_memory_region(shared.arena, ARENA_BYTES);
#endif
    }
    shared.arena_used = 0;
}
