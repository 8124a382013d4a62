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

/* Each operation is of one family, and each family has a conformance test, which ends with the
 * proof that all of them were compared: together they have tried the whole table. */
typedef enum rf_shadow_family {
    RF_SHADOW_DENSE,  /* test_conformance_dense.c */
    RF_SHADOW_CODES,  /* test_conformance_codes.c */
    RF_SHADOW_ENCODE, /* test_conformance_encode.c */
    RF_SHADOW_RANKS   /* test_mpi_conformance_ranks.c */
} rf_shadow_family;

/* Since the process began: names of the table's operations (NULL behind the last), and how often
 * one was compared. */
const char *rf_shadow_op_name(int i);
rf_shadow_family rf_shadow_op_family(int i);
int64_t rf_shadow_n_compared(const char *op);

#endif
