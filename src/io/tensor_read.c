/* Types of elements, and elements as fp32. */
#include "io_impl.h"

#include <string.h>

static const struct {
    const char *name;
    int64_t n_bytes;
} dtypes[] = {
    [RF_FILE_F64] = {"F64", 8},   [RF_FILE_F32] = {"F32", 4}, [RF_FILE_F16] = {"F16", 2},
    [RF_FILE_BF16] = {"BF16", 2}, [RF_FILE_I64] = {"I64", 8}, [RF_FILE_I32] = {"I32", 4},
    [RF_FILE_I16] = {"I16", 2},   [RF_FILE_I8] = {"I8", 1},   [RF_FILE_U8] = {"U8", 1},
    [RF_FILE_BOOL] = {"BOOL", 1},
};

int64_t rf_file_dtype_bytes(rf_file_dtype dtype)
{
    return dtypes[dtype].n_bytes;
}

const char *rf_file_dtype_name(rf_file_dtype dtype)
{
    return dtypes[dtype].name;
}

rf_status rf_named_tensor_count(rf_named_tensor *t)
{
    rf_status status = RF_OK;
    t->n_elems = 1;
    for (int d = 0; d < t->n_dims; d++) {
        if (__builtin_mul_overflow(t->n_elems, t->shape[d], &t->n_elems)) {
            RF_FAIL(RF_ERR_FORMAT, "the product of its shape overflows");
        }
    }
    if (__builtin_mul_overflow(t->n_elems, rf_file_dtype_bytes(t->dtype), &t->n_bytes)) {
        RF_FAIL(RF_ERR_FORMAT, "the product of its shape overflows");
    }
fail:
    return status;
}

static float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 0x1f, fraction = h & 0x3ff;
    uint32_t bits = 0;
    float v = 0;
    if (exponent == 0) { /* zero and subnormal: exact */
        v = (float)fraction * 0x1p-24f;
        return sign != 0 ? -v : v;
    }
    bits = sign | (exponent == 31 ? 0x7f800000U : (exponent + 112) << 23) | fraction << 13;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static float bfloat_to_float(uint16_t b)
{
    uint32_t bits = (uint32_t)b << 16;
    float v = 0;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* out[i] = convert(element i); elements need no alignment. */
#define READ_AS(type, convert)                                                                     \
    do {                                                                                           \
        for (int64_t i = 0; i < t->n_elems; i++) {                                                 \
            type v;                                                                                \
            memcpy(&v, t->bytes + i * (int64_t)sizeof v, sizeof v);                                \
            out[i] = convert(v);                                                                   \
        }                                                                                          \
    } while (0)

rf_status rf_named_tensor_read_f32(const rf_named_tensor *t, float *out)
{
    rf_status status = RF_OK;
    switch (t->dtype) {
    case RF_FILE_F64:
        READ_AS(double, (float));
        break;
    case RF_FILE_F32:
        if (t->n_bytes > 0) {
            memcpy(out, t->bytes, (size_t)t->n_bytes);
        }
        break;
    case RF_FILE_F16:
        READ_AS(uint16_t, half_to_float);
        break;
    case RF_FILE_BF16:
        READ_AS(uint16_t, bfloat_to_float);
        break;
    case RF_FILE_I64:
        READ_AS(int64_t, (float));
        break;
    case RF_FILE_I32:
        READ_AS(int32_t, (float));
        break;
    case RF_FILE_I16:
        READ_AS(int16_t, (float));
        break;
    case RF_FILE_I8:
        READ_AS(int8_t, (float));
        break;
    case RF_FILE_U8:
    case RF_FILE_BOOL:
        READ_AS(uint8_t, (float));
        break;
    default:
        RF_REQUIRE(false, "tensor '%s' has dtype %d", t->name, (int)t->dtype);
    }
fail:
    return status;
}

void rf_tensor_gather(const unsigned char *from, int64_t elem_bytes, int n_dims,
                      const int64_t *shape, const int64_t *stride, unsigned char *out)
{
    int64_t place[RF_FILE_MAX_DIMS] = {0}, n = 1, at = 0;
    for (int d = 0; d < n_dims; d++) {
        n *= shape[d];
    }
    for (int64_t i = 0; i < n; i++) {
        memcpy(out + i * elem_bytes, from + at * elem_bytes, (size_t)elem_bytes);
        for (int d = n_dims - 1; d >= 0; d--) { /* the next place, last dimension first */
            at += stride[d];
            if (++place[d] < shape[d]) {
                break;
            }
            at -= shape[d] * stride[d];
            place[d] = 0;
        }
    }
}
