/* Which pictures a run is evaluated on: those that it held out and those that it was trained on, or
 * others, none of which may be one of the latter. */
#include "eval_impl.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- none was trained on ----------------------------------------------------------------------
 */

/* Pictures by where they really lie: the folder of all, resolved, in front of their names. Sorted
 * like the names. */
typedef struct places {
    const rf_picture_list *list;
    rf_picture_split split;
    int64_t n;
    char folder[PATH_MAX];
} places;

static rf_status find_folder(places *p)
{
    rf_status status = RF_OK;
    char path[RF_PATH_LEN];

    p->n = rf_picture_list_n(p->list, p->split);
    p->folder[0] = '\0';
    if (p->n > 0) {
        RF_TRY(rf_picture_list_path(p->list, p->split, 0, path));
        const size_t n = strlen(path), tail = strlen(rf_picture_list_name(p->list, p->split, 0));
        path[n > tail ? n - tail : 0] = '\0';
        if (realpath(path[0] != '\0' ? path : ".", p->folder) ==
            NULL) { /* not a folder: as it is */
            RF_TRY(rf_format(p->folder, sizeof p->folder, "%s", path));
        }
    }
fail:
    return status;
}

/* strcmp of FOLDER/NAME of both. */
static int compare_places(const places *a, int64_t i, const places *b, int64_t j)
{
    const char *const parts[2][3] = {{a->folder, "/", rf_picture_list_name(a->list, a->split, i)},
                                     {b->folder, "/", rf_picture_list_name(b->list, b->split, j)}};
    const char *at[2] = {parts[0][0], parts[1][0]};
    int part[2] = {0, 0};

    while (true) {
        for (int s = 0; s < 2; s++) {
            while (at[s][0] == '\0' && part[s] < 2) {
                at[s] = parts[s][++part[s]];
            }
        }
        if (at[0][0] != at[1][0] || at[0][0] == '\0') {
            return (int)(unsigned char)at[0][0] - (int)(unsigned char)at[1][0];
        }
        at[0]++;
        at[1]++;
    }
}

/* How many lie in both, and where one of them is in `a`. */
static int64_t count_common(const places *a, const places *b, int64_t *first)
{
    int64_t n = 0;
    for (int64_t i = 0, j = 0; i < a->n && j < b->n;) {
        const int order = compare_places(a, i, b, j);
        if (order == 0) {
            *first = n == 0 ? i : *first;
            n++;
        }
        i += order <= 0;
        j += order >= 0;
    }
    return n;
}

static rf_status check_other(const rf_comm *comm, const rf_eval_pictures *p, const char *path)
{
    rf_status status = RF_OK;
    places *other = NULL, *trained = NULL;
    int64_t first = 0;

    RF_ALLOC(other, 1);
    RF_ALLOC(trained, 1);
    *other = (places){.list = p->other, .split = RF_SPLIT_ALL};
    *trained = (places){.list = p->own, .split = RF_SPLIT_TRAIN};
    RF_TRY(find_folder(other));
    RF_TRY(find_folder(trained));
    const int64_t n = count_common(other, trained, &first);
    if (n > 0) {
        RF_FAIL(RF_ERR_SETTING,
                "pictures: %" PRId64 " of the %" PRId64 " of '%s' were trained on (%s, for one): "
                "leave pictures= out to measure on those that the run held out",
                n, other->n, path, rf_picture_list_name(p->other, RF_SPLIT_ALL, first));
    }
    if (rf_comm_rank(comm) == 0 && rf_picture_list_hash(p->other) == rf_picture_list_hash(p->own)) {
        rf_log(RF_LOG_WARN,
               "the pictures of '%s' have the names of the run's: if they are copies, they are not "
               "held out",
               path);
    }
fail:
    rf_free(trained);
    rf_free(other);
    return status;
}

/* ---- the lists --------------------------------------------------------------------------------
 */

/* Collective. */
static rf_status open_own(const rf_comm *comm, const rf_run_settings *run,
                          const rf_eval_settings *settings, rf_eval_pictures *out)
{
    rf_status status = RF_OK;
    const bool has_other = settings->pictures[0] != '\0';

    if (run->data.path[0] == '\0' && !has_other) {
        RF_FAIL(RF_ERR_SETTING, "the run does not say where its pictures are, as it was trained "
                                "from a store: write data.path=PICTURES behind it (or "
                                "pictures=OTHERS to measure on)");
    }
    if (run->data.path[0] == '\0') {
        return RF_OK;
    }
    status = rf_comm_agree(comm, rf_run_settings_pictures(run, comm, &out->own));
    if (status != RF_OK && has_other && !settings->trained_on) {
        if (rf_comm_rank(comm) == 0) {
            rf_log(RF_LOG_WARN, "whether some of '%s' were trained on cannot be told: %s",
                   settings->pictures, rf_error_text());
        }
        status = RF_OK;
    } else if (status != RF_OK && has_other) {
        rf_error_context("the pictures trained on, which are measured beside the others; "
                         "trained_on=false does without");
    }
fail:
    return status;
}

rf_status rf_eval_pictures_open(const rf_comm *comm, const rf_run_settings *run,
                                const rf_eval_settings *settings, rf_eval_pictures *out)
{
    rf_status status = RF_OK;
    const rf_picture_list_opts opts = {.path = settings->pictures,
                                       .root = settings->root,
                                       .part = (rf_picture_part)settings->part,
                                       .comm = comm};

    *out = (rf_eval_pictures){.own = NULL};
    RF_TRY(open_own(comm, run, settings, out));
    if (settings->pictures[0] != '\0') {
        RF_TRY_DOING(rf_comm_agree(comm, rf_picture_list_open(&opts, &out->other)), "pictures");
        if (out->own != NULL) {
            RF_TRY(rf_comm_agree(comm, check_other(comm, out, settings->pictures)));
        }
    }
fail:
    return status;
}

void rf_eval_pictures_close(rf_eval_pictures *pictures)
{
    rf_picture_list_close(pictures->other);
    rf_picture_list_close(pictures->own);
    *pictures = (rf_eval_pictures){.own = NULL};
}

const rf_picture_list *rf_eval_pictures_of(const rf_eval_pictures *pictures, rf_picture_split split,
                                           rf_picture_split *part)
{
    const bool is_other = split == RF_SPLIT_HELD_OUT && pictures->other != NULL;
    *part = is_other ? RF_SPLIT_ALL : split;
    return is_other ? pictures->other : pictures->own;
}
