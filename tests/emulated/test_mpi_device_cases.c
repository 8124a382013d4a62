/* Every architecture and recipe, dense and sparse, on the device. A coder begins on the CPU, which
 * is a shadow here (tests/conformance): each operation of its steps runs on the CPU and on the
 * device side by side. From its first checkpoint the device alone goes on, in memory of its own:
 * once straight on, and once cut by another checkpoint. */
#include "../../src/train/run_impl.h"
#include "step/step_cases.h"

#include <stdlib.h>
#include <unistd.h>

enum { MAX_ROWS = 300, N_STEPS = 3, CUT = 2 };

/* One past a tile of tokens, ragged, and so few that a rank has none; the first row of each. */
static const int64_t n_rows[N_STEPS] = {131, 65, 100};
static const int64_t first_rows[N_STEPS] = {0, 131, 200};

static rf_comm *world;
static rf_backend *device;
static char file[RF_PATH_LEN];

/* What the steps said. */
typedef struct trace {
    double loss[N_STEPS];
    bool is_dense[N_STEPS];
} trace;

/* ---- on the device alone -----------------------------------------------------------------------
 */

static void make_coder(const step_case *c, const fixture *like, fixture *f)
{
    const rf_coder_settings settings = case_settings(c);
    const rf_optimiser_opts how = {.kind = c->optimiser};
    OK(rf_coder_create(f->be, &settings, rf_coder_get_shape(like->coder), &f->coder));
    OK(rf_optimiser_create(f->be, f->coder, &how, &f->opt));
}

static void save(const fixture *f)
{
    rf_checkpoint_coder c = {.name = "c", .coder = f->coder, .opt = f->opt};
    rf_checkpoint checkpoint = {.tick = 1,
                                .settings = "x",
                                .backend = "y",
                                .weight_processing = "none",
                                .coders = &c,
                                .n_coders = 1,
                                .comm = world};
    OK(rf_checkpoint_write(file, f->s, &checkpoint));
}

/* A coder like `like`, on the device, as the file has it. */
static fixture load(const step_case *c, const fixture *like)
{
    const rf_step_opts opts = {.max_rows = MAX_ROWS};
    fixture f = {.be = device};
    OK(rf_stream_create(f.be, &f.s));
    make_coder(c, like, &f);
    rf_checkpoint_coder read = {.name = "c", .coder = f.coder, .opt = f.opt};
    rf_checkpoint checkpoint = {.coders = &read, .n_coders = 1};
    OK(rf_checkpoint_read(world, file, f.s, &checkpoint));
    const rf_coder *coders[] = {f.coder};
    OK(rf_step_create(f.be, world, coders, 1, &opts, &f.step));
    return f;
}

static void unload(fixture *f)
{
    f->be = NULL; /* the next takes it */
    fixture_destroy(f);
}

/* ---- steps ------------------------------------------------------------------------------------
 */

static void *sent(const fixture *f, const void *from, int64_t n_bytes)
{
    void *to = NULL;
    OK(rf_memory_alloc(f->be, RF_MEMORY_DEVICE, (size_t)n_bytes + 1, &to));
    OK(rf_copy_in(f->s, to, from, (size_t)n_bytes));
    OK(rf_stream_synchronise(f->s));
    return to;
}

/* Steps first .. end - 1 on rows of x; where every second batch has rows that do not count. */
static trace train(const step_case *c, const fixture *f, float *x, int first, int end)
{
    trace all = {{0.0}, {false}};
    uint8_t valid[MAX_ROWS];
    const rf_step_rates rates = case_rates(c);
    for (int b = 0; b < MAX_ROWS; b++) {
        valid[b] = b % 11 != 5;
    }
    for (int t = first; t < end; t++) {
        rf_step_metrics m;
        rf_token_batch batch = case_batch(world, c, x + first_rows[t] * case_columns(c), n_rows[t],
                                          t % 2 == 1 ? valid : NULL);
        const int64_t n = batch.x.shape[0];
        void *rows = sent(f, batch.x.data, n * case_columns(c) * (int64_t)sizeof(float));
        void *flags = t % 2 == 1 ? sent(f, batch.row_valid, n) : NULL;
        batch.x.data = rows;
        batch.row_valid = flags;
        case_keep_sparse(c, f);
        OK(rf_step_run(f->step, f->coder, f->opt, &batch, &rates, &m));
        if (m.skipped) {
            fail_msg("%s: step %d was skipped", c->name, t);
        }
        all.loss[t] = m.loss;
        all.is_dense[t] = m.dense_path;
        rf_memory_free(f->be, RF_MEMORY_DEVICE, rows);
        rf_memory_free(f->be, RF_MEMORY_DEVICE, flags);
    }
    return all;
}

/* ---- what is left -----------------------------------------------------------------------------
 */

static int n_tensors(const fixture *f)
{
    return rf_coder_n_tensors(f->coder) + rf_optimiser_n_tensors(f->opt);
}

static rf_view tensor_at(const fixture *f, int i, const char **name)
{
    const int n = rf_coder_n_tensors(f->coder);
    *name = i < n ? rf_coder_tensor_at(f->coder, i).name : rf_optimiser_tensor_name(f->opt, i - n);
    return i < n ? rf_coder_tensor_at(f->coder, i).view : rf_optimiser_tensor_view(f->opt, i - n);
}

static char *received(const fixture *f, const rf_view *v, size_t *n_bytes)
{
    *n_bytes = (size_t)rf_view_n_elems(v) * rf_dtype_bytes(v->dtype);
    char *to = rf_calloc((int64_t)*n_bytes + 1, 1);
    assert_non_null(to);
    OK(rf_copy_out(f->s, to, v->data, *n_bytes));
    OK(rf_stream_synchronise(f->s));
    return to;
}

/* Every tensor of coder and optimiser. */
static void assert_same_bits(const step_case *c, const char *what, const fixture *a,
                             const fixture *b)
{
    assert_int_equal(n_tensors(a), n_tensors(b));
    for (int i = 0; i < n_tensors(a); i++) {
        const char *name;
        size_t n_bytes, n_others;
        const rf_view u = tensor_at(a, i, &name), v = tensor_at(b, i, &name);
        if (u.data == NULL || v.data == NULL) {
            assert_true(u.data == v.data);
            continue;
        }
        char *got = received(a, &u, &n_bytes), *want = received(b, &v, &n_others);
        if (n_bytes != n_others || memcmp(got, want, n_bytes) != 0) {
            fail_msg("%s: %s has other bits %s", c->name, name, what);
        }
        rf_free(got);
        rf_free(want);
    }
}

/* Blocks' sums in another order, and an entry more or less at a bend. */
static void assert_same_steps(const step_case *c, trace got, trace want)
{
    for (int t = 0; t < N_STEPS; t++) {
        if (!(fabs(got.loss[t] - want.loss[t]) <= 2e-5 * want.loss[t])) {
            fail_msg("%s: loss %.9g at step %d, the CPU's is %.9g", c->name, got.loss[t], t,
                     want.loss[t]);
        }
        if (got.is_dense[t] != want.is_dense[t]) {
            fail_msg("%s: step %d takes another path than the CPU's", c->name, t);
        }
    }
}

/* Dense products are the device's own: of Muon's orthogonal step, of the hull, of a skip. */
static bool has_bits_of_cpu(const step_case *c)
{
    return c->is_exact && c->optimiser != RF_OPTIMISER_MUON &&
           strstr(c->settings, "archetypal") == NULL && strstr(c->settings, "skip") == NULL;
}

static void every_coder_goes_on_on_the_device(void **state)
{
    (void)state;
    for (int i = 0; i < N_STEP_CASES; i++) {
        const step_case *c = &step_cases[i];
        float *x = case_rows(c, 61, MAX_ROWS);
        fixture cpu = case_make(world, c, x, MAX_ROWS, 1);
        save(&cpu);
        const trace want = train(c, &cpu, x, 0, N_STEPS);
        assert_true(want.is_dense[0] == !(c->is_exact || c->is_sparse));
        fixture whole = load(c, &cpu), cut = load(c, &cpu);
        assert_same_steps(c, train(c, &whole, x, 0, N_STEPS), want);
        (void)train(c, &cut, x, 0, CUT);
        save(&cut);
        unload(&cut);
        cut = load(c, &cpu);
        (void)train(c, &cut, x, CUT, N_STEPS);
        assert_same_bits(c, "after a cut", &cut, &whole);
        if (has_bits_of_cpu(c)) {
            assert_same_bits(c, "than on the CPU", &whole, &cpu);
        }
        unload(&cut);
        unload(&whole);
        fixture_destroy(&cpu);
        rf_free(x);
    }
}

static void take_path(const fixture *f, bool is_dense)
{
    rf_coder_state state;
    OK(rf_coder_get_state(f->coder, f->s, &state));
    state.counters[RF_COUNTER_DENSE] = is_dense;
    OK(rf_coder_set_state(f->coder, f->s, &state));
}

/* Of 96 latents one that may be active takes a coder to the sparse path, and some take it to the
 * dense one. */
static void paths_change_on_the_device_as_on_the_cpu(void **state)
{
    (void)state;
    enum { FEW = 1, SOME = 8 };
    for (int i = 0; i < 2 * N_STEP_CASES; i++) {
        const step_case *c = &step_cases[i / 2];
        const bool has_few = i % 2 == 0;
        if (c->is_exact || c->is_sparse) {
            continue;
        }
        float *x = case_rows(c, 62, MAX_ROWS);
        fixture cpu = case_make(world, c, x, MAX_ROWS, 1);
        for (int j = has_few ? FEW : SOME; j < CASE_LATENTS; j++) {
            fixture_floats(&cpu, RF_CODER_B_ENC)[j] = -100.0f;
        }
        take_path(&cpu, has_few);
        save(&cpu);
        const trace want = train(c, &cpu, x, 0, N_STEPS);
        fixture whole = load(c, &cpu);
        if (want.is_dense[0] != has_few || want.is_dense[N_STEPS - 1] == has_few) {
            fail_msg("%s: %d %d %d, the path does not change", c->name, want.is_dense[0],
                     want.is_dense[1], want.is_dense[2]);
        }
        assert_same_steps(c, train(c, &whole, x, 0, N_STEPS), want);
        unload(&whole);
        fixture_destroy(&cpu);
        rf_free(x);
    }
}

/* ---- start and end ----------------------------------------------------------------------------
 */

static rf_status make_file(void)
{
    rf_status status = RF_OK;
    const char *temp = getenv("TMPDIR");
    if (rf_comm_rank(world) == 0) {
        RF_TRY(rf_format(file, sizeof file, "%s/rf_cases_XXXXXX", temp != NULL ? temp : "/tmp"));
        const int fd = mkstemp(file);
        if (fd < 0) {
            RF_FAIL(RF_ERR_IO, "%s", file);
        }
        close(fd);
    }
fail:
    status = rf_comm_agree(world, status);
    return status == RF_OK ? rf_comm_bcast(world, file, sizeof file, 0) : status;
}

static int start(void **state)
{
    (void)state;
    return rf_comm_start(NULL, NULL, &world) == RF_OK && make_file() == RF_OK &&
                   rf_backend_cuda_create(world, &device) == RF_OK
               ? 0
               : -1;
}

static int finish(void **state)
{
    (void)state;
    rf_backend_destroy(device);
    if (rf_comm_rank(world) == 0) {
        unlink(file);
    }
    rf_comm_finish(world);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_coder_goes_on_on_the_device),
        cmocka_unit_test(paths_change_on_the_device_as_on_the_cpu),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
