/* Pictures that could not be read, over all ranks: how many, which, why, and when it is too many.
 * Each counts once, however many epochs it comes back in. */
#include "data_impl.h"

#include <string.h>

enum { MAX_NAMED = 100, REASON_BYTES = 512 };

/* What the owner of a newly bad picture tells the others. */
typedef struct report {
    int64_t picture;
    char reason[REASON_BYTES];
} report;

rf_status rf_bad_pictures_init(rf_activation_stream *st)
{
    rf_status status = RF_OK;
    RF_ALLOC(st->bad.state, st->order.n_listed);
fail:
    return status;
}

void rf_bad_pictures_fini(rf_activation_stream *st)
{
    rf_str_fini(&st->bad.lines);
    rf_free(st->bad.state);
    st->bad = (rf_bad_pictures){0};
}

/* Count the pool's pictures; the first of those that are newly bad, in the pool's order, are listed
 * in `picture` and `owner` [MAX_NAMED]. The same on every rank. */
static int64_t count_pool(rf_activation_stream *st, int64_t *picture, int64_t *owner)
{
    rf_bad_pictures *bad = &st->bad;
    int64_t n = 0;

    for (int64_t i = 0; i < st->pool.n_slots; i++) {
        const rf_pool_slot *slot = &st->pool.slots[i];
        const uint8_t *valid = st->pool.valid + i * st->order.group_pictures;
        for (int64_t k = 0; k < rf_order_group_size(&st->order, slot->group); k++) {
            int64_t p = rf_order_first_picture(&st->order, slot->group) + k;
            bad->n_seen += bad->state[p] == 0;
            if (!valid[k] && bad->state[p] != 2) {
                bad->n_bad++;
                if (bad->n_named + n < MAX_NAMED) {
                    picture[n] = p;
                    owner[n++] = slot->owner;
                }
            }
            bad->state[p] = valid[k] && bad->state[p] != 2 ? 1 : 2;
        }
    }
    return n;
}

/* The reasons themselves often begin with the path. */
static rf_status add_line(rf_activation_stream *st, int64_t picture, const char *reason)
{
    const char *name = st->source.name(st->source.self, picture);

    st->bad.n_named++;
    if (strstr(reason, name) != NULL) {
        return rf_str_append(&st->bad.lines, "%s\n", reason);
    }
    return rf_str_append(&st->bad.lines, "%s: %s\n", name, reason);
}

/* This rank's reports, in the order of `picture`. */
static void write_reports(rf_activation_stream *st, int64_t n, const int64_t *picture,
                          const int64_t *owner, report *out)
{
    for (int64_t i = 0; i < n; i++) {
        if (owner[i] != st->rank) {
            continue;
        }
        const char *reason = st->source.reason(st->source.self, picture[i]);
        reason = reason != NULL ? reason : "could not be read";
        size_t len = strnlen(reason, REASON_BYTES - 1);
        out->picture = picture[i];
        memcpy(out->reason, reason, len);
        for (size_t c = 0; c < len; c++) { /* one line each */
            if (out->reason[c] == '\n') {
                out->reason[c] = ' ';
            }
        }
        out++;
    }
}

/* Gather why the `n` pictures could not be read. Collective. */
static rf_status name_pictures(rf_activation_stream *st, int64_t n, const int64_t *picture,
                               const int64_t *owner)
{
    rf_status status = RF_OK;
    report *mine = NULL, *all = NULL;
    int64_t *n_bytes = NULL, *next = NULL;

    RF_ALLOC(mine, n);
    RF_ALLOC(all, n);
    RF_ALLOC(n_bytes, st->size);
    RF_ALLOC(next, st->size + 1);
    for (int64_t i = 0; i < n; i++) {
        n_bytes[owner[i]] += (int64_t)sizeof *all;
        next[owner[i] + 1]++;
    }
    for (int64_t r = 0; r < st->size; r++) {
        next[r + 1] += next[r];
    }
    write_reports(st, n, picture, owner, mine);
fail:
    status = rf_comm_agree(st->comm, status);
    if (status == RF_OK) {
        status = rf_comm_allgatherv(st->comm, mine, all, n_bytes);
    }
    for (int64_t i = 0; status == RF_OK && i < n; i++) {
        status = add_line(st, picture[i], all[next[owner[i]]++].reason);
    }
    rf_free(next);
    rf_free(n_bytes);
    rf_free(all);
    rf_free(mine);
    return rf_comm_agree(st->comm, status);
}

/* How much of `text` to show: whole lines, about `limit` bytes. */
static int shown_length(const char *text, int limit)
{
    int shown = 0;

    for (int i = 0; i < limit && text[i] != '\0'; i++) {
        if (text[i] == '\n') {
            shown = i;
        }
    }
    return shown > 0 ? shown : limit;
}

static rf_status check_share(const rf_activation_stream *st)
{
    rf_status status = RF_OK;
    const rf_bad_pictures *bad = &st->bad;

    if ((double)bad->n_bad > st->max_bad_share * (double)bad->n_seen) {
        const char *lines = bad->lines.data != NULL ? bad->lines.data : "";
        RF_FAIL(RF_ERR_FORMAT,
                "%" PRId64 " of the first %" PRId64
                " pictures could not be read, more than data.max_bad_share=%g allows:\n%.*s",
                bad->n_bad, bad->n_seen, st->max_bad_share, shown_length(lines, 600), lines);
    }
fail:
    return status;
}

rf_status rf_bad_pictures_update(rf_activation_stream *st)
{
    rf_status status = RF_OK;
    int64_t picture[MAX_NAMED] = {0}, owner[MAX_NAMED] = {0};
    int64_t n = count_pool(st, picture, owner);

    if (n > 0) {
        RF_TRY(name_pictures(st, n, picture, owner));
    }
    RF_TRY(check_share(st)); /* the same numbers, so the same outcome, on every rank */
fail:
    return status;
}
