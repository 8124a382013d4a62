/* A claim about every golden model: one test for each reference in golden/vit. */
#ifndef REFRACT_TESTS_VIT_GOLDEN_TESTS_H
#define REFRACT_TESTS_VIT_GOLDEN_TESTS_H

#include "golden.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_REFERENCES = 128, MAX_MODEL_TESTS = 1024 };

typedef struct reference {
    char folder[64], file[64]; /* file without ".safetensors" */
    int variant;               /* of a made model (every_model.h), else -1 */
} reference;

/* Tests in the making: find_references, add_test and add_tests_of_references, then
 * run_model_tests. */
typedef struct model_tests {
    reference references[MAX_REFERENCES];
    int n_references;
    struct CMUnitTest tests[MAX_MODEL_TESTS];
    char names[MAX_MODEL_TESTS][256];
    size_t n;
} model_tests;

static inline reference *add_reference(model_tests *t, int variant)
{
    assert_true(t->n_references < MAX_REFERENCES);
    reference *r = &t->references[t->n_references++];
    r->variant = variant;
    return r;
}

static inline void add_references(model_tests *t, const char *folder)
{
    char path[RF_PATH_LEN];
    assert_ok(rf_format(path, sizeof path, "%s/vit/%s", RF_GOLDEN_DIR, folder));
    DIR *dir = opendir(path);
    for (struct dirent *e = dir == NULL ? NULL : readdir(dir); e != NULL; e = readdir(dir)) {
        const char *dot = strrchr(e->d_name, '.');
        if (strncmp(e->d_name, "reference", 9) == 0 && dot != NULL &&
            strcmp(dot, ".safetensors") == 0) {
            reference *r = add_reference(t, -1);
            assert_ok(rf_format(r->folder, sizeof r->folder, "%s", folder));
            assert_ok(
                rf_format(r->file, sizeof r->file, "%.*s", (int)(dot - e->d_name), e->d_name));
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
}

static inline int compare_references(const void *a, const void *b)
{
    const reference *x = a, *y = b;
    const int order = strcmp(x->folder, y->folder);
    return order != 0 ? order : strcmp(x->file, y->file);
}

/* All there are, by name. */
static inline void find_references(model_tests *t)
{
    char path[RF_PATH_LEN];
    assert_ok(rf_format(path, sizeof path, "%s/vit", RF_GOLDEN_DIR));
    DIR *dir = opendir(path);
    for (struct dirent *e = dir == NULL ? NULL : readdir(dir); e != NULL; e = readdir(dir)) {
        if (e->d_name[0] != '.') {
            add_references(t, e->d_name);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    qsort(t->references, (size_t)t->n_references, sizeof *t->references, compare_references);
    assert_true(t->n_references > 40); /* the golden files are there */
}

static inline void add_test(model_tests *t, const struct CMUnitTest *test)
{
    assert_true(t->n < MAX_MODEL_TESTS);
    t->tests[t->n++] = *test;
}

static inline void add_tests_of_references(model_tests *t, const char *claim,
                                           CMUnitTestFunction function)
{
    for (int i = 0; i < t->n_references; i++) {
        reference *r = &t->references[i];
        assert_true(t->n < MAX_MODEL_TESTS);
        assert_ok(rf_format(t->names[t->n], sizeof t->names[t->n], "%s/%s: %s", r->folder, r->file,
                            claim));
        add_test(t, &(struct CMUnitTest){
                        .name = t->names[t->n], .test_func = function, .initial_state = r});
    }
}

static inline int run_model_tests(const char *group, const model_tests *t)
{
    return _cmocka_run_group_tests(group, t->tests, t->n, NULL, NULL);
}

#endif
