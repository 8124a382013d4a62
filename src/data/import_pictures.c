/* What a store says of imported activations: sites, rows, names and labels of pictures. */
#include "import_impl.h"

#include <math.h>
#include <string.h>

enum {
    DEFAULT_GROUP = 16,
    DEFAULT_GROUP_OF_ROWS = 4096,
    MAX_LABEL = (1 << 20) - 1,
    MAX_LIST = RF_STORE_MAX_SITES
};

/* ---- numbers of layers -------------------------------------------------------------------------
 */

static rf_status raise_list(const char *key, const char *text)
{
    return rf_error_raise(RF_ERR_SETTING, __FILE__, __LINE__,
                          "%s=%.200s: expected numbers from 0 on, as 3,6,9 or 0..11", key, text);
}

/* "3", or "0..11". */
static rf_status parse_range(const char *key, const char *all, char *word, int64_t *first,
                             int64_t *last)
{
    char *dots = strstr(word, "..");
    if (dots != NULL) {
        *dots = '\0';
    }
    if (rf_parse_i64(word, first) != RF_OK || *first < 0 || *first > INT32_MAX) {
        return raise_list(key, all);
    }
    *last = *first;
    if (dots != NULL && (rf_parse_i64(dots + 2, last) != RF_OK || *last < *first ||
                         *last - *first >= MAX_LIST || *last > INT32_MAX)) {
        return raise_list(key, all);
    }
    return RF_OK;
}

/* Numbers in the order they are written in; `out` [MAX_LIST]. */
static rf_status parse_list(const char *key, const char *text, int64_t *out, int64_t *n)
{
    rf_status status = RF_OK;
    char *copy = rf_strdup(text), *rest = copy;
    int64_t first = 0, last = 0;

    *n = 0;
    if (copy == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    for (char *word = strsep(&rest, ","); word != NULL; word = strsep(&rest, ",")) {
        word += strspn(word, " ");
        RF_TRY(parse_range(key, text, word, &first, &last));
        for (int64_t i = first; i <= last; i++) {
            if (*n == MAX_LIST) {
                RF_TRY(raise_list(key, text));
            }
            out[(*n)++] = i;
        }
    }
fail:
    rf_free(copy);
    return status;
}

/* The numbers of the layers in the files: theirs, those of `numbers`, or 0, 1, 2 ... */
static rf_status number_layers(const rf_import *imp, const rf_import_settings *settings,
                               int64_t *out)
{
    rf_status status = RF_OK;
    const int64_t n_layers = imp->layout.n_layers;
    int64_t n = 0;

    for (int64_t l = 0; l < n_layers; l++) {
        out[l] = imp->layer_numbers != NULL ? imp->layer_numbers[l] : l;
    }
    if (settings->numbers[0] == '\0') {
        return RF_OK;
    }
    if (imp->layer_numbers != NULL) {
        RF_FAIL(RF_ERR_SETTING, "numbers=%s: the files say themselves which layers they hold",
                settings->numbers);
    }
    RF_TRY(parse_list("numbers", settings->numbers, out, &n));
    if (n != n_layers) {
        RF_FAIL(RF_ERR_SETTING, "numbers=%s: %" PRId64 " layers, but the files hold %" PRId64,
                settings->numbers, n, n_layers);
    }
fail:
    return status;
}

/* Indices of the layers that are wanted. */
static rf_status choose_layers(const rf_import *imp, const rf_import_settings *settings,
                               const int64_t *numbers, int64_t *out, int64_t *n)
{
    rf_status status = RF_OK;
    const int64_t n_layers = imp->layout.n_layers;

    if (settings->layers[0] == '\0') {
        for (int64_t l = 0; l < n_layers; l++) {
            out[l] = l;
        }
        *n = n_layers;
        return RF_OK;
    }
    RF_TRY(parse_list("layers", settings->layers, out, n));
    for (int64_t i = 0; i < *n; i++) {
        int64_t l = 0;
        while (l < n_layers && numbers[l] != out[i]) {
            l++;
        }
        if (l == n_layers) {
            RF_FAIL(RF_ERR_SETTING, "layers=%s: the files do not hold layer %" PRId64,
                    settings->layers, out[i]);
        }
        out[i] = l;
    }
fail:
    return status;
}

/* ---- sites -------------------------------------------------------------------------------------
 */

static rf_status name_point(const char *pattern, int64_t number, char out[RF_NAME_LEN])
{
    const char *at = strstr(pattern, "{layer}");
    return at == NULL ? rf_format(out, RF_NAME_LEN, "%s", pattern)
                      : rf_format(out, RF_NAME_LEN, "%.*s%" PRId64 "%s", (int)(at - pattern),
                                  pattern, number, at + strlen("{layer}"));
}

static rf_status choose_pattern(const rf_import *imp, const rf_import_settings *settings,
                                const char **out)
{
    rf_status status = RF_OK;
    *out = settings->point[0] != '\0'   ? settings->point
           : imp->default_point != NULL ? imp->default_point
           : imp->layout.n_layers == 1  ? "activations"
                                        : "";
    if (imp->layout.n_layers > 1 && strstr(*out, "{layer}") == NULL) {
        RF_FAIL(RF_ERR_SETTING,
                "the files hold %" PRId64 " layers; say which hook points they are, as "
                "point=blocks.{layer}.hook_resid_post",
                imp->layout.n_layers);
    }
fail:
    return status;
}

static rf_status add_sites(const rf_import *imp, const rf_import_settings *settings,
                           rf_import_head *out)
{
    rf_status status = RF_OK;
    int64_t *numbers = NULL, n = 0;
    const char *pattern = NULL;

    RF_TRY(choose_pattern(imp, settings, &pattern));
    RF_ALLOC(numbers, rf_max_i64(MAX_LIST, imp->layout.n_layers));
    RF_ALLOC(out->layers, rf_max_i64(MAX_LIST, imp->layout.n_layers));
    RF_TRY(number_layers(imp, settings, numbers));
    RF_TRY(choose_layers(imp, settings, numbers, out->layers, &n));
    RF_ALLOC(out->sites, n);
    RF_ALLOC(out->points, n);
    for (int64_t s = 0; s < n; s++) {
        RF_TRY(name_point(pattern, numbers[out->layers[s]], out->points[s]));
        out->sites[s] = (rf_store_site){.model = "",
                                        .point = out->points[s],
                                        .n_rows = imp->picture_rows,
                                        .point_rows = imp->picture_rows,
                                        .width = imp->layout.width,
                                        .classes = out->classes,
                                        .positions = out->positions};
    }
    out->head.sites = out->sites;
    out->head.n_sites = n;
fail:
    rf_free(numbers);
    return status;
}

/* ---- rows --------------------------------------------------------------------------------------
 */

/* "14x14"; of nothing the square, where there is one. Zeros: not known. */
static rf_status read_grid(const char *text, int64_t n_patches, int64_t grid[2])
{
    rf_status status = RF_OK;
    char height[32];
    const char *cross = strchr(text, 'x');

    grid[0] = grid[1] = (int64_t)llround(sqrt((double)n_patches));
    if (strcmp(text, "none") == 0 || (text[0] == '\0' && n_patches == 1)) {
        grid[0] = grid[1] = 0;
        return RF_OK;
    }
    if (text[0] != '\0') {
        if (cross == NULL ||
            rf_format(height, sizeof height, "%.*s", (int)(cross - text), text) != RF_OK ||
            rf_parse_i64(height, &grid[0]) != RF_OK || rf_parse_i64(cross + 1, &grid[1]) != RF_OK ||
            grid[0] < 1 || grid[1] < 1 || grid[0] > INT32_MAX || grid[1] > INT32_MAX) {
            RF_FAIL(RF_ERR_SETTING,
                    "grid=%s: expected rows and columns of patches, as 14x14, or none", text);
        }
    }
    if (grid[0] * grid[1] != n_patches) {
        RF_FAIL(RF_ERR_SETTING,
                "%" PRId64 " patches a picture %s%s: say grid=HxW or grid=none, and with cls=first "
                "or registers=N which rows are no patches",
                n_patches, text[0] != '\0' ? "do not fill the grid " : "are no square", text);
    }
fail:
    return status;
}

static rf_status add_rows(const rf_import *imp, const rf_import_settings *settings,
                          rf_import_head *out)
{
    rf_status status = RF_OK;
    const int64_t n = imp->picture_rows;
    const int64_t n_cls =
        settings->cls == RF_CLS_AUTO ? rf_max_i64(0, imp->n_cls) : settings->cls == RF_CLS_FIRST;
    const int64_t n_prefix = n_cls + settings->registers;
    int64_t grid[2] = {0};

    if (n_prefix > n) {
        RF_FAIL(RF_ERR_SETTING,
                "%" PRId64 " CLS and register tokens, but a picture has %" PRId64 " rows", n_prefix,
                n);
    }
    if (n > n_prefix) {
        RF_TRY(read_grid(settings->grid, n - n_prefix, grid));
    }
    RF_ALLOC(out->classes, n);
    RF_ALLOC(out->positions, 3 * n);
    for (int64_t r = 0; r < n; r++) {
        const int64_t p = r - n_prefix;
        int32_t *position = out->positions + 3 * r;
        out->classes[r] = (uint8_t)(r < n_cls      ? RF_TOKENS_CLS
                                    : r < n_prefix ? RF_TOKENS_REGISTER
                                                   : RF_TOKENS_PATCH);
        position[0] = p < 0 || grid[1] == 0 ? -1 : 0;
        position[1] = p < 0 || grid[1] == 0 ? -1 : (int32_t)(p / grid[1]);
        position[2] = p < 0 || grid[1] == 0 ? -1 : (int32_t)(p % grid[1]);
    }
fail:
    return status;
}

/* ---- pictures ----------------------------------------------------------------------------------
 */

enum { NUMBER_BYTES = 24, NAME_DIGITS = 9 };

/* 0, 1, 2 ... in at least `width` digits. */
static rf_status number_names(int64_t n, int width, char **text, const char ***out)
{
    rf_status status = RF_OK;
    RF_ALLOC(*text, n * NUMBER_BYTES);
    RF_ALLOC(*out, n);
    for (int64_t i = 0; i < n; i++) {
        char *name = *text + i * NUMBER_BYTES;
        RF_TRY(rf_format(name, NUMBER_BYTES, "%0*" PRId64, width, i));
        (*out)[i] = name;
    }
fail:
    return status;
}

/* One a line. */
static rf_status read_names(const char *path, int64_t n, char **text, const char ***out)
{
    rf_status status = RF_OK;
    int64_t n_bytes = 0, n_lines = 0;

    RF_TRY(rf_file_read(path, INT32_MAX, text, &n_bytes));
    RF_ALLOC(*out, n);
    for (char *at = *text, *end = *text + n_bytes; at < end; n_lines++) {
        char *stop = memchr(at, '\n', (size_t)(end - at));
        char *next = stop != NULL ? stop + 1 : end;
        stop = stop != NULL ? stop : end;
        stop -= stop > at && stop[-1] == '\r';
        if (stop == at || stop - at >= RF_PATH_LEN || memchr(at, '\0', (size_t)(stop - at))) {
            RF_FAIL(RF_ERR_FORMAT, "'%s': line %" PRId64 " is no name", path, n_lines + 1);
        }
        *stop = '\0';
        if (n_lines < n) {
            (*out)[n_lines] = at;
        }
        at = next;
    }
    if (n_lines != n) {
        RF_FAIL(RF_ERR_SETTING, "'%s' has %" PRId64 " names, but there are %" PRId64 " pictures",
                path, n_lines, n);
    }
fail:
    return status;
}

static rf_status read_labels(const char *path, int64_t n, rf_import_head *out)
{
    rf_status status = RF_OK;
    float *values = NULL;
    int64_t shape[RF_FILE_MAX_DIMS] = {0}, most = -1;
    int n_dims = 0;

    RF_TRY(rf_npy_read_f32(path, RF_FILE_MAX_DIMS, &n_dims, shape, &values));
    if (n_dims != 1 || shape[0] != n) {
        RF_FAIL(RF_ERR_SETTING, "'%s' is no list of %" PRId64 " labels, one a picture", path, n);
    }
    for (int64_t i = 0; i < n; i++) {
        if (!(values[i] >= -1 && values[i] <= MAX_LABEL) || values[i] != floorf(values[i])) {
            RF_FAIL(RF_ERR_FORMAT,
                    "'%s': label %" PRId64 " is %g, expected a whole number from -1 to %d", path, i,
                    (double)values[i], (int)MAX_LABEL);
        }
        out->labels[i] = (int64_t)values[i];
        most = rf_max_i64(most, out->labels[i]);
    }
    RF_TRY(number_names(most + 1, 1, &out->class_text, &out->class_names));
    out->head.classes = out->class_names;
    out->head.n_classes = most + 1;
fail:
    rf_free(values);
    return status;
}

static rf_status add_pictures(const rf_import *imp, const rf_import_settings *settings,
                              rf_import_head *out)
{
    rf_status status = RF_OK;
    const int64_t n = imp->n_pictures;
    uint64_t hash = RF_HASH_START;

    RF_ALLOC(out->labels, n);
    memset(out->labels, 0xff, (size_t)n * sizeof *out->labels); /* -1: none */
    if (settings->labels[0] != '\0') {
        RF_TRY(read_labels(settings->labels, n, out));
    }
    if (settings->names[0] != '\0') {
        RF_TRY(read_names(settings->names, n, &out->name_text, &out->names));
    } else {
        RF_TRY(number_names(n, NAME_DIGITS, &out->name_text, &out->names));
    }
    for (int64_t i = 0; i < n; i++) { /* as rf_picture_list_hash */
        hash = rf_hash(hash, out->names[i], strlen(out->names[i]) + 1);
    }
    out->head.n_pictures = n;
    out->head.names = out->names;
    out->head.labels = out->labels;
    out->head.picture_hash = hash;
fail:
    return status;
}

/* ---- all of it ---------------------------------------------------------------------------------
 */

static rf_dtype dtype_of(const rf_import_settings *settings)
{
    static const rf_dtype types[] = {RF_F32, RF_F16, RF_BF16};
    return types[settings->dtype];
}

/* But for the store's own name: its bytes do not depend on where it is. */
static rf_status write_settings(const rf_import_settings *settings, const char *path, rf_str *out)
{
    rf_status status = RF_OK;
    rf_import_settings said = *settings;

    said.out[0] = '\0';
    RF_TRY(rf_str_append(out, "import:\n  path: "));
    RF_TRY(rf_json_append_str(out, path));
    RF_TRY(rf_str_append(out, "\n"));
    RF_TRY(rf_settings_write_yaml(&rf_import_settings_table, &said, 2, out));
fail:
    return status;
}

rf_status rf_import_describe(const rf_import *imp, const rf_import_settings *settings,
                             const char *path, rf_import_head *out)
{
    rf_status status = RF_OK;
    const int64_t group = imp->picture_rows > 1 ? DEFAULT_GROUP : DEFAULT_GROUP_OF_ROWS;

    *out = (rf_import_head){0};
    RF_TRY(write_settings(settings, path, &out->settings));
    RF_TRY(add_rows(imp, settings, out));
    RF_TRY(add_sites(imp, settings, out));
    RF_TRY(add_pictures(imp, settings, out));
    out->head.dtype = dtype_of(settings);
    out->head.group_pictures = settings->group_pictures > 0 ? settings->group_pictures : group;
    out->head.model_hash = imp->hash;
    out->head.model = imp->model[0] != '\0' ? imp->model : imp->kind;
    out->head.processing = "";
    out->head.settings = out->settings.data;
fail:
    return status;
}

void rf_import_head_fini(rf_import_head *head)
{
    rf_str_fini(&head->settings);
    rf_free(head->labels);
    rf_free(head->class_text);
    rf_free(head->name_text);
    rf_free(head->class_names);
    rf_free(head->names);
    rf_free(head->positions);
    rf_free(head->classes);
    rf_free(head->points);
    rf_free(head->sites);
    rf_free(head->layers);
}
