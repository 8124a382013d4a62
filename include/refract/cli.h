/* cli: one file per command. */
#ifndef REFRACT_CLI_H
#define REFRACT_CLI_H

#ifdef __cplusplus
extern "C" {
#endif

/* Run the command line. Returns the exit code: 0 done, 1 failed, 2 usage. */
int rf_cli_run(int argc, char **argv);

#ifdef __cplusplus
}
#endif

#endif
