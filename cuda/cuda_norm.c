/* Layer norm, softmax and the norm's gradients. */
#include "cuda_impl.h"
#include "k_norm.h"

rf_status rf_cuda_layer_norm(rf_stream *s, const rf_layer_norm_args *args)
{
    rf_k_layer_norm(rf_cuda_stream_of(s), *args);
    return rf_cuda_launched(s, "layer norm");
}

rf_status rf_cuda_layer_norm_grad(rf_stream *s, const rf_layer_norm_grad_args *args)
{
    rf_status status = RF_OK;
    const int64_t n = args->x.shape[0], d = args->x.shape[1];
    const bool has_sums = args->d_weight.data != NULL || args->d_bias.data != NULL;
    const int64_t n_sums = has_sums ? 2 * rf_ceil_div(n, RF_K_NORM_ROWS) * d : 0;
    void *scratch = NULL;
    RF_TRY(rf_cuda_scratch(s, sizeof(float) * (size_t)(n + n_sums), &scratch));
    float *mean = scratch;
    rf_k_layer_norm_grad(rf_cuda_stream_of(s), *args, mean, has_sums ? mean + n : NULL);
    RF_TRY(rf_cuda_launched(s, "gradient of layer norm"));
fail:
    return status;
}

rf_status rf_cuda_layer_norm_scale_grad(rf_stream *s, const rf_layer_norm_grad_args *args)
{
    const rf_layer_norm_grad_args used = {
        .x = args->x, .scale = args->scale, .d_scale = args->d_scale, .d_x = args->d_x};
    rf_k_layer_norm_scale_grad(rf_cuda_stream_of(s), used);
    return rf_cuda_launched(s, "gradient of a layer norm's scale");
}

rf_status rf_cuda_softmax_rows(rf_stream *s, const rf_view *x)
{
    rf_k_softmax(rf_cuda_stream_of(s),
                 (rf_softmax){.x = rf_rows_of(x), .n = x->shape[0], .d = x->shape[1]});
    return rf_cuda_launched(s, "softmax");
}
