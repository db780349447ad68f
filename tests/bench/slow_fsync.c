/* Makes each fsync and fdatasync of a process take DELAY_MS longer: a slow disk for one program, by LD_PRELOAD.
 * The real call is made first, so that what is durable stays so. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <time.h>

static int slowed(const char *name, int descriptor) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int done = real(descriptor);
    struct timespec left = {DELAY_MS / 1000, DELAY_MS % 1000 * 1000000L};
    while (nanosleep(&left, &left)) {}
    return done;
}

int fsync(int descriptor) { return slowed("fsync", descriptor); }
int fdatasync(int descriptor) { return slowed("fdatasync", descriptor); }
