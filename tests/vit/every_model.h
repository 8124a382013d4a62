/* A claim about every model: one test for each reference in golden/vit, and for each of the models
 * that made.h makes, whose switches meet in no family. */
#ifndef REFRACT_TESTS_VIT_EVERY_MODEL_H
#define REFRACT_TESTS_VIT_EVERY_MODEL_H

#include "golden_tests.h"
#include "made.h"

static inline model open_reference(void *const *state)
{
    const reference *r = *state;
    if (r->variant < 0) {
        return open_model(r->folder, r->file, 1);
    }
    const rf_vit_config config = made_variant(r->variant);
    const made m = made_open(&config, RF_PRODUCTS_F32);
    return (model){.be = m.be, .s = m.s, .vit = m.vit, .input = m.input};
}

static inline void find_every_model(model_tests *t)
{
    find_references(t);
    for (int i = 0; i < MADE_VARIANTS; i++) {
        reference *r = add_reference(t, i);
        assert_ok(rf_format(r->folder, sizeof r->folder, "made"));
        assert_ok(rf_format(r->file, sizeof r->file, "%d", i));
    }
}

static inline void add_tests_of_every_model(model_tests *t, const char *claim,
                                            CMUnitTestFunction function)
{
    if (t->n_references == 0) {
        find_every_model(t);
    }
    add_tests_of_references(t, claim, function);
}

#endif
