/* A job to be killed: each rank prints its process id, then all add numbers without end. With an
 * argument R, rank R kills itself with SIGKILL before its 20th sum. */
#include "refract/comm.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    rf_comm *world = NULL;
    rf_status status = RF_OK;
    int64_t victim = -1;
    float data[1000] = {0};

    RF_TRY(rf_comm_start(&argc, &argv, &world));
    if (argc > 1) {
        RF_TRY(rf_parse_i64(argv[1], &victim));
    }
    printf("pid %ld\n", (long)getpid());
    fflush(stdout);
    for (int round = 0;; round++) {
        if (round == 20 && victim == rf_comm_rank(world)) {
            kill(getpid(), SIGKILL);
        }
        RF_TRY(rf_comm_sum_f32(world, data, 1000));
        usleep(10000);
    }
fail:
    fprintf(stderr, "%s\n", rf_error_text());
    rf_comm_finish(world);
    return 1;
}
