/* Sums over tokens and their reconstructions, and the figures that come of them. */
#include "refract/eval.h"

#include <math.h>

const char *rf_eval_class_name(rf_eval_class which)
{
    static const char *const names[RF_EVAL_N_CLASSES] = {"all", "cls", "register", "patch"};
    return names[which];
}

double rf_eval_cosine(const float *x, const float *y, int64_t n)
{
    double xx = 0, yy = 0, xy = 0;
    for (int64_t i = 0; i < n; i++) {
        xx += (double)x[i] * (double)x[i];
        yy += (double)y[i] * (double)y[i];
        xy += (double)x[i] * (double)y[i];
    }
    return xx > 0 && yy > 0 ? xy / (sqrt(xx) * sqrt(yy)) : 0;
}

double rf_eval_cross_entropy(const float *logits, int64_t n, int64_t label)
{
    double max = (double)logits[0], sum = 0;
    for (int64_t i = 1; i < n; i++) {
        max = fmax(max, (double)logits[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        sum += exp((double)logits[i] - max);
    }
    return log(sum) - ((double)logits[label] - max);
}

static void add_token(rf_coder_sums *sums, rf_eval_class which, double error, double cosine,
                      int64_t n_active)
{
    sums->n_tokens[which] += 1;
    sums->active[which] += (double)n_active;
    sums->error[which] += error;
    sums->cosine[which] += cosine;
}

void rf_coder_sums_add(rf_coder_sums *sums, rf_eval_class which, const float *x, const float *x_hat,
                       int64_t width, int64_t n_active)
{
    const double cosine = rf_eval_cosine(x, x_hat, width);
    double error = 0;

    for (int64_t i = 0; i < width; i++) {
        const double d = (double)x[i] - (double)x_hat[i];
        error += d * d;
    }
    add_token(sums, RF_EVAL_ALL, error, cosine, n_active);
    if (which != RF_EVAL_ALL) {
        add_token(sums, which, error, cosine, n_active);
    }
}

/* Sums of squares over all sites, about their means and about those of each position; `width` of
 * all. */
static void sum_variances(const rf_token_span *spans, const rf_site_sums *sites, int n_sites,
                          double *about_mean, double *about_position, int64_t *width)
{
    *about_mean = *about_position = 0;
    *width = 0;
    for (int i = 0; i < n_sites; i++) {
        double mean = 0, position = 0;
        rf_site_sums_variance(&sites[i], spans[i], &mean, &position);
        *about_mean += mean;
        *about_position += position;
        *width += sites[i].width;
    }
}

void rf_token_figures_compute(const rf_coder_sums *sums, rf_eval_class which,
                              const rf_token_span *spans, const rf_site_sums *sites, int n_sites,
                              rf_token_figures *out)
{
    const double n = sums->n_tokens[which], error = sums->error[which];
    double about_mean = 0, about_position = 0;
    int64_t width = 0;

    *out = (rf_token_figures){.n_tokens = (int64_t)n,
                              .l0 = (double)NAN,
                              .explained_variance = (double)NAN,
                              .explained_variance_by_position = (double)NAN,
                              .mse = (double)NAN,
                              .squared_error = (double)NAN,
                              .cosine = (double)NAN};
    if (n <= 0) {
        return;
    }
    sum_variances(spans, sites, n_sites, &about_mean, &about_position, &width);
    out->l0 = sums->active[which] / n;
    out->squared_error = error / n;
    out->mse = error / (n * (double)width);
    out->cosine = sums->cosine[which] / n;
    if (about_mean > 0) {
        out->explained_variance = 1 - error / about_mean;
    }
    if (about_position > 0) {
        out->explained_variance_by_position = 1 - error / about_position;
    }
}
