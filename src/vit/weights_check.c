/* Tensors that nobody asked for. */
#include "config_impl.h"

#include <stdlib.h>
#include <string.h>

static int compare_pointers(const void *a, const void *b)
{
    const uintptr_t x = (uintptr_t) * (const void *const *)a,
                    y = (uintptr_t) * (const void *const *)b;
    return (x > y) - (x < y);
}

/* What blocks may hold beside weights. */
static bool is_harmless(const char *name)
{
    static const char *const ends[] = {
        "relative_position_index", "position_ids", "inv_freq", "k_bias", "attn_mask",
        "num_batches_tracked",     "periods"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const size_t n = strlen(name), m = strlen(ends[i]);
        if (n >= m && strcmp(name + n - m, ends[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* What the names of the first block begin with, up to its number; "" where that cannot be said. */
static rf_status find_stem(const rf_vit_files *f, char stem[RF_NAME_LEN])
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];
    for (int i = 0; i < RF_MAX_SPELLINGS && f->arch->names[RF_PART_LN1][i] != NULL; i++) {
        const char *spelling = f->arch->names[RF_PART_LN1][i];
        const char *mark = strstr(spelling, "{l}");
        if (mark == NULL || spelling[0] == '/') {
            continue;
        }
        RF_TRY(rf_format(stem, RF_NAME_LEN, "%s%.*s", f->prefix, (int)(mark - spelling), spelling));
        RF_TRY(rf_format(name, sizeof name, "%s0%s.weight", stem, mark + 3));
        if (rf_tensor_file_find(f->weights, name) != NULL) {
            goto fail;
        }
    }
    stem[0] = '\0';
fail:
    return status;
}

rf_status rf_weights_check_taken(const rf_weights_plan *p)
{
    rf_status status = RF_OK;
    const rf_vit_files *f = p->files;
    char stem[RF_NAME_LEN];
    const void **taken = NULL;
    RF_TRY(find_stem(f, stem));
    const size_t n = strlen(stem);
    RF_ALLOC(taken, p->n_items);
    for (int64_t i = 0; i < p->n_items; i++) {
        taken[i] = p->items[i].tensor;
    }
    qsort(taken, (size_t)p->n_items, sizeof *taken, compare_pointers);
    for (int64_t i = 0; n > 0 && i < rf_tensor_file_count(f->weights); i++) {
        const rf_named_tensor *t = rf_tensor_file_at(f->weights, i);
        const bool is_of_block =
            strncmp(t->name, stem, n) == 0 && t->name[n] >= '0' && t->name[n] <= '9';
        if (is_of_block && !is_harmless(t->name) &&
            bsearch(&t, taken, (size_t)p->n_items, sizeof *taken, compare_pointers) == NULL) {
            RF_FAIL(RF_ERR_FORMAT,
                    "tensor '%.128s' belongs to no part of the model that the config describes",
                    t->name);
        }
    }
fail:
    rf_free(taken);
    return status;
}
