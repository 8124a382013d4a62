/* The values of a pickle: looking into them, and what the calls and the references to storages that
 * stand in a pickle are read as. */
#include "torch_impl.h"

#include <string.h>

bool rf_pickle_is_text(const rf_pickle *p, rf_pickle_value v, const char *text)
{
    return v.kind == RF_PICKLE_TEXT && v.len == (int32_t)strlen(text) &&
           memcmp(p->bytes + v.at, text, (size_t)v.len) == 0;
}

int rf_pickle_items(const rf_pickle *p, rf_pickle_value object, int most, rf_pickle_value *items)
{
    int n = 0;
    for (int64_t c = p->objects.items[object.at].first; c >= 0 && n < most;
         c = p->cells.items[c].next) {
        items[n++] = p->cells.items[c].value;
    }
    return n;
}

rf_pickle_value rf_pickle_get(const rf_pickle *p, rf_pickle_value map, const char *key)
{
    rf_pickle_value found = {.kind = RF_PICKLE_ABSENT};
    if (map.kind == RF_PICKLE_MAP) {
        for (int64_t c = p->objects.items[map.at].first; c >= 0;) {
            const rf_pickle_cell *k = &p->cells.items[c], *v = &p->cells.items[k->next];
            if (rf_pickle_is_text(p, k->value, key)) {
                found = v->value;
            }
            c = v->next;
        }
    }
    return found;
}

/* OrderedDict(), or OrderedDict([[key, value], ...]) of Python 2. */
static rf_status push_map(rf_pickle *p, rf_pickle_value args)
{
    rf_status status = RF_OK;
    rf_pickle_value pairs = {0}, pair[3];
    int64_t map = 0;

    RF_TRY(rf_pickle_new(p, &map));
    RF_TRY(rf_pickle_push(p, RF_PICKLE_MAP, 0, map));
    if (rf_pickle_items(p, args, 1, &pairs) == 0) {
        return RF_OK;
    }
    if (pairs.kind != RF_PICKLE_LIST && pairs.kind != RF_PICKLE_TUPLE) {
        RF_FAIL(RF_ERR_FORMAT, "an OrderedDict is not made of pairs");
    }
    for (int64_t c = p->objects.items[pairs.at].first; c >= 0; c = p->cells.items[c].next) {
        rf_pickle_value v = p->cells.items[c].value;
        if ((v.kind != RF_PICKLE_LIST && v.kind != RF_PICKLE_TUPLE) ||
            rf_pickle_items(p, v, 3, pair) != 2) {
            RF_FAIL(RF_ERR_FORMAT, "an OrderedDict is not made of pairs");
        }
        RF_TRY(rf_pickle_append(p, map, pair[0]));
        RF_TRY(rf_pickle_append(p, map, pair[1]));
    }
fail:
    return status;
}

/* The first of `args`, which must be there. */
static rf_status push_first(rf_pickle *p, rf_pickle_value args)
{
    rf_status status = RF_OK;
    rf_pickle_value first = {0};
    if (rf_pickle_items(p, args, 1, &first) != 1) {
        RF_FAIL(RF_ERR_FORMAT, "a call has no arguments");
    }
    RF_TRY(rf_pickle_push(p, first.kind, first.len, first.at));
fail:
    return status;
}

rf_status rf_pickle_call(rf_pickle *p, rf_pickle_value callee, rf_pickle_value args)
{
    rf_status status = RF_OK;
    rf_pickle_value inner[3];
    if (callee.kind != RF_PICKLE_GLOBAL || args.kind != RF_PICKLE_TUPLE) {
        RF_FAIL(RF_ERR_FORMAT, "it calls what is no function");
    }
    const rf_torch_global *g = rf_torch_global_at(callee.at);
    if (g->role == RF_TORCH_FROM_TYPE) { /* a tensor with attributes: the call that makes it */
        if (rf_pickle_items(p, args, 3, inner) != 3 || inner[0].kind != RF_PICKLE_GLOBAL ||
            inner[2].kind != RF_PICKLE_TUPLE) {
            RF_FAIL(RF_ERR_FORMAT, "%s has other arguments", g->name);
        }
        callee = inner[0];
        args = inner[2];
        g = rf_torch_global_at(callee.at);
    }
    switch (g->role) {
    case RF_TORCH_MAP:
        return push_map(p, args);
    case RF_TORCH_TUPLE:
    case RF_TORCH_FIRST:
        return push_first(p, args);
    case RF_TORCH_TENSOR:
    case RF_TORCH_TENSOR_DTYPE:
        return rf_pickle_push(p, RF_PICKLE_TENSOR, (int32_t)callee.at, args.at);
    case RF_TORCH_OPAQUE:
        return rf_pickle_push(p, RF_PICKLE_OPAQUE, 0, 0);
    default:
        RF_FAIL(RF_ERR_FORMAT, "it calls %s.%s, which is no function", g->module, g->name);
    }
fail:
    return status;
}

rf_status rf_pickle_read_storage(const rf_pickle *p, rf_pickle_value id, rf_pickle_storage *s)
{
    rf_status status = RF_OK;
    rf_pickle_value part[7], view[4];
    int n = id.kind == RF_PICKLE_TUPLE ? rf_pickle_items(p, id, 7, part) : 0;
    if (n < 1 || !rf_pickle_is_text(p, part[0], "storage")) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "it refers to something that is no storage");
    }
    if (n < 5 || n > 6 || part[1].kind != RF_PICKLE_GLOBAL || part[2].kind != RF_PICKLE_TEXT ||
        part[4].kind != RF_PICKLE_INT || part[4].at < 0) {
        RF_FAIL(RF_ERR_FORMAT, "it refers to a storage without type, key or size");
    }
    const rf_torch_global *g = rf_torch_global_at(part[1].at);
    if (g->role != RF_TORCH_STORAGE) {
        RF_FAIL(RF_ERR_FORMAT, "%s.%s is no type of a storage", g->module, g->name);
    }
    *s = (rf_pickle_storage){.key_at = part[2].at,
                             .key_len = part[2].len,
                             .dtype = g->dtype,
                             .n_elems = part[4].at,
                             .view_first = -1};
    if (n == 6 && part[5].kind != RF_PICKLE_NONE) {
        if (part[5].kind != RF_PICKLE_TUPLE || rf_pickle_items(p, part[5], 4, view) != 3 ||
            view[1].kind != RF_PICKLE_INT || view[2].kind != RF_PICKLE_INT || view[1].at < 0 ||
            view[1].at > s->n_elems || view[2].at < 0 || view[2].at > s->n_elems - view[1].at) {
            RF_FAIL(RF_ERR_FORMAT, "a view is outside its storage");
        }
        s->view_first = view[1].at;
        s->view_elems = view[2].at;
    }
fail:
    return status;
}
