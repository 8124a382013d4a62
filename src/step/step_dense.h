/* Private to the dense path. */
#ifndef REFRACT_STEP_DENSE_H
#define REFRACT_STEP_DENSE_H

#include "step_impl.h"

/* What a pass over the batch needs beside the job. */
typedef struct rf_dense_pass {
    rf_step_job *job;
    float scale;     /* of the penalty's derivative */
    float l0;        /* of a latent in the window of its threshold */
    float bandwidth; /* that window's width */
    bool is_gated;   /* a second reconstruction, from the gate */
    bool is_by_norm; /* the penalty is weighted by the norms of a decoder that is free */
} rf_dense_pass;

/* step_dense_rows.c. Local: the rows of this rank. */

/* Gradients (log threshold's: of the threshold; b_dec's: the sum of g), row losses, counts, and
 * step->mean = this rank's share of the mean target. by_latent: what reaches the encoder of a gated
 * coder; by_latent2: sums of z times the loss's derivative through the penalty where the penalty is
 * by norm. */
rf_status rf_dense_gradients(const rf_dense_pass *d);
/* Counts and penalties of rows alone, by encoder products that are done again. */
rf_status rf_dense_survey(const rf_dense_pass *d);

#endif
