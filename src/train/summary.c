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
            if (row->type == RF_SETTING_TEXT) { /* as it is, not as YAML quotes it */
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
    RF_TRY(rf_str_append(out, "n_batches,failed,selected,last_step"));
    for (int i = 0; rf_metrics_figure(&empty, i, &value) != NULL; i++) {
        /* `lr` and `l1` are settings too: these are of the last whole batch, as a ragged one at
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
    RF_TRY(rf_str_append(out, "%" PRId64 ",%d,%d,%" PRId64, row->n_batches, row->failed, selected,
                         row->last->step));
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

enum { N_METADATA = 16 };

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

static rf_status fill_metadata(metadata *m, const rf_coder *coder, const rf_coder_state *state,
                               const rf_coder_spec *spec, const rf_vit *model,
                               uint64_t picture_hash)
{
    rf_status status = RF_OK;
    rf_str *settings = NULL;
    char processing[128];
    RF_TRY(rf_str_append(add(m, "format"), "refract coder"));
    RF_TRY(rf_str_append(add(m, "format_version"), "1"));
    RF_TRY(rf_str_append(add(m, "refract"), "%s", RF_VERSION));
    RF_TRY(rf_str_append(add(m, "name"), "%s", spec->coder.name));
    RF_TRY(rf_str_append(add(m, "architecture"), "%s", rf_coder_architecture(coder)->name));
    RF_TRY(rf_str_append(add(m, "k"), "%" PRId64, rf_coder_k(coder)));
    RF_TRY(rf_str_append(add(m, "input"), "%s", spec->coder.input));
    RF_TRY(rf_str_append(add(m, "tokens"), "%s",
                         rf_token_class_names[rf_coder_token_class(&spec->coder)]));
    RF_TRY(rf_str_append(add(m, "model"), "%s", rf_vit_get_config(model)->name));
    RF_TRY(rf_str_append(add(m, "model_hash"), "%016" PRIx64, rf_vit_hash(model)));
    RF_TRY(rf_str_append(add(m, "weight_processing"), "%s",
                         rf_vit_processing_name(rf_vit_processing(model), processing)));
    RF_TRY(rf_str_append(add(m, "picture_hash"), "%016" PRIx64, picture_hash));
    RF_TRY(rf_str_append(add(m, "variance"), "%.9g", (double)state->variance));
    RF_TRY(rf_str_append(add(m, "steps"), "%" PRId64, state->counters[RF_COUNTER_STEPS]));
    RF_TRY(rf_str_append(add(m, "trained_tokens"), "%" PRId64, state->counters[RF_COUNTER_TOKENS]));
    settings = add(m, "settings");
    RF_TRY(rf_settings_write_yaml(&rf_coder_settings_table, &spec->coder, 0, settings));
    for (int64_t i = 0; i < m->n; i++) {
        m->pairs[2 * i + 1] = m->values[i].data;
    }
fail:
    return status;
}

static rf_status copy_parameters(rf_stream *s, const rf_coder *coder, rf_named_tensor *tensors,
                                 float **host)
{
    rf_status status = RF_OK;
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        const rf_coder_tensor t = rf_coder_tensor_at(coder, i);
        const int64_t n = rf_view_n_elems(&t.view), n_bytes = n * (int64_t)sizeof(float);
        RF_ALLOC(host[i], n);
        RF_TRY(rf_copy_out(s, host[i], t.view.data, (size_t)n_bytes));
        tensors[i] = (rf_named_tensor){.name = t.name,
                                       .dtype = RF_FILE_F32,
                                       .n_dims = t.view.n_dims,
                                       .n_elems = n,
                                       .bytes = (const unsigned char *)host[i],
                                       .n_bytes = n_bytes};
        memcpy(tensors[i].shape, t.view.shape, (size_t)t.view.n_dims * sizeof t.view.shape[0]);
    }
    RF_TRY(rf_stream_synchronise(s));
fail:
    return status;
}

rf_status rf_summary_write_coder(const char *path, rf_stream *s, const rf_coder *coder,
                                 const rf_coder_spec *spec, const rf_vit *model,
                                 uint64_t picture_hash)
{
    rf_status status = RF_OK;
    rf_named_tensor tensors[RF_CODER_N_PARAMETERS] = {{0}};
    float *host[RF_CODER_N_PARAMETERS] = {NULL};
    metadata m = {0};
    rf_coder_state state;

    RF_TRY(rf_coder_get_state(coder, s, &state));
    RF_TRY(fill_metadata(&m, coder, &state, spec, model, picture_hash));
    RF_TRY(copy_parameters(s, coder, tensors, host));
    RF_TRY(rf_safetensors_write(path, tensors, RF_CODER_N_PARAMETERS, m.pairs, m.n));
fail:
    for (int i = 0; i < RF_CODER_N_PARAMETERS; i++) {
        rf_free(host[i]);
    }
    for (int64_t i = 0; i < N_METADATA; i++) {
        rf_str_fini(&m.values[i]);
    }
    return status;
}
