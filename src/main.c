/* mempulse: the command table. */
#include <stdio.h>
#include <string.h>

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

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";

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
