/* The pictures of a folder: names, and the first folder of each as its class. */
#include "picture_list_impl.h"

#include <string.h>

enum { MAX_DEPTH = 32 };

/* The first folder of `name`; the same text as the last entry's where that is in it too. */
static rf_status class_of(rf_picture_list *list, const char *name, const char **out)
{
    const char *slash = strchr(name, '/');
    const char *last = list->n > 0 ? list->entries[list->n - 1].label_is : NULL;
    *out = NULL;
    if (slash == NULL) {
        return RF_OK;
    }
    const size_t len = (size_t)(slash - name);
    if (last != NULL && strlen(last) == len && memcmp(last, name, len) == 0) {
        *out = last;
        return RF_OK;
    }
    *out = rf_picture_list_text(list, name, (int64_t)len);
    return *out != NULL ? RF_OK : RF_ERR_NO_MEMORY;
}

static rf_status add_picture(rf_picture_list *list, const char *name)
{
    rf_status status = RF_OK;
    picture_entry entry = {.label = -1, .n_bytes = -1, .shard = -1};
    RF_TRY(class_of(list, name, &entry.label_is));
    entry.name = rf_picture_list_text(list, name, (int64_t)strlen(name));
    if (entry.name == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    RF_TRY(rf_picture_list_add(list, &entry));
fail:
    return status;
}

/* `prefix` is "" or ends in '/'. Only what is not named like a picture is asked whether it is a
 * folder: a call for each of a million files is slow on a network file system. */
static rf_status walk(rf_picture_list *list, const char *prefix, int depth)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN], name[RF_PATH_LEN];
    char **names = NULL;
    int64_t n_names = 0;
    if (depth > MAX_DEPTH) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "%s/%s: folders are nested deeper than %d", list->folder,
                prefix, (int)MAX_DEPTH);
    }
    RF_TRY(rf_format(path, sizeof path, "%s/%s", list->folder, prefix));
    RF_TRY(rf_file_list(path, &names, &n_names));
    for (int64_t i = 0; i < n_names; i++) {
        if (names[i][0] == '.') {
            continue;
        }
        RF_TRY(rf_format(name, sizeof name, "%s%s", prefix, names[i]));
        if (rf_picture_is_name(names[i])) {
            RF_TRY(add_picture(list, name));
            continue;
        }
        RF_TRY(rf_format(path, sizeof path, "%s/%s", list->folder, name));
        if (rf_file_is_dir(path)) {
            RF_TRY(rf_format(name, sizeof name, "%s%s/", prefix, names[i]));
            RF_TRY(walk(list, name, depth + 1));
        }
    }
fail:
    rf_file_list_free(names, n_names);
    return status;
}

rf_status rf_picture_list_walk(rf_picture_list *list)
{
    return walk(list, "", 0);
}
