/* Classes of pictures to those of a model's head. */
#include "refract/eval.h"

#include <string.h>

/* The model's class named `label`, or -1. */
static int64_t find_label(const rf_vit *vit, int64_t n_classes, const char *label)
{
    for (int64_t c = 0; c < n_classes; c++) {
        const char *name = rf_vit_class_name(vit, c);
        if (name != NULL && strcmp(name, label) == 0) {
            return c;
        }
    }
    return -1;
}

/* `label` as a number of 0 .. n_classes - 1 in digits alone, or -1. */
static int64_t read_number(int64_t n_classes, const char *label)
{
    int64_t number = -1;
    if (strspn(label, "0123456789") != strlen(label) || rf_parse_i64(label, &number) != RF_OK) {
        return -1;
    }
    return number < n_classes ? number : -1;
}

/* The first class of `list` that has no place in `classes`, or NULL. */
static const char *fill(const rf_vit *vit, const rf_picture_list *list, bool by_number,
                        int64_t *classes)
{
    const int64_t n_model = rf_vit_get_config(vit)->n_classes;
    for (int64_t i = 0; i < rf_picture_list_n_classes(list); i++) {
        const char *label = rf_picture_list_class(list, i);
        classes[i] = by_number ? read_number(n_model, label) : find_label(vit, n_model, label);
        if (classes[i] < 0) {
            return label;
        }
    }
    return NULL;
}

/* Whether the model's classes are those of `list` in its order: as many, and named alike at their
 * places but for some, since publishers spell a few in their own way; or not named at all
 * (transformers writes LABEL_0, LABEL_1, ...). Names alone would not do: ImageNet has two cranes.
 */
static bool has_same_order(const rf_vit *vit, const rf_picture_list *list)
{
    const int64_t n = rf_picture_list_n_classes(list);
    int64_t n_named = 0, n_alike = 0;
    if (n == 0 || rf_vit_get_config(vit)->n_classes != n ||
        rf_picture_list_class_title(list, 0) == NULL) {
        return false;
    }
    for (int64_t i = 0; i < n; i++) {
        const char *name = rf_vit_class_name(vit, i), *title = rf_picture_list_class_title(list, i);
        if (name != NULL && strncmp(name, "LABEL_", 6) != 0) {
            n_named++;
            n_alike +=
                strcmp(name, title) == 0 || strcmp(name, rf_picture_list_class(list, i)) == 0;
        }
    }
    return 2 * n_alike >= n_named;
}

rf_status rf_eval_match_classes(const rf_vit *vit, const rf_picture_list *list, int64_t **classes,
                                rf_str *reason)
{
    rf_status status = RF_OK;
    const int64_t n_model = rf_vit_get_config(vit)->n_classes;
    const int64_t n_list = rf_picture_list_n_classes(list);
    int64_t *found = NULL;

    *classes = NULL;
    if (n_model == 0 || n_list == 0) {
        return rf_str_append(reason, "%s",
                             n_model == 0 ? "the model has no classification head"
                                          : "the pictures have no classes");
    }
    RF_ALLOC(found, n_list);
    const char *unknown = NULL;
    if (has_same_order(vit, list)) {
        for (int64_t i = 0; i < n_list; i++) {
            found[i] = i;
        }
    } else {
        unknown = fill(vit, list, false, found);
    }
    if (unknown != NULL && fill(vit, list, true, found) != NULL) {
        RF_TRY(rf_str_append(
            reason,
            "class '%s' of the pictures is neither a label of the model's id2label nor, "
            "with all others, a number from 0 to %" PRId64,
            unknown, n_model - 1));
        goto fail;
    }
    *classes = found;
    found = NULL;
fail:
    rf_free(found);
    return status;
}
