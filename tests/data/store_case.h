/* A small store whose every number is a function of its place. */
#ifndef REFRACT_TESTS_STORE_CASE_H
#define REFRACT_TESTS_STORE_CASE_H

#include "../io/scratch.h"
#include "refract/data.h"

enum { MAX_CASE_PICTURES = 512, N_CASE_SITES = 3, MOST_ROWS = 5 };

/* Three sites: five rows, rows 1 to 4 of five, and a pooled row of another model. The last group is
 * short. */
typedef struct store_case {
    rf_store_head head;
    rf_store_site sites[N_CASE_SITES];
    uint8_t classes[N_CASE_SITES][MOST_ROWS];
    int32_t positions[N_CASE_SITES][3 * MOST_ROWS];
    char texts[MAX_CASE_PICTURES][16];
    const char *names[MAX_CASE_PICTURES];
    int64_t labels[MAX_CASE_PICTURES];
} store_case;

static const char *const case_classes[] = {"cat", "dog"};

static inline void case_rows(store_case *c, int s, int64_t first_row, int64_t n_rows)
{
    for (int64_t r = 0; r < n_rows; r++) {
        const int64_t row = first_row + r;
        c->classes[s][r] = row == 0 ? RF_TOKENS_CLS : RF_TOKENS_PATCH;
        c->positions[s][3 * r] = row == 0 ? -1 : 0;
        c->positions[s][3 * r + 1] = row == 0 ? -1 : (int32_t)((row - 1) / 2);
        c->positions[s][3 * r + 2] = row == 0 ? -1 : (int32_t)((row - 1) % 2);
    }
}

static inline void case_init(store_case *c, rf_dtype dtype, int64_t n_pictures,
                             int64_t group_pictures, int64_t width)
{
    memset(c, 0, sizeof *c);
    case_rows(c, 0, 0, 5);
    case_rows(c, 1, 1, 4);
    c->classes[2][0] = RF_TOKENS_POOLED;
    memset(c->positions[2], 0xff, sizeof c->positions[2]);
    const rf_store_site sites[N_CASE_SITES] = {
        {"", "blocks.0.hook_resid_post", 0, 5, width, 5, c->classes[0], c->positions[0]},
        {"", "blocks.1.hook_resid_post", 1, 4, 3, 5, c->classes[1], c->positions[1]},
        {"other", "hook_pooled", 0, 1, 7, 1, c->classes[2], c->positions[2]},
    };
    memcpy(c->sites, sites, sizeof sites);
    for (int64_t i = 0; i < n_pictures; i++) {
        snprintf(c->texts[i], sizeof c->texts[i], "n%d/p%d.jpg", (int)(i % 3), (int)i);
        c->names[i] = c->texts[i];
        c->labels[i] = i % 3 - 1;
    }
    c->head = (rf_store_head){.dtype = dtype,
                              .n_pictures = n_pictures,
                              .group_pictures = group_pictures,
                              .sites = c->sites,
                              .n_sites = N_CASE_SITES,
                              .names = c->names,
                              .labels = c->labels,
                              .classes = case_classes,
                              .n_classes = 2,
                              .model_hash = UINT64_C(0x8000000000000001),
                              .picture_hash = 77,
                              .holdout = 0.25,
                              .model = "model",
                              .processing = "none",
                              .settings = "a: b\n"};
}

/* Any bits, NaNs among them. */
static inline void case_block(const rf_store *store, int64_t group, int64_t site, uint8_t *out)
{
    const int64_t n = rf_store_block_bytes(store, group, site);
    for (int64_t i = 0; i < n; i++) {
        const int64_t key[3] = {group, site, i / 8};
        const uint64_t bits = rf_hash(RF_HASH_START, key, sizeof key);
        out[i] = (uint8_t)(bits >> 8 * (i % 8));
    }
}

static inline uint8_t case_valid(int64_t picture)
{
    return picture % 4 != 2;
}

/* For as many bytes as a group's block of any site. */
static inline uint8_t *case_room(const rf_store *store)
{
    int64_t most = 0;
    for (int64_t s = 0; s < rf_store_get_head(store)->n_sites; s++) {
        most = rf_max_i64(most, rf_store_block_bytes(store, 0, s));
    }
    return rf_calloc(most, 1);
}

static inline rf_status case_write(rf_store *store, int64_t group)
{
    rf_status status = RF_OK;
    uint8_t *blocks[N_CASE_SITES] = {NULL}, *valid = NULL;
    int64_t first = 0;
    const int64_t n = rf_store_group(store, group, &first);

    RF_ALLOC(valid, n);
    for (int64_t s = 0; s < N_CASE_SITES; s++) {
        RF_ALLOC(blocks[s], rf_store_block_bytes(store, group, s));
        case_block(store, group, s, blocks[s]);
    }
    for (int64_t i = 0; i < n; i++) {
        valid[i] = case_valid(first + i);
    }
    RF_TRY(rf_store_write(store, group, (const void *const *)blocks, valid));
fail:
    for (int64_t s = 0; s < N_CASE_SITES; s++) {
        rf_free(blocks[s]);
    }
    rf_free(valid);
    return status;
}

/* Every group that is missing, up to `most` of them. */
static inline rf_status case_write_missing(rf_store *store, int64_t most)
{
    rf_status status = RF_OK;
    for (int64_t g = 0; g < rf_store_n_groups(store) && most > 0; g++) {
        bool has = false;
        RF_TRY(rf_store_has(store, g, &has));
        if (!has) {
            RF_TRY(case_write(store, g));
            most--;
        }
    }
    RF_TRY(rf_store_flush(store));
fail:
    return status;
}

/* A whole store at `path`. */
static inline void case_make(const rf_comm *comm, const store_case *c, const char *path)
{
    rf_store *store = NULL;
    remove(path);
    assert_ok(rf_store_create(comm, path, &c->head, &store));
    assert_ok(case_write_missing(store, INT64_MAX));
    rf_store_close(store);
}

#endif
