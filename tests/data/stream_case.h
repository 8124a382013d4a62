/* Streams whose activations are a formula of (point, picture, token), so that a row tells what it
 * is, and their sequence written out in the plainest way. */
#ifndef REFRACT_TESTS_STREAM_CASE_H
#define REFRACT_TESTS_STREAM_CASE_H

#include "../../src/data/data_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_READERS = 6, MAX_SITES = 3, SEED = 11, NEVER = 1 << 30 };

static rf_comm *world;
static rf_backend *backend;
static rf_stream *stream;

/* Model 0 is that of single sites; 1 has its grid and no registers, 2 another grid, 3 as many
 * patches in another grid, 4 a token less before as many patches more. */
static const rf_vit_config models[] = {
    {.name = "formula",
     .grid = {1, 2, 3},
     .n_patches = 6,
     .n_prefix = 3,
     .n_registers = 2,
     .n_tokens = 9,
     .has_cls = true},
    {.name = "bare",
     .grid = {1, 2, 3},
     .n_patches = 6,
     .n_prefix = 1,
     .n_tokens = 7,
     .has_cls = true},
    {.name = "small",
     .grid = {1, 2, 2},
     .n_patches = 4,
     .n_prefix = 1,
     .n_tokens = 5,
     .has_cls = true},
    {.name = "turned",
     .grid = {1, 3, 2},
     .n_patches = 6,
     .n_prefix = 1,
     .n_tokens = 7,
     .has_cls = true},
    {.name = "shifted",
     .grid = {1, 1, 8},
     .n_patches = 8,
     .n_prefix = 1,
     .n_tokens = 9,
     .has_cls = true},
};
enum { N_MODELS = sizeof models / sizeof models[0] };

/* ---- activations by formula -------------------------------------------------------------------
 */

/* Every number below 2^24, so that floats hold it. */
static float formula(int64_t layer, int64_t picture, int64_t token, int64_t column)
{
    return (float)(((layer * 1000 + picture) * 16 + token) * 8 + column % 8);
}

/* Models differ as layers do. */
static int64_t layer_of(int model, const rf_hook_point *point)
{
    return 10 * model + point->layer;
}

typedef struct formula_source {
    int64_t *pictures, *first, n_groups, at;
    int64_t n_made;   /* groups so far */
    int64_t fail_at;  /* fail at this group, counted over the run */
    int64_t bad_each; /* picture p is bad where p % bad_each == 1; 0: none */
} formula_source;

static formula_source *formula_made; /* the source of the stream that is open */

static bool is_bad(int64_t bad_each, int64_t picture)
{
    return bad_each > 0 && picture % bad_each == 1;
}

static rf_status formula_start(void *self, const int64_t *pictures, const int64_t *first,
                               int64_t n_groups)
{
    formula_source *f = self;
    rf_status status = RF_OK;
    rf_free(f->pictures);
    rf_free(f->first);
    RF_ALLOC(f->first, n_groups + 1);
    memcpy(f->first, first, (size_t)(n_groups + 1) * sizeof *first);
    RF_ALLOC(f->pictures, first[n_groups]);
    memcpy(f->pictures, pictures, (size_t)first[n_groups] * sizeof *pictures);
    f->n_groups = n_groups;
    f->at = 0;
fail:
    return status;
}

static rf_status formula_next(void *self, const rf_site *sites, int64_t n_sites, int64_t n_pictures,
                              void *const *rows, uint8_t *valid)
{
    rf_status status = RF_OK;
    formula_source *f = self;
    if (f->n_made == f->fail_at) {
        RF_FAIL(RF_ERR_NUMERIC, "the model broke");
    }
    RF_BUG(f->at < f->n_groups && f->first[f->at + 1] - f->first[f->at] == n_pictures,
           "asked for a group of %" PRId64 " pictures that was not started", n_pictures);
    const int64_t *pictures = f->pictures + f->first[f->at];
    for (int64_t i = 0; i < n_pictures; i++) {
        valid[i] = !is_bad(f->bad_each, pictures[i]);
        for (int64_t s = 0; s < n_sites; s++) {
            int64_t width = sites[s].point.width;
            float *out = (float *)rows[s] + i * sites[s].n_rows * width;
            for (int64_t k = 0; k < sites[s].n_rows * width; k++) {
                out[k] = valid[i] ? formula(layer_of(sites[s].model, &sites[s].point), pictures[i],
                                            sites[s].first_row + k / width, k % width)
                                  : NAN;
            }
        }
    }
    f->at++;
    f->n_made++;
fail:
    return status;
}

static const char *formula_name(void *self, int64_t picture)
{
    (void)self;
    static char name[32];
    snprintf(name, sizeof name, "p%" PRId64 ".jpg", picture);
    return name;
}

static const char *formula_reason(void *self, int64_t picture)
{
    (void)self;
    static char reason[64];
    snprintf(reason, sizeof reason, "torn at %" PRId64, picture * 3);
    return reason;
}

static void formula_destroy(void *self)
{
    formula_source *f = self;
    rf_free(f->pictures);
    rf_free(f->first);
    rf_free(f);
    formula_made = NULL;
}

/* ---- a case: shapes and readers ---------------------------------------------------------------
 */

/* rf_reader_opts that can be copied. */
typedef struct case_reader {
    rf_reader_site sites[MAX_SITES];
    int n_sites;
    rf_token_class tokens;
    int64_t batch_tokens, epochs, total_tokens;
    double max_norm;
} case_reader;

typedef struct test_case {
    int64_t n_pictures, group_pictures, pool_groups, keep_bytes, bad_each;
    double max_bad_share, share;
    int64_t n_readers;
    case_reader readers[MAX_READERS];
} test_case;

static case_reader reader(const char *name, int64_t layer, rf_hook_shape shape, int64_t width,
                          rf_token_class tokens, int64_t batch_tokens, int64_t epochs)
{
    case_reader r = {.sites = {{.point = {.layer = layer, .shape = shape, .width = width}}},
                     .n_sites = 1,
                     .tokens = tokens,
                     .batch_tokens = batch_tokens,
                     .epochs = epochs};
    char *to = r.sites[0].point.name;
    assert_int_equal(rf_format(to, sizeof r.sites[0].point.name, "%s", name), RF_OK);
    return r;
}

/* Columns of all sites. */
static int64_t width_of(const case_reader *r)
{
    int64_t width = 0;
    for (int i = 0; i < r->n_sites; i++) {
        width += r->sites[i].point.width;
    }
    return width;
}

static rf_stream_frame frame_of(const test_case *c)
{
    rf_stream_frame frame = {.stream = stream,
                             .comm = world,
                             .n_models = N_MODELS,
                             .n_pictures = c->n_pictures,
                             .group_pictures = c->group_pictures,
                             .pool_groups = c->pool_groups,
                             .seed = SEED,
                             .pictures_hash = 99,
                             .keep_bytes = c->keep_bytes,
                             .max_bad_share = c->max_bad_share,
                             .share = c->share};
    for (int m = 0; m < N_MODELS; m++) {
        frame.configs[m] = &models[m];
        frame.models[m] = models[m].name;
    }
    return frame;
}

static void readers_of(const test_case *c, rf_reader_opts out[MAX_READERS])
{
    for (int64_t r = 0; r < c->n_readers; r++) {
        out[r] = (rf_reader_opts){.sites = c->readers[r].sites,
                                  .n_sites = c->readers[r].n_sites,
                                  .tokens = c->readers[r].tokens,
                                  .batch_tokens = c->readers[r].batch_tokens,
                                  .epochs = c->readers[r].epochs,
                                  .total_tokens = c->readers[r].total_tokens,
                                  .max_norm = c->readers[r].max_norm};
    }
}

static rf_group_source formula_of(const test_case *c, int64_t fail_at)
{
    formula_source *f = rf_calloc(1, sizeof *f);
    assert_non_null(f);
    f->fail_at = fail_at;
    f->bad_each = c->bad_each;
    formula_made = f;
    return (rf_group_source){
        f, formula_start, formula_next, formula_name, formula_reason, formula_destroy};
}

static rf_status open_case(const test_case *c, int64_t fail_at, rf_activation_stream **out)
{
    rf_reader_opts readers[MAX_READERS] = {{0}};
    const rf_stream_frame frame = frame_of(c);
    readers_of(c, readers);
    return rf_activation_stream_assemble(&frame, formula_of(c, fail_at), readers, c->n_readers,
                                         out);
}

/* ---- the sequence, written out ----------------------------------------------------------------
 */

typedef struct naive_token {
    int64_t picture, row; /* of the class */
} naive_token;

/* `n` tokens of the reader's sequence from the definition: list a pool's tokens, permute, append.
 */
static naive_token *naive_sequence(const test_case *c, const case_reader *r, int64_t *n)
{
    int64_t first = 0, n_rows = 0, n_out = 0;
    int64_t g = c->group_pictures, p = c->pool_groups, n_groups = (c->n_pictures + g - 1) / g;
    const rf_reader_site *site = &r->sites[0];
    assert_int_equal(
        rf_token_class_rows(&models[site->model], &site->point, r->tokens, &first, &n_rows), RF_OK);
    int64_t total = r->total_tokens > 0 ? r->total_tokens : r->epochs * c->n_pictures * n_rows;
    naive_token *out = rf_calloc(total + p * g * n_rows, sizeof *out);
    naive_token *pool = rf_calloc(p * g * n_rows, sizeof *pool);
    for (int64_t e = 0; n_out < total; e++) {
        for (int64_t j = 0; j * p < n_groups; j++) {
            int64_t n_pool = 0;
            for (int64_t slot = j * p; slot < n_groups && slot < (j + 1) * p; slot++) {
                int64_t group =
                    rf_permute(SEED, RF_RANDOM_GROUP_ORDER, (uint64_t)e, 0, n_groups, slot);
                for (int64_t i = group * g; i < group * g + g && i < c->n_pictures; i++) {
                    for (int64_t k = 0; k < n_rows; k++) {
                        pool[n_pool++] = (naive_token){i, k};
                    }
                }
            }
            for (int64_t i = 0; i < n_pool && n_out < total; i++) {
                out[n_out++] = pool[rf_permute(SEED, RF_RANDOM_POOL_ORDER, (uint64_t)e, (uint64_t)j,
                                               n_pool, i)];
            }
        }
    }
    rf_free(pool);
    *n = total;
    return out;
}

/* The token that row `row` of the reader's class is at one of its sites. */
static int64_t token_at(const case_reader *r, int site, int64_t row)
{
    int64_t first = 0, n_rows = 0;
    const rf_reader_site *s = &r->sites[site];
    if (rf_token_class_rows(&models[s->model], &s->point, r->tokens, &first, &n_rows) != RF_OK) {
        return -1;
    }
    return first + row;
}

/* The class that has the token at the reader's first site. */
static rf_token_class class_at(const case_reader *r, int64_t token)
{
    const rf_reader_site *s = &r->sites[0];
    if (s->point.shape == RF_HOOK_POOLED) {
        return RF_TOKENS_CLS;
    }
    for (int k = RF_TOKENS_CLS; k <= RF_TOKENS_PATCH; k++) {
        int64_t first = 0, n_rows = 0;
        if (rf_token_class_rows(&models[s->model], &s->point, (rf_token_class)k, &first, &n_rows) ==
                RF_OK &&
            token >= first && token < first + n_rows) {
            return (rf_token_class)k;
        }
    }
    return RF_TOKENS_ALL;
}

/* Numbers of `row` that are not those of the token at the reader's sites, side by side. */
static int64_t count_wrong(const case_reader *r, naive_token t, bool bad, const float *row)
{
    int64_t n_wrong = 0;
    for (int s = 0; s < r->n_sites; s++) {
        const rf_reader_site *site = &r->sites[s];
        int64_t token = token_at(r, s, t.row);
        for (int64_t k = 0; k < site->point.width; k++) {
            float expected =
                bad ? 0.0f : formula(layer_of(site->model, &site->point), t.picture, token, k);
            n_wrong += !(row[k] == expected);
        }
        row += site->point.width;
    }
    return n_wrong;
}

/* Is this rank's share of batch `b` what the sequence says? */
static bool batch_is_right(const test_case *c, const case_reader *r, const naive_token *sequence,
                           int64_t total, int64_t b, const rf_token_batch *batch)
{
    int64_t begin = b * r->batch_tokens, n = rf_min_i64(r->batch_tokens, total - begin);
    int64_t first = 0, count = 0, n_valid = 0, n_wrong = 0;
    rf_comm_share(n, RF_TOKEN_TILE, rf_comm_rank(world), rf_comm_size(world), &first, &count);
    for (int64_t i = 0; i < n; i++) {
        n_valid += !is_bad(c->bad_each, sequence[begin + i].picture);
    }
    if (batch->batch_idx != b || batch->n_rows != n || batch->first_row != first ||
        batch->x.shape[0] != count || batch->x.shape[1] != width_of(r) ||
        batch->n_valid != n_valid) {
        return false;
    }
    const float *x = batch->x.data; /* the CPU backend: device memory is ours to read */
    for (int64_t i = 0; i < count; i++) {
        naive_token t = sequence[begin + first + i];
        bool bad = is_bad(c->bad_each, t.picture);
        int64_t token = token_at(r, 0, t.row);
        n_wrong += batch->pictures[i] != t.picture || batch->tokens[i] != token;
        n_wrong += batch->row_valid[i] != !bad || batch->classes[i] != class_at(r, token);
        n_wrong += count_wrong(r, t, bad, x + i * width_of(r));
    }
    return n_wrong == 0;
}

/* All ranks fail together, so that none waits for one that has left. */
static void assert_on_all(bool ok)
{
    int64_t n_wrong = ok ? 0 : 1;
    assert_int_equal(rf_comm_sum_i64(world, &n_wrong, 1), RF_OK);
    assert_int_equal(n_wrong, 0);
}

/* From where the stream is to its end, as a run does it; done[r] batches were taken before. */
static bool run_to_end(const test_case *c, rf_activation_stream *st, int64_t *done)
{
    naive_token *sequence[MAX_READERS] = {0};
    int64_t total[MAX_READERS] = {0};
    bool ok = true, more = true;
    for (int64_t r = 0; r < c->n_readers; r++) {
        sequence[r] = naive_sequence(c, &c->readers[r], &total[r]);
    }
    while (more) {
        bool any = false;
        for (int64_t r = 0; r < c->n_readers; r++) {
            rf_token_batch batch;
            bool has = false;
            ok = rf_activation_stream_next(st, r, &batch, &has) == RF_OK && ok;
            if (has) {
                ok = batch_is_right(c, &c->readers[r], sequence[r], total[r], done[r]++, &batch) &&
                     ok;
            }
            any = any || has;
        }
        if (!any) {
            ok = rf_activation_stream_advance(st, &more) == RF_OK && ok;
        }
    }
    for (int64_t r = 0; r < c->n_readers; r++) {
        ok = done[r] == rf_ceil_div(total[r], c->readers[r].batch_tokens) && ok;
        ok = done[r] == rf_activation_stream_n_batches(st, r) && ok;
        rf_free(sequence[r]);
    }
    return ok;
}

static inline void assert_case(const test_case *c, int64_t *n_made)
{
    rf_activation_stream *st = NULL;
    int64_t done[MAX_READERS] = {0}, live = rf_alloc_live();
    assert_int_equal(open_case(c, NEVER, &st), RF_OK);
    assert_on_all(run_to_end(c, st, done));
    int64_t made = formula_made->n_made;
    rf_activation_stream_close(st);
    assert_on_all(rf_alloc_live() == live);
    assert_int_equal(rf_comm_sum_i64(world, &made, 1), RF_OK);
    if (n_made != NULL) {
        *n_made = made;
    }
}

#endif
