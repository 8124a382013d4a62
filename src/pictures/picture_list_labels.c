/* From what a source says of each picture to classes and their indices. */
#include "picture_list_impl.h"

#include <stdlib.h>
#include <string.h>

/* A class's name and its index; sorted by name. */
typedef struct named_class {
    const char *name;
    int64_t index;
} named_class;

static int compare_classes(const void *a, const void *b)
{
    return strcmp(((const named_class *)a)->name, ((const named_class *)b)->name);
}

/* Every name that an entry says, once. */
static rf_status find_names(const rf_picture_list *list, named_class **out, int64_t *n_out)
{
    rf_status status = RF_OK;
    named_class *names = NULL;
    int64_t n = 0, n_once = 0;
    const char *last = NULL;

    RF_ALLOC(names, list->n);
    for (int64_t i = 0; i < list->n; i++) {
        const char *name = list->entries[i].label_is;
        if (name != NULL && (last == NULL || strcmp(name, last) != 0)) {
            names[n++].name = name;
            last = name;
        }
    }
    if (n > 1) {
        qsort(names, (size_t)n, sizeof *names, compare_classes);
    }
    for (int64_t i = 0; i < n; i++) {
        if (n_once == 0 || strcmp(names[i].name, names[n_once - 1].name) != 0) {
            names[n_once++] = names[i];
        }
    }
    *out = names;
    *n_out = n_once;
    names = NULL;
fail:
    rf_free(names);
    return status;
}

/* Digits, and perhaps a minus before them. */
static bool is_number(const char *text)
{
    const char *digits = text + (text[0] == '-');
    return digits[0] != '\0' && digits[strspn(digits, "0123456789")] == '\0';
}

static const char *picture_of(const rf_picture_list *list, const char *label)
{
    for (int64_t i = 0; i < list->n; i++) {
        const char *name = list->entries[i].label_is;
        if (name != NULL && strcmp(name, label) == 0) {
            return list->entries[i].name;
        }
    }
    return "";
}

/* *all is false where a name is none: then numbers are names too. */
static rf_status read_numbers(const rf_picture_list *list, named_class *names, int64_t n, bool *all)
{
    rf_status status = RF_OK;
    *all = false;
    for (int64_t i = 0; i < n; i++) {
        if (!is_number(names[i].name)) {
            return RF_OK;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        if (rf_parse_i64(names[i].name, &names[i].index) != RF_OK || names[i].index < 0 ||
            names[i].index >= PICTURE_LIST_MAX_CLASSES) {
            RF_FAIL(RF_ERR_FORMAT,
                    "picture '%s': label %s, expected a number from 0 to %d, or names of classes",
                    picture_of(list, names[i].name), names[i].name,
                    (int)PICTURE_LIST_MAX_CLASSES - 1);
        }
    }
    *all = n > 0;
fail:
    return status;
}

/* Classes 0 .. the largest number. */
static rf_status make_numbered(rf_picture_list *list, const named_class *names, int64_t n)
{
    rf_status status = RF_OK;
    char digits[32];
    int64_t last = 0;
    for (int64_t i = 0; i < n; i++) {
        last = rf_max_i64(last, names[i].index);
    }
    RF_ALLOC(list->classes, last + 1);
    for (; list->n_classes <= last; list->n_classes++) {
        RF_TRY(rf_format(digits, sizeof digits, "%" PRId64, list->n_classes));
        list->classes[list->n_classes] =
            rf_picture_list_text(list, digits, (int64_t)strlen(digits));
        if (list->classes[list->n_classes] == NULL) {
            return RF_ERR_NO_MEMORY;
        }
    }
fail:
    return status;
}

static rf_status make_named(rf_picture_list *list, named_class *names, int64_t n)
{
    rf_status status = RF_OK;
    RF_ALLOC(list->classes, n);
    for (; list->n_classes < n; list->n_classes++) {
        list->classes[list->n_classes] = names[list->n_classes].name;
        names[list->n_classes].index = list->n_classes;
    }
fail:
    return status;
}

/* The classes that the source gave, by name. */
static rf_status sort_given(const rf_picture_list *list, named_class **out)
{
    rf_status status = RF_OK;
    named_class *names = NULL;
    RF_ALLOC(names, list->n_classes);
    for (int64_t i = 0; i < list->n_classes; i++) {
        names[i] = (named_class){.name = list->classes[i], .index = i};
    }
    qsort(names, (size_t)list->n_classes, sizeof *names, compare_classes);
fail:
    *out = names;
    return status;
}

static rf_status look_up(rf_picture_list *list, const named_class *names, int64_t n)
{
    rf_status status = RF_OK;
    const named_class *found = NULL;
    for (int64_t i = 0; i < list->n; i++) {
        picture_entry *e = &list->entries[i];
        if (e->label_is == NULL) {
            continue;
        }
        if (found == NULL || strcmp(found->name, e->label_is) != 0) {
            const named_class key = {.name = e->label_is};
            found = bsearch(&key, names, (size_t)n, sizeof *names, compare_classes);
        }
        if (found == NULL) {
            RF_FAIL(RF_ERR_FORMAT,
                    "picture '%s' is of class '%s', which is none of the %" PRId64
                    " classes of LOC_synset_mapping.txt",
                    e->name, e->label_is, n);
        }
        e->label = found->index;
    }
fail:
    return status;
}

rf_status rf_picture_list_set_labels(rf_picture_list *list)
{
    rf_status status = RF_OK;
    named_class *names = NULL;
    int64_t n = list->n_classes;
    bool all_numbers = false;

    if (n > 0) {
        RF_TRY(sort_given(list, &names));
    } else {
        RF_TRY(find_names(list, &names, &n));
        if (list->numbers) {
            RF_TRY(read_numbers(list, names, n, &all_numbers));
        }
        RF_TRY(all_numbers ? make_numbered(list, names, n) : make_named(list, names, n));
    }
    RF_TRY(look_up(list, names, n));
fail:
    rf_free(names);
    return status;
}
