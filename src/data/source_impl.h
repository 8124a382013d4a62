/* Where groups of activations come from: pictures through a model (live), a store, or both. Local
 * but where it says Collective. */
#ifndef REFRACT_SOURCE_IMPL_H
#define REFRACT_SOURCE_IMPL_H

#include "data_impl.h"

/* Pictures are decoded ahead and go through the models; values are rounded through opts->dtype. */
rf_status rf_live_source_create(const rf_activation_stream_opts *opts,
                                const rf_reader_opts *readers, int64_t n_readers,
                                rf_group_source *out);

/* The groups of `store`, which is borrowed, are read ahead; sites are those of `sites`. */
rf_status rf_store_source_create(const rf_activation_stream_opts *opts, const rf_site *sites,
                                 int64_t n_sites, rf_group_source *out);

/* Groups that opts->store has come from there; the others from `live`, which is taken (also on
 * failure), and are written to the store, whose sites are `sites`. */
rf_status rf_cached_source_create(const rf_activation_stream_opts *opts, const rf_site *sites,
                                  int64_t n_sites, rf_group_source live, rf_group_source *out);

/* The frame that `opts` say, for sites and readers. */
rf_status rf_stream_frame_of(const rf_activation_stream_opts *opts, rf_stream_frame *out);

#endif
