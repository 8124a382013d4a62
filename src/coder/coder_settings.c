/* The settings of one coder. */
#include "coder_impl.h"

#define FIELD(name) .offset = offsetof(rf_coder_settings, name)

/* Numbers of rf_token_class; `spatial` is another word for patch. */
static const char *const token_choices[] = {"all",    "cls",     "register", "patch",
                                            "pooled", "spatial", NULL};
enum { TOKENS_SPATIAL = RF_TOKENS_POOLED + 1 };

static const char *const b_dec_choices[] = {"geometric_median", "mean", "zeros", NULL};

static const rf_setting rows[] = {
    {.key = "name",
     .type = RF_SETTING_TEXT,
     FIELD(name),
     .size = RF_NAME_LEN,
     .fallback = "coder",
     .unit = "",
     .help = "Names its folder, its columns and its curves; {layer} is filled in by `each`."},
    {.key = "input",
     .type = RF_SETTING_TEXT,
     FIELD(input),
     .size = RF_NAME_LEN,
     .unit = "",
     .help = "Hook point that it learns, as blocks.8.hook_resid_post."},
    {.key = "tokens",
     .type = RF_SETTING_CHOICE,
     FIELD(tokens),
     .fallback = "all",
     .choices = token_choices,
     .unit = "",
     .help = "Tokens that it sees; spatial is another word for patch."},
    {.key = "architecture",
     .type = RF_SETTING_CHOICE,
     FIELD(architecture),
     .fallback = "topk",
     .choices = rf_architecture_names,
     .unit = "",
     .help = "topk: the k largest pre-activations, AuxK for dead latents. relu: all positive ones, "
             "with an L1 penalty."},
    {.key = "expansion",
     .type = RF_SETTING_I64,
     FIELD(expansion),
     .fallback = "16",
     .min = 1,
     .max = 65536,
     .unit = "",
     .help = "Latents for each dimension of the input."},
    {.key = "latents",
     .type = RF_SETTING_I64,
     FIELD(latents),
     .fallback = "0",
     .min = 0,
     .max = 1 << 30,
     .unit = "latents",
     .help = "Size of the dictionary; 0: expansion times the width of the input."},
    {.key = "k",
     .type = RF_SETTING_I64,
     FIELD(k),
     .fallback = "32",
     .min = 1,
     .max = 1 << 20,
     .unit = "latents",
     .help = "topk: how many latents a token may use."},
    {.key = "l1",
     .type = RF_SETTING_F64,
     FIELD(l1),
     .fallback = "1e-3",
     .min = 0,
     .max = 1e6,
     .unit = "",
     .help = "relu: weight of a token's summed values against |x - x_hat|^2 / V. Each value ends "
             "about l1 V / 2 too small, so that it pays to look at V before changing it."},
    {.key = "aux_alpha",
     .type = RF_SETTING_F64,
     FIELD(aux_alpha),
     .fallback = "0.03125",
     .min = 0,
     .max = 1e6,
     .unit = "",
     .help =
         "topk: weight of what dead latents leave unexplained of the residual; 0: no such term."},
    {.key = "aux_k",
     .type = RF_SETTING_I64,
     FIELD(aux_k),
     .fallback = "0",
     .min = 0,
     .max = 1 << 20,
     .unit = "latents",
     .help =
         "topk: how many dead latents a token uses for that; 0: the power of two nearest to half "
         "the width."},
    {.key = "dead_after_tokens",
     .type = RF_SETTING_I64,
     FIELD(dead_after_tokens),
     .fallback = "10e6",
     .min = 1,
     .max = 1e15,
     .unit = "tokens",
     .help = "A latent that has not fired for so many tokens is dead."},
    {.key = "b_dec",
     .type = RF_SETTING_CHOICE,
     FIELD(b_dec),
     .fallback = "geometric_median",
     .choices = b_dec_choices,
     .unit = "",
     .help = "Where the decoder's bias starts, from a fixed sample of what the coder sees."},
    {.key = "seed",
     .type = RF_SETTING_I64,
     FIELD(seed),
     .fallback = "0",
     .min = 0,
     .max = 1e15,
     .unit = "",
     .help = "Of the dictionary's random start."},
};

const rf_settings_table rf_coder_settings_table = {
    .section = "coders",
    .help = "What is trained: one map for each coder.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
};

rf_token_class rf_coder_token_class(const rf_coder_settings *settings)
{
    return settings->tokens == TOKENS_SPATIAL ? RF_TOKENS_PATCH : (rf_token_class)settings->tokens;
}

int64_t rf_coder_settings_latents(const rf_coder_settings *settings, int64_t width)
{
    return settings->latents > 0 ? settings->latents : settings->expansion * width;
}
