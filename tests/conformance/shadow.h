/* A backend that runs every operation twice: by a reference on the caller's memory, and by a device
 * under test on copies of its own. What the two leave must agree: to the bit where
 * docs/determinism.md promises it, else within the tolerance that the table (table_*.c) gives; and
 * the device must leave alone what an operation does not write. So every test that hands host
 * arrays to rf_* functions becomes a test of the device.
 *
 * REFRACT_SHADOW_REPORT=1 prints at the end what was called and the largest errors seen; any other
 * value names a file that the lines are appended to. */
#ifndef REFRACT_TESTS_SHADOW_H
#define REFRACT_TESTS_SHADOW_H

#include "refract/tensor.h"

/* Memory, streams, events, name and description are those of `reference`, which must take host
 * memory. Takes both, also where it fails. */
rf_status rf_shadow_create(rf_backend *reference, rf_backend *device, rf_backend **out);

/* What becomes of a disagreement: `text` says operation, argument, shapes, place and both values.
 * NULL, the default: it is printed and the process aborts. With another the call goes on with the
 * reference's result. */
typedef void rf_shadow_handler(void *user, const char *text);
void rf_shadow_set_handler(rf_shadow_handler *handler, void *user);

/* Since the process began: names of the table's operations (NULL behind the last), and how often
 * one was compared. */
const char *rf_shadow_op_name(int i);
int64_t rf_shadow_n_compared(const char *op);

#endif
