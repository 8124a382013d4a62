/* What a model costs, by its config alone: bytes of weights, arithmetic of a pass. */
#include "vit_impl.h"

static int64_t patch_elems(const rf_vit_config *c)
{
    return c->input == RF_VIT_TEXT ? 0 : c->n_channels * c->tubelet * c->patch_size * c->patch_size;
}

/* Weights of one attention or MLP map, in and out widths, with its bias: a config does not say
 * which biases are there, and they are few. */
static int64_t linear_floats(int64_t n_in, int64_t n_out)
{
    return (n_in + 1) * n_out;
}

static int64_t block_floats(const rf_vit_config *c)
{
    const int64_t d = c->d_model, m = c->d_mlp, a = c->n_heads * c->d_head;
    int64_t n = 3 * linear_floats(d, a) + linear_floats(a, d);
    n += (c->is_gated ? 2 : 1) * linear_floats(d, m) + linear_floats(m, d);
    n += 4 * d; /* two norms */
    n += c->has_attn_norm ? 2 * a : 0;
    n += c->has_mlp_norm ? 2 * m : 0;
    n += c->has_layer_scale ? 2 * d : 0;
    n += c->score_bias == RF_SCORES_RELATIVE ? c->n_heads * c->n_tokens * c->n_tokens : 0;
    return n;
}

static int64_t pool_floats(const rf_vit_config *c)
{
    const int64_t d = c->d_pool, m = c->d_pool_mlp;
    if (c->pool != RF_POOL_ATTENTION) {
        return 0;
    }
    int64_t n = c->n_pool_queries * d + 2 * linear_floats(c->d_model, d) + 2 * linear_floats(d, d);
    n += m > 0 ? linear_floats(d, m) + linear_floats(m, d) + 2 * d : 2 * (c->d_model + d);
    return n;
}

static int64_t head_inputs(const rf_vit_config *c)
{
    return c->head_input == RF_HEAD_POOLED ? c->d_pool : 2 * c->d_pool;
}

int64_t rf_vit_weight_bytes(const rf_vit_config *config)
{
    const rf_vit_config *c = config;
    const int64_t d = c->d_model, t = c->n_tokens;
    const int64_t d_final = c->norm_is_behind_pool ? c->d_pool : d;
    int64_t n = c->input == RF_VIT_TEXT ? c->n_vocab * d : linear_floats(patch_elems(c), d);
    n += 2 * c->n_prefix * d; /* without and with positions */
    n += c->has_position ? t * d : 0;
    n += c->has_ln_pre ? 2 * d : 0;
    n += c->n_layers * block_floats(c);
    n += c->has_ln_final ? 2 * d_final : 0;
    n += pool_floats(c);
    n += c->has_projection ? linear_floats(c->d_pool, c->d_out) : 0;
    n += c->n_classes > 0 ? linear_floats(head_inputs(c), c->n_classes) : 0;
    n += c->rope != RF_ROPE_NONE ? 2 * t * c->d_head : 0;
    n += c->score_bias == RF_SCORES_CAUSAL ? t * t : 0;
    return n * (int64_t)sizeof(float);
}

/* Products only, 2 for a multiplication and an addition. */
static double block_flop(const rf_vit_config *c)
{
    const double d = (double)c->d_model, t = (double)c->n_tokens, m = (double)c->d_mlp;
    const double a = (double)(c->n_heads * c->d_head);
    return 2.0 * t * (4.0 * d * a + (c->is_gated ? 3.0 : 2.0) * d * m) + 4.0 * t * t * a;
}

static double end_flop(const rf_vit_config *c)
{
    const double t = (double)c->n_tokens, dp = (double)c->d_pool;
    double sum = c->has_projection ? 2.0 * dp * (double)c->d_out : 0.0;
    sum += 2.0 * (double)head_inputs(c) * (double)c->n_classes;
    if (c->pool == RF_POOL_ATTENTION) {
        sum += 2.0 * t * (double)c->d_model * 2.0 * dp + 4.0 * t * dp;
        sum += 2.0 * dp * (dp + 2.0 * (double)c->d_pool_mlp);
    }
    return sum;
}

double rf_vit_flop(const rf_vit_config *config, int64_t last_layer)
{
    const int64_t n_blocks = rf_min_i64(last_layer + 1, config->n_layers);
    const double patches = (double)config->n_patches * (double)patch_elems(config);
    double sum = 2.0 * patches * (double)config->d_model + block_flop(config) * (double)n_blocks;
    if (last_layer >= config->n_layers) {
        sum += end_flop(config);
    }
    return sum;
}
