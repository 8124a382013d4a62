/* ImageNet as Kaggle packs it: classes in the order of LOC_synset_mapping.txt; a training picture's
 * class is its folder, a validation picture's stands in LOC_val_solution.csv. */
#include "picture_list_impl.h"

#include <stdlib.h>
#include <string.h>

#define MAPPING "LOC_synset_mapping.txt"
#define VAL_LABELS "LOC_val_solution.csv"

enum { MAX_MAPPING = 1 << 24, MAX_SOLUTION = 1 << 30 };

bool rf_picture_list_is_kaggle(const char *root)
{
    char path[RF_PATH_LEN];
    return rf_path_join(path, root, MAPPING) == RF_OK && rf_file_exists(path);
}

/* "n01440764 tench, Tinca tinca" */
static rf_status add_class(rf_picture_list *list, const picture_rows *rows)
{
    rf_status status = RF_OK;
    const char *line = rows->fields[0];
    const size_t len = strcspn(line, " \t");
    const char *title = line + len + strspn(line + len, " \t");
    if (len == 0 || title[0] == '\0') {
        RF_FAIL(RF_ERR_FORMAT,
                "%s: line %" PRId64 ": expected a synset and its name, as "
                "'n01440764 tench, Tinca tinca'",
                rows->name, rows->line);
    }
    list->classes[list->n_classes] = rf_picture_list_text(list, line, (int64_t)len);
    list->titles[list->n_classes] = rf_picture_list_text(list, title, (int64_t)strlen(title));
    if (list->classes[list->n_classes] == NULL || list->titles[list->n_classes] == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    list->n_classes++;
fail:
    return status;
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static rf_status check_classes(const rf_picture_list *list, const char *path)
{
    rf_status status = RF_OK;
    const char **sorted = NULL;
    if (list->n_classes == 0) {
        RF_FAIL(RF_ERR_FORMAT, "%s: no class in it", path);
    }
    RF_ALLOC(sorted, list->n_classes);
    memcpy(sorted, list->classes, (size_t)list->n_classes * sizeof *sorted);
    qsort(sorted, (size_t)list->n_classes, sizeof *sorted, compare_texts);
    for (int64_t i = 1; i < list->n_classes; i++) {
        if (strcmp(sorted[i - 1], sorted[i]) == 0) {
            RF_FAIL(RF_ERR_FORMAT, "%s: class '%s' stands in it twice", path, sorted[i]);
        }
    }
fail:
    rf_free(sorted);
    return status;
}

static rf_status read_classes(rf_picture_list *list, const char *root)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN], *text = NULL;
    picture_rows rows = {0};
    int64_t n_bytes = 0, n_lines = 1;
    bool has = false;

    RF_TRY(rf_path_join(path, root, MAPPING));
    RF_TRY(rf_file_read(path, MAX_MAPPING, &text, &n_bytes));
    for (int64_t i = 0; i < n_bytes; i++) {
        n_lines += text[i] == '\n';
    }
    RF_ALLOC(list->classes, n_lines);
    RF_ALLOC(list->titles, n_lines);
    RF_TRY(rf_picture_rows_begin(&rows, text, n_bytes, '\n', path));
    RF_TRY(rf_picture_rows_next(&rows, &has));
    while (has) {
        RF_TRY(add_class(list, &rows));
        RF_TRY(rf_picture_rows_next(&rows, &has));
    }
    RF_TRY(check_classes(list, path));
fail:
    rf_picture_rows_end(&rows);
    rf_free(text);
    return status;
}

/* ---- labels of the validation pictures --------------------------------------------------------
 */

typedef struct solution {
    const char *id, *synset; /* belong to the list */
} solution;

static int compare_ids(const void *a, const void *b)
{
    return strcmp(((const solution *)a)->id, ((const solution *)b)->id);
}

/* "ILSVRC2012_val_00048981,n03995372 85 1 499 272" */
static rf_status read_solution(rf_picture_list *list, const picture_rows *rows, solution *out)
{
    rf_status status = RF_OK;
    if (rows->n_fields != 2) {
        RF_FAIL(RF_ERR_FORMAT,
                "%s: line %" PRId64 ": %" PRId64 " fields, expected ImageId and "
                "PredictionString",
                rows->name, rows->line, rows->n_fields);
    }
    const char *id = rows->fields[0], *answer = rows->fields[1];
    const size_t len = strcspn(answer, " ");
    if (id[0] == '\0' || len == 0) {
        RF_FAIL(RF_ERR_FORMAT, "%s: line %" PRId64 ": an empty field", rows->name, rows->line);
    }
    out->id = rf_picture_list_text(list, id, (int64_t)strlen(id));
    out->synset = rf_picture_list_text(list, answer, (int64_t)len);
    status = out->id != NULL && out->synset != NULL ? RF_OK : RF_ERR_NO_MEMORY;
fail:
    return status;
}

static rf_status read_solutions(rf_picture_list *list, const char *path, solution **out,
                                int64_t *n_out)
{
    rf_status status = RF_OK;
    char *text = NULL;
    picture_rows rows = {0};
    solution *solutions = NULL;
    int64_t n_bytes = 0, n = 0, cap = 0;
    bool has = false;

    RF_TRY(rf_file_read(path, MAX_SOLUTION, &text, &n_bytes));
    RF_TRY(rf_picture_rows_begin(&rows, text, n_bytes, ',', path));
    RF_TRY(rf_picture_rows_next(&rows, &has));
    if (!has || rows.n_fields != 2 || strcmp(rows.fields[0], "ImageId") != 0) {
        RF_FAIL(RF_ERR_FORMAT, "%s: line 1: expected the header ImageId,PredictionString", path);
    }
    RF_TRY(rf_picture_rows_next(&rows, &has));
    for (; has; n++) {
        if (n == cap) {
            const int64_t more = 2 * cap + 1024;
            solution *grown = rf_realloc(solutions, cap, more, sizeof *grown);
            if (grown == NULL) {
                status = RF_ERR_NO_MEMORY;
                goto fail;
            }
            solutions = grown;
            cap = more;
        }
        RF_TRY(read_solution(list, &rows, &solutions[n]));
        RF_TRY(rf_picture_rows_next(&rows, &has));
    }
    if (n > 1) {
        qsort(solutions, (size_t)n, sizeof *solutions, compare_ids);
    }
    *out = solutions;
    *n_out = n;
    solutions = NULL;
fail:
    rf_free(solutions);
    rf_picture_rows_end(&rows);
    rf_free(text);
    return status;
}

/* A picture's id is its file's name without the ending, in whichever folder it lies. */
static rf_status label_pictures(rf_picture_list *list, const char *root)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN], id[RF_PATH_LEN];
    solution *solutions = NULL;
    int64_t n = 0;

    RF_TRY(rf_path_join(path, root, VAL_LABELS));
    RF_TRY(read_solutions(list, path, &solutions, &n));
    for (int64_t i = 1; i < n; i++) {
        if (strcmp(solutions[i - 1].id, solutions[i].id) == 0) {
            RF_FAIL(RF_ERR_FORMAT, "%s: '%s' stands in it twice", path, solutions[i].id);
        }
    }
    for (int64_t i = 0; i < list->n; i++) {
        const char *name = list->entries[i].name, *slash = strrchr(name, '/');
        const char *file = slash != NULL ? slash + 1 : name;
        RF_TRY(rf_format(id, sizeof id, "%.*s", (int)(strrchr(file, '.') - file), file));
        const solution key = {.id = id};
        const solution *found =
            n > 0 ? bsearch(&key, solutions, (size_t)n, sizeof key, compare_ids) : NULL;
        if (found == NULL) {
            RF_FAIL(RF_ERR_FORMAT, "%s has no row for picture '%s'", path, name);
        }
        list->entries[i].label_is = found->synset;
    }
fail:
    rf_free(solutions);
    return status;
}

rf_status rf_picture_list_read_kaggle(rf_picture_list *list, const char *root, rf_picture_part part)
{
    rf_status status = RF_OK;
    const bool is_val = part == RF_PART_VAL;
    RF_TRY(rf_format(list->folder, sizeof list->folder, "%s/ILSVRC/Data/CLS-LOC/%s", root,
                     is_val ? "val" : "train"));
    RF_TRY(read_classes(list, root));
    if (!rf_file_is_dir(list->folder)) {
        RF_FAIL(RF_ERR_NOT_FOUND,
                "'%s' is not a folder; '%s' has a " MAPPING ", so that pictures are expected there",
                list->folder, root);
    }
    RF_TRY(rf_picture_list_walk(list));
    if (is_val) {
        RF_TRY(label_pictures(list, root));
    }
fail:
    return status;
}
