/* Activations, gated maps, scaled sums and types. */
#include "cuda_impl.h"
#include "k_elementwise.h"

rf_status rf_cuda_activation(rf_stream *s, rf_act act, const rf_view *x, const rf_view *y)
{
    rf_k_activation(rf_cuda_stream_of(s), act, x->data, y->data, rf_view_n_elems(x));
    return rf_cuda_launched(s, "activation");
}

rf_status rf_cuda_gated(rf_stream *s, rf_act act, const rf_view *gate, const rf_view *x,
                        const rf_view *y)
{
    rf_k_gated(rf_cuda_stream_of(s), act, rf_rows_of(gate), rf_rows_of(x), rf_rows_of(y),
               gate->shape[0], gate->shape[1]);
    return rf_cuda_launched(s, "gated");
}

rf_status rf_cuda_add(rf_stream *s, const rf_add_args *args)
{
    rf_k_add(rf_cuda_stream_of(s), rf_rows_of(&args->x), rf_rows_of(&args->r), args->scale.data,
             rf_rows_of(&args->y), args->y.shape[0], args->y.shape[1]);
    return rf_cuda_launched(s, "add");
}

rf_status rf_cuda_convert(rf_stream *s, const rf_view *x, const rf_view *y)
{
    const int64_t n = rf_view_n_elems(x);
    if (x->dtype == y->dtype) {
        return rf_copy_within(s, y->data, x->data, (size_t)n * rf_dtype_bytes(x->dtype));
    }
    rf_k_convert(rf_cuda_stream_of(s), x->dtype, y->dtype, x->data, y->data, n);
    return rf_cuda_launched(s, "convert");
}

rf_status rf_cuda_activation_grad(rf_stream *s, rf_act act, const rf_view *x, const rf_view *d_y,
                                  const rf_view *d_x)
{
    rf_k_activation_grad(rf_cuda_stream_of(s), act, rf_rows_of(x), rf_rows_of(d_y), rf_rows_of(d_x),
                         x->shape[0], x->shape[1]);
    return rf_cuda_launched(s, "gradient of an activation");
}

rf_status rf_cuda_gated_grad(rf_stream *s, const rf_gated_grad_args *args)
{
    const rf_gated_rows rows = {.gate = rf_rows_of(&args->gate),
                                .x = rf_rows_of(&args->x),
                                .d_y = rf_rows_of(&args->d_y),
                                .d_gate = rf_rows_of(&args->d_gate),
                                .d_x = rf_rows_of(&args->d_x)};
    rf_k_gated_grad(rf_cuda_stream_of(s), args->act, rows, args->gate.shape[0],
                    args->gate.shape[1]);
    return rf_cuda_launched(s, "gradient of gated");
}
