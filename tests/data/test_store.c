/* The activation store: what is written is read, by whomever and however often interrupted. */
#include "store_case.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static rf_comm *world;

static uint64_t hash_of(const char *path)
{
    uint64_t hash = 0;
    assert_ok(rf_file_hash(path, &hash, NULL));
    return hash;
}

static void check_values(const rf_store *store)
{
    uint8_t *got = case_room(store), *wanted = case_room(store), valid[64];
    for (int64_t g = 0; g < rf_store_n_groups(store); g++) {
        int64_t first = 0;
        const int64_t n = rf_store_group(store, g, &first);
        for (int64_t s = 0; s < N_CASE_SITES; s++) {
            assert_ok(rf_store_read(store, g, s, got));
            case_block(store, g, s, wanted);
            assert_memory_equal(got, wanted, (size_t)rf_store_block_bytes(store, g, s));
        }
        assert_ok(rf_store_read_valid(store, g, valid));
        for (int64_t i = 0; i < n; i++) {
            assert_int_equal(valid[i], case_valid(first + i));
        }
    }
    rf_free(wanted);
    rf_free(got);
}

static void check_head(const rf_store_head *got, const rf_store_head *c)
{
    assert_true(got->dtype == c->dtype && got->n_pictures == c->n_pictures);
    assert_true(got->group_pictures == c->group_pictures && got->n_sites == c->n_sites);
    assert_true(got->model_hash == c->model_hash && got->picture_hash == c->picture_hash);
    assert_true(got->holdout == c->holdout && got->n_classes == c->n_classes);
    assert_string_equal(got->processing, c->processing);
    assert_string_equal(got->settings, c->settings);
    for (int64_t i = 0; i < c->n_pictures; i++) {
        assert_string_equal(got->names[i], c->names[i]);
        assert_int_equal(got->labels[i], c->labels[i]);
    }
    for (int64_t s = 0; s < c->n_sites; s++) {
        const rf_store_site *a = &got->sites[s], *b = &c->sites[s];
        assert_string_equal(a->model, b->model);
        assert_string_equal(a->point, b->point);
        assert_true(a->first_row == b->first_row && a->n_rows == b->n_rows && a->width == b->width);
        assert_int_equal(a->point_rows, b->point_rows);
        assert_memory_equal(a->classes, b->classes, (size_t)b->n_rows);
        assert_memory_equal(a->positions, b->positions, sizeof(int32_t) * 3 * (size_t)b->n_rows);
    }
}

/* ---- round trip --------------------------------------------------------------------------------
 */

static void what_is_written_is_read_bit_for_bit_in_every_type(void **state)
{
    static const rf_dtype types[] = {RF_F32, RF_F16, RF_BF16};
    static const int64_t shapes[][2] = {{11, 4}, {1, 1}, {4, 4}, {5, 4}, {3, 16}, {7, 1}};
    (void)state;
    for (int t = 0; t < 3; t++) {
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            static store_case c;
            rf_store *store = NULL;
            case_init(&c, types[t], shapes[i][0], shapes[i][1], 6);
            case_make(world, &c, scratch("a.h5"));
            assert_ok(rf_store_open(scratch("a.h5"), &store));
            assert_ok(rf_store_check_finished(store));
            assert_int_equal(rf_store_n_groups(store), rf_ceil_div(shapes[i][0], shapes[i][1]));
            check_head(rf_store_get_head(store), &c.head);
            check_values(store);
            assert_int_equal(rf_store_find(store, "other", "hook_pooled"), 2);
            assert_int_equal(rf_store_find(store, "", "hook_pooled"), -1);
            rf_store_close(store);
        }
    }
}

static void mistakes_of_the_caller_are_refused(void **state)
{
    static store_case c;
    rf_store *store = NULL;
    uint8_t byte[4096];
    bool has = false;
    (void)state;
    case_init(&c, RF_F32, 11, 4, 6);
    case_make(world, &c, scratch("a.h5"));
    assert_ok(rf_store_open(scratch("a.h5"), &store));
    assert_refused(rf_store_read(store, 3, 0, byte), RF_ERR_INVALID_ARG, "group=3");
    assert_refused(rf_store_read(store, -1, 0, byte), RF_ERR_INVALID_ARG, "group=-1");
    assert_refused(rf_store_read(store, 0, 3, byte), RF_ERR_INVALID_ARG, "site=3");
    assert_refused(rf_store_read_valid(store, 3, byte), RF_ERR_INVALID_ARG, "group=3");
    assert_refused(rf_store_has(store, 3, &has), RF_ERR_INVALID_ARG, "group=3");
    assert_refused(case_write(store, 0), RF_ERR_INVALID_ARG, "was opened for reading");
    rf_store_close(store);
    rf_store_close(NULL);
}

static void heads_that_cannot_be_are_refused_before_anything_is_made(void **state)
{
    static store_case c;
    (void)state;
    for (int i = 0; i < 12; i++) {
        rf_store *store = NULL;
        case_init(&c, RF_F32, 11, 4, 6);
        switch (i) {
        case 0:
            c.head.n_pictures = 0;
            break;
        case 1:
            c.head.group_pictures = 0;
            break;
        case 2:
            c.head.group_pictures = 65537;
            break;
        case 3:
            c.head.n_sites = 0;
            break;
        case 4:
            c.sites[1].point = c.sites[0].point;
            break;
        case 5:
            c.sites[0].point = "a/b";
            break;
        case 6:
            c.sites[0].point = "";
            break;
        case 7:
            c.sites[0].point = "..", c.sites[0].model = "";
            break;
        case 8:
            c.sites[0].width = INT64_MAX;
            break;
        case 9:
            c.sites[1].first_row = 2;
            break;
        case 10:
            c.labels[3] = -2;
            break;
        default:
            c.sites[0].width = 1 << 27;
            break; /* a block of 10 GiB */
        }
        assert_true(rf_store_create(world, scratch("a.h5"), &c.head, &store) != RF_OK);
        assert_null(store);
        assert_false(rf_file_exists(scratch("a.h5")));
    }
}

/* ---- going on ----------------------------------------------------------------------------------
 */

static void a_store_goes_on_after_any_number_of_groups(void **state)
{
    static store_case c;
    (void)state;
    case_init(&c, RF_F16, 11, 2, 6);
    case_make(world, &c, scratch("whole.h5"));
    for (int64_t n = 0; n <= 6; n++) {
        rf_store *store = NULL;
        remove(scratch("a.h5"));
        assert_ok(rf_store_create(world, scratch("a.h5"), &c.head, &store));
        assert_ok(case_write_missing(store, n));
        rf_store_close(store);
        assert_ok(rf_store_open(scratch("a.h5"), &store));
        if (n < 6) {
            char text[64];
            snprintf(text, sizeof text, "has %d of 6 groups, and group %d is the first", (int)n,
                     (int)n);
            assert_refused(rf_store_check_finished(store), RF_ERR_FORMAT, text);
        }
        rf_store_close(store);
        assert_ok(rf_store_create(world, scratch("a.h5"), &c.head, &store));
        assert_ok(case_write_missing(store, INT64_MAX));
        check_values(store);
        rf_store_close(store);
        assert_true(hash_of(scratch("a.h5")) == hash_of(scratch("whole.h5")));
    }
}

/* Whether another handle finds group `g`. */
static bool others_find(const char *path, int64_t g)
{
    rf_store *other = NULL;
    bool has = true;
    assert_ok(rf_store_open(path, &other));
    assert_ok(rf_store_has(other, g, &has));
    rf_store_close(other);
    return has;
}

/* So that a writer that is killed has lost a few seconds, however small its groups are. */
static void groups_are_marked_as_time_goes_by_and_at_the_end(void **state)
{
    static store_case c;
    rf_store *store = NULL;
    bool has = false;
    (void)state;
    case_init(&c, RF_F32, 11, 4, 6);
    assert_ok(rf_store_create(world, scratch("a.h5"), &c.head, &store));
    assert_ok(case_write(store, 1));
    assert_ok(rf_store_has(store, 1, &has));
    assert_true(has); /* to whom wrote it */
    assert_false(others_find(scratch("a.h5"), 1));
    usleep(2100000);
    assert_ok(case_write(store, 0));
    assert_true(others_find(scratch("a.h5"), 0) && others_find(scratch("a.h5"), 1));
    assert_ok(case_write(store, 2));
    rf_store_close(store);
    assert_true(others_find(scratch("a.h5"), 2));
}

static void a_store_of_other_things_is_not_gone_on_with(void **state)
{
    static const char *const said[] = {
        "other pictures", "other pictures", "other pictures",   "another model", "another model",
        "dtype",          "group_pictures", "more hook points", "blocks.1",      "products: bf16"};
    static store_case c;
    rf_store *store = NULL;
    (void)state;
    case_init(&c, RF_F16, 11, 4, 6);
    c.head.settings = "model:\n  path: /a\n  products: fp32\n";
    case_make(world, &c, scratch("a.h5"));
    const uint64_t before = hash_of(scratch("a.h5"));
    for (int i = 0; i < 10; i++) {
        case_init(&c, RF_F16, 11, 4, 6);
        c.head.settings = "model:\n  path: /a\n  products: fp32\n";
        switch (i) {
        case 0:
            c.head.picture_hash++;
            break;
        case 1:
            c.head.n_pictures--;
            break;
        case 2:
            c.head.holdout = 0;
            break;
        case 3:
            c.head.model_hash++;
            break;
        case 4:
            c.head.processing = "centred";
            break;
        case 5:
            c.head.dtype = RF_BF16;
            break;
        case 6:
            c.head.group_pictures = 5;
            break;
        case 7:
            c.head.n_sites--;
            break;
        case 9:
            c.head.settings = "model:\n  path: /a\n  products: bf16\n";
            break;
        default:
            c.sites[1].n_rows--;
            break;
        }
        assert_refused(rf_store_create(world, scratch("a.h5"), &c.head, &store), RF_ERR_SETTING,
                       said[i]);
        assert_null(store);
    }
    case_init(&c, RF_F16, 11, 4, 6);
    c.head.settings = "a: c\n";
    assert_refused(rf_store_create(world, scratch("a.h5"), &c.head, &store), RF_ERR_SETTING,
                   "other settings than 'a: c'");
    assert_null(store);
    c.head.settings = "model:\n  path: /b, where it lies now\n  products: fp32\n";
    assert_ok(rf_store_create(world, scratch("a.h5"), &c.head, &store));
    rf_store_close(store);
    assert_true(hash_of(scratch("a.h5")) == before);
}

/* ---- several writers ---------------------------------------------------------------------------
 */

/* A rank that writes every group g with g % size == rank; it has the store open as its parent
 * had. */
static pid_t start_writer(rf_store *store, int rank, int size)
{
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        rf_status status = RF_OK;
        for (int64_t g = rank; status == RF_OK && g < rf_store_n_groups(store); g += size) {
            status = case_write(store, g);
        }
        status = status == RF_OK ? rf_store_flush(store) : status;
        _exit(status != RF_OK);
    }
    return pid;
}

static int exit_of(pid_t pid)
{
    int result = 0;
    assert_int_equal(waitpid(pid, &result, 0), pid);
    return WIFEXITED(result) ? WEXITSTATUS(result) : -1;
}

static void the_bytes_do_not_depend_on_the_number_of_writers(void **state)
{
    static store_case c;
    rf_store *store = NULL;
    (void)state;
    case_init(&c, RF_BF16, 83, 4, 50);
    case_make(world, &c, scratch("whole.h5"));
    for (int size = 1; size <= 3; size++) {
        pid_t pids[3];
        remove(scratch("a.h5"));
        assert_ok(rf_store_create(world, scratch("a.h5"), &c.head, &store));
        for (int r = 0; r < size; r++) {
            pids[r] = start_writer(store, r, size);
        }
        for (int r = 0; r < size; r++) {
            assert_int_equal(exit_of(pids[r]), 0);
        }
        for (int64_t g = 0; g < rf_store_n_groups(store); g++) {
            bool has = false;
            assert_ok(rf_store_has(store, g, &has)); /* also of those that were open before */
            assert_true(has);
        }
        check_values(store);
        rf_store_close(store);
        assert_true(hash_of(scratch("a.h5")) == hash_of(scratch("whole.h5")));
    }
}

static void of_two_jobs_that_write_one_is_refused_and_told_the_other(void **state)
{
    static store_case c;
    rf_store *store = NULL, *second = NULL;
    char expected[128];
    (void)state;
    case_init(&c, RF_F32, 11, 4, 6);
    assert_ok(rf_store_create(world, scratch("a.h5"), &c.head, &store));
    snprintf(expected, sizeof expected, "/a.h5' is being written by process %ld on ",
             (long)getpid());
    assert_refused(rf_store_create(world, scratch("a.h5"), &c.head, &second), RF_ERR_IO, expected);
    assert_null(second);
    int64_t n_checked = 0, n_damaged = 0;
    assert_refused(rf_store_repair(world, scratch("a.h5"), &n_checked, &n_damaged), RF_ERR_IO,
                   expected);
    assert_ok(rf_store_open(scratch("a.h5"), &second)); /* to look into it is no harm */
    rf_store_close(second);
    assert_ok(case_write_missing(store, INT64_MAX));
    rf_store_close(store);
    /* Where nothing is missing nobody writes, and all may have it. */
    assert_ok(rf_store_create(world, scratch("a.h5"), &c.head, &store));
    assert_ok(rf_store_create(world, scratch("a.h5"), &c.head, &second));
    rf_store_close(second);
    rf_store_close(store);
    assert_false(rf_file_exists(scratch("a.h5.lock")));
}

static void the_folder_of_a_store_is_made(void **state)
{
    static store_case c;
    rf_store *store = NULL;
    (void)state;
    case_init(&c, RF_F32, 11, 4, 6);
    assert_ok(rf_store_create(world, scratch("new/folder/a.h5"), &c.head, &store));
    rf_store_close(store);
    put_text(scratch("file"), "");
    assert_refused(rf_store_create(world, scratch("file/a.h5"), &c.head, &store), RF_ERR_IO,
                   "a file of that name is there");
}

/* ---- disturbed writers -------------------------------------------------------------------------
 */

/* As a job that goes on with what is there, slowly enough to be hit, and flushing now and then. */
static pid_t start_slow_writer(const store_case *c, const char *path)
{
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        rf_store *store = NULL;
        rf_status status = rf_store_create(world, path, &c->head, &store);
        for (int64_t g = 0; status == RF_OK && g < rf_store_n_groups(store); g++) {
            bool has = false;
            status = rf_store_has(store, g, &has);
            if (status == RF_OK && !has) {
                status = case_write(store, g);
                usleep(300);
            }
            if (status == RF_OK && g % 3 == 2) {
                status = rf_store_flush(store);
            }
        }
        status = status == RF_OK ? rf_store_flush(store) : status;
        _exit(status != RF_OK);
    }
    return pid;
}

static void a_writer_killed_at_20_moments_ends_with_the_bytes_of_an_undisturbed_one(void **state)
{
    static store_case c;
    int n_hit = 0, n_tries = 0;
    (void)state;
    case_init(&c, RF_F32, MAX_CASE_PICTURES, 2, 40);
    case_make(world, &c, scratch("whole.h5"));
    remove(scratch("a.h5"));
    while (n_hit < 20 && n_tries < 100) {
        uint32_t draw[4];
        int result = 0;
        rf_random_u32x4(1, RF_RANDOM_TEST, (uint64_t)n_tries++, 0, draw);
        const pid_t pid = start_slow_writer(&c, scratch("a.h5"));
        usleep(draw[0] % 30000);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &result, 0), pid);
        if (WIFSIGNALED(result)) {
            n_hit++;
        } else { /* it was done before: anew */
            assert_int_equal(WEXITSTATUS(result), 0);
            assert_true(hash_of(scratch("a.h5")) == hash_of(scratch("whole.h5")));
            remove(scratch("a.h5"));
        }
    }
    assert_int_equal(n_hit, 20);
    assert_int_equal(exit_of(start_slow_writer(&c, scratch("a.h5"))), 0);
    assert_true(hash_of(scratch("a.h5")) == hash_of(scratch("whole.h5")));
}

/* Write what is missing where files may not grow beyond `bytes`: 0 done, 1 a clear error. */
static int write_limited(const store_case *c, const char *path, rlim_t bytes)
{
    const int64_t n_live = rf_alloc_live();
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit limit = {.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};
        rf_store *store = NULL;
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        rf_status status = rf_store_create(world, path, &c->head, &store);
        status = status == RF_OK ? case_write_missing(store, INT64_MAX) : status;
        const bool is_clear = strstr(rf_error_text(), "a.h5") != NULL &&
                              strstr(rf_error_text(), "File too large") != NULL;
        rf_store_close(store);
        exit(rf_alloc_live() != n_live         ? 3
             : status == RF_OK                 ? 0
             : status == RF_ERR_IO && is_clear ? 1
                                               : 2);
    }
    return exit_of(pid);
}

static void a_full_disk_stops_the_writer_and_the_store_goes_on_after_it(void **state)
{
    static store_case c;
    int64_t n_bytes = 0;
    uint64_t hash = 0;
    int n_stopped = 0;
    (void)state;
    case_init(&c, RF_F32, 61, 4, 40);
    case_make(world, &c, scratch("whole.h5"));
    assert_ok(rf_file_hash(scratch("whole.h5"), &hash, &n_bytes));
    for (int i = 0; i < 20; i++) { /* from the beginning: where nothing is there yet */
        remove(scratch("a.h5"));
        assert_int_equal(write_limited(&c, scratch("a.h5"), (rlim_t)(n_bytes * i / 20)), 1);
        assert_false(rf_file_exists(scratch("a.h5.tmp")));
    }
    for (int i = 0; i <= 20; i++) { /* and where there was room for the description only */
        rf_store *store = NULL;
        remove(scratch("a.h5"));
        assert_ok(rf_store_create(world, scratch("a.h5"), &c.head, &store));
        rf_store_close(store);
        const int result = write_limited(&c, scratch("a.h5"), (rlim_t)(n_bytes * i / 20));
        assert_int_equal(result, i == 20 ? 0 : 1);
        n_stopped += result;
        assert_int_equal(write_limited(&c, scratch("a.h5"), RLIM_INFINITY), 0);
        assert_true(hash_of(scratch("a.h5")) == hash);
    }
    assert_int_equal(n_stopped, 20);
}

static void nothing_is_left_behind(void **state)
{
    (void)state;
    assert_int_equal(rf_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(what_is_written_is_read_bit_for_bit_in_every_type),
        scratch_test(mistakes_of_the_caller_are_refused),
        scratch_test(heads_that_cannot_be_are_refused_before_anything_is_made),
        scratch_test(a_store_goes_on_after_any_number_of_groups),
        scratch_test(groups_are_marked_as_time_goes_by_and_at_the_end),
        scratch_test(a_store_of_other_things_is_not_gone_on_with),
        scratch_test(the_bytes_do_not_depend_on_the_number_of_writers),
        scratch_test(of_two_jobs_that_write_one_is_refused_and_told_the_other),
        scratch_test(the_folder_of_a_store_is_made),
        scratch_test(a_writer_killed_at_20_moments_ends_with_the_bytes_of_an_undisturbed_one),
        scratch_test(a_full_disk_stops_the_writer_and_the_store_goes_on_after_it),
    };
    const struct CMUnitTest last[] = {cmocka_unit_test(nothing_is_left_behind)};
    if (rf_comm_start(NULL, NULL, &world) != RF_OK) {
        return 1;
    }
    const int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    rf_comm_finish(world);
    return n_failed + cmocka_run_group_tests(last, NULL, NULL);
}
