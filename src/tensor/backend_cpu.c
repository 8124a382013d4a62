/* The CPU backend: memory, order, ranks, and the table of its operations. Every operation is
 * finished when it returns, so that order needs nothing. */
#include "tensor_impl.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

int rf_cpu_n_threads(const rf_stream *s)
{
    return ((const rf_cpu_stream *)s)->n_threads;
}

int rf_cpu_thread(void)
{
    return omp_get_thread_num();
}

rf_status rf_cpu_scratch(rf_stream *s, size_t n_bytes, void **out)
{
    rf_cpu_stream *cpu = (rf_cpu_stream *)s;
    if (n_bytes > cpu->scratch_bytes || cpu->scratch == NULL) {
        rf_free(cpu->scratch); /* contents are nobody's: never hold the old and the new one */
        cpu->scratch_bytes = 0;
        cpu->scratch = n_bytes <= INT64_MAX ? rf_calloc((int64_t)n_bytes, 1) : NULL;
        if (cpu->scratch == NULL) {
            return rf_error_raise(RF_ERR_NO_MEMORY, __FILE__, __LINE__,
                                  "cannot allocate %zu bytes of scratch memory", n_bytes);
        }
        cpu->scratch_bytes = n_bytes;
    }
    *out = cpu->scratch;
    return RF_OK;
}

static void cpu_destroy(rf_backend *be)
{
    rf_free(be);
}

static rf_status cpu_alloc(rf_backend *be, rf_memory kind, size_t n_bytes, void **out)
{
    (void)be;
    (void)kind; /* all of a host's memory is reachable at once */
    *out = n_bytes <= INT64_MAX ? rf_calloc((int64_t)n_bytes, 1) : NULL;
    if (*out == NULL) {
        return rf_error_raise(RF_ERR_NO_MEMORY, __FILE__, __LINE__, "cannot allocate %zu bytes",
                              n_bytes);
    }
    return RF_OK;
}

static void cpu_free(rf_backend *be, rf_memory kind, void *p)
{
    (void)be;
    (void)kind;
    rf_free(p);
}

/* The kernel says yes to more than there is: nobody knows what is free. */
static void cpu_memory(const rf_backend *be, int64_t *free_bytes, int64_t *all_bytes)
{
    (void)be;
    *free_bytes = 0;
    *all_bytes = 0;
}

static rf_status cpu_stream_create(rf_backend *be, rf_stream **out)
{
    rf_status status = RF_OK;
    rf_cpu_stream *s = NULL;
    RF_ALLOC(s, 1);
    s->base.backend = be;
    s->n_threads = ((rf_cpu_backend *)be)->n_threads;
    *out = &s->base;
fail:
    return status;
}

static void cpu_stream_destroy(rf_stream *s)
{
    rf_free(((rf_cpu_stream *)s)->scratch);
    rf_free(s);
}

static rf_status cpu_stream_synchronise(rf_stream *s)
{
    (void)s;
    return RF_OK;
}

static rf_status cpu_event_create(rf_backend *be, rf_event **out)
{
    rf_status status = RF_OK;
    rf_event *e = NULL;
    RF_ALLOC(e, 1);
    e->backend = be;
    *out = e;
fail:
    return status;
}

static void cpu_event_destroy(rf_event *e)
{
    rf_free(e);
}

static rf_status cpu_event_nothing(rf_event *e, rf_stream *s)
{
    (void)e;
    (void)s;
    return RF_OK;
}

static rf_status cpu_copy(rf_stream *s, void *dst, const void *src, size_t n_bytes)
{
    (void)s;
    if (n_bytes > 0) {
        memmove(dst, src, n_bytes);
    }
    return RF_OK;
}

static rf_status cpu_fill_bytes(rf_stream *s, void *dst, int value, size_t n_bytes)
{
    (void)s;
    if (n_bytes > 0) {
        memset(dst, value, n_bytes);
    }
    return RF_OK;
}

static rf_status cpu_all_gather(rf_stream *s, const rf_comm *comm, const void *send, void *recv,
                                const int64_t *recv_bytes)
{
    (void)s;
    return rf_comm_allgatherv(comm, send, recv, recv_bytes);
}

static rf_status cpu_all_to_all(rf_stream *s, const rf_comm *comm, const void *send,
                                const int64_t *send_bytes, void *recv, const int64_t *recv_bytes)
{
    (void)s;
    return rf_comm_alltoallv(comm, send, send_bytes, recv, recv_bytes);
}

static rf_status cpu_all_sum_f32(rf_stream *s, const rf_comm *comm, float *data, int64_t n)
{
    (void)s;
    return rf_comm_sum_f32(comm, data, n);
}

static rf_status cpu_all_sum_i64(rf_stream *s, const rf_comm *comm, int64_t *data, int64_t n)
{
    (void)s;
    return rf_comm_sum_i64(comm, data, n);
}

static const rf_backend_ops cpu_ops = {
    .name = "cpu",
    .destroy = cpu_destroy,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .memory = cpu_memory,
    .stream_create = cpu_stream_create,
    .stream_destroy = cpu_stream_destroy,
    .stream_synchronise = cpu_stream_synchronise,
    .event_create = cpu_event_create,
    .event_destroy = cpu_event_destroy,
    .event_record = cpu_event_nothing,
    .event_wait = cpu_event_nothing,
    .copy_in = cpu_copy,
    .copy_out = cpu_copy,
    .copy_within = cpu_copy,
    .fill_bytes = cpu_fill_bytes,

    .matmul = rf_cpu_matmul,
    .layer_norm = rf_cpu_layer_norm,
    .attention = rf_cpu_attention,
    .attention_scores = rf_cpu_attention_scores,
    .attention_mix = rf_cpu_attention_mix,
    .softmax_rows = rf_cpu_softmax_rows,
    .activation = rf_cpu_activation,
    .add = rf_cpu_add,
    .pixel_values = rf_cpu_pixel_values,
    .patch_rows = rf_cpu_patch_rows,
    .embed_tokens = rf_cpu_embed_tokens,
    .gather_rows = rf_cpu_gather_rows,
    .convert = rf_cpu_convert,
    .gated = rf_cpu_gated,
    .rotary = rf_cpu_rotary,
    .mean_tokens = rf_cpu_mean_tokens,

    .layer_norm_grad = rf_cpu_layer_norm_grad,
    .layer_norm_scale_grad = rf_cpu_layer_norm_scale_grad,
    .attention_mix_grad = rf_cpu_attention_mix_grad,
    .attention_softmax_grad = rf_cpu_attention_softmax_grad,
    .attention_scores_grad = rf_cpu_attention_scores_grad,
    .activation_grad = rf_cpu_activation_grad,
    .gated_grad = rf_cpu_gated_grad,
    .column_dot = rf_cpu_column_dot,
    .mean_tokens_grad = rf_cpu_mean_tokens_grad,
    .patch_rows_grad = rf_cpu_patch_rows_grad,
    .embed_tokens_grad = rf_cpu_embed_tokens_grad,
    .gather_rows_grad = rf_cpu_gather_rows_grad,

    .encode = rf_cpu_encode,
    .codes_keep = rf_cpu_codes_keep,
    .codes_histogram = rf_cpu_codes_histogram,
    .decode = rf_cpu_decode,
    .prefix_residual = rf_cpu_prefix_residual,
    .d_value = rf_cpu_d_value,
    .residual = rf_cpu_residual,
    .index_by_latent = rf_cpu_index_by_latent,
    .accumulate_by_latent = rf_cpu_accumulate_by_latent,
    .sum_by_latent = rf_cpu_sum_by_latent,
    .row_sum = rf_cpu_row_sum,
    .sum_squares = rf_cpu_sum_squares,
    .update_rows = rf_cpu_update_rows,
    .apply_row_rule = rf_cpu_apply_row_rule,
    .row_norms = rf_cpu_row_norms,
    .row_norms_grad = rf_cpu_row_norms_grad,
    .gated_values = rf_cpu_gated_values,
    .gated_values_grad = rf_cpu_gated_values_grad,
    .jump_window_grad = rf_cpu_jump_window_grad,
    .penalty = rf_cpu_penalty,
    .dense_values = rf_cpu_dense_values,
    .dense_relu = rf_cpu_dense_relu,
    .dense_grad = rf_cpu_dense_grad,
    .normalise_tokens = rf_cpu_normalise_tokens,
    .denormalise_tokens = rf_cpu_denormalise_tokens,
    .track_fired = rf_cpu_track_fired,
    .mark_dead = rf_cpu_mark_dead,

    .all_gather = cpu_all_gather,
    .all_to_all = cpu_all_to_all,
    .all_sum_f32 = cpu_all_sum_f32,
    .all_sum_i64 = cpu_all_sum_i64,
};

/* The widest instructions that a library may have dispatched to. */
static const char *instruction_set(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) {
        return "x86-64 avx512";
    }
    return __builtin_cpu_supports("avx2") ? "x86-64 avx2" : "x86-64";
#else
    return "generic";
#endif
}

rf_status rf_backend_cpu_create(int n_threads, rf_backend **out)
{
    rf_status status = RF_OK;
    rf_cpu_backend *be = NULL;
    char gemm[64];

    RF_REQUIRE(n_threads >= 0 && n_threads <= 4096, "n_threads=%d, expected 0 to 4096", n_threads);
    RF_ALLOC(be, 1);
    be->base.ops = &cpu_ops;
    be->base.joins_products = true;
    be->n_threads = n_threads > 0 ? n_threads : omp_get_max_threads();
    rf_cpu_gemm_describe(gemm, sizeof gemm);
    RF_TRY(rf_format(be->base.description, sizeof be->base.description, "cpu, %s, %s",
                     instruction_set(), gemm));
    *out = &be->base;
    be = NULL;
fail:
    rf_free(be);
    return status;
}
