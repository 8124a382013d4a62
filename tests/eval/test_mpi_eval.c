/* A measurement has the same bits on any number of ranks. */
#include "eval/tiny.h"

enum { N_CODERS = 4 };

static rf_comm *world;

/* Rank 0 writes, all open. */
static void share_tiny(tiny *t)
{
    if (rf_comm_rank(world) == 0) {
        tiny_write(t, tiny_labels, true);
    }
    TINY_OK(rf_comm_bcast(world, t, sizeof *t, 0));
    tiny_open(t, 0.3);
}

static void unshare_tiny(tiny *t)
{
    tiny_close(t);
    TINY_OK(rf_comm_barrier(world));
    if (rf_comm_rank(world) == 0) {
        tiny_remove(t);
    }
}

static void assert_same_bits(const rf_split_figures *a, const rf_split_figures *b)
{
    assert_int_equal(a->n_pictures, b->n_pictures);
    assert_int_equal(a->n_bad, b->n_bad);
    assert_true(a->pictures_hash == b->pictures_hash);
    for (int64_t i = 0; i < a->n_coders; i++) {
        assert_int_equal(a->coders[i].n_alive, b->coders[i].n_alive);
        assert_memory_equal(a->coders[i].by_class, b->coders[i].by_class,
                            sizeof a->coders[i].by_class);
        assert_memory_equal(&a->coders[i].substitution, &b->coders[i].substitution,
                            sizeof a->coders[i].substitution);
    }
}

/* Not unit vectors, which is nothing to the arithmetic. */
static rf_eval_classifier random_classifier(void)
{
    return (rf_eval_classifier){
        .classes = {.n_classes = TINY_CLASSES,
                    .d = TINY_D,
                    .weights = tiny_normals(9, TINY_CLASSES * TINY_D, 1, 0)},
        .scale = 3};
}

/* 24 pictures in micro-batches of 3: more than the ranks, uneven shares, ranks without any. */
static void figures_have_the_bits_of_one_rank(void **state)
{
    (void)state;
    static tiny t;
    rf_comm *self = NULL;
    rf_eval_coder coders[N_CODERS];
    int64_t *classes = NULL;
    rf_eval_classifier classifier = random_classifier();
    rf_str reason = {0};
    const char *how = NULL;

    share_tiny(&t);
    TINY_OK(rf_comm_split(world, rf_comm_rank(world), &self));
    coders[0] = tiny_eval_coder(&t, "a", "blocks.0.hook_resid_post", RF_TOKENS_ALL,
                                tiny_coder(&t, "topk", 40, 6, 1));
    coders[1] = tiny_eval_coder(&t, "b", "blocks.1.hook_mlp_out", RF_TOKENS_PATCH,
                                tiny_coder(&t, "relu", 50, 6, 2));
    coders[2] = tiny_eval_coder(&t, "c", "blocks.1.hook_resid_pre", RF_TOKENS_ALL,
                                tiny_coder(&t, "batch_topk", 40, 6, 3));
    coders[3] = tiny_eval_coder(&t, "d", "blocks.1.hook_resid_mid", RF_TOKENS_CLS,
                                tiny_coder(&t, "gated", 50, 6, 4));
    TINY_OK(rf_eval_match_classes(t.vit, NULL, t.pictures, &classes, &how, &reason));
    rf_eval_model model = tiny_model(&t);
    model.classes = classes;
    for (int i = 0; i < 4; i++) {
        const rf_picture_split split = i % 2 == 0 ? RF_SPLIT_HELD_OUT : RF_SPLIT_TRAIN;
        model.classifier = i < 2 ? NULL : &classifier;
        rf_split_figures all, alone;
        rf_eval_job job = {.comm = world,
                           .models = &model,
                           .n_models = 1,
                           .stream = t.stream,
                           .pictures = t.pictures,
                           .coders = coders,
                           .n_coders = N_CODERS,
                           .settings = {.micro_batch = 3, .substitution = true},
                           .max_bad_share = 0.5};
        TINY_OK(rf_eval_measure(&job, split, &all));
        job.comm = self;
        TINY_OK(rf_eval_measure(&job, split, &alone));
        assert_same_bits(&all, &alone);
        assert_true(all.coders[0].substitution.n_labelled > 0);
        rf_split_figures_fini(&all);
        rf_split_figures_fini(&alone);
    }
    for (int i = 0; i < N_CODERS; i++) {
        tiny_eval_coder_fini(&coders[i]);
    }
    rf_eval_classifier_fini(&classifier);
    rf_free(classes);
    rf_comm_destroy(self);
    unshare_tiny(&t);
}

/* The last rank alone meets a coder that gives no numbers: all of them hear of it. */
static void a_failure_on_one_rank_is_one_on_all(void **state)
{
    (void)state;
    static tiny t;
    rf_eval_coder coder;
    rf_split_figures split;

    share_tiny(&t);
    coder = tiny_eval_coder(&t, "a", "blocks.0.hook_resid_post", RF_TOKENS_ALL,
                            tiny_coder(&t, "topk", 40, 6, 1));
    const rf_eval_model model = tiny_model(&t);
    rf_reader_site site = coder.sites[0];
    const rf_reader_site *own = coder.sites;
    if (rf_comm_rank(world) == rf_comm_size(world) - 1) {
        site.point.width = TINY_D + 1;
        coder.sites = &site;
    }
    const rf_eval_job job = {.comm = world,
                             .models = &model,
                             .n_models = 1,
                             .stream = t.stream,
                             .pictures = t.pictures,
                             .coders = &coder,
                             .n_coders = 1,
                             .settings = {.micro_batch = 3},
                             .max_bad_share = 0.5};
    assert_int_equal(rf_eval_measure(&job, RF_SPLIT_TRAIN, &split), RF_ERR_INVALID_ARG);
    coder.sites = own;
    tiny_eval_coder_fini(&coder);
    unshare_tiny(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures_have_the_bits_of_one_rank),
        cmocka_unit_test(a_failure_on_one_rank_is_one_on_all),
    };
    if (rf_comm_start(&argc, &argv, &world) != RF_OK) {
        return 1;
    }
    const int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    rf_comm_finish(world);
    return n_failed;
}
