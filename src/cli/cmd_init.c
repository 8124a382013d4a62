/* refract init: a good first run file for a model and a folder of pictures. */
#include "cli_impl.h"
#include "refract/data.h"
#include "refract/io.h"
#include "refract/vit.h"

enum { BATCH_TOKENS = 4096, EXPANSION = 16, K = 32 };

static rf_status write_run_file(const rf_vit_config *model, const rf_picture_list *pictures,
                                const char *model_path, const char *row, const char *pictures_path,
                                rf_str *out)
{
    rf_status status = RF_OK;
    const int64_t n_train = rf_picture_list_n(pictures, RF_SPLIT_TRAIN);
    const int64_t n_held_out = rf_picture_list_n(pictures, RF_SPLIT_HELD_OUT);
    const int64_t tokens = n_train * model->n_tokens;
    const int64_t n_steps = rf_max_i64(1, tokens / BATCH_TOKENS);
    const int64_t layer = 2 * model->n_layers / 3;
    RF_TRY(rf_str_append(out, "# A first run: one TopK autoencoder on %s.\n", model->name));
    RF_TRY(rf_str_append(out, "# Check it with 'refract plan', start it with 'mpirun -n 2 refract "
                              "train'; 'refract help settings' explains every key.\n\n"));
    RF_TRY(rf_str_append(out, "model:\n  path: "));
    RF_TRY(rf_json_append_str(out, model_path));
    if (row != NULL) {
        RF_TRY(rf_str_append(out, "\n  row: "));
        RF_TRY(rf_json_append_str(out, row));
    }
    RF_TRY(rf_str_append(out, "\n\ndata:\n  path: "));
    RF_TRY(rf_json_append_str(out, pictures_path));
    RF_TRY(rf_str_append(out,
                         "\n  holdout: 0.1   # share of pictures that training never sees: %" PRId64
                         " of %" PRId64 " here\n\n",
                         n_held_out, n_train + n_held_out));
    RF_TRY(rf_str_append(out, "activations:\n"
                              "  keep_bytes: 4e9   # of each rank: later epochs read from memory "
                              "what fits\n\n"));
    RF_TRY(rf_str_append(
        out,
        "coders:\n  - name: resid-l{layer}\n    input: blocks.{layer}.hook_resid_post\n"
        "    each: {layer: [%" PRId64 "]}   # more layers train from the same reading: 0..%" PRId64
        "\n",
        layer, model->n_layers - 1));
    RF_TRY(rf_str_append(out,
                         "    tokens: all          # or cls, register, patch\n"
                         "    architecture: topk   # `refract help settings` lists the others\n"
                         "    expansion: %d        # %" PRId64 " latents\n"
                         "    k: %d                # active latents a token\n\n",
                         EXPANSION, EXPANSION * model->d_model, K));
    RF_TRY(rf_str_append(out,
                         "train:\n"
                         "  epochs: %" PRId64 "            # one is %" PRId64 " tokens, %" PRId64
                         " steps\n"
                         "  batch_tokens: %d\n"
                         "  lr: 1e-3\n  schedule: cosine\n  warmup_steps: %" PRId64 "\n"
                         "  checkpoint_every: 200   # steps\n\n",
                         rf_max_i64(1, 300 / n_steps), tokens, n_steps, BATCH_TOKENS,
                         rf_min_i64(200, rf_max_i64(10, n_steps / 4))));
    RF_TRY(rf_str_append(out, "output:\n  dir: runs/first\n"));
fail:
    return status;
}

static rf_status run(rf_cli *cli)
{
    static const char *const keys[] = {"out", "row", NULL};
    rf_status status = RF_OK;
    rf_vit_config model;
    rf_picture_list *pictures = NULL;
    rf_str text = {0};
    RF_TRY(rf_cli_need_args(cli, 2, "init MODEL PICTURES [out=FILE.yaml]"));
    RF_TRY(rf_cli_check_keys(cli, 2, keys));
    const char *row = rf_cli_value(cli, 2, "row", NULL);
    const rf_vit_opts model_opts = {.row = row};
    RF_TRY(rf_vit_read_config(cli->args[0], &model_opts, &model));
    const rf_picture_list_opts opts = {.path = cli->args[1], .holdout = 0.1};
    RF_TRY(rf_picture_list_open(&opts, &pictures));
    RF_TRY(write_run_file(&model, pictures, cli->args[0], row, cli->args[1], &text));
    const char *out = rf_cli_value(cli, 2, "out", NULL);
    if (out == NULL) {
        rf_cli_print(cli, "%s", text.data);
    } else if (rf_file_exists(out)) {
        RF_FAIL(RF_ERR_IO, "%s exists; choose another name or remove it", out);
    } else {
        RF_TRY(rf_file_write_atomic(out, text.data, text.len));
        rf_cli_print(cli, "wrote %s; next: refract plan %s\n", out, out);
    }
fail:
    rf_str_fini(&text);
    rf_picture_list_close(pictures);
    return status;
}

const rf_command rf_command_init = {
    .name = "init",
    .usage = "MODEL PICTURES [out=FILE.yaml] [row=FILE.yaml]",
    .summary = "print a good first run file, with comments",
    .help =
        "Looks at MODEL (a Hugging Face folder) and PICTURES (class folders or one folder, a "
        "list,\n"
        "tar shards, or Kaggle's ImageNet: what data.path may be) and prints a run file that fits\n"
        "them: a TopK coder two thirds up the model.\n\n"
        "example:\n"
        "  refract init models/dinov2-small /data/pictures out=run.yaml\n\n"
        "keys:\n"
        "  out=FILE   write there (an existing file is left alone) instead of printing\n"
        "  row=FILE   a row of the architecture table, for a model that Refract does not know",
    .uses_ranks = false,
    .run = run,
};
