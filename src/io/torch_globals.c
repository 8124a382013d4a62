/* The globals that checkpoints mention. Everything else is refused by name: a pickle is a program,
 * and here it is only read. */
#include "torch_impl.h"

#include <ctype.h>
#include <string.h>

#define STORAGE(name, dtype)                                                                       \
    {"torch", name, RF_TORCH_STORAGE, dtype},                                                      \
    {                                                                                              \
        "torch.cuda", name, RF_TORCH_STORAGE, dtype                                                \
    }
#define DTYPE(name, dtype)                                                                         \
    {                                                                                              \
        "torch", name, RF_TORCH_DTYPE, dtype                                                       \
    }
#define OPAQUE(module, name)                                                                       \
    {                                                                                              \
        module, name, RF_TORCH_OPAQUE, RF_FILE_U8                                                  \
    }

static const rf_torch_global globals[] = {
    {"collections", "OrderedDict", RF_TORCH_MAP, RF_FILE_U8},
    {"torch", "Size", RF_TORCH_TUPLE, RF_FILE_U8},
    {"torch._utils", "_rebuild_tensor", RF_TORCH_TENSOR, RF_FILE_U8},
    {"torch._utils", "_rebuild_tensor_v2", RF_TORCH_TENSOR, RF_FILE_U8},
    {"torch._utils", "_rebuild_tensor_v3", RF_TORCH_TENSOR_DTYPE, RF_FILE_U8},
    {"torch._utils", "_rebuild_parameter", RF_TORCH_FIRST, RF_FILE_U8},
    {"torch._utils", "_rebuild_parameter_with_state", RF_TORCH_FIRST, RF_FILE_U8},
    {"torch._tensor", "_rebuild_from_type_v2", RF_TORCH_FROM_TYPE, RF_FILE_U8},
    STORAGE("DoubleStorage", RF_FILE_F64),
    STORAGE("FloatStorage", RF_FILE_F32),
    STORAGE("HalfStorage", RF_FILE_F16),
    STORAGE("BFloat16Storage", RF_FILE_BF16),
    STORAGE("LongStorage", RF_FILE_I64),
    STORAGE("IntStorage", RF_FILE_I32),
    STORAGE("ShortStorage", RF_FILE_I16),
    STORAGE("CharStorage", RF_FILE_I8),
    STORAGE("ByteStorage", RF_FILE_U8),
    STORAGE("BoolStorage", RF_FILE_BOOL),
    STORAGE("UntypedStorage", RF_FILE_U8),
    {"torch.storage", "UntypedStorage", RF_TORCH_STORAGE, RF_FILE_U8},
    {"torch.storage", "_UntypedStorage", RF_TORCH_STORAGE, RF_FILE_U8},
    DTYPE("float64", RF_FILE_F64),
    DTYPE("double", RF_FILE_F64),
    DTYPE("float32", RF_FILE_F32),
    DTYPE("float", RF_FILE_F32),
    DTYPE("float16", RF_FILE_F16),
    DTYPE("half", RF_FILE_F16),
    DTYPE("bfloat16", RF_FILE_BF16),
    DTYPE("int64", RF_FILE_I64),
    DTYPE("long", RF_FILE_I64),
    DTYPE("int32", RF_FILE_I32),
    DTYPE("int", RF_FILE_I32),
    DTYPE("int16", RF_FILE_I16),
    DTYPE("short", RF_FILE_I16),
    DTYPE("int8", RF_FILE_I8),
    DTYPE("uint8", RF_FILE_U8),
    DTYPE("bool", RF_FILE_BOOL),
    /* Values that training leaves beside the weights. */
    OPAQUE("torch", "Tensor"),
    OPAQUE("torch", "device"),
    OPAQUE("torch.nn.parameter", "Parameter"),
    OPAQUE("torch.serialization", "_get_layout"),
    OPAQUE("torch.storage", "TypedStorage"),
    OPAQUE("torch.storage", "_TypedStorage"),
    OPAQUE("argparse", "Namespace"),
    OPAQUE("pathlib", "PosixPath"),
    OPAQUE("pathlib._local", "PosixPath"), /* Python 3.13 */
    OPAQUE("collections", "Counter"),
    OPAQUE("_codecs", "encode"),
    OPAQUE("numpy", "dtype"),
    OPAQUE("numpy", "ndarray"),
    OPAQUE("numpy.core.multiarray", "scalar"),
    OPAQUE("numpy.core.multiarray", "_reconstruct"),
    OPAQUE("numpy.core.numeric", "_frombuffer"),
    OPAQUE("numpy._core.numeric", "_frombuffer"),
    OPAQUE("numpy._core.multiarray", "scalar"),
    OPAQUE("numpy._core.multiarray", "_reconstruct"),
    OPAQUE("builtins", "set"),
    OPAQUE("builtins", "frozenset"),
    OPAQUE("builtins", "complex"),
    OPAQUE("builtins", "bytearray"),
    OPAQUE("__builtin__", "set"), /* as Python 2 and protocol 2 spell them */
    OPAQUE("__builtin__", "frozenset"),
    OPAQUE("__builtin__", "complex"),
    OPAQUE("__builtin__", "bytearray"),
};

static bool same(const char *text, const unsigned char *bytes, int64_t len)
{
    return (int64_t)strlen(text) == len && memcmp(text, bytes, (size_t)len) == 0;
}

/* The printable part of `bytes` for a message. */
static void spell(const unsigned char *bytes, int64_t len, char out[101])
{
    int64_t n = rf_min_i64(len, 100);
    for (int64_t i = 0; i < n; i++) {
        out[i] = '?';
        if (bytes[i] < 128 && isprint(bytes[i])) {
            out[i] = (char)bytes[i];
        }
    }
    out[n] = '\0';
}

rf_status rf_torch_find_global(const unsigned char *module, int64_t module_len,
                               const unsigned char *name, int64_t name_len, int64_t *idx)
{
    rf_status status = RF_OK;
    char module_text[101], name_text[101];
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++) {
        if (same(globals[i].module, module, module_len) && same(globals[i].name, name, name_len)) {
            *idx = (int64_t)i;
            return RF_OK;
        }
    }
    spell(module, module_len, module_text);
    spell(name, name_len, name_text);
    RF_FAIL(RF_ERR_UNSUPPORTED,
            "it asks for '%s.%s', which no table of weights needs; nothing in a checkpoint is ever "
            "executed (in PyTorch, save a state_dict of tensors only)",
            module_text, name_text);
fail:
    return status;
}

const rf_torch_global *rf_torch_global_at(int64_t idx)
{
    return &globals[idx];
}
