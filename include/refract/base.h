/* base: what every other layer stands on. Status codes and error text, memory, strings, log and
 * progress, counter-based random numbers, checked casts, time, and the flag that a signal sets. */
#ifndef REFRACT_BASE_H
#define REFRACT_BASE_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RF_VERSION "0.1.0"

#if defined(__GNUC__)
#define RF_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define RF_PRINTF(fmt, args)
#endif

/* ---- status and error text
 * ---------------------------------------------------------------------------------- */

/* Every outcome: name, pinned number, a word for messages. Numbers never change; new ones are
 * appended. */
#define RF_STATUS_LIST(X)                                                                          \
    X(OK, 0, "ok")                                                                                 \
    X(ERR_INVALID_ARG, 1, "invalid argument")                                                      \
    X(ERR_NO_MEMORY, 2, "out of memory")                                                           \
    X(ERR_IO, 3, "input/output error")                                                             \
    X(ERR_FORMAT, 4, "malformed file")                                                             \
    X(ERR_UNSUPPORTED, 5, "not supported")                                                         \
    X(ERR_NOT_FOUND, 6, "not found")                                                               \
    X(ERR_SETTING, 7, "wrong setting")                                                             \
    X(ERR_NUMERIC, 8, "numerical failure")                                                         \
    X(ERR_COMM, 9, "communication failure")                                                        \
    X(ERR_INTERRUPTED, 10, "interrupted")                                                          \
    X(ERR_BUG, 11, "internal error")                                                               \
    X(ERR_USAGE, 12, "wrong usage")

typedef enum rf_status {
#define RF_STATUS_ENUM(name, number, word) RF_##name = number,
    RF_STATUS_LIST(RF_STATUS_ENUM)
#undef RF_STATUS_ENUM
} rf_status;

/* The word of `status`, never NULL. */
const char *rf_status_word(rf_status status);

enum { RF_ERROR_TEXT_LEN = 1024 };

/* Record an error of this thread: the text replaces the last one. Returns `status`, which must not
 * be RF_OK. */
rf_status rf_error_raise(rf_status status, const char *file, int line, const char *fmt, ...)
    RF_PRINTF(4, 5);

/* Put "<text>: " before this thread's error text: what was being done when it failed. */
void rf_error_context(const char *fmt, ...) RF_PRINTF(1, 2);

/* The text of this thread's last error ("" if none) and, for developers, where it was raised
 * ("file:line"). */
const char *rf_error_text(void);
const char *rf_error_place(void);

/* Carry an error from one thread (or rank) to another. `text` is copied. */
rf_status rf_error_restore(rf_status status, const char *text);

/* These expect a local `rf_status status` and a label `fail:` that frees in reverse and returns it.
 */
#define RF_FAIL(code, ...)                                                                         \
    do {                                                                                           \
        status = rf_error_raise((code), __FILE__, __LINE__, __VA_ARGS__);                          \
        goto fail;                                                                                 \
    } while (0)
#define RF_TRY(call)                                                                               \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != RF_OK) {                                                                     \
            goto fail;                                                                             \
        }                                                                                          \
    } while (0)
/* Like RF_TRY; on failure the text says first what was being done. */
#define RF_TRY_DOING(call, ...)                                                                    \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != RF_OK) {                                                                     \
            rf_error_context(__VA_ARGS__);                                                         \
            goto fail;                                                                             \
        }                                                                                          \
    } while (0)
/* The caller's mistake. */
#define RF_REQUIRE(cond, ...)                                                                      \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            RF_FAIL(RF_ERR_INVALID_ARG, __VA_ARGS__);                                              \
        }                                                                                          \
    } while (0)
/* Our mistake. */
#define RF_BUG(cond, ...)                                                                          \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            RF_FAIL(RF_ERR_BUG, __VA_ARGS__);                                                      \
        }                                                                                          \
    } while (0)
/* p = n zeroed elements of *p, or fail. */
#define RF_ALLOC(p, n)                                                                             \
    do {                                                                                           \
        (p) = rf_calloc((n), sizeof *(p));                                                         \
        if ((p) == NULL) {                                                                         \
            status = RF_ERR_NO_MEMORY;                                                             \
            goto fail;                                                                             \
        }                                                                                          \
    } while (0)

/* ---- memory
 * -------------------------------------------------------------------------------------------------
 */

/* `n` zeroed elements of `elem_bytes`, aligned to 64 bytes; n = 0 gives a pointer that may be
 * freed. NULL and an error text when n < 0, the size overflows, or memory is short. */
void *rf_calloc(int64_t n, size_t elem_bytes);
/* Grow or shrink to `n` elements, contents kept, new elements zeroed; the old block stays valid on
 * NULL. */
void *rf_realloc(void *p, int64_t old_n, int64_t n, size_t elem_bytes);
void rf_free(void *p); /* NULL is fine */
/* Blocks alive now, for leak checks in tests. */
int64_t rf_alloc_live(void);

/* ---- strings
 * ------------------------------------------------------------------------------------------------
 */

/* Growing text; zero-initialise, release with rf_str_fini. `data` is NULL or ends in '\0'. */
typedef struct rf_str {
    char *data;
    int64_t len, cap;
} rf_str;

rf_status rf_str_append(rf_str *s, const char *fmt, ...) RF_PRINTF(2, 3);
rf_status rf_str_append_bytes(rf_str *s, const void *bytes, int64_t n);
void rf_str_fini(rf_str *s);

/* Format into a fixed buffer; INVALID_ARG when it does not fit (never a cut text). */
rf_status rf_format(char *out, size_t out_bytes, const char *fmt, ...) RF_PRINTF(3, 4);
/* A copy to be freed with rf_free, or NULL and an error text. */
char *rf_strdup(const char *text);
/* Edit distance, for "did you mean". */
int64_t rf_str_distance(const char *a, const char *b);
/* Strict numbers: the whole text, in range. An integer may be written 1.2e6. */
rf_status rf_parse_i64(const char *text, int64_t *out);
rf_status rf_parse_f64(const char *text, double *out);

enum { RF_PATH_LEN = 1024, RF_NAME_LEN = 128 };

/* ---- checked casts
 * ------------------------------------------------------------------------------------------ */

rf_status rf_cast_int(int64_t v, const char *what, int *out);
rf_status rf_mul_i64(int64_t a, int64_t b, const char *what, int64_t *out);

static inline int64_t rf_min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t rf_max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static inline int64_t rf_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ---- random numbers
 * ----------------------------------------------------------------------------------------- */

/* What a random number is for. Keyed numbers (Philox 4x32-10, Salmon et al. 2011) depend on (seed,
 * purpose, a, b) only: never on rank, thread, call order, or a coder's place in a list. Numbers are
 * pinned: appending is safe. */
typedef enum rf_random_purpose {
    RF_RANDOM_INIT_DECODER = 1, /* a = latent, b = column block */
    RF_RANDOM_GROUP_ORDER = 2,  /* a = epoch */
    RF_RANDOM_POOL_ORDER = 3,   /* a = epoch, b = pool */
    RF_RANDOM_SAMPLE = 4,       /* the fixed sample that b_dec and V come from */
    RF_RANDOM_HOLDOUT = 5,      /* a, b = hash of the picture's name */
    RF_RANDOM_EVAL_SAMPLE = 6,
    RF_RANDOM_RESAMPLE = 7,   /* tokens that dead latents start from: a = step, b = row */
    RF_RANDOM_PREFIXES = 8,   /* Matryoshka's ends: a = step, b = draw */
    RF_RANDOM_INIT_OTHER = 9, /* a coder's other random starts: a = latent, b = what and which */
    RF_RANDOM_SHARE = 10,     /* groups that a share of the pictures is made of */
    RF_RANDOM_TEST = 1000,
} rf_random_purpose;

void rf_random_u32x4(uint64_t seed, rf_random_purpose purpose, uint64_t a, uint64_t b,
                     uint32_t out[4]);
/* Four independent standard normals (Box-Muller on the four words; same bits for the same libm). */
void rf_random_normal4(uint64_t seed, rf_random_purpose purpose, uint64_t a, uint64_t b,
                       float out[4]);
/* The keyed bijection of 0..n-1 at i (Feistel network with cycle walking; n >= 1, 0 <= i < n). */
int64_t rf_permute(uint64_t seed, rf_random_purpose purpose, uint64_t a, uint64_t b, int64_t n,
                   int64_t i);
/* FNV-1a, 64 bits; chain by passing the last result (start with RF_HASH_START). */
#define RF_HASH_START UINT64_C(14695981039346656037)
uint64_t rf_hash(uint64_t start, const void *bytes, size_t n_bytes);

/* ---- prefetch -------------------------------------------------------------------------------
 *
 * Work that threads do ahead of one consumer, in order. Jobs are numbered from 0; job j fills slot
 * j mod n_slots and consists of items, which any threads do. Which thread does what changes nothing
 * in the result. */

typedef struct rf_prefetch_opts {
    /* Do item `item` of job `job`, for slot `slot`. Called by several threads at once, for
     * different items. */
    rf_status (*work)(void *self, int64_t job, int64_t item, int64_t slot);
    void *self;
    int64_t n_threads, n_slots; /* >= 1 */
} rf_prefetch_opts;

typedef struct rf_prefetch rf_prefetch;
rf_status rf_prefetch_create(const rf_prefetch_opts *opts, rf_prefetch **out);
/* Waits for the threads. NULL is fine. */
void rf_prefetch_destroy(rf_prefetch *p);
/* No thread is at work any more, and none begins before rf_prefetch_start: what `work` reads may
 * change. */
void rf_prefetch_stop(rf_prefetch *p);
/* Begin anew with jobs of so many items; `n_items` [n_jobs] is copied. */
rf_status rf_prefetch_start(rf_prefetch *p, const int64_t *n_items, int64_t n_jobs);
/* Wait for the next job; its slot is the consumer's until the next call. The status is that of the
 * job's first item that failed, with its text. *slot is -1 after the last job. */
rf_status rf_prefetch_next(rf_prefetch *p, int64_t *slot);

/* ---- log, progress, time, interruption
 * ---------------------------------------------------------------------- */

typedef enum rf_log_level { RF_LOG_DEBUG, RF_LOG_INFO, RF_LOG_WARN, RF_LOG_ERROR } rf_log_level;
typedef void (*rf_log_sink)(void *user, rf_log_level level, const char *line);
/* Where lines go; the library itself prints nothing (no sink: dropped). Set by `cli` and by tests.
 */
void rf_log_set_sink(rf_log_sink sink, void *user);
void rf_log(rf_log_level level, const char *fmt, ...) RF_PRINTF(2, 3);

/* One line that is rewritten on a terminal and printed every few seconds elsewhere. */
typedef void (*rf_progress_sink)(void *user, const char *line, bool is_last);
void rf_progress_set_sink(rf_progress_sink sink, void *user);
void rf_progress(const char *label, int64_t done, int64_t total, const char *detail);

double rf_now(void); /* monotonic seconds */
/* "2m 05s" into `out` (at least 32 bytes). */
void rf_format_duration(double seconds, char *out);
/* "1.2 GB" into `out` (at least 32 bytes). */
void rf_format_bytes(double bytes, char *out);

/* Set from a signal handler (async-signal-safe); read at each step and OR-ed over ranks. */
void rf_interrupt_raise(int signal_number);
int rf_interrupt_pending(void); /* the signal, or 0 */
void rf_interrupt_clear(void);

#ifdef __cplusplus
}
#endif

#endif
