/* A pickle as data: a stack machine over the opcodes of protocols 1 to 5 that torch.save writes. It
 * imports nothing and calls nothing. Memory is linear in the bytes of the pickle: whatever grows is
 * capped by them. */
#include "torch_impl.h"

#include <string.h>

enum {
    MOST_ITEMS = 1 << 23, /* of any of the arrays */
    ITEMS_A_BYTE = 4,     /* no opcode makes more; an OrderedDict of pairs takes its items twice */
    LEAST_ITEMS = 64,
    NUMBER_LEN = 24, /* of a number in text */
};

/* Room for one more of `array`, or fail. */
#define ROOM(array, what)                                                                          \
    do {                                                                                           \
        if ((array).n == (array).cap) {                                                            \
            int64_t cap_ = rf_max_i64(16, 2 * (array).cap);                                        \
            if ((array).n >= most_items(p)) {                                                      \
                RF_FAIL(RF_ERR_FORMAT, "more than %" PRId64 " " what, most_items(p));              \
            }                                                                                      \
            void *grown_ = rf_realloc((array).items, (array).cap, cap_, sizeof *(array).items);    \
            if (grown_ == NULL) {                                                                  \
                return RF_ERR_NO_MEMORY;                                                           \
            }                                                                                      \
            (array).items = grown_;                                                                \
            (array).cap = cap_;                                                                    \
        }                                                                                          \
    } while (0)

static int64_t most_items(const rf_pickle *p)
{
    return rf_min_i64(MOST_ITEMS, LEAST_ITEMS + ITEMS_A_BYTE * p->n_bytes);
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static rf_status take(rf_pickle *p, int64_t n, const unsigned char **out)
{
    rf_status status = RF_OK;
    *out = p->bytes + p->pos;
    if (n < 0 || n > p->n_bytes - p->pos) {
        RF_FAIL(RF_ERR_FORMAT, "%" PRId64 " bytes expected, %" PRId64 " follow (a truncated file?)",
                n, p->n_bytes - p->pos);
    }
    p->pos += n;
fail:
    return status;
}

/* An unsigned number of `width` bytes; those above INT64_MAX come out negative. */
static rf_status take_number(rf_pickle *p, int width, int64_t *out)
{
    const unsigned char *bytes = NULL;
    rf_status status = take(p, width, &bytes);
    *out = 0;
    if (status == RF_OK) {
        memcpy(out, bytes, (size_t)width);
    }
    return status;
}

/* The bytes before the next line end, which is taken too. */
static rf_status take_line(rf_pickle *p, const unsigned char **line, int64_t *len)
{
    rf_status status = RF_OK;
    int64_t left = p->n_bytes - p->pos;
    *line = p->bytes + p->pos;
    const unsigned char *end = left > 0 ? memchr(*line, '\n', (size_t)left) : NULL;
    if (end == NULL) {
        RF_FAIL(RF_ERR_FORMAT, "a line has no end (a truncated file?)");
    }
    *len = end - *line;
    p->pos += *len + 1;
fail:
    return status;
}

/* ---- stack, objects -------------------------------------------------------------------------- */

rf_status rf_pickle_push(rf_pickle *p, rf_pickle_kind kind, int32_t len, int64_t at)
{
    rf_status status = RF_OK;
    ROOM(p->stack, "values on its stack");
    p->stack.items[p->stack.n++] = (rf_pickle_value){.kind = kind, .len = len, .at = at};
fail:
    return status;
}

static rf_status push_value(rf_pickle *p, rf_pickle_value v)
{
    return rf_pickle_push(p, v.kind, v.len, v.at);
}

/* Nothing below the last mark may be taken. */
static rf_status check_height(const rf_pickle *p, int64_t n)
{
    rf_status status = RF_OK;
    int64_t floor = p->marks.n > 0 ? p->marks.items[p->marks.n - 1] : 0;
    if (p->stack.n - n < floor) {
        RF_FAIL(RF_ERR_FORMAT, "its stack is empty");
    }
fail:
    return status;
}

static rf_status pop(rf_pickle *p, rf_pickle_value *out)
{
    rf_status status = RF_OK;
    RF_TRY(check_height(p, 1));
    *out = p->stack.items[--p->stack.n];
fail:
    return status;
}

static rf_status pop_mark(rf_pickle *p, int64_t *height)
{
    rf_status status = RF_OK;
    if (p->marks.n == 0) {
        RF_FAIL(RF_ERR_FORMAT, "it has no mark");
    }
    *height = p->marks.items[--p->marks.n];
fail:
    return status;
}

rf_status rf_pickle_new(rf_pickle *p, int64_t *idx)
{
    rf_status status = RF_OK;
    ROOM(p->objects, "objects");
    *idx = p->objects.n++;
    p->objects.items[*idx] = (rf_pickle_object){.first = -1, .last = -1};
fail:
    return status;
}

rf_status rf_pickle_append(rf_pickle *p, int64_t object, rf_pickle_value v)
{
    rf_status status = RF_OK;
    ROOM(p->cells, "items");
    int64_t cell = p->cells.n++;
    rf_pickle_object *o = &p->objects.items[object];
    p->cells.items[cell] = (rf_pickle_cell){.value = v, .next = -1};
    if (o->last >= 0) {
        p->cells.items[o->last].next = cell;
    } else {
        o->first = cell;
    }
    o->last = cell;
    o->n_items++;
fail:
    return status;
}

/* Move what lies on the stack from `height` on into `target`; opaque ones swallow it. */
static rf_status move_items(rf_pickle *p, rf_pickle_value target, rf_pickle_kind kind,
                            int64_t height)
{
    rf_status status = RF_OK;
    if (target.kind != kind && target.kind != RF_PICKLE_OPAQUE) {
        RF_FAIL(RF_ERR_FORMAT, "items are put into what holds none");
    }
    if (kind == RF_PICKLE_MAP && (p->stack.n - height) % 2 != 0) {
        RF_FAIL(RF_ERR_FORMAT, "a map's key has no value");
    }
    for (int64_t i = height; i < p->stack.n && target.kind != RF_PICKLE_OPAQUE; i++) {
        RF_TRY(rf_pickle_append(p, target.at, p->stack.items[i]));
    }
    p->stack.n = height;
fail:
    return status;
}

/* ---- opcodes: `arg` is what tells those of one kind apart ------------------------------------ */

static rf_status op_constant(rf_pickle *p, int arg)
{
    return rf_pickle_push(p, arg < 0 ? RF_PICKLE_NONE : RF_PICKLE_BOOL, 0, rf_max_i64(0, arg));
}

/* A number of `arg` bytes; four are signed. */
static rf_status op_int(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    int64_t v = 0;
    RF_TRY(take_number(p, arg, &v));
    RF_TRY(rf_pickle_push(p, RF_PICKLE_INT, 0, arg == 4 ? (int32_t)v : v));
fail:
    return status;
}

/* A number of so many bytes as the `arg` bytes before it say; signed. Long ones are opaque. */
static rf_status op_long(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    int64_t n = 0, v = 0;
    const unsigned char *bytes = NULL;
    RF_TRY(take_number(p, arg, &n));
    RF_TRY(take(p, n, &bytes));
    if (n > 8) {
        return rf_pickle_push(p, RF_PICKLE_OPAQUE, 0, 0);
    }
    if (n > 0) {
        v = (bytes[n - 1] & 0x80) != 0 ? -1 : 0;
        memcpy(&v, bytes, (size_t)n);
    }
    RF_TRY(rf_pickle_push(p, RF_PICKLE_INT, 0, v));
fail:
    return status;
}

/* A number in text: "01" and "00" are bools, "12L" is 12. `arg`: it may have a fraction. */
static rf_status op_line(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    const unsigned char *line = NULL;
    char text[NUMBER_LEN] = {0};
    int64_t len = 0, v = 0;
    RF_TRY(take_line(p, &line, &len));
    if (arg != 0 || len >= NUMBER_LEN) {
        return rf_pickle_push(p, RF_PICKLE_OPAQUE, 0, 0);
    }
    memcpy(text, line, (size_t)len);
    if (strcmp(text, "00") == 0 || strcmp(text, "01") == 0) {
        return rf_pickle_push(p, RF_PICKLE_BOOL, 0, text[1] - '0');
    }
    if (len > 0 && text[len - 1] == 'L') {
        text[len - 1] = '\0';
    }
    if (rf_parse_i64(text, &v) != RF_OK) {
        RF_FAIL(RF_ERR_FORMAT, "a number in text is none");
    }
    RF_TRY(rf_pickle_push(p, RF_PICKLE_INT, 0, v));
fail:
    return status;
}

/* `arg` bytes of no interest. */
static rf_status op_float(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    const unsigned char *bytes = NULL;
    RF_TRY(take(p, arg, &bytes));
    RF_TRY(rf_pickle_push(p, RF_PICKLE_OPAQUE, 0, 0));
fail:
    return status;
}

/* Text or bytes, after a length of `arg` bytes. */
static rf_status op_text(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    const unsigned char *bytes = NULL;
    int64_t n = 0;
    RF_TRY(take_number(p, arg, &n));
    RF_TRY(take(p, n, &bytes));
    if (n > INT32_MAX) {
        RF_FAIL(RF_ERR_FORMAT, "a text has %" PRId64 " bytes", n);
    }
    RF_TRY(rf_pickle_push(p, RF_PICKLE_TEXT, (int32_t)n, bytes - p->bytes));
fail:
    return status;
}

static rf_status op_new(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    int64_t object = 0;
    if (arg == RF_PICKLE_OPAQUE) {
        return rf_pickle_push(p, RF_PICKLE_OPAQUE, 0, 0);
    }
    RF_TRY(rf_pickle_new(p, &object));
    RF_TRY(rf_pickle_push(p, (rf_pickle_kind)arg, 0, object));
fail:
    return status;
}

/* An object of what lies above the mark. */
static rf_status op_new_from_mark(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    rf_pickle_value v = {.kind = (rf_pickle_kind)arg};
    int64_t height = 0;
    RF_TRY(pop_mark(p, &height));
    if (arg != RF_PICKLE_OPAQUE) {
        RF_TRY(rf_pickle_new(p, &v.at));
    }
    RF_TRY(move_items(p, v, v.kind, height));
    RF_TRY(push_value(p, v));
fail:
    return status;
}

/* A tuple of the last `arg` values. */
static rf_status op_tuple(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    rf_pickle_value v = {.kind = RF_PICKLE_TUPLE};
    RF_TRY(check_height(p, arg));
    RF_TRY(rf_pickle_new(p, &v.at));
    RF_TRY(move_items(p, v, v.kind, p->stack.n - arg));
    RF_TRY(push_value(p, v));
fail:
    return status;
}

/* Put what lies above the mark into the object below it, which is of kind `arg`. */
static rf_status op_items(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    int64_t height = 0;
    RF_TRY(pop_mark(p, &height));
    RF_TRY(check_height(p, p->stack.n - height + 1));
    RF_TRY(move_items(p, p->stack.items[height - 1], (rf_pickle_kind)arg, height));
fail:
    return status;
}

/* Put one item (a list's) or two (a map's) into the object below. */
static rf_status op_item(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    int64_t n = arg == RF_PICKLE_MAP ? 2 : 1;
    RF_TRY(check_height(p, n + 1));
    int64_t height = p->stack.n - n;
    RF_TRY(move_items(p, p->stack.items[height - 1], (rf_pickle_kind)arg, height));
fail:
    return status;
}

static rf_status op_mark(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    (void)arg;
    ROOM(p->marks, "marks");
    p->marks.items[p->marks.n++] = p->stack.n;
fail:
    return status;
}

static rf_status op_pop(rf_pickle *p, int arg)
{
    rf_pickle_value v;
    (void)arg;
    if (p->marks.n > 0 && p->marks.items[p->marks.n - 1] == p->stack.n) {
        p->marks.n--;
        return RF_OK;
    }
    return pop(p, &v);
}

static rf_status op_pop_mark(rf_pickle *p, int arg)
{
    (void)arg;
    return pop_mark(p, &p->stack.n);
}

static rf_status op_duplicate(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    (void)arg;
    RF_TRY(check_height(p, 1));
    RF_TRY(push_value(p, p->stack.items[p->stack.n - 1]));
fail:
    return status;
}

/* The number of a place in the memo: `arg` bytes, or a line of text for 0. */
static rf_status take_place(rf_pickle *p, int arg, int64_t *place)
{
    rf_status status = RF_OK;
    rf_pickle_value v = {0};
    if (arg > 0) {
        return take_number(p, arg, place);
    }
    RF_TRY(op_line(p, 0));
    RF_TRY(pop(p, &v));
    *place = v.kind == RF_PICKLE_INT ? v.at : -1;
fail:
    return status;
}

/* `arg` < 0: at the next place. Places are numbered as they are used, or nearly so. */
static rf_status op_put(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    int64_t place = p->memo.n;
    if (arg >= 0) {
        RF_TRY(take_place(p, arg, &place));
    }
    RF_TRY(check_height(p, 1));
    if (place < 0 || place > p->pos) {
        RF_FAIL(RF_ERR_FORMAT, "its memo has a place %" PRId64, place);
    }
    while (p->memo.n <= place) {
        ROOM(p->memo, "places in its memo");
        p->memo.items[p->memo.n++] = (rf_pickle_value){.kind = RF_PICKLE_ABSENT};
    }
    p->memo.items[place] = p->stack.items[p->stack.n - 1];
fail:
    return status;
}

static rf_status op_get(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    int64_t place = 0;
    RF_TRY(take_place(p, arg, &place));
    if (place < 0 || place >= p->memo.n || p->memo.items[place].kind == RF_PICKLE_ABSENT) {
        RF_FAIL(RF_ERR_FORMAT, "its memo has nothing at %" PRId64, place);
    }
    RF_TRY(push_value(p, p->memo.items[place]));
fail:
    return status;
}

static rf_status push_global(rf_pickle *p, const unsigned char *module, int64_t module_len,
                             const unsigned char *name, int64_t name_len)
{
    rf_status status = RF_OK;
    int64_t idx = 0;
    RF_TRY(rf_torch_find_global(module, module_len, name, name_len, &idx));
    RF_TRY(rf_pickle_push(p, RF_PICKLE_GLOBAL, 0, idx));
fail:
    return status;
}

static rf_status op_global(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    const unsigned char *module = NULL, *name = NULL;
    int64_t module_len = 0, name_len = 0;
    (void)arg;
    RF_TRY(take_line(p, &module, &module_len));
    RF_TRY(take_line(p, &name, &name_len));
    RF_TRY(push_global(p, module, module_len, name, name_len));
fail:
    return status;
}

static rf_status op_stack_global(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    rf_pickle_value module, name;
    (void)arg;
    RF_TRY(pop(p, &name));
    RF_TRY(pop(p, &module));
    if (module.kind != RF_PICKLE_TEXT || name.kind != RF_PICKLE_TEXT) {
        RF_FAIL(RF_ERR_FORMAT, "a global has no name");
    }
    RF_TRY(push_global(p, p->bytes + module.at, module.len, p->bytes + name.at, name.len));
fail:
    return status;
}

/* A call; `arg` values of keywords lie on top of the arguments. */
static rf_status op_call(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    rf_pickle_value callee, args;
    for (int i = 0; i < arg; i++) {
        RF_TRY(pop(p, &args));
    }
    RF_TRY(pop(p, &args));
    RF_TRY(pop(p, &callee));
    RF_TRY(rf_pickle_call(p, callee, args));
fail:
    return status;
}

/* The state of an object: attributes of an OrderedDict (a state_dict's versions), or of what is
 * opaque anyway. */
static rf_status op_build(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    rf_pickle_value state;
    (void)arg;
    RF_TRY(pop(p, &state));
    RF_TRY(check_height(p, 1));
    rf_pickle_kind kind = p->stack.items[p->stack.n - 1].kind;
    if (kind != RF_PICKLE_MAP && kind != RF_PICKLE_OPAQUE) {
        RF_FAIL(RF_ERR_FORMAT, "it gives a state to what has none");
    }
fail:
    return status;
}

static rf_status op_storage(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    rf_pickle_value id;
    rf_pickle_storage s;
    (void)arg;
    RF_TRY(pop(p, &id));
    RF_TRY(rf_pickle_read_storage(p, id, &s));
    ROOM(p->storages, "storages");
    p->storages.items[p->storages.n++] = s;
    RF_TRY(rf_pickle_push(p, RF_PICKLE_STORAGE, 0, p->storages.n - 1));
fail:
    return status;
}

static rf_status op_protocol(rf_pickle *p, int arg)
{
    rf_status status = RF_OK;
    int64_t v = 0;
    RF_TRY(take_number(p, arg, &v));
    if (v > 5) {
        RF_FAIL(RF_ERR_UNSUPPORTED, "its protocol is %" PRId64 ", expected at most 5", v);
    }
fail:
    return status;
}

/* The length of what follows, which needs no telling. */
static rf_status op_frame(rf_pickle *p, int arg)
{
    int64_t n = 0;
    return take_number(p, arg, &n);
}

static const struct {
    rf_status (*run)(rf_pickle *p, int arg);
    int arg;
} opcodes[256] = {
    ['N'] = {op_constant, -1},
    [0x88] = {op_constant, 1},
    [0x89] = {op_constant, 0},
    ['J'] = {op_int, 4},
    ['K'] = {op_int, 1},
    ['M'] = {op_int, 2},
    [0x8a] = {op_long, 1},
    [0x8b] = {op_long, 4},
    ['I'] = {op_line, 0},
    ['L'] = {op_line, 0},
    ['F'] = {op_line, 1},
    ['G'] = {op_float, 8},
    ['T'] = {op_text, 4},
    ['U'] = {op_text, 1},
    ['X'] = {op_text, 4},
    [0x8c] = {op_text, 1},
    [0x8d] = {op_text, 8},
    ['B'] = {op_text, 4},
    ['C'] = {op_text, 1},
    [0x8e] = {op_text, 8},
    [0x96] = {op_text, 8},
    [')'] = {op_new, RF_PICKLE_TUPLE},
    [']'] = {op_new, RF_PICKLE_LIST},
    ['}'] = {op_new, RF_PICKLE_MAP},
    [0x8f] = {op_new, RF_PICKLE_OPAQUE},
    ['t'] = {op_new_from_mark, RF_PICKLE_TUPLE},
    ['l'] = {op_new_from_mark, RF_PICKLE_LIST},
    ['d'] = {op_new_from_mark, RF_PICKLE_MAP},
    [0x91] = {op_new_from_mark, RF_PICKLE_OPAQUE},
    [0x85] = {op_tuple, 1},
    [0x86] = {op_tuple, 2},
    [0x87] = {op_tuple, 3},
    ['a'] = {op_item, RF_PICKLE_LIST},
    ['e'] = {op_items, RF_PICKLE_LIST},
    ['s'] = {op_item, RF_PICKLE_MAP},
    ['u'] = {op_items, RF_PICKLE_MAP},
    [0x90] = {op_items, RF_PICKLE_OPAQUE},
    ['('] = {op_mark, 0},
    ['0'] = {op_pop, 0},
    ['1'] = {op_pop_mark, 0},
    ['2'] = {op_duplicate, 0},
    ['q'] = {op_put, 1},
    ['r'] = {op_put, 4},
    ['p'] = {op_put, 0},
    [0x94] = {op_put, -1},
    ['h'] = {op_get, 1},
    ['j'] = {op_get, 4},
    ['g'] = {op_get, 0},
    ['c'] = {op_global, 0},
    [0x93] = {op_stack_global, 0},
    ['R'] = {op_call, 0},
    [0x81] = {op_call, 0},
    [0x92] = {op_call, 1},
    ['b'] = {op_build, 0},
    ['Q'] = {op_storage, 0},
    [0x80] = {op_protocol, 1},
    [0x95] = {op_frame, 8},
};

static rf_status run(rf_pickle *p)
{
    rf_status status = RF_OK;
    const unsigned char *op = NULL;
    for (;;) {
        RF_TRY(take(p, 1, &op));
        if (*op == '.') {
            return pop(p, &p->root);
        }
        if (opcodes[*op].run == NULL) {
            RF_FAIL(RF_ERR_UNSUPPORTED, "opcode 0x%02x is none that a checkpoint needs", *op);
        }
        RF_TRY(opcodes[*op].run(p, opcodes[*op].arg));
    }
fail:
    return status;
}

rf_status rf_pickle_read(rf_pickle *p, const unsigned char *bytes, int64_t n_bytes, int64_t start)
{
    *p = (rf_pickle){.bytes = bytes, .n_bytes = n_bytes, .pos = start};
    rf_status status = run(p);
    if (status != RF_OK) {
        rf_error_context("byte %" PRId64 " of its pickle", p->pos - start);
    }
    return status;
}

void rf_pickle_fini(rf_pickle *p)
{
    rf_free(p->objects.items);
    rf_free(p->cells.items);
    rf_free(p->storages.items);
    rf_free(p->stack.items);
    rf_free(p->memo.items);
    rf_free(p->marks.items);
    *p = (rf_pickle){0};
}
