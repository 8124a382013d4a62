/* Linked with -Wl,--wrap=rf_backend_cpu_create, a test that asks for the CPU's backend gets a
 * shadow: the CPU as reference, CUDA as device (REFRACT_SHADOW_DEVICE=cpu: another CPU, which tries
 * the shadow itself). No test file changes. Where there is no device the test is skipped. */
#include "shadow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SKIPPED = 77 };

rf_status __real_rf_backend_cpu_create(int n_threads, rf_backend **out);
rf_status __wrap_rf_backend_cpu_create(int n_threads, rf_backend **out);

static rf_status make_device(int n_threads, rf_backend **out)
{
    const char *device = getenv("REFRACT_SHADOW_DEVICE");
    if (device != NULL && strcmp(device, "cpu") == 0) {
        return __real_rf_backend_cpu_create(n_threads % 3 + 1, out);
    }
    rf_status status = rf_backend_cuda_create(NULL, out);
    if (status == RF_ERR_UNSUPPORTED || status == RF_ERR_NOT_FOUND) {
        fprintf(stderr, "skipped: %s\n", rf_error_text());
        exit(SKIPPED);
    }
    return status;
}

rf_status __wrap_rf_backend_cpu_create(int n_threads, rf_backend **out)
{
    rf_backend *reference = NULL, *device = NULL;
    rf_status status = __real_rf_backend_cpu_create(n_threads, &reference);
    if (status != RF_OK) {
        return status;
    }
    status = make_device(n_threads, &device);
    if (status != RF_OK) {
        rf_backend_destroy(reference);
        return status;
    }
    return rf_shadow_create(reference, device, out);
}
