/* The settings of one coder. */
#include "coder_impl.h"

#include <math.h>
#include <string.h>

/* Numbers of rf_token_class; `spatial` is another word for patch. */
static const char *const token_choices[] = {"all",    "cls",     "register", "patch",
                                            "pooled", "spatial", NULL};
enum { TOKENS_SPATIAL = RF_TOKENS_POOLED + 1 };

/* Words of the enums in coder.h, in their order. */
static const char *const class_choices[] = {"cls", "register", "patch|spatial", NULL};
static const char *const b_dec_choices[] = {"geometric_median", "mean", "zeros", NULL};
static const char *const w_enc_choices[] = {"tied", "independent", NULL};
static const char *const decoder_choices[] = {"free", "unit", "archetypal", NULL};
static const char *const subtract_choices[] = {"auto", "yes", "no", NULL};
static const char *const ghost_choices[] = {"none", "original", "prisma", NULL};
static const char *const resample_choices[] = {"none", "loss", "data", NULL};
static const char *const selection_choices[] = {"topk", "batch_topk", NULL};
static const char *const penalty_choices[] = {"auto", "l1", "lp", "tanh", "l0", "target_l0", NULL};
static const char *const normalise_choices[] = {"none",    "layer",         "constant",
                                                "average", "per_dimension", NULL};

/* A row: the key is the name of the field. */
#define ROW(field, type_, fallback_, min_, max_, unit_, help_)                                     \
    .key = #field, .type = type_, .offset = offsetof(rf_coder_settings, field),                    \
    .fallback = fallback_, .min = min_, .max = max_, .unit = unit_, .help = help_
#define WHOLE(field, fallback, min, max, unit, help)                                               \
    {                                                                                              \
        ROW(field, RF_SETTING_I64, fallback, min, max, unit, help)                                 \
    }
#define NUMBER(field, fallback, min, max, unit, help)                                              \
    {                                                                                              \
        ROW(field, RF_SETTING_F64, fallback, min, max, unit, help)                                 \
    }
#define FLAG(field, help)                                                                          \
    {                                                                                              \
        ROW(field, RF_SETTING_BOOL, "false", 0, 0, "", help)                                       \
    }
#define CHOICE(field, fallback, words, help)                                                       \
    {                                                                                              \
        ROW(field, RF_SETTING_CHOICE, fallback, 0, 0, "", help), .choices = words                  \
    }
#define NAMES(field, fallback, help)                                                               \
    {                                                                                              \
        ROW(field, RF_SETTING_NAMES, fallback, 0, RF_MAX_SITES, "", help), .size = RF_SITES_LEN    \
    }

static const rf_setting rows[] = {
    {ROW(name, RF_SETTING_TEXT, "coder", 0, 0, "",
         "Names its folder, its columns and its curves; {layer} is filled in by `each`."),
     .size = RF_NAME_LEN},
    NAMES(input, NULL,
          "Hook point that it reads, as blocks.8.hook_resid_post, of another model than the first "
          "as model:blocks.8.hook_resid_post. A list of them side by side is a crosscoder (Lindsey "
          "et al. 2024)."),
    NAMES(target, "",
          "Hook point, or a list, that it reconstructs: a transcoder, as from "
          "blocks.8.ln2.hook_normalized to blocks.8.hook_mlp_out. Empty: its input."),
    CHOICE(tokens, "all", token_choices, "Tokens that it sees; spatial is another word for patch."),
    NUMBER(
        max_norm, "0", 0, 1e30, "",
        "Tokens whose norm (of all sites together) is larger are left out of training; 0: none."),
    CHOICE(architecture, "topk", rf_architecture_names,
           "topk: the k largest pre-activations of a token (Gao et al. 2024). relu: all positive "
           "ones, with a penalty. batch_topk: the largest of the whole batch, k a token on average "
           "(Bussmann et al. 2024). jumprelu: those above learnt thresholds (Rajamanoharan et al. "
           "2024). gated: a gate with the penalty, and values without it (Rajamanoharan et al. "
           "2024). matryoshka: prefixes of the dictionary each reconstruct (Bussmann et al. 2025). "
           "multi_topk: topk that also counts the reconstruction from 4 k. p_anneal: relu with sum "
           "z^p, p falling (Karvonen et al. 2024)."),
    WHOLE(expansion, "16", 1, 65536, "", "Latents for each dimension of the input."),
    WHOLE(latents, "0", 0, 1 << 30, "latents",
          "Size of the dictionary; 0: expansion times the width of the input."),
    {ROW(k, RF_SETTING_I64_BY, "32", 1, 1 << 20, "latents",
         "topk, multi_topk, batch_topk, matryoshka: how many latents a token may use (on average "
         "where a batch shares them). By class of token as {cls: 256, patch: 64}; where a batch "
         "shares them, each class then shares its own. A class that is not named takes `any` of "
         "the map, else the largest."),
     .choices = class_choices},
    NUMBER(k_start, "1", 1, 1e6, "times k",
           "How much larger k is at the first step; many latents learn early and fewer die. It "
           "falls to k over k_steps."),
    WHOLE(k_steps, "0", 0, 1e12, "steps", "Steps until k is what it says; 0: from the first on."),
    NUMBER(l1, "1e-3", 0, 1e6, "",
           "relu, gated, p_anneal, jumprelu with a penalty of values: its weight against |y - "
           "y_hat|^2 / V. Under an L1 each value ends about l1 V / 2 too small, so that it pays to "
           "look at V before changing it."),
    NUMBER(
        l0, "1e-3", 0, 1e6, "",
        "jumprelu: weight of the number of active latents, or of (L0 / target_l0 - 1)^2, against "
        "|y - y_hat|^2 / V: a latent lasts while it explains more than this share of V."),
    NUMBER(target_l0, "20", 0, 1 << 30, "latents",
           "jumprelu with penalty target_l0: the number of active latents to aim at."),
    WHOLE(sparsity_warmup_steps, "0", 0, 1e12, "steps",
          "l1 and l0 rise linearly from 0 over these steps: latents find their direction before "
          "they are pressed."),
    CHOICE(
        penalty, "auto", penalty_choices,
        "What keeps codes few. auto: relu and gated l1, p_anneal sum z^p, jumprelu l0. lp: the "
        "p-norm of a token's values (Prisma's lp_norm). tanh: sum tanh(tanh_scale z) (Anthropic, "
        "January 2025). target_l0: (L0 / target_l0 - 1)^2 of the batch."),
    FLAG(
        penalty_by_norm,
        "With decoder free: each value counts times the norm of its decoder row, of all sites of a "
        "crosscoder together (Anthropic, April 2024), so that rows cannot grow to make values "
        "cheap."),
    NUMBER(p, "1", 0, 1000, "", "Exponent of penalty lp; 1 is l1."),
    NUMBER(p_end, "0.2", 0, 1, "", "p_anneal: where p ends (Karvonen et al. 2024)."),
    NUMBER(p_anneal_from, "0.1", 0, 1, "share of the steps", "p_anneal: p is 1 until then."),
    WHOLE(p_anneal_stages, "10", 1, 1e6, "stages",
          "p_anneal: equal steps of p to p_end. l1 follows each, so that the penalty of a recent "
          "batch does not jump."),
    NUMBER(tanh_scale, "4", 0, 1e6, "",
           "penalty tanh: values above about 1 over this count alike (Anthropic, January 2025)."),
    NUMBER(
        threshold_start, "0.05", 0, 1e6, "norms of a token",
        "jumprelu: where thresholds start, in root mean square norms of what the encoder sees, "
        "so that it means the same for every layer. A token's product with a random direction is "
        "about 1 / sqrt(width) of that, and a threshold moves by about lr a step in its "
        "logarithm: the paper's 0.001 is for runs of very many steps (docs/comparison.md)."),
    NUMBER(bandwidth, "0.05", 0, 1e6, "norms of a token",
           "jumprelu: width of the window around a threshold in which pre-activations move it, in "
           "the same unit. Wider is smoother and more biased; Anthropic's form takes windows far "
           "wider than thresholds."),
    NUMBER(pre_activation, "0", 0, 1e6, "",
           "jumprelu: weight of sum relu(theta - h) |d| over dead latents, which pulls them back "
           "into use (Anthropic, January 2025, 3e-6); 0: no such term."),
    FLAG(ste_to_input, "jumprelu: the window's gradient reaches all weights, not thresholds alone "
                       "(Anthropic, January 2025)."),
    CHOICE(selection, "batch_topk", selection_choices,
           "matryoshka: how codes are selected, once over the whole dictionary."),
    NUMBER(second_weight, "0.125", 0, 1e6, "",
           "multi_topk: weight of the reconstruction from 4 k latents (Gao et al. 2024)."),
    WHOLE(n_prefixes, "5", 1, RF_MAX_GROUPS, "prefixes",
          "matryoshka: how many; they end at F, F/2, F/4, ... and count alike."),
    FLAG(random_prefixes, "matryoshka: ends are drawn afresh for every step, small ones more often "
                          "(Pareto, exponent 0.5); the last is F."),
    NUMBER(
        threshold_rate, "0.001", 1e-9, 1, "of a step",
        "batch_topk: a step's weight in the running mean of the least value kept, the threshold "
        "in use; more of it while that mean would be over more than the last tenth of the steps."),
    FLAG(skip, "Transcoders of equal widths: y_hat also gets W_skip x, W_skip from 0 (Paulo et al. "
               "2025): latents need not explain what is linear."),
    CHOICE(
        subtract, "auto", subtract_choices,
        "Whether the encoder sees x - b_dec. auto: yes where one site reconstructs itself, no of "
        "crosscoders and transcoders."),
    CHOICE(decoder, "unit", decoder_choices,
           "Rows of W_dec. unit: norm 1 (norms of a crosscoder's sites sum to 1). free: any norm, "
           "for penalty_by_norm. archetypal: near mixtures of data points, for dictionaries that "
           "come out alike whatever the seed (Fel et al. 2025)."),
    WHOLE(archetypal_points, "1024", 1, 1 << 20, "tokens",
          "archetypal: data points that rows mix, drawn from the initial sample (Fel et al. take "
          "k-means centroids)."),
    NUMBER(archetypal_delta, "1", 0, 1e6, "",
           "archetypal: how far a row may leave the mixtures, before the common scale."),
    CHOICE(
        w_enc, "tied", w_enc_choices,
        "Start of W_enc. tied: a copy of W_dec. independent: random rows of norm 1, needed where "
        "input and target differ in width."),
    NUMBER(
        data_blend, "0", 0, 1, "",
        "Share of a data point in each starting row of W_dec, the rest is random; 0.8 left fewer "
        "dead latents in others' runs."),
    NUMBER(decoder_start_norm, "0.1", 1e-9, 1e6, "",
           "decoder free: norm of its rows at the start (Anthropic, April 2024: 0.05 to 1)."),
    CHOICE(b_dec, "geometric_median", b_dec_choices,
           "Where the decoder's bias starts, from a fixed sample of what the coder sees."),
    CHOICE(
        normalise, "none", normalise_choices,
        "What a coder sees of its tokens, undone at its output. layer: each token less its mean, "
        "by its deviation. constant: each token of norm sqrt(D). average: one factor, so that the "
        "mean norm is sqrt(D). per_dimension: each dimension less its mean, by its deviation. "
        "Sites apart."),
    NUMBER(aux_alpha, "0.03125", 0, 1e6, "",
           "Weight of what dead latents leave unexplained of the residual (AuxK, Gao et al. 2024); "
           "0: no such term. It needs positive pre-activations, which dead latents of rules with a "
           "k have; dead ReLU latents seldom do."),
    WHOLE(aux_k, "0", 0, 1 << 20, "latents",
          "How many dead latents a token uses for that. 0: the power of two nearest to half the "
          "width in architectures with k, and no such term in others."),
    WHOLE(dead_after_tokens, "10e6", 1, 1e15, "tokens",
          "A latent that has not fired for so many tokens is dead."),
    CHOICE(ghost, "none", ghost_choices,
           "Ghost gradients: dead latents learn the residual through exp(h) (Anthropic, January "
           "2024, who later dropped them). prisma: as Prisma's code has it, for old figures."),
    CHOICE(resample, "none", resample_choices,
           "Dead latents start anew on tokens of the batch (Bricken et al. 2023). loss: drawn by "
           "their squared loss. data: all alike."),
    WHOLE(resample_every, "0", 0, 1e12, "steps", "How often; Bricken et al.: 25000."),
    WHOLE(resample_until, "0", 0, 1e12, "steps", "Not after this step; 0: to the end."),
    CHOICE(products, "fp32", rf_products_names,
           "Numbers that the encoder's product multiplies. bf16 and tf32 are faster where the "
           "device has them (a CPU takes fp32 for tf32); topk's codes keep the same bits, as "
           "products only nominate."),
    FLAG(prisma_compat,
         "Where the paper's meaning and Prisma's code differ, take the code's: b_dec "
         "starts from raw tokens whatever `normalise` says, ghost may be prisma."),
    WHOLE(seed, "0", 0, 1e15, "", "Of the dictionary's random start."),
};

const rf_settings_table rf_coder_settings_table = {
    .section = "coders",
    .help = "What is trained: one map for each coder.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
};

const char *rf_coder_choice_word(const char *key, int choice)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strcmp(rows[i].key, key) == 0) {
            return rows[i].choices[choice];
        }
    }
    return "?";
}

rf_token_class rf_coder_token_class(const rf_coder_settings *settings)
{
    return settings->tokens == TOKENS_SPATIAL ? RF_TOKENS_PATCH : (rf_token_class)settings->tokens;
}

int64_t rf_coder_settings_latents(const rf_coder_settings *settings, int64_t width)
{
    return settings->latents > 0 ? settings->latents : settings->expansion * width;
}

int64_t rf_k_max(const rf_k_by_class *k)
{
    int64_t most = k->any;
    for (int c = 0; c < 3; c++) {
        most = rf_max_i64(most, k->of[c]);
    }
    return most;
}

int64_t rf_k_of(const rf_k_by_class *k, rf_token_class token_class)
{
    int64_t of = 0;
    if (token_class == RF_TOKENS_CLS || token_class == RF_TOKENS_REGISTER ||
        token_class == RF_TOKENS_PATCH) {
        of = k->of[token_class - RF_TOKENS_CLS];
    }
    return of > 0 ? of : k->any > 0 && token_class != RF_TOKENS_ALL ? k->any : rf_k_max(k);
}

int rf_coder_sites(const char *sites, char out[RF_MAX_SITES][RF_NAME_LEN])
{
    int n = 0;
    while (*sites != '\0' && n < RF_MAX_SITES) {
        size_t len = strcspn(sites, ",");
        size_t kept = len < RF_NAME_LEN ? len : RF_NAME_LEN - 1;
        memcpy(out[n], sites, kept);
        out[n++][kept] = '\0';
        sites += len;
        sites += strspn(sites, ", ");
    }
    return n;
}
