/* refract zero-shot: a classifier out of class names, and what it says about pictures. */
#include "cli_impl.h"

#include <string.h>

enum { MAX_LIST_BYTES = 1 << 24 };

/* Lines of a file. */
typedef struct lines {
    char *text;
    const char **items; /* [n], borrow `text` */
    int64_t n;
} lines;

static void lines_fini(lines *l)
{
    rf_free(l->items);
    rf_free(l->text);
}

static rf_status lines_read(const char *path, lines *out)
{
    rf_status status = RF_OK;
    int64_t n_bytes = 0;
    RF_TRY(rf_file_read(path, MAX_LIST_BYTES, &out->text, &n_bytes));
    RF_ALLOC(out->items, n_bytes + 1);
    char *rest = out->text;
    for (char *line = strsep(&rest, "\n"); line != NULL; line = strsep(&rest, "\n")) {
        line[strcspn(line, "\r")] = '\0';
        if (line[0] != '\0') {
            out->items[out->n++] = line;
        }
    }
    if (out->n == 0) {
        RF_FAIL(RF_ERR_FORMAT, "%s: no line in it", path);
    }
fail:
    return status;
}

static rf_status build(const rf_cli *cli, const char *folder, const char *names_path,
                       const char *templates_path, const char *out_path)
{
    rf_status status = RF_OK;
    rf_backend *be = NULL;
    rf_stream *s = NULL;
    rf_vit *text = NULL;
    rf_tokenizer *tokenizer = NULL;
    lines names = {0}, templates = {0};
    rf_zero_shot classifier = {0};
    int64_t n_wanted = 0;
    int n_threads = 0;
    rf_device device = RF_DEVICE_AUTO;

    RF_TRY(rf_cli_device(cli, 1, &device));
    RF_TRY(rf_parse_i64(rf_cli_value(cli, 1, "threads", "0"), &n_wanted));
    RF_TRY(rf_cli_threads(cli, n_wanted, &n_threads));
    RF_TRY(lines_read(names_path, &names));
    if (templates_path != NULL) {
        RF_TRY(lines_read(templates_path, &templates));
    }
    RF_TRY(rf_tokenizer_open(folder, &tokenizer));
    RF_TRY(rf_backend_create(device, NULL, n_threads, &be));
    RF_TRY(rf_stream_create(be, &s));
    const rf_vit_opts opts = {.tower = RF_TOWER_TEXT, .row = rf_cli_value(cli, 1, "row", NULL)};
    RF_TRY(rf_vit_open(be, folder, &opts, &text));
    RF_TRY(rf_zero_shot_build(text, s, tokenizer, names.items, names.n, templates.items,
                              templates.n, &classifier));
    RF_TRY(rf_zero_shot_save(&classifier, out_path));
    rf_cli_print(cli, "wrote %s: %" PRId64 " classes of width %" PRId64 "\n", out_path,
                 classifier.n_classes, classifier.d);
fail:
    rf_zero_shot_fini(&classifier);
    rf_vit_close(text);
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    rf_tokenizer_close(tokenizer);
    lines_fini(&templates);
    lines_fini(&names);
    return status;
}

/* The `top` best classes of one picture. `logits` is used up. */
static void print_best(const rf_cli *cli, const char *path, const rf_zero_shot *z, float *logits,
                       int64_t top)
{
    rf_cli_print(cli, "%s\n", path);
    for (int64_t i = 0; i < rf_min_i64(top, z->n_classes); i++) {
        int64_t best = 0;
        for (int64_t c = 1; c < z->n_classes; c++) {
            best = logits[c] > logits[best] ? c : best;
        }
        const char *name = z->names != NULL ? z->names[best] : NULL;
        if (name != NULL && name[0] != '\0') {
            rf_cli_print(cli, "  %.4f  %s\n", (double)logits[best], name);
        } else {
            rf_cli_print(cli, "  %.4f  class %" PRId64 "\n", (double)logits[best], best);
        }
        logits[best] = -2.0F; /* below every cosine */
    }
}

static rf_status classify_one(const rf_cli *cli, rf_session *m, const rf_zero_shot *z,
                              const char *path, int64_t top, float *embedding, float *logits)
{
    rf_status status = RF_OK;
    rf_view images = {0};
    rf_vit_output out = {0};
    RF_TRY(rf_session_load(m, &path, 1, &images));
    RF_TRY(rf_vit_forward(m->vit, m->stream, &images, NULL, 0, RF_VIT_RUN_ALL, &out));
    RF_TRY(rf_copy_out(m->stream, embedding, out.embedding.data, (size_t)z->d * sizeof(float)));
    RF_TRY(rf_stream_synchronise(m->stream));
    RF_TRY(rf_zero_shot_logits(z, embedding, 1, 1.0F, logits));
    print_best(cli, path, z, logits, top);
fail:
    return status;
}

static rf_status classify(const rf_cli *cli, int n_words, const char *classifier_path)
{
    rf_status status = RF_OK;
    rf_session m = {0};
    rf_zero_shot z = {0};
    float *embedding = NULL, *logits = NULL;
    int64_t top = 5;

    RF_TRY(rf_parse_i64(rf_cli_value(cli, n_words, "top", "5"), &top));
    RF_REQUIRE(top >= 1, "top=%" PRId64 ", expected at least 1", top);
    RF_TRY(rf_zero_shot_load(classifier_path, &z));
    RF_TRY(rf_cli_session(cli, cli->args[0], &m));
    if (rf_vit_get_config(m.vit)->d_out != z.d) {
        RF_FAIL(RF_ERR_INVALID_ARG,
                "%s is of width %" PRId64 ", but the model's embeddings are of %" PRId64,
                classifier_path, z.d, rf_vit_get_config(m.vit)->d_out);
    }
    RF_ALLOC(embedding, z.d);
    RF_ALLOC(logits, z.n_classes);
    for (int i = 1; i < n_words; i++) {
        RF_TRY(classify_one(cli, &m, &z, cli->args[i], top, embedding, logits));
    }
fail:
    rf_free(logits);
    rf_free(embedding);
    rf_session_close(&m);
    rf_zero_shot_fini(&z);
    return status;
}

static rf_status run(rf_cli *cli)
{
    static const char *const keys[] = {"names", "templates", "out",     "classifier", "top",
                                       "row",   "device",    "threads", NULL};
    rf_status status = RF_OK;
    const int n_words = rf_cli_n_words(cli);
    RF_TRY(rf_cli_check_keys(cli, n_words, keys));
    const char *names = rf_cli_value(cli, n_words, "names", NULL);
    const char *out = rf_cli_value(cli, n_words, "out", NULL);
    const char *classifier = rf_cli_value(cli, n_words, "classifier", NULL);
    if (n_words == 1 && names != NULL && out != NULL) {
        RF_TRY(build(cli, cli->args[0], names, rf_cli_value(cli, n_words, "templates", NULL), out));
    } else if (n_words >= 2 && classifier != NULL) {
        RF_TRY(classify(cli, n_words, classifier));
    } else {
        RF_FAIL(RF_ERR_USAGE,
                "neither names= with out=, nor pictures with classifier=; usage: "
                "refract zero-shot %s",
                rf_command_zero_shot.usage);
    }
fail:
    return status;
}

const rf_command rf_command_zero_shot = {
    .name = "zero-shot",
    .usage = "MODEL names=FILE out=FILE.safetensors | MODEL PICTURE... classifier=FILE",
    .summary = "build a zero-shot classifier out of class names, or ask one",
    .help =
        "With names=, runs the text tower of MODEL (CLIP or OpenCLIP, with its tokenizer's files)\n"
        "over every name in every prompt template and writes a classifier: one unit vector a "
        "class.\n"
        "With pictures, prints the classes whose vectors are closest to each picture's embedding,\n"
        "with their cosines.\n\n"
        "example:\n"
        "  refract zero-shot models/clip-vit-base-patch32 names=classes.txt "
        "out=classes.safetensors\n"
        "  refract zero-shot models/clip-vit-base-patch32 cat.jpg "
        "classifier=classes.safetensors\n\n"
        "keys:\n"
        "  names=FILE       one class name a line\n"
        "  templates=FILE   one template a line, {} for the name; default: CLIP's 80 for ImageNet\n"
        "  out=FILE         the classifier to write\n"
        "  classifier=FILE  one that was written so, or a .npy [width, classes] as Prisma's\n"
        "  top=N            classes to print, default 5\n"
        "  row=FILE.yaml    a row of the architecture table, for a model that Refract does not "
        "know\n"
        "  device=NAME      as train.device; default auto, a GPU where there is one\n"
        "  threads=N        default: all cores",
    .uses_ranks = false,
    .run = run,
};
