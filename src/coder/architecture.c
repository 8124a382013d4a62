/* The table of architectures: a new one is a row here and a file of its own. */
#include "coder_impl.h"

#include <string.h>

static const rf_architecture *const table[] = {&rf_arch_topk, &rf_arch_relu};

const char *const rf_architecture_names[] = {"topk", "relu", NULL}; /* in the table's order */

int rf_architecture_count(void)
{
    return (int)(sizeof table / sizeof table[0]);
}

const rf_architecture *rf_architecture_at(int idx)
{
    return idx >= 0 && idx < rf_architecture_count() ? table[idx] : NULL;
}

const rf_architecture *rf_architecture_find(const char *name)
{
    for (int i = 0; i < rf_architecture_count(); i++) {
        if (strcmp(table[i]->name, name) == 0) {
            return table[i];
        }
    }
    return NULL;
}
