/* Which settings mean nothing, alone or together, or for a shape. */
#include "coder_impl.h"

static int64_t sum_widths(const int64_t *widths, int n)
{
    int64_t sum = 0;
    for (int i = 0; i < n; i++) {
        sum += widths[i];
    }
    return sum;
}

static rf_status check_sites(const char *what, const int64_t *widths, int n, int at_least)
{
    rf_status status = RF_OK;
    RF_REQUIRE(n >= at_least && n <= RF_MAX_SITES, "%s: %d sites, expected %d to %d", what, n,
               at_least, RF_MAX_SITES);
    for (int i = 0; i < n; i++) {
        RF_REQUIRE(widths[i] >= 1 && widths[i] <= INT32_MAX, "%s: width %" PRId64 ", expected >= 1",
                   what, widths[i]);
    }
fail:
    return status;
}

static rf_status check_size(const rf_coder_settings *settings, const rf_coder_shape *shape,
                            int64_t *n_latents)
{
    rf_status status = RF_OK;
    int64_t d = sum_widths(shape->in, shape->n_in), e = sum_widths(shape->out, shape->n_out);
    int64_t f = settings->latents, n;
    if (f <= 0) {
        RF_TRY(rf_mul_i64(settings->expansion, d, "latents", &f));
    }
    RF_REQUIRE(f >= 1 && f <= INT32_MAX, "%" PRId64 " latents, expected 1 to 2^31 - 1", f);
    RF_TRY(rf_mul_i64(f, (d + rf_max_i64(d, e)) * 8, "bytes of a coder's weights", &n));
    if (settings->decoder == RF_DECODER_ARCHETYPAL) {
        RF_TRY(rf_mul_i64(f, settings->archetypal_points * 8, "bytes of a coder's archetypes", &n));
    }
    *n_latents = f;
fail:
    return status;
}

/* The penalty is one that the architecture can have. */
static rf_status check_penalty(const rf_coder_settings *settings, const rf_architecture *a)
{
    rf_status status = RF_OK;
    rf_penalty_choice p = (rf_penalty_choice)settings->penalty;
    const char *word = rf_coder_choice_word("penalty", settings->penalty);
    bool counts = p == RF_PENALTY_CHOICE_L0 || p == RF_PENALTY_CHOICE_TARGET_L0;
    bool bends = p == RF_PENALTY_CHOICE_LP || p == RF_PENALTY_CHOICE_TANH;

    if (!a->may_be_dense) {
        RF_REQUIRE(p == RF_PENALTY_CHOICE_AUTO,
                   "penalty: %s of a %s coder: its k says how sparse codes are", word, a->name);
        RF_REQUIRE(!settings->penalty_by_norm, "penalty_by_norm: a %s coder has no penalty",
                   a->name);
    }
    RF_REQUIRE(!counts || a->act == RF_CODER_JUMP,
               "penalty: %s has no gradient without a threshold: use architecture: jumprelu", word);
    RF_REQUIRE(!bends ||
                   (a->may_be_dense && a->act != RF_CODER_GATED && a->penalty != RF_PENALTY_POWER),
               "penalty: %s is of relu and jumprelu, not of %s", word, a->name);
    RF_REQUIRE(p != RF_PENALTY_CHOICE_L1 || a->penalty != RF_PENALTY_POWER,
               "penalty: l1 of a p_anneal coder, whose penalty is sum z^p: use architecture: relu");
    RF_REQUIRE(p != RF_PENALTY_CHOICE_LP || (settings->p > 0.0 && settings->p <= 1e3),
               "p is %g, expected above 0", settings->p);
    RF_REQUIRE(p != RF_PENALTY_CHOICE_TANH || settings->tanh_scale > 0.0,
               "tanh_scale is %g, expected above 0", settings->tanh_scale);
    RF_REQUIRE(!settings->penalty_by_norm ||
                   !(counts || (a->act == RF_CODER_JUMP && p == RF_PENALTY_CHOICE_AUTO)),
               "penalty_by_norm: a penalty that counts latents (%s) has no values to weigh",
               p == RF_PENALTY_CHOICE_AUTO ? "jumprelu's l0" : word);
    RF_REQUIRE(a->penalty != RF_PENALTY_POWER || !(settings->p > 1.0 || settings->p < 1.0),
               "p is %g: a p_anneal coder goes from 1 to p_end; p is of penalty lp", settings->p);
    RF_REQUIRE(
        !settings->penalty_by_norm || settings->decoder == RF_DECODER_FREE,
        "penalty_by_norm: decoder is %s, and norms weigh a penalty only where they are free: "
        "add decoder: free",
        rf_coder_choice_word("decoder", settings->decoder));
fail:
    return status;
}

/* What is of one architecture alone. */
static rf_status check_own(const rf_coder_settings *settings, const rf_architecture *a)
{
    rf_status status = RF_OK;
    RF_REQUIRE(a->act == RF_CODER_JUMP ||
                   !(settings->pre_activation > 0.0 || settings->ste_to_input),
               "%s is of jumprelu, not of %s",
               settings->ste_to_input ? "ste_to_input" : "pre_activation", a->name);
    RF_REQUIRE(a->prefixes != NULL || !settings->random_prefixes,
               "random_prefixes is of matryoshka, not of %s", a->name);
    RF_REQUIRE(settings->k_start <= 1.0 || settings->k_steps > 0,
               "k_start is %g: say over how many steps k falls from there (k_steps)",
               settings->k_start);
    RF_REQUIRE(!a->may_be_dense || settings->k_steps == 0,
               "k_steps: a %s coder has no k that could fall", a->name);
    RF_REQUIRE(a->may_be_dense || settings->decoder != RF_DECODER_FREE,
               "decoder: free of a %s coder: it selects by values, so decoder rows must have one "
               "norm (decoder: unit)",
               a->name);
fail:
    return status;
}

static rf_status check_dead(const rf_coder_settings *settings, const rf_architecture *a)
{
    rf_status status = RF_OK;
    RF_REQUIRE(settings->ghost == RF_GHOST_NONE || !rf_coder_wants_aux(settings, a),
               "ghost and the auxiliary term are two remedies of the same ill: with ghost: %s add "
               "aux_alpha: 0",
               rf_coder_choice_word("ghost", settings->ghost));
    RF_REQUIRE(settings->ghost != RF_GHOST_PRISMA || settings->prisma_compat,
               "ghost: prisma differs from what was published and needs prisma_compat: true; "
               "ghost: original does not");
    RF_REQUIRE(settings->resample == RF_RESAMPLE_NONE || settings->resample_every >= 1,
               "resample: %s needs resample_every, in steps",
               rf_coder_choice_word("resample", settings->resample));
    RF_REQUIRE(settings->resample != RF_RESAMPLE_NONE || settings->resample_every == 0,
               "resample_every is %" PRId64 " but resample is none: say resample: loss",
               settings->resample_every);
    RF_REQUIRE(settings->resample != RF_RESAMPLE_NONE || settings->resample_until == 0,
               "resample_until is %" PRId64 " but resample is none: say resample: loss",
               settings->resample_until);
fail:
    return status;
}

static rf_status check_transcoder(const rf_coder_settings *settings, const rf_coder_shape *shape)
{
    rf_status status = RF_OK;
    int64_t d = sum_widths(shape->in, shape->n_in), e = sum_widths(shape->out, shape->n_out);
    bool is_transcoder = shape->n_out > 0;

    RF_REQUIRE(!settings->skip || is_transcoder,
               "skip: a coder that reconstructs its own input would learn the identity; it is of "
               "transcoders (target)");
    RF_REQUIRE(!settings->skip || d == e,
               "skip: the input is %" PRId64 " wide and the target %" PRId64
               ", and only equal widths can be skipped",
               d, e);
    RF_REQUIRE(!is_transcoder || settings->subtract != RF_SUBTRACT_YES,
               "subtract: the decoder's bias of a transcoder is of its target, not of its input");
    RF_REQUIRE(!is_transcoder || d == e || settings->w_enc != RF_W_ENC_TIED,
               "w_enc: tied, but the input is %" PRId64 " wide and the target %" PRId64
               ": add w_enc: independent",
               d, e);
fail:
    return status;
}

rf_status rf_coder_check(const rf_coder_settings *settings, const rf_coder_shape *shape)
{
    rf_status status = RF_OK;
    const rf_architecture *a = rf_architecture_at(settings->architecture);
    const rf_k_by_class *k = &settings->k;
    int64_t n_latents = 0;

    RF_REQUIRE(a != NULL, "architecture %d does not exist", settings->architecture);
    RF_TRY(check_sites("input", shape->in, shape->n_in, 1));
    RF_TRY(check_sites("target", shape->out, shape->n_out, 0));
    RF_TRY(check_size(settings, shape, &n_latents));
    RF_TRY_DOING(a->check(settings, n_latents), "%s", a->name);
    RF_TRY(check_own(settings, a));
    RF_TRY(check_penalty(settings, a));
    RF_TRY(check_dead(settings, a));
    RF_TRY(check_transcoder(settings, shape));
    RF_REQUIRE(rf_coder_token_class(settings) != RF_TOKENS_POOLED ||
                   (k->of[0] == 0 && k->of[1] == 0 && k->of[2] == 0),
               "k by class, but pooled tokens have none: write one number");
    RF_REQUIRE(settings->decoder != RF_DECODER_ARCHETYPAL || settings->archetypal_points >= 1,
               "archetypal_points is %" PRId64 ", expected >= 1", settings->archetypal_points);
fail:
    return status;
}
