/* What a coder and its optimiser have in a checkpoint. */
#include "checkpoint_impl.h"

rf_status rf_checkpoint_type(const rf_view *view, rf_h5_type *out)
{
    rf_status status = RF_OK;
    switch (view->dtype) {
    case RF_F32:
        *out = RF_H5_F32;
        return RF_OK;
    case RF_I64:
        *out = RF_H5_I64;
        return RF_OK;
    default:
        RF_BUG(false, "a checkpoint holds fp32 and int64 tensors, not dtype %d", (int)view->dtype);
    }
fail:
    return status;
}

size_t rf_checkpoint_bytes(const rf_view *view)
{
    return (size_t)rf_view_n_elems(view) * rf_dtype_bytes(view->dtype);
}

rf_status rf_checkpoint_dataset(char out[RF_NAME_LEN], int64_t idx, const char *name)
{
    return rf_format(out, RF_NAME_LEN, "coders/%05" PRId64 "/%s", idx, name);
}

rf_status rf_checkpoint_agree(const rf_comm *comm, rf_status status)
{
    return comm != NULL ? rf_comm_agree(comm, status) : status;
}

static rf_status add_tensor(rf_checkpoint_list *list, const char *group, const char *name,
                            rf_view view)
{
    rf_status status = RF_OK;
    RF_BUG(list->n < RF_CHECKPOINT_MAX_TENSORS, "more than %d tensors of a coder",
           RF_CHECKPOINT_MAX_TENSORS);
    RF_TRY(rf_format(list->items[list->n].name, sizeof list->items[0].name, "%s%s", group, name));
    list->items[list->n++].view = view;
    list->most_bytes = rf_checkpoint_bytes(&view) > list->most_bytes ? rf_checkpoint_bytes(&view)
                                                                     : list->most_bytes;
fail:
    return status;
}

rf_status rf_checkpoint_list_tensors(const rf_checkpoint_coder *c, rf_checkpoint_list *list)
{
    rf_status status = RF_OK;
    for (int i = 0; i < rf_coder_n_tensors(c->coder); i++) {
        const rf_coder_tensor t = rf_coder_tensor_at(c->coder, i);
        if (rf_coder_has(c->coder, i)) {
            RF_TRY(add_tensor(list, "coder/", t.name, t.view));
        }
    }
    for (int i = 0; c->opt != NULL && i < rf_optimiser_n_tensors(c->opt); i++) {
        RF_TRY(add_tensor(list, "optimiser/", rf_optimiser_tensor_name(c->opt, i),
                          rf_optimiser_tensor_view(c->opt, i)));
    }
fail:
    return status;
}
