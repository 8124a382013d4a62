/* What a run will take, before anything starts: memory of each rank, bytes read, arithmetic, and
 * hours by a product that is timed here. */
#include "run_impl.h"

#include <math.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_STATS = 2000, PRODUCT_SIDE = 1024, PRODUCT_RUNS = 5 };

typedef struct planned_coder {
    const rf_coder_spec *spec;
    const rf_architecture *architecture;
    rf_hook_point point;
    int64_t first_row, n_rows; /* of the point, that the coder sees */
    int64_t n_latents, n_parameters, n_tokens, n_steps;
    double epochs;
} planned_coder;

typedef struct plan {
    const rf_run_settings *settings;
    int n_ranks;
    int64_t n_threads;
    rf_vit_config model;
    int64_t n_pictures;
    double picture_bytes; /* one epoch */
    planned_coder *coders;
    double site_bytes; /* of one picture's activations, all points that are read */
    double n_forward;  /* pictures through the model, all epochs */
    double epochs, kept_share;
    double flop_per_s, bytes_per_s; /* of one rank */
} plan;

/* ---- what there is -----------------------------------------------------------------------------
 */

/* The configuration at the size that the preprocessing makes. */
static rf_status plan_model(plan *p)
{
    rf_status status = RF_OK;
    rf_transform transform;
    rf_vit_config *m = &p->model;

    RF_TRY(rf_model_settings_transform(&p->settings->model, &transform));
    const rf_vit_opts opts = rf_model_settings_opts(&p->settings->model, &transform);
    RF_TRY_DOING(rf_vit_read_config(p->settings->model.path, &opts, m), "model.path");
fail:
    return status;
}

/* Bytes of the training pictures, by the sizes of up to 2000 of them. */
static rf_status plan_pictures(plan *p)
{
    rf_status status = RF_OK;
    rf_picture_list *list = NULL;
    char path[RF_PATH_LEN];
    double bytes = 0;

    RF_TRY(rf_run_settings_pictures(p->settings, &list));
    p->n_pictures = rf_picture_list_n(list, RF_SPLIT_TRAIN);
    const int64_t n = rf_min_i64(p->n_pictures, MAX_STATS);
    for (int64_t i = 0; i < n; i++) {
        struct stat info = {0};
        RF_TRY(rf_picture_list_path(list, RF_SPLIT_TRAIN, i * p->n_pictures / n, path));
        if (stat(path, &info) == 0) {
            bytes += (double)info.st_size;
        }
    }
    p->picture_bytes = n > 0 ? bytes / (double)n * (double)p->n_pictures : 0;
fail:
    rf_picture_list_close(list);
    return status;
}

static rf_status plan_coder(const plan *p, const rf_coder_spec *spec, planned_coder *c)
{
    rf_status status = RF_OK;
    const rf_train_settings *train = &spec->train;

    c->spec = spec;
    c->architecture = rf_architecture_at(spec->coder.architecture);
    RF_TRY(rf_vit_hook_find(&p->model, spec->coder.input, &c->point));
    RF_TRY(rf_token_class_rows(&p->model, &c->point, rf_coder_token_class(&spec->coder),
                               &c->first_row, &c->n_rows));
    c->n_latents = rf_coder_settings_latents(&spec->coder, c->point.width);
    RF_TRY(c->architecture->check(&spec->coder, c->n_latents));
    RF_TRY(rf_mul_i64(c->n_latents, 2 * c->point.width + 1, "parameters", &c->n_parameters));
    c->n_parameters += c->point.width;
    const int64_t per_epoch = c->n_rows * p->n_pictures;
    c->n_tokens = train->total_tokens;
    if (c->n_tokens == 0) {
        RF_TRY(rf_mul_i64(per_epoch, train->epochs, "tokens", &c->n_tokens));
    }
    c->n_steps = rf_ceil_div(c->n_tokens, train->batch_tokens);
    c->epochs = per_epoch > 0 ? (double)c->n_tokens / (double)per_epoch : 0;
fail:
    if (status != RF_OK) {
        rf_error_context("coder '%s'", spec->coder.name);
    }
    return status;
}

/* Bytes of a picture's rows at the point of coder `idx`, if that is the first coder of the point.
 */
static double point_bytes(const plan *p, int64_t idx)
{
    const planned_coder *c = &p->coders[idx];
    int64_t first = c->first_row, end = c->first_row + c->n_rows;
    for (int64_t i = 0; i < p->settings->n_coders; i++) {
        const planned_coder *other = &p->coders[i];
        if (strcmp(other->point.name, c->point.name) == 0) {
            if (i < idx) {
                return 0;
            }
            first = rf_min_i64(first, other->first_row);
            end = rf_max_i64(end, other->first_row + other->n_rows);
        }
    }
    return (double)(end - first) * (double)c->point.width * sizeof(float);
}

static rf_status plan_coders(plan *p)
{
    rf_status status = RF_OK;
    const int64_t n = p->settings->n_coders;

    RF_ALLOC(p->coders, n);
    for (int64_t i = 0; i < n; i++) {
        RF_TRY(plan_coder(p, &p->settings->coders[i], &p->coders[i]));
        p->epochs = fmax(p->epochs, p->coders[i].epochs);
    }
    for (int64_t i = 0; i < n; i++) {
        p->site_bytes += point_bytes(p, i);
    }
    const double epoch_bytes = p->site_bytes * (double)p->n_pictures / p->n_ranks;
    if (p->epochs > 1 && epoch_bytes > 0) {
        p->kept_share = fmin(1, (double)p->settings->activations.keep_bytes / epoch_bytes);
    }
    p->n_forward =
        (double)p->n_pictures * (fmin(p->epochs, 1) + fmax(p->epochs - 1, 0) * (1 - p->kept_share));
fail:
    return status;
}

/* ---- how fast this machine is ------------------------------------------------------------------
 */

/* The best of a few, in FLOP a second, and of copies, in bytes a second. */
static rf_status time_product(plan *p, rf_stream *s, void *const *blocks, size_t n_bytes)
{
    rf_status status = RF_OK;
    const int64_t n = PRODUCT_SIDE;
    const rf_matmul_args args = {.a = rf_view_2d(blocks[0], n, n),
                                 .b = rf_view_2d(blocks[1], n, n),
                                 .c = rf_view_2d(blocks[2], n, n),
                                 .trans_b = RF_TRANS,
                                 .alpha = 1};
    double product = INFINITY, copy = INFINITY;

    for (int i = 0; i < PRODUCT_RUNS; i++) {
        const double start = rf_now();
        RF_TRY(rf_matmul(s, &args));
        RF_TRY(rf_stream_synchronise(s));
        const double middle = rf_now();
        RF_TRY(rf_copy_within(s, blocks[0], blocks[1], n_bytes));
        RF_TRY(rf_stream_synchronise(s));
        product = fmin(product, middle - start);
        copy = fmin(copy, rf_now() - middle);
    }
    p->flop_per_s = 2.0 * (double)n * (double)n * (double)n / fmax(product, 1e-9);
    p->bytes_per_s = 2.0 * (double)n_bytes / fmax(copy, 1e-9);
fail:
    return status;
}

static rf_status plan_speed(plan *p)
{
    rf_status status = RF_OK;
    rf_backend *be = NULL;
    rf_stream *s = NULL;
    void *blocks[3] = {NULL};
    const size_t n_bytes = sizeof(float) * PRODUCT_SIDE * PRODUCT_SIDE * 16; /* beyond caches */
    cpu_set_t cores;
    int n_threads = 1;

    CPU_ZERO(&cores);
    int64_t n_cores = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
    p->n_threads = p->settings->train.threads > 0 ? p->settings->train.threads
                                                  : rf_max_i64(1, n_cores / p->n_ranks);
    RF_TRY(rf_cast_int(rf_min_i64(p->n_threads, n_cores), "threads", &n_threads));
    RF_TRY(rf_backend_cpu_create(n_threads, &be));
    RF_TRY(rf_stream_create(be, &s));
    for (int i = 0; i < 3; i++) {
        RF_TRY(rf_memory_alloc(be, RF_MEMORY_DEVICE, n_bytes, &blocks[i]));
        RF_TRY(rf_fill_bytes(s, blocks[i], i, n_bytes));
    }
    RF_TRY(time_product(p, s, blocks, n_bytes));
fail:
    for (int i = 0; i < 3 && be != NULL; i++) {
        rf_memory_free(be, RF_MEMORY_DEVICE, blocks[i]);
    }
    rf_stream_destroy(s);
    rf_backend_destroy(be);
    return status;
}

/* ---- what it comes to --------------------------------------------------------------------------
 */

static int64_t deepest_layer(const plan *p)
{
    int64_t layer = -1;
    for (int64_t i = 0; i < p->settings->n_coders; i++) {
        layer = rf_max_i64(layer, p->coders[i].point.layer);
    }
    return layer;
}

static double forward_flop(const plan *p)
{
    return rf_vit_flop(&p->model, deepest_layer(p)) * p->n_forward;
}

/* Of the product that finds the codes: shared by the ranks. */
static double encode_flop(const planned_coder *c)
{
    return 2.0 * (double)c->point.width * (double)c->n_latents * (double)c->n_tokens;
}

/* Of the rest of a step, on every rank: 8 D for each entry (decode, its gradient, both rows). Codes
 * that may be dense are counted so, as they are at the start. */
static double sparse_flop(const planned_coder *c)
{
    double entries = c->architecture->may_be_dense
                         ? 0.5 * (double)c->n_latents
                         : (double)rf_min_i64(c->spec->coder.k, c->n_latents);
    return 8.0 * (double)c->point.width * entries * (double)c->n_tokens;
}

/* Bytes that updates move: parameter and two moments in and out, the gradient in twice and out. */
static double update_bytes(const planned_coder *c)
{
    return 9.0 * sizeof(float) * (double)c->n_parameters * (double)c->n_steps;
}

/* Seconds of one coder's steps. Dense gradients are shared by the ranks, sparse ones are made by
 * each. */
static double step_seconds(const plan *p, const planned_coder *c)
{
    const double shared = c->architecture->may_be_dense ? p->n_ranks : 1;
    return (encode_flop(c) / p->n_ranks + sparse_flop(c) / shared) / p->flop_per_s +
           update_bytes(c) / p->bytes_per_s;
}

/* ---- the tables --------------------------------------------------------------------------------
 */

static rf_status append_bytes(rf_str *out, const char *label, double bytes, const char *remark)
{
    char text[32];
    rf_format_bytes(bytes, text);
    return rf_str_append(out, "  %-34s %12s  %s\n", label, text, remark);
}

static rf_status append_coders(const plan *p, rf_str *out)
{
    rf_status status = RF_OK;
    RF_TRY(rf_str_append(out, "coders\n  %-28s %-8s %8s %9s %14s %9s %8s %12s\n", "name", "rule",
                         "width", "latents", "tokens", "steps", "epochs", "parameters"));
    for (int64_t i = 0; i < p->settings->n_coders; i++) {
        const planned_coder *c = &p->coders[i];
        char bytes[32];
        rf_format_bytes((double)c->n_parameters * sizeof(float), bytes);
        RF_TRY(rf_str_append(
            out, "  %-28s %-8s %8" PRId64 " %9" PRId64 " %14" PRId64 " %9" PRId64 " %8.2f %12s\n",
            c->spec->coder.name, c->architecture->name, c->point.width, c->n_latents, c->n_tokens,
            c->n_steps, c->epochs, bytes));
    }
fail:
    return status;
}

static rf_status append_memory(const plan *p, rf_str *out)
{
    rf_status status = RF_OK;
    const rf_run_settings *s = p->settings;
    double parameters = 0, largest = 0, batches = 0, work = 0;

    for (int64_t i = 0; i < s->n_coders; i++) {
        const planned_coder *c = &p->coders[i];
        const double bytes = sizeof(float) * (double)c->n_parameters;
        const double batch = (double)c->spec->train.batch_tokens;
        const double entries =
            c->architecture->may_be_dense ? (double)c->n_latents / 16 : (double)c->spec->coder.k;
        parameters += bytes + sizeof(int64_t) * (double)c->n_latents;
        largest = fmax(largest, bytes);
        batches += sizeof(float) * batch / p->n_ranks * (double)c->point.width;
        work = fmax(work, batch * (3 * sizeof(float) * (double)c->point.width + 24 * entries));
    }
    const double pool =
        p->site_bytes / p->n_ranks *
        (double)rf_min_i64(s->activations.group_pictures * s->activations.pool_groups,
                           p->n_pictures);
    const double kept = p->epochs > 1 ? fmin((double)s->activations.keep_bytes,
                                             p->site_bytes * (double)p->n_pictures / p->n_ranks)
                                      : 0;
    const double model = (double)rf_vit_weight_bytes(&p->model) +
                         (double)rf_vit_workspace_bytes(&p->model, s->activations.group_pictures);
    RF_TRY(rf_str_append(out, "memory of each of %d ranks\n", p->n_ranks));
    RF_TRY(append_bytes(out, "parameters and state", parameters, "of all coders"));
    RF_TRY(append_bytes(out, "moments", 2 * parameters, "of all coders"));
    RF_TRY(append_bytes(out, "gradients", largest, "of the largest coder, shared"));
    RF_TRY(append_bytes(out, "work space of a step", work, "about; shared"));
    RF_TRY(append_bytes(out, "pool of activations", pool + batches, ""));
    RF_TRY(append_bytes(out, "kept activations", kept, "activations.keep_bytes"));
    RF_TRY(append_bytes(out, "model", model, "weights and one group of pictures"));
    RF_TRY(append_bytes(out, "in all",
                        3 * parameters + largest + work + pool + batches + kept + model, "about"));
fail:
    return status;
}

static rf_status append_data(const plan *p, rf_str *out)
{
    rf_status status = RF_OK;
    const double epoch_bytes = p->site_bytes * (double)p->n_pictures / p->n_ranks;
    RF_TRY(rf_str_append(out,
                         "data\n  %" PRId64 " pictures to train on, %.4g epochs, %.0f pictures "
                         "through the model (to layer %" PRId64 " of %" PRId64 ")\n",
                         p->n_pictures, p->epochs, p->n_forward, deepest_layer(p),
                         p->model.n_layers));
    RF_TRY(append_bytes(out, "read from disk",
                        p->n_pictures > 0 ? p->picture_bytes * p->n_forward / (double)p->n_pictures
                                          : 0,
                        "pictures, all epochs, all ranks"));
    RF_TRY(append_bytes(out, "activations of an epoch", epoch_bytes, "of each rank"));
    if (p->epochs > 1) {
        RF_TRY(rf_str_append(out,
                             "  epochs after the first: %.0f %% of the pictures come from memory "
                             "(activations.keep_bytes)\n",
                             100 * p->kept_share));
    }
fail:
    return status;
}

static rf_status append_time(const plan *p, rf_str *out)
{
    rf_status status = RF_OK;
    double encode = 0, sparse = 0, steps = 0;
    char text[32];
    for (int64_t i = 0; i < p->settings->n_coders; i++) {
        encode += encode_flop(&p->coders[i]);
        sparse += sparse_flop(&p->coders[i]);
        steps += step_seconds(p, &p->coders[i]);
    }
    const double forward = forward_flop(p) / p->n_ranks / p->flop_per_s;
    RF_TRY(rf_str_append(out,
                         "arithmetic\n  %-34s %12.4g  FLOP\n  %-34s %12.4g  FLOP\n"
                         "  %-34s %12.4g  FLOP\n",
                         "model, forward", forward_flop(p), "steps, encoder products", encode,
                         "steps, the rest", sparse));
    RF_TRY(rf_str_append(out,
                         "time, an estimate: at the rate of a bare product timed just now (%.0f "
                         "GFLOP/s and %.1f GB/s on %" PRId64
                         " threads a rank), as if all ranks were on machines like this one; "
                         "pictures are decoded beside it\n",
                         p->flop_per_s / 1e9, p->bytes_per_s / 1e9, p->n_threads));
    rf_format_duration(forward, text);
    RF_TRY(rf_str_append(out, "  %-34s %12s  %.3g hours\n", "model", text, forward / 3600));
    rf_format_duration(steps, text);
    RF_TRY(rf_str_append(out, "  %-34s %12s  %.3g hours\n", "steps", text, steps / 3600));
    rf_format_duration(forward + steps, text);
    RF_TRY(rf_str_append(out, "  %-34s %12s  %.3g hours, rather up to twice that\n", "in all", text,
                         (forward + steps) / 3600));
fail:
    return status;
}

rf_status rf_train_plan(const rf_run_settings *settings, int n_ranks, rf_str *out)
{
    rf_status status = RF_OK;
    plan p = {.settings = settings, .n_ranks = n_ranks};

    RF_REQUIRE(n_ranks >= 1, "n_ranks = %d, expected >= 1", n_ranks);
    RF_TRY(rf_activations_settings_check(&settings->activations));
    RF_TRY(plan_model(&p));
    RF_TRY(plan_pictures(&p));
    RF_TRY(plan_coders(&p));
    RF_TRY(plan_speed(&p));
    RF_TRY(append_coders(&p, out));
    RF_TRY(append_data(&p, out));
    RF_TRY(append_memory(&p, out));
    RF_TRY(append_time(&p, out));
fail:
    rf_free(p.coders);
    return status;
}
