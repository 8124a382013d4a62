/* The same batches live, out of a store, and while the store is written; and which tokens a reader
 * leaves out. On any number of ranks. */
#include "../../src/data/source_impl.h"
#include "stream_case.h"

#include <stdlib.h>
#include <unistd.h>

static char folder[256];

/* ---- a store of formulas -----------------------------------------------------------------------
 */

typedef struct store_case {
    rf_site *sites;
    int64_t n_sites;
    rf_store_site held[16];
    uint8_t classes[16][16];
    int32_t positions[16][16 * 3];
    char name_text[128][16];
    const char *names[128];
    int64_t labels[128];
    rf_store_head head;
} store_case;

static void describe(const test_case *c, rf_dtype dtype, store_case *out)
{
    const rf_stream_frame frame = frame_of(c);
    rf_reader_opts readers[MAX_READERS] = {{0}};
    readers_of(c, readers);
    assert_int_equal(rf_site_list(&frame, readers, c->n_readers, &out->sites, &out->n_sites),
                     RF_OK);
    for (int64_t s = 0; s < out->n_sites; s++) {
        const rf_site *site = &out->sites[s];
        const rf_reader_site named = {.model = site->model, .point = site->point};
        int64_t first = 0, n = 0;
        assert_int_equal(rf_site_class_rows(&frame, &named, RF_TOKENS_ALL, &first, &n), RF_OK);
        out->held[s] = (rf_store_site){.model = models[site->model].name,
                                       .point = site->point.name,
                                       .first_row = site->first_row,
                                       .n_rows = site->n_rows,
                                       .width = site->point.width,
                                       .point_rows = n,
                                       .classes = out->classes[s],
                                       .positions = out->positions[s]};
        for (int64_t r = 0; r < site->n_rows; r++) {
            const rf_token_class class = rf_site_class_of_row(&frame, &named, site->first_row + r,
                                                              out->positions[s] + 3 * r);
            out->classes[s][r] =
                (uint8_t)(site->point.shape == RF_HOOK_POOLED ? RF_TOKENS_POOLED : class);
        }
    }
    for (int64_t i = 0; i < c->n_pictures; i++) {
        snprintf(out->name_text[i], sizeof out->name_text[i], "p%d.jpg", (int)i);
        out->names[i] = out->name_text[i];
        out->labels[i] = i % 3 - 1;
    }
    out->head = (rf_store_head){.dtype = dtype,
                                .n_pictures = c->n_pictures,
                                .group_pictures = c->group_pictures,
                                .sites = out->held,
                                .n_sites = out->n_sites,
                                .names = out->names,
                                .labels = out->labels,
                                .picture_hash = 99,
                                .model = "formula",
                                .processing = "none",
                                .settings = ""};
}

static void path_of(const char *name, char out[512])
{
    snprintf(out, 512, "%s/%s", folder, name);
}

typedef enum kind { BOTH, STORED } kind;

/* The case's stream beside a store at `path`: written where something is missing, or read alone. */
static rf_activation_stream *open_stored(const test_case *c, const char *path, kind how,
                                         rf_store **store)
{
    static const char *names[N_MODELS];
    store_case *sc = rf_calloc(1, sizeof *sc);
    rf_activation_stream *st = NULL;
    rf_reader_opts readers[MAX_READERS] = {{0}};
    rf_group_source source = {0};
    rf_stream_frame frame = frame_of(c);
    readers_of(c, readers);
    describe(c, RF_F32, sc);
    assert_int_equal(how == BOTH ? rf_store_create(world, path, &sc->head, store)
                                 : rf_store_open(path, store),
                     RF_OK);
    for (int m = 0; m < N_MODELS; m++) {
        names[m] = models[m].name;
    }
    const rf_activation_stream_opts opts = {.stream = stream,
                                            .store = *store,
                                            .model_names = names,
                                            .n_names = N_MODELS,
                                            .read_threads = 2};
    if (how == BOTH) {
        frame.deals_as_first = true;
        assert_int_equal(
            rf_cached_source_create(&opts, sc->sites, sc->n_sites, formula_of(c, NEVER), &source),
            RF_OK);
    } else {
        frame.store = *store;
        memset(frame.configs, 0, sizeof frame.configs); /* it says all that there is to know */
        assert_int_equal(rf_store_source_create(&opts, sc->sites, sc->n_sites, &source), RF_OK);
    }
    assert_int_equal(rf_activation_stream_assemble(&frame, source, readers, c->n_readers, &st),
                     RF_OK);
    rf_free(sc->sites);
    rf_free(sc);
    return st;
}

/* Groups that were made, over all ranks. */
static int64_t run_stored(const test_case *c, const char *path, kind how)
{
    rf_store *store = NULL;
    int64_t done[MAX_READERS] = {0}, n_made = 0;
    rf_activation_stream *st = open_stored(c, path, how, &store);
    assert_on_all(run_to_end(c, st, done));
    n_made = how == BOTH ? formula_made->n_made : 0;
    rf_activation_stream_close(st);
    rf_store_close(store);
    assert_int_equal(rf_comm_sum_i64(world, &n_made, 1), RF_OK);
    return n_made;
}

static test_case stored_case(int64_t n_pictures, int64_t group_pictures, int64_t pool_groups)
{
    return (test_case){
        .n_pictures = n_pictures,
        .group_pictures = group_pictures,
        .pool_groups = pool_groups,
        .max_bad_share = 1,
        .n_readers = 5,
        .readers = {reader("l0", 0, RF_HOOK_TOKENS, 5, RF_TOKENS_ALL, 100, 3),
                    reader("l1", 1, RF_HOOK_TOKENS, 8, RF_TOKENS_PATCH, 64, 2),
                    reader("l0", 0, RF_HOOK_TOKENS, 5, RF_TOKENS_REGISTER, 33, 1),
                    reader("embed", 2, RF_HOOK_PATCHES, 3, RF_TOKENS_PATCH, 200, 1),
                    reader("pooled", 3, RF_HOOK_POOLED, 4, RF_TOKENS_POOLED, 7, 2)},
    };
}

/* ---- the same batches --------------------------------------------------------------------------
 */

static void a_store_gives_the_batches_that_live_gives(void **state)
{
    (void)state;
    const int64_t shapes[][3] = {{1, 4, 4}, {37, 4, 3}, {36, 4, 3}, {64, 8, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        char name[32], path[512];
        const int64_t live = rf_alloc_live();
        test_case c = stored_case(shapes[i][0], shapes[i][1], shapes[i][2]);
        snprintf(name, sizeof name, "same-%d.h5", (int)i);
        path_of(name, path);
        assert_int_equal(run_stored(&c, path, BOTH), rf_ceil_div(shapes[i][0], shapes[i][1]));
        assert_int_equal(run_stored(&c, path, BOTH), 0); /* all is there */
        run_stored(&c, path, STORED);
        assert_on_all(rf_alloc_live() == live);
    }
}

static void bad_pictures_are_bad_in_the_store_too(void **state)
{
    (void)state;
    char path[512];
    test_case c = stored_case(49, 4, 3);
    c.bad_each = 7;
    path_of("bad.h5", path);
    run_stored(&c, path, BOTH);
    run_stored(&c, path, STORED);
}

static void a_seek_into_a_store_goes_on_as_if_nothing_had_stopped(void **state)
{
    (void)state;
    char path[512];
    test_case c = stored_case(49, 4, 3);
    path_of("seek.h5", path);
    run_stored(&c, path, BOTH);
    for (int64_t b = 0; b < 9; b += 2) {
        rf_store *store = NULL;
        int64_t done[MAX_READERS] = {b, b / 2, 0, b / 3, b};
        rf_activation_stream *st = open_stored(&c, path, STORED, &store);
        assert_int_equal(rf_activation_stream_seek(st, done), RF_OK);
        assert_on_all(run_to_end(&c, st, done));
        rf_activation_stream_close(st);
        rf_store_close(store);
    }
}

/* One rank writes a store alone, all write another; what of the first pass is missing is written in
 * the order of a second one. */
static void bytes_of_a_store_do_not_depend_on_ranks_or_order(void **state)
{
    (void)state;
    char alone[512], together[512], seed[512];
    test_case c = stored_case(37, 4, 3);
    rf_comm *all = world, *one = NULL;
    char *a = NULL, *b = NULL;
    int64_t n_a = 0, n_b = 0;
    path_of("alone.h5", alone);
    path_of("together.h5", together);
    path_of("order.h5", seed);
    assert_int_equal(rf_comm_split(all, rf_comm_rank(all), &one), RF_OK);
    if (rf_comm_rank(all) == 0) {
        world = one;
        run_stored(&c, alone, BOTH);
        world = all;
    }
    assert_int_equal(rf_comm_barrier(all), RF_OK);
    run_stored(&c, together, BOTH);
    c.pool_groups = 5;
    run_stored(&c, seed, BOTH);
    bool same = rf_file_read(alone, 1 << 24, &a, &n_a) == RF_OK;
    for (int i = 0; i < 2; i++) {
        same = rf_file_read(i == 0 ? together : seed, 1 << 24, &b, &n_b) == RF_OK && same &&
               n_a == n_b && memcmp(a, b, (size_t)n_a) == 0;
        rf_free(b);
        b = NULL;
    }
    assert_on_all(same);
    rf_free(a);
    rf_comm_destroy(one);
}

/* ---- what is left out --------------------------------------------------------------------------
 */

/* How often each token of each picture comes in one epoch, over all ranks. */
static void count_tokens(rf_activation_stream *st, int64_t *seen, int64_t n_pictures,
                         int64_t n_tokens, int64_t *n_invalid)
{
    bool more = true, has = true;
    *n_invalid = 0;
    while (more) {
        rf_token_batch batch;
        assert_int_equal(rf_activation_stream_next(st, 0, &batch, &has), RF_OK);
        int64_t n_bad = 0;
        for (int64_t i = 0; has && i < batch.x.shape[0]; i++) {
            seen[batch.pictures[i] * n_tokens + batch.tokens[i]]++;
            n_bad += !batch.row_valid[i];
        }
        *n_invalid += n_bad;
        assert_int_equal(rf_comm_sum_i64(world, &n_bad, 1), RF_OK);
        assert_true(!has || batch.n_valid == batch.n_rows - n_bad);
        if (!has) {
            assert_int_equal(rf_activation_stream_advance(st, &more), RF_OK);
        }
    }
    assert_int_equal(rf_comm_sum_i64(world, seen, n_pictures * n_tokens), RF_OK);
    assert_int_equal(rf_comm_sum_i64(world, n_invalid, 1), RF_OK);
}

static void every_token_of_a_store_is_seen_once_an_epoch(void **state)
{
    (void)state;
    enum { N = 49, T = 9 };
    char path[512];
    test_case c = stored_case(N, 4, 3);
    rf_store *store = NULL;
    int64_t seen[N * T] = {0}, n_invalid = 0;
    path_of("once.h5", path);
    c.n_readers = 1;
    c.readers[0].epochs = 1;
    run_stored(&c, path, BOTH);
    rf_activation_stream *st = open_stored(&c, path, STORED, &store);
    count_tokens(st, seen, N, T, &n_invalid);
    for (int i = 0; i < N * T; i++) {
        assert_int_equal(seen[i], 1);
    }
    assert_int_equal(n_invalid, 0);
    rf_activation_stream_close(st);
    rf_store_close(store);
}

static void a_share_takes_whole_groups_and_a_larger_one_adds_to_them(void **state)
{
    (void)state;
    enum { N = 49, T = 9, G = 4 };
    const double shares[] = {0.1, 0.4, 0.75, 1};
    bool before[13] = {false};
    for (int s = 0; s < 4; s++) {
        test_case c = stored_case(N, G, 3);
        int64_t seen[N * T] = {0}, n_invalid = 0, n_groups = 0;
        rf_activation_stream *st = NULL;
        c.n_readers = 1;
        c.readers[0].epochs = 1;
        c.share = shares[s];
        assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
        count_tokens(st, seen, N, T, &n_invalid);
        for (int64_t g = 0; g < 13; g++) {
            const int64_t has = seen[g * G * T];
            for (int64_t i = g * G * T; i < rf_min_i64(N, (g + 1) * G) * T; i++) {
                assert_int_equal(seen[i], has);
            }
            assert_true(has == 1 || (has == 0 && !before[g]));
            before[g] = has == 1;
            n_groups += has;
        }
        assert_int_equal(n_groups, (int64_t)ceil(shares[s] * 13));
        rf_activation_stream_close(st);
    }
}

static void tokens_of_a_large_norm_are_not_valid(void **state)
{
    (void)state;
    enum { N = 49, T = 9 };
    test_case c = stored_case(N, 4, 3);
    rf_activation_stream *st = NULL;
    int64_t seen[N * T] = {0}, n_invalid = 0, expected = 0, n = 0, width = 0;
    float *rows = NULL;
    c.n_readers = 1;
    c.readers[0].epochs = 1;
    for (int64_t p = 0; p < N; p++) {
        for (int64_t t = 0; t < T; t++) {
            double square = 0;
            for (int64_t k = 0; k < 5; k++) {
                square += (double)formula(0, p, t, k) * (double)formula(0, p, t, k);
            }
            expected += sqrt(square) > 10000.5;
        }
    }
    c.readers[0].max_norm = 10000.5;
    assert_true(expected > 0 && expected < N * T);
    assert_int_equal(open_case(&c, NEVER, &st), RF_OK);
    assert_int_equal(rf_activation_stream_sample(st, 0, 1000, &rows, &n, &width), RF_OK);
    for (int64_t i = 0; i < n; i++) {
        assert_true(rows[i * width] < 10000.5f);
    }
    rf_free(rows);
    count_tokens(st, seen, N, T, &n_invalid);
    assert_int_equal(n_invalid, expected);
    rf_activation_stream_close(st);
}

/* ---- what does not fit -------------------------------------------------------------------------
 */

static void a_store_of_other_things_is_refused_by_name(void **state)
{
    (void)state;
    char path[512];
    test_case c = stored_case(37, 4, 3);
    store_case *sc = rf_calloc(1, sizeof *sc);
    rf_store *store = NULL;
    path_of("other.h5", path);
    describe(&c, RF_F32, sc);
    assert_int_equal(rf_store_create(world, path, &sc->head, &store), RF_OK);
    rf_store_close(store);
    const struct {
        rf_store_head head;
        const char *what;
    } others[] = {
        {.head = sc->head, .what = "activations.dtype"},
        {.head = sc->head, .what = "group_pictures"},
        {.head = sc->head, .what = "other pictures"},
        {.head = sc->head, .what = "another model"},
        {.head = sc->head, .what = "more hook points than are read here"},
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        rf_store_head head = others[i].head;
        head.dtype = i == 0 ? RF_F16 : head.dtype;
        head.group_pictures = i == 1 ? 5 : head.group_pictures;
        head.picture_hash = i == 2 ? 5 : head.picture_hash;
        head.model_hash = i == 3 ? 5 : head.model_hash;
        head.n_sites -= i == 4;
        rf_status status = rf_store_create(world, path, &head, &store);
        assert_on_all(status == RF_ERR_SETTING && store == NULL &&
                      strstr(rf_error_text(), others[i].what) != NULL);
    }
    rf_free(sc->sites);
    rf_free(sc);
}

static void an_unfinished_store_says_what_is_missing(void **state)
{
    (void)state;
    char path[512];
    test_case c = stored_case(37, 4, 3);
    rf_store *store = NULL;
    bool more = false;
    path_of("unfinished.h5", path);
    rf_activation_stream *st = open_stored(&c, path, BOTH, &store);
    assert_int_equal(rf_activation_stream_advance(st, &more), RF_OK);
    rf_activation_stream_close(st);
    rf_store_close(store);
    assert_int_equal(rf_comm_barrier(world), RF_OK);
    assert_int_equal(rf_store_open(path, &store), RF_OK);
    rf_status status = rf_store_check_finished(store);
    assert_on_all(status == RF_ERR_FORMAT && strstr(rf_error_text(), "has 3 of 10 groups") != NULL);
    rf_store_close(store);
    run_stored(&c, path, BOTH);
    assert_int_equal(rf_store_open(path, &store), RF_OK);
    assert_on_all(rf_store_check_finished(store) == RF_OK);
    rf_store_close(store);
}

static int make_folder(void **state)
{
    const char *base = getenv("TMPDIR");
    (void)state;
    snprintf(folder, sizeof folder, "%s/refract-XXXXXX", base != NULL ? base : "/tmp");
    if (rf_comm_rank(world) == 0 && mkdtemp(folder) == NULL) {
        return 1;
    }
    return rf_comm_bcast(world, folder, sizeof folder, 0) != RF_OK;
}

static int remove_folder(void **state)
{
    char **names = NULL, path[512];
    int64_t n = 0;
    (void)state;
    if (rf_comm_barrier(world) != RF_OK || rf_comm_rank(world) != 0 ||
        rf_file_list(folder, &names, &n) != RF_OK) {
        return rf_comm_rank(world) == 0;
    }
    for (int64_t i = 0; i < n; i++) {
        path_of(names[i], path);
        unlink(path);
    }
    rf_file_list_free(names, n);
    return rmdir(folder);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_store_gives_the_batches_that_live_gives),
        cmocka_unit_test(bad_pictures_are_bad_in_the_store_too),
        cmocka_unit_test(a_seek_into_a_store_goes_on_as_if_nothing_had_stopped),
        cmocka_unit_test(bytes_of_a_store_do_not_depend_on_ranks_or_order),
        cmocka_unit_test(every_token_of_a_store_is_seen_once_an_epoch),
        cmocka_unit_test(a_share_takes_whole_groups_and_a_larger_one_adds_to_them),
        cmocka_unit_test(tokens_of_a_large_norm_are_not_valid),
        cmocka_unit_test(a_store_of_other_things_is_refused_by_name),
        cmocka_unit_test(an_unfinished_store_says_what_is_missing),
    };
    int n_failed = 1;
    if (rf_comm_start(&argc, &argv, &world) == RF_OK &&
        rf_backend_cpu_create(1, &backend) == RF_OK &&
        rf_stream_create(backend, &stream) == RF_OK) {
        n_failed = cmocka_run_group_tests(tests, make_folder, remove_folder);
    }
    rf_stream_destroy(stream);
    rf_backend_destroy(backend);
    rf_comm_finish(world);
    return n_failed;
}
