/* Which positions of a picture are of which class, among those that a coder sees. */
#include "refract/eval.h"

/* Count 0 where the point has no such tokens. */
static rf_token_span find_span(const rf_vit_config *config, const rf_hook_point *point,
                               rf_token_class tokens)
{
    rf_token_span span = {0, 0};
    if (rf_token_class_rows(config, point, tokens, &span.first, &span.count) != RF_OK) {
        span = (rf_token_span){0, 0};
    }
    return span;
}

rf_status rf_token_layout_init(const rf_vit_config *config, const rf_hook_point *point,
                               rf_token_class tokens, rf_token_layout *out)
{
    rf_status status = RF_OK;
    static const rf_token_class narrower[RF_EVAL_N_CLASSES] = {RF_TOKENS_ALL, RF_TOKENS_CLS,
                                                               RF_TOKENS_REGISTER, RF_TOKENS_PATCH};
    const bool is_pooled = point->shape == RF_HOOK_POOLED;
    rf_token_span *seen = &out->spans[RF_EVAL_ALL];

    *out = (rf_token_layout){.width = point->width};
    RF_TRY(rf_token_class_rows(config, point, tokens, &seen->first, &seen->count));
    out->n_positions = find_span(config, point, is_pooled ? RF_TOKENS_POOLED : RF_TOKENS_ALL).count;
    for (int c = RF_EVAL_CLS; !is_pooled && c < RF_EVAL_N_CLASSES; c++) {
        if (tokens == RF_TOKENS_ALL || tokens == narrower[c]) {
            out->spans[c] = find_span(config, point, narrower[c]);
        }
    }
fail:
    return status;
}
