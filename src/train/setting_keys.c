/* Lists of keys: what a map of settings may hold besides the rows of one table. */
#include "run_impl.h"

#include <string.h>

bool rf_setting_keys_have(const char *const *keys, const char *key)
{
    for (int64_t i = 0; keys[i] != NULL; i++) {
        if (strcmp(keys[i], key) == 0) {
            return true;
        }
    }
    return false;
}

static bool table_has(const rf_settings_table *table, const char *key)
{
    for (int64_t i = 0; table != NULL && i < table->n_rows; i++) {
        if (strcmp(table->rows[i].key, key) == 0) {
            return true;
        }
    }
    return false;
}

rf_status rf_setting_keys_of(const rf_settings_table *table, const rf_settings_table *but_not,
                             const char ***out)
{
    rf_status status = RF_OK;
    const char **keys = NULL;
    int64_t n = 0;
    RF_ALLOC(keys, table->n_rows + 1);
    for (int64_t i = 0; i < table->n_rows; i++) {
        if (!table_has(but_not, table->rows[i].key)) {
            keys[n++] = table->rows[i].key;
        }
    }
fail:
    *out = keys;
    return status;
}

rf_status rf_setting_keys_raise(const rf_yaml *item, const char *path, const char *key,
                                const char *const *keys)
{
    rf_status status = RF_OK;
    rf_yaml at = *item; /* complain at the key, not at its value */
    const char *best = NULL;
    int64_t distance = rf_max_i64(2, (int64_t)strlen(key) / 2) + 1;
    rf_str list = {0};

    if (item->key_line > 0) {
        at.line = item->key_line;
        at.column = item->key_column;
    }
    for (int64_t i = 0; keys[i] != NULL; i++) {
        int64_t d = rf_str_distance(key, keys[i]);
        if (d < distance) {
            best = keys[i];
            distance = d;
        }
        RF_TRY(rf_str_append(&list, "%s%s", i == 0 ? "" : ", ", keys[i]));
    }
    if (best != NULL) {
        status = rf_yaml_fail(&at, "%s%.100s: unknown setting; did you mean '%s%s'?", path, key,
                              path, best);
    } else {
        status = rf_yaml_fail(&at, "%s%.100s: unknown setting; the settings here are %s", path, key,
                              list.data);
    }
fail:
    rf_str_fini(&list);
    return status;
}
