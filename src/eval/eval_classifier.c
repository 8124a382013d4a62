/* A zero-shot classifier in the place of a head. */
#include "refract/eval.h"

#include <math.h>

/* Rows of half precision are unit vectors within 1e-3; a matrix that is none is far off. */
static rf_status check_unit(const rf_zero_shot *z)
{
    rf_status status = RF_OK;

    for (int64_t i = 0; i < z->n_classes; i++) {
        double square = 0;
        for (int64_t j = 0; j < z->d; j++) {
            const double w = (double)z->weights[i * z->d + j];
            square += w * w;
        }
        if (!(fabs(sqrt(square) - 1) <= 1e-2)) {
            RF_FAIL(RF_ERR_FORMAT, "the vector of class %" PRId64 " has the norm %g, expected 1", i,
                    sqrt(square));
        }
    }
fail:
    return status;
}

rf_status rf_eval_classifier_load(const char *path, int64_t width, double scale,
                                  rf_eval_classifier *out)
{
    rf_status status = RF_OK;
    int64_t n_bytes = 0;

    *out = (rf_eval_classifier){.scale = scale};
    RF_TRY(rf_zero_shot_load(path, &out->classes));
    if (out->classes.d != width) {
        RF_FAIL(RF_ERR_SETTING,
                "%s is of width %" PRId64 ", but the model's embeddings are of %" PRId64
                ": make it with this model's text tower (refract zero-shot)",
                path, out->classes.d, width);
    }
    RF_TRY_DOING(check_unit(&out->classes), "%s", path);
    RF_TRY(rf_file_hash(path, &out->hash, &n_bytes));
fail:
    if (status != RF_OK) {
        rf_eval_classifier_fini(out);
    }
    return status;
}

void rf_eval_classifier_fini(rf_eval_classifier *classifier)
{
    rf_zero_shot_fini(&classifier->classes);
    *classifier = (rf_eval_classifier){.scale = 0};
}
