/* Devices, the work of kernels, and tables of it (gpu_limits.h). */
#include "gpu_limits.h"

#include <math.h>
#include <stdio.h>

/* ---- devices ------------------------------------------------------------------------------------
 */

/* As NVIDIA publishes them: A100 80 GB SXM, H100 SXM, B200 (where the cache's size is that of the
 * two dies together). */
const device devices[N_DEVICES] = {
    {"A100", 2.04e12, {19.5e12, 312e12, 156e12}, 300e9, 40.0 * 1048576.0},
    {"H100", 3.35e12, {67e12, 989e12, 495e12}, 450e9, 50.0 * 1048576.0},
    {"B200", 8.0e12, {77e12, 2250e12, 1100e12}, 900e9, 126.0 * 1048576.0},
};
/* What may stay in the cache beside all else that goes through it: two thirds of the smallest. */
double kept_bytes(void)
{
    return devices[0].cache * 2.0 / 3.0;
}

/* ---- work ---------------------------------------------------------------------------------------
 */

void add(works *w, work one)
{
    if (w->n < MAX_WORKS) {
        w->of[w->n++] = one;
    }
}

work stream(const char *name, double flop, double bytes)
{
    return (work){.name = name, .flop = flop, .asked = bytes, .least = bytes, .most = bytes};
}

work reread(const char *name, double flop, double asked, double size, double rest)
{
    const double least = fmin(asked, size);
    return (work){.name = name,
                  .flop = flop,
                  .asked = asked + rest,
                  .least = least + rest,
                  .most = (size <= kept_bytes() ? least : asked) + rest};
}

double seconds(const work *w, const device *d, bool is_least)
{
    return fmax(w->flop / d->flop[w->products], (is_least ? w->least : w->most) / d->memory);
}

double seconds_of_all(const works *w, const device *d, bool is_least)
{
    double sum = 0.0;
    for (int i = 0; i < w->n; i++) {
        sum += seconds(&w->of[i], d, is_least);
    }
    return sum;
}

static void print_head(void)
{
    printf("| kernel | GFLOP | asked for, GB | memory, GB (least) |");
    for (int i = 0; i < N_DEVICES; i++) {
        printf(" %s, ms |", devices[i].name);
    }
    printf("\n|---|---|---|---|---|---|---|\n");
}

static void print_work(const work *w)
{
    printf("| %s | %.*f | %.2f | %.2f", w->name, w->flop < 1e10 ? 1 : 0, w->flop * 1e-9,
           w->asked * 1e-9, w->most * 1e-9);
    if (w->least < 0.95 * w->most) {
        printf(" (%.2f)", w->least * 1e-9);
    }
    printf(" |");
    for (int i = 0; i < N_DEVICES; i++) {
        printf(" %.3f |", seconds(w, &devices[i], false) * 1e3);
    }
    printf("\n");
}

void print_works(const works *w)
{
    print_head();
    for (int i = 0; i < w->n; i++) {
        print_work(&w->of[i]);
    }
}

double most_of_all(const works *w)
{
    double sum = 0.0;
    for (int i = 0; i < w->n; i++) {
        sum += w->of[i].most;
    }
    return sum;
}
