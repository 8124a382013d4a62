/* The loss of every architecture and option in plain loops in double, on tiny sizes: what the
 * step's gradients are measured against, by central differences. What a step holds constant is
 * fixed at the point where gradients are taken: what is selected, the residual that dead latents
 * are to explain and its variance, ghost gradients' scales, and the windows of straight-through
 * estimators, whose gradient is that of a line through the point. */
#ifndef REFRACT_NAIVE_H
#define REFRACT_NAIVE_H

#include "coder/coder_fixture.h"

#ifndef NAIVE_ROWS
#define NAIVE_ROWS 21
#endif

enum { NAIVE_B = NAIVE_ROWS, NAIVE_F = 40, NAIVE_W = 9, NAIVE_POINTS = 5, NAIVE_N = 4096 };

typedef struct naive_terms {
    double mse, sparsity, aux, extra;
} naive_terms;

typedef struct naive {
    rf_coder_settings settings;
    const rf_architecture *architecture;
    rf_penalty_kind penalty;
    rf_latent_groups groups;
    rf_segments sites;                           /* of the target */
    bool subtracts, has_own_target, has_class_k; /* classes of rows take turns */
    int d, e, k[NAIVE_B], second_k, aux_k;
    double variance, bandwidth, p, n_valid;
    float x[NAIVE_B * 2 * NAIVE_W]; /* rows [input | target], as a step takes them */
    uint8_t valid[NAIVE_B], dead[NAIVE_F];
    double points[NAIVE_POINTS][NAIVE_W];

    double at[NAIVE_N]; /* all parameters */
    int64_t first[RF_CODER_N_PARAMETERS], n[RF_CODER_N_PARAMETERS], n_all;

    /* constants */
    bool is_main[NAIVE_B][NAIVE_F], is_second[NAIVE_B][NAIVE_F], is_aux[NAIVE_B][NAIVE_F];
    bool is_near[NAIVE_B][NAIVE_F], is_silent[NAIVE_F];
    double h0[NAIVE_B][NAIVE_F], theta0[NAIVE_F], norm0[NAIVE_F];
    double residual[NAIVE_B][NAIVE_W], v_e;
    double ghost_scale[NAIVE_B], ghost_weight[NAIVE_B][NAIVE_W];

    /* work */
    double dec[NAIVE_F][NAIVE_W], norm[NAIVE_F];
    double h[NAIVE_B][NAIVE_F], z[NAIVE_B][NAIVE_F];
} naive;

static inline const double *naive_at(const naive *m, int idx)
{
    return m->at + m->first[idx];
}

static inline double naive_target(const naive *m, int b, int j)
{
    const float *row = m->x + b * (m->has_own_target ? m->d + m->e : m->d);
    return (double)row[m->has_own_target ? m->d + j : j] - naive_at(m, RF_CODER_B_DEC)[j];
}

static inline double naive_seen(const naive *m, int b, int j)
{
    const float *row = m->x + b * (m->has_own_target ? m->d + m->e : m->d);
    return (double)row[j] - (m->subtracts ? naive_at(m, RF_CODER_B_DEC)[j] : 0.0);
}

static inline double naive_theta(const naive *m, int i)
{
    return m->architecture->act == RF_CODER_JUMP ? exp(naive_at(m, RF_CODER_LOG_THRESHOLD)[i])
                                                 : 0.0;
}

/* ---- the decoder and pre-activations ----------------------------------------------------------
 */

/* Sum over sites of |row|. */
static inline double naive_row_norm(const rf_segments *sites, const double *row)
{
    double norm = 0.0;
    for (int l = 0; l < sites->n; l++) {
        double squares = 0.0;
        for (int64_t j = l == 0 ? 0 : sites->end[l - 1]; j < sites->end[l]; j++) {
            squares += row[j] * row[j];
        }
        norm += sqrt(squares);
    }
    return norm;
}

static inline void naive_decoder(naive *m)
{
    for (int i = 0; i < NAIVE_F; i++) {
        for (int j = 0; j < m->e; j++) {
            if (m->settings.decoder != RF_DECODER_ARCHETYPAL) {
                m->dec[i][j] = naive_at(m, RF_CODER_W_DEC)[i * m->e + j];
                continue;
            }
            double mix = naive_at(m, RF_CODER_ARCHETYPE_OFFSETS)[i * m->e + j];
            for (int q = 0; q < NAIVE_POINTS; q++) {
                mix += naive_at(m, RF_CODER_ARCHETYPES)[i * NAIVE_POINTS + q] * m->points[q][j];
            }
            m->dec[i][j] = exp(naive_at(m, RF_CODER_ARCHETYPE_SCALE)[0]) * mix;
        }
        m->norm[i] = naive_row_norm(&m->sites, m->dec[i]);
    }
}

static inline void naive_encode(naive *m)
{
    for (int b = 0; b < NAIVE_B; b++) {
        for (int i = 0; i < NAIVE_F; i++) {
            m->h[b][i] = naive_at(m, RF_CODER_B_ENC)[i];
            for (int j = 0; j < m->d; j++) {
                m->h[b][i] += naive_seen(m, b, j) * naive_at(m, RF_CODER_W_ENC)[i * m->d + j];
            }
        }
    }
}

/* y_hat less b_dec of values z among latents 0 .. end - 1. */
static inline double naive_decode(const naive *m, int b, const double *z, int64_t end, int j)
{
    double y = 0.0;
    for (int64_t i = 0; i < end; i++) {
        y += z[i] * m->dec[i][j];
    }
    for (int q = 0; q < m->d && m->settings.skip; q++) {
        y += naive_at(m, RF_CODER_W_SKIP)[j * m->d + q] * naive_seen(m, b, q);
    }
    return y;
}

/* ---- what is constant -------------------------------------------------------------------------
 */

/* The k largest positive of h among `allowed` (NULL: all), rows first .. last together. */
static inline void naive_largest(const naive *m, const uint8_t *allowed, int first, int last,
                                 int64_t k, bool (*out)[NAIVE_F])
{
    for (int64_t n = 0; n < k; n++) {
        int row = -1, latent = 0;
        for (int b = first; b <= last; b++) {
            for (int i = 0; i < NAIVE_F && m->valid[b]; i++) {
                if ((allowed == NULL || allowed[i]) && !out[b][i] && m->h[b][i] > 0.0 &&
                    (row < 0 || m->h[b][i] > m->h[row][latent])) {
                    row = b;
                    latent = i;
                }
            }
        }
        if (row >= 0) {
            out[row][latent] = true;
        }
    }
}

/* Of the rows of one class, or of all: rows of others count as not valid meanwhile. */
static inline void naive_batch_topk(naive *m)
{
    uint8_t valid[NAIVE_B];
    memcpy(valid, m->valid, sizeof valid);
    for (int c = 0; c < (m->has_class_k ? 3 : 1); c++) {
        int64_t total = 0;
        for (int b = 0; b < NAIVE_B; b++) {
            m->valid[b] = valid[b] != 0 && (!m->has_class_k || b % 3 == c);
            total += m->valid[b] ? m->k[b] : 0;
        }
        naive_largest(m, NULL, 0, NAIVE_B - 1, total, m->is_main);
    }
    memcpy(m->valid, valid, sizeof valid);
}

static inline void naive_select(naive *m)
{
    const rf_select_rule rule = m->architecture->rule(&m->settings);
    memset(m->is_main, 0, sizeof m->is_main);
    memset(m->is_second, 0, sizeof m->is_second);
    memset(m->is_aux, 0, sizeof m->is_aux);
    if (rule == RF_SELECT_BATCH_TOPK) {
        naive_batch_topk(m);
    }
    for (int b = 0; b < NAIVE_B; b++) {
        if (rule == RF_SELECT_TOPK) {
            naive_largest(m, NULL, b, b, m->k[b], m->is_main);
        }
        naive_largest(m, NULL, b, b, m->second_k, m->is_second);
        naive_largest(m, m->dead, b, b, m->aux_k, m->is_aux);
        for (int i = 0; i < NAIVE_F && rule == RF_SELECT_POSITIVE; i++) {
            m->is_main[b][i] = m->valid[b] && m->h[b][i] > naive_theta(m, i);
        }
    }
}

static inline void naive_fix_windows(naive *m)
{
    memcpy(m->h0, m->h, sizeof m->h0);
    memcpy(m->norm0, m->norm, sizeof m->norm0);
    for (int i = 0; i < NAIVE_F; i++) {
        m->theta0[i] = naive_theta(m, i);
        m->is_silent[i] = m->dead[i];
        for (int b = 0; b < NAIVE_B; b++) {
            m->is_near[b][i] = m->architecture->act == RF_CODER_JUMP && m->valid[b] &&
                               fabs(m->h[b][i] - m->theta0[i]) < m->bandwidth / 2;
            m->is_silent[i] = m->is_silent[i] && !m->is_main[b][i];
        }
    }
}

/* How far a straight-through estimator has gone up its line, from 0 at the fixed point: minus d
 * theta, and d h where that is wanted. */
static inline double naive_step_up(const naive *m, int b, int i)
{
    double up = m->theta0[i] - naive_theta(m, i);
    if (m->settings.ste_to_input) {
        up += m->h[b][i] - m->h0[b][i];
    }
    return m->is_near[b][i] ? up / m->bandwidth : 0.0;
}

static inline void naive_values(naive *m)
{
    for (int b = 0; b < NAIVE_B; b++) {
        for (int i = 0; i < NAIVE_F; i++) {
            double h = m->h[b][i];
            if (m->architecture->act == RF_CODER_GATED) {
                h = exp(naive_at(m, RF_CODER_GAIN)[i]) * (h - naive_at(m, RF_CODER_B_ENC)[i]) +
                    naive_at(m, RF_CODER_B_MAG)[i];
                h = fmax(h, 0.0);
            }
            m->z[b][i] = (m->is_main[b][i] ? h : 0.0) + m->theta0[i] * naive_step_up(m, b, i);
        }
    }
}

static inline void naive_fix_residual(naive *m)
{
    double mean[NAIVE_W] = {0};
    m->v_e = 0.0;
    for (int b = 0; b < NAIVE_B; b++) {
        for (int j = 0; j < m->e; j++) {
            m->residual[b][j] = naive_target(m, b, j) - naive_decode(m, b, m->z[b], NAIVE_F, j);
            mean[j] += m->valid[b] ? m->residual[b][j] / m->n_valid : 0.0;
        }
    }
    for (int b = 0; b < NAIVE_B; b++) {
        for (int j = 0; j < m->e && m->valid[b]; j++) {
            m->v_e += (m->residual[b][j] - mean[j]) * (m->residual[b][j] - mean[j]) / m->n_valid;
        }
    }
}

/* ---- terms ------------------------------------------------------------------------------------
 */

/* |y - y_hat|^2 / (n V) of values z among latents 0 .. end - 1. */
static inline double naive_error(const naive *m, int b, const double *z, int64_t end)
{
    double sum = 0.0;
    for (int j = 0; j < m->e; j++) {
        double off = naive_target(m, b, j) - naive_decode(m, b, z, end, j);
        sum += off * off / (m->n_valid * m->variance);
    }
    return sum;
}

/* As naive_error, from relu(h) and with a frozen decoder: its parameters are those of `frozen`. */
static inline double naive_gate_error(const naive *m, const naive *frozen, int b)
{
    double sum = 0.0, gate[NAIVE_F];
    for (int i = 0; i < NAIVE_F; i++) {
        gate[i] = m->is_main[b][i] ? m->h[b][i] : 0.0;
    }
    for (int j = 0; j < m->e; j++) {
        double off = naive_target(frozen, b, j) - naive_decode(frozen, b, gate, NAIVE_F, j);
        sum += off * off / (m->n_valid * m->variance);
    }
    return sum;
}

/* The penalty of a row but for counts of entries. */
static inline double naive_penalty(const naive *m, int b)
{
    const bool is_straight = m->penalty == RF_PENALTY_L1 || m->penalty == RF_PENALTY_TANH;
    double sum = 0.0;
    for (int i = 0; i < NAIVE_F; i++) {
        double z = m->architecture->act == RF_CODER_GATED ? m->h[b][i] : m->z[b][i];
        double wz = m->settings.penalty_by_norm ? m->norm[i] * z : z;
        if (!(m->is_main[b][i] || (m->is_near[b][i] && is_straight))) {
            continue; /* a window's lower half has the slope at 0 */
        }
        sum += m->penalty == RF_PENALTY_TANH ? tanh(m->settings.tanh_scale * wz)
               : m->penalty == RF_PENALTY_L1 ? wz
                                             : pow(wz, m->p);
    }
    return m->penalty == RF_PENALTY_NORM ? pow(sum, 1.0 / m->p) : sum;
}

static inline double naive_sparsity(const naive *m)
{
    const rf_coder_settings *s = &m->settings;
    double l0 = 0.0, penalty = 0.0;
    for (int b = 0; b < NAIVE_B; b++) {
        for (int i = 0; i < NAIVE_F && m->valid[b]; i++) {
            l0 += ((m->is_main[b][i] ? 1.0 : 0.0) + naive_step_up(m, b, i)) / m->n_valid;
        }
        penalty += m->valid[b] ? naive_penalty(m, b) / m->n_valid : 0.0;
    }
    double off = l0 / s->target_l0 - 1.0;
    return m->penalty == RF_PENALTY_NONE               ? 0.0
           : s->penalty == RF_PENALTY_CHOICE_TARGET_L0 ? s->l0 * off * off
           : m->penalty == RF_PENALTY_L0               ? s->l0 * l0
                                                       : s->l1 * penalty;
}

/* sum over dead latents that stayed silent of relu(theta - h) |row|. */
static inline double naive_pre_activation(const naive *m)
{
    double sum = 0.0;
    for (int b = 0; b < NAIVE_B; b++) {
        for (int i = 0; i < NAIVE_F && m->valid[b]; i++) {
            double norm = m->settings.decoder == RF_DECODER_FREE ? m->norm[i] : m->norm0[i];
            sum += m->is_silent[i] ? fmax(0.0, naive_theta(m, i) - m->h[b][i]) * norm : 0.0;
        }
    }
    return m->settings.pre_activation * sum / m->n_valid;
}

static inline double naive_aux(const naive *m, int b)
{
    double sum = 0.0;
    for (int j = 0; j < m->e; j++) {
        double left = m->residual[b][j];
        for (int i = 0; i < NAIVE_F; i++) {
            left -= m->is_aux[b][i] ? m->h[b][i] * m->dec[i][j] : 0.0;
        }
        sum += left * left;
    }
    return m->settings.aux_alpha * sum / (m->n_valid * m->v_e);
}

/* What dead latents decode to by exp(h). */
static inline double naive_ghost_decode(const naive *m, int b, int j)
{
    double y = 0.0;
    for (int i = 0; i < NAIVE_F; i++) {
        y += m->dead[i] ? exp(m->h[b][i]) * m->dec[i][j] : 0.0;
    }
    return y;
}

static inline double naive_ghost(const naive *m, int b)
{
    double sum = 0.0;
    for (int j = 0; j < m->e; j++) {
        double off = m->ghost_scale[b] * naive_ghost_decode(m, b, j) - m->residual[b][j];
        sum += m->ghost_weight[b][j] * off * off;
    }
    return sum;
}

/* Anthropic's: half the residual's norm; one factor makes the term as large as `mse`. */
static inline void naive_fix_ghost(naive *m, double mse)
{
    double all = 0.0;
    for (int b = 0; b < NAIVE_B; b++) {
        double e = 0.0, g = 0.0;
        for (int j = 0; j < m->e && m->valid[b]; j++) {
            e += m->residual[b][j] * m->residual[b][j];
            g += naive_ghost_decode(m, b, j) * naive_ghost_decode(m, b, j);
            m->ghost_weight[b][j] = 1.0;
        }
        m->ghost_scale[b] = m->valid[b] ? sqrt(e) / (2.0 * sqrt(g)) : 0.0;
        all += m->valid[b] ? naive_ghost(m, b) : 0.0;
    }
    for (int b = 0; b < NAIVE_B; b++) {
        for (int j = 0; j < m->e; j++) {
            m->ghost_weight[b][j] = mse / all;
        }
    }
}

/* Prisma's: an element's error is over the norm of the centred residual, and scaled to `mse` by
 * itself. */
static inline void naive_fix_prisma(naive *m, double mse)
{
    double mean[NAIVE_W] = {0};
    for (int b = 0; b < NAIVE_B; b++) {
        for (int j = 0; j < m->e && m->valid[b]; j++) {
            mean[j] += m->residual[b][j] / m->n_valid;
        }
    }
    for (int b = 0; b < NAIVE_B; b++) {
        double e = 0.0, g = 0.0, centred = 0.0;
        for (int j = 0; j < m->e; j++) {
            e += m->residual[b][j] * m->residual[b][j];
            g += naive_ghost_decode(m, b, j) * naive_ghost_decode(m, b, j);
            centred += (m->residual[b][j] - mean[j]) * (m->residual[b][j] - mean[j]);
        }
        m->ghost_scale[b] = sqrt(e) / (1e-6 + 2.0 * sqrt(g));
        for (int j = 0; j < m->e; j++) {
            double off = m->ghost_scale[b] * naive_ghost_decode(m, b, j) - m->residual[b][j];
            double error = off * off / sqrt(centred);
            m->ghost_weight[b][j] =
                mse / (error + 1e-6) / sqrt(centred) / (m->n_valid * (double)m->e);
        }
    }
}

/* ---- the loss ---------------------------------------------------------------------------------
 */

static inline void naive_reconstructions(const naive *m, const naive *frozen, naive_terms *out)
{
    for (int b = 0; b < NAIVE_B; b++) {
        if (!m->valid[b]) {
            continue;
        }
        double last = naive_error(m, b, m->z[b], NAIVE_F);
        out->mse += last;
        for (int q = 0; q < m->groups.n; q++) {
            out->extra +=
                (naive_error(m, b, m->z[b], m->groups.end[q]) - last) / (double)m->groups.n;
        }
        if (m->second_k > 0) {
            double z[NAIVE_F];
            for (int i = 0; i < NAIVE_F; i++) {
                z[i] = m->is_second[b][i] ? m->h[b][i] : 0.0;
            }
            out->extra += m->settings.second_weight * naive_error(m, b, z, NAIVE_F);
        }
        if (m->architecture->act == RF_CODER_GATED) {
            out->extra += naive_gate_error(m, frozen, b);
        }
    }
}

/* The loss at m's parameters; `fixed` holds the constants of the point where gradients are taken (m
 * itself: fix them here). */
static inline double naive_loss(naive *m, const naive *fixed, naive_terms *out)
{
    naive_terms t = {0};
    naive_decoder(m);
    naive_encode(m);
    if (m == fixed) {
        naive_select(m);
        naive_fix_windows(m);
    }
    naive_values(m);
    naive_reconstructions(m, fixed, &t);
    t.sparsity = naive_sparsity(m) + naive_pre_activation(m);
    if (m == fixed) {
        naive_fix_residual(m);
        if (m->settings.ghost == RF_GHOST_ORIGINAL) {
            naive_fix_ghost(m, t.mse);
        } else if (m->settings.ghost == RF_GHOST_PRISMA) {
            naive_fix_prisma(m, t.mse);
        }
    }
    for (int b = 0; b < NAIVE_B; b++) {
        if (m->valid[b]) {
            t.aux += m->aux_k > 0 ? naive_aux(m, b) : 0.0;
            t.aux += m->settings.ghost != RF_GHOST_NONE ? naive_ghost(m, b) : 0.0;
        }
    }
    *out = t;
    return t.mse + t.sparsity + t.aux + t.extra;
}

/* Central differences at the point where `fixed` was fixed. */
static inline void naive_gradient(const naive *fixed, double *out)
{
    static naive m;
    naive_terms terms;
    const double step = 1e-6; /* rounding 1e-16 / step, truncation step^2: both below 1e-9 */
    m = *fixed;
    for (int64_t i = 0; i < m.n_all; i++) {
        m.at[i] = fixed->at[i] + step;
        double above = naive_loss(&m, fixed, &terms);
        m.at[i] = fixed->at[i] - step;
        out[i] = (above - naive_loss(&m, fixed, &terms)) / (2.0 * step);
        m.at[i] = fixed->at[i];
    }
}

#endif
