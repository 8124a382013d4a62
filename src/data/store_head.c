/* What a store says of itself: written once, read with suspicion. */
#include "store_impl.h"

#include <string.h>

enum { MAX_GROUP_PICTURES = 65536, GROUP_NAME = 2 * RF_NAME_LEN + 32 };

static const char *const dtype_names[] = {[RF_F32] = "fp32", [RF_F16] = "fp16", [RF_BF16] = "bf16"};
static const rf_h5_type dtype_types[] = {
    [RF_F32] = RF_H5_F32, [RF_F16] = RF_H5_F16, [RF_BF16] = RF_H5_BF16};

/* A model without a name, in lists of names of one length. */
static const char *const no_name = "-";

/* activations/MODEL:POINT/what */
static rf_status site_dataset(const rf_store_site *site, const char *what, char out[GROUP_NAME])
{
    return rf_format(out, GROUP_NAME, "activations/%s%s%s/%s", site->model,
                     site->model[0] != '\0' ? ":" : "", site->point, what);
}

/* ---- checks ------------------------------------------------------------------------------------
 */

static rf_status check_name(const char *what, const char *name, bool may_be_empty)
{
    rf_status status = RF_OK;
    const size_t n = strlen(name);
    if (n >= RF_NAME_LEN || (n == 0 && !may_be_empty) || strchr(name, '/') != NULL ||
        strchr(name, ':') != NULL || name[0] == '.') {
        RF_FAIL(RF_ERR_FORMAT, "'%.200s' is no name of a %s", name, what);
    }
fail:
    return status;
}

static rf_status check_rows(const rf_store_site *site)
{
    rf_status status = RF_OK;
    if (site->n_rows < 1 || site->width < 1 || site->first_row < 0 ||
        site->point_rows < site->n_rows || site->first_row > site->point_rows - site->n_rows) {
        RF_FAIL(RF_ERR_FORMAT,
                "site '%s' holds %" PRId64 " rows from row %" PRId64 " on, of %" PRId64
                ", each of %" PRId64 " numbers: that cannot be",
                site->point, site->n_rows, site->first_row, site->point_rows, site->width);
    }
    for (int64_t r = 0; r < site->n_rows; r++) {
        if (site->classes[r] < RF_TOKENS_CLS || site->classes[r] > RF_TOKENS_POOLED) {
            RF_FAIL(RF_ERR_FORMAT, "site '%s': the class of row %" PRId64 " is %d, expected 1 to 4",
                    site->point, r, site->classes[r]);
        }
        for (int i = 0; i < 3; i++) {
            if (site->positions[3 * r + i] < -1) {
                RF_FAIL(RF_ERR_FORMAT, "site '%s': the position of row %" PRId64 " is %d",
                        site->point, r, site->positions[3 * r + i]);
            }
        }
    }
fail:
    return status;
}

/* A block fits into memory and all of them into a file. */
static rf_status check_size(const rf_store_head *head, const rf_store_site *site)
{
    rf_status status = RF_OK;
    int64_t n = 0, all = 0;
    RF_TRY(rf_mul_i64(site->n_rows, site->width, site->point, &n));
    RF_TRY(rf_mul_i64(n, (int64_t)rf_dtype_bytes(head->dtype), site->point, &n));
    RF_TRY(rf_mul_i64(n, head->n_pictures, site->point, &all));
    RF_TRY(rf_mul_i64(n, head->group_pictures, site->point, &n));
    if (n > INT32_MAX) {
        RF_FAIL(RF_ERR_SETTING,
                "a group of '%s' has %" PRId64
                " bytes, expected at most 2 GiB; activations.group_pictures is too large",
                site->point, n);
    }
fail:
    return status;
}

static rf_status check_sites(const rf_store_head *head)
{
    rf_status status = RF_OK;
    if (head->n_sites < 1 || head->n_sites > RF_STORE_MAX_SITES) {
        RF_FAIL(RF_ERR_FORMAT, "a store of %" PRId64 " hook points, expected 1 to %d",
                head->n_sites, (int)RF_STORE_MAX_SITES);
    }
    for (int64_t s = 0; s < head->n_sites; s++) {
        const rf_store_site *site = &head->sites[s];
        RF_TRY(check_name("model", site->model, true));
        RF_TRY(check_name("hook point", site->point, false));
        RF_TRY(check_rows(site));
        RF_TRY(check_size(head, site));
        for (int64_t t = 0; t < s; t++) {
            if (strcmp(site->point, head->sites[t].point) == 0 &&
                strcmp(site->model, head->sites[t].model) == 0) {
                RF_FAIL(RF_ERR_FORMAT, "site '%s' is there twice", site->point);
            }
        }
    }
fail:
    return status;
}

rf_status rf_store_check_head(const rf_store_head *head)
{
    rf_status status = RF_OK;
    if (head->n_pictures < 1 || head->group_pictures < 1 ||
        head->group_pictures > MAX_GROUP_PICTURES) {
        RF_FAIL(RF_ERR_FORMAT,
                "a store of %" PRId64 " pictures in groups of %" PRId64 ", expected 1 to %d",
                head->n_pictures, head->group_pictures, (int)MAX_GROUP_PICTURES);
    }
    if (!(head->holdout >= 0 && head->holdout < 1)) {
        RF_FAIL(RF_ERR_FORMAT, "holdout is %g, expected 0 to 1", head->holdout);
    }
    RF_TRY(check_sites(head));
    for (int64_t i = 0; i < head->n_pictures; i++) {
        if (head->labels[i] < -1) {
            RF_FAIL(RF_ERR_FORMAT, "the label of picture %" PRId64 " is %" PRId64, i,
                    head->labels[i]);
        }
    }
fail:
    return status;
}

/* ---- write -------------------------------------------------------------------------------------
 */

static rf_status write_i64(rf_h5_file *f, const char *name, const int64_t *values, int64_t n,
                           const char *description)
{
    rf_status status = rf_h5_write(f, name, RF_H5_I64, 1, &n, values);
    return status == RF_OK ? rf_h5_describe(f, name, "description", description) : status;
}

static rf_status write_text(rf_h5_file *f, const char *name, const char *text,
                            const char *description)
{
    rf_status status = rf_h5_write_text(f, name, text);
    return status == RF_OK ? rf_h5_describe(f, name, "description", description) : status;
}

static rf_status write_names(rf_h5_file *f, const char *name, const char *const *texts, int64_t n,
                             const char *description)
{
    rf_status status = rf_h5_write_names(f, name, texts, n);
    return status == RF_OK ? rf_h5_describe(f, name, "description", description) : status;
}

static rf_status declare(rf_h5_file *f, const char *name, rf_h5_type type, int n_dims,
                         const int64_t *shape, const char *description)
{
    rf_status status = rf_h5_declare(f, name, type, n_dims, shape);
    return status == RF_OK ? rf_h5_describe(f, name, "description", description) : status;
}

static rf_status write_general(rf_h5_file *f, const rf_store_head *head)
{
    rf_status status = RF_OK;
    const int64_t version = RF_STORE_VERSION, one = 1;
    const int64_t model = (int64_t)head->model_hash, picture = (int64_t)head->picture_hash;

    RF_TRY(write_text(f, "format", RF_STORE_FORMAT, "what this file is"));
    RF_TRY(write_i64(f, "version", &version, 1, "of the format"));
    RF_TRY(write_text(f, "dtype", dtype_names[head->dtype], "type of all activations"));
    RF_TRY(write_i64(f, "group_pictures", &head->group_pictures, 1,
                     "consecutive pictures that were written together, under one checksum"));
    RF_TRY(write_i64(f, "model_hash", &model, 1, "of the model's weights"));
    RF_TRY(write_i64(f, "picture_hash", &picture, 1,
                     "of the whole list of pictures, held-out ones included"));
    RF_TRY(rf_h5_write(f, "holdout", RF_H5_F64, 1, &one, &head->holdout));
    RF_TRY(rf_h5_describe(f, "holdout", "description",
                          "share of the pictures that was held out and is not here"));
    RF_TRY(write_text(f, "model", head->model, "name of the model"));
    RF_TRY(write_text(f, "weight_processing", head->processing,
                      "what the model's weights had been through"));
    RF_TRY(write_text(f, "settings", head->settings, "what made this file, YAML"));
fail:
    return status;
}

static rf_status write_pictures(rf_h5_file *f, const rf_store_head *head)
{
    rf_status status = RF_OK;
    const int64_t n = head->n_pictures;
    RF_TRY(write_names(f, "pictures/name", head->names, n,
                       "name of each picture, in the order of the first axis of all values"));
    RF_TRY(write_i64(f, "pictures/label", head->labels, n, "class of each picture, -1: none"));
    RF_TRY(declare(f, "pictures/valid", RF_H5_U8, 1, &n,
                   "0: the picture could not be read, and its values are zero"));
    RF_TRY(write_names(f, "classes/name", head->classes, head->n_classes,
                       "name of each class, by label"));
fail:
    return status;
}

static rf_status write_site_table(rf_h5_file *f, const rf_store_head *head)
{
    rf_status status = RF_OK;
    const int64_t n = head->n_sites;
    const char **names = NULL;
    int64_t *numbers = NULL;

    RF_ALLOC(names, 2 * n);
    RF_ALLOC(numbers, 2 * n);
    for (int64_t s = 0; s < n; s++) {
        const rf_store_site *site = &head->sites[s];
        names[s] = site->model[0] != '\0' ? site->model : no_name;
        names[n + s] = site->point;
        numbers[s] = site->first_row;
        numbers[n + s] = site->point_rows;
    }
    RF_TRY(write_names(f, "sites/model", names, n, "model of each site; -: without a name"));
    RF_TRY(write_names(f, "sites/point", names + n, n, "hook point of each site"));
    RF_TRY(write_i64(f, "sites/first_row", numbers, n, "first row of the hook point that is held"));
    RF_TRY(write_i64(f, "sites/point_rows", numbers + n, n, "rows that the hook point has"));
fail:
    rf_free(numbers);
    rf_free(names);
    return status;
}

static rf_status write_site(rf_h5_file *f, const rf_store_head *head, const rf_store_site *site)
{
    rf_status status = RF_OK;
    char name[GROUP_NAME];
    const int64_t shape[3] = {head->n_pictures, site->n_rows, site->width};
    const int64_t grid[2] = {site->n_rows, 3};

    RF_TRY(site_dataset(site, "class", name));
    RF_TRY(rf_h5_write(f, name, RF_H5_U8, 1, grid, site->classes));
    RF_TRY(rf_h5_describe(f, name, "description",
                          "of each row: 1 CLS, 2 register, 3 patch, 4 pooled"));
    RF_TRY(site_dataset(site, "position", name));
    RF_TRY(rf_h5_write(f, name, RF_H5_I32, 2, grid, site->positions));
    RF_TRY(rf_h5_describe(f, name, "description",
                          "(t, y, x) of each row in the grid of patches; -1: it is no patch"));
    RF_TRY(site_dataset(site, "values", name));
    RF_TRY(
        declare(f, name, dtype_types[head->dtype], 3, shape, "activations [picture, row, width]"));
fail:
    return status;
}

rf_status rf_store_write_skeleton(const char *path, const rf_store_head *head)
{
    rf_status status = RF_OK;
    rf_h5_file *f = NULL;
    const int64_t n_groups = rf_ceil_div(head->n_pictures, head->group_pictures);
    const int64_t shape[2] = {n_groups, head->n_sites + 1};

    RF_TRY(rf_h5_create(path, &f));
    RF_TRY(write_general(f, head));
    RF_TRY(write_pictures(f, head));
    RF_TRY(write_site_table(f, head));
    RF_TRY(declare(f, "groups/checksum", RF_H5_I64, 2, shape,
                   "XXH3 of the bytes of each site's block, in order, and of pictures/valid"));
    RF_TRY(declare(f, "groups/done", RF_H5_U8, 1, &n_groups, "1: all of the group is written"));
    for (int64_t s = 0; s < head->n_sites; s++) {
        RF_TRY(write_site(f, head, &head->sites[s]));
    }
    rf_h5_file *whole = f;
    f = NULL; /* taken also when it fails */
    RF_TRY(rf_h5_commit(whole));
fail:
    rf_h5_close(f);
    return status;
}

/* ---- read --------------------------------------------------------------------------------------
 */

static rf_status read_i64(const rf_h5_file *f, const char *name, int64_t *out)
{
    const int64_t one = 1;
    return rf_h5_read(f, name, RF_H5_I64, 1, &one, out);
}

static rf_status read_dtype(const rf_h5_file *f, const char *path, rf_dtype *out)
{
    rf_status status = RF_OK;
    char *text = NULL;
    RF_TRY(rf_h5_read_text(f, "dtype", &text));
    for (int d = 0; d < (int)(sizeof dtype_names / sizeof dtype_names[0]); d++) {
        if (strcmp(text, dtype_names[d]) == 0) {
            *out = (rf_dtype)d;
            goto fail;
        }
    }
    RF_FAIL(RF_ERR_FORMAT, "'%s': dtype is '%.40s', expected fp32, fp16 or bf16", path, text);
fail:
    rf_free(text);
    return status;
}

static rf_status check_format(const rf_h5_file *f, const char *path)
{
    rf_status status = RF_OK;
    char *format = NULL;
    int64_t version = 0;

    if (!rf_h5_has(f, "format")) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is an HDF5 file but no activation store", path);
    }
    RF_TRY(rf_h5_read_text(f, "format", &format));
    if (strcmp(format, RF_STORE_FORMAT) != 0) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is a '%.60s', expected a '%s'", path, format, RF_STORE_FORMAT);
    }
    RF_TRY(read_i64(f, "version", &version));
    if (version != RF_STORE_VERSION) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "'%s' is a store of version %" PRId64 "; this program reads version %d", path,
                version, (int)RF_STORE_VERSION);
    }
fail:
    rf_free(format);
    return status;
}

static rf_status read_general(const rf_h5_file *f, rf_store *store)
{
    rf_status status = RF_OK;
    rf_store_head *head = &store->head;
    const int64_t one = 1;
    int64_t hash = 0;

    RF_TRY(check_format(f, store->path));
    RF_TRY(read_dtype(f, store->path, &head->dtype));
    RF_TRY(read_i64(f, "group_pictures", &head->group_pictures));
    RF_TRY(read_i64(f, "model_hash", &hash));
    head->model_hash = (uint64_t)hash;
    RF_TRY(read_i64(f, "picture_hash", &hash));
    head->picture_hash = (uint64_t)hash;
    RF_TRY(rf_h5_read(f, "holdout", RF_H5_F64, 1, &one, &head->holdout));
    RF_TRY(rf_h5_read_text(f, "model", &store->text.model));
    RF_TRY(rf_h5_read_text(f, "weight_processing", &store->text.processing));
    RF_TRY(rf_h5_read_text(f, "settings", &store->text.settings));
    head->model = store->text.model;
    head->processing = store->text.processing;
    head->settings = store->text.settings;
fail:
    return status;
}

static rf_status read_pictures(const rf_h5_file *f, rf_store *store)
{
    rf_status status = RF_OK;
    rf_store_head *head = &store->head;
    rf_store_text *text = &store->text;
    int64_t n_pictures = 0, n_labels = 0;
    int n_dims = 0;

    /* Nothing is allocated before datasets of so many pictures are known to lie in the file. */
    RF_TRY(rf_h5_shape(f, "pictures/name", 1, &n_dims, &n_pictures));
    RF_TRY(rf_h5_locate(f, "pictures/valid", RF_H5_U8, 1, &n_pictures, &store->at.valid));
    RF_TRY(rf_h5_shape(f, "pictures/label", 1, &n_dims, &n_labels));
    if (n_dims != 1 || n_labels != n_pictures) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' has %" PRId64 " pictures and %" PRId64 " labels", store->path,
                n_pictures, n_labels);
    }
    RF_TRY(rf_h5_read_names(f, "pictures/name", &text->names, &head->n_pictures));
    RF_TRY(rf_h5_read_names(f, "classes/name", &text->classes, &head->n_classes));
    RF_ALLOC(text->labels, head->n_pictures);
    RF_TRY(rf_h5_read(f, "pictures/label", RF_H5_I64, 1, &head->n_pictures, text->labels));
    head->names = (const char *const *)text->names;
    head->classes = (const char *const *)text->classes;
    head->labels = text->labels;
fail:
    return status;
}

static rf_status read_site_names(const rf_h5_file *f, rf_store *store)
{
    rf_status status = RF_OK;
    rf_store_head *head = &store->head;
    rf_store_text *text = &store->text;
    int64_t n_points = 0;

    RF_TRY(rf_h5_read_names(f, "sites/model", &text->models, &head->n_sites));
    RF_TRY(rf_h5_read_names(f, "sites/point", &text->points, &n_points));
    if (head->n_sites < 1 || head->n_sites > RF_STORE_MAX_SITES || n_points != head->n_sites) {
        RF_FAIL(RF_ERR_FORMAT,
                "'%s' has %" PRId64 " models and %" PRId64 " hook points for its sites",
                store->path, head->n_sites, n_points);
    }
    RF_ALLOC(text->sites, head->n_sites);
    RF_ALLOC(store->at.values, head->n_sites);
    head->sites = text->sites;
    for (int64_t s = 0; s < head->n_sites; s++) {
        const char *model = text->models[s];
        text->sites[s].model = strcmp(model, no_name) == 0 ? "" : model;
        text->sites[s].point = text->points[s];
        RF_TRY_DOING(check_name("model", model, false), "'%s'", store->path);
        RF_TRY_DOING(check_name("hook point", text->points[s], false), "'%s'", store->path);
    }
fail:
    return status;
}

static rf_status read_site_rows(const rf_h5_file *f, rf_store *store)
{
    rf_status status = RF_OK;
    const int64_t n = store->head.n_sites;
    int64_t *numbers = NULL;

    RF_ALLOC(numbers, 2 * n);
    RF_TRY(rf_h5_read(f, "sites/first_row", RF_H5_I64, 1, &n, numbers));
    RF_TRY(rf_h5_read(f, "sites/point_rows", RF_H5_I64, 1, &n, numbers + n));
    for (int64_t s = 0; s < n; s++) {
        store->text.sites[s].first_row = numbers[s];
        store->text.sites[s].point_rows = numbers[n + s];
    }
fail:
    rf_free(numbers);
    return status;
}

static rf_status read_site(const rf_h5_file *f, rf_store *store, int64_t s)
{
    rf_status status = RF_OK;
    rf_store_site *site = &store->text.sites[s];
    char name[GROUP_NAME];
    int64_t shape[3] = {0};
    int n_dims = 0;
    uint8_t *classes = NULL;
    int32_t *positions = NULL;

    RF_TRY(site_dataset(site, "values", name));
    RF_TRY(rf_h5_shape(f, name, 3, &n_dims, shape));
    if (n_dims != 3 || shape[0] != store->head.n_pictures || shape[1] < 1 || shape[2] < 1) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': dataset '%s' is not [%" PRId64 " pictures, rows, width]",
                store->path, name, store->head.n_pictures);
    }
    site->n_rows = shape[1];
    site->width = shape[2];
    RF_TRY(rf_h5_locate(f, name, dtype_types[store->head.dtype], 3, shape, &store->at.values[s]));
    const int64_t grid[2] = {site->n_rows, 3};
    RF_ALLOC(classes, site->n_rows);
    site->classes = classes;
    RF_ALLOC(positions, 3 * site->n_rows);
    site->positions = positions;
    RF_TRY(site_dataset(site, "class", name));
    RF_TRY(rf_h5_read(f, name, RF_H5_U8, 1, grid, classes));
    RF_TRY(site_dataset(site, "position", name));
    RF_TRY(rf_h5_read(f, name, RF_H5_I32, 2, grid, positions));
fail:
    return status;
}

static rf_status read_all(const rf_h5_file *f, rf_store *store)
{
    rf_status status = RF_OK;
    const rf_store_head *head = &store->head;

    RF_TRY(read_general(f, store));
    RF_TRY(read_pictures(f, store));
    RF_TRY(read_site_names(f, store));
    RF_TRY(read_site_rows(f, store));
    for (int64_t s = 0; s < head->n_sites; s++) {
        RF_TRY(read_site(f, store, s));
    }
    RF_TRY_DOING(rf_store_check_head(head), "'%s'", store->path);
    store->n_groups = rf_ceil_div(head->n_pictures, head->group_pictures);
    const int64_t shape[2] = {store->n_groups, head->n_sites + 1};
    RF_TRY(rf_h5_locate(f, "groups/checksum", RF_H5_I64, 2, shape, &store->at.checksum));
    RF_TRY(rf_h5_locate(f, "groups/done", RF_H5_U8, 1, &store->n_groups, &store->at.done));
fail:
    return status;
}

rf_status rf_store_read_head(rf_store *store)
{
    rf_status status = RF_OK;
    rf_h5_file *f = NULL;
    RF_TRY(rf_h5_open(store->path, &f));
    RF_TRY(read_all(f, store));
fail:
    rf_h5_close(f);
    return status;
}

void rf_store_fini_head(rf_store *store)
{
    rf_store_text *text = &store->text;
    for (int64_t s = 0; text->sites != NULL && s < store->head.n_sites; s++) {
        rf_free((void *)(uintptr_t)text->sites[s].classes);
        rf_free((void *)(uintptr_t)text->sites[s].positions);
    }
    rf_free(text->sites);
    rf_free(text->models);
    rf_free(text->points);
    rf_free(text->names);
    rf_free(text->classes);
    rf_free(text->labels);
    rf_free(text->model);
    rf_free(text->processing);
    rf_free(text->settings);
    rf_free(store->at.values);
}

/* ---- compare -----------------------------------------------------------------------------------
 */

static rf_status raise_other(const rf_store *store, const char *what)
{
    return rf_error_raise(RF_ERR_SETTING, __FILE__, __LINE__,
                          "'%s' is a store of %s; remove it or choose another activations.store",
                          store->path, what);
}

static bool has_site(const rf_store *store, int64_t s, const rf_store_site *wanted)
{
    const rf_store_site *site = &store->head.sites[s];
    return strcmp(site->model, wanted->model) == 0 && strcmp(site->point, wanted->point) == 0 &&
           site->first_row == wanted->first_row && site->n_rows == wanted->n_rows &&
           site->width == wanted->width &&
           memcmp(site->classes, wanted->classes, (size_t)site->n_rows) == 0 &&
           memcmp(site->positions, wanted->positions,
                  sizeof *site->positions * 3 * (size_t)site->n_rows) == 0;
}

static bool has_sites_of(const rf_store *store, const rf_store_head *wanted)
{
    for (int64_t s = 0; s < wanted->n_sites; s++) {
        if (rf_store_find(store, wanted->sites[s].model, wanted->sites[s].point) < 0) {
            return false;
        }
    }
    return true;
}

/* The first line in which two texts of settings differ, but for where things lie; "" when none. */
static const char *find_other_line(const char *is, const char *wanted)
{
    while (*is != '\0' || *wanted != '\0') {
        const size_t n = strcspn(is, "\n"), m = strcspn(wanted, "\n");
        const char *key = wanted + strspn(wanted, " ");
        const bool is_place = strncmp(key, "path:", 5) == 0 || strncmp(key, "root:", 5) == 0;
        if (!is_place && (n != m || memcmp(is, wanted, n) != 0)) {
            return key;
        }
        is += n + (is[n] == '\n');
        wanted += m + (wanted[m] == '\n');
    }
    return "";
}

rf_status rf_store_compare(const rf_store *store, const rf_store_head *wanted)
{
    const rf_store_head *is = &store->head;
    char what[2 * RF_NAME_LEN] = "";
    if (is->picture_hash != wanted->picture_hash || is->n_pictures != wanted->n_pictures ||
        is->holdout != wanted->holdout) {
        return raise_other(store, "other pictures (data.path, data.holdout, data.max_pictures)");
    }
    if (is->model_hash != wanted->model_hash || strcmp(is->processing, wanted->processing) != 0) {
        return raise_other(store, "another model");
    }
    if (is->dtype != wanted->dtype) {
        return raise_other(store, "another activations.dtype");
    }
    if (is->group_pictures != wanted->group_pictures) {
        return raise_other(store, "another activations.group_pictures");
    }
    if (is->n_sites > wanted->n_sites && has_sites_of(store, wanted)) {
        return raise_other(store, "more hook points than are read here (activations.source=store "
                                  "reads it when it is finished)");
    }
    for (int64_t s = 0; s < rf_max_i64(is->n_sites, wanted->n_sites); s++) {
        if (s >= is->n_sites || s >= wanted->n_sites || !has_site(store, s, &wanted->sites[s])) {
            const char *point = s < wanted->n_sites ? wanted->sites[s].point : is->sites[s].point;
            rf_status status =
                rf_format(what, sizeof what, "other hook points or rows, see '%s'", point);
            return status == RF_OK ? raise_other(store, what) : status;
        }
    }
    const char *line = find_other_line(is->settings, wanted->settings);
    if (line[0] != '\0') {
        rf_status status = rf_format(what, sizeof what, "other settings than '%.*s'",
                                     (int)rf_min_i64((int64_t)strcspn(line, "\n"), 120), line);
        return status == RF_OK ? raise_other(store, what) : status;
    }
    return RF_OK;
}
