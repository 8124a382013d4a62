/* Stands where cuda/ is not built. */
#include "refract/tensor.h"

rf_status rf_backend_cuda_create(const rf_comm *comm, rf_backend **out)
{
    (void)comm; /* the same on every rank: one program */
    *out = NULL;
    return rf_error_raise(RF_ERR_UNSUPPORTED, __FILE__, __LINE__,
                          "this build has no CUDA backend: configure with -DREFRACT_CUDA=ON where "
                          "there is a CUDA toolkit, or take the CPU");
}
