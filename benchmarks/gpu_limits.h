/* What gpu_limits.c and its parts share: devices, and the work of kernels. */
#ifndef REFRACT_GPU_LIMITS_H
#define REFRACT_GPU_LIMITS_H

#include "refract/tensor.h"

typedef struct device {
    const char *name;
    double memory;  /* bytes a second */
    double flop[3]; /* a second, by rf_products: fp32 ALUs, dense tensor cores */
    double link;    /* NVLink, bytes a second each way */
    double cache;   /* second-level, bytes */
} device;
enum { N_DEVICES = 3 };
extern const device devices[N_DEVICES];

/* Of bytes there are three counts. `asked`: what loads and stores name, wherever it comes from.
 * `least`: each byte of memory once. `most`: what is asked for, but once where it fits the
 * second-level cache. Launches, waits of the host and the cache's own speed are not counted. */
typedef struct work {
    const char *name;
    rf_products products; /* who does the FLOP: tensor cores but for F32 */
    double flop, asked, least, most;
} work;

enum { MAX_WORKS = 32 };
typedef struct works {
    work of[MAX_WORKS];
    int n;
} works;

void add(works *w, work one);
/* Bytes that all pass through memory once. */
work stream(const char *name, double flop, double bytes);
/* `asked` bytes of an operand of `size`, and `rest` that passes through memory once. */
work reread(const char *name, double flop, double asked, double size, double rest);
/* What may stay in the cache beside all else that goes through it. */
double kept_bytes(void);

/* At the limits of memory and arithmetic; of `most`, or with `is_least` of `least`. */
double seconds(const work *w, const device *d, bool is_least);
double seconds_of_all(const works *w, const device *d, bool is_least);
double most_of_all(const works *w);
/* A table. */
void print_works(const works *w);

/* gpu_limits_forward.c */
void print_models(void);

#endif
