/* Looking things up in the architecture table. */
#include "config_impl.h"

#include <string.h>

static const rf_arch_list *const lists[] = {&rf_archs_transformers, &rf_archs_video, &rf_archs_text,
                                            &rf_archs_open_clip, &rf_archs_timm};

enum { N_LISTS = sizeof lists / sizeof *lists };

int64_t rf_arch_count(void)
{
    int64_t n = 0;
    for (int i = 0; i < N_LISTS; i++) {
        n += lists[i]->n;
    }
    return n;
}

const rf_arch *rf_arch_at(int64_t idx)
{
    for (int i = 0; i < N_LISTS; i++) {
        if (idx < lists[i]->n) {
            return idx >= 0 ? &lists[i]->rows[idx] : NULL;
        }
        idx -= lists[i]->n;
    }
    return NULL;
}

const rf_arch *rf_arch_by_family(const char *family)
{
    for (int64_t i = 0; i < rf_arch_count(); i++) {
        if (strcmp(rf_arch_at(i)->family, family) == 0) {
            return rf_arch_at(i);
        }
    }
    return NULL;
}

static bool has_type(const rf_arch *a, const char *model_type)
{
    for (int i = 0; i < RF_MAX_WORDS && a->model_types[i] != NULL; i++) {
        if (strcmp(a->model_types[i], model_type) == 0) {
            return true;
        }
    }
    return false;
}

rf_status rf_arch_find(const char *model_type, rf_vit_tower tower, const char *where,
                       const rf_arch **out)
{
    rf_status status = RF_OK;
    rf_str known = {0};
    bool is_other_tower = false;
    for (int64_t i = 0; i < rf_arch_count(); i++) {
        const rf_arch *a = rf_arch_at(i);
        if (has_type(a, model_type) && a->tower == tower) {
            *out = a;
            goto fail;
        }
        is_other_tower = is_other_tower || has_type(a, model_type);
        for (int j = 0; a->tower == tower && j < RF_MAX_WORDS && a->model_types[j] != NULL; j++) {
            RF_TRY(rf_str_append(&known, "%s%s", known.len > 0 ? ", " : "", a->model_types[j]));
        }
    }
    if (is_other_tower) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "%s: a model of model_type '%.64s' has no %s tower", where,
                model_type, tower == RF_TOWER_TEXT ? "text" : "vision");
    }
    RF_FAIL(RF_ERR_UNSUPPORTED,
            "%s: model_type '%.64s' is not supported; supported are %s (docs/models.md adopts "
            "another one by a row of one's own)",
            where, model_type, known.data);
fail:
    rf_str_fini(&known);
    return status;
}

static const char *const part_names[] = {
#define PART_NAME(name, word) [RF_PART_##name] = word,
    RF_PART_LIST(PART_NAME)
#undef PART_NAME
};

const char *rf_part_name(rf_part part)
{
    return part_names[part];
}

rf_part rf_part_by_name(const char *word)
{
    for (int i = 0; i < RF_N_PARTS; i++) {
        if (strcmp(part_names[i], word) == 0) {
            return (rf_part)i;
        }
    }
    return RF_N_PARTS;
}
