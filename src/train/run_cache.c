/* `refract cache`: the activation store of a run, written by its models. */
#include "run_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- which sites -------------------------------------------------------------------------------
 */

typedef struct hook_list {
    rf_reader_site *sites;   /* [n]: in one piece, readers point into it */
    rf_reader_opts *readers; /* [n] */
    int64_t n;
} hook_list;

static void hook_list_fini(hook_list *list)
{
    rf_free(list->readers);
    rf_free(list->sites);
}

static rf_status add_hook(const rf_training *t, const char *name, hook_list *list)
{
    rf_status status = RF_OK;
    const char *hook = NULL;
    rf_reader_site *site = &list->sites[list->n];

    if (list->n == RF_STORE_MAX_SITES) {
        RF_FAIL(RF_ERR_SETTING, "more than %d hook points", (int)RF_STORE_MAX_SITES);
    }
    RF_TRY(rf_run_settings_site(t->settings, name, &site->model, &hook));
    RF_TRY(rf_training_find_point(t, site->model, hook, &site->point));
    list->readers[list->n++] =
        (rf_reader_opts){.sites = site,
                         .n_sites = 1,
                         .tokens = (rf_token_class)t->settings->activations.tokens,
                         .batch_tokens = 1,
                         .epochs = 1};
fail:
    return status;
}

/* A name with {a..b} stands for several. */
static rf_status add_hooks(const rf_training *t, const char *name, hook_list *list)
{
    rf_status status = RF_OK;
    char one[RF_NAME_LEN], *end = NULL;
    const char *open = strchr(name, '{'), *close = strchr(name, '}');

    if (open == NULL) {
        return add_hook(t, name, list);
    }
    const int64_t first = strtoll(open + 1, &end, 10);
    const bool has_dots = end != open + 1 && strncmp(end, "..", 2) == 0;
    const char *second = has_dots ? end + 2 : end;
    const int64_t last = has_dots ? strtoll(second, &end, 10) : -1;
    if (!has_dots || end == second || end != close || first < 0 || last < first ||
        last - first >= RF_STORE_MAX_SITES) {
        RF_FAIL(RF_ERR_SETTING, "'%s': expected {a..b} with a <= b", name);
    }
    for (int64_t i = first; i <= last; i++) {
        RF_TRY(rf_format(one, sizeof one, "%.*s%" PRId64 "%s", (int)(open - name), name, i,
                         close + 1));
        RF_TRY(add_hook(t, one, list));
    }
fail:
    return status;
}

static rf_status read_hooks(const rf_training *t, hook_list *list)
{
    rf_status status = RF_OK;
    char name[RF_NAME_LEN];

    RF_ALLOC(list->sites, RF_STORE_MAX_SITES + 1);
    RF_ALLOC(list->readers, RF_STORE_MAX_SITES);
    for (const char *at = t->settings->activations.hooks; *at != '\0';) {
        const size_t n = strcspn(at, ",");
        RF_TRY(rf_format(name, sizeof name, "%.*s", (int)n, at));
        RF_TRY_DOING(add_hooks(t, name, list), "activations.hooks");
        at += at[n] == '\0' ? n : n + 2;
    }
fail:
    return status;
}

/* What the coders read, where no hooks are named. */
static rf_status read_coders(const rf_training *t, hook_list *list)
{
    rf_status status = RF_OK;

    RF_ALLOC(list->readers, t->settings->n_coders);
    for (int64_t i = 0; i < t->settings->n_coders; i++) {
        list->readers[list->n++] = rf_training_reader(&t->coders[i]);
    }
fail:
    return status;
}

/* ---- the run -----------------------------------------------------------------------------------
 */

static void fill_report(const rf_store *store, rf_cache_report *report)
{
    const rf_store_head *head = rf_store_get_head(store);

    report->n_sites = head->n_sites;
    report->n_pictures = head->n_pictures;
    report->n_groups = rf_store_n_groups(store);
    for (int64_t s = 0; s < head->n_sites; s++) {
        report->n_bytes += (double)head->n_pictures * (double)head->sites[s].n_rows *
                           (double)head->sites[s].width * (double)rf_dtype_bytes(head->dtype);
    }
}

static rf_status write_store(rf_training *t, const hook_list *list, rf_cache_report *report)
{
    rf_status status = RF_OK;
    rf_activation_stream_opts opts = rf_training_stream_opts(t);

    opts.share = 1; /* a store holds all: what is read of it, training says */
    RF_TRY(rf_training_create_store(t, &opts, list->readers, list->n));
    opts.store = t->store;
    fill_report(t->store, report);
    RF_TRY(rf_store_fill(&opts, list->readers, list->n, &report->n_written));
fail:
    return status;
}

rf_status rf_cache_run(const rf_comm *comm, const rf_run_settings *settings,
                       rf_cache_report *report)
{
    rf_status status = RF_OK;
    const double start = rf_now();
    rf_training t = {.comm = comm, .settings = settings, .saved_tick = -1};
    hook_list list = {0};

    *report = (rf_cache_report){0};
    RF_REQUIRE(settings->activations.source != RF_ACTIVATIONS_STORE,
               "activations.source is store: there is nothing to write; leave it at live");
    RF_TRY(rf_run_store_path(settings, report->path));
    RF_TRY(rf_training_open_data(&t));
    RF_TRY(rf_comm_agree(comm, settings->activations.hooks[0] != '\0' ? read_hooks(&t, &list)
                                                                      : read_coders(&t, &list)));
    RF_TRY(write_store(&t, &list, report));
fail:
    report->seconds = rf_now() - start;
    hook_list_fini(&list);
    rf_training_close(&t);
    return status;
}
