/* What is done to rows of parameters, and to tokens on their way to a coder and back. */
#include "cuda_impl.h"
#include "k_update.h"

#include <math.h>

static rf_rates rates_of(const rf_update_args *a)
{
    const double t = (double)a->t;
    const bool is_adam = a->kind == RF_UPDATE_ADAM;
    return (rf_rates){.beta1 = (float)a->beta1,
                      .beta2 = (float)a->beta2,
                      .rest1 = (float)(1.0 - a->beta1),
                      .rest2 = (float)(1.0 - a->beta2),
                      .step = (float)(-a->lr / (is_adam ? 1.0 - pow(a->beta1, t) : 1.0)),
                      .v_scale = (float)(1.0 / sqrt(1.0 - pow(a->beta2, t))),
                      .eps = (float)a->eps,
                      .keep = (float)(1.0 - a->lr * a->weight_decay),
                      .decay = (float)(-a->lr * a->weight_decay),
                      .average = (float)a->average_weight};
}

rf_status rf_cuda_update_rows(rf_stream *s, const rf_update_args *args)
{
    rf_k_update_rows(rf_cuda_stream_of(s),
                     (rf_updated_rows){.kind = args->kind,
                                       .w = rf_rows_of(&args->w),
                                       .g = rf_rows_of(&args->g),
                                       .m = rf_rows_of(&args->m),
                                       .v = rf_rows_of(&args->v),
                                       .average = rf_rows_of(&args->average),
                                       .touched = args->touched,
                                       .grad_scale = args->grad_scale,
                                       .held = {args->rule, args->segments, args->radius},
                                       .rates = rates_of(args),
                                       .n = args->w.shape[0],
                                       .d = args->w.shape[1]});
    return rf_cuda_launched(s, "update of rows");
}

rf_status rf_cuda_apply_row_rule(rf_stream *s, const rf_view *w, rf_row_rule rule,
                                 const rf_segments *segments, float radius)
{
    rf_k_apply_row_rule(rf_cuda_stream_of(s), rf_rows_of(w), w->shape[0], w->shape[1],
                        (rf_held){rule, *segments, radius});
    return rf_cuda_launched(s, "rule of rows");
}

rf_status rf_cuda_row_norms(rf_stream *s, const rf_view *w, const rf_segments *segments,
                            const rf_view *out)
{
    rf_k_row_norms(rf_cuda_stream_of(s), rf_rows_of(w), w->shape[0], w->shape[1], *segments,
                   out->data);
    return rf_cuda_launched(s, "norms of rows");
}

rf_status rf_cuda_row_norms_grad(rf_stream *s, const rf_view *w, const rf_segments *segments,
                                 const rf_view *scale, const rf_view *d_w)
{
    rf_k_row_norms_grad(rf_cuda_stream_of(s), rf_rows_of(w), w->shape[0], w->shape[1], *segments,
                        scale->data, rf_rows_of(d_w));
    return rf_cuda_launched(s, "gradient of norms of rows");
}

rf_status rf_cuda_normalise_tokens(rf_stream *s, const rf_normalise_args *args)
{
    rf_k_normalise_tokens(rf_cuda_stream_of(s), *args);
    return rf_cuda_launched(s, "normalisation of tokens");
}

rf_status rf_cuda_denormalise_tokens(rf_stream *s, const rf_normalise_args *args)
{
    rf_k_denormalise_tokens(rf_cuda_stream_of(s), *args);
    return rf_cuda_launched(s, "normalisation of tokens, back");
}
