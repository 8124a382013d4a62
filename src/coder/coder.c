/* A coder: one arena carved from one table. */
#include "coder_impl.h"

enum { ALIGNMENT = 64 };

typedef enum extent {
    EXTENT_NONE,
    EXTENT_ONE,
    EXTENT_LATENTS,
    EXTENT_WIDTH,
    EXTENT_COUNTERS
} extent;

/* The table: what a coder has, in the order of the indices in coder.h. */
static const struct {
    const char *name;
    rf_tensor_kind kind;
    rf_init init;
    bool decay;
    rf_row_rule rule;
    rf_shard shard;
    rf_dtype dtype;
    extent rows, columns;
} table[RF_CODER_N_TENSORS] = {
    [RF_CODER_W_ENC] = {"W_enc", RF_TENSOR_PARAMETER, RF_INIT_DECODER, true, RF_ROW_FREE,
                        RF_SHARD_LATENT, RF_F32, EXTENT_LATENTS, EXTENT_WIDTH},
    [RF_CODER_B_ENC] = {"b_enc", RF_TENSOR_PARAMETER, RF_INIT_ZEROS, false, RF_ROW_FREE,
                        RF_SHARD_LATENT, RF_F32, EXTENT_LATENTS, EXTENT_NONE},
    [RF_CODER_W_DEC] = {"W_dec", RF_TENSOR_PARAMETER, RF_INIT_UNIT_ROWS, true, RF_ROW_UNIT_NORM,
                        RF_SHARD_LATENT, RF_F32, EXTENT_LATENTS, EXTENT_WIDTH},
    [RF_CODER_B_DEC] = {"b_dec", RF_TENSOR_PARAMETER, RF_INIT_SAMPLE, false, RF_ROW_FREE,
                        RF_SHARD_NONE, RF_F32, EXTENT_WIDTH, EXTENT_NONE},
    [RF_CODER_TOKENS_SINCE_FIRED] = {"tokens_since_fired", RF_TENSOR_STATE, RF_INIT_ZEROS, false,
                                     RF_ROW_FREE, RF_SHARD_LATENT, RF_I64, EXTENT_LATENTS,
                                     EXTENT_NONE},
    [RF_CODER_VARIANCE] = {"variance", RF_TENSOR_STATE, RF_INIT_SAMPLE, false, RF_ROW_FREE,
                           RF_SHARD_NONE, RF_F32, EXTENT_ONE, EXTENT_NONE},
    [RF_CODER_COUNTERS] = {"counters", RF_TENSOR_STATE, RF_INIT_ZEROS, false, RF_ROW_FREE,
                           RF_SHARD_NONE, RF_I64, EXTENT_COUNTERS, EXTENT_NONE},
};

static int64_t extent_of(const rf_coder *coder, extent e)
{
    switch (e) {
    case EXTENT_LATENTS:
        return coder->n_latents;
    case EXTENT_WIDTH:
        return coder->width;
    case EXTENT_COUNTERS:
        return RF_CODER_N_COUNTERS;
    case EXTENT_NONE:
    case EXTENT_ONE:
        return 1;
    }
    return 1;
}

/* Fill in the table; returns the bytes of the arena. */
static size_t lay_out(rf_coder *coder, char *arena)
{
    size_t used = 0;
    for (int i = 0; i < RF_CODER_N_TENSORS; i++) {
        int64_t shape[2] = {extent_of(coder, table[i].rows), extent_of(coder, table[i].columns)};
        int n_dims = table[i].columns == EXTENT_NONE ? 1 : 2;
        size_t n_bytes = (size_t)(shape[0] * shape[1]) * rf_dtype_bytes(table[i].dtype);
        coder->tensors[i] = (rf_coder_tensor){
            .name = table[i].name,
            .kind = table[i].kind,
            .init = table[i].init,
            .decay = table[i].decay,
            .rule = table[i].rule,
            .shard = table[i].shard,
            .view = rf_view_nd(arena == NULL ? NULL : arena + used, table[i].dtype, n_dims, shape)};
        used += (n_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    return used;
}

/* A coder starts on the dense path if it has one: at the start half of a dictionary is active. */
static rf_status start_state(rf_coder *coder)
{
    rf_status status = RF_OK;
    rf_stream *s = NULL;
    rf_coder_state state = {.variance = 1.0f};
    state.counters[RF_COUNTER_DENSE] = coder->architecture->may_be_dense;
    RF_TRY(rf_stream_create(coder->backend, &s));
    RF_TRY(rf_coder_set_state(coder, s, &state));
fail:
    rf_stream_destroy(s);
    return status;
}

rf_status rf_coder_create(rf_backend *be, const rf_coder_settings *settings, int64_t width,
                          rf_coder **out)
{
    rf_status status = RF_OK;
    rf_coder *coder = NULL;
    int64_t n_weights;

    RF_REQUIRE(width >= 1, "coder '%s': width %" PRId64 ", expected >= 1", settings->name, width);
    RF_ALLOC(coder, 1);
    coder->backend = be;
    coder->settings = *settings;
    coder->width = width;
    coder->n_latents = rf_coder_settings_latents(settings, width);
    coder->architecture = rf_architecture_at(settings->architecture);
    RF_REQUIRE(coder->architecture != NULL, "coder '%s': architecture %d does not exist",
               settings->name, settings->architecture);
    RF_REQUIRE(coder->n_latents >= 1 && coder->n_latents <= INT32_MAX,
               "coder '%s': %" PRId64 " latents, expected 1 to 2^31 - 1", settings->name,
               coder->n_latents);
    RF_TRY(rf_mul_i64(coder->n_latents, width * 16, "bytes of a coder's weights", &n_weights));
    RF_TRY_DOING(coder->architecture->check(settings, coder->n_latents), "coder '%s'",
                 settings->name);
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

int64_t rf_coder_width(const rf_coder *coder)
{
    return coder->width;
}

int64_t rf_coder_n_latents(const rf_coder *coder)
{
    return coder->n_latents;
}

int64_t rf_coder_k(const rf_coder *coder)
{
    return coder->architecture->rule == RF_SELECT_TOPK
               ? rf_min_i64(coder->settings.k, coder->n_latents)
               : coder->n_latents;
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

rf_view rf_coder_view(const rf_coder *coder, int idx)
{
    return coder->tensors[idx].view;
}

rf_status rf_coder_get_state(const rf_coder *coder, rf_stream *s, rf_coder_state *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_copy_out(s, &out->variance, coder->tensors[RF_CODER_VARIANCE].view.data,
                       sizeof out->variance));
    RF_TRY(rf_copy_out(s, out->counters, coder->tensors[RF_CODER_COUNTERS].view.data,
                       sizeof out->counters));
    RF_TRY(rf_stream_synchronise(s));
fail:
    return status;
}

rf_status rf_coder_set_state(rf_coder *coder, rf_stream *s, const rf_coder_state *state)
{
    rf_status status = RF_OK;
    RF_TRY(rf_copy_in(s, coder->tensors[RF_CODER_VARIANCE].view.data, &state->variance,
                      sizeof state->variance));
    RF_TRY(rf_copy_in(s, coder->tensors[RF_CODER_COUNTERS].view.data, state->counters,
                      sizeof state->counters));
    RF_TRY(rf_stream_synchronise(s)); /* `state` is the caller's */
fail:
    return status;
}
