/* Stores that are damaged or made by somebody hostile: refused with the place, or read as they
 * were; never a crash, never another number. */
#include "store_case.h"

static rf_comm *world;

/* What is wrong with the store at `path`, or NULL where it gives what `c` says, all of it; `text`
 * is why it was refused. */
typedef enum outcome { AS_IT_WAS, REFUSED, WRONG } outcome;

static bool has_right_head(const rf_store_head *got, const rf_store_head *c)
{
    if (got->dtype != c->dtype || got->n_pictures != c->n_pictures || got->n_sites != c->n_sites ||
        got->group_pictures != c->group_pictures || got->holdout != c->holdout ||
        got->model_hash != c->model_hash || got->picture_hash != c->picture_hash ||
        got->n_classes != c->n_classes || strcmp(got->processing, c->processing) != 0 ||
        strcmp(got->settings, c->settings) != 0 || strcmp(got->model, c->model) != 0) {
        return false;
    }
    for (int64_t i = 0; i < c->n_pictures; i++) {
        if (strcmp(got->names[i], c->names[i]) != 0 || got->labels[i] != c->labels[i]) {
            return false;
        }
    }
    for (int64_t i = 0; i < c->n_classes; i++) {
        if (strcmp(got->classes[i], c->classes[i]) != 0) {
            return false;
        }
    }
    for (int64_t s = 0; s < c->n_sites; s++) {
        const rf_store_site *a = &got->sites[s], *b = &c->sites[s];
        if (strcmp(a->model, b->model) != 0 || strcmp(a->point, b->point) != 0 ||
            a->first_row != b->first_row || a->n_rows != b->n_rows || a->width != b->width ||
            a->point_rows != b->point_rows ||
            memcmp(a->classes, b->classes, (size_t)b->n_rows) != 0 ||
            memcmp(a->positions, b->positions, sizeof(int32_t) * 3 * (size_t)b->n_rows) != 0) {
            return false;
        }
    }
    return true;
}

static outcome look_at_group(const rf_store *store, int64_t g, uint8_t *got, uint8_t *wanted)
{
    uint8_t valid[64];
    int64_t first = 0;
    const int64_t n = rf_store_group(store, g, &first);
    for (int64_t s = 0; s < N_CASE_SITES; s++) {
        if (rf_store_read(store, g, s, got) != RF_OK) {
            return REFUSED;
        }
        case_block(store, g, s, wanted);
        if (memcmp(got, wanted, (size_t)rf_store_block_bytes(store, g, s)) != 0) {
            return WRONG;
        }
    }
    if (rf_store_read_valid(store, g, valid) != RF_OK) {
        return REFUSED;
    }
    for (int64_t i = 0; i < n; i++) {
        if (valid[i] != case_valid(first + i)) {
            return WRONG;
        }
    }
    return AS_IT_WAS;
}

static outcome look_at(const char *path, const store_case *c)
{
    rf_store *store = NULL;
    if (rf_store_open(path, &store) != RF_OK) {
        assert_true(strstr(rf_error_text(), path) != NULL);
        return REFUSED;
    }
    outcome result = rf_store_check_finished(store) != RF_OK               ? REFUSED
                     : !has_right_head(rf_store_get_head(store), &c->head) ? WRONG
                                                                           : AS_IT_WAS;
    uint8_t *got = case_room(store), *wanted = case_room(store);
    for (int64_t g = 0; g < rf_store_n_groups(store) && result == AS_IT_WAS; g++) {
        result = look_at_group(store, g, got, wanted);
    }
    rf_free(wanted);
    rf_free(got);
    rf_store_close(store);
    return result;
}

typedef struct bytes_of {
    char *bytes;
    int64_t n;
} bytes_of;

static bytes_of make_bytes(store_case *c)
{
    bytes_of out = {0};
    case_init(c, RF_F32, 11, 4, 6);
    case_make(world, c, scratch("whole.h5"));
    assert_ok(rf_file_read(scratch("whole.h5"), 1 << 24, &out.bytes, &out.n));
    return out;
}

/* ---- damage ------------------------------------------------------------------------------------
 */

static void a_store_cut_short_is_refused_wherever_it_was_cut(void **state)
{
    static store_case c;
    bytes_of whole = make_bytes(&c);
    (void)state;
    for (int i = 0; i < 20; i++) {
        put_file(scratch("a.h5"), whole.bytes, (size_t)(whole.n * i / 20));
        assert_int_equal(look_at(scratch("a.h5"), &c), REFUSED);
    }
    put_file(scratch("a.h5"), whole.bytes, (size_t)whole.n - 1);
    assert_int_equal(look_at(scratch("a.h5"), &c), REFUSED);
    rf_free(whole.bytes);
}

/* Every tenth byte, and all of the last part of the file, with another bit each. */
static void a_flipped_bit_anywhere_is_refused_or_changes_nothing(void **state)
{
    static store_case c;
    bytes_of whole = make_bytes(&c);
    int n_refused = 0, n_same = 0;
    (void)state;
    for (int64_t at = 0; at < whole.n; at += 1 + (at * 7 + 3) % 19) {
        const char flip = (char)(1 << (at * 5 % 8));
        whole.bytes[at] ^= flip;
        put_file(scratch("a.h5"), whole.bytes, (size_t)whole.n);
        whole.bytes[at] ^= flip;
        const outcome result = look_at(scratch("a.h5"), &c);
        if (result == WRONG) {
            fail_msg("byte %d of %d, bit %d: read as something else", (int)at, (int)whole.n,
                     (int)(at * 5 % 8));
        }
        n_refused += result == REFUSED;
        n_same += result == AS_IT_WAS;
    }
    assert_true(n_refused > n_same / 4);
    rf_free(whole.bytes);
}

static void a_flipped_value_is_refused_with_its_group_and_pictures(void **state)
{
    static store_case c;
    bytes_of whole = make_bytes(&c);
    rf_store *store = NULL;
    uint8_t block[4096], wanted[4096];
    (void)state;
    assert_ok(rf_store_open(scratch("whole.h5"), &store));
    case_block(store, 1, 1, wanted);
    const int64_t n = rf_store_block_bytes(store, 1, 1);
    rf_store_close(store);
    char *hit = memmem(whole.bytes, (size_t)whole.n, wanted, (size_t)n);
    assert_non_null(hit);
    hit[n - 1] ^= 1;
    put_file(scratch("a.h5"), whole.bytes, (size_t)whole.n);
    assert_ok(rf_store_open(scratch("a.h5"), &store));
    assert_ok(rf_store_read(store, 1, 0, block));
    assert_ok(rf_store_read(store, 0, 1, block));
    assert_refused(rf_store_read(store, 1, 1, block), RF_ERR_FORMAT,
                   "/a.h5': blocks.1.hook_resid_post of group 1 (pictures 4 to 7, bytes ");
    assert_refused(rf_store_read(store, 1, 1, block), RF_ERR_FORMAT, "with repair=true");
    rf_store_close(store);
    rf_free(whole.bytes);
}

/* ---- repair ------------------------------------------------------------------------------------
 */

/* Where the numbers of a dataset lie in the whole store. */
static int64_t place_of(const char *name, rf_h5_type type, int n_dims, const int64_t *shape)
{
    rf_h5_file *f = NULL;
    int64_t at = 0;
    assert_ok(rf_h5_open(scratch("whole.h5"), &f));
    assert_ok(rf_h5_locate(f, name, type, n_dims, shape, &at));
    rf_h5_close(f);
    return at;
}

/* Repair a.h5, fill it, and compare it with the whole one. */
static void check_repaired(const store_case *c, const bytes_of *whole, int64_t expected_checked,
                           int64_t expected_damaged)
{
    rf_store *store = NULL;
    bytes_of again = {0};
    int64_t n_checked = 0, n_damaged = 0, n_missing = 0;
    assert_ok(rf_store_repair(world, scratch("a.h5"), &n_checked, &n_damaged));
    assert_int_equal(n_checked, expected_checked);
    assert_int_equal(n_damaged, expected_damaged);
    assert_ok(rf_store_create(world, scratch("a.h5"), &c->head, &store));
    for (int64_t g = 0; g < rf_store_n_groups(store); g++) {
        bool has = false;
        assert_ok(rf_store_has(store, g, &has));
        n_missing += !has;
    }
    assert_int_equal(n_missing, expected_damaged + 3 - expected_checked);
    assert_ok(case_write_missing(store, INT64_MAX));
    rf_store_close(store);
    assert_ok(rf_file_read(scratch("a.h5"), 1 << 24, &again.bytes, &again.n));
    assert_true(again.n == whole->n && memcmp(again.bytes, whole->bytes, (size_t)again.n) == 0);
    rf_free(again.bytes);
}

/* 11 pictures in 3 groups. */
static void a_damaged_store_is_repaired_to_the_bytes_that_it_had(void **state)
{
    static store_case c;
    bytes_of whole = make_bytes(&c);
    const int64_t values = place_of("activations/blocks.0.hook_resid_post/values", RF_H5_F32, 3,
                                    (int64_t[]){11, 5, 6}),
                  valid = place_of("pictures/valid", RF_H5_U8, 1, (int64_t[]){11}),
                  sums = place_of("groups/checksum", RF_H5_I64, 2, (int64_t[]){3, 4}),
                  done = place_of("groups/done", RF_H5_U8, 1, (int64_t[]){3}),
                  group = 4 * 5 * 6 * 4;
    const struct {
        int64_t at[2]; /* what is damaged */
        int64_t n_checked, n_damaged;
    } cases[] = {
        {{values, values}, 3, 1},                     /* its first byte */
        {{values + group - 1, values + group}, 3, 2}, /* on both sides of a border */
        {{values + 2 * group, valid + 4}, 3, 2},
        {{valid + 10, valid + 10}, 3, 1},
        {{sums, sums + 2 * 4 * 8 + 31}, 3, 2},
        {{done + 1, done + 1}, 3, 1}, /* neither 0 nor 1 */
        {{done + 2, values}, 3, 2},
        {{whole.n, whole.n}, 3, 0}, /* nothing */
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *bytes = rf_calloc(whole.n + 1, 1);
        memcpy(bytes, whole.bytes, (size_t)whole.n);
        bytes[cases[i].at[0]] ^= 6;
        bytes[cases[i].at[1]] ^= cases[i].at[1] == cases[i].at[0] ? 0 : 6;
        put_file(scratch("a.h5"), bytes, (size_t)whole.n);
        rf_free(bytes);
        check_repaired(&c, &whole, cases[i].n_checked, cases[i].n_damaged);
    }
    whole.bytes[done + 1] = 0; /* a group that was not written yet is no damage */
    put_file(scratch("a.h5"), whole.bytes, (size_t)whole.n);
    whole.bytes[done + 1] = 1;
    check_repaired(&c, &whole, 2, 0);
    rf_free(whole.bytes);
}

static void what_cannot_be_repaired_is_said(void **state)
{
    static store_case c;
    int64_t n_checked = 0, n_damaged = 0;
    bytes_of whole = make_bytes(&c);
    (void)state;
    put_file(scratch("a.h5"), whole.bytes, (size_t)whole.n - 1);
    assert_refused(rf_store_repair(world, scratch("a.h5"), &n_checked, &n_damaged), RF_ERR_FORMAT,
                   "it cannot be repaired, only removed");
    assert_refused(rf_store_repair(world, scratch("none.h5"), &n_checked, &n_damaged),
                   RF_ERR_NOT_FOUND, "none.h5");
    assert_false(rf_file_exists(scratch("none.h5.lock")));
    rf_free(whole.bytes);
}

/* ---- hostility ---------------------------------------------------------------------------------
 */

static int64_t replace_all(bytes_of *in, const void *from, const void *to, size_t n)
{
    int64_t n_hits = 0;
    for (int64_t at = 0; at + (int64_t)n <= in->n; at++) {
        if (memcmp(in->bytes + at, from, n) == 0) {
            memcpy(in->bytes + at, to, n);
            n_hits++;
        }
    }
    return n_hits;
}

static void shapes_beyond_the_file_are_refused(void **state)
{
    static const int64_t shape[3] = {11, 5, 6};
    static const int64_t others[][3] = {{11, 5, 7},
                                        {11, 50000, 6},
                                        {11, INT64_C(1) << 40, 6},
                                        {11, INT64_C(1) << 40, INT64_C(1) << 40},
                                        {11, 5, INT64_MAX},
                                        {11, 5, -6},
                                        {INT64_C(1) << 60, 5, 6},
                                        {0, 5, 6},
                                        {11, 0, 6}};
    static store_case c;
    (void)state;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        bytes_of whole = make_bytes(&c);
        assert_true(replace_all(&whole, shape, others[i], sizeof shape) > 0);
        put_file(scratch("a.h5"), whole.bytes, (size_t)whole.n);
        assert_int_equal(look_at(scratch("a.h5"), &c), REFUSED);
        rf_free(whole.bytes);
    }
}

static void datasets_that_overlap_are_refused(void **state)
{
    static store_case c;
    rf_h5_file *f = NULL;
    int64_t at[2] = {0};
    bytes_of whole = make_bytes(&c);
    (void)state;
    assert_ok(rf_h5_open(scratch("whole.h5"), &f));
    assert_ok(rf_h5_locate(f, "activations/blocks.0.hook_resid_post/values", RF_H5_F32, 3,
                           (int64_t[]){11, 5, 6}, &at[0]));
    assert_ok(rf_h5_locate(f, "activations/blocks.1.hook_resid_post/values", RF_H5_F32, 3,
                           (int64_t[]){11, 4, 3}, &at[1]));
    rf_h5_close(f);
    assert_true(replace_all(&whole, &at[1], &at[0], sizeof *at) > 0);
    put_file(scratch("a.h5"), whole.bytes, (size_t)whole.n);
    assert_int_equal(look_at(scratch("a.h5"), &c), REFUSED);
    rf_free(whole.bytes);
}

/* By h5py, from what docs/format-store.md says. */
static void a_store_that_another_program_wrote_is_read(void **state)
{
    rf_store *store = NULL;
    float x[16];
    uint8_t valid[2];
    (void)state;
    assert_ok(rf_store_open(RF_SOURCE_DIR "/tests/data/accept/by-h5py.h5", &store));
    assert_ok(rf_store_check_finished(store));
    assert_ok(rf_store_read(store, 1, 0, x));
    assert_true(x[0] == 16 && x[7] == 23);
    assert_ok(rf_store_read_valid(store, 0, valid));
    assert_true(valid[0] == 1 && valid[1] == 0);
    assert_string_equal(rf_store_get_head(store)->names[2], "p2");
    rf_store_close(store);
}

static void read_all(const rf_store *store, rf_status *status)
{
    *status = rf_store_check_finished(store);
    for (int64_t g = 0; g < rf_store_n_groups(store) && *status == RF_OK; g++) {
        for (int64_t s = 0; s < rf_store_get_head(store)->n_sites && *status == RF_OK; s++) {
            uint8_t *block = rf_calloc(rf_store_block_bytes(store, g, s), 1);
            *status = rf_store_read(store, g, s, block);
            rf_free(block);
        }
    }
}

/* tests/data/refuse: each is a good store but for what its name says. */
static void hostile_stores_are_refused_by_name(void **state)
{
    char **names = NULL;
    int64_t n = 0;
    (void)state;
    assert_ok(rf_file_list(RF_SOURCE_DIR "/tests/data/refuse", &names, &n));
    assert_true(n >= 35);
    for (int64_t i = 0; i < n; i++) {
        char path[512];
        rf_store *store = NULL;
        snprintf(path, sizeof path, RF_SOURCE_DIR "/tests/data/refuse/%s", names[i]);
        rf_status status = rf_store_open(path, &store);
        if (status == RF_OK) {
            read_all(store, &status);
        }
        if (status == RF_OK) {
            fail_msg("%s was read", names[i]);
        }
        if (strstr(rf_error_text(), names[i]) == NULL) {
            fail_msg("%s: \"%s\" does not name it", names[i], rf_error_text());
        }
        if (strcmp(names[i], "version-2.h5") == 0) {
            assert_int_equal(status, RF_ERR_UNSUPPORTED);
        }
        rf_store_close(store);
    }
    rf_file_list_free(names, n);
}

/* What would take much memory is told apart by what the file says, before any of it is taken. */
static void what_takes_more_than_the_file_is_refused_before_it_is_read(void **state)
{
    static const struct {
        const char *name, *text;
    } cases[] = {
        {"names-never-written.h5", "'pictures/name' says that it has more bytes than the whole"},
        {"labels-in-a-chunk-of-1-GiB.h5", "'pictures/label' says that it has more bytes than"},
        {"names-compressed.h5", "'pictures/name' is compressed"},
        {"objects-without-checksums.h5", "'pictures/label' or its group is of HDF5's older kind"},
        {"behind-a-users-block.h5", "is no HDF5 file"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[512];
        rf_store *store = NULL;
        snprintf(path, sizeof path, RF_SOURCE_DIR "/tests/data/refuse/%s", cases[i].name);
        assert_true(rf_store_open(path, &store) != RF_OK);
        if (strstr(rf_error_text(), cases[i].text) == NULL) {
            fail_msg("%s: \"%s\"", cases[i].name, rf_error_text());
        }
    }
}

static void nothing_is_left_behind(void **state)
{
    (void)state;
    assert_int_equal(rf_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_store_cut_short_is_refused_wherever_it_was_cut),
        scratch_test(a_flipped_bit_anywhere_is_refused_or_changes_nothing),
        scratch_test(a_flipped_value_is_refused_with_its_group_and_pictures),
        scratch_test(a_damaged_store_is_repaired_to_the_bytes_that_it_had),
        scratch_test(what_cannot_be_repaired_is_said),
        scratch_test(shapes_beyond_the_file_are_refused),
        scratch_test(datasets_that_overlap_are_refused),
        scratch_test(a_store_that_another_program_wrote_is_read),
        scratch_test(hostile_stores_are_refused_by_name),
        scratch_test(what_takes_more_than_the_file_is_refused_before_it_is_read),
    };
    const struct CMUnitTest last[] = {cmocka_unit_test(nothing_is_left_behind)};
    if (rf_comm_start(NULL, NULL, &world) != RF_OK) {
        return 1;
    }
    const int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    rf_comm_finish(world);
    return n_failed + cmocka_run_group_tests(last, NULL, NULL);
}
