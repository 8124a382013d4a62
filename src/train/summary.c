/* What a run leaves beside its checkpoints: summary.csv and one coder.safetensors a coder. */
#include "run_impl.h"

#include <math.h>
#include <string.h>

/* A field of CSV: quoted where it must be. */
static rf_status append_field(rf_str *out, const char *text)
{
    rf_status status = RF_OK;
    if (text[strcspn(text, ",\"\r\n")] == '\0') {
        return rf_str_append(out, "%s", text);
    }
    RF_TRY(rf_str_append(out, "\""));
    for (const char *p = text; *p != '\0'; p++) {
        RF_TRY(rf_str_append(out, *p == '"' ? "\"\"" : "%c", *p));
    }
    RF_TRY(rf_str_append(out, "\""));
fail:
    return status;
}

static bool is_column(const rf_settings_table *table, const char *key)
{
    return table != &rf_train_settings_table || !rf_train_setting_is_of_run(key);
}

static rf_status append_settings(rf_str *out, const rf_settings_table *table, const void *settings)
{
    rf_status status = RF_OK;
    rf_str value = {0};
    for (int64_t i = 0; i < table->n_rows; i++) {
        const rf_setting *row = &table->rows[i];
        if (is_column(table, row->key)) {
            value.len = 0;
            if (row->type == RF_SETTING_TEXT || row->type == RF_SETTING_NAMES) {
                /* as it is, not as YAML quotes it */
                RF_TRY(rf_str_append(&value, "%s", (const char *)settings + row->offset));
            } else {
                RF_TRY(rf_settings_format(row, settings, &value));
            }
            RF_TRY(append_field(out, value.data));
            RF_TRY(rf_str_append(out, ","));
        }
    }
fail:
    rf_str_fini(&value);
    return status;
}

static rf_status append_keys(rf_str *out, const rf_settings_table *table)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < table->n_rows; i++) {
        if (is_column(table, table->rows[i].key)) {
            RF_TRY(rf_str_append(out, "%s,", table->rows[i].key));
        }
    }
fail:
    return status;
}

static rf_status append_header(rf_str *out)
{
    rf_status status = RF_OK;
    const rf_metrics_line empty = {0};
    double value = 0;
    RF_TRY(append_keys(out, &rf_coder_settings_table));
    RF_TRY(append_keys(out, &rf_train_settings_table));
    RF_TRY(rf_str_append(out, "n_batches,n_done,n_tried,n_skipped,n_outliers,failed,stopped,"
                              "selected,last_step"));
    for (int i = 0; rf_metrics_figure(&empty, i, &value) != NULL; i++) {
        /* `lr`, `k` and `p` are settings too: these are of the last whole batch, as a ragged one at
         * the end is too small to judge by. */
        RF_TRY(rf_str_append(out, ",last_%s", rf_metrics_figure(&empty, i, &value)));
    }
    RF_TRY(rf_str_append(out, "\n"));
fail:
    return status;
}

static rf_status append_row(rf_str *out, const rf_summary_row *row, bool selected)
{
    rf_status status = RF_OK;
    double value = 0;
    const bool stepped = row->last->coder[0] != '\0';
    RF_TRY(append_settings(out, &rf_coder_settings_table, &row->spec->coder));
    RF_TRY(append_settings(out, &rf_train_settings_table, &row->spec->train));
    RF_TRY(rf_str_append(out, "%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",",
                         row->n_batches, row->batches_done, row->n_tried, row->n_skipped,
                         row->n_outliers));
    RF_TRY(rf_str_append(out, "%d,%s,%d,%" PRId64, row->failed, rf_stop_name((rf_stop)row->stop),
                         selected, row->last->step));
    for (int i = 0; rf_metrics_figure(row->last, i, &value) != NULL; i++) {
        RF_TRY(rf_str_append(out, ","));
        if (stepped && isfinite(value)) {
            RF_TRY(rf_json_append_f64(out, value));
        }
    }
    RF_TRY(rf_str_append(out, "\n"));
fail:
    return status;
}

rf_status rf_summary_write(const char *path, const rf_summary_row *rows, int64_t n, int64_t best)
{
    rf_status status = RF_OK;
    rf_str text = {0};
    RF_TRY(append_header(&text));
    for (int64_t i = 0; i < n; i++) {
        RF_TRY(append_row(&text, &rows[i], i == best));
    }
    RF_TRY(rf_file_write_atomic(path, text.data, text.len));
fail:
    rf_str_fini(&text);
    return status;
}

/* ---- coder.safetensors -------------------------------------------------------------------------
 */

rf_status rf_summary_processing(rf_vit *const *vits, int n_vits, char out[RF_PROCESSING_LEN])
{
    rf_status status = RF_OK;
    rf_str all = {0};
    bool differs = false;
    char first[128] = "none", name[128];

    for (int i = 0; i < n_vits; i++) {
        rf_vit_processing_name(rf_vit_processing(vits[i]), i == 0 ? first : name);
        differs = differs || (i > 0 && strcmp(first, name) != 0);
        RF_TRY(rf_str_append(&all, "%s%s", i == 0 ? "" : ", ", i == 0 ? first : name));
    }
    RF_TRY(rf_format(out, RF_PROCESSING_LEN, "%s", differs ? all.data : first));
fail:
    rf_str_fini(&all);
    return status;
}

enum { N_METADATA = 24 };

/* Pairs of key and value; values are owned. */
typedef struct metadata {
    const char *pairs[2 * N_METADATA];
    rf_str values[N_METADATA];
    int64_t n;
} metadata;

static rf_str *add(metadata *m, const char *key)
{
    m->pairs[2 * m->n] = key;
    return &m->values[m->n++];
}

static rf_status fill_origin(metadata *m, const rf_coder_origin *origin)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(add(m, "model"), "%s", origin->model));
    RF_TRY(rf_str_append(add(m, "model_hash"), "%016" PRIx64, origin->model_hash));
    RF_TRY(rf_str_append(add(m, "weight_processing"), "%s", origin->processing));
    RF_TRY(rf_str_append(add(m, "picture_hash"), "%016" PRIx64, origin->picture_hash));
fail:
    return status;
}

/* "64, 96": columns of a wide row, site by site. */
static rf_status append_widths(rf_str *out, const int64_t *widths, int n)
{
    rf_status status = RF_OK;
    for (int i = 0; i < n; i++) {
        RF_TRY(rf_str_append(out, "%s%" PRId64, i == 0 ? "" : ", ", widths[i]));
    }
fail:
    return status;
}

static rf_status fill_sites(metadata *m, const rf_coder *coder, const rf_coder_settings *settings)
{
    rf_status status = RF_OK;
    const rf_coder_shape *shape = rf_coder_get_shape(coder);
    RF_TRY(rf_str_append(add(m, "input"), "%s", settings->input));
    RF_TRY(append_widths(add(m, "input_widths"), shape->in, shape->n_in));
    if (shape->n_out > 0) {
        RF_TRY(rf_str_append(add(m, "target"), "%s", settings->target));
        RF_TRY(append_widths(add(m, "target_widths"), shape->out, shape->n_out));
    }
    RF_TRY(rf_str_append(add(m, "tokens"), "%s",
                         rf_token_class_names[rf_coder_token_class(settings)]));
    RF_TRY(rf_str_append(add(m, "subtracts_b_dec"), rf_coder_subtracts(coder) ? "true" : "false"));
fail:
    return status;
}

static rf_status fill_metadata(metadata *m, const rf_coder *coder, const rf_coder_state *state,
                               const rf_coder_spec *spec, const rf_coder_origin *origin)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(add(m, "format"), "refract coder"));
    RF_TRY(rf_str_append(add(m, "format_version"), "2"));
    RF_TRY(rf_str_append(add(m, "refract"), "%s", RF_VERSION));
    RF_TRY(rf_str_append(add(m, "name"), "%s", spec->coder.name));
    RF_TRY(rf_str_append(add(m, "architecture"), "%s", rf_coder_architecture(coder)->name));
    RF_TRY(rf_str_append(add(m, "k"), "%" PRId64, rf_coder_k(coder)));
    RF_TRY(fill_sites(m, coder, &spec->coder));
    RF_TRY(fill_origin(m, origin));
    RF_TRY(rf_str_append(add(m, "variance"), "%.9g", (double)state->scalars[RF_SCALAR_VARIANCE]));
    RF_TRY(rf_str_append(add(m, "steps"), "%" PRId64, state->counters[RF_COUNTER_STEPS]));
    RF_TRY(rf_str_append(add(m, "trained_tokens"), "%" PRId64, state->counters[RF_COUNTER_TOKENS]));
    RF_TRY(rf_settings_write_yaml(&rf_coder_settings_table, &spec->coder, 0, add(m, "settings")));
    for (int64_t i = 0; i < m->n; i++) {
        m->pairs[2 * i + 1] = m->values[i].data;
    }
fail:
    return status;
}

/* Tensors on the host, owned. */
enum { N_FILED = RF_CODER_N_TENSORS + 1 };
typedef struct filed {
    rf_named_tensor tensors[N_FILED];
    float *host[N_FILED];
    int64_t n;
} filed;

static rf_status file_tensor(filed *f, const char *name, int n_dims, const int64_t *shape)
{
    rf_status status = RF_OK;
    rf_named_tensor *t = &f->tensors[f->n];
    int64_t n = 1;
    for (int i = 0; i < n_dims; i++) {
        t->shape[i] = shape[i];
        n *= shape[i];
    }
    RF_ALLOC(f->host[f->n], n);
    t->name = name;
    t->dtype = RF_FILE_F32;
    t->n_dims = n_dims;
    t->n_elems = n;
    t->bytes = (const unsigned char *)f->host[f->n];
    t->n_bytes = n * (int64_t)sizeof(float);
    f->n++;
fail:
    return status;
}

/* What tells how training stands is for checkpoints only. */
static bool is_filed(const rf_coder *coder, int idx)
{
    return rf_coder_has(coder, idx) && idx != RF_CODER_TOKENS_SINCE_FIRED &&
           idx != RF_CODER_SCALARS && idx != RF_CODER_COUNTERS && idx != RF_CODER_CLASS_THRESHOLDS;
}

static rf_status file_tensors(filed *f, rf_stream *s, const rf_coder *coder)
{
    rf_status status = RF_OK;
    for (int i = 0; i < rf_coder_n_tensors(coder); i++) {
        const rf_coder_tensor t = rf_coder_tensor_at(coder, i);
        const bool is_log = i == RF_CODER_LOG_THRESHOLD;
        if (is_filed(coder, i)) {
            float *host = NULL;
            RF_TRY(file_tensor(f, is_log ? "threshold" : t.name, t.view.n_dims, t.view.shape));
            host = f->host[f->n - 1];
            RF_TRY(rf_copy_out(s, host, t.view.data, (size_t)f->tensors[f->n - 1].n_bytes));
            RF_TRY(rf_stream_synchronise(s));
            for (int64_t e = 0; is_log && e < f->tensors[f->n - 1].n_elems; e++) {
                host[e] = expf(host[e]);
            }
        }
    }
fail:
    return status;
}

/* The mean over batches of the least value that was kept; by class: of cls, register and patch. */
static rf_status file_batch_threshold(filed *f, const rf_coder *coder, const rf_coder_state *state)
{
    rf_status status = RF_OK;
    const bool by_class = rf_coder_has(coder, RF_CODER_CLASS_THRESHOLDS);
    const int64_t n = by_class ? RF_K_CLASSES : 1;
    if (rf_coder_architecture(coder)->rule(rf_coder_get_settings(coder)) == RF_SELECT_BATCH_TOPK) {
        RF_TRY(file_tensor(f, "threshold", 1, &n));
        for (int64_t c = 0; c < n; c++) {
            f->host[f->n - 1][c] = rf_coder_floor(
                state, by_class ? (rf_token_class)(RF_TOKENS_CLS + c) : RF_TOKENS_ALL);
        }
    }
fail:
    return status;
}

rf_status rf_summary_write_coder(const char *path, rf_stream *s, const rf_coder *coder,
                                 const rf_coder_spec *spec, const rf_coder_origin *origin)
{
    rf_status status = RF_OK;
    filed f = {0};
    metadata m = {0};
    rf_coder_state state;

    RF_TRY(rf_coder_get_state(coder, s, &state));
    RF_TRY(fill_metadata(&m, coder, &state, spec, origin));
    RF_TRY(file_tensors(&f, s, coder));
    RF_TRY(file_batch_threshold(&f, coder, &state));
    RF_TRY(rf_safetensors_write(path, f.tensors, f.n, m.pairs, m.n));
fail:
    for (int64_t i = 0; i < N_FILED; i++) {
        rf_free(f.host[i]);
    }
    for (int64_t i = 0; i < N_METADATA; i++) {
        rf_str_fini(&m.values[i]);
    }
    return status;
}
