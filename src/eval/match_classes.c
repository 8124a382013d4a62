/* Classes of pictures to those of a model's head or classifier. */
#include "refract/eval.h"

#include <string.h>

/* What the classes of a head or a classifier are called; NULL and "": not named. */
typedef struct head {
    int64_t n;
    const char **names;
} head;

static rf_status list_names(const rf_vit *vit, const rf_eval_classifier *classifier, head *out)
{
    rf_status status = RF_OK;
    const rf_zero_shot *z = classifier != NULL ? &classifier->classes : NULL;

    out->n = z != NULL ? z->n_classes : rf_vit_get_config(vit)->n_classes;
    RF_ALLOC(out->names, out->n);
    for (int64_t i = 0; i < out->n; i++) {
        if (z == NULL) {
            out->names[i] = rf_vit_class_name(vit, i);
        } else if (z->names != NULL) {
            out->names[i] = z->names[i];
        }
    }
fail:
    return status;
}

/* ---- names ------------------------------------------------------------------------------------
 */

static char fold(char c)
{
    return c == '_' ? ' ' : c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* The same words, of `n` bytes of `a`: folders have _ for a space, and publishers their own
 * capitals.
 */
static bool is_alike(const char *a, size_t n, const char *b)
{
    for (size_t i = 0; i < n; i++) {
        if (b[i] == '\0' || fold(a[i]) != fold(b[i])) {
            return false;
        }
    }
    return b[n] == '\0';
}

/* A title is a name, or several of the same class: "tench, Tinca tinca". */
static bool title_has(const char *title, const char *name)
{
    bool has = is_alike(title, strlen(title), name);
    while (title[0] != '\0' && !has) {
        const size_t n = strcspn(title, ",");
        has = is_alike(title, n, name);
        title += n + (title[n] != '\0' ? 1 : 0);
        title += strspn(title, " ");
    }
    return has;
}

static bool is_synset(const char *name)
{
    return name != NULL && name[0] == 'n' && strlen(name) == 9 &&
           strspn(name + 1, "0123456789") == 8;
}

/* ---- ways to match ----------------------------------------------------------------------------
 */

/* The one class named `label`, by the letter or else alike; -1: none, or several. */
static int64_t find_label(const head *h, const char *label)
{
    int64_t exact = -1, alike = -1, n_exact = 0, n_alike = 0;
    const size_t n = strlen(label);
    for (int64_t c = 0; c < h->n; c++) {
        if (h->names[c] != NULL && is_alike(label, n, h->names[c])) {
            alike = c;
            n_alike++;
            if (strcmp(h->names[c], label) == 0) {
                exact = c;
                n_exact++;
            }
        }
    }
    return n_exact == 1 ? exact : n_exact == 0 && n_alike == 1 ? alike : -1;
}

/* `label` as a number of 0 .. n - 1 in digits alone, or -1. */
static int64_t read_number(const head *h, const char *label)
{
    int64_t number = -1;
    if (strspn(label, "0123456789") != strlen(label) || rf_parse_i64(label, &number) != RF_OK) {
        return -1;
    }
    return number < h->n ? number : -1;
}

/* The first class of `list` that has no place in `classes`, or NULL. */
static const char *fill(const head *h, const rf_picture_list *list,
                        int64_t (*find)(const head *h, const char *label), int64_t *classes)
{
    for (int64_t i = 0; i < rf_picture_list_n_classes(list); i++) {
        const char *label = rf_picture_list_class(list, i);
        classes[i] = find(h, label);
        if (classes[i] < 0) {
            return label;
        }
    }
    return NULL;
}

/* Whether the head's classes are those of `list` in its order: as many, and named alike at their
 * places but for some, since publishers spell a few in their own way; or not named at all
 * (transformers writes LABEL_0, LABEL_1, ...). Names alone would not do: ImageNet has two cranes.
 */
static bool has_same_titles(const head *h, const rf_picture_list *list)
{
    int64_t n_named = 0, n_alike = 0;
    if (rf_picture_list_n_classes(list) != h->n || rf_picture_list_class_title(list, 0) == NULL) {
        return false;
    }
    for (int64_t i = 0; i < h->n; i++) {
        const char *name = h->names[i];
        if (name != NULL && name[0] != '\0' && strncmp(name, "LABEL_", 6) != 0) {
            n_named++;
            n_alike += title_has(rf_picture_list_class_title(list, i), name) ||
                       strcmp(name, rf_picture_list_class(list, i)) == 0;
        }
    }
    return 2 * n_alike >= n_named;
}

/* Folders of synsets: ImageNet's classes are numbered in that order, and so is what was trained on
 * sorted folders. Titles would say whether that holds; here nothing does, so it is told. */
static bool has_same_synsets(const head *h, const rf_picture_list *list)
{
    bool is = rf_picture_list_n_classes(list) == h->n && h->n > 1;
    for (int64_t i = 0; i < h->n && is; i++) {
        const char *label = rf_picture_list_class(list, i);
        is = is_synset(label) && !is_synset(h->names[i]) &&
             rf_picture_list_class_title(list, i) == NULL &&
             (i == 0 || strcmp(rf_picture_list_class(list, i - 1), label) < 0);
    }
    return is;
}

static void fill_in_order(const head *h, int64_t *classes)
{
    for (int64_t i = 0; i < h->n; i++) {
        classes[i] = i;
    }
}

/* How every class of `list` found its place; NULL, with one that did not in `unknown`. */
static const char *match(const head *h, const rf_picture_list *list, int64_t *classes,
                         const char **unknown)
{
    if (has_same_titles(h, list)) {
        fill_in_order(h, classes);
        return "in order: the pictures' titles agree";
    }
    *unknown = fill(h, list, find_label, classes);
    if (*unknown == NULL) {
        return "by name";
    }
    if (fill(h, list, read_number, classes) == NULL) {
        return "by number";
    }
    if (has_same_synsets(h, list)) {
        fill_in_order(h, classes);
        return "in order: the pictures' classes are synsets, sorted, and as many; the names say "
               "nothing against it";
    }
    return NULL;
}

rf_status rf_eval_match_classes(const rf_vit *vit, const rf_eval_classifier *classifier,
                                const rf_picture_list *list, int64_t **classes, const char **how,
                                rf_str *reason)
{
    rf_status status = RF_OK;
    const int64_t n_list = rf_picture_list_n_classes(list);
    const char *unknown = NULL;
    int64_t *found = NULL;
    head h = {0};

    *classes = NULL;
    *how = NULL;
    RF_TRY(list_names(vit, classifier, &h));
    if (h.n == 0 || n_list == 0) {
        RF_TRY(rf_str_append(reason, "%s",
                             h.n == 0 ? "the model has no classification head (classifier=FILE "
                                        "names a zero-shot one)"
                                      : "the pictures have no classes"));
        goto fail;
    }
    RF_ALLOC(found, rf_max_i64(n_list, h.n));
    *how = match(&h, list, found, &unknown);
    if (*how == NULL) {
        const bool has_titles = rf_picture_list_class_title(list, 0) != NULL;
        RF_TRY(rf_str_append(
            reason,
            "class '%s' of the pictures is neither the name of just one class of %s nor, with all "
            "others, a number from 0 to %" PRId64 "%s",
            unknown, classifier != NULL ? "the classifier" : "the model's id2label", h.n - 1,
            has_titles ? "; nor are there as many classes, most of whose names stand in the "
                         "pictures' titles in the same order"
                       : ""));
        goto fail;
    }
    *classes = found;
    found = NULL;
fail:
    rf_free(found);
    rf_free(h.names);
    return status;
}
