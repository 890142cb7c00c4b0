/* mempulse: the command table. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd.h"

static const struct command *const commands[] = {&cmd_inject, &cmd_detach, &cmd_status};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void usage(FILE *out)
{
    fputs("usage: mempulse COMMAND [OPTIONS] -p PID\n\n"
          "Tells which function of a running Python process eats its memory.\n\n", out);
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-8s %s\n", commands[i]->name, commands[i]->summary);
    fputs("\n  mempulse COMMAND --help   options of a command\n"
          "  mempulse --version\n", out);
}

/* Standard descriptors that are closed become /dev/null: else the first descriptor that
 * we open gets the number, and what is printed goes into it. Lowest first, so that open
 * gives the very number. */
static int open_standard(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDWR) != fd)
            return -1;
    return 0;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";

    if (open_standard())
        return 70; /* MP_E_INTERNAL: there is nowhere to say it */
    if (argc == 3 && !strcmp(argv[2], "--version")) /* of a command: the same */
        name = argv[2];
    if (!strcmp(name, "--version") || !strcmp(name, "-V")) {
        puts("mempulse " MP_VERSION);
        return 0;
    }
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        usage(stdout);
        return 0;
    }
    for (size_t i = 0; i < COMMANDS; i++)
        if (!strcmp(commands[i]->name, name))
            return commands[i]->run(argc - 1, argv + 1);
    if (*name)
        fprintf(stderr, "mempulse: there is no command '%s'\n", name);
    usage(stderr);
    return 2;
}
