/* The settings of sections `model`, `train` and `output`. */
#include "run_impl.h"

#include <math.h>

#define MODEL(name) .offset = offsetof(rf_model_settings, name)
#define TRAIN(name) .offset = offsetof(rf_train_settings, name)
#define OUTPUT(name) .offset = offsetof(rf_output_settings, name)

#define PROCESS(name, text)                                                                        \
    {                                                                                              \
        .key = #name, .type = RF_SETTING_BOOL, MODEL(name), .fallback = "false", .unit = "",       \
        .help = text                                                                               \
    }

static const rf_setting model_rows[] = {
    {.key = "path",
     .type = RF_SETTING_TEXT,
     MODEL(path),
     .size = RF_PATH_LEN,
     .unit = "",
     .help = "Hugging Face directory of the transformer: config.json and safetensors."},
    {.key = "image_size",
     .type = RF_SETTING_I64,
     MODEL(image_size),
     .fallback = "0",
     .min = 0,
     .max = 65536,
     .unit = "pixels",
     .help = "Side of the pictures that the model sees; 0 is what its files say."},
    {.key = "row",
     .type = RF_SETTING_TEXT,
     MODEL(row),
     .size = RF_PATH_LEN,
     .fallback = "",
     .unit = "",
     .help = "YAML file that describes an architecture which Refract does not know by itself."},
    {.key = "products",
     .type = RF_SETTING_CHOICE,
     MODEL(products),
     .fallback = "fp32",
     .choices = rf_products_names,
     .unit = "",
     .help = "Precision of the transformer's matrix products; sums are fp32. A CPU takes fp32 for "
             "tf32."},
    PROCESS(fold_ln, "Fold the norms' weight and bias into the maps that read them."),
    PROCESS(center_writing_weights, "Take the mean out of what is written to the stream."),
    PROCESS(fold_value_biases, "Fold b_V into b_O."),
    PROCESS(refactor_attention, "W_V W_O and W_Q W_K^T as the factors of their SVD."),
};

const rf_settings_table rf_model_settings_table = {
    .section = "model",
    .help = "The vision transformer whose activations the coders learn.",
    .rows = model_rows,
    .n_rows = sizeof model_rows / sizeof model_rows[0],
};

static const char *const schedules[] = {"constant",        "linear", "cosine",
                                        "cosine_restarts", "decay",  NULL};
static const char *const optimisers[] = {"adam", "adamw", "signum", "schedule_free", "muon", NULL};
static const char *const resumes[] = {"never", "auto", "must", NULL};

static const rf_setting train_rows[] = {
    {.key = "batch_tokens",
     .type = RF_SETTING_I64,
     TRAIN(batch_tokens),
     .fallback = "4096",
     .min = 1,
     .max = 1 << 24,
     .unit = "tokens",
     .help = "Tokens of one step of a coder, over all ranks."},
    {.key = "epochs",
     .type = RF_SETTING_I64,
     TRAIN(epochs),
     .fallback = "1",
     .min = 1,
     .max = 1e9,
     .unit = "epochs",
     .help = "Times that every token is seen, each time in another order."},
    {.key = "total_tokens",
     .type = RF_SETTING_I64,
     TRAIN(total_tokens),
     .fallback = "0",
     .min = 0,
     .max = 1e15,
     .unit = "tokens",
     .help = "Stop after so many tokens, whatever `epochs` says; 0 lets `epochs` decide."},
    {.key = "lr",
     .type = RF_SETTING_F64,
     TRAIN(lr),
     .fallback = "4e-4",
     .min = 0,
     .max = 10,
     .unit = "",
     .help = "Learning rate at the end of the warm-up. Runs of hundreds of steps want more: 4e-3 "
             "to 8e-3 "
             "was best for 400 steps (docs/comparison.md)."},
    {.key = "schedule",
     .type = RF_SETTING_CHOICE,
     TRAIN(schedule),
     .fallback = "cosine",
     .choices = schedules,
     .unit = "",
     .help = "How the learning rate goes on after the warm-up, over the coder's own steps: "
             "constant; linear or cosine to lr_end; cosine_restarts, so many cosines as `restarts` "
             "says; decay, constant and then linear over the last decay_share."},
    {.key = "warmup_steps",
     .type = RF_SETTING_I64,
     TRAIN(warmup_steps),
     .fallback = "200",
     .min = 0,
     .max = 1e12,
     .unit = "steps",
     .help = "Steps over which the learning rate rises linearly, before any schedule; 0 is none."},
    {.key = "lr_end",
     .type = RF_SETTING_F64,
     TRAIN(lr_end),
     .fallback = "0",
     .min = 0,
     .max = 1,
     .unit = "share of lr",
     .help = "Floor that all schedules but constant fall to: 0.1 ends at a tenth of lr. (Prisma's "
             "lr_end is a rate that it multiplies by lr once more.)"},
    {.key = "restarts",
     .type = RF_SETTING_I64,
     TRAIN(restarts),
     .fallback = "1",
     .min = 1,
     .max = 1000,
     .unit = "cycles",
     .help =
         "Cycles of cosine_restarts, of one length, each from lr to lr_end (Loshchilov & Hutter "
         "2017)."},
    {.key = "decay_share",
     .type = RF_SETTING_F64,
     TRAIN(decay_share),
     .fallback = "0.2",
     .min = 0,
     .max = 1,
     .unit = "share of the steps",
     .help = "Last part of the steps, over which schedule decay falls to lr_end."},
    {.key = "optimiser",
     .type = RF_SETTING_CHOICE,
     TRAIN(optimiser),
     .fallback = "adam",
     .choices = optimisers,
     .unit = "",
     .help = "adam; adamw, the same with weight_decay (Loshchilov & Hutter 2019); signum, the sign "
             "of the first moment, half the memory (Bernstein et al. 2018); schedule_free, which "
             "evaluates an average and wants schedule constant (Defazio et al. 2024); muon, for "
             "the matrices, with adam for the rest (Jordan et al. 2024). Learning rates are not "
             "the same: signum wants about lr / 10, muon about 1e-2."},
    {.key = "beta1",
     .type = RF_SETTING_F64,
     TRAIN(beta1),
     .fallback = "0.9",
     .min = 0,
     .max = 0.999999,
     .unit = "",
     .help = "Decay of the first moment; muon's momentum, schedule_free's weight of the average."},
    {.key = "beta2",
     .type = RF_SETTING_F64,
     TRAIN(beta2),
     .fallback = "0.999",
     .min = 0,
     .max = 0.99999999,
     .unit = "",
     .help = "Adam's decay of the second moment."},
    {.key = "eps",
     .type = RF_SETTING_F64,
     TRAIN(eps),
     .fallback = "1e-8",
     .min = 1e-30,
     .max = 1,
     .unit = "",
     .help = "Adam's term against division by zero."},
    {.key = "weight_decay",
     .type = RF_SETTING_F64,
     TRAIN(weight_decay),
     .fallback = "0",
     .min = 0,
     .max = 1e6,
     .unit = "",
     .help =
         "Decoupled decay of W_enc, W_dec and W_skip: lr times this share of a weight goes at "
         "each update. Not with adam: that is adamw. Decoder rows of unit norm are brought back to "
         "it after."},
    {.key = "accumulate",
     .type = RF_SETTING_I64,
     TRAIN(accumulate),
     .fallback = "1",
     .min = 1,
     .max = 1e6,
     .unit = "batches",
     .help = "Batches whose mean gradient makes one update: as batches so many times larger, in "
             "less memory. Steps, warm-ups and schedules count batches."},
    {.key = "clip_norm",
     .type = RF_SETTING_F64,
     TRAIN(clip_norm),
     .fallback = "1",
     .min = 0,
     .max = 1e30,
     .unit = "",
     .help = "Largest norm of a coder's whole gradient, shortened to it above; 0 never clips."},
    {.key = "outlier_factor",
     .type = RF_SETTING_F64,
     TRAIN(outlier_factor),
     .fallback = "0",
     .min = 0,
     .max = 1e30,
     .unit = "times the mean",
     .help = "A batch whose loss is above so many running means of it is skipped and counted, as "
             "one whose loss or gradient is not finite always is; 0 takes every finite one. 10 is "
             "a wide guard."},
    {.key = "stop_metric",
     .type = RF_SETTING_TEXT,
     TRAIN(stop_metric),
     .size = sizeof((rf_train_settings *)0)->stop_metric,
     .fallback = "",
     .unit = "",
     .help = "Early stopping: max or min and a figure of metrics.jsonl, as in max "
             "explained_variance or min loss. Looked at in each line that is logged; empty is "
             "none."},
    {.key = "stop_patience",
     .type = RF_SETTING_I64,
     TRAIN(stop_patience),
     .fallback = "20",
     .min = 1,
     .max = 1e15,
     .unit = "lines",
     .help = "The coder is done when so many lines in a row did not improve on the best one: it "
             "stays as it is and learns no more."},
    {.key = "stop_min_change",
     .type = RF_SETTING_F64,
     TRAIN(stop_min_change),
     .fallback = "0",
     .min = 0,
     .max = 1e30,
     .unit = "",
     .help = "An improvement is more than this."},
    {.key = "bad_l0",
     .type = RF_SETTING_F64,
     TRAIN(bad_l0),
     .fallback = "0",
     .min = 0,
     .max = 1e15,
     .unit = "",
     .help = "A bad run: L0 is below this and explained variance below bad_ev in a line that is "
             "logged after the warm-ups; the coder then stops as failed. 0 here or there is off."},
    {.key = "bad_ev",
     .type = RF_SETTING_F64,
     TRAIN(bad_ev),
     .fallback = "0",
     .min = 0,
     .max = 1,
     .unit = "",
     .help = "See bad_l0."},
    {.key = "seed",
     .type = RF_SETTING_I64,
     TRAIN(seed),
     .fallback = "0",
     .min = 0,
     .max = 9007199254740992.0,
     .unit = "",
     .help =
         "Key of the order of the data, and of the weights of coders without a seed of their own."},
    {.key = "sample_tokens",
     .type = RF_SETTING_I64,
     TRAIN(sample_tokens),
     .fallback = "8192",
     .min = 2,
     .max = 1 << 24,
     .unit = "tokens",
     .help = "Tokens of the initial sample: b_dec is its geometric median, V its variance."},
    {.key = "max_skipped_share",
     .type = RF_SETTING_F64,
     TRAIN(max_skipped_share),
     .fallback = "0.1",
     .min = 0,
     .max = 1,
     .unit = "share",
     .help = "A coder fails when more of its batches than this were skipped: for NaN, infinity or "
             "outlier_factor."},
    {.key = "device",
     .type = RF_SETTING_CHOICE,
     TRAIN(device),
     .fallback = "auto",
     .choices = rf_device_names,
     .unit = "",
     .help = "Where the arithmetic is done; auto takes a GPU where there is one."},
    {.key = "ranks_per_coder",
     .type = RF_SETTING_I64,
     TRAIN(ranks_per_coder),
     .fallback = "0",
     .min = 0,
     .max = 1 << 20,
     .unit = "ranks",
     .help = "Deal the coders out over groups of so many ranks, each of which holds and trains its "
             "own; must divide the number of ranks. 0 trains every coder on all ranks. `refract "
             "plan` says which is faster (docs/running.md)."},
    {.key = "coders_at_once",
     .type = RF_SETTING_I64,
     TRAIN(coders_at_once),
     .fallback = "0",
     .min = 0,
     .max = 1e9,
     .unit = "coders",
     .help = "Coders of one pass over the data, in the order of the list; the others wait for the "
             "next, which reads the pictures anew. 0 trains all from one reading. `refract plan` "
             "says how many fit in memory."},
    {.key = "threads",
     .type = RF_SETTING_I64,
     TRAIN(threads),
     .fallback = "0",
     .min = 0,
     .max = 4096,
     .unit = "threads",
     .help = "Threads of each rank; 0 is OMP_NUM_THREADS, else the cores of the host shared by its "
             "ranks."},
    {.key = "checkpoint_every",
     .type = RF_SETTING_I64,
     TRAIN(checkpoint_every),
     .fallback = "1000",
     .min = 1,
     .max = 1e15,
     .unit = "steps",
     .help = "Steps between two checkpoints; there is always one at the end."},
    {.key = "keep_checkpoints",
     .type = RF_SETTING_I64,
     TRAIN(keep_checkpoints),
     .fallback = "2",
     .min = 1,
     .max = 1e9,
     .unit = "files",
     .help = "The newest so many checkpoints stay, and the last of each pass that is over."},
    {.key = "log_every",
     .type = RF_SETTING_I64,
     TRAIN(log_every),
     .fallback = "10",
     .min = 1,
     .max = 1e15,
     .unit = "steps",
     .help = "Steps between two lines of metrics for each coder."},
    {.key = "resume",
     .type = RF_SETTING_CHOICE,
     TRAIN(resume),
     .fallback = "never",
     .choices = resumes,
     .unit = "",
     .help = "Go on from the newest whole checkpoint: never, auto (where there is one), must."},
};

const rf_settings_table rf_train_settings_table = {
    .section = "train",
    .help = "How the coders are trained. A coder may repeat these for itself, but for what belongs "
            "to the whole run: seed, device, ranks_per_coder, coders_at_once, threads, "
            "checkpoint_every, keep_checkpoints, log_every and resume.",
    .rows = train_rows,
    .n_rows = sizeof train_rows / sizeof train_rows[0],
};

rf_status rf_train_settings_check(const rf_train_settings *settings)
{
    rf_status status = RF_OK;
    if (settings->weight_decay > 0 && settings->optimiser == RF_OPTIMISER_ADAM) {
        RF_FAIL(RF_ERR_SETTING,
                "train.weight_decay = %g: adam has none; choose train.optimiser: adamw",
                settings->weight_decay);
    }
    if ((settings->bad_l0 > 0) != (settings->bad_ev > 0)) {
        RF_FAIL(RF_ERR_SETTING,
                "train.%s is set and train.%s is not: a bad run is one with both L0 and explained "
                "variance too low",
                settings->bad_l0 > 0 ? "bad_l0" : "bad_ev",
                settings->bad_l0 > 0 ? "bad_ev" : "bad_l0");
    }
    RF_TRY(rf_stopping_check(settings));
fail:
    return status;
}

bool rf_train_setting_is_of_run(const char *key)
{
    static const char *const keys[] = {"seed",
                                       "device",
                                       "ranks_per_coder",
                                       "coders_at_once",
                                       "threads",
                                       "checkpoint_every",
                                       "keep_checkpoints",
                                       "log_every",
                                       "resume",
                                       NULL};
    return rf_setting_keys_have(keys, key);
}

static const rf_setting output_rows[] = {
    {.key = "dir",
     .type = RF_SETTING_TEXT,
     OUTPUT(dir),
     .size = RF_PATH_LEN,
     .unit = "",
     .help = "Folder of the run; it is made where it is not there."},
    {.key = "select",
     .type = RF_SETTING_TEXT,
     OUTPUT(select),
     .size = sizeof((rf_output_settings *)0)->select,
     .fallback = "",
     .unit = "",
     .help = "Which coder is marked as the best in summary.csv, by its last whole training batch: "
             "max ev where l0 <= 500 and dead < 100."},
    {.key = "published",
     .type = RF_SETTING_TEXT,
     OUTPUT(published),
     .size = RF_PATH_LEN,
     .fallback = "",
     .unit = "",
     .help = "CSV file of figures that others published for coders of the same names: train and "
             "report end with both side by side (docs/prisma.md); empty is none."},
};

const rf_settings_table rf_output_settings_table = {
    .section = "output",
    .help = "Where the run is written.",
    .rows = output_rows,
    .n_rows = sizeof output_rows / sizeof output_rows[0],
};
