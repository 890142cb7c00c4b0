/* Gives a fuzz target the inputs named on the command line, files or folders of files:
 * how findings stay fixed under any compiler, and how one is looked at in a debugger. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

#define INPUT_MAX (16u << 20)

#pragma weak LLVMFuzzerInitialize

static unsigned inputs;

static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc(INPUT_MAX), *exact;
    size_t n;

    if (!f || !data) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        free(data);
        return 1;
    }
    n = fread(data, 1, INPUT_MAX, f);
    fclose(f);
    exact = realloc(data, n ? n : 1); /* a byte too far is outside */
    LLVMFuzzerTestOneInput(exact ? exact : data, n);
    free(exact ? exact : data);
    inputs++;
    return 0;
}

static int replay_folder(const char *path)
{
    struct dirent **names;
    int n = scandir(path, &names, NULL, alphasort), failed = n < 0;

    for (int i = 0; i < n; i++) {
        char file[4096];

        snprintf(file, sizeof(file), "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.')
            failed |= replay_file(file);
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    return failed;
}

int main(int argc, char **argv)
{
    FILE *out = stdout; /* targets may put others in its place */
    int failed = 0;

    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        struct stat st;

        failed |= stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode) ? replay_folder(argv[i]) : replay_file(argv[i]);
    }
    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    fprintf(out, "%u inputs\n", inputs);
    return failed || !inputs;
}
