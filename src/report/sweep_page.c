/* sweep.html: one file that needs no network, and no script to be complete. */
#include "report_impl.h"

#include <math.h>
#include <string.h>

/* ---- head --------------------------------------------------------------------------------------
 */

/* The last part of output.dir. */
static const char *run_name(const rf_sweep_report *r)
{
    const char *dir = r->settings->output.dir, *slash = strrchr(dir, '/');
    return slash != NULL && slash[1] != '\0' ? slash + 1 : dir;
}

static rf_status begin_page(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out,
                         "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                         "<meta name=\"viewport\" content=\"width=device-width\">\n<meta "
                         "name=\"generator\" content=\"refract %s\">\n<title>",
                         RF_VERSION));
    RF_TRY(rf_html_append(out, run_name(r)));
    RF_TRY(rf_str_append(out,
                         ": sweep</title>\n<style>\n%s</style>\n</head>\n<body>\n<header>\n"
                         "<p class=\"over\">Sweep</p>\n<h1>",
                         rf_embedded_page_css));
    RF_TRY(rf_html_append(out, run_name(r)));
    RF_TRY(rf_str_append(out, "</h1>\n"));
fail:
    return status;
}

/* A fact in large letters and what it is. */
static rf_status write_fact(rf_str *out, const char *what, const char *value, const char *more)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "<div><dt>%s</dt><dd>", what));
    RF_TRY(rf_html_append(out, value));
    RF_TRY(rf_str_append(out, "<small>"));
    RF_TRY(rf_html_append(out, more));
    RF_TRY(rf_str_append(out, "</small></dd></div>\n"));
fail:
    return status;
}

/* "12", "1 failed, 2 stopped early". */
static rf_status write_coder_fact(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    int64_t n[RF_N_ENDS] = {0};
    char value[32];
    rf_str more = {0};
    for (int64_t i = 0; i < r->n; i++) {
        n[rf_sweep_end(r, &r->coders[i])]++;
    }
    for (int e = 0; e < RF_N_ENDS; e++) {
        if (n[e] > 0) {
            RF_TRY(rf_str_append(&more, "%s%" PRId64 " %s", more.len > 0 ? ", " : "", n[e],
                                 rf_sweep_end_word((rf_coder_end)e)));
        }
    }
    RF_TRY(rf_format(value, sizeof value, "%" PRId64, r->n));
    RF_TRY(
        write_fact(out, r->n == 1 ? "coder" : "coders", value, more.data != NULL ? more.data : ""));
fail:
    rf_str_fini(&more);
    return status;
}

static rf_status write_token_fact(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    char value[32], more[128] = "seen by the coder that saw most";
    double most = 0;
    for (int64_t i = 0; i < r->n; i++) {
        most = fmax(most, isnan(r->coders[i].tokens) ? 0 : r->coders[i].tokens);
    }
    rf_html_short(most, value);
    if (r->n_pictures[0] >= 0) {
        RF_TRY(rf_format(more, sizeof more, "of %" PRId64 " pictures; %" PRId64 " held out",
                         r->n_pictures[0], r->n_pictures[1]));
    }
    RF_TRY(write_fact(out, "tokens trained on", value, more));
fail:
    return status;
}

static rf_status write_best_fact(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    char value[64], more[160];
    const int64_t best = rf_sweep_best(r);
    if (best < 0) {
        return RF_OK;
    }
    const rf_sweep_coder *c = &r->coders[best];
    RF_TRY(rf_format(value, sizeof value, "%.4f", c->last[RF_CURVE_EV]));
    RF_TRY(rf_format(more, sizeof more, "at L0 %.1f, last whole batch", c->last[RF_CURVE_L0]));
    RF_TRY(write_fact(out, "EV of the best", value, more));
    if (c->measured[RF_HELD_OUT].has) {
        RF_TRY(rf_format(value, sizeof value, "%.4f", c->measured[RF_HELD_OUT].ev));
        RF_TRY(rf_format(more, sizeof more, "at L0 %.1f, %" PRId64 " held-out pictures",
                         c->measured[RF_HELD_OUT].l0, r->eval_pictures[RF_HELD_OUT]));
        RF_TRY(write_fact(out, "its EV, held out", value, more));
    }
fail:
    return status;
}

static rf_status write_best(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    const char *rule = r->settings->output.select;
    const int64_t best = rf_sweep_best(r);
    if (rule[0] == '\0') {
        return rf_str_append(out, "<p class=\"lead\">No coder is marked as the best: "
                                  "<code>output.select</code> is empty.</p>\n");
    }
    RF_TRY(rf_str_append(out, "<p class=\"lead\">Best by <code>"));
    RF_TRY(rf_html_append(out, rule));
    if (best < 0) {
        RF_TRY(rf_str_append(out, "</code>: %s.</p>\n",
                             r->has_summary ? "no coder fits" : "not known before the run ends"));
        return RF_OK;
    }
    RF_TRY(rf_str_append(out, "</code>: <strong>"));
    RF_TRY(rf_html_append(out, r->coders[best].spec->coder.name));
    RF_TRY(rf_str_append(out, "</strong>, by the figures of its last whole batch.</p>\n"));
fail:
    return status;
}

/* Coders that did not end well, each with its reason. */
static rf_status write_troubles(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    rf_str reason = {0};
    int64_t n = 0;
    for (int64_t i = 0; i < r->n; i++) {
        const rf_sweep_coder *c = &r->coders[i];
        const rf_coder_end end = rf_sweep_end(r, c);
        if (end != RF_END_FAILED && end != RF_END_NEVER && !(c->n_skipped > 0)) {
            continue;
        }
        reason.len = 0;
        RF_TRY(rf_sweep_reason(r, c, &reason));
        RF_TRY(rf_str_append(out, "%s<li data-c=\"%" PRId64 "\"><strong>",
                             n++ == 0 ? "<ul class=\"troubles\">\n" : "", i));
        RF_TRY(rf_html_append(out, c->spec->coder.name));
        RF_TRY(rf_str_append(out, "</strong> %s: ",
                             end == RF_END_DONE ? "skipped batches" : rf_sweep_end_word(end)));
        RF_TRY(rf_html_append(out, reason.data));
        RF_TRY(rf_str_append(out, "</li>\n"));
    }
    RF_TRY(rf_str_append(out, "%s", n > 0 ? "</ul>\n" : ""));
fail:
    rf_str_fini(&reason);
    return status;
}

static rf_status write_header(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(begin_page(r, out));
    RF_TRY(write_best(r, out));
    RF_TRY(rf_str_append(out, "<dl class=\"facts\">\n"));
    RF_TRY(write_coder_fact(r, out));
    RF_TRY(write_best_fact(r, out));
    RF_TRY(write_token_fact(r, out));
    RF_TRY(rf_str_append(out, "</dl>\n"));
    if (!r->has_summary) {
        RF_TRY(rf_str_append(out,
                             "<p class=\"note\">The run has not ended: figures are those of the "
                             "last whole batch that each coder logged.</p>\n"));
    }
    RF_TRY(write_troubles(r, out));
    RF_TRY(rf_str_append(out, "</header>\n"));
fail:
    return status;
}

/* ---- legend ------------------------------------------------------------------------------------
 */

/* The mark of `coder`, had it not failed. */
static rf_status write_key(const rf_sweep_report *r, int64_t coder, const char *style, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "<svg class=\"key\" viewBox=\"-8 -8 16 16\" %s>", style));
    RF_TRY(rf_mark_draw(r->architectures.of[coder], false, 0, 0, out));
    RF_TRY(rf_str_append(out, "</svg>"));
fail:
    return status;
}

static int64_t first_of(const rf_groups *groups, int64_t group)
{
    int64_t i = 0;
    while (groups->of[i] != group) {
        i++;
    }
    return i;
}

static rf_status write_legend(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    rf_str style = {0};
    const bool shapes_are_said = strcmp(r->series_title, "architecture") == 0 ||
                                 strcmp(r->series_title, "coder") == 0 || r->architectures.n == 1;
    RF_TRY(rf_str_append(out, "<ul class=\"legend\">\n<li class=\"title\">%s</li>\n",
                         r->series_title));
    for (int64_t g = 0; g < r->series.n; g++) {
        style.len = 0;
        RF_TRY(rf_series_style(r, g, &style));
        RF_TRY(rf_str_append(out, "<li data-s=\"%" PRId64 "\" tabindex=\"0\">", g));
        RF_TRY(write_key(r, first_of(&r->series, g), style.data, out));
        RF_TRY(rf_html_append(out, r->series.names[g].data));
        RF_TRY(rf_str_append(out, "</li>\n"));
    }
    for (int64_t g = 0; !shapes_are_said && g < r->architectures.n; g++) {
        RF_TRY(rf_str_append(out, "<li class=\"shape\">"));
        RF_TRY(write_key(r, first_of(&r->architectures, g), "style=\"--c:currentColor\"", out));
        RF_TRY(rf_html_append(out, r->architectures.names[g].data));
        RF_TRY(rf_str_append(out, "</li>\n"));
    }
    RF_TRY(rf_str_append(out, "</ul>\n"));
fail:
    rf_str_fini(&style);
    return status;
}

/* ---- what it is of -----------------------------------------------------------------------------
 */

static rf_status write_term(rf_str *out, const char *term, const char *value, const char *hash)
{
    rf_status status = RF_OK;
    if (value[0] == '\0' && hash[0] == '\0') {
        return RF_OK;
    }
    RF_TRY(rf_str_append(out, "<dt>%s</dt><dd>", term));
    RF_TRY(rf_html_append(out, value));
    if (hash[0] != '\0') {
        RF_TRY(rf_str_append(out, " <code>"));
        RF_TRY(rf_html_append(out, hash));
        RF_TRY(rf_str_append(out, "</code>"));
    }
    RF_TRY(rf_str_append(out, "</dd>\n"));
fail:
    return status;
}

/* "clip (models/clip)", each model that sites may name. */
static rf_status append_models(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "%s", r->model.data));
    for (int i = 0; i < r->settings->n_models; i++) {
        RF_TRY(rf_str_append(out, "%s%s",
                             i > 0              ? ", "
                             : r->model.len > 0 ? " from "
                                                : "",
                             r->settings->models[i].settings.path));
    }
fail:
    return status;
}

static rf_status append_pictures(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "%s", r->settings->data.path));
    if (r->n_pictures[0] >= 0) {
        RF_TRY(rf_str_append(out, ", %" PRId64 " trained on, %" PRId64 " held out",
                             r->n_pictures[0], r->n_pictures[1]));
    }
fail:
    return status;
}

rf_status rf_sweep_write_origin(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    rf_str models = {0}, pictures = {0}, sites = {0};
    char eval[64] = "";
    RF_TRY(append_models(r, &models));
    RF_TRY(append_pictures(r, &pictures));
    for (int64_t i = 0; i < r->sites.n; i++) {
        RF_TRY(rf_str_append(&sites, "%s%s", i > 0 ? "; " : "", r->sites.names[i].data));
    }
    if (r->has_eval && r->eval_step >= 0) {
        RF_TRY(rf_format(eval, sizeof eval, "eval.json, of the checkpoint of step %" PRId64,
                         r->eval_step));
    }
    RF_TRY(rf_str_append(out, "<dl class=\"origin\">\n"));
    RF_TRY(write_term(out, "Run folder", r->settings->output.dir, ""));
    RF_TRY(write_term(out, "Model", models.data, r->model_hash.data));
    RF_TRY(write_term(out, "Its weights", r->processing.data, ""));
    RF_TRY(write_term(out, "Sites", sites.data, ""));
    RF_TRY(write_term(out, "Pictures", pictures.data, r->picture_hash.data));
    RF_TRY(write_term(out, "Measured", eval, ""));
    RF_TRY(write_term(out, "Settings", "config.yaml",
                      r->settings_hash.data != NULL ? r->settings_hash.data : ""));
    RF_TRY(write_term(out, "Trained by refract", r->version.data, ""));
    RF_TRY(rf_str_append(out, "</dl>\n"));
fail:
    rf_str_fini(&sites);
    rf_str_fini(&pictures);
    rf_str_fini(&models);
    return status;
}

static const char meanings[] =
    "<dl class=\"origin\">\n"
    "<dt>L0</dt><dd>mean number of latents with a value &gt; 0 per token</dd>\n"
    "<dt>EV</dt><dd>explained variance, 1 &minus; &Sigma;|y &minus; &#375;|&sup2; / "
    "&Sigma;|y &minus; mean|&sup2;, over the tokens of the batch or of the split</dd>\n"
    "<dt>error</dt><dd>mean |y &minus; &#375;|&sup2; / V of the batch, V the variance of what the "
    "coder reconstructs: 0 is perfect</dd>\n"
    "<dt>dead</dt><dd>latents that have not fired for <code>dead_after_tokens</code> tokens, % of "
    "the dictionary</dd>\n"
    "<dt>front</dt><dd>coders that no other coder of the same site beats in both EV and L0; "
    "the mean alone explains 0, so that less is on no front</dd>\n"
    "<dt>last whole batch</dt><dd>pictures that were trained on; a ragged last batch is too small "
    "to "
    "judge by</dd>\n"
    "</dl>\n";

/* ---- the page ----------------------------------------------------------------------------------
 */

static rf_status write_front(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out,
                         "<section>\n<h2>Explained variance against L0</h2>\n<p class=\"sub\">Up "
                         "and to the left is better. %s%s</p>\n",
                         r->sites.n > 1 ? "Lines join, for each site, the coders that no other of "
                                          "that site beats in both."
                                        : "The line joins the coders that no other beats in both.",
                         rf_sweep_best(r) >= 0 ? " The ring marks the best." : ""));
    RF_TRY(write_legend(r, out));
    RF_TRY(rf_sweep_draw_front(r, out));
    RF_TRY(rf_str_append(out, "</section>\n"));
fail:
    return status;
}

rf_status rf_sweep_report_page(const rf_sweep_report *r, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(write_header(r, out));
    RF_TRY(rf_str_append(out, "<main>\n"));
    RF_TRY(write_front(r, out));
    RF_TRY(rf_str_append(out,
                         "<section>\n<h2>Curves</h2>\n<p class=\"sub\">One line a coder, in the "
                         "colours above; point at one to single it out, click to keep it.</p>\n"));
    RF_TRY(rf_sweep_draw_curves(r, out));
    RF_TRY(rf_str_append(out,
                         "</section>\n<section class=\"full\">\n<h2>All coders</h2>\n<p "
                         "class=\"sub\">A click on a heading sorts. %s beside this page has every "
                         "setting.</p>\n",
                         r->has_summary ? "summary.csv" : "config.yaml"));
    RF_TRY(rf_sweep_write_rows(r, out));
    RF_TRY(rf_str_append(out, "</section>\n"));
    RF_TRY(rf_published_write_section(r, out));
    RF_TRY(rf_str_append(out, "<section class=\"pair\">\n<div><h2>What this is of</h2>\n"));
    RF_TRY(rf_sweep_write_origin(r, out));
    RF_TRY(rf_str_append(
        out, "</div>\n<div><h2>What the figures mean</h2>\n%s</div>\n</section>\n</main>\n",
        meanings));
    RF_TRY(rf_str_append(
        out, "<output id=\"told\" hidden></output>\n<script>\n%s</script>\n</body>\n</html>\n",
        rf_embedded_page_js));
fail:
    return status;
}
