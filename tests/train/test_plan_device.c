/* What `plan` says of a step on a device, against the step that is made for the same coders. */
#include "../../src/train/plan_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 16 };

static rf_comm *world;

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != RF_OK) {                                                                     \
            fail_msg("%s: %s", #call, rf_error_text());                                            \
        }                                                                                          \
    } while (0)

/* Coders, made and planned. */
typedef struct coders {
    rf_backend *be;
    rf_coder_spec specs[MOST];
    rf_planned_coder planned[MOST];
    rf_coder *made[MOST];
    int64_t n;
} coders;

static void parse(const char *text, int64_t batch_tokens, rf_coder_spec *spec)
{
    rf_yaml *map = NULL;
    OK(rf_yaml_parse(text, (int64_t)strlen(text), "test", &map));
    OK(rf_settings_defaults(&rf_coder_settings_table, &spec->coder));
    OK(rf_settings_defaults(&rf_train_settings_table, &spec->train));
    OK(rf_settings_read(&rf_coder_settings_table, map, "coder", NULL, &spec->coder, NULL));
    spec->train.batch_tokens = batch_tokens;
    rf_yaml_free(map);
}

static void add(coders *c, const rf_coder_shape *shape, int64_t batch_tokens, const char *text)
{
    rf_coder_spec *spec = &c->specs[c->n];
    parse(text, batch_tokens, spec);
    OK(rf_format(spec->coder.name, sizeof spec->coder.name, "c%d", (int)c->n));
    c->planned[c->n] = (rf_planned_coder){
        .spec = spec,
        .architecture = rf_architecture_at(spec->coder.architecture),
        .shape = *shape,
    };
    OK(rf_coder_create(c->be, &spec->coder, shape, &c->made[c->n]));
    c->n++;
}

/* The step for coders first .. end - 1. */
static void check(const coders *c, int64_t first, int64_t end)
{
    rf_plan_step planned = {0};
    rf_step *step = NULL;
    rf_step_opts opts = {0};

    for (int64_t i = first; i < end; i++) {
        rf_coder_cost cost;
        OK(rf_coder_cost_estimate(&c->specs[i], &c->planned[i].shape, 1, &cost));
        rf_plan_step_add(&planned, &c->planned[i], &cost);
        opts.max_rows = rf_max_i64(opts.max_rows, c->specs[i].train.batch_tokens);
    }
    OK(rf_step_create(c->be, world, (const rf_coder *const *)c->made + first, end - first, &opts,
                      &step));
    const double made = (double)rf_step_bytes(step);
    const double said = planned.gradients + rf_plan_step_work(&planned, 1);
    /* tensors begin at multiples of 64 bytes; strides and scalars are of no account */
    if (!(said >= made - 4096 && said <= 1.02 * made + 4096)) {
        fail_msg("coders %d to %d: a step of %.0f bytes, planned %.0f", (int)first, (int)end - 1,
                 made, said);
    }
    rf_step_destroy(step);
}

static void the_step_takes_what_is_planned(void **state)
{
    static const rf_coder_shape shapes[] = {
        {.n_in = 1, .in = {96}},
        {.n_in = 2, .in = {64, 48}},
        {.n_in = 1, .n_out = 1, .in = {64}, .out = {96}},
    };
    static const char *const more[] = {"normalise: average", "aux_alpha: 0", "w_enc: independent"};
    coders c = {0};
    char text[256];

    (void)state;
    OK(rf_backend_cpu_create(1, &c.be));
    for (int a = 0; a < rf_architecture_count() && c.n < MOST - 2; a++) {
        OK(rf_format(text, sizeof text, "{architecture: %s, latents: %d, k: 16, %s}",
                     rf_architecture_at(a)->name, 1024 + 256 * (a % 3), more[a % 3]));
        add(&c, &shapes[a % 3], 1000 + 777 * (a % 4), text);
    }
    add(&c, &shapes[0], 2048,
        "{architecture: topk, latents: 1536, k: 8, k_start: 4, k_steps: 100}");
    add(&c, &shapes[0], 2048,
        "{architecture: batch_topk, latents: 1536, k: 16, decoder: archetypal, "
        "archetypal_points: 77}");
    for (int64_t i = 0; i < c.n; i++) {
        check(&c, i, i + 1);
        check(&c, 0, i + 1);
    }
    check(&c, c.n / 2, c.n);
    for (int64_t i = 0; i < c.n; i++) {
        rf_coder_destroy(c.made[i]);
    }
    rf_backend_destroy(c.be);
}

/* The figures of a TopK step with 49,152 latents, by hand. */
static void scratch_of_a_large_step(void **state)
{
    const rf_coder_shape shape = rf_coder_shape_of(768);
    rf_coder_spec spec;
    rf_coder_cost cost;

    (void)state;
    parse("{architecture: topk, latents: 49152, k: 64, aux_alpha: 0}", 4096, &spec);
    const rf_planned_coder planned = {
        .spec = &spec, .architecture = rf_architecture_at(spec.coder.architecture), .shape = shape};
    OK(rf_coder_cost_estimate(&spec, &shape, 1, &cost));
    const double tile = 128.0 / 3 * 1048576;      /* products */
    const double pool = 4096 * (12.0 * 320 + 12); /* 64 + 256 candidates a token */
    const double bounds = (9 + 4) * 49152.0;      /* by latent */
    const double rows = 5 * 4096.0 + 8 * 4097.0;  /* scales, flags, starts */
    const double said = rf_plan_step_scratch(&planned, &cost, 1);
    assert_true(said == tile + pool + bounds + rows);
    spec.coder.products = RF_PRODUCTS_BF16;
    assert_true(rf_plan_step_scratch(&planned, &cost, 1) - said ==
                2.0 * 768 * (4096 + 49152)); /* rounded operands */
    assert_true(rf_plan_ghost_bytes(&planned, &cost) == 0);
    spec.coder.ghost = RF_GHOST_PRISMA;
    assert_true(rf_plan_ghost_bytes(&planned, &cost) > 8.0 * 49152 * 2 * 768);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_step_takes_what_is_planned),
        cmocka_unit_test(scratch_of_a_large_step),
    };
    if (rf_comm_start(&argc, &argv, &world) != RF_OK) {
        return 1;
    }
    const int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    rf_comm_finish(world);
    return n_failed;
}
