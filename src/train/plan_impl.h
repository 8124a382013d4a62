/* What the files of `plan` share: plan.c what there is and the tables, plan_speed.c how fast this
 * machine is, plan_layout.c passes and dealing, plan_device.c what lies on a device, plan_advice.c
 * what to change where that is too much. */
#ifndef REFRACT_PLAN_IMPL_H
#define REFRACT_PLAN_IMPL_H

#include "run_impl.h"

/* A hook point of a model, and the rows of it that some coder of a pass sees. */
typedef struct rf_planned_site {
    int model;
    rf_hook_point point;
    int64_t first_row, end_row;
} rf_planned_site;

/* Rows from first_row on that a coder sees of a site. */
typedef struct rf_planned_read {
    int64_t site, first_row;
} rf_planned_read;

typedef struct rf_planned_coder {
    const rf_coder_spec *spec;
    const rf_architecture *architecture;
    rf_coder_shape shape;
    rf_coder_cost cost; /* on the ranks that the settings give it */
    rf_planned_read reads[2 * RF_MAX_SITES];
    int n_reads;
    int64_t n_rows; /* of a picture, that the coder sees */
    int64_t n_tokens, n_steps;
    double epochs;
} rf_planned_coder;

typedef struct rf_plan {
    const rf_run_settings *settings;
    int n_ranks;
    int64_t n_threads;
    rf_vit_config models[RF_MAX_MODELS]; /* not read where there is a store: */
    rf_store *store;                     /* all activations come from it; NULL: live */
    int64_t n_pictures;                  /* of activations.share */
    int64_t n_listed;                    /* to train on, in all */
    double picture_bytes;                /* one epoch; of a store, its values */
    rf_planned_coder *coders;
    rf_planned_site *sites; /* [n_sites], each once */
    int64_t n_sites;
    double flop_per_s, bytes_per_s; /* of one rank */
    bool on_device;                 /* the arithmetic is done on a device with memory of its own, */
    bool is_here;                   /* and this machine has one */
    double free_bytes;              /* for each rank, of the device or of this machine; 0: not
                                       known */
} rf_plan;

/* One reading of the pictures for coders first .. end - 1. */
typedef struct rf_plan_reading {
    double site_bytes;             /* of one picture's activations, all points that are read */
    int64_t layers[RF_MAX_MODELS]; /* the deepest that is read; -2: the model is not */
    double epochs, kept_share;
    double n_forward; /* pictures through the models, all epochs */
    double flop;      /* of the models, all ranks */
} rf_plan_reading;

/* What the fullest rank holds. `all` is of its device where it has one: without `kept` then, which
 * is part of `host`. */
typedef struct rf_plan_memory {
    double parameters, moments, gradients, work, pool, kept, model, all;
    double images, scratch, libraries, host; /* with a device alone */
} rf_plan_memory;

/* What a step on a device has room for: of each array as much as the coder that needs most. Of a
 * token where nothing else is said. */
typedef struct rf_plan_step {
    double rows, in, out, latents, sites;
    double gradients; /* bytes */
    double entries[RF_MAX_LISTS], columns[RF_MAX_LISTS];
    bool own_target, may_be_dense, is_gated, is_batch, has_entries;
} rf_plan_step;

/* A way to deal coders out and to cut them into passes, and what comes of it. */
typedef struct rf_plan_layout {
    int64_t ranks_per_coder, coders_at_once; /* as the settings say them: 0 is all */
    int64_t n_passes;
    rf_plan_memory memory; /* of the fullest pass */
    double n_forward, model_flop;
    double model_seconds, step_seconds; /* of all passes, one after the other */
} rf_plan_layout;

/* The sites of a pass and what goes through the models. Local, as all of these. */
void rf_plan_read(rf_plan *p, int64_t first, int64_t end, rf_plan_reading *out);
/* Fill the rest of `layout` from its two settings. `out` (may be NULL) gets a line for each pass
 * and each group of ranks. */
rf_status rf_plan_lay_out(rf_plan *p, rf_plan_layout *layout, rf_str *out);
/* Memory and passes as the settings say, and the way that would be chosen. */
rf_status rf_plan_append_layouts(rf_plan *p, const rf_plan_layout *set, rf_str *out);
/* As few passes as fit, with so many ranks a coder; what is left is one coder at a time. */
rf_status rf_plan_find_passes(rf_plan *p, int64_t ranks_per_coder, rf_plan_layout *out);
/* There is room, as far as anybody knows. */
bool rf_plan_fits(const rf_plan *p, const rf_plan_layout *layout);
/* Bytes of the models: weights and one group of pictures. */
double rf_plan_model_bytes(const rf_plan *p);

/* ---- plan_speed.c ------------------------------------------------------------------------------
 */

/* Where the arithmetic will be done, what memory there is (`device_bytes`, or 0: ask the device),
 * and how fast a product is: on this machine's CPU where it has no device to ask. */
rf_status rf_plan_measure(rf_plan *p, double device_bytes);

/* ---- plan_device.c -----------------------------------------------------------------------------
 */

void rf_plan_step_add(rf_plan_step *s, const rf_planned_coder *c, const rf_coder_cost *cost);
/* Bytes of the step's arrays but for gradients, with `n_ranks` ranks a coder. */
double rf_plan_step_work(const rf_plan_step *s, int n_ranks);
/* Of one coder: scratch of its steps, rows for its start values, its ghost gradients. */
double rf_plan_step_scratch(const rf_planned_coder *c, const rf_coder_cost *cost, int n_ranks);
double rf_plan_start_bytes(const rf_planned_coder *c, const rf_coder_cost *cost);
double rf_plan_ghost_bytes(const rf_planned_coder *c, const rf_coder_cost *cost);
/* Add what every rank's device holds, and all up. kept is there. */
void rf_plan_device_common(const rf_plan *p, const rf_plan_reading *r, rf_plan_memory *m);

/* ---- plan_advice.c -----------------------------------------------------------------------------
 */

/* Whether `set` fits on the devices and, where it does not, settings each of which alone would. */
rf_status rf_plan_append_advice(rf_plan *p, const rf_plan_layout *set, rf_str *out);

#endif
