/* The table, operations on rows of parameters and tokens, on counters, and on ranks: all have the
 * reference's bits. */
#include "shadow_impl.h"

#define EXACT SHADOW_BITS

SHADOW_STRUCT(update_rows, rf_update_args, IN(g), IN_PLAIN(touched, U8, ROWS, w),
              IN_COUNT(grad_scale, F32, 1), OUT(w, EXACT), OUT(m, EXACT), OUT(v, EXACT),
              OUT(average, EXACT))

typedef struct row_views {
    rf_view w, scale, out;
} row_views;
SHADOW_ROW(apply_row_rule, row_views,
           (rf_stream * s, const rf_view *w, rf_row_rule rule, const rf_segments *segments,
            float radius),
           ((T){.w = *w}), (c->device_stream, &a.w, rule, segments, radius),
           (s, w, rule, segments, radius), OUT(w, EXACT))
SHADOW_ROW(row_norms, row_views,
           (rf_stream * s, const rf_view *w, const rf_segments *segments, const rf_view *out),
           ((T){.w = *w, .out = *out}), (c->device_stream, &a.w, segments, &a.out),
           (s, w, segments, out), IN(w), OUT(out, EXACT))
SHADOW_ROW(row_norms_grad, row_views,
           (rf_stream * s, const rf_view *w, const rf_segments *segments, const rf_view *scale,
            const rf_view *d_w),
           ((T){*w, *scale, *d_w}), (c->device_stream, &a.w, segments, &a.scale, &a.out),
           (s, w, segments, scale, d_w), IN(w), IN(scale), OUT(out, EXACT))

#define TOKENS                                                                                     \
    IN(from), IN(shift), IN(scale), IN(subtract), IN_PLAIN(row_valid, U8, ROWS, from),             \
        OUT(to, EXACT)
SHADOW_STRUCT(normalise_tokens, rf_normalise_args, TOKENS, OUT(row_shift, EXACT),
              OUT(row_scale, EXACT))
SHADOW_STRUCT(denormalise_tokens, rf_normalise_args, TOKENS, IN(row_shift), IN(row_scale))

SHADOW_STRUCT(track_fired, rf_track_fired_args, IN_INDEX(index), IN(n_active),
              OUT(since_fired, EXACT), OUT_COUNT(n_fired, I64, 1))

typedef struct dead_args {
    rf_view since_fired;
    uint8_t *dead;
    int64_t *n_dead;
} dead_args;
SHADOW_ROW(mark_dead, dead_args,
           (rf_stream * s, const rf_view *since_fired, int64_t limit, uint8_t *dead,
            int64_t *n_dead),
           ((T){*since_fired, dead, n_dead}),
           (c->device_stream, &a.since_fired, limit, a.dead, a.n_dead),
           (s, since_fired, limit, dead, n_dead), IN(since_fired),
           OUT_PLAIN(dead, U8, ROWS, since_fired, EXACT), OUT_COUNT(n_dead, I64, 1))

SHADOW_ROW(all_gather, shadow_ranks,
           (rf_stream * s, const rf_comm *comm, const void *send, void *recv,
            const int64_t *recv_bytes),
           ((T){.comm = comm, .send = send, .recv = recv, .recv_bytes = recv_bytes}),
           (c->device_stream, comm, a.send, a.recv, recv_bytes), (s, comm, send, recv, recv_bytes),
           HOOK(shadow_collect_gather))
SHADOW_ROW(all_to_all, shadow_ranks,
           (rf_stream * s, const rf_comm *comm, const void *send, const int64_t *send_bytes,
            void *recv, const int64_t *recv_bytes),
           ((T){comm, send, recv, send_bytes, recv_bytes, 0}),
           (c->device_stream, comm, a.send, send_bytes, a.recv, recv_bytes),
           (s, comm, send, send_bytes, recv, recv_bytes), HOOK(shadow_collect_exchange))
SHADOW_ROW(all_sum_f32, shadow_ranks, (rf_stream * s, const rf_comm *comm, float *data, int64_t n),
           ((T){.comm = comm, .recv = data, .n = n}), (c->device_stream, comm, a.recv, n),
           (s, comm, data, n), HOOK(shadow_collect_sum_f32))
SHADOW_ROW(all_sum_i64, shadow_ranks,
           (rf_stream * s, const rf_comm *comm, int64_t *data, int64_t n),
           ((T){.comm = comm, .recv = data, .n = n}), (c->device_stream, comm, a.recv, n),
           (s, comm, data, n), HOOK(shadow_collect_sum_i64))

void shadow_fill_rows(rf_backend_ops *ops)
{
    ops->update_rows = run_update_rows;
    ops->apply_row_rule = run_apply_row_rule;
    ops->row_norms = run_row_norms;
    ops->row_norms_grad = run_row_norms_grad;
    ops->normalise_tokens = run_normalise_tokens;
    ops->denormalise_tokens = run_denormalise_tokens;
    ops->track_fired = run_track_fired;
    ops->mark_dead = run_mark_dead;
    ops->all_gather = run_all_gather;
    ops->all_to_all = run_all_to_all;
    ops->all_sum_f32 = run_all_sum_f32;
    ops->all_sum_i64 = run_all_sum_i64;
}
