/* Stand-in for CUDA's C++ side of the runtime header: a kernel may be named without a cast. */
#ifndef REFRACT_EMUL_CUDA_RUNTIME_H
#define REFRACT_EMUL_CUDA_RUNTIME_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus
template <class... P>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute,
                                               int value)
{
    return cudaFuncSetAttribute((const void *)kernel, attribute, value);
}
#endif
#endif
