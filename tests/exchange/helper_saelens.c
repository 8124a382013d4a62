/* helper_saelens OUT: a random coder of every architecture, normalisation and form that SAELens can
 * say, exported to OUT/NAME, with refract.safetensors beside it: activations x, and the dense codes
 * and reconstructions that Refract makes of them. tests/golden/check_saelens.py --made OUT compares
 * them with what sae_lens makes of the folder. */
#include <stdio.h>
#include <string.h>

#include "refract/exchange.h"

enum { D = 96, E = 64, F = 512, N = 256, K = 16 };

typedef struct form {
    const char *name;
    int64_t out_width;
    bool skip;
    rf_subtract subtract;
} form;

static const form forms[] = {{"subtract", 0, false, RF_SUBTRACT_YES},
                             {"no-subtract", 0, false, RF_SUBTRACT_NO},
                             {"transcoder", E, false, RF_SUBTRACT_AUTO},
                             {"skip", D, true, RF_SUBTRACT_AUTO}};
static const char *const norms[] = {"none", "layer", "constant", "average", "per-dimension"};

typedef struct bench {
    rf_backend *be;
    rf_stream *s;
    const char *out;
    float *x; /* [N, D] */
} bench;

static rf_status fill_tensor(const bench *b, const rf_coder *coder, int idx, float scale,
                             float offset)
{
    rf_status status = RF_OK;
    const rf_view view = rf_coder_view(coder, idx);
    const int64_t n = rf_view_n_elems(&view);
    float *x = NULL;

    if (view.data == NULL) {
        return RF_OK;
    }
    RF_ALLOC(x, n);
    for (int64_t i = 0; i < n; i++) {
        float r[4];
        rf_random_normal4(11, RF_RANDOM_TEST, (uint64_t)idx, (uint64_t)i, r);
        x[i] = offset + scale * r[0];
    }
    RF_TRY(rf_copy_in(b->s, view.data, x, (size_t)n * sizeof *x));
    RF_TRY(rf_stream_synchronise(b->s));
fail:
    rf_free(x);
    return status;
}

/* Rows of W_enc and W_dec of norms near 1, as in training. */
static rf_status fill_coder(const bench *b, rf_coder *coder)
{
    rf_status status = RF_OK;
    rf_coder_state state;
    static const struct {
        int idx;
        float scale, offset;
    } of[] = {{RF_CODER_W_ENC, 0.1F, 0},         {RF_CODER_B_ENC, 0.1F, -0.3F},
              {RF_CODER_W_DEC, 0.1F, 0},         {RF_CODER_B_DEC, 0.5F, 0},
              {RF_CODER_LOG_THRESHOLD, 0.3F, 0}, {RF_CODER_GAIN, 0.2F, 0},
              {RF_CODER_B_MAG, 0.2F, 0},         {RF_CODER_W_SKIP, 0.05F, 0},
              {RF_CODER_IN_SHIFT, 1, 0},         {RF_CODER_IN_SCALE, 0.1F, 1.5F},
              {RF_CODER_OUT_SHIFT, 1, 0},        {RF_CODER_OUT_SCALE, 0.1F, 0.7F}};

    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        RF_TRY(fill_tensor(b, coder, of[i].idx, of[i].scale, of[i].offset));
    }
    RF_TRY(rf_coder_get_state(coder, b->s, &state));
    state.scalars[RF_SCALAR_THRESHOLD] = 0.6F;
    state.scalars[RF_SCALAR_THRESHOLD_MASS] = 0.5F;
    RF_TRY(rf_coder_set_state(coder, b->s, &state));
fail:
    return status;
}

static rf_named_tensor tensor_of(const char *name, const float *data, int64_t width)
{
    return (rf_named_tensor){.name = name,
                             .dtype = RF_FILE_F32,
                             .n_dims = 2,
                             .shape = {N, width},
                             .n_elems = N * width,
                             .bytes = (const unsigned char *)data,
                             .n_bytes = N * width * (int64_t)sizeof *data};
}

/* Codes of the activations, dense, and their reconstructions to `folder`/refract.safetensors. */
static rf_status write_made(const bench *b, const rf_coder *coder, const char *folder)
{
    rf_status status = RF_OK;
    const int64_t e = rf_coder_out_width(coder);
    char path[RF_PATH_LEN];
    rf_codes codes = {0};
    float *device = NULL, *dense = NULL;

    RF_ALLOC(dense, N * F);
    RF_TRY(rf_memory_alloc(b->be, RF_MEMORY_DEVICE, (size_t)(N * (2 * D + 2 + e)) * sizeof *device,
                           (void **)&device));
    RF_TRY(rf_codes_create(b->be, N, N * F, &codes));
    const rf_coder_rows rows = {.x = rf_view_2d(device, N, D),
                                .seen = rf_view_2d(device + N * D, N, D),
                                .row_shift = rf_view_2d(device + 2 * N * D, N, 1),
                                .row_scale = rf_view_2d(device + 2 * N * D + N, N, 1)};
    const rf_view y_hat = rf_view_2d(device + 2 * N * D + 2 * N, N, e);
    RF_TRY(rf_copy_in(b->s, device, b->x, N * D * sizeof *device));
    RF_TRY(rf_coder_see(coder, b->s, &rows));
    RF_TRY(rf_coder_encode(coder, b->s, &rows, &codes));
    RF_TRY(rf_coder_decode(coder, b->s, &rows, &codes, &y_hat));
    RF_TRY(rf_stream_synchronise(b->s)); /* the CPU's device memory can be read */
    for (int64_t i = 0; i < N; i++) {
        for (int64_t at = codes.row_start[i]; at < codes.row_start[i + 1]; at++) {
            dense[i * F + codes.latent[at]] = codes.value[at];
        }
    }
    const rf_named_tensor tensors[] = {tensor_of("x", b->x, D), tensor_of("codes", dense, F),
                                       tensor_of("y_hat", y_hat.data, e)};
    RF_TRY(rf_path_join(path, folder, "refract.safetensors"));
    RF_TRY(rf_safetensors_write(path, tensors, 3, NULL, 0));
fail:
    rf_codes_destroy(b->be, &codes);
    rf_memory_free(b->be, RF_MEMORY_DEVICE, device);
    rf_free(dense);
    return status;
}

static rf_status write_one(const bench *b, int architecture, int norm, const form *of)
{
    rf_status status = RF_OK;
    static const rf_exchange_origin origin = {.step = -1};
    rf_coder_settings settings;
    rf_coder_shape shape = rf_coder_shape_of(D);
    rf_coder *coder = NULL;
    char name[RF_NAME_LEN], folder[RF_PATH_LEN];

    RF_TRY(rf_settings_defaults(&rf_coder_settings_table, &settings));
    RF_TRY(rf_format(name, sizeof name, "%s-%s-%s", rf_architecture_at(architecture)->name,
                     norms[norm], of->name));
    RF_TRY(rf_format(settings.name, sizeof settings.name, "%s", name));
    RF_TRY(rf_path_join(folder, b->out, name));
    settings.architecture = architecture;
    settings.latents = F;
    settings.k = (rf_k_by_class){.any = K};
    settings.w_enc = RF_W_ENC_INDEPENDENT;
    settings.normalise = norm;
    settings.subtract = (int)of->subtract;
    settings.skip = of->skip;
    shape.n_out = of->out_width > 0;
    shape.out[0] = of->out_width;
    RF_TRY(rf_coder_create(b->be, &settings, &shape, &coder));
    RF_TRY(fill_coder(b, coder));
    status = rf_saelens_write(coder, b->s, &origin, folder);
    if (status == RF_ERR_UNSUPPORTED) {
        printf("refused: %s\n", rf_error_text());
        status = RF_OK;
        goto fail;
    }
    RF_TRY(status);
    RF_TRY(write_made(b, coder, folder));
fail:
    rf_coder_destroy(coder);
    return status;
}

static rf_status write_all(bench *b)
{
    rf_status status = RF_OK;

    RF_ALLOC(b->x, N * D);
    for (int64_t i = 0; i < N * D; i++) {
        float r[4];
        rf_random_normal4(12, RF_RANDOM_TEST, 0, (uint64_t)i, r);
        b->x[i] = 0.5F + 2 * r[0];
    }
    RF_TRY(rf_backend_cpu_create(1, &b->be));
    RF_TRY(rf_stream_create(b->be, &b->s));
    for (int a = 0; a < rf_architecture_count(); a++) {
        for (int norm = 0; norm < 5; norm++) {
            for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
                RF_TRY(write_one(b, a, norm, &forms[i]));
            }
        }
    }
fail:
    rf_stream_destroy(b->s);
    rf_backend_destroy(b->be);
    rf_free(b->x);
    return status;
}

int main(int argc, char **argv)
{
    bench b = {.out = argc == 2 ? argv[1] : NULL};
    if (b.out == NULL) {
        fprintf(stderr, "usage: helper_saelens OUT\n");
        return 2;
    }
    if (write_all(&b) != RF_OK) {
        fprintf(stderr, "%s\n", rf_error_text());
        return 1;
    }
    return 0;
}
