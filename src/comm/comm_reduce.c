/* Reductions over ranks. Floats are added in rank order, so that their bits depend on values only.
 */
#include "comm_impl.h"

#include <limits.h>

/* Each rank adds one share of the piece for all, in rank order; the sums go round. `type` is the
 * element. The scratch takes `size` copies of a share: at most the piece and one element a rank. */
#define DEFINE_SUM(suffix, type)                                                                   \
    static rf_status sum_piece_##suffix(const rf_comm *comm, type *piece, int64_t n)               \
    {                                                                                              \
        rf_status status = RF_OK;                                                                  \
        type *copies = comm->scratch;                                                              \
        int64_t first = 0, count = 0;                                                              \
        RF_TRY(gather_copies(comm, piece, copies, n, sizeof *piece, &first, &count));              \
        for (int64_t i = 0; i < count; i++) {                                                      \
            type sum = copies[i];                                                                  \
            for (int r = 1; r < comm->size; r++) {                                                 \
                sum += copies[r * count + i];                                                      \
            }                                                                                      \
            piece[first + i] = sum;                                                                \
        }                                                                                          \
        RF_TRY(spread_sums(comm, piece, n, sizeof *piece));                                        \
    fail:                                                                                          \
        return status;                                                                             \
    }                                                                                              \
                                                                                                   \
    rf_status rf_comm_sum_##suffix(const rf_comm *comm, type *data, int64_t n)                     \
    {                                                                                              \
        rf_status status = RF_OK;                                                                  \
        const int64_t most = RF_COMM_SCRATCH_BYTES / (int64_t)sizeof *data;                        \
        RF_REQUIRE(n >= 0, "n=%" PRId64 ", expected >= 0", n);                                     \
        RF_TRY(rf_comm_check_same(comm, "the length of a sum", n));                                \
        for (int64_t at = 0; comm->size > 1 && at < n; at += most) {                               \
            RF_TRY(sum_piece_##suffix(comm, data + at, rf_min_i64(most, n - at)));                 \
        }                                                                                          \
    fail:                                                                                          \
        return status;                                                                             \
    }

/* Counts and offsets in bytes of the shares of `n` elements. */
static void lay_out_shares(const rf_comm *comm, int64_t n, size_t elem_bytes, int *counts,
                           int *offsets)
{
    for (int r = 0; r < comm->size; r++) {
        int64_t first, count;
        rf_comm_share(n, 1, r, comm->size, &first, &count);
        counts[r] = (int)(count * (int64_t)elem_bytes); /* at most RF_COMM_SCRATCH_BYTES */
        offsets[r] = (int)(first * (int64_t)elem_bytes);
    }
}

/* All ranks' copies of this rank's share [size, count], in rank order. */
static rf_status gather_copies(const rf_comm *comm, const void *piece, void *copies, int64_t n,
                               size_t elem_bytes, int64_t *first, int64_t *count)
{
    int size = comm->size;
    int *counts = comm->counts;

    lay_out_shares(comm, n, elem_bytes, counts, counts + size);
    rf_comm_share(n, 1, comm->rank, size, first, count);
    for (int r = 0; r < size; r++) {
        counts[2 * size + r] = counts[comm->rank];
        counts[3 * size + r] = counts[comm->rank] * r;
    }
    return rf_comm_checked(MPI_Alltoallv(piece, counts, counts + size, MPI_BYTE, copies,
                                         counts + 2 * size, counts + 3 * size, MPI_BYTE, comm->mpi),
                           "MPI_Alltoallv");
}

static rf_status spread_sums(const rf_comm *comm, void *piece, int64_t n, size_t elem_bytes)
{
    lay_out_shares(comm, n, elem_bytes, comm->counts, comm->counts + comm->size);
    return rf_comm_checked(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, piece, comm->counts,
                                          comm->counts + comm->size, MPI_BYTE, comm->mpi),
                           "MPI_Allgatherv");
}

DEFINE_SUM(f32, float)
DEFINE_SUM(f64, double)

/* Integers: every order gives the same result, so MPI may choose. */
static rf_status reduce_i64(const rf_comm *comm, int64_t *data, int64_t n, MPI_Op op)
{
    rf_status status = RF_OK;
    const int64_t most = rf_max_i64(1, rf_comm_message_limit() / (int64_t)sizeof *data);

    RF_REQUIRE(n >= 0, "n=%" PRId64 ", expected >= 0", n);
    RF_TRY(rf_comm_check_same(comm, "the length of a reduction", n));
    for (int64_t at = 0; comm->size > 1 && at < n; at += most) {
        RF_TRY(rf_comm_checked(MPI_Allreduce(MPI_IN_PLACE, data + at, (int)rf_min_i64(most, n - at),
                                             MPI_INT64_T, op, comm->mpi),
                               "MPI_Allreduce"));
    }
fail:
    return status;
}

rf_status rf_comm_sum_i64(const rf_comm *comm, int64_t *data, int64_t n)
{
    return reduce_i64(comm, data, n, MPI_SUM);
}

rf_status rf_comm_max_i64(const rf_comm *comm, int64_t *data, int64_t n)
{
    return reduce_i64(comm, data, n, MPI_MAX);
}
