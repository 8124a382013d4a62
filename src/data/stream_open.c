/* A stream's source by its options: live, a store, or both. */
#include "source_impl.h"

#include <string.h>

static const char *model_name(const rf_activation_stream_opts *opts, int model)
{
    return opts->model_names != NULL ? opts->model_names[model] : "";
}

rf_status rf_stream_frame_of(const rf_activation_stream_opts *opts, rf_stream_frame *out)
{
    rf_status status = RF_OK;
    const bool is_live = opts->n_vits > 0;
    const rf_store_head *head = opts->store != NULL ? rf_store_get_head(opts->store) : NULL;

    RF_REQUIRE(is_live || head != NULL, "a stream needs models or a store");
    RF_REQUIRE(opts->n_vits <= RF_MAX_MODELS && opts->n_names <= RF_MAX_MODELS,
               "%d models, expected at most %d",
               opts->n_vits > opts->n_names ? opts->n_vits : opts->n_names, (int)RF_MAX_MODELS);
    if (head != NULL && opts->group_pictures != head->group_pictures) {
        RF_FAIL(RF_ERR_SETTING,
                "activations.group_pictures is %" PRId64
                " and the store '%s' has groups of %" PRId64
                ": set activations.group_pictures=%" PRId64,
                opts->group_pictures, rf_store_path(opts->store), head->group_pictures,
                head->group_pictures);
    }
    *out = (rf_stream_frame){
        .stream = opts->stream,
        .comm = opts->comm,
        .n_models = is_live ? opts->n_vits : (opts->n_names > 1 ? opts->n_names : 1),
        .store = is_live ? NULL : opts->store,
        .n_pictures = is_live ? rf_picture_list_n(opts->pictures, opts->split) : head->n_pictures,
        .group_pictures = opts->group_pictures,
        .pool_groups = opts->pool_groups,
        .seed = opts->seed,
        .pictures_hash = is_live ? rf_picture_list_hash(opts->pictures) : head->picture_hash,
        .keep_bytes = opts->keep_bytes,
        .deals_as_first = is_live && head != NULL,
        .max_bad_share = opts->max_bad_share,
        .share = opts->share,
    };
    for (int m = 0; m < out->n_models; m++) {
        out->configs[m] = is_live ? rf_vit_get_config(opts->vits[m]) : NULL;
        out->models[m] = model_name(opts, m);
    }
fail:
    return status;
}

static rf_status create_source(const rf_activation_stream_opts *opts, const rf_stream_frame *frame,
                               const rf_reader_opts *readers, int64_t n_readers,
                               rf_group_source *out)
{
    rf_status status = RF_OK;
    rf_group_source live = {0};
    rf_site *sites = NULL;
    int64_t n_sites = 0;

    if (opts->n_vits > 0) {
        RF_TRY(rf_live_source_create(opts, readers, n_readers, &live));
    }
    if (opts->store == NULL) {
        *out = live;
        return RF_OK;
    }
    status = rf_site_list(frame, readers, n_readers, &sites, &n_sites);
    if (status != RF_OK && live.destroy != NULL) {
        live.destroy(live.self);
    }
    RF_TRY(status);
    RF_TRY(opts->n_vits > 0 ? rf_cached_source_create(opts, sites, n_sites, live, out)
                            : rf_store_source_create(opts, sites, n_sites, out));
fail:
    rf_free(sites);
    return status;
}

/* A share of the groups leaves the store unfinished, which whoever reads it later has to know. */
static void tell_of_share(const rf_activation_stream_opts *opts, const rf_activation_stream *st)
{
    if (opts->n_vits == 0 || opts->store == NULL || rf_comm_rank(opts->comm) != 0) {
        return;
    }
    const int64_t n = st->order.n_groups, n_all = rf_store_n_groups(opts->store);
    if (n < n_all && rf_store_check_finished(opts->store) != RF_OK) {
        rf_log(RF_LOG_WARN,
               "activations.share is %g: this run writes %" PRId64 " of the %" PRId64
               " groups of '%s' and reads those again. activations.source=store wants all of them: "
               "'refract cache' with the same settings adds the others",
               opts->share, n, n_all, rf_store_path(opts->store));
    }
}

rf_status rf_activation_stream_open(const rf_activation_stream_opts *opts,
                                    const rf_reader_opts *readers, int64_t n_readers,
                                    rf_activation_stream **out)
{
    rf_status status = RF_OK;
    rf_group_source source = {0};
    rf_stream_frame frame;

    *out = NULL;
    status = rf_stream_frame_of(opts, &frame);
    if (status == RF_OK) {
        status = create_source(opts, &frame, readers, n_readers, &source);
    }
    status = rf_comm_agree(opts->comm, status);
    if (status != RF_OK) {
        if (source.destroy != NULL) {
            source.destroy(source.self);
        }
        return status;
    }
    status = rf_activation_stream_assemble(&frame, source, readers, n_readers, out);
    if (status == RF_OK) {
        tell_of_share(opts, *out);
    }
    return status;
}
