/* Which backend a setting means. */
#include "refract/tensor.h"

const char *const rf_device_names[] = {"auto", "cpu", "cuda", NULL};
const char *const rf_products_names[] = {"fp32", "bf16", "tf32", NULL};

rf_status rf_backend_create(rf_device device, const rf_comm *comm, int n_threads, rf_backend **out)
{
    rf_status status = RF_OK;

    *out = NULL;
    if (device != RF_DEVICE_CPU) {
        status = rf_backend_cuda_create(comm, out);
        if (device == RF_DEVICE_CUDA ||
            (status != RF_ERR_UNSUPPORTED && status != RF_ERR_NOT_FOUND)) {
            return status; /* the same on every rank */
        }
        if (status == RF_ERR_NOT_FOUND && (comm == NULL || rf_comm_rank(comm) == 0)) {
            rf_log(RF_LOG_INFO, "%s", rf_error_text()); /* a build for GPUs, and none is used */
        }
    }
    status = rf_backend_cpu_create(n_threads, out);
    return comm != NULL ? rf_comm_agree(comm, status) : status;
}
