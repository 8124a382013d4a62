/* Communicators: start and end of MPI, splitting, and agreement on a status. */
#include "comm_impl.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool we_began; /* MPI_Init was ours, so MPI_Finalize is too */

rf_status rf_comm_checked(int code, const char *call)
{
    char reason[MPI_MAX_ERROR_STRING] = "";
    int n = 0;

    if (code == MPI_SUCCESS) {
        return RF_OK;
    }
    if (MPI_Error_string(code, reason, &n) != MPI_SUCCESS) {
        snprintf(reason, sizeof reason, "MPI error %d", code);
    }
    return rf_error_raise(RF_ERR_COMM, __FILE__, __LINE__, "%s failed: %s", call, reason);
}

/* Take `mpi` over, also when this fails. */
static rf_status comm_wrap(MPI_Comm mpi, rf_comm **out)
{
    rf_status status = RF_OK;
    rf_comm *comm = NULL;

    RF_ALLOC(comm, 1);
    comm->mpi = mpi;
    mpi = MPI_COMM_NULL;
    RF_TRY(rf_comm_checked(MPI_Comm_set_errhandler(comm->mpi, MPI_ERRORS_RETURN),
                           "MPI_Comm_set_errhandler"));
    RF_TRY(rf_comm_checked(MPI_Comm_rank(comm->mpi, &comm->rank), "MPI_Comm_rank"));
    RF_TRY(rf_comm_checked(MPI_Comm_size(comm->mpi, &comm->size), "MPI_Comm_size"));
    RF_TRY(rf_comm_checked(MPI_Comm_rank(MPI_COMM_WORLD, &comm->world_rank), "MPI_Comm_rank"));
    RF_ALLOC(comm->companion, 1);
    RF_ALLOC(comm->counts, 4 * (int64_t)comm->size);
    RF_ALLOC(comm->offsets, 2 * (int64_t)comm->size);
    if (comm->size > 1) {
        comm->scratch = rf_calloc(RF_COMM_SCRATCH_BYTES + 16 * (int64_t)comm->size, 1);
        if (comm->scratch == NULL) {
            status = RF_ERR_NO_MEMORY;
            goto fail;
        }
    }
    *out = comm;
    return RF_OK;
fail:
    if (mpi != MPI_COMM_NULL) {
        MPI_Comm_free(&mpi);
    }
    rf_comm_destroy(comm);
    return status;
}

rf_status rf_comm_start(int *argc, char ***argv, rf_comm **world)
{
    rf_status status = RF_OK;
    int is_running = 0, is_over = 0, level = MPI_THREAD_SINGLE;
    MPI_Comm mpi = MPI_COMM_NULL;

    *world = NULL;
    RF_TRY(rf_comm_checked(MPI_Finalized(&is_over), "MPI_Finalized"));
    RF_REQUIRE(!is_over, "MPI has ended in this process and cannot start again");
    RF_TRY(rf_comm_checked(MPI_Initialized(&is_running), "MPI_Initialized"));
    if (!is_running) {
        /* Threads decode pictures and multiply matrices; one at a time calls MPI. */
        RF_TRY(rf_comm_checked(MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &level),
                               "MPI_Init_thread"));
        we_began = true;
    }
    RF_TRY(rf_comm_checked(MPI_Comm_dup(MPI_COMM_WORLD, &mpi), "MPI_Comm_dup"));
    RF_TRY(comm_wrap(mpi, world));
    return RF_OK;
fail:
    rf_comm_finish(NULL);
    return status;
}

void rf_comm_finish(rf_comm *world)
{
    rf_comm_destroy(world);
    if (we_began) {
        we_began = false;
        MPI_Finalize();
    }
}

void rf_comm_abort(const rf_comm *comm, int code)
{
    int is_running = 0, is_over = 0;

    if (MPI_Initialized(&is_running) == MPI_SUCCESS && MPI_Finalized(&is_over) == MPI_SUCCESS &&
        is_running && !is_over) {
        MPI_Abort(comm != NULL ? comm->mpi : MPI_COMM_WORLD, code);
    }
    _exit(code);
}

rf_status rf_comm_split(const rf_comm *parent, int color, rf_comm **out)
{
    rf_status status = RF_OK;
    MPI_Comm mpi = MPI_COMM_NULL;

    *out = NULL;
    if (color < 0) {
        status = rf_error_raise(RF_ERR_INVALID_ARG, __FILE__, __LINE__, "color=%d, expected >= 0",
                                color);
    }
    RF_TRY(rf_comm_agree(parent, status));
    RF_TRY(
        rf_comm_checked(MPI_Comm_split(parent->mpi, color, parent->rank, &mpi), "MPI_Comm_split"));
    status = comm_wrap(mpi, out);
    RF_TRY(rf_comm_agree(parent, status));
fail:
    if (status != RF_OK) {
        rf_comm_destroy(*out);
        *out = NULL;
    }
    return status;
}

rf_status rf_comm_split_host(const rf_comm *parent, rf_comm **out)
{
    rf_status status = RF_OK;
    MPI_Comm mpi = MPI_COMM_NULL;

    *out = NULL;
    RF_TRY(rf_comm_checked(
        MPI_Comm_split_type(parent->mpi, MPI_COMM_TYPE_SHARED, parent->rank, MPI_INFO_NULL, &mpi),
        "MPI_Comm_split_type"));
    status = comm_wrap(mpi, out);
    RF_TRY(rf_comm_agree(parent, status));
fail:
    if (status != RF_OK) {
        rf_comm_destroy(*out);
        *out = NULL;
    }
    return status;
}

void rf_comm_destroy(rf_comm *comm)
{
    if (comm == NULL) {
        return;
    }
    if (comm->companion != NULL) {
        rf_comm_set_companion(comm, NULL, NULL);
    }
    if (comm->mpi != MPI_COMM_NULL) {
        MPI_Comm_free(&comm->mpi);
    }
    rf_free(comm->companion);
    rf_free(comm->scratch);
    rf_free(comm->offsets);
    rf_free(comm->counts);
    rf_free(comm);
}

int rf_comm_rank(const rf_comm *comm)
{
    return comm->rank;
}

int rf_comm_size(const rf_comm *comm)
{
    return comm->size;
}

void *rf_comm_companion(const rf_comm *comm)
{
    return comm->companion->object;
}

void rf_comm_set_companion(const rf_comm *comm, void *companion, void (*destroy)(void *))
{
    rf_comm_guest *guest = comm->companion;
    if (guest->object != NULL && guest->destroy != NULL) {
        guest->destroy(guest->object);
    }
    *guest = (rf_comm_guest){companion, destroy};
}

/* Does `text` name its rank already, because an inner call has agreed on it? */
static bool names_rank(const char *text)
{
    size_t n_digits;

    if (strncmp(text, "rank ", 5) != 0) {
        return false;
    }
    n_digits = strspn(text + 5, "0123456789");
    return n_digits > 0 && text[5 + n_digits] == ':';
}

rf_status rf_comm_agree(const rf_comm *comm, rf_status status)
{
    struct {
        int status;
        char text[RF_ERROR_TEXT_LEN];
    } failure = {.status = (int)status};
    int first = status == RF_OK ? comm->size : comm->rank;
    rf_status comm_status;

    if (comm->size == 1) {
        return status;
    }
    comm_status = rf_comm_checked(
        MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, comm->mpi), "MPI_Allreduce");
    if (comm_status != RF_OK || first == comm->size) {
        return comm_status;
    }
    if (first == comm->rank) {
        if (!names_rank(rf_error_text())) {
            rf_error_context("rank %d", comm->world_rank);
        }
        snprintf(failure.text, sizeof failure.text, "%s", rf_error_text());
    }
    comm_status = rf_comm_checked(
        MPI_Bcast(&failure, (int)sizeof failure, MPI_BYTE, first, comm->mpi), "MPI_Bcast");
    if (comm_status != RF_OK || first == comm->rank) {
        return comm_status != RF_OK ? comm_status : status;
    }
    return rf_error_restore((rf_status)failure.status, failure.text);
}

#if defined(RF_DEBUG)
rf_status rf_comm_check_same(const rf_comm *comm, const char *what, int64_t value)
{
    int64_t ends[2] = {value, ~value}; /* ~ turns the order round without overflow */
    rf_status status = RF_OK;

    RF_TRY(rf_comm_checked(MPI_Allreduce(MPI_IN_PLACE, ends, 2, MPI_INT64_T, MPI_MIN, comm->mpi),
                           "MPI_Allreduce"));
    RF_BUG(ends[0] == ~ends[1], "%s must agree over ranks; it goes from %" PRId64 " to %" PRId64,
           what, ends[0], ~ends[1]);
fail:
    return status;
}
#else
rf_status rf_comm_check_same(const rf_comm *comm, const char *what, int64_t value)
{
    (void)comm;
    (void)what;
    (void)value;
    return RF_OK;
}
#endif

void rf_comm_share(int64_t n_items, int64_t tile, int rank, int size, int64_t *first,
                   int64_t *count)
{
    int64_t n_tiles = rf_ceil_div(n_items, tile);
    int64_t each = n_tiles / size,
            extra = n_tiles % size; /* the first `extra` ranks take one more */
    int64_t begin = (rank * each + rf_min_i64(rank, extra)) * tile;
    int64_t end = begin + (each + (rank < extra ? 1 : 0)) * tile;

    *first = rf_min_i64(begin, n_items);
    *count = rf_min_i64(end, n_items) - *first;
}
