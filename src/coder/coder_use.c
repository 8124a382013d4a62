/* Codes and reconstructions outside training. */
#include "coder_impl.h"

enum { ROWS_AT_ONCE = 1024, DENSE_ROWS_AT_ONCE = 64 };

int64_t rf_coder_rows_for(const rf_coder *coder, int64_t capacity)
{
    return capacity / rf_coder_k(coder);
}

/* centred = x - b_dec; rows that are not valid get 0. */
static rf_status centre(const rf_coder *coder, rf_stream *s, const rf_view *x,
                        const uint8_t *row_valid, const rf_view *centred)
{
    rf_view b_dec = rf_view_2d(rf_coder_view(coder, RF_CODER_B_DEC).data, 1, coder->width);
    return rf_residual(
        s, &(rf_residual_args){
               .x = *x, .x_hat = b_dec, .g = *centred, .row_valid = row_valid, .scale = -1.0f});
}

/* Counts of an encode: device memory for two, and what they were. */
typedef struct encode_counts {
    int64_t overflow, refused;
} encode_counts;

static rf_status encode_centred(const rf_coder *coder, rf_stream *s, const rf_view *centred,
                                const uint8_t *row_valid, rf_codes *codes, encode_counts *out)
{
    rf_status status = RF_OK;
    void *counts = NULL;
    codes->n_rows = centred->shape[0];
    RF_TRY(rf_memory_alloc(coder->backend, RF_MEMORY_DEVICE, sizeof *out, &counts));
    rf_encode_args args = {.x = *centred,
                           .w_enc = rf_coder_view(coder, RF_CODER_W_ENC),
                           .b_enc = rf_coder_view(coder, RF_CODER_B_ENC),
                           .row_valid = row_valid,
                           .n_lists = 1,
                           .n_refused = (int64_t *)counts + 1};
    args.lists[0] = (rf_select_list){.rule = coder->architecture->rule,
                                     .k = rf_coder_k(coder),
                                     .codes = codes,
                                     .overflow = counts};
    RF_TRY(rf_encode(s, &args));
    RF_TRY(rf_copy_out(s, out, counts, sizeof *out));
    RF_TRY(rf_stream_synchronise(s));
    if (out->refused > 0) {
        RF_FAIL(RF_ERR_NUMERIC,
                "coder '%s': %" PRId64 " of %" PRId64 " tokens are not finite or too large",
                coder->settings.name, out->refused, centred->shape[0]);
    }
fail:
    rf_memory_free(coder->backend, RF_MEMORY_DEVICE, counts);
    return status;
}

rf_status rf_coder_encode(const rf_coder *coder, rf_stream *s, const rf_view *x,
                          const uint8_t *row_valid, const rf_view *centred, rf_codes *codes)
{
    rf_status status = RF_OK;
    encode_counts counts = {0};
    RF_REQUIRE(x->shape[0] <= rf_coder_rows_for(coder, codes->capacity),
               "coder '%s': codes of %" PRId64 " entries hold %" PRId64 " rows, %" PRId64
               " were given",
               coder->settings.name, codes->capacity, rf_coder_rows_for(coder, codes->capacity),
               x->shape[0]);
    RF_TRY(centre(coder, s, x, row_valid, centred));
    RF_TRY(encode_centred(coder, s, centred, row_valid, codes, &counts));
    RF_BUG(counts.overflow == 0, "coder '%s': codes did not fit", coder->settings.name);
fail:
    return status;
}

/* Work space of a reconstruction; the dense part is made when it is first needed. */
typedef struct use_space {
    rf_backend *be;
    void *centred, *z, *row_sum, *row_active, *n_active;
    rf_codes codes;
} use_space;

static void use_space_fini(use_space *u)
{
    rf_codes_destroy(u->be, &u->codes);
    void *all[] = {u->centred, u->z, u->row_sum, u->row_active, u->n_active};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        rf_memory_free(u->be, RF_MEMORY_DEVICE, all[i]);
    }
}

static rf_status use_space_dense(use_space *u, int64_t n_latents)
{
    rf_status status = RF_OK;
    size_t n = DENSE_ROWS_AT_ONCE, f = (size_t)n_latents;
    if (u->z == NULL) {
        RF_TRY(rf_memory_alloc(u->be, RF_MEMORY_DEVICE, sizeof(float) * n * f, &u->z));
        RF_TRY(rf_memory_alloc(u->be, RF_MEMORY_DEVICE, sizeof(float) * n, &u->row_sum));
        RF_TRY(rf_memory_alloc(u->be, RF_MEMORY_DEVICE, sizeof(int64_t) * n, &u->row_active));
        RF_TRY(rf_memory_alloc(u->be, RF_MEMORY_DEVICE, sizeof(int64_t) * f, &u->n_active));
    }
fail:
    return status;
}

/* x_hat = relu(centred . W_enc^T + b_enc) . W_dec + b_dec, few rows at a time. */
static rf_status reconstruct_dense(const rf_coder *coder, rf_stream *s, use_space *u,
                                   const rf_view *centred, const uint8_t *row_valid,
                                   const rf_view *x_hat, int64_t *n_active)
{
    rf_status status = RF_OK;
    int64_t f = coder->n_latents;
    RF_TRY(use_space_dense(u, f));
    for (int64_t b = 0; b < centred->shape[0]; b += DENSE_ROWS_AT_ONCE) {
        int64_t n = rf_min_i64(DENSE_ROWS_AT_ONCE, centred->shape[0] - b);
        rf_view z = rf_view_2d(u->z, n, f);
        RF_TRY(rf_matmul(s, &(rf_matmul_args){.a = rf_view_rows(*centred, b, n),
                                              .b = rf_coder_view(coder, RF_CODER_W_ENC),
                                              .c = z,
                                              .bias = rf_coder_view(coder, RF_CODER_B_ENC),
                                              .trans_b = RF_TRANS,
                                              .alpha = 1.0f,
                                              .act = RF_ACT_RELU}));
        RF_TRY(rf_dense_codes(
            s, &(rf_dense_codes_args){
                   .z = z,
                   .row_sum = rf_view_1d(u->row_sum, n),
                   .n_active = rf_view_nd(u->n_active, RF_I64, 1, (int64_t[]){f}),
                   .row_active = rf_view_nd(u->row_active, RF_I64, 1, (int64_t[]){n}),
                   .row_valid = row_valid == NULL ? NULL : row_valid + b}));
        RF_TRY(rf_matmul(s, &(rf_matmul_args){.a = z,
                                              .b = rf_coder_view(coder, RF_CODER_W_DEC),
                                              .c = rf_view_rows(*x_hat, b, n),
                                              .bias = rf_coder_view(coder, RF_CODER_B_DEC),
                                              .alpha = 1.0f}));
        if (n_active != NULL) {
            RF_TRY(rf_copy_out(s, n_active + b, u->row_active, sizeof(int64_t) * (size_t)n));
            RF_TRY(rf_stream_synchronise(s));
        }
    }
fail:
    return status;
}

static rf_status reconstruct_rows(const rf_coder *coder, rf_stream *s, use_space *u,
                                  const rf_view *x, const uint8_t *row_valid, const rf_view *x_hat,
                                  int64_t *n_active)
{
    rf_status status = RF_OK;
    int64_t n = x->shape[0], *row_start = NULL;
    encode_counts counts = {0};
    rf_view centred = rf_view_2d(u->centred, n, coder->width);
    RF_TRY(centre(coder, s, x, row_valid, &centred));
    RF_TRY(encode_centred(coder, s, &centred, row_valid, &u->codes, &counts));
    if (counts.overflow > 0) { /* not sparse */
        RF_TRY(reconstruct_dense(coder, s, u, &centred, row_valid, x_hat, n_active));
        goto fail;
    }
    RF_TRY(rf_decode(s, &(rf_decode_args){.codes = &u->codes,
                                          .w_dec = rf_coder_view(coder, RF_CODER_W_DEC),
                                          .bias = rf_coder_view(coder, RF_CODER_B_DEC),
                                          .out = *x_hat}));
    if (n_active != NULL) {
        RF_ALLOC(row_start, n + 1);
        RF_TRY(rf_copy_out(s, row_start, u->codes.row_start, sizeof(int64_t) * (size_t)(n + 1)));
        RF_TRY(rf_stream_synchronise(s));
        for (int64_t b = 0; b < n; b++) {
            n_active[b] = row_start[b + 1] - row_start[b];
        }
    }
fail:
    rf_free(row_start);
    return status;
}

rf_status rf_coder_reconstruct(const rf_coder *coder, rf_stream *s, const rf_view *x,
                               const uint8_t *row_valid, const rf_view *x_hat, int64_t *n_active)
{
    rf_status status = RF_OK;
    int64_t rows = rf_min_i64(ROWS_AT_ONCE, rf_max_i64(1, x->shape[0]));
    int64_t room = coder->architecture->row_capacity(&coder->settings, coder->n_latents);
    use_space u = {.be = coder->backend};

    RF_REQUIRE(x->n_dims == 2 && x_hat->n_dims == 2 && x->shape[1] == coder->width &&
                   x_hat->shape[1] == coder->width && x_hat->shape[0] == x->shape[0],
               "coder '%s': x and x_hat must be [n, %" PRId64 "]", coder->settings.name,
               coder->width);
    RF_TRY(rf_memory_alloc(u.be, RF_MEMORY_DEVICE, sizeof(float) * (size_t)(rows * coder->width),
                           &u.centred));
    RF_TRY(rf_codes_create(u.be, rows, rows * room, &u.codes));
    for (int64_t b = 0; b < x->shape[0]; b += rows) {
        int64_t n = rf_min_i64(rows, x->shape[0] - b);
        rf_view part = rf_view_rows(*x, b, n), part_hat = rf_view_rows(*x_hat, b, n);
        RF_TRY(reconstruct_rows(coder, s, &u, &part, row_valid == NULL ? NULL : row_valid + b,
                                &part_hat, n_active == NULL ? NULL : n_active + b));
    }
fail:
    use_space_fini(&u);
    return status;
}
