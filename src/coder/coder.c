/* A coder: one arena carved from one table. */
#include "coder_impl.h"

#include <math.h>

enum { ALIGNMENT = 64 };

typedef enum extent {
    EXTENT_NONE,
    EXTENT_ONE,
    EXTENT_LATENTS,
    EXTENT_WIDTH,
    EXTENT_OUT_WIDTH,
    EXTENT_POINTS,
    EXTENT_SCALARS,
    EXTENT_COUNTERS,
    EXTENT_CLASSES,
    EXTENT_PAIR
} extent;

/* Who has a tensor. */
typedef enum owner {
    OWNER_ALL,
    OWNER_JUMP,
    OWNER_GATED,
    OWNER_SKIP,
    OWNER_ARCHETYPAL,
    OWNER_STATISTICS,
    OWNER_TARGET_STATISTICS,
    OWNER_CLASS_CUTS,
} owner;

/* The table: what a coder has, in the order of the indices in coder.h. */
static const struct {
    const char *name;
    rf_tensor_kind kind;
    owner owner;
    bool decay;
    rf_row_rule rule; /* of W_dec the settings say it */
    rf_shard shard;
    rf_dtype dtype;
    extent rows, columns;
} table[RF_CODER_N_TENSORS] = {
    [RF_CODER_W_ENC] = {"W_enc", RF_TENSOR_PARAMETER, OWNER_ALL, true, RF_ROW_FREE, RF_SHARD_LATENT,
                        RF_F32, EXTENT_LATENTS, EXTENT_WIDTH},
    [RF_CODER_B_ENC] = {"b_enc", RF_TENSOR_PARAMETER, OWNER_ALL, false, RF_ROW_FREE,
                        RF_SHARD_LATENT, RF_F32, EXTENT_LATENTS, EXTENT_NONE},
    [RF_CODER_W_DEC] = {"W_dec", RF_TENSOR_PARAMETER, OWNER_ALL, true, RF_ROW_FREE, RF_SHARD_LATENT,
                        RF_F32, EXTENT_LATENTS, EXTENT_OUT_WIDTH},
    [RF_CODER_B_DEC] = {"b_dec", RF_TENSOR_PARAMETER, OWNER_ALL, false, RF_ROW_FREE, RF_SHARD_NONE,
                        RF_F32, EXTENT_OUT_WIDTH, EXTENT_NONE},
    [RF_CODER_LOG_THRESHOLD] = {"log_threshold", RF_TENSOR_PARAMETER, OWNER_JUMP, false,
                                RF_ROW_FREE, RF_SHARD_LATENT, RF_F32, EXTENT_LATENTS, EXTENT_NONE},
    [RF_CODER_GAIN] = {"gain", RF_TENSOR_PARAMETER, OWNER_GATED, false, RF_ROW_FREE,
                       RF_SHARD_LATENT, RF_F32, EXTENT_LATENTS, EXTENT_NONE},
    [RF_CODER_B_MAG] = {"b_mag", RF_TENSOR_PARAMETER, OWNER_GATED, false, RF_ROW_FREE,
                        RF_SHARD_LATENT, RF_F32, EXTENT_LATENTS, EXTENT_NONE},
    [RF_CODER_W_SKIP] = {"W_skip", RF_TENSOR_PARAMETER, OWNER_SKIP, true, RF_ROW_FREE,
                         RF_SHARD_NONE, RF_F32, EXTENT_OUT_WIDTH, EXTENT_WIDTH},
    [RF_CODER_ARCHETYPES] = {"archetypes", RF_TENSOR_PARAMETER, OWNER_ARCHETYPAL, false,
                             RF_ROW_SIMPLEX, RF_SHARD_LATENT, RF_F32, EXTENT_LATENTS,
                             EXTENT_POINTS},
    [RF_CODER_ARCHETYPE_OFFSETS] = {"archetype_offsets", RF_TENSOR_PARAMETER, OWNER_ARCHETYPAL,
                                    false, RF_ROW_BALL, RF_SHARD_LATENT, RF_F32, EXTENT_LATENTS,
                                    EXTENT_OUT_WIDTH},
    [RF_CODER_ARCHETYPE_SCALE] = {"archetype_scale", RF_TENSOR_PARAMETER, OWNER_ARCHETYPAL, false,
                                  RF_ROW_FREE, RF_SHARD_NONE, RF_F32, EXTENT_ONE, EXTENT_NONE},
    [RF_CODER_TOKENS_SINCE_FIRED] = {"tokens_since_fired", RF_TENSOR_STATE, OWNER_ALL, false,
                                     RF_ROW_FREE, RF_SHARD_LATENT, RF_I64, EXTENT_LATENTS,
                                     EXTENT_NONE},
    [RF_CODER_SCALARS] = {"scalars", RF_TENSOR_STATE, OWNER_ALL, false, RF_ROW_FREE, RF_SHARD_NONE,
                          RF_F32, EXTENT_SCALARS, EXTENT_NONE},
    [RF_CODER_COUNTERS] = {"counters", RF_TENSOR_STATE, OWNER_ALL, false, RF_ROW_FREE,
                           RF_SHARD_NONE, RF_I64, EXTENT_COUNTERS, EXTENT_NONE},
    [RF_CODER_IN_SHIFT] = {"in_shift", RF_TENSOR_STATE, OWNER_STATISTICS, false, RF_ROW_FREE,
                           RF_SHARD_NONE, RF_F32, EXTENT_WIDTH, EXTENT_NONE},
    [RF_CODER_IN_SCALE] = {"in_scale", RF_TENSOR_STATE, OWNER_STATISTICS, false, RF_ROW_FREE,
                           RF_SHARD_NONE, RF_F32, EXTENT_WIDTH, EXTENT_NONE},
    [RF_CODER_OUT_SHIFT] = {"out_shift", RF_TENSOR_STATE, OWNER_TARGET_STATISTICS, false,
                            RF_ROW_FREE, RF_SHARD_NONE, RF_F32, EXTENT_OUT_WIDTH, EXTENT_NONE},
    [RF_CODER_OUT_SCALE] = {"out_scale", RF_TENSOR_STATE, OWNER_TARGET_STATISTICS, false,
                            RF_ROW_FREE, RF_SHARD_NONE, RF_F32, EXTENT_OUT_WIDTH, EXTENT_NONE},
    [RF_CODER_POINTS] = {"points", RF_TENSOR_STATE, OWNER_ARCHETYPAL, false, RF_ROW_FREE,
                         RF_SHARD_NONE, RF_F32, EXTENT_POINTS, EXTENT_OUT_WIDTH},
    [RF_CODER_CLASS_THRESHOLDS] = {"class_thresholds", RF_TENSOR_STATE, OWNER_CLASS_CUTS, false,
                                   RF_ROW_FREE, RF_SHARD_NONE, RF_F32, EXTENT_CLASSES, EXTENT_PAIR},
};

rf_coder_shape rf_coder_shape_of(int64_t width)
{
    return (rf_coder_shape){.n_in = 1, .in = {width}};
}

static int64_t extent_of(const rf_coder *coder, extent e)
{
    switch (e) {
    case EXTENT_LATENTS:
        return coder->n_latents;
    case EXTENT_WIDTH:
        return coder->width;
    case EXTENT_OUT_WIDTH:
        return coder->out_width;
    case EXTENT_POINTS:
        return coder->settings.archetypal_points;
    case EXTENT_SCALARS:
        return RF_CODER_N_SCALARS;
    case EXTENT_COUNTERS:
        return RF_CODER_N_COUNTERS;
    case EXTENT_CLASSES:
        return RF_K_CLASSES;
    case EXTENT_PAIR:
        return 2;
    case EXTENT_NONE:
    case EXTENT_ONE:
        return 1;
    }
    return 1;
}

bool rf_coder_has_statistics(const rf_coder_settings *settings)
{
    return settings->normalise == RF_NORM_AVERAGE || settings->normalise == RF_NORM_PER_DIMENSION;
}

bool rf_coder_norm_is_per_token(const rf_coder_settings *settings)
{
    return settings->normalise == RF_NORM_LAYER || settings->normalise == RF_NORM_CONSTANT;
}

static bool owns(const rf_coder *coder, owner o)
{
    switch (o) {
    case OWNER_ALL:
        return true;
    case OWNER_JUMP:
        return coder->architecture->act == RF_CODER_JUMP;
    case OWNER_GATED:
        return coder->architecture->act == RF_CODER_GATED;
    case OWNER_SKIP:
        return coder->settings.skip;
    case OWNER_ARCHETYPAL:
        return coder->settings.decoder == RF_DECODER_ARCHETYPAL;
    case OWNER_STATISTICS:
        return rf_coder_has_statistics(&coder->settings);
    case OWNER_TARGET_STATISTICS:
        return rf_coder_has_statistics(&coder->settings) && rf_coder_is_transcoder(coder);
    case OWNER_CLASS_CUTS:
        return rf_coder_has_class_k(coder) &&
               coder->architecture->rule(&coder->settings) == RF_SELECT_BATCH_TOPK;
    }
    return false;
}

/* Fill in the table; returns the bytes of the arena. What the coder has not is empty. */
static size_t lay_out(rf_coder *coder, char *arena)
{
    size_t used = 0;
    for (int i = 0; i < RF_CODER_N_TENSORS; i++) {
        bool has = owns(coder, table[i].owner);
        int64_t shape[2] = {has ? extent_of(coder, table[i].rows) : 0,
                            has ? extent_of(coder, table[i].columns) : 0};
        int n_dims = table[i].columns == EXTENT_NONE ? 1 : 2;
        size_t n_bytes = (size_t)(shape[0] * shape[1]) * rf_dtype_bytes(table[i].dtype);
        char *data = arena == NULL || !has ? NULL : arena + used;
        coder->tensors[i] =
            (rf_coder_tensor){.name = table[i].name,
                              .kind = table[i].kind,
                              .decay = table[i].decay,
                              .rule = table[i].rule,
                              .shard = table[i].shard,
                              .view = rf_view_nd(data, table[i].dtype, n_dims, shape)};
        used += (n_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    rf_coder_tensor *w_dec = &coder->tensors[RF_CODER_W_DEC];
    w_dec->rule = coder->settings.decoder == RF_DECODER_UNIT ? RF_ROW_UNIT_NORM : RF_ROW_FREE;
    if (coder->settings.decoder == RF_DECODER_ARCHETYPAL) {
        w_dec->kind = RF_TENSOR_STATE; /* made of the archetypes */
        w_dec->decay = false;
    }
    coder->tensors[RF_CODER_ARCHETYPE_OFFSETS].radius = (float)coder->settings.archetypal_delta;
    return used;
}

/* A coder starts on the dense path if it has one: at the start half of a dictionary is active. */
static rf_status start_state(rf_coder *coder)
{
    rf_status status = RF_OK;
    rf_stream *s = NULL;
    rf_coder_state state = {.scalars = {[RF_SCALAR_VARIANCE] = 1.0f, [RF_SCALAR_RMS] = 1.0f}};
    state.counters[RF_COUNTER_DENSE] = coder->architecture->may_be_dense;
    RF_TRY(rf_stream_create(coder->backend, &s));
    RF_TRY(rf_coder_set_state(coder, s, &state));
fail:
    rf_stream_destroy(s);
    return status;
}

static int64_t sum_widths(const int64_t *widths, int n)
{
    int64_t sum = 0;
    for (int i = 0; i < n; i++) {
        sum += widths[i];
    }
    return sum;
}

rf_status rf_coder_create(rf_backend *be, const rf_coder_settings *settings,
                          const rf_coder_shape *shape, rf_coder **out)
{
    rf_status status = RF_OK;
    rf_coder *coder = NULL;

    RF_TRY_DOING(rf_coder_check(settings, shape), "coder '%s'", settings->name);
    RF_ALLOC(coder, 1);
    coder->backend = be;
    coder->settings = *settings;
    coder->shape = *shape;
    coder->architecture = rf_architecture_at(settings->architecture);
    coder->width = sum_widths(shape->in, shape->n_in);
    coder->out_width = shape->n_out > 0 ? sum_widths(shape->out, shape->n_out) : coder->width;
    coder->n_latents = rf_coder_settings_latents(settings, coder->width);
    RF_TRY_DOING(rf_memory_alloc(be, RF_MEMORY_DEVICE, lay_out(coder, NULL), &coder->arena),
                 "coder '%s' of %" PRId64 " latents", settings->name, coder->n_latents);
    lay_out(coder, coder->arena);
    RF_TRY(start_state(coder));
    *out = coder;
    coder = NULL;
fail:
    rf_coder_destroy(coder);
    return status;
}

void rf_coder_destroy(rf_coder *coder)
{
    if (coder != NULL) {
        rf_memory_free(coder->backend, RF_MEMORY_DEVICE, coder->arena);
        rf_free(coder);
    }
}

const rf_coder_settings *rf_coder_get_settings(const rf_coder *coder)
{
    return &coder->settings;
}

const rf_architecture *rf_coder_architecture(const rf_coder *coder)
{
    return coder->architecture;
}

const rf_coder_shape *rf_coder_get_shape(const rf_coder *coder)
{
    return &coder->shape;
}

int64_t rf_coder_width(const rf_coder *coder)
{
    return coder->width;
}

int64_t rf_coder_out_width(const rf_coder *coder)
{
    return coder->out_width;
}

bool rf_coder_is_transcoder(const rf_coder *coder)
{
    return coder->shape.n_out > 0;
}

static rf_segments segments_of(const int64_t *widths, int n)
{
    rf_segments out = {.n = n};
    int64_t end = 0;
    for (int i = 0; i < n; i++) {
        end += widths[i];
        out.end[i] = end;
    }
    return out;
}

rf_segments rf_coder_in_segments(const rf_coder *coder)
{
    return segments_of(coder->shape.in, coder->shape.n_in);
}

rf_segments rf_coder_out_segments(const rf_coder *coder)
{
    return rf_coder_is_transcoder(coder) ? segments_of(coder->shape.out, coder->shape.n_out)
                                         : rf_coder_in_segments(coder);
}

int64_t rf_coder_n_latents(const rf_coder *coder)
{
    return coder->n_latents;
}

int64_t rf_coder_k(const rf_coder *coder)
{
    return coder->architecture->may_be_dense
               ? coder->n_latents
               : rf_min_i64(rf_k_of(&coder->settings.k, rf_coder_token_class(&coder->settings)),
                            coder->n_latents);
}

bool rf_coder_has_class_k(const rf_coder *coder)
{
    const int64_t *of = coder->settings.k.of;
    return !coder->architecture->may_be_dense &&
           rf_coder_token_class(&coder->settings) == RF_TOKENS_ALL &&
           (of[0] > 0 || of[1] > 0 || of[2] > 0);
}

void rf_coder_class_k(const rf_coder *coder, double scale, int64_t out[RF_MAX_ROW_CLASSES])
{
    for (int c = 0; c < RF_MAX_ROW_CLASSES; c++) {
        const double k = round(scale * (double)rf_k_of(&coder->settings.k, (rf_token_class)c));
        out[c] = (int64_t)fmax(1.0, fmin(k, (double)coder->n_latents));
    }
}

bool rf_coder_subtracts(const rf_coder *coder)
{
    switch ((rf_subtract)coder->settings.subtract) {
    case RF_SUBTRACT_YES:
        return true;
    case RF_SUBTRACT_NO:
        return false;
    case RF_SUBTRACT_AUTO:
        break;
    }
    return !rf_coder_is_transcoder(coder) && coder->shape.n_in == 1;
}

rf_penalty_kind rf_coder_penalty(const rf_coder *coder)
{
    switch ((rf_penalty_choice)coder->settings.penalty) {
    case RF_PENALTY_CHOICE_AUTO:
        break;
    case RF_PENALTY_CHOICE_L1:
        return RF_PENALTY_L1;
    case RF_PENALTY_CHOICE_LP:
        return RF_PENALTY_NORM;
    case RF_PENALTY_CHOICE_TANH:
        return RF_PENALTY_TANH;
    case RF_PENALTY_CHOICE_L0:
    case RF_PENALTY_CHOICE_TARGET_L0:
        return RF_PENALTY_L0;
    }
    return coder->architecture->penalty;
}

int64_t rf_coder_aux_k(const rf_coder *coder, int64_t n_dead)
{
    int64_t k = coder->settings.aux_k;
    if (!rf_coder_wants_aux(&coder->settings, coder->architecture)) {
        return 0;
    }
    if (k == 0) {
        k = INT64_C(1) << (int)fmax(0.0, round(log2((double)coder->out_width / 2.0)));
    }
    return rf_min_i64(k, n_dead);
}

int rf_coder_n_tensors(const rf_coder *coder)
{
    (void)coder;
    return RF_CODER_N_TENSORS;
}

rf_coder_tensor rf_coder_tensor_at(const rf_coder *coder, int idx)
{
    return coder->tensors[idx];
}

bool rf_coder_has(const rf_coder *coder, int idx)
{
    return coder->tensors[idx].view.data != NULL;
}

rf_view rf_coder_view(const rf_coder *coder, int idx)
{
    return coder->tensors[idx].view;
}
