/* Architectures by name: sizes and switches without a model's files. */
#include "config_impl.h"

#include <string.h>

static const rf_named_list *const lists[] = {&rf_named_hub, &rf_named_timm, &rf_named_open_clip};

enum { N_LISTS = sizeof lists / sizeof *lists, MAX_CHAIN = 8 };

const rf_named_arch *rf_named_find(const char *name)
{
    for (int i = 0; i < N_LISTS; i++) {
        for (int64_t j = 0; j < lists[i]->n; j++) {
            if (strcmp(lists[i]->rows[j].name, name) == 0) {
                return &lists[i]->rows[j];
            }
        }
    }
    return NULL;
}

/* The name that is like it, or NULL. No text is nearer than the difference of lengths. */
static const char *nearest(const char *name)
{
    const char *best = NULL;
    const int64_t n = (int64_t)strlen(name);
    int64_t distance = n < RF_NAME_LEN ? n / 3 + 2 : 0; /* farther is no likeness */
    for (int i = 0; i < N_LISTS; i++) {
        for (int64_t j = 0; j < lists[i]->n; j++) {
            const int64_t m = (int64_t)strlen(lists[i]->rows[j].name);
            if (rf_max_i64(n - m, m - n) >= distance) {
                continue;
            }
            const int64_t d = rf_str_distance(name, lists[i]->rows[j].name);
            if (d < distance) {
                distance = d;
                best = lists[i]->rows[j].name;
            }
        }
    }
    return best;
}

rf_status rf_named_apply(const char *name, rf_draft *draft, const rf_arch **row)
{
    rf_status status = RF_OK;
    const rf_named_arch *chain[MAX_CHAIN];
    int n = 0;
    const rf_arch *arch = rf_arch_by_family(name);
    for (const char *at = name; arch == NULL; at = chain[n - 1]->like) {
        const rf_named_arch *named = rf_named_find(at);
        RF_BUG(n < MAX_CHAIN, "the chain of architectures from '%s' does not end", name);
        if (named == NULL) {
            const char *near = nearest(at);
            RF_FAIL(RF_ERR_UNSUPPORTED,
                    "architecture '%.64s' is not known%s%s%s (docs/models.md adopts another one "
                    "by a row of one's own)",
                    at, near != NULL ? "; the nearest that is known is '" : "",
                    near != NULL ? near : "", near != NULL ? "'" : "");
        }
        chain[n++] = named;
        arch = rf_arch_by_family(named->like);
    }
    RF_TRY(rf_draft_set(draft, arch->settings, arch->family));
    while (n-- > 0) {
        RF_TRY(rf_draft_set(draft, chain[n]->settings, chain[n]->name));
    }
    *row = arch;
fail:
    return status;
}
