/* safetensors, written. */
#include "io_impl.h"

#include <stdlib.h>
#include <string.h>

/* Large elements first, so that each tensor is aligned to its own; then by name. */
static int compare_order(const void *a, const void *b)
{
    const rf_named_tensor *s = *(const rf_named_tensor *const *)a,
                          *t = *(const rf_named_tensor *const *)b;
    int64_t x = rf_file_dtype_bytes(s->dtype), y = rf_file_dtype_bytes(t->dtype);
    return x != y ? (x > y ? -1 : 1) : strcmp(s->name, t->name);
}

static rf_status check_tensor(const rf_named_tensor *t)
{
    rf_status status = RF_OK;
    int64_t n = 1;
    RF_REQUIRE(t->name != NULL && t->name[0] != '\0' && strcmp(t->name, "__metadata__") != 0,
               "a tensor needs a name of its own");
    RF_REQUIRE((int)t->dtype >= 0 && t->dtype <= RF_FILE_BOOL, "tensor '%s' has dtype %d", t->name,
               (int)t->dtype);
    RF_REQUIRE(t->n_dims >= 0 && t->n_dims <= RF_FILE_MAX_DIMS, "tensor '%s' has %d dimensions",
               t->name, t->n_dims);
    for (int d = 0; d < t->n_dims; d++) {
        RF_REQUIRE(t->shape[d] >= 0, "tensor '%s' has the size %" PRId64, t->name, t->shape[d]);
        RF_TRY(rf_mul_i64(n, t->shape[d], t->name, &n));
    }
    RF_TRY(rf_mul_i64(n, rf_file_dtype_bytes(t->dtype), t->name, &n));
    RF_REQUIRE(n == t->n_bytes,
               "tensor '%s' has %" PRId64 " bytes, expected %" PRId64 " for its shape", t->name,
               t->n_bytes, n);
    RF_REQUIRE(n == 0 || t->bytes != NULL, "tensor '%s' has no data", t->name);
fail:
    return status;
}

static rf_status append_metadata(rf_str *header, const char *const *metadata, int64_t n)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(header, "\"__metadata__\":{"));
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < i; j++) {
            RF_REQUIRE(strcmp(metadata[2 * i], metadata[2 * j]) != 0,
                       "metadata '%s' is given twice", metadata[2 * i]);
        }
        RF_TRY(rf_str_append(header, "%s", i == 0 ? "" : ","));
        RF_TRY(rf_json_append_str(header, metadata[2 * i]));
        RF_TRY(rf_str_append(header, ":"));
        RF_TRY(rf_json_append_str(header, metadata[2 * i + 1]));
    }
    RF_TRY(rf_str_append(header, "}"));
fail:
    return status;
}

static rf_status append_tensor(rf_str *header, const rf_named_tensor *t, int64_t begin)
{
    rf_status status = RF_OK;
    RF_TRY(rf_json_append_str(header, t->name));
    RF_TRY(rf_str_append(header, ":{\"dtype\":\"%s\",\"shape\":[", rf_file_dtype_name(t->dtype)));
    for (int d = 0; d < t->n_dims; d++) {
        RF_TRY(rf_str_append(header, "%s%" PRId64, d == 0 ? "" : ",", t->shape[d]));
    }
    RF_TRY(rf_str_append(header, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", begin,
                         begin + t->n_bytes));
fail:
    return status;
}

/* The header, padded so that the data starts at a multiple of 8. */
static rf_status make_header(const rf_named_tensor *const *order, int64_t n_tensors,
                             const char *const *metadata, int64_t n_metadata, rf_str *header)
{
    rf_status status = RF_OK;
    int64_t begin = 0;
    RF_TRY(rf_str_append(header, "{"));
    if (n_metadata > 0) {
        RF_TRY(append_metadata(header, metadata, n_metadata));
    }
    for (int64_t i = 0; i < n_tensors; i++) {
        RF_REQUIRE(i == 0 || strcmp(order[i]->name, order[i - 1]->name) != 0,
                   "tensor '%s' is given twice", order[i]->name);
        RF_TRY(rf_str_append(header, "%s", i == 0 && n_metadata == 0 ? "" : ","));
        RF_TRY(append_tensor(header, order[i], begin));
        begin += order[i]->n_bytes;
    }
    RF_TRY(rf_str_append(header, "}"));
    while (header->len % 8 != 0) {
        RF_TRY(rf_str_append(header, " "));
    }
fail:
    return status;
}

rf_status rf_safetensors_write(const char *path, const rf_named_tensor *tensors, int64_t n_tensors,
                               const char *const *metadata, int64_t n_metadata)
{
    rf_status status = RF_OK;
    const rf_named_tensor **order = NULL;
    rf_str header = {0};
    rf_atomic_file *file = NULL;

    RF_REQUIRE(n_tensors >= 0 && n_metadata >= 0, "%" PRId64 " tensors, %" PRId64 " metadata",
               n_tensors, n_metadata);
    RF_ALLOC(order, n_tensors);
    for (int64_t i = 0; i < n_tensors; i++) {
        RF_TRY(check_tensor(&tensors[i]));
        order[i] = &tensors[i];
    }
    if (n_tensors > 1) {
        qsort(order, (size_t)n_tensors, sizeof *order, compare_order);
    }
    RF_TRY(make_header(order, n_tensors, metadata, n_metadata, &header));
    RF_TRY(rf_atomic_file_create(path, &file));
    RF_TRY(rf_atomic_file_write(file, &(uint64_t){(uint64_t)header.len}, 8));
    RF_TRY(rf_atomic_file_write(file, header.data, header.len));
    for (int64_t i = 0; i < n_tensors; i++) {
        RF_TRY(rf_atomic_file_write(file, order[i]->bytes, order[i]->n_bytes));
    }
    status = rf_atomic_file_commit(file);
    file = NULL;
fail:
    rf_atomic_file_abandon(file);
    rf_str_fini(&header);
    rf_free(order);
    return status;
}
