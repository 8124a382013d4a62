/* Files of activations that other tools wrote: which there are, how the values lie in them, and
 * reading some of them. */
#include "import_impl.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLE_BYTES = 4096 };

/* ---- one file ----------------------------------------------------------------------------------
 */

static bool is_float(rf_file_dtype dtype)
{
    return dtype == RF_FILE_F64 || dtype == RF_FILE_F32 || dtype == RF_FILE_F16 ||
           dtype == RF_FILE_BF16;
}

static bool has_ending(const char *name)
{
    static const char *const endings[] = {".npy", ".safetensors", ".pt", ".pth"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot != NULL && i < sizeof endings / sizeof endings[0]; i++) {
        if (strcmp(dot, endings[i]) == 0) {
            return true;
        }
    }
    return false;
}

enum { MAGIC = 16 };

/* How the file begins; zeros behind its end. */
static rf_status read_magic(const rf_raw_file *f, unsigned char out[MAGIC])
{
    rf_status status = RF_OK;
    int64_t n_bytes = 0;
    memset(out, 0, MAGIC);
    RF_TRY(rf_raw_file_size(f, &n_bytes));
    RF_TRY(rf_raw_file_read(f, 0, out, rf_min_i64(n_bytes, MAGIC)));
fail:
    return status;
}

static bool is_npy(const unsigned char magic[MAGIC])
{
    return memcmp(magic, "\x93NUMPY", 6) == 0;
}

bool rf_import_is_source(const char *path)
{
    rf_raw_file *file = NULL;
    unsigned char magic[MAGIC];
    if (rf_file_is_dir(path) || has_ending(path)) {
        return true;
    }
    const bool is_read =
        rf_raw_file_open(path, false, &file) == RF_OK && read_magic(file, magic) == RF_OK;
    rf_raw_file_close(file);
    return is_read &&
           (is_npy(magic) || memcmp(magic, "PK\3\4", 4) == 0 || (magic[7] == 0 && magic[8] == '{'));
}

/* The tensor of that name, or the only one that activations can be. */
static rf_status choose_tensor(const rf_tensor_file *f, const char *path, const char *name,
                               const rf_named_tensor **out)
{
    rf_status status = RF_OK;
    rf_str found = {0};
    int64_t n = 0;

    *out = name[0] != '\0' ? rf_tensor_file_find(f, name) : NULL;
    for (int64_t i = 0; i < rf_tensor_file_count(f) && name[0] == '\0'; i++) {
        const rf_named_tensor *t = rf_tensor_file_at(f, i);
        if (is_float(t->dtype) && t->n_dims >= 2 && t->n_dims <= 4) {
            *out = t;
            if (n++ < 8) {
                RF_TRY(rf_str_append(&found, "%s%.80s", n > 1 ? ", " : "", t->name));
            }
        }
    }
    if (*out == NULL && name[0] != '\0') {
        RF_FAIL(RF_ERR_SETTING, "'%s' has no tensor '%s'", path, name);
    }
    if (*out == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' has no tensor of floats with 2 to 4 dimensions", path);
    }
    if (n > 1) {
        RF_FAIL(RF_ERR_SETTING, "'%s' has %" PRId64 " tensors; tensor= chooses one of %s", path, n,
                found.data);
    }
fail:
    rf_str_fini(&found);
    return status;
}

static void array_close(rf_import_array *array)
{
    rf_tensor_file_close(array->tensors);
    rf_raw_file_close(array->file);
    *array = (rf_import_array){0};
}

/* The tensor and where it lies; what is parsed for that is mapped until then. */
static rf_status find_tensor(const char *path, const char *name, rf_import_array *out)
{
    rf_status status = RF_OK;
    const rf_named_tensor *t = NULL;

    RF_TRY(rf_tensor_file_open(path, &out->tensors));
    RF_TRY(choose_tensor(out->tensors, path, name, &t));
    out->t = *t;
    if (rf_tensor_file_place(out->tensors, t, &out->offset)) {
        rf_tensor_file_close(out->tensors);
        out->tensors = NULL;
        out->t.bytes = NULL;
        out->t.name = "values";
    }
fail:
    return status;
}

static rf_status array_open(const char *path, const char *tensor, rf_import_array *out)
{
    rf_status status = RF_OK;
    unsigned char magic[MAGIC];

    *out = (rf_import_array){0};
    RF_TRY(rf_raw_file_open(path, false, &out->file));
    RF_TRY(read_magic(out->file, magic));
    out->is_npy = is_npy(magic);
    if (out->is_npy) {
        RF_TRY(rf_npy_describe(out->file, path, &out->t, &out->offset));
    } else {
        out->is_torch = magic[8] != '{';
        RF_TRY(find_tensor(path, tensor, out));
    }
    if (!is_float(out->t.dtype)) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "'%s': its elements are no floats; activations are", path);
    }
    if (out->t.n_dims < 2 || out->t.n_dims > 4) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': its array has %d dimensions, expected 2 to 4", path,
                out->t.n_dims);
    }
    if (out->t.n_elems == 0) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': its array is empty", path);
    }
fail:
    if (status != RF_OK) {
        array_close(out);
    }
    return status;
}

/* Bytes from byte `at` of the values on, into `out`. */
static rf_status array_read(const rf_import_array *array, int64_t at, void *out, int64_t n_bytes)
{
    if (array->tensors != NULL) {
        memcpy(out, array->t.bytes + at, (size_t)n_bytes);
        return RF_OK;
    }
    return rf_raw_file_read(array->file, array->offset + at, out, n_bytes);
}

/* How the values lie in `t`, and its tokens. */
static rf_import_layout layout_of(const rf_named_tensor *t, bool has_layers, int64_t *n_tokens)
{
    rf_import_layout out = {.dtype = t->dtype, .width = t->shape[t->n_dims - 1]};
    const bool is_whole = t->n_dims == 4;
    out.n_layers = is_whole || (t->n_dims == 3 && has_layers) ? t->shape[1] : 1;
    out.item_rows = is_whole ? t->shape[2] : t->n_dims == 3 && !has_layers ? t->shape[1] : 1;
    out.layer_stride = out.item_rows * out.width;
    out.item_stride = out.n_layers * out.layer_stride;
    *n_tokens = t->shape[0] * out.item_rows;
    return out;
}

static bool is_same_layout(const rf_import_layout *a, const rf_import_layout *b)
{
    return a->dtype == b->dtype && a->n_layers == b->n_layers && a->width == b->width &&
           a->item_rows == b->item_rows;
}

/* ---- which files -------------------------------------------------------------------------------
 */

rf_status rf_import_add_file(rf_import *imp, const char *path, int64_t n_tokens)
{
    rf_status status = RF_OK;
    if (imp->n_files == imp->files_cap) {
        const int64_t cap = rf_max_i64(16, 2 * imp->files_cap);
        rf_import_file *more = rf_realloc(imp->files, imp->files_cap, cap, sizeof *more);
        if (more == NULL) {
            return RF_ERR_NO_MEMORY;
        }
        imp->files = more;
        imp->files_cap = cap;
    }
    char *copy = rf_strdup(path);
    if (copy == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    imp->files[imp->n_files++] = (rf_import_file){.path = copy, .n_tokens = n_tokens};
    return status;
}

/* Names in the order that people count in: 2.pt comes before 10.pt. */
static int compare_names(const void *x, const void *y)
{
    const char *a = *(const char *const *)x, *b = *(const char *const *)y;
    while (*a != '\0' && *b != '\0') {
        if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
            a += strspn(a, "0");
            b += strspn(b, "0");
            const size_t n_a = strspn(a, "0123456789"), n_b = strspn(b, "0123456789");
            const int order = n_a != n_b ? (n_a < n_b ? -1 : 1) : strncmp(a, b, n_a);
            if (order != 0) {
                return order;
            }
            a += n_a;
            b += n_b;
        } else if (*a != *b) {
            return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
        } else {
            a++;
            b++;
        }
    }
    const int order = (*a != '\0') - (*b != '\0'); /* then 1.pt and 01.pt must not be equal */
    return order != 0 ? order : strcmp(*(const char *const *)x, *(const char *const *)y);
}

static rf_status list_folder(rf_import *imp, const char *folder)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    char **names = NULL;
    int64_t n = 0;

    RF_TRY(rf_file_list(folder, &names, &n));
    if (n > 1) { /* NULL where there is none */
        qsort(names, (size_t)n, sizeof *names, compare_names);
    }
    for (int64_t i = 0; i < n; i++) {
        if (names[i][0] != '.' && has_ending(names[i])) {
            RF_TRY(rf_path_join(path, folder, names[i]));
            RF_TRY(rf_import_add_file(imp, path, 0));
        }
    }
    if (imp->n_files == 0) {
        RF_FAIL(RF_ERR_NOT_FOUND,
                "'%s' has no .npy, .safetensors, .pt or .pth file, nor the metadata.json of saev's "
                "shards",
                folder);
    }
fail:
    rf_file_list_free(names, n);
    return status;
}

/* ---- looking at all of them --------------------------------------------------------------------
 */

static void hash_i64(rf_import *imp, int64_t value)
{
    imp->hash = rf_hash(imp->hash, &value, sizeof value);
}

/* What tells a file from another one that is shaped like it: its name, and how its values begin and
 * end. */
static rf_status hash_file(rf_import *imp, const rf_import_file *file)
{
    rf_status status = RF_OK;
    const rf_import_array *array = &imp->array;
    const char *slash = strrchr(file->path, '/'), *name = slash != NULL ? slash + 1 : file->path;
    const int64_t n = rf_min_i64(array->t.n_bytes, SAMPLE_BYTES);
    unsigned char sample[SAMPLE_BYTES];

    imp->hash = rf_hash(imp->hash, name, strlen(name) + 1);
    hash_i64(imp, file->n_tokens);
    RF_TRY(array_read(array, 0, sample, n));
    imp->hash = rf_hash(imp->hash, sample, (size_t)n);
    RF_TRY(array_read(array, array->t.n_bytes - n, sample, n));
    imp->hash = rf_hash(imp->hash, sample, (size_t)n);
fail:
    return status;
}

/* Raw values of a file whose size its folder tells. */
static rf_status raw_open(const rf_import *imp, const rf_import_file *file, rf_import_array *out)
{
    rf_status status = RF_OK;
    const rf_import_layout *l = &imp->layout;
    rf_named_tensor t = {.name = "values", .dtype = l->dtype};
    int64_t n_bytes = 0;

    *out = (rf_import_array){0};
    RF_TRY(rf_mul_i64(file->n_tokens / l->item_rows, l->item_stride, file->path, &t.n_elems));
    RF_TRY(rf_mul_i64(t.n_elems, (int64_t)sizeof(float), file->path, &t.n_bytes));
    RF_TRY(rf_raw_file_open(file->path, false, &out->file));
    RF_TRY(rf_raw_file_size(out->file, &n_bytes));
    if (n_bytes < t.n_bytes) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s' has %" PRId64 " bytes, expected %" PRId64 " or more for %" PRId64
                " pictures: it was cut short",
                file->path, n_bytes, t.n_bytes, file->n_tokens / l->item_rows);
    }
    out->t = t;
fail:
    if (status != RF_OK) {
        array_close(out);
    }
    return status;
}

static bool is_raw(const rf_import *imp)
{
    return strcmp(imp->kind, "saev") == 0;
}

/* The layout of the array that is open: of the first file it is taken, another must have it too. */
static rf_status check_layout(rf_import *imp, int64_t idx)
{
    rf_status status = RF_OK;
    rf_import_file *file = &imp->files[idx];
    int64_t n_tokens = 0;
    const rf_import_layout found = layout_of(&imp->array.t, imp->has_layers, &n_tokens);

    if (idx == 0 && file->n_tokens == 0) {
        imp->layout = found;
    }
    if (!is_same_layout(&found, &imp->layout) ||
        (file->n_tokens != 0 && file->n_tokens != n_tokens)) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s': its array differs from that of '%s' in type, or in shape behind the first "
                "axis, or is no longer what it was",
                file->path, imp->files[0].path);
    }
    file->n_tokens = n_tokens;
fail:
    return status;
}

static rf_status open_file(rf_import *imp, int64_t idx)
{
    rf_status status = RF_OK;
    const rf_import_file *file = &imp->files[idx];

    array_close(&imp->array);
    imp->at = -1;
    if (is_raw(imp)) {
        RF_TRY(raw_open(imp, file, &imp->array));
    } else {
        RF_TRY(array_open(file->path, imp->tensor, &imp->array));
        if (idx == 0 && imp->middle == RF_MIDDLE_AUTO) {
            imp->has_layers = imp->array.is_torch;
        }
        RF_TRY(check_layout(imp, idx));
    }
    imp->at = idx;
fail:
    return status;
}

/* Tokens of all files make whole pictures. */
static rf_status count_pictures(rf_import *imp, const rf_import_settings *settings)
{
    rf_status status = RF_OK;
    int64_t n = 0;
    for (int64_t i = 0; i < imp->n_files; i++) {
        if (__builtin_add_overflow(n, imp->files[i].n_tokens, &n)) {
            RF_FAIL(RF_ERR_FORMAT, "'%s': the number of tokens overflows", imp->files[i].path);
        }
    }
    imp->picture_rows = imp->layout.item_rows;
    if (settings->rows > 0 && imp->layout.item_rows > 1 &&
        settings->rows != imp->layout.item_rows) {
        RF_FAIL(RF_ERR_SETTING, "rows=%" PRId64 ", but '%s' has %" PRId64 " rows a picture",
                settings->rows, imp->files[0].path, imp->layout.item_rows);
    }
    if (settings->rows > 0) {
        imp->picture_rows = settings->rows;
    }
    if (n % imp->picture_rows != 0) {
        RF_FAIL(RF_ERR_SETTING,
                "rows=%" PRId64 ", but '%s' has %" PRId64 " tokens, which are not whole pictures",
                settings->rows, imp->files[0].path, n);
    }
    imp->n_pictures = n / imp->picture_rows;
fail:
    return status;
}

static rf_status look_at_all(rf_import *imp, const rf_import_settings *settings)
{
    rf_status status = RF_OK;
    imp->hash = rf_hash(RF_HASH_START, imp->kind, strlen(imp->kind));
    for (int64_t i = 0; i < imp->n_files; i++) {
        RF_TRY(open_file(imp, i));
        RF_TRY(hash_file(imp, &imp->files[i]));
    }
    if (!is_raw(imp)) {
        imp->kind = imp->array.is_npy ? "npy" : "tensors";
    }
    hash_i64(imp, (int64_t)imp->layout.dtype);
    hash_i64(imp, imp->layout.n_layers);
    hash_i64(imp, imp->layout.item_rows);
    hash_i64(imp, imp->layout.width);
    RF_TRY(count_pictures(imp, settings));
fail:
    return status;
}

rf_status rf_import_open(const char *path, const rf_import_settings *settings, rf_import *out)
{
    rf_status status = RF_OK;
    char metadata[RF_PATH_LEN];

    *out = (rf_import){.kind = "tensors",
                       .middle = settings->middle,
                       .has_layers = settings->middle == RF_MIDDLE_LAYERS,
                       .n_cls = -1,
                       .at = -1};
    RF_TRY(rf_format(out->tensor, sizeof out->tensor, "%s", settings->tensor));
    RF_TRY(rf_path_join(metadata, path, "metadata.json"));
    if (rf_file_exists(metadata)) {
        RF_TRY(rf_import_open_saev(path, out));
    } else if (rf_file_is_dir(path)) {
        RF_TRY(list_folder(out, path));
    } else {
        RF_TRY(rf_import_add_file(out, path, 0));
    }
    RF_TRY(look_at_all(out, settings));
fail:
    return status;
}

void rf_import_close(rf_import *imp)
{
    array_close(&imp->array);
    for (int64_t i = 0; i < imp->n_files; i++) {
        rf_free(imp->files[i].path);
    }
    rf_free(imp->run);
    rf_free(imp->files);
    rf_free(imp->layer_numbers);
    *imp = (rf_import){0};
}

/* ---- reading -----------------------------------------------------------------------------------
 */

/* Tokens of the open file that lie side by side from `token` on. */
static int64_t run_length(const rf_import *imp, int64_t token, int64_t n)
{
    const rf_import_layout *l = &imp->layout;
    const int64_t n_left = rf_min_i64(n, imp->files[imp->at].n_tokens - token);
    return l->n_layers == 1 ? n_left : rf_min_i64(n_left, l->item_rows - token % l->item_rows);
}

static rf_status reserve_run(rf_import *imp, int64_t n_bytes)
{
    rf_status status = RF_OK;
    if (n_bytes > imp->run_bytes) {
        rf_free(imp->run);
        imp->run = NULL;
        imp->run_bytes = 0;
        RF_ALLOC(imp->run, n_bytes);
        imp->run_bytes = n_bytes;
    }
fail:
    return status;
}

static rf_status read_run(rf_import *imp, int64_t layer, int64_t token, int64_t n, float *out)
{
    rf_status status = RF_OK;
    const rf_import_layout *l = &imp->layout;
    const rf_named_tensor *all = &imp->array.t;
    const int64_t elem_bytes = all->n_bytes / all->n_elems;
    const int64_t at = token / l->item_rows * l->item_stride + token % l->item_rows * l->width +
                       layer * l->layer_stride;
    rf_named_tensor part = {.name = all->name,
                            .dtype = l->dtype,
                            .n_dims = 1,
                            .shape = {n * l->width},
                            .n_elems = n * l->width,
                            .n_bytes = n * l->width * elem_bytes};
    RF_TRY(reserve_run(imp, part.n_bytes));
    RF_TRY(array_read(&imp->array, at * elem_bytes, imp->run, part.n_bytes));
    part.bytes = imp->run;
    RF_TRY(rf_named_tensor_read_f32(&part, out));
fail:
    return status;
}

rf_status rf_import_read(rf_import *imp, int64_t layer, int64_t first, int64_t n, float *out)
{
    rf_status status = RF_OK;
    int64_t idx = 0;

    while (first >= imp->files[idx].n_tokens) {
        first -= imp->files[idx++].n_tokens;
    }
    while (n > 0) {
        if (imp->at != idx) {
            RF_TRY(open_file(imp, idx));
        }
        const int64_t n_run = run_length(imp, first, n);
        RF_TRY(read_run(imp, layer, first, n_run, out));
        out += n_run * imp->layout.width;
        n -= n_run;
        first += n_run;
        if (first == imp->files[idx].n_tokens) {
            first = 0;
            idx++;
        }
    }
fail:
    return status;
}
