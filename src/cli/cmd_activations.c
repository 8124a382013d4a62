/* refract activations: a quick look. A few pictures through a model, chosen hook points to a file.
 */
#include "cli_impl.h"
#include "refract/io.h"

#include <string.h>

enum { MAX_HOOKS = 256 };

/* One hook point's values of all pictures, on the host. */
typedef struct capture {
    rf_hook_point point;
    int n_dims;
    int64_t shape[RF_MAX_DIMS]; /* shape[0]: pictures */
    float *values;
    int64_t n_pictures, picture; /* in all; the one that is running */
} capture;

static rf_status keep(void *user, const rf_hook_point *point, const rf_view *act, rf_stream *s)
{
    rf_status status = RF_OK;
    capture *c = user;
    (void)point;
    int64_t n = rf_view_n_elems(act);
    if (c->values == NULL) {
        int64_t total = 0;
        RF_TRY(rf_mul_i64(n, c->n_pictures, c->point.name, &total));
        RF_ALLOC(c->values, total);
        c->n_dims = act->n_dims;
        memcpy(c->shape, act->shape, sizeof c->shape);
        c->shape[0] = c->n_pictures;
    }
    RF_TRY(rf_copy_out(s, c->values + c->picture * n, act->data, (size_t)n * sizeof(float)));
    RF_TRY(rf_stream_synchronise(s));
fail:
    return status;
}

static rf_status find_hooks(const rf_vit_config *config, const char *names, capture *captures,
                            int64_t n_pictures, int64_t *n)
{
    rf_status status = RF_OK;
    char *copy = rf_strdup(names), *rest = copy;
    *n = 0;
    if (copy == NULL) {
        return RF_ERR_NO_MEMORY;
    }
    for (char *name = strsep(&rest, ","); name != NULL; name = strsep(&rest, ",")) {
        RF_REQUIRE(*n < MAX_HOOKS, "hooks: more than %d names", MAX_HOOKS);
        RF_TRY(rf_vit_hook_find(config, name, &captures[*n].point));
        captures[*n].n_pictures = n_pictures;
        (*n)++;
    }
fail:
    rf_free(copy);
    return status;
}

static rf_status run_pictures(rf_session *m, char **paths, int64_t n_paths, capture *captures,
                              int64_t n_captures)
{
    rf_status status = RF_OK;
    rf_hook hooks[MAX_HOOKS];
    rf_view images = {0};
    for (int64_t i = 0; i < n_captures; i++) {
        hooks[i] = (rf_hook){.point = captures[i].point, .fn = keep, .user = &captures[i]};
    }
    for (int64_t p = 0; p < n_paths; p++) {
        for (int64_t i = 0; i < n_captures; i++) {
            captures[i].picture = p;
        }
        RF_TRY(rf_session_load(m, (const char *const *)&paths[p], 1, &images));
        RF_TRY(rf_vit_forward(m->vit, m->stream, &images, hooks, n_captures,
                              RF_VIT_STOP_AFTER_HOOKS, NULL));
        rf_progress("activations", p + 1, n_paths, paths[p]);
    }
fail:
    return status;
}

/* The file: one tensor a hook point, pictures along its first axis, their names as a JSON list. */
static rf_status write_file(const char *path, const rf_vit_config *config, const capture *captures,
                            int64_t n_captures, char **paths, int64_t n_paths)
{
    rf_status status = RF_OK;
    rf_named_tensor *tensors = NULL;
    rf_str names = {0};
    RF_ALLOC(tensors, n_captures);
    for (int64_t i = 0; i < n_captures; i++) {
        const capture *c = &captures[i];
        rf_named_tensor *t = &tensors[i];
        *t = (rf_named_tensor){
            .name = c->point.name, .dtype = RF_FILE_F32, .n_dims = c->n_dims, .n_elems = 1};
        for (int d = 0; d < c->n_dims; d++) {
            t->shape[d] = c->shape[d];
            t->n_elems *= c->shape[d];
        }
        t->bytes = (const unsigned char *)c->values;
        t->n_bytes = t->n_elems * (int64_t)sizeof(float);
    }
    for (int64_t p = 0; p < n_paths; p++) {
        RF_TRY(rf_str_append(&names, p == 0 ? "[" : ", "));
        RF_TRY(rf_json_append_str(&names, paths[p]));
    }
    RF_TRY(rf_str_append(&names, "]"));
    const char *metadata[] = {"pictures",   names.data,   "model",
                              config->name, "written_by", "refract " RF_VERSION};
    RF_TRY(rf_safetensors_write(path, tensors, n_captures, metadata, 3));
fail:
    rf_str_fini(&names);
    rf_free(tensors);
    return status;
}

static void print_captures(const rf_cli *cli, const capture *captures, int64_t n, const char *out)
{
    for (int64_t i = 0; i < n; i++) {
        rf_cli_print(cli, "%-36s [", captures[i].point.name);
        for (int d = 0; d < captures[i].n_dims; d++) {
            rf_cli_print(cli, "%s%" PRId64, d == 0 ? "" : ", ", captures[i].shape[d]);
        }
        rf_cli_print(cli, "]\n");
    }
    rf_cli_print(cli, "wrote %s\n", out);
}

static rf_status run(rf_cli *cli)
{
    static const char *const keys[] = {"hooks", "out", "row", "device", "threads", NULL};
    rf_status status = RF_OK;
    rf_session m = {0};
    capture *captures = NULL;
    int64_t n_captures = 0;
    const int n_words = rf_cli_n_words(cli);

    RF_TRY(rf_cli_check_keys(cli, n_words, keys));
    const char *names = rf_cli_value(cli, n_words, "hooks", NULL);
    const char *out = rf_cli_value(cli, n_words, "out", NULL);
    if (n_words < 2 || names == NULL || out == NULL) {
        RF_FAIL(RF_ERR_USAGE, "too few words; usage: refract activations %s",
                rf_command_activations.usage);
    }
    char **paths = cli->args + 1;
    const int64_t n_paths = n_words - 1;
    RF_TRY(rf_cli_session(cli, cli->args[0], &m));
    RF_ALLOC(captures, MAX_HOOKS);
    RF_TRY(find_hooks(rf_vit_get_config(m.vit), names, captures, n_paths, &n_captures));
    RF_TRY(run_pictures(&m, paths, n_paths, captures, n_captures));
    RF_TRY(write_file(out, rf_vit_get_config(m.vit), captures, n_captures, paths, n_paths));
    print_captures(cli, captures, n_captures, out);
fail:
    for (int64_t i = 0; captures != NULL && i < MAX_HOOKS; i++) {
        rf_free(captures[i].values);
    }
    rf_free(captures);
    rf_session_close(&m);
    return status;
}

const rf_command rf_command_activations = {
    .name = "activations",
    .usage = "MODEL PICTURE... hooks=NAME,NAME out=FILE.safetensors [row=FILE.yaml] "
             "[device=NAME] [threads=N]",
    .summary = "write a model's activations on a few pictures, for a notebook",
    .help =
        "Runs each PICTURE through MODEL (a Hugging Face folder) and writes the activations at "
        "the\n"
        "named hook points to one safetensors file: a tensor per point, pictures along its first\n"
        "axis, the pictures' names in the metadata. 'refract info MODEL' lists the points.\n\n"
        "example:\n"
        "  refract activations models/dinov2-small cat.jpg dog.png \\\n"
        "      hooks=blocks.8.hook_resid_post,blocks.8.attn.hook_pattern out=acts.safetensors\n\n"
        "keys:\n"
        "  hooks=NAMES   hook points, commas between; layers may be negative (from the end)\n"
        "  out=FILE      the file to write\n"
        "  row=FILE      a row of the architecture table, for a model that Refract does not know\n"
        "  device=NAME   as train.device; default auto, a GPU where there is one\n"
        "  threads=N     default: all cores",
    .uses_ranks = false,
    .run = run,
};
