#include "refract/base.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* The known answers of Philox 4x32-10 that Random123 publishes. The purpose sits in the second word
 * of the key, so the seed is chosen to give that word. */
static void philox_gives_its_known_answers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        const uint32_t *c = cases[i].counter, *k = cases[i].key;
        uint32_t out[4];
        uint64_t high = k[1] ^ (uint32_t)RF_RANDOM_TEST << 8;
        rf_random_u32x4(high << 32 | k[0], RF_RANDOM_TEST, (uint64_t)c[1] << 32 | c[0],
                        (uint64_t)c[3] << 32 | c[2], out);
        assert_memory_equal(out, cases[i].expected, sizeof out);
    }
}

static void every_part_of_the_key_changes_the_numbers(void **state)
{
    uint32_t base[4], other[4];
    (void)state;
    rf_random_u32x4(1, RF_RANDOM_TEST, 2, 3, base);
    rf_random_u32x4(1, RF_RANDOM_TEST, 2, 3, other);
    assert_memory_equal(base, other, sizeof base);
    rf_random_u32x4(2, RF_RANDOM_TEST, 2, 3, other);
    assert_memory_not_equal(base, other, sizeof base);
    rf_random_u32x4(1, RF_RANDOM_SAMPLE, 2, 3, other);
    assert_memory_not_equal(base, other, sizeof base);
    rf_random_u32x4(1, RF_RANDOM_TEST, 2 + (UINT64_C(1) << 32), 3, other);
    assert_memory_not_equal(base, other, sizeof base);
    rf_random_u32x4(1, RF_RANDOM_TEST, 2, 3 + (UINT64_C(1) << 32), other);
    assert_memory_not_equal(base, other, sizeof base);
    rf_random_u32x4(1 + (UINT64_C(1) << 32), RF_RANDOM_TEST, 2, 3, other);
    assert_memory_not_equal(base, other, sizeof base);
}

static void normals_have_the_moments_of_a_normal(void **state)
{
    enum { N = 100000 };
    double sum[5] = {0};
    (void)state;
    for (uint64_t i = 0; i < N / 4; i++) {
        float z[4];
        rf_random_normal4(7, RF_RANDOM_TEST, i, 0, z);
        for (int j = 0; j < 4; j++) {
            double power = 1;
            assert_true(isfinite(z[j]));
            for (int p = 1; p <= 4; p++) {
                power *= (double)z[j];
                sum[p] += power / N;
            }
        }
    }
    /* five standard errors of each moment: sqrt(1, 2, 15, 96) / sqrt(N) */
    assert_false(!(fabs(sum[1]) <= 5 * 1.0 / sqrt(N)));
    assert_false(!(fabs(sum[2] - 1) <= 5 * sqrt(2.0 / N)));
    assert_false(!(fabs(sum[3]) <= 5 * sqrt(15.0 / N)));
    assert_false(!(fabs(sum[4] - 3) <= 5 * sqrt(96.0 / N)));
}

static void permutations_of_every_size_are_bijections(void **state)
{
    static bool seen[1001];
    (void)state;
    for (int64_t n = 1; n <= 1000; n++) {
        memset(seen, 0, sizeof seen);
        for (int64_t i = 0; i < n; i++) {
            int64_t j = rf_permute(5, RF_RANDOM_TEST, 1, 2, n, i);
            assert_true(j >= 0 && j < n && !seen[j]);
            seen[j] = true;
        }
    }
}

static void large_permutations_stay_in_range_and_differ(void **state)
{
    static const int64_t sizes[] = {(1 << 20) - 1,          1 << 20,
                                    (1 << 20) + 1,          INT64_C(1) << 40,
                                    (INT64_C(1) << 40) + 1, INT64_C(1) << 62};
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t last = -1;
        for (int64_t i = 0; i < 1000; i++) {
            int64_t j = rf_permute(5, RF_RANDOM_TEST, 1, 2, sizes[s], sizes[s] - 1 - i);
            assert_true(j >= 0 && j < sizes[s] && j != last);
            last = j;
        }
    }
}

/* How many of 0..n-1 two keys send to the same place: about one for unrelated permutations. */
static int count_same(uint64_t seed, rf_random_purpose purpose, uint64_t a, uint64_t b)
{
    int n_same = 0;
    for (int64_t i = 0; i < 1000; i++) {
        n_same += rf_permute(5, RF_RANDOM_TEST, 1, 2, 1000, i) ==
                  rf_permute(seed, purpose, a, b, 1000, i);
    }
    return n_same;
}

static void permutations_depend_on_every_part_of_the_key(void **state)
{
    (void)state;
    assert_int_equal(count_same(5, RF_RANDOM_TEST, 1, 2), 1000);
    /* P(more than 10 fixed points of a random permutation) is below 1e-8 */
    assert_true(count_same(6, RF_RANDOM_TEST, 1, 2) <= 10);
    assert_true(count_same(5, RF_RANDOM_POOL_ORDER, 1, 2) <= 10);
    assert_true(count_same(5, RF_RANDOM_TEST, 2, 2) <= 10);
    assert_true(count_same(5, RF_RANDOM_TEST, 1, 3) <= 10);
}

/* Where 0 goes, over many keys, is even: chi-square with 9 degrees, below its 1 - 1e-6 quantile. */
static void permutations_send_an_element_everywhere_alike(void **state)
{
    enum { N = 10, N_KEYS = 20000 };
    (void)state;
    for (int64_t i = 0; i < N; i++) {
        double count[N] = {0}, chi2 = 0;
        for (uint64_t key = 0; key < N_KEYS; key++) {
            count[rf_permute(3, RF_RANDOM_TEST, key, 0, N, i)] += 1;
        }
        for (int j = 0; j < N; j++) {
            double d = count[j] - (double)N_KEYS / N;
            chi2 += d * d / ((double)N_KEYS / N);
        }
        assert_false(!(chi2 <= 46.0));
    }
}

static void hashes_are_fnv_1a(void **state)
{
    (void)state;
    assert_true(rf_hash(RF_HASH_START, "", 0) == UINT64_C(0xcbf29ce484222325));
    assert_true(rf_hash(RF_HASH_START, "a", 1) == UINT64_C(0xaf63dc4c8601ec8c));
    assert_true(rf_hash(RF_HASH_START, "foobar", 6) == UINT64_C(0x85944171f73967e8));
    assert_true(rf_hash(rf_hash(RF_HASH_START, "foo", 3), "bar", 3) ==
                UINT64_C(0x85944171f73967e8));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_its_known_answers),
        cmocka_unit_test(every_part_of_the_key_changes_the_numbers),
        cmocka_unit_test(normals_have_the_moments_of_a_normal),
        cmocka_unit_test(permutations_of_every_size_are_bijections),
        cmocka_unit_test(large_permutations_stay_in_range_and_differ),
        cmocka_unit_test(permutations_depend_on_every_part_of_the_key),
        cmocka_unit_test(permutations_send_an_element_everywhere_alike),
        cmocka_unit_test(hashes_are_fnv_1a),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
