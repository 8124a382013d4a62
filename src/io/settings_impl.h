/* Settings whose value may be a list or a map (settings_several.c). */
#ifndef REFRACT_SETTINGS_IMPL_H
#define REFRACT_SETTINGS_IMPL_H

#include "io_impl.h"

/* Bytes of a row's field. */
size_t rf_setting_bytes(const rf_setting *row);
bool rf_setting_is_in_range(const rf_setting *row, double v);
/* "a whole number in [1, 10]": what a number of the row may be. */
void rf_setting_describe_number(const rf_setting *row, const char *what, char *out,
                                size_t out_bytes);

/* How many entries `choices` of an I64_BY row has. */
int rf_setting_n_choices(const rf_setting *row);
/* Append the first word of choice `idx` ("patch" of "patch|spatial"). */
rf_status rf_setting_append_choice(const rf_setting *row, int idx, rf_str *out);
/* "cls, register, patch or any" */
rf_status rf_setting_append_choices(const rf_setting *row, rf_str *out);

/* Put the value of a NAMES or I64_BY row, a scalar, list or map, into its field. Errors: SETTING
 * with the place and the key path ("path.key", and ".name" of a map's entry). */
rf_status rf_setting_read_names(const rf_setting *row, const rf_yaml *item, const char *path,
                                const char *dot, void *field);
rf_status rf_setting_read_i64_by(const rf_setting *row, const rf_yaml *item, const char *path,
                                 const char *dot, void *field);
/* And back as YAML. */
rf_status rf_setting_format_names(const char *names, rf_str *out);
rf_status rf_setting_format_i64_by(const rf_setting *row, const void *field, rf_str *out);
/* A text, quoted where it must be (settings_help.c). */
rf_status rf_setting_append_text(const char *text, rf_str *out);

#endif
