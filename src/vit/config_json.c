/* Keys of a model's config.json to the settings of a draft. */
#include "config_impl.h"

#include <jansson.h>
#include <string.h>

/* Words of the libraries for choices. */
static const struct {
    const char *key, *word, *ours;
} synonyms[] = {
    {"act", "gelu_python", "gelu"},
    {"act", "gelu_erf", "gelu"},
    {"act", "gelu_new", "gelu_tanh"},
    {"act", "gelu_pytorch_tanh", "gelu_tanh"},
    {"act", "gelu_python_tanh", "gelu_tanh"},
    {"act", "gelu_fast", "gelu_tanh"},
    {"act", "tanh", "gelu_tanh"}, /* GELU's `approximate` */
    {"act", "quickgelu", "quick_gelu"},
    {"act", "swish", "silu"},
    {"pool", "token", "cls"},
    {"pool", "tok", "cls"},
    {"pool", "avg", "patch_mean"},
    {"pool", "map", "attention"},
    {"pool", "argmax", "end"},
    {"pool", "eos", "end"},
    {"pool", "first", "cls"},
};

static rf_status read_size(const rf_json *json, const char *key, const rf_setting *row,
                           int64_t *out)
{
    static const char *const zero_is_fine[] = {"n_registers", "n_classes", "eos_id"};
    rf_status status = RF_OK;
    int64_t least = 1, value = 0;
    for (size_t i = 0; i < sizeof zero_is_fine / sizeof *zero_is_fine; i++) {
        least = strcmp(row->key, zero_is_fine[i]) == 0 ? 0 : least;
    }
    RF_TRY(rf_json_get_i64(json, key, NULL, &value));
    if (value < least || value > (int64_t)row->max) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is %" PRId64 ", expected %" PRId64 " to %" PRId64, key, value,
                least, (int64_t)row->max);
    }
    *out = value;
fail:
    return status;
}

/* Lists that libraries write for sides: [h, w], [c, h, w], [t, p, p]. `n` values come back. */
static rf_status read_sides(const rf_json *json, const char *key, const rf_setting *row,
                            int64_t out[3], int *n)
{
    rf_status status = RF_OK;
    const rf_json *value = rf_json_find(json, key);
    const size_t n_items = json_array_size(value);
    if (!json_is_array(value)) {
        *n = 1;
        return read_size(json, key, row, &out[0]);
    }
    if (n_items < 1 || n_items > 3) {
        RF_FAIL(RF_ERR_FORMAT, "'%s' is a list of %zu, expected a number or 2 or 3 of them", key,
                n_items);
    }
    *n = (int)n_items;
    for (int i = 0; i < *n; i++) {
        const rf_json *item = json_array_get(value, (size_t)i);
        out[i] = json_is_integer(item) ? json_integer_value(item) : -1;
        if (out[i] < 1 || out[i] > (int64_t)row->max) {
            RF_FAIL(RF_ERR_FORMAT, "'%s' holds %" PRId64 ", expected 1 to %" PRId64, key, out[i],
                    (int64_t)row->max);
        }
    }
fail:
    return status;
}

static rf_status read_image(rf_draft *d, const rf_json *json, const char *key,
                            const rf_setting *row)
{
    rf_status status = RF_OK;
    int64_t side[3] = {0};
    int n = 0;
    RF_TRY(read_sides(json, key, row, side, &n));
    d->image_size = n == 1 ? side[0] : 0;
    d->config.image_height = n > 1 ? side[n - 2] : 0;
    d->config.image_width = n > 1 ? side[n - 1] : 0;
fail:
    return status;
}

/* patch_size [p, p], tubelet_size [t, p, p] or t. */
static rf_status read_patch(rf_draft *d, const rf_json *json, const char *key,
                            const rf_setting *row)
{
    rf_status status = RF_OK;
    int64_t side[3] = {0};
    int n = 0;
    const bool is_tubelet = strcmp(row->key, "tubelet") == 0;
    RF_TRY(read_sides(json, key, row, side, &n));
    if (n > 1 && side[n - 2] != side[n - 1]) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "'%s' is %" PRId64 " x %" PRId64 ": patches that are not square are not supported",
                key, side[n - 2], side[n - 1]);
    }
    if (is_tubelet && n != 2) {
        d->config.tubelet = side[0];
    }
    if (!is_tubelet || n == 3) {
        d->config.patch_size = side[n - 1];
    }
fail:
    return status;
}

static rf_status read_choice(rf_draft *d, const rf_json *json, const char *key,
                             const rf_setting *row)
{
    rf_status status = RF_OK;
    const char *word = NULL;
    rf_str known = {0};
    RF_TRY(rf_json_get_str(json, key, NULL, &word));
    for (size_t i = 0; i < sizeof synonyms / sizeof *synonyms; i++) {
        if (strcmp(synonyms[i].key, row->key) == 0 && strcmp(synonyms[i].word, word) == 0) {
            word = synonyms[i].ours;
            break;
        }
    }
    for (int i = 0; row->choices[i] != NULL; i++) {
        if (strcmp(row->choices[i], word) == 0) {
            memcpy((char *)d + row->offset, &i, sizeof i);
            goto fail;
        }
        RF_TRY(rf_str_append(&known, "%s%s", i > 0 ? ", " : "", row->choices[i]));
    }
    RF_FAIL(RF_ERR_UNSUPPORTED, "'%s' is '%.64s', which is not supported; supported are %s", key,
            word, known.data);
fail:
    rf_str_fini(&known);
    return status;
}

static rf_status read_value(rf_draft *d, const rf_json *json, const char *key,
                            const rf_setting *row)
{
    rf_status status = RF_OK;
    char *field = (char *)d + row->offset;
    double number = 0.0;
    if (strcmp(row->key, "image_size") == 0) {
        return read_image(d, json, key, row);
    }
    if (strcmp(row->key, "patch_size") == 0 || strcmp(row->key, "tubelet") == 0) {
        return read_patch(d, json, key, row);
    }
    switch (row->type) {
    case RF_SETTING_I64:
        RF_TRY(read_size(json, key, row, (int64_t *)(void *)field));
        break;
    case RF_SETTING_F64:
        RF_TRY(rf_json_get_f64(json, key, NULL, &number));
        if (!(number >= row->min && number <= row->max)) {
            RF_FAIL(RF_ERR_FORMAT, "'%s' is %g, expected %g to %g", key, number, row->min,
                    row->max);
        }
        memcpy(field, &number, sizeof number);
        break;
    case RF_SETTING_BOOL:
        RF_TRY(rf_json_get_bool(json, key, NULL, (bool *)(void *)field));
        break;
    case RF_SETTING_CHOICE:
        RF_TRY(read_choice(d, json, key, row));
        break;
    case RF_SETTING_TEXT: /* the table has none of these */
    case RF_SETTING_NAMES:
    case RF_SETTING_I64_BY:
        break;
    }
fail:
    return status;
}

/* Whether a switch is off: false, 0, an empty text, list or map. */
static bool is_off(const rf_json *value)
{
    return json_is_false(value) || (json_is_number(value) && json_number_value(value) == 0.0) ||
           (json_is_string(value) && json_string_length(value) == 0) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

static rf_status read_key(rf_draft *d, const rf_key *k, const rf_json *json, const char *key)
{
    rf_status status = RF_OK;
    const rf_json *value = rf_json_find(json, key);
    const bool is_absent = value == NULL || json_is_null(value);
    bool flag = false;
    if (k->how == RF_KEY_REFUSED || k->how == RF_KEY_NEEDED) {
        if (!is_absent && is_off(value) != (k->how == RF_KEY_REFUSED)) {
            RF_FAIL(RF_ERR_UNSUPPORTED, "'%s' is %s: %s is not supported", key,
                    k->how == RF_KEY_NEEDED ? "false" : "set", k->field);
        }
        goto fail;
    }
    const rf_setting *row = rf_draft_field(k->field);
    if (row == NULL) {
        RF_FAIL(RF_ERR_BUG, "no setting '%s' for key '%s'", k->field, key);
    }
    if (k->how == RF_KEY_PRESENT) {
        flag = !is_absent;
        if (value != NULL) {
            memcpy((char *)d + row->offset, &flag, sizeof flag);
        }
    } else if (!is_absent && k->how == RF_KEY_NOT) {
        RF_TRY(rf_json_get_bool(json, key, NULL, &flag));
        flag = !flag;
        memcpy((char *)d + row->offset, &flag, sizeof flag);
    } else if (!is_absent) {
        rf_draft_forget_rivals(d, row->key, NULL);
        RF_TRY(read_value(d, json, key, row));
    }
fail:
    return status;
}

rf_status rf_draft_read_json(rf_draft *draft, const rf_key *keys, const rf_json *root,
                             const rf_json *tower)
{
    rf_status status = RF_OK;
    for (const rf_key *k = keys; k != NULL && k->field != NULL; k++) {
        const bool is_top = k->key[0] == '/';
        const rf_json *json = is_top ? root : tower;
        if (json != NULL) {
            RF_TRY(read_key(draft, k, json, k->key + (is_top ? 1 : 0)));
        }
    }
fail:
    return status;
}
