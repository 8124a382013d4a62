/* `output.select`: which coder of a sweep is the best, "max ev where l0 <= 500 and dead < 100". */
#include "run_impl.h"

#include <math.h>
#include <string.h>

enum { MAX_WORDS = 64, MAX_TEXT = 256 };

typedef struct words {
    char text[MAX_TEXT];
    const char *word[MAX_WORDS];
    int n;
} words;

static rf_status split(const char *text, words *out)
{
    rf_status status = RF_OK;
    out->n = 0;
    RF_TRY(rf_format(out->text, sizeof out->text, "%s", text));
    char *rest = NULL;
    for (char *w = strtok_r(out->text, " \t", &rest); w != NULL && out->n < MAX_WORDS;
         w = strtok_r(NULL, " \t", &rest)) {
        out->word[out->n++] = w;
    }
fail:
    return status;
}

static int find_relation(const char *word)
{
    static const char *const relations[] = {"<=", ">=", "<", ">"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(word, relations[i]) == 0) {
            return i;
        }
    }
    return -1;
}

static bool holds(int relation, double a, double b)
{
    return relation == 0 ? a <= b : relation == 1 ? a >= b : relation == 2 ? a < b : a > b;
}

/* max|min FIGURE [where FIGURE <=|>=|<|> NUMBER [and ...]] */
static bool is_well_formed(const words *w)
{
    double number = 0;
    bool ok = w->n >= 2 && (strcmp(w->word[0], "max") == 0 || strcmp(w->word[0], "min") == 0) &&
              rf_metrics_find_figure(NULL, w->word[1], NULL) && (w->n - 2) % 4 == 0;
    for (int i = 2; ok && i < w->n; i += 4) {
        ok = strcmp(w->word[i], i == 2 ? "where" : "and") == 0 &&
             rf_metrics_find_figure(NULL, w->word[i + 1], NULL) &&
             find_relation(w->word[i + 2]) >= 0 && rf_parse_f64(w->word[i + 3], &number) == RF_OK;
    }
    return ok;
}

rf_status rf_select_check(const char *text)
{
    rf_status status = RF_OK;
    words w;
    RF_TRY(split(text, &w));
    if (w.n > 0 && !is_well_formed(&w)) {
        RF_FAIL(RF_ERR_SETTING,
                "output.select = '%s': expected max or min, a figure of metrics.jsonl (ev, loss, "
                "l0, dead ...), and conditions: max ev where l0 <= 500 and dead < 100",
                text);
    }
fail:
    return status;
}

static double figure_of(const rf_metrics_line *line, const char *name)
{
    double value = 0;
    rf_metrics_find_figure(line, name, &value);
    return value;
}

rf_status rf_select_best(const char *text, const rf_metrics_line *lines, int64_t n, int64_t *out)
{
    rf_status status = RF_OK;
    words w;
    double best = -INFINITY;

    *out = -1;
    RF_TRY(rf_select_check(text));
    RF_TRY(split(text, &w));
    for (int64_t i = 0; w.n > 0 && i < n; i++) {
        bool fits = lines[i].coder[0] != '\0';
        for (int c = 2; c < w.n; c += 4) {
            double limit = 0;
            RF_TRY(rf_parse_f64(w.word[c + 3], &limit));
            fits = fits &&
                   holds(find_relation(w.word[c + 2]), figure_of(&lines[i], w.word[c + 1]), limit);
        }
        double sign = strcmp(w.word[0], "max") == 0 ? 1 : -1;
        double value = sign * figure_of(&lines[i], w.word[1]);
        if (fits && value > best) { /* of equals the first; NaN never */
            best = value;
            *out = i;
        }
    }
fail:
    return status;
}
