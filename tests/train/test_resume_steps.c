/* A coder that is saved and read goes on as if nothing had been: the same bits after more steps,
 * for every architecture and optimiser, also between the batches of one update. */
#include "../../src/train/run_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { LATENTS = 150, ROWS = 64, N_STEPS = 11 };

static rf_comm *world;
static char file[RF_PATH_LEN];
static int64_t n_resampled; /* in all: so that it is known to have happened */

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s (%s)", #call, rf_error_text(), rf_error_place());                     \
        }                                                                                          \
    } while (0)

typedef struct bench {
    rf_backend *be;
    rf_stream *s;
    rf_step *step;
    rf_coder_settings settings;
    rf_optimiser_opts opts;
    rf_coder_shape shape;
    int64_t width; /* of a row of the stream */
    float *rows;   /* [N_STEPS, ROWS, width] */
    rf_checkpoint_coder coder;
} bench;

static void make_coder(bench *b)
{
    OK(rf_coder_create(b->be, &b->settings, &b->shape, &b->coder.coder));
    OK(rf_optimiser_create(b->be, b->coder.coder, &b->opts, &b->coder.opt));
    b->coder.name = "c";
}

static void free_coder(bench *b)
{
    rf_optimiser_destroy(b->coder.opt);
    rf_coder_destroy(b->coder.coder);
    b->coder = (rf_checkpoint_coder){0};
}

static rf_coder_settings parse(const char *text)
{
    rf_coder_settings out;
    rf_yaml *map = NULL;
    OK(rf_yaml_parse(text, (int64_t)strlen(text), "test", &map));
    OK(rf_settings_defaults(&rf_coder_settings_table, &out));
    OK(rf_settings_read(&rf_coder_settings_table, map, "coder", NULL, &out, NULL));
    OK(rf_format(out.name, sizeof out.name, "c"));
    rf_yaml_free(map);
    return out;
}

static bench make(const char *text, const rf_coder_shape *shape, int optimiser, int64_t accumulate)
{
    bench b = {.shape = *shape,
               .settings = parse(text),
               .opts = {.kind = optimiser, .accumulate = accumulate}};
    const rf_step_opts opts = {.max_rows = ROWS};
    for (int i = 0; i < shape->n_in; i++) {
        b.width += shape->in[i];
    }
    for (int i = 0; i < shape->n_out; i++) {
        b.width += shape->out[i];
    }
    const int64_t n = N_STEPS * ROWS * b.width;
    b.rows = rf_calloc(n + 4, sizeof *b.rows);
    for (int64_t i = 0; i < n; i += 4) {
        rf_random_normal4(5, RF_RANDOM_TEST, (uint64_t)i, 0, b.rows + i);
    }
    OK(rf_backend_cpu_create(1, &b.be));
    OK(rf_stream_create(b.be, &b.s));
    make_coder(&b);
    const rf_coder *coders[] = {b.coder.coder};
    OK(rf_step_create(b.be, world, coders, 1, &opts, &b.step));
    const rf_view sample = rf_view_2d(b.rows, ROWS, b.width);
    OK(rf_coder_init(b.coder.coder, b.s, &sample));
    return b;
}

static void destroy(bench *b)
{
    free_coder(b);
    rf_step_destroy(b->step);
    rf_stream_destroy(b->s);
    rf_backend_destroy(b->be);
    rf_free(b->rows);
}

/* Steps first .. end - 1 as a run would do them. */
static void train(bench *b, int64_t first, int64_t end)
{
    uint8_t classes[ROWS];
    for (int i = 0; i < ROWS; i++) {
        classes[i] = (uint8_t)(i % 9 == 0 ? RF_TOKENS_CLS : RF_TOKENS_PATCH);
    }
    for (int64_t t = first; t < end; t++) {
        const rf_token_batch batch = {.x =
                                          rf_view_2d(b->rows + t * ROWS * b->width, ROWS, b->width),
                                      .n_rows = ROWS,
                                      .n_valid = ROWS,
                                      .batch_idx = t,
                                      .classes = classes};
        rf_step_rates rates = rf_step_rates_default();
        rf_step_metrics m;
        rates.lr = 1e-2;
        rates.weight_decay = b->opts.kind == RF_OPTIMISER_ADAM ? 0 : 0.01;
        rates.sparsity_scale = rf_schedule_sparsity(&b->settings, t);
        rates.k_scale = rf_schedule_k(&b->settings, t);
        rates.p = rf_schedule_p(&b->settings, t, N_STEPS);
        rates.resample = rf_schedule_resamples(&b->settings, t);
        rates.outlier_factor = 20;
        OK(rf_step_run(b->step, b->coder.coder, b->coder.opt, &batch, &rates, &m));
        assert_false(m.skipped);
        n_resampled += m.n_resampled;
    }
    b->coder.batches_done = end;
}

static void add(rf_view v, rf_str *out)
{
    if (v.data != NULL) {
        OK(rf_str_append_bytes(out, v.data,
                               rf_view_n_elems(&v) * (int64_t)rf_dtype_bytes(v.dtype)));
    }
}

static void dump(const bench *b, rf_str *out)
{
    for (int i = 0; i < rf_coder_n_tensors(b->coder.coder); i++) {
        add(rf_coder_tensor_at(b->coder.coder, i).view, out);
    }
    for (int i = 0; i < rf_optimiser_n_tensors(b->coder.opt); i++) {
        add(rf_optimiser_tensor_view(b->coder.opt, i), out);
    }
}

static void save_and_read(bench *b)
{
    rf_checkpoint checkpoint = {.tick = 1,
                                .settings = "x",
                                .backend = "y",
                                .weight_processing = "none",
                                .coders = &b->coder,
                                .n_coders = 1};
    OK(rf_checkpoint_write(file, b->s, &checkpoint));
    free_coder(b);
    make_coder(b);
    OK(rf_checkpoint_read(NULL, file, b->s, &checkpoint));
}

/* Whole, and cut at each of two places. */
static void check(const char *text, const rf_coder_shape *shape, int optimiser, int64_t accumulate)
{
    rf_str whole = {0};
    bench b = make(text, shape, optimiser, accumulate);
    train(&b, 0, N_STEPS);
    dump(&b, &whole);
    destroy(&b);
    for (int i = 0; i < 3; i++) {
        static const int64_t cuts[] = {3, 5,
                                       10}; /* none, two and one of three wait for an update */
        const int64_t cut = cuts[i];
        rf_coder_state counted;
        rf_str again = {0};
        b = make(text, shape, optimiser, accumulate);
        train(&b, 0, cut);
        save_and_read(&b);
        assert_int_equal(b.coder.batches_done, cut);
        OK(rf_coder_get_state(b.coder.coder, b.s, &counted));
        assert_int_equal(counted.counters[RF_COUNTER_ACCUMULATED],
                         accumulate > 1 ? cut % accumulate : 0);
        train(&b, cut, N_STEPS);
        dump(&b, &again);
        assert_int_equal(whole.len, again.len);
        if (memcmp(whole.data, again.data, (size_t)whole.len) != 0) {
            fail_msg("%s, optimiser %d, accumulate %lld: other bits after a cut at %lld", text,
                     optimiser, (long long)accumulate, (long long)cut);
        }
        destroy(&b);
        rf_str_fini(&again);
    }
    rf_str_fini(&whole);
}

static void test_every_architecture_and_optimiser_goes_on_bit_for_bit(void **state)
{
    (void)state;
    static const rf_coder_shape shapes[] = {
        {.n_in = 1, .in = {14}},
        {.n_in = 2, .in = {9, 6}},
        {.n_in = 1, .n_out = 1, .in = {12}, .out = {8}},
    };
    static const char *const more[] = {
        "normalise: average, resample: loss, resample_every: 4, dead_after_tokens: 60",
        "decoder: archetypal, archetypal_points: 7, normalise: per_dimension",
        "w_enc: independent, dead_after_tokens: 60, sparsity_warmup_steps: 5"};
    for (int a = 0; a < rf_architecture_count(); a++) {
        const bool has_k = !rf_architecture_at(a)->may_be_dense;
        for (int kind = RF_OPTIMISER_ADAM; kind <= RF_OPTIMISER_MUON; kind++) {
            char text[320];
            const int s = (a + kind) % 3;
            OK(rf_format(
                text, sizeof text, "{architecture: %s, latents: %d, k: %s, n_prefixes: 3%s, %s}",
                rf_architecture_at(a)->name, LATENTS, kind % 2 == 1 ? "{cls: 5, patch: 2}" : "2",
                has_k ? ", k_start: 2, k_steps: 6" : "", more[s]));
            check(text, &shapes[s], kind, 1);
            check(text, &shapes[s], kind, 3);
        }
    }
    assert_true(n_resampled > 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_architecture_and_optimiser_goes_on_bit_for_bit),
    };
    const char *temp = getenv("TMPDIR");
    int fd = -1;
    if (rf_comm_start(&argc, &argv, &world) != RF_OK ||
        rf_format(file, sizeof file, "%s/rf_resume_steps_XXXXXX", temp != NULL ? temp : "/tmp") !=
            RF_OK ||
        (fd = mkstemp(file)) < 0) {
        return 1;
    }
    close(fd);
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(file);
    rf_comm_finish(world);
    return n_failed;
}
