/* Zero-shot classifiers (Radford et al. 2021): a class is the normalised mean, over prompt
 * templates, of normalised text embeddings. Sums in double. */
#include "config_impl.h"
#include "vit_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_CLASSES = 1 << 20, MAX_PROMPT = 4096, MAX_TEMPLATES = 4096 };

/* ---- building ------------------------------------------------------------------------------- */

typedef struct builder {
    rf_vit *text;
    rf_stream *s;
    const rf_tokenizer *tokenizer;
    const char *const *templates; /* NULL: the 80 */
    int64_t n_templates, context, d;
    int64_t *ids;      /* host, [n_templates, context] */
    int64_t *device;   /* the same on the device */
    float *embeddings; /* host, [n_templates, d] */
    double *sum;       /* [d] */
} builder;

/* `pattern` with `name` for its {}. */
static rf_status fill_in(const char *pattern, const char *name, char out[MAX_PROMPT])
{
    rf_status status = RF_OK;
    const char *hole = strstr(pattern, "{}");
    if (hole == NULL) {
        RF_FAIL(RF_ERR_INVALID_ARG, "the template '%.80s' has no {} for the name", pattern);
    }
    RF_TRY(rf_format(out, MAX_PROMPT, "%.*s%s%s", (int)(hole - pattern), pattern, name, hole + 2));
fail:
    return status;
}

/* Add v / |v| to `sum`. */
static void add_unit(const float *v, int64_t d, double *sum)
{
    double square = 0.0;
    for (int64_t j = 0; j < d; j++) {
        square += (double)v[j] * (double)v[j];
    }
    const double inverse = square > 0.0 ? 1.0 / sqrt(square) : 0.0;
    for (int64_t j = 0; j < d; j++) {
        sum[j] += inverse * (double)v[j];
    }
}

static rf_status embed_prompts(builder *b, const char *name)
{
    rf_status status = RF_OK;
    char prompt[MAX_PROMPT];
    rf_vit_output out = {0};
    for (int64_t i = 0; i < b->n_templates; i++) {
        const char *pattern = b->templates != NULL ? b->templates[i] : rf_templates_at(i);
        RF_TRY(fill_in(pattern, name, prompt));
        RF_TRY(rf_tokenizer_encode(b->tokenizer, prompt, b->context, b->ids + i * b->context));
    }
    const rf_vit_run_args args = {
        .input = rf_view_nd(b->device, RF_I64, 2, (int64_t[]){b->n_templates, b->context})};
    RF_TRY(rf_copy_in(b->s, b->device, b->ids,
                      (size_t)(b->n_templates * b->context) * sizeof *b->ids));
    RF_TRY(rf_vit_run(b->text, b->s, &args, &out));
    RF_TRY(rf_copy_out(b->s, b->embeddings, out.embedding.data,
                       (size_t)(b->n_templates * b->d) * sizeof *b->embeddings));
    RF_TRY(rf_stream_synchronise(b->s));
fail:
    return status;
}

static rf_status build_class(builder *b, const char *name, float *weights)
{
    rf_status status = RF_OK;
    double square = 0.0;
    RF_TRY_DOING(embed_prompts(b, name), "class '%.80s'", name);
    memset(b->sum, 0, (size_t)b->d * sizeof *b->sum);
    for (int64_t i = 0; i < b->n_templates; i++) {
        add_unit(b->embeddings + i * b->d, b->d, b->sum);
    }
    for (int64_t j = 0; j < b->d; j++) {
        square += b->sum[j] * b->sum[j];
    }
    if (!(square > 0.0 && square < (double)INFINITY)) {
        RF_FAIL(RF_ERR_FORMAT, "class '%.80s': its text embeddings are zero or not finite", name);
    }
    for (int64_t j = 0; j < b->d; j++) {
        weights[j] = (float)(b->sum[j] / sqrt(square));
    }
fail:
    return status;
}

static rf_status create(int64_t n_classes, int64_t d, rf_zero_shot *out)
{
    rf_status status = RF_OK;
    int64_t n = 0;
    *out = (rf_zero_shot){.n_classes = n_classes, .d = d};
    RF_TRY(rf_mul_i64(n_classes, d, "elements of a classifier", &n));
    RF_ALLOC(out->weights, n);
    RF_ALLOC(out->names, n_classes);
fail:
    return status;
}

static rf_status start(builder *b)
{
    rf_status status = RF_OK;
    const rf_vit_config *c = rf_vit_get_config(b->text);
    RF_REQUIRE(c->input == RF_VIT_TEXT, "%s is not open as a text tower", c->name);
    b->context = c->n_tokens;
    b->d = c->d_out;
    RF_ALLOC(b->ids, b->n_templates * b->context);
    RF_ALLOC(b->embeddings, b->n_templates * b->d);
    RF_ALLOC(b->sum, b->d);
    RF_TRY(rf_memory_alloc(rf_stream_backend(b->s), RF_MEMORY_DEVICE,
                           (size_t)(b->n_templates * b->context) * sizeof *b->device,
                           (void **)&b->device));
fail:
    return status;
}

rf_status rf_zero_shot_build(rf_vit *text, rf_stream *s, const rf_tokenizer *tokenizer,
                             const char *const *names, int64_t n_classes,
                             const char *const *templates, int64_t n_templates, rf_zero_shot *out)
{
    rf_status status = RF_OK;
    builder b = {.text = text,
                 .s = s,
                 .tokenizer = tokenizer,
                 .templates = templates,
                 .n_templates = templates != NULL ? n_templates : rf_templates_count()};
    *out = (rf_zero_shot){0};
    RF_REQUIRE(n_classes >= 1 && n_classes <= MAX_CLASSES,
               "n_classes=%" PRId64 ", expected 1 to %d", n_classes, (int)MAX_CLASSES);
    RF_REQUIRE(b.n_templates >= 1 && b.n_templates <= MAX_TEMPLATES,
               "n_templates=%" PRId64 ", expected 1 to %d", b.n_templates, (int)MAX_TEMPLATES);
    RF_TRY(start(&b));
    RF_TRY(create(n_classes, b.d, out));
    for (int64_t i = 0; i < n_classes && rf_interrupt_pending() == 0; i++) {
        rf_progress("classes", i, n_classes, "");
        RF_TRY(build_class(&b, names[i], out->weights + i * b.d));
        out->names[i] = rf_strdup(names[i]);
        RF_TRY(out->names[i] == NULL ? RF_ERR_NO_MEMORY : RF_OK);
    }
    rf_progress("classes", n_classes, n_classes, "");
    if (rf_interrupt_pending() != 0) {
        RF_FAIL(RF_ERR_INTERRUPTED, "interrupted while a classifier was built");
    }
fail:
    rf_memory_free(rf_stream_backend(s), RF_MEMORY_DEVICE, b.device);
    rf_free(b.sum);
    rf_free(b.embeddings);
    rf_free(b.ids);
    if (status != RF_OK) {
        rf_zero_shot_fini(out);
    }
    return status;
}

void rf_zero_shot_fini(rf_zero_shot *z)
{
    for (int64_t i = 0; z->names != NULL && i < z->n_classes; i++) {
        rf_free(z->names[i]);
    }
    rf_free(z->names);
    rf_free(z->weights);
    *z = (rf_zero_shot){0};
}

/* ---- using ---------------------------------------------------------------------------------- */

rf_status rf_zero_shot_logits(const rf_zero_shot *z, const float *embeddings, int64_t n_images,
                              float scale, float *logits)
{
    rf_status status = RF_OK;
    double *unit = NULL;
    RF_REQUIRE(n_images >= 0, "n_images=%" PRId64 ", expected >= 0", n_images);
    RF_ALLOC(unit, z->d);
    for (int64_t b = 0; b < n_images; b++) {
        memset(unit, 0, (size_t)z->d * sizeof *unit);
        add_unit(embeddings + b * z->d, z->d, unit);
        for (int64_t i = 0; i < z->n_classes; i++) {
            const float *w = z->weights + i * z->d;
            double dot = 0.0;
            for (int64_t j = 0; j < z->d; j++) {
                dot += unit[j] * (double)w[j];
            }
            logits[b * z->n_classes + i] = (float)((double)scale * dot);
        }
    }
fail:
    rf_free(unit);
    return status;
}

/* Stands beside the towers, outside of what their names begin with. */
static rf_status find_scale(const rf_vit_files *files, double *out)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];
    float logarithm = 0;

    RF_TRY(rf_format(name, sizeof name, "%slogit_scale", files->wrapper));
    const rf_named_tensor *t = rf_tensor_file_find(files->weights, name);
    if (t == NULL) {
        RF_FAIL(RF_ERR_NOT_FOUND, "'%s' has no logit_scale among its weights", files->folder);
    }
    if (t->n_elems != 1) {
        RF_FAIL(RF_ERR_FORMAT, "'%s': logit_scale has %" PRId64 " values, expected one",
                files->folder, t->n_elems);
    }
    RF_TRY(rf_named_tensor_read_f32(t, &logarithm));
    if (!(fabsf(logarithm) <= 20.0F)) { /* CLIP's is at most ln 100 */
        RF_FAIL(RF_ERR_FORMAT, "'%s': logit_scale is %g, expected a logarithm of at most 20",
                files->folder, (double)logarithm);
    }
    *out = exp((double)logarithm);
fail:
    return status;
}

rf_status rf_zero_shot_read_scale(const char *folder, const char *row, double *out)
{
    rf_status status = RF_OK;
    const rf_vit_opts opts = {.row = row};
    rf_vit_files files;

    RF_TRY(rf_vit_files_open(folder, &opts, RF_WEIGHTS_NEEDED, &files));
    RF_TRY(find_scale(&files, out));
fail:
    rf_vit_files_close(&files);
    return status;
}

/* ---- files ---------------------------------------------------------------------------------- */

/* Names one after the other, each with its '\0'. */
static rf_status join_names(const rf_zero_shot *z, rf_str *out)
{
    rf_status status = RF_OK;
    for (int64_t i = 0; i < z->n_classes; i++) {
        const char *name = z->names != NULL && z->names[i] != NULL ? z->names[i] : "";
        RF_TRY(rf_str_append_bytes(out, name, (int64_t)strlen(name) + 1));
    }
fail:
    return status;
}

rf_status rf_zero_shot_save(const rf_zero_shot *z, const char *path)
{
    static const char *const metadata[] = {"format", "refract zero-shot classifier 1"};
    rf_status status = RF_OK;
    rf_str names = {0};
    RF_TRY(join_names(z, &names));
    const rf_named_tensor tensors[2] = {
        {.name = "weights",
         .dtype = RF_FILE_F32,
         .n_dims = 2,
         .shape = {z->n_classes, z->d},
         .bytes = (const unsigned char *)z->weights,
         .n_bytes = z->n_classes * z->d * (int64_t)sizeof(float)},
        {.name = "names",
         .dtype = RF_FILE_U8,
         .n_dims = 1,
         .shape = {names.len},
         .bytes = (const unsigned char *)names.data,
         .n_bytes = names.len},
    };
    RF_TRY(rf_safetensors_write(path, tensors, 2, metadata, 1));
fail:
    rf_str_fini(&names);
    return status;
}

static rf_status split_names(const rf_named_tensor *t, rf_zero_shot *z)
{
    rf_status status = RF_OK;
    int64_t at = 0;
    for (int64_t i = 0; i < z->n_classes; i++) {
        const char *name = (const char *)t->bytes + at;
        const void *end = at < t->n_bytes ? memchr(name, '\0', (size_t)(t->n_bytes - at)) : NULL;
        if (end == NULL) {
            RF_FAIL(RF_ERR_FORMAT, "'names' holds fewer than %" PRId64 " names", z->n_classes);
        }
        z->names[i] = rf_strdup(name);
        RF_TRY(z->names[i] == NULL ? RF_ERR_NO_MEMORY : RF_OK);
        at += (int64_t)strlen(name) + 1;
    }
fail:
    return status;
}

static rf_status load_safetensors(const char *path, rf_zero_shot *out)
{
    rf_status status = RF_OK;
    rf_tensor_file *file = NULL;
    RF_TRY(rf_tensor_file_open(path, &file));
    const rf_named_tensor *weights = rf_tensor_file_find(file, "weights");
    const rf_named_tensor *names = rf_tensor_file_find(file, "names");
    if (weights == NULL || weights->n_dims != 2 || weights->shape[0] < 1 ||
        weights->shape[0] > MAX_CLASSES || names == NULL || names->dtype != RF_FILE_U8) {
        RF_FAIL(RF_ERR_FORMAT,
                "not a zero-shot classifier: expected 'weights' [classes, width] and 'names'");
    }
    RF_TRY(create(weights->shape[0], weights->shape[1], out));
    RF_TRY(rf_named_tensor_read_f32(weights, out->weights));
    RF_TRY(split_names(names, out));
fail:
    rf_tensor_file_close(file);
    return status;
}

/* [d, n_classes] as Prisma saves it; [n_classes, d] where the columns have no common norm and the
 * rows do. */
static double spread_of_norms(const float *m, int64_t n, int64_t d, int64_t stride_n,
                              int64_t stride_d)
{
    double least = (double)INFINITY, most = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double square = 0.0;
        for (int64_t j = 0; j < d; j++) {
            const double v = (double)m[i * stride_n + j * stride_d];
            square += v * v;
        }
        least = fmin(least, square);
        most = fmax(most, square);
    }
    return most > 0.0 ? (most - least) / most : (double)INFINITY;
}

static rf_status load_npy(const char *path, rf_zero_shot *out)
{
    rf_status status = RF_OK;
    float *m = NULL;
    int64_t shape[2] = {0, 0};
    int n_dims = 0;
    RF_TRY(rf_npy_read_f32(path, 2, &n_dims, shape, &m));
    if (n_dims != 2 || shape[0] < 1 || shape[1] < 1 || shape[0] > MAX_CLASSES ||
        shape[1] > MAX_CLASSES) {
        RF_FAIL(RF_ERR_FORMAT, "expected a matrix [width, classes]");
    }
    const bool by_column = spread_of_norms(m, shape[1], shape[0], 1, shape[1]) <=
                           spread_of_norms(m, shape[0], shape[1], shape[1], 1);
    const int64_t n = by_column ? shape[1] : shape[0], d = by_column ? shape[0] : shape[1];
    RF_TRY(create(n, d, out));
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < d; j++) {
            out->weights[i * d + j] = by_column ? m[j * n + i] : m[i * d + j];
        }
    }
fail:
    rf_free(m);
    return status;
}

rf_status rf_zero_shot_load(const char *path, rf_zero_shot *out)
{
    rf_status status = RF_OK;
    const char *dot = strrchr(path, '.');
    *out = (rf_zero_shot){0};
    if (dot != NULL && strcmp(dot, ".npy") == 0) {
        RF_TRY_DOING(load_npy(path, out), "%s", path);
    } else {
        RF_TRY_DOING(load_safetensors(path, out), "%s", path);
    }
fail:
    if (status != RF_OK) {
        rf_zero_shot_fini(out);
    }
    return status;
}
