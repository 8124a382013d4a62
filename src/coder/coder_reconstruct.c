/* Any number of tokens through a coder, in micro-batches. */
#include "coder_impl.h"

enum { ROWS_AT_ONCE = 1024, DENSE_ROWS_AT_ONCE = 64 };

/* Work space of a reconstruction; the dense part is made when it is first needed. */
typedef struct use_space {
    const rf_coder *coder;
    rf_stream *s;
    rf_coder_encoding encoding;
    void *seen, *row_shift, *row_scale, *row_class;
    void *h, *z, *penalty, *row_active, *n_active;
    rf_codes codes;
} use_space;

static void use_space_fini(use_space *u)
{
    rf_backend *be = u->coder->backend;
    void *all[] = {u->seen, u->row_shift, u->row_scale,  u->row_class, u->h,
                   u->z,    u->penalty,   u->row_active, u->n_active};
    rf_codes_destroy(be, &u->codes);
    rf_coder_encoding_fini(u->coder, &u->encoding);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        rf_memory_free(be, RF_MEMORY_DEVICE, all[i]);
    }
}

static rf_status use_space_init(use_space *u, int64_t rows)
{
    rf_status status = RF_OK;
    const rf_coder *coder = u->coder;
    rf_backend *be = coder->backend;
    int64_t f = coder->n_latents, room = coder->architecture->row_capacity(&coder->settings, f);
    size_t n = (size_t)rows, per_row = sizeof(float) * n * (size_t)coder->shape.n_in;
    /* twice the average, and always one row */
    int64_t capacity = rf_max_i64(f, rf_min_i64(rows * rf_min_i64(2 * room, f), INT32_MAX));
    RF_TRY(rf_coder_encoding_init(coder, u->s, &u->encoding));
    RF_TRY(
        rf_memory_alloc(be, RF_MEMORY_DEVICE, sizeof(float) * n * (size_t)coder->width, &u->seen));
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, per_row, &u->row_shift));
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, per_row, &u->row_scale));
    RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, n, &u->row_class));
    RF_TRY(rf_codes_create(be, rows, capacity, &u->codes));
fail:
    return status;
}

static rf_status use_space_dense(use_space *u)
{
    rf_status status = RF_OK;
    rf_backend *be = u->coder->backend;
    size_t n = DENSE_ROWS_AT_ONCE, f = (size_t)u->coder->n_latents;
    if (u->h == NULL) {
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, sizeof(float) * n * f, &u->h));
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, sizeof(float) * n * f, &u->z));
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, sizeof(float) * n, &u->penalty));
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, sizeof(int64_t) * n, &u->row_active));
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, sizeof(int64_t) * f, &u->n_active));
    }
fail:
    return status;
}

/* Rows first .. first + n - 1. */
static rf_coder_rows rows_part(const rf_coder_rows *rows, int64_t first, int64_t n)
{
    rf_coder_rows part = {.x = rf_view_rows(rows->x, first, n),
                          .seen = rf_view_rows(rows->seen, first, n),
                          .row_valid = rows->row_valid == NULL ? NULL : rows->row_valid + first,
                          .row_class = rows->row_class == NULL ? NULL : rows->row_class + first};
    if (rows->row_shift.data != NULL) {
        part.row_shift = rf_view_rows(rows->row_shift, first, n);
        part.row_scale = rf_view_rows(rows->row_scale, first, n);
    }
    return part;
}

/* decode(act(seen . W_enc^T + b_enc)), few rows at a time. */
static rf_status reconstruct_dense(use_space *u, const rf_coder_rows *rows, const rf_view *y_hat,
                                   int64_t *n_active)
{
    rf_status status = RF_OK;
    const rf_coder *coder = u->coder;
    int64_t f = coder->n_latents, n = rows->seen.shape[0];
    rf_act_params act = rf_coder_use_act(coder, &u->encoding);
    RF_TRY(use_space_dense(u));
    rf_view h = rf_view_2d(u->h, n, f), z = rf_view_2d(u->z, n, f);
    const rf_matmul_args product = {.a = rows->seen,
                                    .b = rf_coder_view(coder, RF_CODER_W_ENC),
                                    .c = h,
                                    .bias = rf_coder_view(coder, RF_CODER_B_ENC),
                                    .trans_b = RF_TRANS,
                                    .alpha = 1.0f};
    RF_TRY(rf_dense_values(
        u->s, &act,
        &(rf_dense_values_args){.product = &product,
                                .h = h,
                                .z = z,
                                .n_active = rf_view_nd(u->n_active, RF_I64, 1, (int64_t[]){f}),
                                .row_active = rf_view_nd(u->row_active, RF_I64, 1, (int64_t[]){n}),
                                .row_penalty = rf_view_1d(u->penalty, n),
                                .row_valid = rows->row_valid}));
    RF_TRY(rf_matmul(u->s, &(rf_matmul_args){.a = z,
                                             .b = rf_coder_view(coder, RF_CODER_W_DEC),
                                             .c = *y_hat,
                                             .bias = rf_coder_view(coder, RF_CODER_B_DEC),
                                             .alpha = 1.0f}));
    RF_TRY(rf_coder_finish(coder, u->s, rows, y_hat));
    if (n_active != NULL) {
        RF_TRY(rf_copy_out(u->s, n_active, u->row_active, sizeof(int64_t) * (size_t)n));
        RF_TRY(rf_stream_synchronise(u->s));
    }
fail:
    return status;
}

/* By codes. Where they do not fit, `overflow` is set and nothing else is done. */
static rf_status reconstruct_sparse(use_space *u, const rf_coder_rows *rows, const rf_view *y_hat,
                                    int64_t *n_active, bool *overflow)
{
    rf_status status = RF_OK;
    int64_t n = rows->seen.shape[0], *row_start = NULL;
    RF_TRY(rf_coder_encode_seen(u->coder, u->s, &u->encoding, rows, &u->codes, overflow));
    if (*overflow) {
        return RF_OK;
    }
    RF_TRY(rf_coder_decode(u->coder, u->s, rows, &u->codes, y_hat));
    if (n_active != NULL) {
        RF_ALLOC(row_start, n + 1);
        RF_TRY(rf_copy_out(u->s, row_start, u->codes.row_start, sizeof(int64_t) * (size_t)(n + 1)));
        RF_TRY(rf_stream_synchronise(u->s));
        for (int64_t b = 0; b < n; b++) {
            n_active[b] = row_start[b + 1] - row_start[b];
        }
    }
fail:
    rf_free(row_start);
    return status;
}

/* Rows that were seen. Codes that are too many for one encode go the dense way, or where codes are
 * exact are made of fewer rows at a time. */
static rf_status reconstruct_rows(use_space *u, const rf_coder_rows *rows, const rf_view *y_hat,
                                  int64_t *n_active)
{
    rf_status status = RF_OK;
    bool overflow = false, is_dense = u->coder->architecture->may_be_dense;
    int64_t n = rows->seen.shape[0];
    RF_TRY(reconstruct_sparse(u, rows, y_hat, n_active, &overflow));
    int64_t step = is_dense ? DENSE_ROWS_AT_ONCE : rf_coder_rows_for(u->coder, u->codes.capacity);
    for (int64_t b = 0; overflow && b < n; b += step) {
        int64_t count = rf_min_i64(step, n - b), *active = n_active == NULL ? NULL : n_active + b;
        rf_coder_rows part = rows_part(rows, b, count);
        rf_view part_hat = rf_view_rows(*y_hat, b, count);
        bool again = false;
        if (is_dense) {
            RF_TRY(reconstruct_dense(u, &part, &part_hat, active));
        } else {
            RF_TRY(reconstruct_sparse(u, &part, &part_hat, active, &again));
            RF_BUG(!again, "coder '%s': codes did not fit", u->coder->settings.name);
        }
    }
fail:
    return status;
}

rf_status rf_coder_reconstruct(const rf_coder *coder, rf_stream *s, const rf_view *x,
                               const uint8_t *row_valid, const uint8_t *row_class,
                               const rf_view *y_hat, int64_t *n_active)
{
    rf_status status = RF_OK;
    use_space u = {.coder = coder, .s = s};
    int64_t max_rows = rf_min_i64(ROWS_AT_ONCE, rf_max_i64(1, x->shape[0]));

    RF_REQUIRE(x->n_dims == 2 && y_hat->n_dims == 2 && x->shape[1] == coder->width &&
                   y_hat->shape[1] == coder->out_width && y_hat->shape[0] == x->shape[0],
               "coder '%s': x must be [n, %" PRId64 "] and y_hat [n, %" PRId64 "]",
               coder->settings.name, coder->width, coder->out_width);
    RF_TRY(use_space_init(&u, max_rows));
    for (int64_t b = 0; b < x->shape[0]; b += max_rows) {
        int64_t n = rf_min_i64(max_rows, x->shape[0] - b);
        rf_view part_hat = rf_view_rows(*y_hat, b, n);
        rf_coder_rows rows = {.x = rf_view_rows(*x, b, n),
                              .seen = rf_view_2d(u.seen, n, coder->width),
                              .row_shift = rf_view_2d(u.row_shift, n, coder->shape.n_in),
                              .row_scale = rf_view_2d(u.row_scale, n, coder->shape.n_in),
                              .row_valid = row_valid == NULL ? NULL : row_valid + b};
        if (row_class != NULL) {
            RF_TRY(rf_copy_in(s, u.row_class, row_class + b, (size_t)n));
            rows.row_class = u.row_class;
        }
        RF_TRY(rf_coder_see(coder, s, &rows));
        RF_TRY(reconstruct_rows(&u, &rows, &part_hat, n_active == NULL ? NULL : n_active + b));
    }
fail:
    use_space_fini(&u);
    return status;
}
