/* cli: one file per command. */
#ifndef REFRACT_CLI_H
#define REFRACT_CLI_H

/* Run the command line. Returns the exit code: 0 done, 1 failed, 2 usage. */
int rf_cli_run(int argc, char **argv);

#endif
