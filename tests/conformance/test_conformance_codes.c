/* Operations on codes, on what a pre-activation becomes, on rows of parameters and tokens, and
 * counters, at the shapes that matter to devices; the shadow compares. */
#include "conformance_fixture.h"

typedef struct sizes {
    int64_t n, d, f, most;
} sizes;

/* Rows, width, latents, entries of a row at most. */
static const sizes all_sizes[] = {{1, 1, 1, 1},       {7, 31, 100, 5},    {70, 33, 257, 33},
                                  {3, 1536, 1025, 9}, {5, 64, 4100, 300}, {1025, 3, 40, 3},
                                  {0, 5, 7, 2},       {257, 256, 512, 8}};
enum { N_SIZES = sizeof all_sizes / sizeof all_sizes[0] };

/* Rows with none, one and many entries, latents rising; room for a few more. */
static rf_codes *ragged(const sizes *z)
{
    rf_codes *c = block(1, sizeof *c);
    const int64_t capacity = z->n * z->most + 3;
    *c = (rf_codes){.n_rows = z->n,
                    .capacity = capacity,
                    .row_start = block(z->n + 1, sizeof(int64_t)),
                    .latent = block(capacity, sizeof(int32_t)),
                    .value = positive(vector(capacity)).data,
                    .d_value = floats(capacity)};
    int64_t at = 0;
    for (int64_t b = 0; b < z->n; b++) {
        const int64_t n = b % 5 == 4 ? 0 : 1 + b * 7 % z->most, step = z->f / z->most;
        for (int64_t j = 0; j < n; j++) {
            c->latent[at++] = (int32_t)(j * step + (step > 1 ? b % step : 0));
        }
        c->row_start[b + 1] = at;
    }
    return c;
}

static rf_latent_index *index_of(const rf_codes *codes, int64_t f)
{
    rf_latent_index *index = block(1, sizeof *index);
    *index = (rf_latent_index){.n_latents = f,
                               .capacity = codes->capacity,
                               .latent_start = block(f + 1, sizeof(int64_t)),
                               .entry = block(codes->capacity, sizeof(int32_t)),
                               .row = block(codes->capacity, sizeof(int32_t))};
    OK(rf_index_by_latent(s, codes, index));
    return index;
}

static rf_latent_groups groups_of(int64_t f)
{
    rf_latent_groups groups = {0};
    for (int64_t end = 1; end < f && groups.n < 4; end = end * 4 + 1) {
        groups.end[groups.n++] = end;
    }
    groups.end[groups.n++] = f;
    return groups;
}

/* ---- codes --------------------------------------------------------------------------------- */

static void reconstruct(const sizes *z)
{
    rf_codes *codes = ragged(z);
    rf_view w = apart(z->f, z->d, 1), x = apart(z->n, z->d, 3);
    rf_decode_args decode = {.codes = codes, .w_dec = w, .out = apart(z->n, z->d, 2)};
    OK(rf_decode(s, &decode));
    decode.bias = vector(z->d);
    decode.value = floats(codes->capacity);
    OK(rf_decode(s, &decode));
    rf_residual_args residual = {.x = x,
                                 .x_hat = decode.out,
                                 .g = apart(z->n, z->d, 0),
                                 .row_loss = vector(z->n),
                                 .scale = 0.25f};
    OK(rf_residual(s, &residual));
    residual.row_valid = flags(z->n);
    residual.g = decode.out;
    OK(rf_residual(s, &residual));
    residual.x_hat = matrix(1, z->d);
    residual.row_loss = none;
    OK(rf_residual(s, &residual));
    rf_d_value_args grad = {.codes = codes, .w_dec = w, .g = residual.g};
    OK(rf_d_value(s, &grad));
    grad.out = floats(codes->capacity);
    OK(rf_d_value(s, &grad));
    decode.groups = grad.groups = groups_of(z->f);
    decode.out = grad.g = apart(z->n, decode.groups.n * z->d, 1);
    OK(rf_decode(s, &decode));
    rf_prefix_residual_args prefix = {.x = x,
                                      .x_hat = decode.out,
                                      .row_loss = vector(z->n),
                                      .row_last = vector(z->n),
                                      .row_valid = flags(z->n),
                                      .n_groups = decode.groups.n,
                                      .weight = {0.5f, 1.0f, 0.25f, 2.0f, 1.5f},
                                      .scale = 0.1f};
    OK(rf_prefix_residual(s, &prefix));
    OK(rf_d_value(s, &grad));
}

static void reconstructions_and_gradients_of_values(void **state)
{
    (void)state;
    for (int i = 0; i < N_SIZES; i++) {
        reconstruct(&all_sizes[i]);
        forget(NULL);
    }
}

static void turn_round(const sizes *z)
{
    sizes narrow = *z;
    narrow.most = 1;
    rf_codes *first = ragged(z), *second = ragged(&narrow);
    rf_latent_index *index = index_of(first, z->f);
    rf_by_latent_args args = {.n_lists = 1,
                              .codes = {first, second},
                              .index = {index, index_of(second, z->f)},
                              .g = {apart(z->n, z->d, 1)},
                              .x = apart(z->n, z->d + 1, 2),
                              .d_w_enc = apart(z->f, z->d + 1, 1),
                              .d_b_enc = vector(z->f),
                              .d_w_dec = apart(z->f, z->d, 0),
                              .touched = block(z->f, 1),
                              .squares = block(1, sizeof(double))};
    OK(rf_accumulate_by_latent(s, &args));
    args.n_lists = 2;
    OK(rf_accumulate_by_latent(s, &args)); /* the second without g */
    args.accumulate = true;
    args.squares = NULL;
    args.groups[1] = groups_of(z->f);
    args.g[1] = apart(z->n, args.groups[1].n * z->d, 1);
    OK(rf_accumulate_by_latent(s, &args));
    rf_view out = vector(z->f), fired = counters(z->f);
    OK(rf_sum_by_latent(s, index, first->d_value, &out, 0.0f));
    OK(rf_sum_by_latent(s, index, first->d_value, &out, 1.0f));
    rf_track_fired_args track = {
        .index = index, .since_fired = fired, .n_tokens = 3, .n_fired = block(1, sizeof(int64_t))};
    OK(rf_track_fired(s, &track));
    track.index = NULL;
    track.n_active = counters(z->f);
    ((int64_t *)track.n_active.data)[z->f / 2] = 4;
    OK(rf_track_fired(s, &track));
    OK(rf_mark_dead(s, &fired, 4, block(z->f, 1), block(1, sizeof(int64_t))));
}

static void gradients_and_sums_by_latent(void **state)
{
    (void)state;
    for (int i = 0; i < N_SIZES; i++) {
        turn_round(&all_sizes[i]);
        forget(NULL);
    }
}

/* ---- acts and penalties -------------------------------------------------------------------- */

static rf_act_params params_of(int64_t f, rf_coder_act act, rf_penalty_kind penalty)
{
    rf_act_params params = {.act = act, .penalty = penalty, .p = 0.5f};
    if (act == RF_CODER_JUMP) {
        params.threshold = positive(vector(f));
    } else if (act == RF_CODER_GATED) {
        params.b_gate = vector(f);
        params.gain = vector(f);
        params.b_mag = vector(f);
    }
    if (penalty % 2 == 1) {
        params.weight = positive(vector(f));
    }
    return params;
}

static void penalise_entries(const sizes *z, rf_penalty_kind penalty)
{
    rf_codes *codes = ragged(z);
    const int64_t n = codes->capacity;
    rf_act_params jump = params_of(z->f, RF_CODER_JUMP, penalty);
    rf_act_params gated = params_of(z->f, RF_CODER_GATED, penalty);
    float *z_values = floats(n);
    OK(rf_gated_values(s, &gated, codes, codes->value, z_values));
    rf_penalty_args args = {.codes = codes, .row_penalty = vector(z->n), .scale = 0.3f};
    OK(rf_penalty(s, &gated, &args));
    args.value = z_values;
    args.d_value = codes->d_value;
    OK(rf_penalty(s, &gated, &args));
    rf_gated_values_grad_args grad = {.codes = codes,
                                      .h = codes->value,
                                      .z = z_values,
                                      .d_z = codes->d_value,
                                      .d_gate = floats(n),
                                      .d_h = floats(n),
                                      .d_mag = floats(n),
                                      .d_gain = floats(n)};
    OK(rf_gated_values_grad(s, &gated, &grad));
    grad.d_mag = codes->d_value;
    OK(rf_gated_values_grad(s, &gated, &grad));
    args.value = NULL;
    args.d_value = NULL;
    OK(rf_penalty(s, &jump, &args)); /* row_penalty as the window's needs it */
    rf_jump_window_grad_args window = {.codes = codes,
                                       .d_threshold = floats(n),
                                       .eps = 0.05f,
                                       .l0 = penalty == RF_PENALTY_L0 ? 0.2f : 0.0f,
                                       .scale = 0.3f,
                                       .row_penalty = args.row_penalty};
    OK(rf_jump_window_grad(s, &jump, &window));
}

static void penalties_of_entries(void **state)
{
    (void)state;
    for (int i = 0; i < N_SIZES * (RF_PENALTY_L0 + 1); i++) {
        penalise_entries(&all_sizes[i / (RF_PENALTY_L0 + 1)],
                         (rf_penalty_kind)(i % (RF_PENALTY_L0 + 1)));
        forget(NULL);
    }
}

static void dense_of(int64_t n, int64_t f, rf_coder_act act, rf_penalty_kind penalty)
{
    rf_act_params params = params_of(f, act, penalty);
    rf_dense_values_args args = {.h = apart(n, f, 1),
                                 .z = apart(n, f, 2),
                                 .n_active = counters(f),
                                 .row_active = counters(n),
                                 .row_penalty = vector(n),
                                 .row_norm = vector(n)};
    OK(rf_dense_values(s, &params, &args));
    args.row_valid = flags(n);
    OK(rf_dense_values(s, &params, &args));
    OK(rf_dense_relu(s, &args.h, &args.z, args.row_valid));
    rf_dense_grad_args grad = {.h = args.h,
                               .d_z = apart(n, f, 0),
                               .d_gate = apart(n, f, 1),
                               .row_norm = args.row_norm,
                               .d_h = vector(f),
                               .d_threshold = vector(f),
                               .d_b_gate = vector(f),
                               .d_gain = vector(f),
                               .d_b_mag = vector(f),
                               .row_valid = args.row_valid,
                               .scale = 0.3f,
                               .eps = 0.5f,
                               .l0 = 0.1f,
                               .ste_to_input = penalty % 2 == 0};
    OK(rf_dense_grad(s, &params, &grad));
    grad.first_latent = f / 2; /* a tile of them */
    grad.h.shape[1] = grad.d_z.shape[1] = grad.d_gate.shape[1] = f - f / 2;
    grad.row_valid = NULL;
    OK(rf_dense_grad(s, &params, &grad));
    if (act != RF_CODER_GATED) {
        args.z = args.h;
        OK(rf_dense_values(s, &params, &args)); /* in place */
    }
}

static void dense_values_and_their_gradients(void **state)
{
    (void)state;
    enum { N_KINDS = RF_PENALTY_L0 + 1 };
    for (int i = 0; i < N_SHAPES * 3 * N_KINDS; i++) {
        const int64_t *shape = shapes[i / (3 * N_KINDS)];
        dense_of(shape[0], shape[1], (rf_coder_act)(i / N_KINDS % 3),
                 (rf_penalty_kind)(i % N_KINDS));
        forget(NULL);
    }
}

/* ---- rows ---------------------------------------------------------------------------------- */

static void sums_of_rows(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        const int64_t n = shapes[i][0], d = shapes[i][1];
        rf_row_sum_args args = {.x = apart(n, d, 1), .out = vector(d), .alpha = 0.5f};
        double *squares = block(1, sizeof *squares);
        OK(rf_row_sum(s, &args));
        args.weight = vector(n);
        args.beta = 1.0f;
        OK(rf_row_sum(s, &args));
        OK(rf_sum_squares(s, &args.x, squares, 0.0));
        OK(rf_sum_squares(s, &args.x, squares, 1.0));
    }
}

static rf_segments segments_of(int64_t d)
{
    rf_segments segments = {0};
    if (d >= 3) {
        segments = (rf_segments){.n = 3, .end = {1, d / 2 + 1, d}};
    }
    return segments;
}

static void update(int64_t n, int64_t d, rf_update_kind kind, rf_row_rule rule, bool is_whole)
{
    rf_update_args args = {.kind = kind,
                           .w = apart(n, d, 1),
                           .g = apart(n, d, 2),
                           .m = apart(n, d, 0),
                           .v = positive(matrix(n, d)),
                           .average = apart(n, d, 3),
                           .rule = rule,
                           .radius = 0.8f,
                           .lr = 1e-2,
                           .beta1 = 0.9,
                           .beta2 = 0.999,
                           .eps = 1e-8,
                           .weight_decay = 0.01,
                           .average_weight = 0.3,
                           .t = 3};
    float scale = 0.7f;
    if (!is_whole) {
        args.touched = flags(n);
        args.grad_scale = &scale;
        args.segments = rule == RF_ROW_UNIT_NORM ? segments_of(d) : args.segments;
    }
    OK(rf_apply_row_rule(s, &args.w, rule, &args.segments, args.radius));
    OK(rf_update_rows(s, &args));
    OK(rf_update_rows(s, &args));
}

static void updates_under_every_rule(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES * 4 * 4 * 2; i++) {
        const int64_t *shape = shapes[i / 32];
        update(shape[0], shape[1], (rf_update_kind)(i / 8 % 4), (rf_row_rule)(i / 2 % 4),
               i % 2 == 0);
        forget(NULL);
    }
}

static void norms_of_rows(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES * 2; i++) {
        const int64_t n = shapes[i / 2][0], d = shapes[i / 2][1];
        const rf_segments segments = i % 2 == 0 ? (rf_segments){0} : segments_of(d);
        rf_view w = apart(n, d, 1), out = vector(n), d_w = apart(n, d, 2);
        for (int64_t j = 0; n > 1 && j < d; j++) {
            ((float *)w.data)[w.stride[0] + j] = 0.0f; /* a row of norm 0 */
        }
        OK(rf_row_norms(s, &w, &segments, &out));
        OK(rf_row_norms_grad(s, &w, &segments, &out, &d_w));
        OK(rf_apply_row_rule(s, &w, RF_ROW_UNIT_NORM, &segments, 0.0f));
    }
}

static void normalise(int64_t n, int64_t d, rf_token_norm norm, bool has_segments)
{
    const rf_segments segments = has_segments ? segments_of(d) : (rf_segments){0};
    const int64_t n_segments = rf_max_i64(1, segments.n);
    rf_normalise_args args = {.norm = norm,
                              .from = apart(n, d, 1),
                              .to = apart(n, d, 2),
                              .shift = vector(d),
                              .scale = positive(vector(d)),
                              .row_shift = matrix(n, n_segments),
                              .row_scale = matrix(n, n_segments),
                              .segments = segments};
    for (int64_t j = 0; n > 1 && j < d; j++) {
        ((float *)args.from.data)[args.from.stride[0] + j] = 0.0f; /* a token of zeros */
    }
    OK(rf_normalise_tokens(s, &args));
    args.subtract = vector(d);
    args.row_valid = flags(n);
    OK(rf_normalise_tokens(s, &args));
    args.from = args.to;
    OK(rf_denormalise_tokens(s, &args)); /* in place */
}

static void tokens_normalised_and_back(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES * 5 * 2; i++) {
        const int64_t *shape = shapes[i / 10];
        normalise(shape[0], shape[1], (rf_token_norm)(i / 2 % 5), i % 2 == 1);
        forget(NULL);
    }
}

static void each_of_them_was_compared(void **state)
{
    (void)state;
    assert_compared(RF_SHADOW_CODES);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_teardown(test, forget)
    const struct CMUnitTest tests[] = {
        TEST(reconstructions_and_gradients_of_values),
        TEST(gradients_and_sums_by_latent),
        TEST(penalties_of_entries),
        TEST(dense_values_and_their_gradients),
        TEST(sums_of_rows),
        TEST(updates_under_every_rule),
        TEST(norms_of_rows),
        TEST(tokens_normalised_and_back),
        TEST(each_of_them_was_compared),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
