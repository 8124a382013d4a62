/* Many coders from one reading, dealt out over ranks and in passes: each has the bits that it has
 * alone, whatever becomes of the others. */
#include "run_case.h"

#include <signal.h>

enum { N = 5, FAILS = 5 };

/* Architectures, widths, k, rates, seeds, classes of tokens and sizes of batches that differ. */
static const char *const coders[N + 1] = {
    "  - {name: a, input: blocks.0.hook_mlp_out, latents: 64, k: 4, seed: 3, batch_tokens: 130}\n",
    "  - {name: b, input: blocks.1.hook_resid_post, architecture: relu, latents: 80, l1: 1e-3,"
    " tokens: cls, batch_tokens: 9, epochs: 5, lr: 1e-2}\n",
    "  - {name: c, input: blocks.1.hook_resid_mid, latents: 48, k: 3, tokens: patch, lr: 1e-2}\n",
    "  - {name: d, input: blocks.1.hook_resid_post, architecture: batch_topk, latents: 128, k: "
    "6}\n",
    "  - {name: e, input: blocks.0.hook_resid_mid, target: blocks.0.hook_mlp_out, architecture: "
    "matryoshka, latents: 72, k: 4, w_enc: independent, epochs: 3}\n",
    /* every line of its log shows a bad run */
    "  - {name: f, input: blocks.1.hook_resid_post, latents: 32, k: 2, bad_l0: 1e9, bad_ev: 1,"
    " warmup_steps: 0}\n",
};

static rf_run_settings *settings_of(const char *dir, const int *which, int n)
{
    rf_str yaml = {0};
    append_yaml(&yaml,
                "model: {path: %F/clip}\ndata: {path: " PICTURES "}\n"
                "activations: {group_pictures: 4, pool_groups: 3}\n"
                "train: {epochs: 2, batch_tokens: 200, lr: 3e-3, warmup_steps: 3, threads: 1,"
                " log_every: 2, sample_tokens: 64, checkpoint_every: 3}\ncoders:\n");
    for (int i = 0; i < n; i++) {
        append_yaml(&yaml, coders[which[i]]);
    }
    append_yaml(&yaml, "output: {dir: %F/");
    append_yaml(&yaml, dir);
    append_yaml(&yaml, "}\n");
    rf_run_settings *s = parse_yaml(yaml.data);
    rf_str_fini(&yaml);
    return s;
}

static const int all[N + 1] = {0, 1, 2, 3, 4, FAILS};

/* ---- coders alone, on one rank ----------------------------------------------------------------
 */

/* coder.safetensors of each; rank 0. */
static char *alone[N];
static int64_t alone_bytes[N];

static rf_status read_coder(const char *dir, const char *name, char **bytes, int64_t *n)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];
    RF_TRY(rf_format(path, sizeof path, "%s/%s/%s/coder.safetensors", folder, dir, name));
    RF_TRY(rf_file_read(path, 1 << 24, bytes, n));
fail:
    return status;
}

static rf_status train_alone(const rf_comm *self, int which)
{
    rf_status status = RF_OK;
    rf_train_report report;
    char dir[16];
    RF_TRY(rf_format(dir, sizeof dir, "alone-%d", which));
    rf_run_settings *s = settings_of(dir, &which, 1);
    status = rf_train_run(self, s, &report);
    if (status == RF_OK) {
        status = read_coder(dir, s->coders[0].coder.name, &alone[which], &alone_bytes[which]);
    }
    rf_run_settings_free(s);
fail:
    return status;
}

/* Collective; rank 0 trains, by itself. */
static rf_status make_alone(void)
{
    rf_status status = RF_OK;
    rf_comm *self = NULL;
    RF_TRY(rf_comm_split(world, rf_comm_rank(world), &self));
    for (int i = 0; rf_comm_rank(world) == 0 && i < N && status == RF_OK; i++) {
        status = train_alone(self, i);
    }
fail:
    rf_comm_destroy(self);
    return rf_comm_agree(world, status);
}

/* Sums over ranks are in the order of ranks: dense codes have the bits of as many ranks. */
static bool has_exact_bits(const rf_run_settings *s, int64_t idx, int64_t ranks_per_coder)
{
    const bool may_be_dense = rf_architecture_at(s->coders[idx].coder.architecture)->may_be_dense;
    return !may_be_dense || rf_comm_size(world) == 1 || ranks_per_coder == 1;
}

/* Rank 0: the first `n` coders of `dir` are what they are alone. */
static bool are_as_alone(const rf_run_settings *s, const char *dir, int n)
{
    bool ok = true;
    for (int i = 0; rf_comm_rank(world) == 0 && i < n; i++) {
        char *bytes = NULL;
        int64_t n_bytes = 0;
        const char *name = s->coders[i].coder.name;
        const rf_status status = read_coder(dir, name, &bytes, &n_bytes);
        const bool is_same = status == RF_OK && n_bytes == alone_bytes[i] &&
                             memcmp(bytes, alone[i], (size_t)n_bytes) == 0;
        if (has_exact_bits(s, i, s->train.ranks_per_coder) ? !is_same : status != RF_OK) {
            print_message("coder %s of %s differs from itself alone\n", name, dir);
            ok = false;
        }
        rf_free(bytes);
    }
    return ok;
}

static void remove_run(const char *dir)
{
    char path[RF_PATH_LEN];
    assert_int_equal(rf_comm_barrier(world), RF_OK);
    if (rf_comm_rank(world) == 0 && rf_path_join(path, folder, dir) == RF_OK) {
        remove_below(path);
    }
    assert_int_equal(rf_comm_barrier(world), RF_OK);
}

/* ---- together ---------------------------------------------------------------------------------
 */

static void assert_together(int64_t ranks_per_coder, int64_t at_once, int n)
{
    rf_run_settings *s = settings_of("together", all, n);
    rf_train_report report;
    s->train.ranks_per_coder = ranks_per_coder;
    s->train.coders_at_once = at_once;
    const int64_t live = rf_alloc_live();
    const rf_status status = rf_train_run(world, s, &report);
    assert_on_all(status == RF_OK && rf_alloc_live() == live);
    assert_on_all(report.n_failed == n - N && report.n_skipped == 0 && !report.interrupted);
    assert_on_all(are_as_alone(s, "together", N));
    remove_run("together");
    rf_run_settings_free(s);
}

static void a_coder_of_a_sweep_has_the_bits_that_it_has_alone(void **state)
{
    (void)state;
    for (int each = 1; each <= rf_comm_size(world); each++) {
        if (rf_comm_size(world) % each == 0) {
            assert_together(each, 0, N);
        }
    }
    assert_together(0, 0, N);
}

static void passes_leave_no_trace_in_a_coder(void **state)
{
    (void)state;
    assert_together(0, 1, N);
    assert_together(1, 2, N);
    assert_together(1, 99, N);
}

static void a_coder_that_fails_stops_no_other(void **state)
{
    (void)state;
    assert_together(0, 0, N + 1);
    assert_together(1, 0, N + 1);
    assert_together(1, 1, N + 1); /* a pass in which all fail */
}

static void a_run_whose_coders_all_fail_is_a_failure(void **state)
{
    (void)state;
    const int which = FAILS;
    rf_run_settings *s = settings_of("failing", &which, 1);
    rf_train_report report;
    s->train.ranks_per_coder = 1; /* the other ranks serve */
    assert_on_all(rf_train_run(world, s, &report) == RF_ERR_NUMERIC);
    remove_run("failing");
    rf_run_settings_free(s);
}

static void ranks_that_groups_do_not_divide_are_refused(void **state)
{
    (void)state;
    int n = 0;
    rf_run_settings *s = settings_of("refused", all, N);
    rf_train_report report;
    s->train.ranks_per_coder = rf_comm_size(world) + 1;
    assert_on_all(rf_train_run(world, s, &report) == RF_ERR_SETTING);
    assert_on_all(strstr(rf_error_text(), "train.ranks_per_coder") != NULL);
    const rf_train_settings three = {.ranks_per_coder = 3};
    assert_int_equal(rf_train_count_groups(&three, 4, &n), RF_ERR_SETTING);
    assert_int_equal(rf_train_count_groups(&three, 6, &n), RF_OK);
    assert_int_equal(n, 2);
    remove_run("refused");
    rf_run_settings_free(s);
}

/* ---- stops ------------------------------------------------------------------------------------
 */

static int64_t done_until; /* batches of all coders until a signal; rank 0, 0: none */

/* "train [##..] 12/40  ..." */
static void raise_in_time(void *user, const char *line, bool is_last)
{
    (void)user;
    (void)is_last;
    const char *at = strstr(line, "] ");
    if (done_until > 0 && at != NULL && strtoll(at + 2, NULL, 10) >= done_until) {
        done_until = 0;
        rf_interrupt_raise(SIGTERM);
    }
}

static rf_str passes; /* what a log said of passes and older checkpoints; rank 0 */

static void note_passes(void *user, rf_log_level level, const char *line)
{
    (void)user;
    (void)level;
    if (strncmp(line, "pass ", 5) == 0 || strstr(line, "older") || strstr(line, "before")) {
        assert_int_equal(rf_str_append(&passes, "%s\n", line), RF_OK);
    }
}

static void quiet(void *user, rf_log_level level, const char *line)
{
    (void)user;
    (void)level;
    (void)line;
}

/* Train until a signal once `done` batches are, or to the end. */
static bool train_on(rf_run_settings *s, int64_t ranks_per_coder, int64_t at_once, int64_t done)
{
    rf_train_report report;
    s->train.resume = RF_RESUME_AUTO;
    s->train.ranks_per_coder = ranks_per_coder;
    s->train.coders_at_once = at_once;
    done_until = rf_comm_rank(world) == 0 ? done : 0;
    rf_progress_set_sink(raise_in_time, NULL);
    passes.len = 0;
    rf_log_set_sink(note_passes, NULL);
    const rf_status status = rf_train_run(world, s, &report);
    rf_log_set_sink(quiet, NULL);
    rf_interrupt_clear();
    rf_progress_set_sink(NULL, NULL);
    assert_on_all(status == RF_OK);
    return report.interrupted;
}

/* Rank 0: coders that wait for a later pass are named, the others can be read. */
static bool can_read_first(int n_readable)
{
    bool ok = true;
    rf_run *run = NULL;
    rf_backend *be = NULL;
    rf_stream *stream = NULL;
    char dir[RF_PATH_LEN];
    ok = rf_path_join(dir, folder, "stopped") == RF_OK && rf_run_open(dir, NULL, 0, &run) == RF_OK;
    ok = ok && rf_backend_cpu_create(1, &be) == RF_OK && rf_stream_create(be, &stream) == RF_OK;
    for (int i = 0; ok && i < N; i++) {
        rf_coder *coder = NULL;
        const rf_status status = rf_run_load_coder(be, stream, run, i, &coder);
        ok = i < n_readable
                 ? status == RF_OK
                 : status == RF_ERR_NOT_FOUND && strstr(rf_error_text(), "waits for pass");
        rf_coder_destroy(coder);
    }
    rf_stream_destroy(stream);
    rf_backend_destroy(be);
    rf_run_close(run);
    return ok;
}

/* Rank 0: the log said it, words in the order of the lines. */
static bool said_passes(const char *first, const char *second)
{
    const char *at = passes.data != NULL ? strstr(passes.data, first) : NULL;
    const bool ok = rf_comm_rank(world) != 0 || (at != NULL && strstr(at, second) != NULL);
    if (!ok) {
        print_message("'%s', '%s' are not in:\n%s", first, second, passes.data);
    }
    return ok;
}

static void a_stop_in_any_pass_leaves_no_trace(void **state)
{
    (void)state;
    rf_run_settings *s = settings_of("stopped", all, N);
    const bool looks = rf_comm_rank(world) == 0;
    const int size = rf_comm_size(world);
    assert_true(train_on(s, 0, 2, 3)); /* in the first pass, of a and b: 6 and 20 batches */
    assert_on_all(!looks || can_read_first(2));
    assert_true(train_on(s, 1, 2, 28)); /* the second, of c and d: 4 each; dealt out otherwise */
    assert_on_all(!looks || can_read_first(4));
    assert_true(train_on(s, size, 3, 36)); /* the third */
    assert_on_all(said_passes("pass 2 of 3: coders 3 to 4", "pass 3 of 3: coders 5 to 5"));
    assert_on_all(!looks || can_read_first(N));
    assert_false(train_on(s, 1, 1, 0)); /* passes before took two coders: they were two */
    assert_on_all(said_passes("pass 3 of 3: coders 5 to 5", ""));
    assert_on_all(!looks || can_read_first(N));
    s->train.ranks_per_coder = size; /* b was on one rank and on all */
    assert_on_all(are_as_alone(s, "stopped", N));
    assert_false(train_on(s, 0, 0, 0)); /* nothing is left to do */
    assert_on_all(are_as_alone(s, "stopped", N));
    remove_run("stopped");
    rf_run_settings_free(s);
}

/* Rank 0: coder a of the checkpoint of the first pass says another number of batches. */
static rf_status write_lie(const rf_run_settings *s, int64_t tick, int64_t n_batches)
{
    rf_status status = RF_OK;
    rf_checkpoint_header header = {0};
    rf_backend *be = NULL;
    rf_stream *stream = NULL;
    rf_coder_shape shape;
    rf_checkpoint_coder a = {.name = "a"};
    const rf_optimiser_opts opts = {.kind = RF_OPTIMISER_ADAM};
    char path[RF_PATH_LEN];

    RF_TRY(rf_run_folder_checkpoint(s->output.dir, tick, path));
    RF_TRY(rf_checkpoint_read_header(path, &header));
    RF_TRY(rf_backend_cpu_create(1, &be));
    RF_TRY(rf_stream_create(be, &stream));
    RF_TRY(rf_checkpoint_read_shape(path, 0, &s->coders[0].coder, &shape));
    RF_TRY(rf_coder_create(be, &s->coders[0].coder, &shape, &a.coder));
    RF_TRY(rf_optimiser_create(be, a.coder, &opts, &a.opt));
    a.n_batches = a.batches_done = n_batches;
    const rf_checkpoint lie = {.tick = tick,
                               .picture_hash = header.picture_hash,
                               .model_hash = header.model_hash,
                               .settings = header.settings,
                               .backend = header.backend,
                               .weight_processing = "none",
                               .coders = &a,
                               .n_coders = 1,
                               .n_run = N};
    RF_TRY(rf_checkpoint_write(path, stream, &lie));
fail:
    rf_optimiser_destroy(a.opt);
    rf_coder_destroy(a.coder);
    rf_stream_destroy(stream);
    rf_backend_destroy(be);
    rf_checkpoint_header_fini(&header);
    return status;
}

/* It is named and passed over, the pass that is on goes on, and no sum overflows. */
static void an_older_checkpoint_that_lies_is_named(void **state)
{
    (void)state;
    rf_run_settings *s = settings_of("lied", all, N);
    int64_t *ticks = NULL, n = 0;
    rf_status status = RF_OK;
    s->train.keep_checkpoints = 1;
    assert_true(train_on(s, 0, 1, 8)); /* in the second pass; the first has 6 batches */
    if (rf_comm_rank(world) == 0) {
        status = rf_run_folder_list(s->output.dir, &ticks, &n);
        status = status == RF_OK && n != 2 ? RF_ERR_BUG : status;
        status = status == RF_OK ? write_lie(s, ticks[0], INT64_MAX) : status;
        rf_free(ticks);
    }
    assert_on_all(status == RF_OK);
    assert_true(train_on(s, 0, 1, 12));
    assert_on_all(said_passes("an older checkpoint cannot be used: '", "coder 0 took"));
    assert_on_all(said_passes("the first of which is 'a', is in no checkpoint", "pass 2 of 5"));
    assert_false(train_on(s, 0, 1, 0));
    assert_on_all(are_as_alone(s, "lied", N)); /* nothing else is lost */
    remove_run("lied");
    rf_run_settings_free(s);
}

/* ---- checkpoints ------------------------------------------------------------------------------
 */

static void put_i64(rf_h5_file *f, const char *name, const int64_t *values, int64_t n)
{
    assert_int_equal(rf_h5_write(f, name, RF_H5_I64, 1, &n, values), RF_OK);
}

static rf_status read_held(const char *path, int64_t version, const int64_t held[2],
                           rf_checkpoint_header *out)
{
    rf_h5_file *f = NULL;
    const int64_t n_coders = 4, zero = 0;
    assert_int_equal(rf_h5_create(path, &f), RF_OK);
    assert_int_equal(rf_h5_write_text(f, "format", "refract checkpoint"), RF_OK);
    put_i64(f, "version", &version, 1);
    put_i64(f, "tick", &zero, 1);
    put_i64(f, "n_coders", &n_coders, 1);
    put_i64(f, "picture_hash", &zero, 1);
    put_i64(f, "model_hash", &zero, 1);
    assert_int_equal(rf_h5_write_text(f, "weight_processing", "none"), RF_OK);
    assert_int_equal(rf_h5_write_text(f, "settings", "x"), RF_OK);
    assert_int_equal(rf_h5_write_text(f, "backend", "y"), RF_OK);
    if (held != NULL) {
        put_i64(f, "held", held, 2);
    }
    assert_int_equal(rf_h5_commit(f), RF_OK);
    return rf_checkpoint_read_header(path, out);
}

static void what_a_file_says_that_it_holds_is_checked(void **state)
{
    (void)state;
    static const int64_t wrong[][2] = {
        {-1, 1}, {0, 0},         {0, 5},         {3, 2},
        {4, 1},  {INT64_MAX, 1}, {1, INT64_MAX}, {INT64_MIN, INT64_MAX}};
    static const int64_t right[2] = {1, 3};
    rf_checkpoint_header header;
    char path[RF_PATH_LEN];
    if (rf_comm_rank(world) != 0) {
        return;
    }
    assert_int_equal(rf_path_join(path, folder, "held.h5"), RF_OK);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(read_held(path, 3, wrong[i], &header), RF_ERR_FORMAT);
        assert_non_null(strstr(rf_error_text(), "holds"));
    }
    assert_int_equal(read_held(path, 3, NULL, &header), RF_ERR_NOT_FOUND);
    assert_int_equal(read_held(path, 3, right, &header), RF_OK);
    assert_true(header.first == 1 && header.n_held == 3 && header.n_coders == 4);
    rf_checkpoint_header_fini(&header);
    assert_int_equal(read_held(path, 2, NULL, &header), RF_OK); /* before there were passes */
    assert_true(header.first == 0 && header.n_held == 4);
    rf_checkpoint_header_fini(&header);
}

/* A coder of the last rank alone, number 2 of 5, with values that say where they are from. */
typedef struct owned {
    rf_backend *be;
    rf_stream *s;
    rf_coder_settings settings;
    rf_checkpoint_coder coder;
    rf_checkpoint checkpoint;
} owned;

static void owned_init(owned *o)
{
    const rf_coder_shape shape = rf_coder_shape_of(5);
    const rf_optimiser_opts opts = {.kind = RF_OPTIMISER_ADAM};
    *o = (owned){0};
    assert_int_equal(rf_backend_cpu_create(1, &o->be), RF_OK);
    assert_int_equal(rf_stream_create(o->be, &o->s), RF_OK);
    assert_int_equal(rf_settings_defaults(&rf_coder_settings_table, &o->settings), RF_OK);
    o->settings.latents = 9;
    o->settings.k.any = 2;
    o->coder = (rf_checkpoint_coder){
        .name = "owned", .owner = rf_comm_size(world) - 1, .n_batches = 7, .batches_done = 3};
    if (rf_comm_rank(world) == o->coder.owner) {
        assert_int_equal(rf_coder_create(o->be, &o->settings, &shape, &o->coder.coder), RF_OK);
        assert_int_equal(rf_optimiser_create(o->be, o->coder.coder, &opts, &o->coder.opt), RF_OK);
    }
    o->checkpoint = (rf_checkpoint){.tick = 12,
                                    .settings = "x",
                                    .backend = "y",
                                    .weight_processing = "none",
                                    .coders = &o->coder,
                                    .n_coders = 1,
                                    .first = 2,
                                    .n_run = 5,
                                    .comm = world};
}

static void owned_fini(owned *o)
{
    rf_optimiser_destroy(o->coder.opt);
    rf_coder_destroy(o->coder.coder);
    rf_stream_destroy(o->s);
    rf_backend_destroy(o->be);
}

/* Every element of the first moment of W_enc becomes, or is, its number plus 1. */
static bool each_moment(const owned *o, bool sets)
{
    bool ok = true;
    if (o->coder.opt != NULL) {
        const rf_view m = rf_optimiser_tensor_view(o->coder.opt, 0);
        float *x = m.data;
        for (int64_t i = 0; i < rf_view_n_elems(&m); i++) {
            x[i] = sets ? (float)(i + 1) : x[i];
            ok = ok && x[i] == (float)(i + 1);
        }
    }
    return ok;
}

static void a_checkpoint_gets_a_coder_from_its_owner(void **state)
{
    (void)state;
    owned from, to;
    char path[RF_PATH_LEN];
    assert_int_equal(rf_path_join(path, folder, "owned.h5"), RF_OK);
    owned_init(&from);
    owned_init(&to);
    each_moment(&from, true);
    to.coder.n_batches = to.coder.batches_done = 0;
    assert_on_all(rf_checkpoint_write(path, from.s, &from.checkpoint) == RF_OK);
    assert_on_all(rf_checkpoint_read(world, path, to.s, &to.checkpoint) == RF_OK);
    assert_on_all(each_moment(&to, false) && to.coder.n_batches == 7 && to.coder.batches_done == 3);
    rf_checkpoint_coder progress = {.name = "owned"};
    assert_on_all(rf_checkpoint_read_progress(world, path, 2, 1, &progress) == RF_OK &&
                  progress.batches_done == 3);
    to.checkpoint.first = 1; /* it holds another */
    assert_on_all(rf_checkpoint_read(world, path, to.s, &to.checkpoint) == RF_ERR_FORMAT);
    owned_fini(&to);
    owned_fini(&from);
}

static void a_checkpoint_that_cannot_be_written_fails_on_every_rank(void **state)
{
    (void)state;
    owned o;
    char path[RF_PATH_LEN];
    assert_int_equal(rf_path_join(path, folder, "not/there.h5"), RF_OK);
    owned_init(&o);
    assert_on_all(rf_checkpoint_write(path, o.s, &o.checkpoint) == RF_ERR_NOT_FOUND);
    assert_on_all(strstr(rf_error_text(), "there.h5") != NULL);
    owned_fini(&o);
}

/* ---- dealing ----------------------------------------------------------------------------------
 */

static void the_heaviest_go_first_to_who_has_least(void **state)
{
    (void)state;
    int groups[6] = {0};
    static const double weights[5] = {3, 5, 3, 4, 3}, equal[6] = {1, 1, 1, 1, 1, 1};
    static const int expected[5] = {1, 0, 0, 1, 1}, in_turn[6] = {0, 1, 2, 3, 0, 1};
    assert_int_equal(rf_deal(weights, 5, 2, groups), RF_OK);
    assert_memory_equal(groups, expected, sizeof expected);
    assert_int_equal(rf_deal(equal, 6, 4, groups), RF_OK);
    assert_memory_equal(groups, in_turn, sizeof in_turn);
    assert_int_equal(rf_deal(equal, 2, 5, groups), RF_OK); /* more groups than coders */
    assert_int_equal(groups[1], 1);
    assert_int_equal(rf_deal(NULL, 0, 3, NULL), RF_OK);
}

static rf_str said; /* lines of the log that begin with "rank" */

static void note_ranks(void *user, rf_log_level level, const char *line)
{
    (void)user;
    (void)level;
    if (strncmp(line, "rank", 4) == 0 && strstr(line, "ranks,") == NULL) {
        assert_int_equal(rf_str_append(&said, "%s\n", line), RF_OK);
    }
}

static void plan_deals_as_the_run_does(void **state)
{
    (void)state;
    rf_run_settings *s = settings_of("dealt", all, N);
    rf_train_report report;
    rf_str plan = {0};
    s->train.device = RF_DEVICE_CPU; /* AUTO may log why it is no GPU, of a rank too */
    s->train.ranks_per_coder = 1;
    s->train.coders_at_once = 3;
    assert_on_all(rf_train_plan(s, rf_comm_size(world), 0, &plan) == RF_OK);
    assert_non_null(strstr(plan.data, "pass 2 of 2: coders 4 to 5"));
    assert_non_null(strstr(plan.data, "2 readings of the pictures"));
    rf_log_set_sink(note_ranks, NULL);
    const rf_status status = rf_train_run(world, s, &report);
    rf_log_set_sink(quiet, NULL);
    assert_on_all(status == RF_OK);
    bool ok = rf_comm_rank(world) != 0 || rf_comm_size(world) == 1 || said.data != NULL;
    for (char *line = said.data, *end = NULL; ok && line != NULL && *line != '\0'; line = end + 1) {
        end = strchr(line, '\n');
        *end = '\0';
        ok = strstr(line, "no coder") != NULL || strstr(plan.data, line) != NULL;
    }
    assert_on_all(ok);
    rf_str_fini(&said);
    rf_str_fini(&plan);
    remove_run("dealt");
    rf_run_settings_free(s);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_coder_of_a_sweep_has_the_bits_that_it_has_alone),
        cmocka_unit_test(passes_leave_no_trace_in_a_coder),
        cmocka_unit_test(a_coder_that_fails_stops_no_other),
        cmocka_unit_test(a_run_whose_coders_all_fail_is_a_failure),
        cmocka_unit_test(ranks_that_groups_do_not_divide_are_refused),
        cmocka_unit_test(a_stop_in_any_pass_leaves_no_trace),
        cmocka_unit_test(an_older_checkpoint_that_lies_is_named),
        cmocka_unit_test(what_a_file_says_that_it_holds_is_checked),
        cmocka_unit_test(a_checkpoint_gets_a_coder_from_its_owner),
        cmocka_unit_test(a_checkpoint_that_cannot_be_written_fails_on_every_rank),
        cmocka_unit_test(the_heaviest_go_first_to_who_has_least),
        cmocka_unit_test(plan_deals_as_the_run_does),
    };
    int n_failed = 1;
    rf_log_set_sink(quiet, NULL);
    if (rf_comm_start(&argc, &argv, &world) == RF_OK && make_folder() == RF_OK &&
        make_alone() == RF_OK) {
        n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    } else {
        print_message("%s\n", rf_error_text());
    }
    if (world != NULL && rf_comm_rank(world) == 0 && folder[0] != '\0') {
        remove_below(folder);
    }
    rf_str_fini(&passes);
    for (int i = 0; i < N; i++) {
        rf_free(alone[i]);
    }
    rf_comm_finish(world);
    return n_failed;
}
