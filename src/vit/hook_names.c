/* Finding a hook point by its name or a short form of it. */
#include "vit_impl.h"

#include <stdio.h>
#include <string.h>

enum { MAX_DIGITS = 9 };

/* "scale4ln1": word "scale", layer 4, part "ln1". */
typedef struct short_form {
    char word[RF_NAME_LEN], part[RF_NAME_LEN];
    bool has_layer;
    int64_t layer;
} short_form;

typedef struct alias {
    const char *from, *to;
} alias;

static const alias word_aliases[] = {{"attn", "pattern"}, {"attn_logits", "attn_scores"},
                                     {"key", "k"},        {"query", "q"},
                                     {"value", "v"},      {"mlp_pre", "pre"},
                                     {"mlp_post", "post"}};
static const alias part_aliases[] = {{"a", "attn"}, {"attention", "attn"}, {"m", "mlp"},
                                     {"b", "."},    {"block", "."},        {"blocks", "."}};

static const char *translate(const alias *aliases, size_t n, const char *word)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(aliases[i].from, word) == 0) {
            return aliases[i].to;
        }
    }
    return word;
}

/* False where `name` has not the form of one. */
static bool split_short(const char *name, short_form *out)
{
    const size_t n_word = strspn(name, "abcdefghijklmnopqrstuvwxyz_");
    const char *number = name + n_word;
    const size_t n_sign = number[0] == '-' ? 1 : 0;
    const size_t n_digits = strspn(number + n_sign, "0123456789");
    const char *part = number + n_sign + n_digits;
    char digits[MAX_DIGITS + 2];
    *out = (short_form){.has_layer = n_digits > 0};
    if (n_word == 0 || n_word >= sizeof out->word || strlen(part) >= sizeof out->part ||
        n_digits > MAX_DIGITS || (n_digits == 0 && number[0] != '\0')) {
        return false;
    }
    memcpy(out->word, name, n_word);
    memcpy(out->part, part, strlen(part));
    memcpy(digits, number, n_sign + n_digits);
    digits[n_sign + n_digits] = '\0';
    return !out->has_layer || rf_parse_i64(digits, &out->layer) == RF_OK;
}

/* A site's name in two: "mlp.ln." and what follows "hook_". */
static const char *word_of(rf_site site, size_t *n_part)
{
    const char *name = rf_site_name(site), *hook = strstr(name, "hook_");
    *n_part = (size_t)(hook - name);
    return hook + strlen("hook_");
}

static bool is_short_for(const short_form *form, rf_site site)
{
    size_t n_part = 0;
    const char *name = rf_site_name(site), *word = word_of(site, &n_part);
    if (form->has_layer != rf_site_is_in_block(site) ||
        strcmp(word, translate(word_aliases, sizeof word_aliases / sizeof *word_aliases,
                               form->word)) != 0) {
        return false;
    }
    if (!form->has_layer) { /* "scale" alone is the final norm's */
        return n_part == 0 || strncmp(name, "ln_final.", n_part) == 0;
    }
    if (form->part[0] == '\0') { /* a norm's points need the norm's name */
        return n_part == 0 || (strncmp(name, "attn.", n_part) == 0) ||
               (strncmp(name, "mlp.", n_part) == 0);
    }
    const char *part =
        translate(part_aliases, sizeof part_aliases / sizeof *part_aliases, form->part);
    if (strcmp(part, ".") == 0) {
        return n_part == 0;
    }
    return strlen(part) + 1 == n_part && strncmp(name, part, n_part - 1) == 0;
}

/* The site that `name` means (RF_N_SITES: none), and its layer as written. */
static rf_site parse_name(const char *name, int64_t *layer)
{
    short_form form;
    char number[32];
    const char *tail = NULL, *dot = NULL;
    *layer = 0;
    if (strncmp(name, "blocks.", 7) == 0 && (dot = strchr(name + 7, '.')) != NULL &&
        dot - (name + 7) < (int)sizeof number) {
        snprintf(number, sizeof number, "%.*s", (int)(dot - (name + 7)), name + 7);
        tail = rf_parse_i64(number, layer) == RF_OK ? dot + 1 : NULL;
    }
    for (int site = 0; site < RF_N_SITES; site++) {
        const char *full = rf_site_is_in_block((rf_site)site) ? tail : name;
        if (full != NULL && strcmp(rf_site_name((rf_site)site), full) == 0) {
            return (rf_site)site;
        }
    }
    if (split_short(name, &form)) {
        *layer = form.layer;
        for (int site = 0; site < RF_N_SITES; site++) {
            if (is_short_for(&form, (rf_site)site)) {
                return (rf_site)site;
            }
        }
    }
    return RF_N_SITES;
}

/* How far `name` is from a point, by its full name or its short form, whichever is nearer. */
static int64_t distance(const char *name, const rf_hook_point *point)
{
    size_t n_part = 0;
    char text[2 * RF_NAME_LEN];
    const char *full = rf_site_name((rf_site)point->site);
    const char *word = word_of((rf_site)point->site, &n_part);
    const int64_t by_name = rf_str_distance(name, point->name);
    if (!rf_site_is_in_block((rf_site)point->site)) { /* "scale" alone is the final norm's */
        return strncmp(full, "ln_pre.", 7) == 0 ? by_name
                                                : rf_min_i64(by_name, rf_str_distance(name, word));
    }
    const bool is_norm = n_part > 0 && strstr(full, "ln") != NULL && strstr(full, "ln") < word;
    snprintf(text, sizeof text, "%s%" PRId64 "%.*s", word, point->layer,
             is_norm ? (int)n_part - 1 : 0, full);
    return rf_min_i64(by_name, rf_str_distance(name, text));
}

/* NOT_FOUND with the nearest name that exists. */
static rf_status raise_unknown(const rf_vit_config *c, const char *name)
{
    rf_status status = RF_OK;
    rf_hook_point *points = NULL;
    int64_t n = 0, best = 0, least = INT64_MAX;
    RF_TRY(rf_vit_hook_list(c, &points, &n));
    for (int64_t i = 0; i < n; i++) {
        const int64_t far = distance(name, &points[i]);
        if (far < least) {
            least = far;
            best = i;
        }
    }
    RF_FAIL(RF_ERR_NOT_FOUND, "there is no hook point '%.128s' in this model; did you mean '%s'?",
            name, points[best].name);
fail:
    rf_free(points);
    return status;
}

rf_status rf_vit_hook_find(const rf_vit_config *config, const char *name, rf_hook_point *out)
{
    rf_status status = RF_OK;
    rf_hook_point found;
    int64_t layer = 0;
    const rf_site site = parse_name(name, &layer);
    if (site == RF_N_SITES || !rf_hook_point_at(config, site, 0, &found)) {
        return raise_unknown(config, name);
    }
    layer += layer < 0 ? config->n_layers : 0;
    if (!rf_hook_point_at(config, site, layer, &found)) {
        RF_FAIL(RF_ERR_NOT_FOUND,
                "there is no hook point '%.128s': this model has layers 0 to %" PRId64
                " (or -%" PRId64 " to -1 from the end)",
                name, config->n_layers - 1, config->n_layers);
    }
    *out = found;
fail:
    return status;
}
