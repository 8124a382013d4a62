/* What pre-activations become, and their penalties. */
#include "cuda_impl.h"
#include "k_act.h"

static rf_act_arrays arrays_of(const rf_act_params *params)
{
    const bool is_root = params->penalty == RF_PENALTY_POWER || params->penalty == RF_PENALTY_NORM;
    return (rf_act_arrays){.act = params->act,
                           .penalty =
                               is_root && params->p == 1.0f ? RF_PENALTY_L1 : params->penalty,
                           .theta = params->threshold.data,
                           .b_gate = params->b_gate.data,
                           .gain = params->gain.data,
                           .b_mag = params->b_mag.data,
                           .weight = params->weight.data,
                           .p = params->p};
}

rf_status rf_cuda_gated_values(rf_stream *s, const rf_act_params *params, const rf_codes *codes,
                               const float *h, float *z)
{
    rf_k_gated_values(rf_cuda_stream_of(s), arrays_of(params), *codes, h, z);
    return rf_cuda_launched(s, "gated values");
}

rf_status rf_cuda_gated_values_grad(rf_stream *s, const rf_act_params *params,
                                    const rf_gated_values_grad_args *args)
{
    rf_gated_values_grad_args on_device = *args;
    on_device.codes = NULL;
    rf_k_gated_values_grad(rf_cuda_stream_of(s), arrays_of(params), *args->codes, on_device);
    return rf_cuda_launched(s, "gradient of gated values");
}

rf_status rf_cuda_jump_window_grad(rf_stream *s, const rf_act_params *params,
                                   const rf_jump_window_grad_args *args)
{
    const rf_act_arrays act = arrays_of(params);
    const bool has_slope =
        args->scale != 0.0f && act.penalty != RF_PENALTY_NONE && act.penalty != RF_PENALTY_L0;
    rf_jump_window_grad_args on_device = *args;
    on_device.codes = NULL;
    rf_k_jump_window_grad(rf_cuda_stream_of(s), act, *args->codes, on_device, has_slope);
    return rf_cuda_launched(s, "gradient in the window");
}

rf_status rf_cuda_penalty(rf_stream *s, const rf_act_params *params, const rf_penalty_args *args)
{
    const rf_act_arrays all = arrays_of(params);
    const rf_act_arrays act = {.penalty = all.penalty, .weight = all.weight, .p = all.p};
    rf_penalty_args on_device = *args;
    on_device.codes = NULL;
    rf_k_penalty(rf_cuda_stream_of(s), act, *args->codes, on_device);
    return rf_cuda_launched(s, "penalty");
}

rf_status rf_cuda_dense_values(rf_stream *s, const rf_act_params *params,
                               const rf_dense_values_args *args)
{
    rf_k_dense_values(rf_cuda_stream_of(s), arrays_of(params), *args);
    return rf_cuda_launched(s, "dense values");
}

rf_status rf_cuda_dense_relu(rf_stream *s, const rf_view *h, const rf_view *z,
                             const uint8_t *row_valid)
{
    rf_k_dense_relu(rf_cuda_stream_of(s), rf_rows_of(h), rf_rows_of(z), row_valid, h->shape[0],
                    h->shape[1]);
    return rf_cuda_launched(s, "dense relu");
}

rf_status rf_cuda_dense_grad(rf_stream *s, const rf_act_params *params,
                             const rf_dense_grad_args *args)
{
    rf_status status = RF_OK;
    const int64_t n_blocks = rf_ceil_div(args->h.shape[0], RF_K_GRAD_ROWS);
    const bool has_sums = args->d_h.data != NULL || args->d_threshold.data != NULL ||
                          args->d_b_gate.data != NULL || args->d_gain.data != NULL ||
                          args->d_b_mag.data != NULL;
    void *sums = NULL;
    if (has_sums) {
        RF_TRY(rf_cuda_scratch(
            s, sizeof(float) * (size_t)(rf_k_grad_sums(params->act) * n_blocks * args->h.shape[1]),
            &sums));
    }
    rf_k_dense_grad(rf_cuda_stream_of(s), arrays_of(params), *args, sums);
    RF_TRY(rf_cuda_launched(s, "gradient of dense values"));
fail:
    return status;
}
