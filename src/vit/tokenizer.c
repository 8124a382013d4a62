/* CLIP's byte-pair encoding (Radford et al. 2021; Sennrich et al. 2016). Text is put into NFC,
 * lowered and split into words; a word's bytes, the last of them marked "</w>", are merged pair by
 * pair, the pair of lowest rank first. Equal to the tokenizers of transformers; what older ones do
 * to mangled text and HTML entities before that is left out. */
#include "vit_impl.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { MAX_MERGES_BYTES = 1 << 24, MAX_TEXT_BYTES = 1 << 20, N_BYTES = 256 };

#define END_OF_WORD "</w>"

/* Tokens `left` and `right` become `merged`; a lower rank is merged first. */
typedef struct merge {
    int64_t left, right, merged, rank;
} merge;

struct rf_tokenizer {
    rf_json *file;        /* owns `vocabulary` */
    const json_t *tokens; /* token -> id */
    merge *merges;        /* [n_merges], by (left, right) */
    int64_t n_merges, capacity;
    int64_t byte_id[N_BYTES], last_byte_id[N_BYTES]; /* of a byte inside and at the end of a word */
    int64_t start_id, end_id;
};

/* ---- opening -------------------------------------------------------------------------------- */

/* The character that stands for a byte: itself where it is printable Latin-1, else U+0100 on. */
static void byte_character(int byte, char out[5])
{
    int shifted = 0;
    bool is_itself = false;
    for (int b = 0; b <= byte; b++) {
        is_itself = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
        shifted += is_itself ? 0 : 1;
    }
    const utf8proc_int32_t code = is_itself ? byte : 0x100 + shifted - 1;
    const utf8proc_ssize_t n = utf8proc_encode_char(code, (utf8proc_uint8_t *)out);
    out[n] = '\0';
}

/* The id of `token`, or -1. */
static int64_t id_of(const rf_tokenizer *t, const char *token)
{
    const json_t *id = json_object_get(t->tokens, token);
    return json_is_integer(id) && json_integer_value(id) >= 0 ? json_integer_value(id) : -1;
}

static rf_status find_bytes(rf_tokenizer *t)
{
    rf_status status = RF_OK;
    char token[16];
    for (int b = 0; b < N_BYTES; b++) {
        char character[5];
        byte_character(b, character);
        t->byte_id[b] = id_of(t, character);
        RF_TRY(rf_format(token, sizeof token, "%s" END_OF_WORD, character));
        t->last_byte_id[b] = id_of(t, token);
        if (t->byte_id[b] < 0 || t->last_byte_id[b] < 0) {
            RF_FAIL(RF_ERR_FORMAT, "the vocabulary has no token for byte %d", b);
        }
    }
fail:
    return status;
}

/* Start and end of a text, as CLIP and as open_clip spell them. */
static rf_status find_marks(rf_tokenizer *t)
{
    rf_status status = RF_OK;
    t->start_id = rf_max_i64(id_of(t, "<|startoftext|>"), id_of(t, "<start_of_text>"));
    t->end_id = rf_max_i64(id_of(t, "<|endoftext|>"), id_of(t, "<end_of_text>"));
    if (t->start_id < 0 || t->end_id < 0) {
        RF_FAIL(RF_ERR_FORMAT, "the vocabulary has no <|startoftext|> or no <|endoftext|>");
    }
fail:
    return status;
}

/* `left` and `right` need not end in '\0'. */
static rf_status add_merge(rf_tokenizer *t, const char *left, size_t n_left, const char *right,
                           size_t n_right)
{
    rf_status status = RF_OK;
    char a[RF_NAME_LEN], b[RF_NAME_LEN], both[2 * RF_NAME_LEN];
    if (n_left == 0 || n_right == 0 || n_left >= sizeof a || n_right >= sizeof b) {
        RF_FAIL(RF_ERR_FORMAT, "merge %" PRId64 " is no pair of tokens", t->n_merges);
    }
    RF_TRY(rf_format(a, sizeof a, "%.*s", (int)n_left, left));
    RF_TRY(rf_format(b, sizeof b, "%.*s", (int)n_right, right));
    RF_TRY(rf_format(both, sizeof both, "%s%s", a, b));
    const merge m = {
        .left = id_of(t, a), .right = id_of(t, b), .merged = id_of(t, both), .rank = t->n_merges};
    if (m.left < 0 || m.right < 0 || m.merged < 0) {
        RF_FAIL(RF_ERR_FORMAT, "merge %" PRId64 ", '%s %s', names tokens outside the vocabulary",
                t->n_merges, a, b);
    }
    if (t->n_merges == t->capacity) {
        const int64_t capacity = rf_max_i64(1024, 2 * t->capacity);
        merge *grown = rf_realloc(t->merges, t->capacity, capacity, sizeof *grown);
        RF_TRY(grown == NULL ? RF_ERR_NO_MEMORY : RF_OK);
        t->merges = grown;
        t->capacity = capacity;
    }
    t->merges[t->n_merges++] = m;
fail:
    return status;
}

/* "left right" */
static rf_status add_merge_text(rf_tokenizer *t, const char *line, size_t n)
{
    const char *space = memchr(line, ' ', n);
    const size_t n_left = space == NULL ? 0 : (size_t)(space - line);
    return add_merge(t, line, n_left, line + n_left + 1, space == NULL ? 0 : n - n_left - 1);
}

/* merges.txt: a line that begins with #version, then a merge a line. */
static rf_status read_merges_file(rf_tokenizer *t, const char *path)
{
    rf_status status = RF_OK;
    char *text = NULL;
    int64_t n_bytes = 0;
    RF_TRY(rf_file_read(path, MAX_MERGES_BYTES, &text, &n_bytes));
    for (const char *line = text; *line != '\0';) {
        const size_t n = strcspn(line, "\r\n");
        if (n > 0 && strncmp(line, "#version", 8) != 0) {
            RF_TRY_DOING(add_merge_text(t, line, n), "%s", path);
        }
        line += n + strspn(line + n, "\r\n");
    }
fail:
    rf_free(text);
    return status;
}

/* The merges of a tokenizer.json: "left right", or [left, right]. */
static rf_status read_merges_list(rf_tokenizer *t, const json_t *list)
{
    rf_status status = RF_OK;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *pair = json_array_get(list, i);
        const json_t *left = json_array_get(pair, 0), *right = json_array_get(pair, 1);
        if (json_is_string(left) && json_is_string(right)) {
            RF_TRY(add_merge(t, json_string_value(left), json_string_length(left),
                             json_string_value(right), json_string_length(right)));
        } else if (json_is_string(pair)) {
            RF_TRY(add_merge_text(t, json_string_value(pair), json_string_length(pair)));
        } else {
            RF_FAIL(RF_ERR_FORMAT, "merge %zu is neither a text nor a pair of texts", i);
        }
    }
fail:
    return status;
}

static int by_pair(const void *a, const void *b)
{
    const merge *x = a, *y = b;
    if (x->left != y->left) {
        return x->left < y->left ? -1 : 1;
    }
    return x->right < y->right ? -1 : x->right > y->right ? 1 : 0;
}

static rf_status read_tokenizer_json(rf_tokenizer *t, const char *path)
{
    rf_status status = RF_OK;
    const char *type = NULL, *suffix = NULL;
    RF_TRY(rf_json_load(path, &t->file));
    RF_TRY_DOING(rf_json_get_str(t->file, "model.type", "BPE", &type), "%s", path);
    RF_TRY_DOING(rf_json_get_str(t->file, "model.end_of_word_suffix", "", &suffix), "%s", path);
    if (strcmp(type, "BPE") != 0 || strcmp(suffix, END_OF_WORD) != 0) {
        RF_FAIL(RF_ERR_UNSUPPORTED,
                "%s: a tokenizer of type '%.40s' with the word ending '%.40s'; supported is CLIP's "
                "BPE, which ends words in " END_OF_WORD,
                path, type, suffix);
    }
    t->tokens = rf_json_find(t->file, "model.vocab");
    RF_TRY_DOING(read_merges_list(t, rf_json_find(t->file, "model.merges")), "%s", path);
fail:
    return status;
}

static rf_status read_files(rf_tokenizer *t, const char *folder)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN], merges[RF_PATH_LEN];
    RF_TRY(rf_path_join(path, folder, "vocab.json"));
    RF_TRY(rf_path_join(merges, folder, "merges.txt"));
    if (rf_file_exists(path) && rf_file_exists(merges)) {
        RF_TRY(rf_json_load(path, &t->file));
        t->tokens = t->file;
        RF_TRY(read_merges_file(t, merges));
    } else {
        RF_TRY(rf_path_join(path, folder, "tokenizer.json"));
        if (!rf_file_exists(path)) {
            RF_FAIL(RF_ERR_NOT_FOUND,
                    "'%s' has no tokenizer: expected vocab.json with merges.txt, or tokenizer.json",
                    folder);
        }
        RF_TRY(read_tokenizer_json(t, path));
    }
    RF_TRY_DOING(find_bytes(t), "%s", path);
    RF_TRY_DOING(find_marks(t), "%s", path);
fail:
    return status;
}

rf_status rf_tokenizer_open(const char *folder, rf_tokenizer **out)
{
    rf_status status = RF_OK;
    rf_tokenizer *t = NULL;
    *out = NULL;
    RF_ALLOC(t, 1);
    RF_TRY(read_files(t, folder));
    if (t->n_merges > 0) {
        qsort(t->merges, (size_t)t->n_merges, sizeof *t->merges, by_pair);
    }
    *out = t;
    t = NULL;
fail:
    rf_tokenizer_close(t);
    return status;
}

void rf_tokenizer_close(rf_tokenizer *t)
{
    if (t != NULL) {
        rf_json_free(t->file);
        rf_free(t->merges);
        rf_free(t);
    }
}

/* ---- words ---------------------------------------------------------------------------------- */

typedef enum kind { SPACE, LETTER, NUMBER, OTHER } kind;

static kind kind_of(utf8proc_int32_t code)
{
    const utf8proc_category_t c = utf8proc_category(code);
    if (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) {
        return LETTER;
    }
    if (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO) {
        return NUMBER;
    }
    const bool is_space = (c >= UTF8PROC_CATEGORY_ZS && c <= UTF8PROC_CATEGORY_ZP) ||
                          (code >= '\t' && code <= '\r') || code == 0x85;
    return is_space ? SPACE : OTHER;
}

/* NFC, lower case, one code point after the other. */
static rf_status clean(const char *text, rf_str *out)
{
    rf_status status = RF_OK;
    utf8proc_uint8_t *composed = NULL, bytes[4];
    utf8proc_int32_t code = 0;
    RF_TRY(rf_str_append_bytes(out, "", 0));
    const utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, 0, &composed,
                                            UTF8PROC_NULLTERM | UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0) {
        RF_FAIL(RF_ERR_FORMAT, "text: %s", utf8proc_errmsg(n));
    }
    for (utf8proc_ssize_t at = 0; at < n;) {
        at += utf8proc_iterate(composed + at, n - at, &code);
        const bool is_dotted = code == 0x130; /* its lower case is an i with a dot of its own */
        const utf8proc_ssize_t width =
            utf8proc_encode_char(is_dotted ? 'i' : utf8proc_tolower(code), bytes);
        RF_TRY(rf_str_append_bytes(out, bytes, width));
        if (is_dotted) {
            RF_TRY(rf_str_append(out, "\xCC\x87"));
        }
    }
fail:
    free(composed); /* allocated by utf8proc */
    return status;
}

/* Bytes of the word that begins at `text`, which is no space: a contraction, letters, a number of
 * one digit, or a run of anything else. */
static int64_t word_length(const char *text, int64_t n_bytes)
{
    static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const int64_t n = (int64_t)strlen(endings[i]);
        if (n <= n_bytes && memcmp(text, endings[i], (size_t)n) == 0) {
            return n;
        }
    }
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    utf8proc_int32_t code = 0;
    int64_t n = utf8proc_iterate(bytes, n_bytes, &code);
    const kind first = kind_of(code);
    while (first != NUMBER && n < n_bytes) {
        const utf8proc_ssize_t width = utf8proc_iterate(bytes + n, n_bytes - n, &code);
        if (kind_of(code) != first) {
            break;
        }
        n += width;
    }
    return n;
}

/* ---- merging -------------------------------------------------------------------------------- */

static const merge *find_merge(const rf_tokenizer *t, int64_t left, int64_t right)
{
    const merge key = {.left = left, .right = right};
    return t->n_merges == 0 ? NULL
                            : bsearch(&key, t->merges, (size_t)t->n_merges, sizeof key, by_pair);
}

/* Merge ids [n] in place, lowest rank first, left to right; the number that is left. */
static int64_t merge_word(const rf_tokenizer *t, int64_t *ids, int64_t n)
{
    for (;;) {
        const merge *best = NULL;
        int64_t at = 0;
        for (int64_t i = 0; i + 1 < n; i++) {
            const merge *m = find_merge(t, ids[i], ids[i + 1]);
            if (m != NULL && (best == NULL || m->rank < best->rank)) {
                best = m;
                at = i;
            }
        }
        if (best == NULL) {
            return n;
        }
        ids[at] = best->merged;
        n--;
        memmove(ids + at + 1, ids + at + 2, (size_t)(n - at - 1) * sizeof *ids);
    }
}

/* The token of a start or end mark that is written out in the text, or -1. */
static int64_t mark_at(const rf_tokenizer *t, const char *text, int64_t *n_bytes)
{
    static const char *const marks[] = {"<|startoftext|>", "<|endoftext|>"};
    for (int i = 0; i < 2; i++) {
        const size_t n = strlen(marks[i]);
        if (strncmp(text, marks[i], n) == 0) {
            *n_bytes = (int64_t)n;
            return i == 0 ? t->start_id : t->end_id;
        }
    }
    return -1;
}

/* The ids of a cleaned text; `out` has room for an id a byte. */
static int64_t encode_words(const rf_tokenizer *t, const rf_str *text, int64_t *out)
{
    int64_t n_ids = 0, width = 0;
    utf8proc_int32_t code = 0;
    for (int64_t at = 0; at < text->len; at += width) {
        const char *here = text->data + at;
        const utf8proc_ssize_t first =
            utf8proc_iterate((const utf8proc_uint8_t *)here, text->len - at, &code);
        if (kind_of(code) == SPACE) {
            width = first;
            continue;
        }
        const int64_t mark = mark_at(t, here, &width);
        if (mark >= 0) {
            out[n_ids++] = mark;
            continue;
        }
        width = word_length(here, text->len - at);
        for (int64_t i = 0; i < width; i++) {
            const unsigned char byte = (unsigned char)here[i];
            out[n_ids + i] = i + 1 < width ? t->byte_id[byte] : t->last_byte_id[byte];
        }
        n_ids += merge_word(t, out + n_ids, width);
    }
    return n_ids;
}

rf_status rf_tokenizer_encode(const rf_tokenizer *t, const char *text, int64_t context,
                              int64_t *ids)
{
    rf_status status = RF_OK;
    rf_str cleaned = {0};
    int64_t *words = NULL;
    RF_REQUIRE(context >= 2, "context=%" PRId64 ", expected at least start and end", context);
    if (strnlen(text, MAX_TEXT_BYTES) == MAX_TEXT_BYTES) {
        RF_FAIL(RF_ERR_INVALID_ARG, "a text of a megabyte or more");
    }
    RF_TRY(clean(text, &cleaned));
    RF_ALLOC(words, cleaned.len + 1);
    const int64_t n = rf_min_i64(encode_words(t, &cleaned, words), context - 2);
    memset(ids, 0, (size_t)context * sizeof *ids);
    ids[0] = t->start_id;
    memcpy(ids + 1, words, (size_t)n * sizeof *ids);
    ids[n + 1] = t->end_id;
fail:
    rf_free(words);
    rf_str_fini(&cleaned);
    return status;
}
