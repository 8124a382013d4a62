/* Stand-in for the CUDA runtime: device memory, which the host cannot touch except through the
 * runtime, and pinned host memory. Device memory is one range of the address space without access
 * rights; while queued work runs it may be read and written. Red zones lie between allocations. */
#include "cudart_emul.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define EMUL_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMUL_ASAN 1
#endif
#endif
#if defined(EMUL_ASAN)
#include <sanitizer/asan_interface.h>
#define POISON(p, n) __asan_poison_memory_region((p), (n))
#define UNPOISON(p, n) __asan_unpoison_memory_region((p), (n))
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

#define ALIGNMENT ((size_t)256)     /* of what cudaMalloc returns */
#define RED_ZONE ((size_t)512)      /* at least, behind every allocation */
#define RED_WORD ((uint64_t)0xfff1) /* a NaN as bf16, fp32 and fp64, a negative integer */
#define LARGE_PAGE ((size_t)2 << 20)
#define DEFAULT_LIMIT ((size_t)8 << 30)
#define KEEP_BYTES ((size_t)4 << 20) /* of a larger block, pages go back when it is freed */

typedef struct block {
    char *p;
    size_t n_bytes, room; /* room: up to the next block's begin, red zone included */
    int device;
} block;

static struct {
    char *base;
    size_t reserved, high; /* bytes; up to `high` has been handed out before */
    block *blocks;         /* by address */
    size_t n_blocks, blocks_room;
    size_t used[16]; /* by device */
    size_t peak[16];
    char *next; /* where the search for room begins: freed memory rests a while */
    int open;
    block *pinned;
    size_t n_pinned, pinned_room;
    struct sigaction old_action;
} heap;

static size_t round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* ---- tables ------------------------------------------------------------------------------------
 */

/* The first of `n` blocks that begins behind `p`. */
static size_t first_behind(const block *blocks, size_t n, const void *p)
{
    size_t low = 0, high = n;

    while (low < high) {
        size_t middle = (low + high) / 2;

        if ((const char *)p < blocks[middle].p) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

/* The block that holds `p` or ends at it; NULL if none. */
static block *block_at(block *blocks, size_t n, const void *p)
{
    size_t i = first_behind(blocks, n, p);

    if (i == 0 || (const char *)p > blocks[i - 1].p + blocks[i - 1].n_bytes) {
        return NULL;
    }
    return &blocks[i - 1];
}

static bool holds(block *blocks, size_t n, const void *p, size_t n_bytes)
{
    const block *b = block_at(blocks, n, p);

    return b != NULL && n_bytes <= b->n_bytes - (size_t)((const char *)p - b->p);
}

static block *insert_block(block **blocks, size_t *n, size_t *room, block b)
{
    size_t at = first_behind(*blocks, *n, b.p);

    if (*n == *room) {
        *room = *room * 2 + 64;
        *blocks = realloc(*blocks, *room * sizeof **blocks);
        if (*blocks == NULL) {
            emul_die("no memory for the table of allocations");
        }
    }
    memmove(*blocks + at + 1, *blocks + at, (*n - at) * sizeof **blocks);
    (*blocks)[at] = b;
    ++*n;
    return *blocks + at;
}

static void remove_block(block *blocks, size_t *n, const block *b)
{
    size_t at = (size_t)(b - blocks);

    memmove(blocks + at, blocks + at + 1, (*n - at - 1) * sizeof *blocks);
    --*n;
}

/* ---- access ------------------------------------------------------------------------------------
 */

/* Runs on the faulting thread, perhaps on a kernel's stack: reads the tables as they are. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    const char *p = info->si_addr;
    char text[512], at[256], where[256];
    int n = 0;

    emul_kernel_where(where, sizeof where);
    if (p >= heap.base && p < heap.base + heap.reserved) {
        emul_describe(p, at, sizeof at);
        n = snprintf(text, sizeof text, "emul: %s touched device memory at %s%s%s\n",
                     where[0] != '\0' ? "a kernel" : "the host", at,
                     where[0] != '\0' ? "\n  in " : "", where);
    } else if (emul_is_stack_guard(p)) {
        n = snprintf(text, sizeof text,
                     "emul: the stack of a kernel's thread is too small\n  in %s\n", where);
    } else if (where[0] != '\0') {
        n = snprintf(text, sizeof text, "emul: a kernel touched %p, which is no memory\n  in %s\n",
                     (const void *)p, where);
    }
    if (n > 0) {
        ssize_t ignored =
            write(STDERR_FILENO, text, (size_t)n < sizeof text ? (size_t)n : sizeof text);

        (void)ignored;
        _exit(EMUL_EXIT);
    }
    if ((heap.old_action.sa_flags & SA_SIGINFO) != 0) {
        heap.old_action.sa_sigaction(number, info, context);
    } else if (heap.old_action.sa_handler != SIG_DFL && heap.old_action.sa_handler != SIG_IGN) {
        heap.old_action.sa_handler(number);
    } else {
        signal(number, SIG_DFL); /* the access is repeated, and ends the process */
    }
}

/* A stack for the handler: a kernel's own may be what overflowed. */
static void give_handler_stack(void)
{
    static _Thread_local bool done;
    stack_t now, mine = {0};

    if (done) {
        return;
    }
    done = true;
    if (sigaltstack(NULL, &now) == 0 && (now.ss_flags & SS_DISABLE) != 0) {
        mine.ss_size = 64 << 10;
        mine.ss_sp =
            mmap(NULL, mine.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mine.ss_sp != MAP_FAILED) {
            sigaltstack(&mine, NULL);
        }
    }
}

/* Test frameworks put their own handler in, again and again: so do we. */
static void catch_faults(void)
{
    struct sigaction now = {0}, mine = {0};

    give_handler_stack();
    sigaction(SIGSEGV, NULL, &now);
    if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_fault) {
        return;
    }
    heap.old_action = now;
    mine.sa_sigaction = on_fault;
    mine.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &mine, NULL);
}

static void protect(int rights)
{
    size_t n_bytes = round_up(heap.high, LARGE_PAGE);

    if (n_bytes > 0 && mprotect(heap.base, n_bytes, rights) != 0) {
        emul_die("mprotect of %zu bytes failed", n_bytes);
    }
}

void emul_heap_begin(void)
{
    if (heap.open++ == 0 && heap.base != NULL) {
        catch_faults();
        protect(PROT_READ | PROT_WRITE);
    }
}

void emul_heap_end(void)
{
    if (--heap.open == 0 && heap.base != NULL) {
        catch_faults();
        protect(PROT_NONE);
    }
}

/* ---- red zones ---------------------------------------------------------------------------------
 */

/* RED_WORD over and over, by address. */
static char red_byte(const char *p)
{
    return (char)(((uintptr_t)p & 1) != 0 ? RED_WORD >> 8 : RED_WORD & 0xff);
}

static void fill_red(block *b)
{
    char *end = b->p + b->room;

    UNPOISON(b->p + b->n_bytes, b->room - b->n_bytes);
    for (char *p = b->p + b->n_bytes; p < end; p++) {
        *p = red_byte(p);
    }
    POISON(b->p + b->n_bytes, b->room - b->n_bytes);
}

#if defined(EMUL_ASAN)
static void check_red(const block *b, const char *name)
{
    (void)b;
    (void)name; /* poisoned: a wrong write has been reported */
}
#else
/* The first byte from `p` on that is not red; `end` if all are. */
static const char *first_changed(const char *p, const char *end)
{
    const uint64_t words = RED_WORD * 0x0001000100010001u;

    while (p < end && ((uintptr_t)p & 7) != 0 && *p == red_byte(p)) {
        p++;
    }
    while (end - p >= 8 && ((uintptr_t)p & 7) == 0 && memcmp(p, &words, 8) == 0) {
        p += 8;
    }
    while (p < end && *p == red_byte(p)) {
        p++;
    }
    return p;
}

static void check_red(const block *b, const char *name)
{
    const char *end = b->p + b->room, *p = first_changed(b->p + b->n_bytes, end);
    char before[128] = "";

    if (p == end) {
        return;
    }
    if (b + 1 < heap.blocks + heap.n_blocks && b[1].p == end) {
        snprintf(before, sizeof before, " (%zu before one of %zu)", (size_t)(end - p),
                 b[1].n_bytes);
    }
    emul_die("%s wrote outside of device memory: %zu bytes behind the end of an allocation of "
             "%zu bytes%s",
             name, (size_t)(p - b->p) - b->n_bytes, b->n_bytes, before);
}
#endif

void emul_heap_check(const char *name)
{
    for (size_t i = 0; i < heap.n_blocks; i++) {
        check_red(&heap.blocks[i], name);
    }
}

/* ---- device memory -----------------------------------------------------------------------------
 */

size_t emul_heap_limit(void)
{
    return emul_env_bytes("REFRACT_EMUL_MEMORY", DEFAULT_LIMIT);
}

size_t emul_heap_used(int device)
{
    return heap.used[device];
}

/* REFRACT_EMUL_REPORT: what each device had at most. */
static void report_peaks(void)
{
    for (size_t i = 0; i < sizeof heap.peak / sizeof *heap.peak; i++) {
        if (heap.peak[i] > 0) {
            fprintf(stderr, "emul: device %zu had %zu bytes in use at most\n", i, heap.peak[i]);
        }
    }
}

static void reserve(void)
{
    size_t limit = emul_heap_limit();
    char *p;

    if (getenv("REFRACT_EMUL_REPORT") != NULL) {
        atexit(report_peaks);
    }
    heap.reserved = (limit < DEFAULT_LIMIT ? DEFAULT_LIMIT : limit) * 4;
    p = mmap(NULL, heap.reserved + LARGE_PAGE, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        emul_die("no address space for %zu bytes of device memory", heap.reserved);
    }
    heap.base = p + (size_t)(-(intptr_t)p & (intptr_t)(LARGE_PAGE - 1));
    madvise(heap.base, heap.reserved, MADV_HUGEPAGE); /* rights change by the page: few pages */
    heap.next = heap.base;
}

/* The first place from `from` on with `room` bytes between blocks; NULL if there is none. */
static char *find_room(char *from, size_t room)
{
    size_t i = first_behind(heap.blocks, heap.n_blocks, from);
    char *p = from;

    if (i > 0 && heap.blocks[i - 1].p + heap.blocks[i - 1].room > p) {
        p = heap.blocks[i - 1].p + heap.blocks[i - 1].room;
    }
    for (; i < heap.n_blocks && (size_t)(heap.blocks[i].p - p) < room; i++) {
        p = heap.blocks[i].p + heap.blocks[i].room;
    }
    if (i == heap.n_blocks && (size_t)(heap.base + heap.reserved - p) < room) {
        return NULL;
    }
    return p;
}

void *emul_heap_allocate(int device, size_t n_bytes)
{
    block b = {.n_bytes = n_bytes, .device = device};
    size_t limit = emul_heap_limit();

    if (heap.base == NULL) {
        reserve();
    }
    if (n_bytes > limit || heap.used[device] > limit - n_bytes) {
        return NULL;
    }
    b.room = round_up(n_bytes, ALIGNMENT) + RED_ZONE;
    b.p = find_room(heap.next, b.room);
    if (b.p == NULL || b.p + b.room > heap.base + heap.high) { /* rather what was used before */
        b.p = find_room(heap.base, b.room);
    }
    if (b.p == NULL) {
        return NULL;
    }
    heap.next = b.p + b.room;
    if (heap.next > heap.base + heap.high) {
        heap.high = (size_t)(heap.next - heap.base);
        if (heap.open > 0) {
            protect(PROT_READ | PROT_WRITE);
        }
    }
    heap.used[device] += n_bytes;
    if (heap.used[device] > heap.peak[device]) {
        heap.peak[device] = heap.used[device];
    }
    emul_heap_begin();
    UNPOISON(b.p, b.n_bytes);
    memset(b.p, 0xff, b.n_bytes); /* NaN, -1 */
    fill_red(insert_block(&heap.blocks, &heap.n_blocks, &heap.blocks_room, b));
    emul_heap_end();
    return b.p;
}

bool emul_heap_free(void *p)
{
    block *b = block_at(heap.blocks, heap.n_blocks, p);
    char *first, *last;

    if (b == NULL || b->p != (char *)p) {
        return false;
    }
    heap.used[b->device] -= b->n_bytes;
    first = heap.base + round_up((size_t)(b->p - heap.base), LARGE_PAGE);
    last = heap.base + (size_t)(b->p + b->n_bytes - heap.base) / LARGE_PAGE * LARGE_PAGE;
    emul_heap_begin();
    UNPOISON(b->p, b->n_bytes);
    if (b->n_bytes > KEEP_BYTES) {
        madvise(first, (size_t)(last - first), MADV_DONTNEED);
    } else {
        memset(b->p, 0xff, b->n_bytes); /* whoever still reads it reads NaN */
    }
    POISON(b->p, b->room);
    emul_heap_end();
    remove_block(heap.blocks, &heap.n_blocks, b);
    return true;
}

bool emul_is_device_range(const void *p, size_t n_bytes)
{
    bool is;

    emul_lock();
    is = holds(heap.blocks, heap.n_blocks, p, n_bytes);
    emul_unlock();
    return is;
}

bool emul_touches_device(const void *p, size_t n_bytes)
{
    return (const char *)p < heap.base + heap.reserved && (const char *)p + n_bytes > heap.base;
}

int emul_device_of(const void *p)
{
    const block *b = block_at(heap.blocks, heap.n_blocks, p);

    return b != NULL ? b->device : -1;
}

/* ---- pinned memory -----------------------------------------------------------------------------
 */

void *emul_pinned_allocate(size_t n_bytes)
{
    block b = {.n_bytes = n_bytes, .p = NULL};

    if (posix_memalign((void **)&b.p, 4096, n_bytes) != 0) {
        return NULL;
    }
    memset(b.p, 0xff, n_bytes);
    insert_block(&heap.pinned, &heap.n_pinned, &heap.pinned_room, b);
    return b.p;
}

bool emul_pinned_free(void *p)
{
    block *b = block_at(heap.pinned, heap.n_pinned, p);

    if (b == NULL || b->p != (char *)p) {
        return false;
    }
    if (emul_is_host_range_queued(b->p, b->n_bytes)) {
        emul_die("pinned memory of %zu bytes was freed while a copy of it was queued", b->n_bytes);
    }
    free(b->p);
    remove_block(heap.pinned, &heap.n_pinned, b);
    return true;
}

bool emul_is_pinned_range(const void *p, size_t n_bytes)
{
    bool is;

    emul_lock();
    is = holds(heap.pinned, heap.n_pinned, p, n_bytes);
    emul_unlock();
    return is;
}

/* Reads the tables without the lock: also called by the handler of faults. */
void emul_describe(const void *p, char *text, size_t text_bytes)
{
    const block *b = NULL;
    const char *kind = "device";
    size_t i = first_behind(heap.blocks, heap.n_blocks, p);

    if (emul_touches_device(p, 1)) {
        if (i > 0) {
            b = &heap.blocks[i - 1];
        }
    } else {
        b = block_at(heap.pinned, heap.n_pinned, p);
        kind = "pinned";
    }
    if (p == NULL) {
        snprintf(text, text_bytes, "NULL");
    } else if (b != NULL && (const char *)p <= b->p + b->n_bytes) {
        snprintf(text, text_bytes, "+%zu of an allocation of %zu bytes of %s memory",
                 (size_t)((const char *)p - b->p), b->n_bytes, kind);
    } else if (b != NULL) {
        snprintf(text, text_bytes, "%zu bytes behind the end of an allocation of %zu (or freed)",
                 (size_t)((const char *)p - b->p) - b->n_bytes, b->n_bytes);
    } else {
        snprintf(text, text_bytes, "%s",
                 emul_touches_device(p, 1) ? "freed device memory" : "host memory");
    }
}
