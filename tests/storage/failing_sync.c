/* LD_PRELOAD shim: fails syncs, as its control file asks.

   FAILING_SYNC names a file with a line "SUFFIX COUNT": fdatasync(2) and fsync(2) of a file whose name ends with SUFFIX
   fail with EIO as often as COUNT says; -1 is for ever. The file is read at each call, so that a test can change it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(int descriptor)
{
    char link[64], path[PATH_MAX], suffix[256];
    const char *control = getenv("FAILING_SYNC");
    int count, found = 0;
    FILE *file;

    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || control == NULL || (file = fopen(control, "r+")) == NULL)
        return 0;
    path[length] = 0;
    if (fscanf(file, "%255s %d", suffix, &count) == 2 && count != 0) {
        size_t size = strlen(suffix);
        if ((size_t)length >= size && strcmp(path + length - size, suffix) == 0) {
            found = 1;
            if (count > 0) {
                rewind(file);
                fprintf(file, "%s %d    \n", suffix, count - 1);
            }
        }
    }
    fclose(file);
    return found;
}

static int call(const char *name, int descriptor)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (fails(descriptor)) {
        errno = EIO;
        return -1;
    }
    return real(descriptor);
}

int fdatasync(int descriptor) { return call("fdatasync", descriptor); }
int fsync(int descriptor) { return call("fsync", descriptor); }
