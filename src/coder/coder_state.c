/* The small state of a coder as host values, and what follows from it. */
#include "coder_impl.h"

#include <math.h>
#include <string.h>

rf_status rf_coder_get_state(const rf_coder *coder, rf_stream *s, rf_coder_state *out)
{
    rf_status status = RF_OK;
    const rf_view by_class = coder->tensors[RF_CODER_CLASS_THRESHOLDS].view;
    memset(out->class_thresholds, 0, sizeof out->class_thresholds);
    if (by_class.data != NULL) {
        RF_TRY(rf_copy_out(s, out->class_thresholds, by_class.data, sizeof out->class_thresholds));
    }
    RF_TRY(rf_copy_out(s, out->scalars, coder->tensors[RF_CODER_SCALARS].view.data,
                       sizeof out->scalars));
    RF_TRY(rf_copy_out(s, out->counters, coder->tensors[RF_CODER_COUNTERS].view.data,
                       sizeof out->counters));
    RF_TRY(rf_stream_synchronise(s));
fail:
    return status;
}

rf_status rf_coder_set_state(rf_coder *coder, rf_stream *s, const rf_coder_state *state)
{
    rf_status status = RF_OK;
    const rf_view by_class = coder->tensors[RF_CODER_CLASS_THRESHOLDS].view;
    if (by_class.data != NULL) {
        RF_TRY(
            rf_copy_in(s, by_class.data, state->class_thresholds, sizeof state->class_thresholds));
    }
    RF_TRY(rf_copy_in(s, coder->tensors[RF_CODER_SCALARS].view.data, state->scalars,
                      sizeof state->scalars));
    RF_TRY(rf_copy_in(s, coder->tensors[RF_CODER_COUNTERS].view.data, state->counters,
                      sizeof state->counters));
    RF_TRY(rf_stream_synchronise(s)); /* `state` is the caller's */
fail:
    return status;
}

float rf_coder_floor(const rf_coder_state *state, rf_token_class token_class)
{
    float sum = state->scalars[RF_SCALAR_THRESHOLD];
    float mass = state->scalars[RF_SCALAR_THRESHOLD_MASS];
    const int idx = (int)token_class - (int)RF_TOKENS_CLS;
    if (idx >= 0 && idx < RF_K_CLASSES && state->class_thresholds[idx][1] > 0.0f) {
        sum = state->class_thresholds[idx][0];
        mass = state->class_thresholds[idx][1];
    }
    return mass > 0.0f ? sum / mass : 0.0f;
}

double rf_coder_bandwidth(const rf_coder *coder, const rf_coder_state *state)
{
    return coder->settings.bandwidth * (double)state->scalars[RF_SCALAR_RMS];
}

rf_status rf_coder_thresholds(const rf_coder *coder, rf_stream *s, const rf_view *theta)
{
    rf_status status = RF_OK;
    int64_t f = coder->n_latents;
    float *host = NULL;

    RF_REQUIRE(rf_coder_has(coder, RF_CODER_LOG_THRESHOLD), "coder '%s': %s has no thresholds",
               coder->settings.name, coder->architecture->name);
    RF_REQUIRE(rf_view_n_elems(theta) == f && theta->dtype == RF_F32,
               "coder '%s': %" PRId64 " thresholds, expected %" PRId64, coder->settings.name,
               rf_view_n_elems(theta), f);
    RF_ALLOC(host, f);
    RF_TRY(rf_copy_out(s, host, coder->tensors[RF_CODER_LOG_THRESHOLD].view.data,
                       sizeof(float) * (size_t)f));
    RF_TRY(rf_stream_synchronise(s));
    for (int64_t i = 0; i < f; i++) {
        host[i] = expf(host[i]);
    }
    RF_TRY(rf_copy_in(s, theta->data, host, sizeof(float) * (size_t)f));
    RF_TRY(rf_stream_synchronise(s)); /* `host` goes */
fail:
    rf_free(host);
    return status;
}
