/* What the rows of a hook point are: a model's configuration says it, or a store. */
#include "data_impl.h"

#include <string.h>

/* The rows of one class, which lie together; false where there are none. */
static bool find_class(const rf_store_site *site, uint8_t wanted, int64_t *first, int64_t *n_rows)
{
    int64_t begin = 0, end = 0;
    while (begin < site->n_rows && site->classes[begin] != wanted) {
        begin++;
    }
    for (end = begin; end < site->n_rows && site->classes[end] == wanted;) {
        end++;
    }
    *first = site->first_row + begin;
    *n_rows = end - begin;
    return end > begin;
}

rf_status rf_store_class_rows(const rf_store_site *site, rf_token_class tokens, int64_t *first,
                              int64_t *n_rows)
{
    rf_status status = RF_OK;
    const bool is_pooled = site->classes[0] == RF_TOKENS_POOLED;

    if (tokens == RF_TOKENS_ALL) {
        *first = 0;
        *n_rows = site->point_rows;
        if (site->n_rows != site->point_rows) {
            RF_FAIL(RF_ERR_SETTING,
                    "tokens all: the store holds %" PRId64 " of the %" PRId64
                    " rows of '%s'; it was written with other activations.tokens",
                    site->n_rows, site->point_rows, site->point);
        }
    } else if (!find_class(site, (uint8_t)tokens, first, n_rows)) {
        RF_FAIL(RF_ERR_SETTING, "tokens %s: the store holds no such rows of '%s'%s",
                rf_token_class_names[tokens], site->point, is_pooled ? "; use tokens pooled" : "");
    } else if (tokens == RF_TOKENS_CLS) {
        *n_rows = 1; /* a distillation token is another one */
    }
fail:
    return status;
}

static const rf_store_site *find_site(const rf_stream_frame *frame, const rf_reader_site *site)
{
    const int64_t s = rf_store_find(frame->store, frame->models[site->model], site->point.name);
    return s >= 0 ? &rf_store_get_head(frame->store)->sites[s] : NULL;
}

rf_status rf_site_class_rows(const rf_stream_frame *frame, const rf_reader_site *site,
                             rf_token_class tokens, int64_t *first, int64_t *n_rows)
{
    rf_status status = RF_OK;
    if (frame->store == NULL) {
        return rf_token_class_rows(frame->configs[site->model], &site->point, tokens, first,
                                   n_rows);
    }
    const rf_store_site *held = find_site(frame, site);
    RF_BUG(held != NULL, "'%s' is not in the store", site->point.name);
    RF_TRY(rf_store_class_rows(held, tokens, first, n_rows));
fail:
    return status;
}

rf_token_class rf_site_class_of_row(const rf_stream_frame *frame, const rf_reader_site *site,
                                    int64_t row, int32_t position[3])
{
    if (frame->store == NULL) {
        const rf_vit_config *config = frame->configs[site->model];
        rf_token_position_of_row(config, &site->point, row, position);
        return rf_token_class_of_row(config, &site->point, row);
    }
    const rf_store_site *held = find_site(frame, site);
    const int64_t r = row - held->first_row;
    memcpy(position, held->positions + 3 * r, 3 * sizeof *position);
    return held->classes[r] == RF_TOKENS_POOLED ? RF_TOKENS_CLS : (rf_token_class)held->classes[r];
}

const char *rf_site_model_name(const rf_stream_frame *frame, const rf_reader_site *site)
{
    const char *name =
        frame->store == NULL ? frame->configs[site->model]->name : frame->models[site->model];
    return name[0] != '\0' ? name : "the model";
}
