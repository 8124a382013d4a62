/* What `plan` says of a coder, against the coder, its optimiser and its step once they are made. */
#include "../../src/train/run_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static rf_comm *world;

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s", #call, rf_error_text());                                            \
        }                                                                                          \
    } while (0)

typedef struct made {
    rf_backend *be;
    rf_coder *coder;
    rf_optimiser *opt;
    rf_step *step;
} made;

static made make(const rf_coder_spec *spec, const rf_coder_shape *shape)
{
    made m = {0};
    const rf_optimiser_opts opts = {.kind = spec->train.optimiser,
                                    .accumulate = spec->train.accumulate};
    const rf_step_opts step_opts = {.max_rows = spec->train.batch_tokens};
    OK(rf_backend_cpu_create(1, &m.be));
    OK(rf_coder_create(m.be, &spec->coder, shape, &m.coder));
    OK(rf_optimiser_create(m.be, m.coder, &opts, &m.opt));
    const rf_coder *coders[] = {m.coder};
    OK(rf_step_create(m.be, world, coders, 1, &step_opts, &m.step));
    return m;
}

static void destroy(made *m)
{
    rf_step_destroy(m->step);
    rf_optimiser_destroy(m->opt);
    rf_coder_destroy(m->coder);
    rf_backend_destroy(m->be);
}

static double bytes_of(rf_view v)
{
    return v.data == NULL ? 0 : (double)rf_view_n_elems(&v) * (double)rf_dtype_bytes(v.dtype);
}

/* Every tensor counted; scalars and counters are not worth a place in the estimate. */
static void check_tensors(const made *m, const rf_coder_cost *cost, const rf_coder_spec *spec)
{
    double parameters = 0, state = 0, moments = 0;
    for (int i = 0; i < rf_coder_n_tensors(m->coder); i++) {
        const rf_coder_tensor t = rf_coder_tensor_at(m->coder, i);
        if (t.kind == RF_TENSOR_PARAMETER) {
            parameters += bytes_of(t.view);
        } else if (i != RF_CODER_SCALARS && i != RF_CODER_COUNTERS) {
            state += bytes_of(t.view);
        }
    }
    for (int i = 0; i < rf_optimiser_n_tensors(m->opt); i++) {
        const char *name = rf_optimiser_tensor_name(m->opt, i);
        if (strcmp(name, "updates") != 0 && strcmp(name, "rates") != 0) {
            moments += bytes_of(rf_optimiser_tensor_view(m->opt, i));
        }
    }
    assert_true(parameters == cost->parameter_bytes);
    assert_true(state == cost->state_bytes);
    if (spec->train.optimiser == RF_OPTIMISER_MUON) { /* and its work space */
        assert_true(cost->optimiser_bytes > moments);
    } else {
        assert_true(moments == cost->optimiser_bytes);
    }
}

static rf_coder_spec parse(const char *text)
{
    rf_coder_spec out;
    rf_yaml *map = NULL;
    OK(rf_yaml_parse(text, (int64_t)strlen(text), "test", &map));
    OK(rf_settings_defaults(&rf_coder_settings_table, &out.coder));
    OK(rf_settings_defaults(&rf_train_settings_table, &out.train));
    OK(rf_settings_read(&rf_coder_settings_table, map, "coder", NULL, &out.coder, NULL));
    OK(rf_format(out.coder.name, sizeof out.coder.name, "c"));
    out.train.batch_tokens = 4096;
    rf_yaml_free(map);
    return out;
}

static void check(const rf_coder_spec *spec, const rf_coder_shape *shape)
{
    rf_coder_cost cost;
    OK(rf_coder_cost_estimate(spec, shape, 1, &cost));
    made m = make(spec, shape);
    assert_int_equal(cost.width, rf_coder_width(m.coder));
    assert_int_equal(cost.out_width, rf_coder_out_width(m.coder));
    assert_int_equal(cost.n_latents, rf_coder_n_latents(m.coder));
    assert_int_equal(cost.subtracts, rf_coder_subtracts(m.coder));
    check_tensors(&m, &cost, spec);
    const double work = (double)rf_step_bytes(m.step) - cost.parameter_bytes;
    if (!(cost.work_bytes > 0.7 * work && cost.work_bytes < 1.4 * work)) { /* "about" */
        fail_msg("%s: work space of %.0f bytes, estimated %.0f",
                 rf_coder_architecture(m.coder)->name, work, cost.work_bytes);
    }
    destroy(&m);
}

static void test_bytes_are_those_of_the_coder_that_is_made(void **state)
{
    (void)state;
    static const rf_coder_shape shapes[] = {
        {.n_in = 1, .in = {96}},
        {.n_in = 2, .in = {64, 48}},
        {.n_in = 1, .n_out = 1, .in = {64}, .out = {96}},
    };
    static const char *const more[] = {"normalise: average", "normalise: per_dimension",
                                       "w_enc: independent, normalise: average"};
    for (int a = 0; a < rf_architecture_count(); a++) {
        for (int s = 0; s < 3; s++) {
            char text[256];
            OK(rf_format(text, sizeof text, "{architecture: %s, latents: 1536, k: 16, %s}",
                         rf_architecture_at(a)->name, more[s]));
            rf_coder_spec spec = parse(text);
            spec.train.optimiser = (a + s) % (RF_OPTIMISER_MUON + 1);
            spec.train.accumulate = 1 + s;
            check(&spec, &shapes[s]);
        }
    }
}

static void test_skips_and_archetypal_decoders_are_counted(void **state)
{
    (void)state;
    const rf_coder_shape shape = {.n_in = 1, .n_out = 1, .in = {96}, .out = {96}};
    rf_coder_spec skip = parse("{architecture: topk, latents: 1536, k: 16, skip: true}");
    rf_coder_spec archetypal = parse("{architecture: batch_topk, latents: 1536, k: 16, "
                                     "decoder: archetypal, archetypal_points: 77}");
    for (int kind = RF_OPTIMISER_ADAM; kind <= RF_OPTIMISER_MUON; kind++) {
        const rf_coder_shape one = rf_coder_shape_of(96);
        skip.train.optimiser = archetypal.train.optimiser = kind;
        check(&skip, &shape);
        check(&archetypal, &one);
    }
}

static void test_flop_of_a_topk_step(void **state)
{
    (void)state;
    rf_coder_cost cost;
    const rf_coder_shape shape = rf_coder_shape_of(768);
    rf_coder_spec spec = parse("{architecture: topk, latents: 49152, k: 64}");
    OK(rf_coder_cost_estimate(&spec, &shape, 1, &cost));
    assert_true(cost.encode_flop == 2.0 * 768 * 49152); /* 75.5 M a token */
    assert_true(cost.rest_flop == 8.0 * 768 * 64);      /* and 0.39 M */
    assert_true(cost.update_flop == 0);
    spec.train.optimiser = RF_OPTIMISER_MUON;
    OK(rf_coder_cost_estimate(&spec, &shape, 1, &cost));
    assert_true(cost.update_flop > 2 * 5 * 4 * 768.0 * 768.0 * 49152.0);
}

static void test_what_no_coder_can_be_has_no_cost(void **state)
{
    (void)state;
    rf_coder_cost cost;
    const rf_coder_shape shape = rf_coder_shape_of(8);
    const rf_coder_spec spec = parse("{architecture: topk, latents: 16, k: 17}");
    assert_int_not_equal(rf_coder_cost_estimate(&spec, &shape, 1, &cost), RF_OK);
    assert_non_null(strstr(rf_error_text(), "17"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_are_those_of_the_coder_that_is_made),
        cmocka_unit_test(test_skips_and_archetypal_decoders_are_counted),
        cmocka_unit_test(test_flop_of_a_topk_step),
        cmocka_unit_test(test_what_no_coder_can_be_has_no_cost),
    };
    if (rf_comm_start(&argc, &argv, &world) != RF_OK) {
        return 1;
    }
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    rf_comm_finish(world);
    return n_failed;
}
