/* LD_PRELOAD shim: storage faults at chosen calls, in a running server and its child processes.
 *
 * The environment variable TORTURE_FAULTS names a control file (struct control, below). It is mapped shared, so a rule
 * that the harness writes takes effect at the next call, in every process that inherited the environment, and the
 * counters of a rule count the calls of all processes together. Without the variable, or while no rule is armed, calls
 * pass straight through. faults.py writes the file; the two layouts must agree.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum call { SYNC = 1, WRITE = 2, OPEN = 4, UNLINK = 8, RENAME = 16, ALLOCATE = 32, TRUNCATE = 64 };
enum action {
    KILL_BEFORE = 1, /* SIGKILL in place of the call */
    KILL_AFTER,      /* SIGKILL as soon as the call has been made */
    FAIL,            /* the call is not made; it returns `error` */
    TEAR,            /* `amount` thousandths of a write, then SIGKILL */
    SHORTEN,         /* `amount` thousandths of a write, at least one octet; returns what was written */
    DELAY,           /* `amount` microseconds, then the call */
    LOSE,            /* the disk below (disk.c) refuses `amount` writes of data while the call runs */
};

#define RULES 16

struct rule {
    int32_t armed;  /* 0: ignored. Written last by the harness. */
    uint32_t calls; /* enum call, or-ed */
    int32_t action;
    int32_t error;  /* errno for FAIL */
    int32_t skip;   /* matching calls that pass before the first fault */
    int32_t times;  /* faults in all */
    int32_t amount;
    int32_t group;  /* SIGKILL to the process group, not to the calling process alone */
    int32_t fired;  /* faults so far */
    int32_t result; /* errno of the last call that was made under LOSE; 0 if it succeeded */
    char pattern[216]; /* fnmatch(3) with FNM_EXTMATCH, over the whole path */
};

struct control {
    int32_t refuse;  /* disk.c: writes of data still to be refused */
    int32_t refused; /* disk.c: writes refused so far */
    int64_t records; /* disk.c: writes and flushes recorded so far */
    int64_t reserved[6];
    struct rule rules[RULES];
};

static struct control *control;

__attribute__((constructor)) static void attach(void)
{
    const char *name = getenv("TORTURE_FAULTS");
    int (*really)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int descriptor = name ? really(name, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0)
        return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (mapped != MAP_FAILED)
        control = mapped;
}

static const char *path_of(int descriptor, char *path)
{
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return path;
}

/* The rule that strikes this call, if any. Either `path` or `descriptor` names the file. */
static struct rule *strikes(enum call call, const char *path, int descriptor)
{
    char found[PATH_MAX];
    if (!control)
        return NULL;
    for (struct rule *rule = control->rules; rule < control->rules + RULES; rule++) {
        if (!__atomic_load_n(&rule->armed, __ATOMIC_ACQUIRE) || !(rule->calls & call))
            continue;
        if (!path)
            path = path_of(descriptor, found);
        if (fnmatch(rule->pattern, path, FNM_EXTMATCH))
            continue;
        if (__atomic_fetch_sub(&rule->skip, 1, __ATOMIC_ACQ_REL) > 0)
            continue;
        if (__atomic_fetch_sub(&rule->times, 1, __ATOMIC_ACQ_REL) <= 0)
            continue;
        __atomic_fetch_add(&rule->fired, 1, __ATOMIC_ACQ_REL);
        return rule;
    }
    return NULL;
}

static void die(const struct rule *rule)
{
    kill(rule->group ? 0 : getpid(), SIGKILL);
    for (;;)
        pause();
}

static void wait_microseconds(int32_t amount)
{
    struct timespec span = {amount / 1000000, amount % 1000000 * 1000L};
    while (nanosleep(&span, &span) && errno == EINTR)
        ;
}

/* Everything but the faults that cut a write. True if the call fails with errno. */
static int before(struct rule *rule)
{
    switch (rule ? rule->action : 0) {
    case KILL_BEFORE:
        die(rule);
        return 0;
    case FAIL:
        errno = rule->error;
        return 1;
    case DELAY:
        wait_microseconds(rule->amount);
        return 0;
    case LOSE:
        __atomic_store_n(&control->refuse, rule->amount, __ATOMIC_RELEASE);
        return 0;
    default:
        return 0;
    }
}

static long after(struct rule *rule, long result)
{
    int error = errno;
    if (rule && rule->action == LOSE) {
        __atomic_store_n(&control->refuse, 0, __ATOMIC_RELEASE);
        __atomic_store_n(&rule->result, result < 0 ? error : 0, __ATOMIC_RELEASE);
    }
    if (rule && rule->action == KILL_AFTER)
        die(rule);
    errno = error;
    return result;
}

static size_t cut(const struct rule *rule, size_t length)
{
    size_t part = length * (size_t)rule->amount / 1000;
    return part ? part : 1;
}

static int cuts(const struct rule *rule, size_t length)
{
    return rule && (rule->action == TEAR || rule->action == SHORTEN) && length > 1;
}

#define REAL(name)                          \
    static __typeof__(name) *really;        \
    if (!really)                            \
    really = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define PASS(hit, call)                           \
    do {                                           \
        struct rule *struck = (hit);              \
        return before(struck) ? -1 : after(struck, call); \
    } while (0)

#define WRITES(hit, length, whole, part)                 \
    do {                                                  \
        struct rule *struck = (hit);                     \
        if (cuts(struck, length)) {                       \
            size_t octets = cut(struck, length);          \
            ssize_t written = part;                       \
            if (struck->action == TEAR)                   \
                die(struck);                              \
            return written;                               \
        }                                                 \
        return before(struck) ? -1 : after(struck, whole); \
    } while (0)

static size_t total(const struct iovec *parts, int count)
{
    size_t length = 0;
    for (int i = 0; i < count; i++)
        length += parts[i].iov_len;
    return length;
}

/* Writes the first `octets` of a vector through one plain write. */
static ssize_t gathered(int descriptor, const struct iovec *parts, int count, size_t octets, off64_t offset)
{
    ssize_t (*append)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    ssize_t (*place)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
    char *buffer = malloc(octets);
    size_t filled = 0;
    if (!buffer)
        return -1;
    for (int i = 0; i < count && filled < octets; i++) {
        size_t length = parts[i].iov_len < octets - filled ? parts[i].iov_len : octets - filled;
        memcpy(buffer + filled, parts[i].iov_base, length);
        filled += length;
    }
    ssize_t written = offset < 0 ? append(descriptor, buffer, filled) : place(descriptor, buffer, filled, offset);
    free(buffer);
    return written;
}

int fdatasync(int fd)
{
    REAL(fdatasync);
    PASS(strikes(SYNC, NULL, fd), really(fd));
}

int fsync(int fd)
{
    REAL(fsync);
    PASS(strikes(SYNC, NULL, fd), really(fd));
}

int sync_file_range(int fd, off64_t offset, off64_t count, unsigned flags)
{
    REAL(sync_file_range);
    PASS(strikes(SYNC, NULL, fd), really(fd, offset, count, flags));
}

ssize_t write(int fd, const void *data, size_t length)
{
    REAL(write);
    WRITES(strikes(WRITE, NULL, fd), length, really(fd, data, length), really(fd, data, octets));
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    REAL(pwrite);
    WRITES(strikes(WRITE, NULL, fd), length, really(fd, data, length, offset), really(fd, data, octets, offset));
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
    REAL(pwrite64);
    WRITES(strikes(WRITE, NULL, fd), length, really(fd, data, length, offset), really(fd, data, octets, offset));
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(writev);
    WRITES(strikes(WRITE, NULL, fd), total(parts, count), really(fd, parts, count),
           gathered(fd, parts, count, octets, -1));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    REAL(pwritev);
    WRITES(strikes(WRITE, NULL, fd), total(parts, count), really(fd, parts, count, offset),
           gathered(fd, parts, count, octets, offset));
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
{
    REAL(pwritev64);
    WRITES(strikes(WRITE, NULL, fd), total(parts, count), really(fd, parts, count, offset),
           gathered(fd, parts, count, octets, offset));
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    REAL(pwritev2);
    WRITES(strikes(WRITE, NULL, fd), total(parts, count), really(fd, parts, count, offset, flags),
           gathered(fd, parts, count, octets, offset));
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
{
    REAL(pwritev64v2);
    WRITES(strikes(WRITE, NULL, fd), total(parts, count), really(fd, parts, count, offset, flags),
           gathered(fd, parts, count, octets, offset));
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    REAL(fallocate);
    PASS(strikes(ALLOCATE, NULL, fd), really(fd, mode, offset, length));
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
    REAL(fallocate64);
    PASS(strikes(ALLOCATE, NULL, fd), really(fd, mode, offset, length));
}

/* posix_fallocate returns the error and leaves errno alone. */
int posix_fallocate(int fd, off_t offset, off_t length)
{
    REAL(posix_fallocate);
    struct rule *struck = strikes(ALLOCATE, NULL, fd);
    return before(struck) ? errno : (int)after(struck, really(fd, offset, length));
}

int posix_fallocate64(int fd, off64_t offset, off64_t length)
{
    REAL(posix_fallocate64);
    struct rule *struck = strikes(ALLOCATE, NULL, fd);
    return before(struck) ? errno : (int)after(struck, really(fd, offset, length));
}

int ftruncate(int fd, off_t length)
{
    REAL(ftruncate);
    PASS(strikes(TRUNCATE, NULL, fd), really(fd, length));
}

int ftruncate64(int fd, off64_t length)
{
    REAL(ftruncate64);
    PASS(strikes(TRUNCATE, NULL, fd), really(fd, length));
}

int unlink(const char *path)
{
    REAL(unlink);
    PASS(strikes(UNLINK, path, -1), really(path));
}

int unlinkat(int directory, const char *path, int flags)
{
    REAL(unlinkat);
    PASS(strikes(UNLINK, path, -1), really(directory, path, flags));
}

int rename(const char *from, const char *to)
{
    REAL(rename);
    PASS(strikes(RENAME, to, -1), really(from, to));
}

int renameat(int from_directory, const char *from, int to_directory, const char *to)
{
    REAL(renameat);
    PASS(strikes(RENAME, to, -1), really(from_directory, from, to_directory, to));
}

#define MODE(flags)                                \
    mode_t mode = 0;                               \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {       \
        va_list rest;                              \
        va_start(rest, flags);                     \
        mode = va_arg(rest, mode_t);               \
        va_end(rest);                              \
    }

int open(const char *path, int flags, ...)
{
    REAL(open);
    MODE(flags);
    PASS(strikes(OPEN, path, -1), really(path, flags, mode));
}

int open64(const char *path, int flags, ...)
{
    REAL(open64);
    MODE(flags);
    PASS(strikes(OPEN, path, -1), really(path, flags, mode));
}

int openat(int directory, const char *path, int flags, ...)
{
    REAL(openat);
    MODE(flags);
    PASS(strikes(OPEN, path, -1), really(directory, path, flags, mode));
}

int openat64(int directory, const char *path, int flags, ...)
{
    REAL(openat64);
    MODE(flags);
    PASS(strikes(OPEN, path, -1), really(directory, path, flags, mode));
}
