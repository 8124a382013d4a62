/* What the device left against what the reference left. */
#include "shadow_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static rf_shadow_handler *the_handler;
static void *the_user;

void rf_shadow_set_handler(rf_shadow_handler *handler, void *user)
{
    the_handler = handler;
    the_user = user;
}

/* ---- words --------------------------------------------------------------------------------- */

static int describe_array(const shadow_array *a, char *out, size_t out_bytes)
{
    static const char *const types[] = {"fp32", "fp16", "bf16", "i32", "i64", "u8", "fp64"};
    int at = snprintf(out, out_bytes, "  %s", a->name);
    if (a->list >= 0) {
        at += snprintf(out + at, out_bytes - (size_t)at, " of list %d", a->list);
    }
    at += snprintf(out + at, out_bytes - (size_t)at, ": %s%s [",
                   a->role == SHADOW_IN ? "" : "out, ", types[a->type]);
    for (int i = 0; i < a->n_dims && at < (int)out_bytes - 64; i++) {
        at += snprintf(out + at, out_bytes - (size_t)at, "%s%" PRId64 "(%" PRId64 ")",
                       i > 0 ? ", " : "", a->shape[i], a->stride[i]);
    }
    at += snprintf(out + at, out_bytes - (size_t)at, "]\n");
    return at;
}

void shadow_fail(shadow_call *c, const shadow_array *a, const char *fmt, ...)
{
    enum { ROOM = 128 };
    char text[4 * SHADOW_TEXT];
    int at = 0;
    va_list args;
    if (c->has_failed) {
        return; /* the first disagreement says most */
    }
    c->has_failed = true;
    at += snprintf(text, SHADOW_TEXT, "%s: %s%s", rf_shadow_op_name((int)c->op),
                   a != NULL ? a->name : "", a != NULL ? ": " : "");
    va_start(args, fmt);
    at += vsnprintf(text + at, SHADOW_TEXT, fmt, args);
    va_end(args);
    at = at > 2 * SHADOW_TEXT ? 2 * SHADOW_TEXT : at;
    at += snprintf(text + at, 2, "\n");
    for (int i = 0; i < c->n_arrays && at < (int)sizeof text - 2 * ROOM; i++) {
        at += describe_array(&c->arrays[i], text + at, 2 * ROOM);
    }
    if (the_handler != NULL) {
        the_handler(the_user, text);
        return;
    }
    fprintf(stderr, "shadow: %s", text);
    abort();
}

/* ---- places -------------------------------------------------------------------------------- */

int64_t shadow_row_length(const shadow_array *a)
{
    return a->n_dims > 0 ? a->shape[a->n_dims - 1] : 1;
}

int64_t shadow_n_rows(const shadow_array *a)
{
    int64_t n = shadow_row_length(a) > 0 ? 1 : 0;
    for (int i = 0; i < a->n_dims - 1; i++) {
        n *= a->shape[i];
    }
    return n;
}

int64_t shadow_row_at(const shadow_array *a, int64_t i)
{
    int64_t at = 0;
    for (int k = a->n_dims - 2; k >= 0; k--) {
        at += i % a->shape[k] * a->stride[k];
        i /= a->shape[k];
    }
    return at * shadow_type_bytes(a->type);
}

/* Elements of each row that mean something; what a device says of itself is not asked. */
static int64_t used_length(const shadow_array *a)
{
    const int64_t n = shadow_row_length(a);
    return a->n_used == NULL ? n : rf_min_i64(n, *a->n_used);
}

/* ---- to the bit ---------------------------------------------------------------------------- */

static double value_of(shadow_type type, const char *p)
{
    float f;
    double d;
    int32_t i;
    int64_t l;
    uint16_t h;
    switch (type) {
    case SHADOW_F32:
        memcpy(&f, p, sizeof f);
        return (double)f;
    case SHADOW_F64:
        memcpy(&d, p, sizeof d);
        return d;
    case SHADOW_I32:
        memcpy(&i, p, sizeof i);
        return i;
    case SHADOW_I64:
        memcpy(&l, p, sizeof l);
        return (double)l;
    case SHADOW_F16:
    case SHADOW_BF16:
        memcpy(&h, p, sizeof h);
        return h;
    case SHADOW_U8:
        break;
    }
    return *(const unsigned char *)p;
}

/* Equal bits, or both not a number: which of them a device makes is its own. */
static bool same_element(shadow_type type, const char *got, const char *want)
{
    if (memcmp(got, want, (size_t)shadow_type_bytes(type)) == 0) {
        return true;
    }
    uint16_t a, b;
    memcpy(&a, got, type == SHADOW_U8 ? 1 : sizeof a);
    memcpy(&b, want, type == SHADOW_U8 ? 1 : sizeof b);
    switch (type) {
    case SHADOW_F32:
    case SHADOW_F64:
        return isnan(value_of(type, got)) && isnan(value_of(type, want));
    case SHADOW_F16:
        return (a & 0x7fff) > 0x7c00 && (b & 0x7fff) > 0x7c00;
    case SHADOW_BF16:
        return (a & 0x7fff) > 0x7f80 && (b & 0x7fff) > 0x7f80;
    default:
        return false;
    }
}

static void compare_row_bits(shadow_call *c, const shadow_array *a, int64_t row, int64_t n)
{
    const int64_t bytes = shadow_type_bytes(a->type), at = shadow_row_at(a, row);
    const char *got = shadow_got(c, a) + at, *want = a->host + at;
    if (memcmp(got, want, (size_t)(n * bytes)) == 0) {
        return;
    }
    for (int64_t j = 0; j < n && !c->has_failed; j++) {
        if (!same_element(a->type, got + j * bytes, want + j * bytes)) {
            shadow_fail(
                c, a, "row %" PRId64 ", element %" PRId64 " is %.17g, expected the bits of %.17g",
                row, j, value_of(a->type, got + j * bytes), value_of(a->type, want + j * bytes));
        }
    }
}

/* ---- to rounding --------------------------------------------------------------------------- */

/* Sums of squares over a row, of what is finite; `odd`: the first place where one is not and the
 * other is another thing, or -1. */
typedef struct row_sums {
    double error, norm;
    int64_t n_other, odd;
} row_sums;

static row_sums sum_row(const shadow_array *a, const char *got, const char *want, int64_t n)
{
    const int64_t bytes = shadow_type_bytes(a->type);
    row_sums sums = {.odd = -1};
    for (int64_t j = 0; j < n; j++) {
        const double x = value_of(a->type, got + j * bytes),
                     y = value_of(a->type, want + j * bytes);
        if (isfinite(x) && isfinite(y)) {
            sums.error += (x - y) * (x - y);
            sums.norm += y * y;
        } else if (!(x == y || (isnan(x) && isnan(y))) && sums.odd < 0) {
            sums.odd = j;
        }
    }
    sums.error = sqrt(sums.error);
    sums.norm = sqrt(sums.norm);
    return sums;
}

/* The least norm that an error is measured by: rows that happen to cancel are judged beside the
 * others. */
static double floor_of(const shadow_call *c, const shadow_array *a, int64_t n)
{
    double sum = 0.0;
    const int64_t n_rows = shadow_n_rows(a);
    if (c->floor >= 0.0) {
        return c->floor;
    }
    for (int64_t i = 0; i < n_rows; i++) {
        const char *want = a->host + shadow_row_at(a, i);
        const double norm = sum_row(a, want, want, n).norm;
        sum += norm * norm;
    }
    return 0.01 * sqrt(sum / (double)rf_max_i64(1, n_rows));
}

/* Where the two differ most, for the message. */
static int64_t worst_of(const shadow_array *a, const char *got, const char *want, int64_t n)
{
    int64_t worst = 0;
    double most = -1.0;
    const int64_t bytes = shadow_type_bytes(a->type);
    for (int64_t j = 0; j < n; j++) {
        const double e =
            fabs(value_of(a->type, got + j * bytes) - value_of(a->type, want + j * bytes));
        if (e > most) {
            most = e;
            worst = j;
        }
    }
    return worst;
}

static void compare_row_near(shadow_call *c, const shadow_array *a, int64_t row, int64_t n,
                             double floor)
{
    const int64_t bytes = shadow_type_bytes(a->type), at = shadow_row_at(a, row);
    const char *got = shadow_got(c, a) + at, *want = a->host + at;
    if (memcmp(got, want, (size_t)(n * bytes)) == 0) {
        return;
    }
    double tol = a->tol * c->tol_scale;
    const row_sums sums = sum_row(a, got, want, n);
    const double norm = fmax(sums.norm, floor);
    const double error = sums.error == 0.0 ? 0.0 : sums.error / norm; /* inf where norm is 0 */
    c->worst = fmax(c->worst, error);
    c->has_other_bits = c->has_other_bits || sums.error > 0.0;
    if (c->row_tol != NULL && !(error <= tol)) {
        tol += c->row_tol(c, a, row) * c->tol_scale;
    }
    if (sums.odd < 0 && error <= tol) {
        return;
    }
    const int64_t j = sums.odd >= 0 ? sums.odd : worst_of(a, got, want, n);
    shadow_fail(c, a,
                "row %" PRId64 " is %.3g of its norm %.3g (at least %.3g) away, expected at most "
                "%.3g; element %" PRId64 " is %.9g, expected %.9g",
                row, error, sums.norm, floor, tol, j, value_of(a->type, got + j * bytes),
                value_of(a->type, want + j * bytes));
}

void shadow_compare_array(shadow_call *c, const shadow_array *a)
{
    const int64_t n = used_length(a), n_rows = shadow_n_rows(a);
    const bool is_near = a->tol > 0.0;
    const double floor = is_near ? floor_of(c, a, n) : 0.0;
    for (int64_t i = 0; i < n_rows && !c->has_failed; i++) {
        if (is_near) {
            compare_row_near(c, a, i, n, floor);
        } else {
            compare_row_bits(c, a, i, n);
        }
    }
}

/* ---- what must not change ------------------------------------------------------------------ */

/* Where byte `at` of the images lies, in words. */
static void describe_place(const shadow_call *c, size_t at, char *out, size_t out_bytes)
{
    const shadow_range *r = &c->ranges[0];
    for (int i = 1; i < c->n_ranges; i++) {
        const size_t gap = c->ranges[i].at - at;
        const size_t r_end = r->at + (size_t)(r->end - r->begin);
        if (c->ranges[i].at <= at || (at >= r_end && gap < at - r_end)) {
            r = &c->ranges[i];
        }
    }
    const char *name = "?";
    for (int i = 0; i < c->n_arrays; i++) {
        const char *host = c->arrays[i].host;
        if (host == r->begin || (host > r->begin && host < r->end)) {
            name = c->arrays[i].name;
            if (c->arrays[i].role != SHADOW_IN) {
                break;
            }
        }
    }
    const int64_t from = (int64_t)at - (int64_t)r->at, n = r->end - r->begin;
    if (from < 0) {
        snprintf(out, out_bytes, "%" PRId64 " bytes before '%s'", -from, name);
    } else if (from >= n) {
        snprintf(out, out_bytes, "%" PRId64 " bytes behind the end of '%s'", from - n, name);
    } else {
        snprintf(out, out_bytes, "byte %" PRId64 " of the %" PRId64 " that '%s' spans", from, n,
                 name);
    }
}

/* What is written goes into the image that was sent; then the two must be one. */
void shadow_compare_rest(shadow_call *c)
{
    char *sent = c->stream->sent, *got = c->stream->got, place[SHADOW_TEXT / 4];
    for (int i = 0; i < c->n_arrays; i++) {
        const shadow_array *a = &c->arrays[i];
        const int64_t n_rows = a->role == SHADOW_IN ? 0 : shadow_n_rows(a);
        const size_t bytes = (size_t)(shadow_row_length(a) * shadow_type_bytes(a->type));
        for (int64_t row = 0; row < n_rows; row++) {
            const size_t at = a->at + (size_t)shadow_row_at(a, row);
            memcpy(sent + at, got + at, bytes);
        }
    }
    if (c->n_bytes == 0 || memcmp(sent, got, c->n_bytes) == 0) {
        return;
    }
    size_t at = 0;
    while (sent[at] == got[at]) {
        at++;
    }
    describe_place(c, at, place, sizeof place);
    shadow_fail(c, NULL, "the device changes what is not its to write: %s, from %02x to %02x",
                place, (unsigned)(unsigned char)sent[at], (unsigned)(unsigned char)got[at]);
}
