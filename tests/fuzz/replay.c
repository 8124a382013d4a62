/* Gives every file of the folders that are named to a fuzz target, without libFuzzer: so targets
 * are built and their seeds tried wherever the tests are. usage: replay FOLDER... */
#include "refract/io.h"

#include "fuzz.h"

#include <string.h>

enum { MOST_BYTES = 1 << 26 };

static rf_status replay_file(const char *path)
{
    rf_status status = RF_OK;
    char *bytes = NULL;
    uint8_t *copy = NULL;
    int64_t n_bytes = 0;

    RF_TRY(rf_file_read(path, MOST_BYTES, &bytes, &n_bytes));
    copy = malloc((size_t)n_bytes + 1); /* a block that ends where the bytes do */
    RF_BUG(copy != NULL, "no memory for '%s'", path);
    memcpy(copy + 1, bytes, (size_t)n_bytes);
    rf_free(bytes);
    bytes = NULL;
    LLVMFuzzerTestOneInput(copy + 1, (size_t)n_bytes);
fail:
    rf_free(bytes);
    free(copy);
    return status;
}

/* The list is freed before each file is tried: a target counts the blocks that are alive. */
static rf_status replay_folder(const char *folder, int64_t *n_files)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    char **names = NULL;
    int64_t n = 1;

    for (int64_t i = 0; i < n; i++) {
        RF_TRY(rf_file_list(folder, &names, &n));
        status = i < n ? rf_path_join(path, folder, names[i]) : RF_ERR_NOT_FOUND;
        rf_file_list_free(names, n);
        RF_TRY(status);
        if (!rf_file_is_dir(path)) {
            RF_TRY(replay_file(path));
            (*n_files)++;
        }
    }
fail:
    return status;
}

int main(int argc, char **argv)
{
    int64_t n_files = 0;
    for (int i = 1; i < argc; i++) {
        if (replay_folder(argv[i], &n_files) != RF_OK) {
            fprintf(stderr, "%s\n", rf_error_text());
            return 1;
        }
    }
    printf("%" PRId64 " files\n", n_files);
    return n_files == 0;
}
