/* What one coder takes, from its settings and shape alone: bytes of its tensors, of its optimiser
 * and of the work space of its step, and arithmetic. For `plan`, before anything is made. */
#include "run_impl.h"

#include <math.h>

static int64_t sum_widths(const int64_t *widths, int n)
{
    int64_t sum = 0;
    for (int i = 0; i < n; i++) {
        sum += widths[i];
    }
    return sum;
}

/* Elements that are trained; those of matrices, which Muon takes, apart. */
typedef struct sizes {
    double matrices, others, state;
} sizes;

static sizes tensor_sizes(const rf_coder_settings *s, const rf_architecture *a,
                          const rf_coder_cost *c)
{
    const double f = (double)c->n_latents, d = (double)c->width, e = (double)c->out_width;
    const double n_points = (double)s->archetypal_points;
    const bool has_statistics =
        s->normalise == RF_NORM_AVERAGE || s->normalise == RF_NORM_PER_DIMENSION;
    sizes out = {.matrices = f * d + (s->skip ? e * d : 0), .others = f + e};

    if (s->decoder == RF_DECODER_ARCHETYPAL) {
        out.others += f * n_points + f * e + 1;
        out.state += f * e + n_points * e;
    } else {
        out.matrices += f * e;
    }
    out.others += a->act == RF_CODER_JUMP ? f : a->act == RF_CODER_GATED ? 2 * f : 0;
    out.state += 2 * f; /* I64 [F] */
    out.state += has_statistics ? 2 * d + (c->is_transcoder ? 2 * e : 0) : 0;
    return out;
}

/* Muon's work space: of its largest matrix. */
static double muon_elements(const rf_coder_settings *s, const rf_coder_cost *c)
{
    int64_t n = rf_muon_work(c->n_latents, c->width);
    if (s->decoder != RF_DECODER_ARCHETYPAL) {
        n = rf_max_i64(n, rf_muon_work(c->n_latents, c->out_width));
    }
    if (s->skip) {
        n = rf_max_i64(n, rf_muon_work(c->out_width, c->width));
    }
    return (double)n;
}

/* Copies of what is trained that the optimiser holds. */
static double optimiser_elements(const rf_coder_settings *s, const rf_train_settings *train,
                                 const rf_coder_cost *c, const sizes *n)
{
    const double all = n->matrices + n->others;
    const double sums = train->accumulate > 1 ? all : 0;
    switch ((rf_optimiser_kind)train->optimiser) {
    case RF_OPTIMISER_SIGNUM:
        return sums + all;
    case RF_OPTIMISER_SCHEDULE_FREE: /* z, v, and the live copy */
        return sums + 3 * all;
    case RF_OPTIMISER_MUON:
        return sums + n->matrices + 2 * n->others + muon_elements(s, c);
    case RF_OPTIMISER_ADAM:
    case RF_OPTIMISER_ADAMW:
        break;
    }
    return sums + 2 * all;
}

/* Entries of a token in each list, at most. */
static void list_sizes(const rf_coder_settings *s, const rf_architecture *a, const rf_coder_cost *c,
                       double entries[RF_STEP_N_LISTS])
{
    const int64_t f = c->n_latents, capacity = a->row_capacity(s, f);
    int64_t second = 0, aux = s->aux_k;

    if (a->second != NULL) {
        a->second(s, capacity, &second);
    }
    if (aux == 0 && !a->may_be_dense) { /* as the step chooses it */
        aux = INT64_C(1) << (int)fmax(0.0, round(log2((double)c->out_width / 2.0)));
    }
    entries[RF_STEP_MAIN] = (double)capacity;
    entries[RF_STEP_SECOND] = (double)rf_min_i64(second, f);
    entries[RF_STEP_AUX] = s->aux_alpha > 0 ? (double)rf_min_i64(aux, f) : 0;
    entries[RF_STEP_WINDOW] = a->act != RF_CODER_RELU ? (double)capacity : 0;
}

static double groups_of(const rf_coder_settings *s, const rf_architecture *a, int64_t n_latents)
{
    rf_latent_groups groups = {0};
    if (a->prefixes != NULL) {
        a->prefixes(s, n_latents, 0, &groups);
    }
    return (double)rf_max_i64(groups.n, 1);
}

/* What plan_device.c makes arrays of. */
static void fill_lists(const rf_coder_settings *s, const rf_architecture *a, rf_coder_cost *out)
{
    const double e = (double)out->out_width;

    list_sizes(s, a, out, out->entries);
    out->columns[RF_STEP_MAIN] = e * groups_of(s, a, out->n_latents);
    out->columns[RF_STEP_SECOND] = a->second != NULL || a->act == RF_CODER_GATED ? e : 0;
    out->columns[RF_STEP_AUX] = out->entries[RF_STEP_AUX] > 0 ? e : 0;
    out->columns[RF_STEP_WINDOW] = 0;
}

/* A rank's own rows, and where there are several the rows of all. */
static double work_bytes(const rf_coder_spec *spec, const rf_architecture *a,
                         const rf_coder_cost *c, int n_ranks)
{
    enum { ENTRY_BYTES = 12, INDEX_BYTES = 8 };
    const double rows = (double)spec->train.batch_tokens, f = (double)c->n_latents;
    const double own = rows / n_ranks, all = n_ranks > 1 ? rows : 0;
    const double e = (double)c->out_width, groups = groups_of(&spec->coder, a, c->n_latents);
    double entries[RF_STEP_N_LISTS], codes = 0, floats = (double)c->width + e * groups;
    double index = 0, dense = 0;

    list_sizes(&spec->coder, a, c, entries);
    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        codes += ENTRY_BYTES * entries[l];
        index += INDEX_BYTES * entries[l];
        floats += l != RF_STEP_MAIN && entries[l] > 0 && l != RF_STEP_WINDOW ? e : 0;
    }
    floats += c->subtracts ? 0 : e;
    codes += a->act != RF_CODER_RELU ? 4 * sizeof(float) * entries[RF_STEP_MAIN] : 0;
    if (a->may_be_dense) {
        const double tiles = a->act == RF_CODER_GATED ? 2 : 1;
        dense = sizeof(float) * RF_STEP_MICRO_BATCH *
                (2 * f + (1 + tiles) * fmin(RF_STEP_DENSE_TILE, f));
    }
    return (own + all) * (sizeof(float) * floats + codes) + own * sizeof(float) * e + rows * index +
           dense;
}

/* Of a token: what the encoder sees, gradients of rows and entries. */
static double exchange_bytes(const rf_coder_spec *spec, const rf_architecture *a,
                             const rf_coder_cost *c)
{
    enum { ENTRY_BYTES = 12 };
    double entries[RF_STEP_N_LISTS], bytes = sizeof(float) * (double)c->width;

    list_sizes(&spec->coder, a, c, entries);
    for (int l = 0; l < RF_STEP_N_LISTS; l++) {
        const double groups = l == RF_STEP_MAIN ? groups_of(&spec->coder, a, c->n_latents) : 1;
        const bool has_rows = entries[l] > 0 && l != RF_STEP_WINDOW;
        bytes += ENTRY_BYTES * entries[l];
        bytes += has_rows ? sizeof(float) * groups * (double)c->out_width : 0;
    }
    return bytes;
}

/* Of a token, behind the encoder product: an entry costs decode, its gradient and both rows; on the
 * dense path every latent does. */
static double rest_flop(const rf_coder_spec *spec, const rf_architecture *a, const rf_coder_cost *c)
{
    const double d = (double)c->width, e = (double)c->out_width, f = (double)c->n_latents;
    const double entry = 6 * e + 2 * d;
    double entries[RF_STEP_N_LISTS], flop = spec->coder.skip ? 4 * d * e : 0;

    list_sizes(&spec->coder, a, c, entries);
    if (a->may_be_dense) {
        flop += f * entry + (a->act == RF_CODER_GATED ? 4 * f * e : 0);
    } else {
        flop += (entries[RF_STEP_MAIN] + entries[RF_STEP_SECOND]) * entry;
    }
    return flop;
}

/* Muon's five iterations on a matrix of `large` x `small`: two products of the one, one of the
 * other. */
static double muon_flop(double large, double small)
{
    return 5 * (4 * small * small * large + 2 * small * small * small);
}

static double update_flop(const rf_coder_spec *spec, const rf_coder_cost *c)
{
    const double f = (double)c->n_latents, d = (double)c->width, e = (double)c->out_width;
    const bool is_archetypal = spec->coder.decoder == RF_DECODER_ARCHETYPAL;
    double flop = is_archetypal ? 4 * f * e * (double)spec->coder.archetypal_points : 0;
    if (spec->train.optimiser == RF_OPTIMISER_MUON) {
        flop += muon_flop(fmax(f, d), fmin(f, d));
        flop += is_archetypal ? 0 : muon_flop(fmax(f, e), fmin(f, e));
        flop += spec->coder.skip ? muon_flop(d, e) : 0;
    }
    return flop;
}

rf_status rf_coder_cost_estimate(const rf_coder_spec *spec, const rf_coder_shape *shape,
                                 int n_ranks, rf_coder_cost *out)
{
    rf_status status = RF_OK;
    const rf_coder_settings *s = &spec->coder;
    const rf_architecture *a = rf_architecture_at(s->architecture);

    *out = (rf_coder_cost){0};
    RF_TRY(rf_coder_check(s, shape));
    out->is_transcoder = shape->n_out > 0;
    out->width = sum_widths(shape->in, shape->n_in);
    out->out_width = out->is_transcoder ? sum_widths(shape->out, shape->n_out) : out->width;
    out->n_latents = rf_coder_settings_latents(s, out->width);
    out->subtracts = s->subtract == RF_SUBTRACT_YES ||
                     (s->subtract == RF_SUBTRACT_AUTO && !out->is_transcoder && shape->n_in == 1);
    const sizes n = tensor_sizes(s, a, out);
    const double moments = optimiser_elements(s, &spec->train, out, &n);
    out->parameter_bytes = sizeof(float) * (n.matrices + n.others);
    out->state_bytes = sizeof(float) * n.state;
    out->optimiser_bytes = sizeof(float) * moments;
    fill_lists(s, a, out);
    out->work_bytes = work_bytes(spec, a, out, n_ranks);
    out->encode_flop = 2.0 * (double)out->width * (double)out->n_latents;
    out->rest_flop = rest_flop(spec, a, out);
    out->update_flop = update_flop(spec, out);
    out->exchange_bytes = a->may_be_dense ? 0 : exchange_bytes(spec, a, out);
    /* parameters and moments in and out, the gradient in twice and out */
    out->update_bytes =
        2 * (out->parameter_bytes + out->optimiser_bytes) + 3 * out->parameter_bytes;
fail:
    return status;
}

double rf_coder_cost_held(const rf_coder_cost *cost, const rf_coder_spec *spec, int n_ranks)
{
    const double width = (double)(cost->width + (cost->is_transcoder ? cost->out_width : 0));
    const double rows = (double)rf_ceil_div(spec->train.batch_tokens, n_ranks);
    return cost->parameter_bytes + cost->state_bytes + cost->optimiser_bytes +
           sizeof(float) * rows * width;
}

double rf_coder_cost_seconds(const rf_coder_cost *cost, const rf_coder_spec *spec, int64_t n_tokens,
                             int n_ranks, double flop_per_s, double bytes_per_s)
{
    const double tokens = (double)n_tokens;
    const int64_t n_steps = rf_ceil_div(n_tokens, spec->train.batch_tokens);
    const double n_updates = (double)rf_ceil_div(n_steps, spec->train.accumulate);
    const bool is_dense = rf_architecture_at(spec->coder.architecture)->may_be_dense;
    const double flop = cost->encode_flop * tokens / n_ranks +
                        cost->rest_flop * tokens / (is_dense ? n_ranks : 1) +
                        cost->update_flop * n_updates;
    double bytes = cost->update_bytes * n_updates;
    if (n_ranks > 1) { /* gradients go out and come back */
        bytes +=
            is_dense ? 2 * cost->parameter_bytes * (double)n_steps : cost->exchange_bytes * tokens;
    }
    return flop / flop_per_s + bytes / bytes_per_s;
}
