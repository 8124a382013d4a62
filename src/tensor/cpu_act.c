/* What pre-activations become, on entries of codes: gated magnitudes, and JumpReLU's window. */
#include "act_impl.h"

/* exp of the gains, in scratch memory of `s`. */
static rf_status exp_gains(rf_stream *s, const rf_act_params *params, const float **out)
{
    rf_status status = RF_OK;
    const int64_t n = params->gain.shape[0];
    void *scratch;
    RF_TRY(rf_cpu_scratch(s, sizeof(float) * (size_t)n, &scratch));
    rf_cpu_exp(params->gain.data, scratch, n);
    *out = scratch;
fail:
    return status;
}

rf_status rf_cpu_gated_values(rf_stream *s, const rf_act_params *params, const rf_codes *codes,
                              const float *h, float *z)
{
    rf_status status = RF_OK;
    const float *b = params->b_gate.data, *m = params->b_mag.data, *exp_gain;
    RF_TRY(exp_gains(s, params, &exp_gain));
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t e = 0; e < codes->row_start[codes->n_rows]; e++) {
        const int32_t i = codes->latent[e];
        const float magnitude = rf_act_magnitude(h[e], exp_gain[i], b[i], m[i]);
        z[e] = rf_act_above(h[e], 0.0f, rf_act_above(magnitude, 0.0f, magnitude));
    }
fail:
    return status;
}

rf_status rf_cpu_gated_values_grad(rf_stream *s, const rf_act_params *params,
                                   const rf_gated_values_grad_args *args)
{
    rf_status status = RF_OK;
    const rf_codes *codes = args->codes;
    const float *b = params->b_gate.data, *exp_gain;
    RF_TRY(exp_gains(s, params, &exp_gain));
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t e = 0; e < codes->row_start[codes->n_rows]; e++) {
        const int32_t i = codes->latent[e];
        const float d_mag = rf_act_above(args->z[e], 0.0f, args->d_z[e]);
        args->d_h[e] = args->d_gate[e] + exp_gain[i] * d_mag; /* outputs may be inputs */
        args->d_gain[e] = d_mag * exp_gain[i] * (args->h[e] - b[i]);
        args->d_mag[e] = d_mag;
    }
fail:
    return status;
}

/* ---- JumpReLU's window --------------------------------------------------------------------- */

/* out = factor * the penalty's derivative at the values of n entries, from `first` on. */
static void window_slopes(const rf_act_params *params, const rf_codes *codes, int64_t first,
                          int64_t n, float factor, float *out)
{
    const rf_penalty_rule rule = rf_cpu_penalty_rule(params);
    const float at_zero = rf_cpu_penalty_slope_at_zero(rule), *theta = params->threshold.data;
    const int32_t *latent = codes->latent + first;
    const float *h = codes->value + first;
    float gathered[RF_ACT_CHUNK], z[RF_ACT_CHUNK];
    const float *w = rf_cpu_penalty_weights(params->weight.data, latent, n, gathered);
    for (int64_t i = 0; i < n; i++) {
        z[i] = rf_act_above(h[i], theta[latent[i]], h[i]);
    }
    rf_cpu_penalty_slopes(rule, z, w, n, out);
    for (int64_t i = 0; i < n; i++) {
        const float below = w != NULL ? at_zero * w[i] : at_zero;
        out[i] = factor * (h[i] > theta[latent[i]] ? out[i] : below);
    }
}

static void window_row(const rf_act_params *params, const rf_jump_window_grad_args *args, int64_t b,
                       bool has_slope)
{
    const rf_codes *codes = args->codes;
    const rf_penalty_rule rule = rf_cpu_penalty_rule(params);
    const float *theta = params->threshold.data, *penalty = args->row_penalty.data;
    const float l0_by_eps = args->l0 / args->eps;
    float slope[RF_ACT_CHUNK] = {0}, factor = args->scale;
    if (has_slope && rule.kind == RF_PENALTY_NORM) {
        factor *= rf_cpu_penalty_factor_of(rule, penalty[b]);
    }
    for (int64_t e = codes->row_start[b]; e < codes->row_start[b + 1]; e += RF_ACT_CHUNK) {
        const int64_t n = rf_min_i64(RF_ACT_CHUNK, codes->row_start[b + 1] - e);
        if (has_slope) {
            window_slopes(params, codes, e, n, factor, slope);
        }
        for (int64_t i = 0; i < n; i++) {
            const float d_z = codes->d_value[e + i] + slope[i];
            codes->d_value[e + i] =
                rf_act_jump_slope(theta[codes->latent[e + i]], d_z, args->eps, l0_by_eps);
            args->d_threshold[e + i] = -codes->d_value[e + i];
        }
    }
}

rf_status rf_cpu_jump_window_grad(rf_stream *s, const rf_act_params *params,
                                  const rf_jump_window_grad_args *args)
{
    const bool has_slope =
        args->scale != 0.0f && rf_cpu_penalty_has_slope(rf_cpu_penalty_rule(params));
#pragma omp parallel for schedule(static) num_threads(rf_cpu_n_threads(s))
    for (int64_t b = 0; b < args->codes->n_rows; b++) {
        window_row(params, args, b, has_slope);
    }
    return RF_OK;
}
