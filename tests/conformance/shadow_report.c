/* How often what was compared, and the largest errors seen. */
#include "shadow_impl.h"

#include <stdlib.h>
#include <string.h>

typedef struct op_counts {
    int64_t n_compared, n_refused, n_other_bits, n_one_sided;
    double worst;
} op_counts;

static op_counts counts[SHADOW_N_OPS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool is_at_exit;

const char *rf_shadow_op_name(int i)
{
    static const char *const names[] = {
#define SHADOW_NAME(op, family) #op,
        SHADOW_OPS(SHADOW_NAME)
#undef SHADOW_NAME
            NULL};
    return names[i];
}

rf_shadow_family rf_shadow_op_family(int i)
{
    static const rf_shadow_family families[] = {
#define SHADOW_FAMILY(op, family) RF_SHADOW_##family,
        SHADOW_OPS(SHADOW_FAMILY)
#undef SHADOW_FAMILY
    };
    return families[i];
}

int64_t rf_shadow_n_compared(const char *op)
{
    int64_t n = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < SHADOW_N_OPS; i++) {
        n += strcmp(op, rf_shadow_op_name(i)) == 0 ? counts[i].n_compared : 0;
    }
    pthread_mutex_unlock(&lock);
    return n;
}

void shadow_count(const shadow_call *c, rf_status status)
{
    op_counts *n = &counts[c->op];
    pthread_mutex_lock(&lock);
    n->n_compared += status == RF_OK;
    n->n_refused += status != RF_OK;
    n->n_other_bits += c->has_other_bits;
    n->n_one_sided += c->n_one_sided;
    n->worst = c->worst > n->worst ? c->worst : n->worst;
    pthread_mutex_unlock(&lock);
}

/* Columns: operation, calls compared, calls that the reference refused, calls with other bits
 * (where they may differ), entries that one side alone selected, largest error by row. */
static void report(void)
{
    const char *to = getenv("REFRACT_SHADOW_REPORT");
    FILE *out = strcmp(to, "1") == 0 ? stderr : fopen(to, "a");
    if (out == NULL) {
        perror(to);
        return;
    }
    for (int i = 0; i < SHADOW_N_OPS; i++) {
        const op_counts *n = &counts[i];
        if (n->n_compared + n->n_refused > 0) {
            fprintf(out, "shadow\t%s\t%" PRId64 "\t%" PRId64 "\t%" PRId64 "\t%" PRId64 "\t%.2e\n",
                    rf_shadow_op_name(i), n->n_compared, n->n_refused, n->n_other_bits,
                    n->n_one_sided, n->worst);
        }
    }
    fprintf(out, "shadow\tnever called:");
    for (int i = 0; i < SHADOW_N_OPS; i++) {
        if (counts[i].n_compared == 0) {
            fprintf(out, " %s", rf_shadow_op_name(i));
        }
    }
    fprintf(out, "\n");
    if (out != stderr) {
        fclose(out);
    }
}

void shadow_report_at_exit(void)
{
    pthread_mutex_lock(&lock);
    if (!is_at_exit && getenv("REFRACT_SHADOW_REPORT") != NULL) {
        atexit(report);
    }
    is_at_exit = true;
    pthread_mutex_unlock(&lock);
}
