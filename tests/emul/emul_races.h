/* What the race checker (ThreadSanitizer) looks at: everything, or with REFRACT_EMUL_RACES a
 * sample. In other builds: nothing. Private to emul_*.cpp. */
#ifndef REFRACT_EMUL_RACES_H
#define REFRACT_EMUL_RACES_H

#include "emul_fiber.h"
#include "gpu_emul.h"

#if EMUL_TSAN
#include <sanitizer/tsan_interface.h>

extern "C" {
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
}
#endif

/* A launch begins: how many of its blocks are watched. */
size_t emul_races_begin_grid(const emul_grid *grid);
/* Whether block `i` of the launch's `n_blocks` is; the last one is if any is. */
bool emul_races_has_block(size_t i, size_t n_blocks);

/* Around a thread of a block, on its fiber. */
EMUL_UNSEEN static inline void emul_races_begin_thread(bool watched)
{
    (void)watched;
#if EMUL_TSAN
    if (!watched) {
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
#endif
}

EMUL_UNSEEN static inline void emul_races_end_thread(bool watched)
{
    (void)watched;
#if EMUL_TSAN
    if (!watched) {
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
#endif
}

/* What was done before `release` of a point lies before what follows `acquire` of it. */
EMUL_UNSEEN static inline void emul_races_release(char *point, bool watched)
{
    (void)point;
    (void)watched;
#if EMUL_TSAN
    if (watched) {
        __tsan_release(point);
    }
#endif
}

EMUL_UNSEEN static inline void emul_races_acquire(char *point, bool watched)
{
    (void)point;
    (void)watched;
#if EMUL_TSAN
    if (watched) {
        __tsan_acquire(point);
    }
#endif
}

#endif
