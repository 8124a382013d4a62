/* The program: everything is in `cli`. */
#include "refract/cli.h"

int main(int argc, char **argv)
{
    return rf_cli_run(argc, argv);
}
