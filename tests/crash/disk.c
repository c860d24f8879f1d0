/* A disk in user space: one file, disk.img, for a loop device, that records what is written to it and when it is flushed.
 *
 * disk MOUNTPOINT IMAGE LOG CONTROL [FROM LENGTH]...
 *
 * Returns when it is mounted, and goes on in the background until it is unmounted. IMAGE holds the content. LOG gets a record for each write (three 64-bit
 * words: 1, offset, length; then the octets), each range that is zeroed (3, offset, length) and each flush (2, 0, 0), in
 * the order in which they were completed, so that disk.py can rebuild what a power cut would have left at any point.
 * CONTROL is the file of the shim (faults.c): `records` counts the records, and as long as `refuse` is positive, a
 * write outside the ranges FROM LENGTH fails with EIO, leaves the content as it was, and is counted. The ranges hold
 * the file system's journal and tables, whose loss would be that of the whole disk. Calls come one at a time (-s).
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <linux/falloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITTEN = 1, FLUSHED = 2, ZEROED = 3 };

struct control { /* the head of faults.c's */
    int32_t refuse;
    int32_t refused;
    int64_t records;
};

static const char NAME[] = "/disk.img";
static struct control *control;
static int image, record_log;
static int ranges;
static uint64_t range[64][2];

static int note(enum kind kind, off_t offset, size_t length, const char *data)
{
    uint64_t head[3] = {kind, (uint64_t)offset, length};
    struct iovec parts[2] = {{head, sizeof head}, {(void *)data, data ? length : 0}};
    ssize_t whole = (ssize_t)(sizeof head + parts[1].iov_len);
    if (writev(record_log, parts, 2) != whole) {
        perror("disk: the record is incomplete");
        _exit(1);
    }
    __atomic_fetch_add(&control->records, 1, __ATOMIC_ACQ_REL);
    return 0;
}

static int refuses(off_t offset, size_t length)
{
    if (__atomic_load_n(&control->refuse, __ATOMIC_ACQUIRE) <= 0)
        return 0;
    for (int i = 0; i < ranges; i++)
        if ((uint64_t)offset < range[i][0] + range[i][1] && (uint64_t)offset + length > range[i][0])
            return 0;
    __atomic_fetch_sub(&control->refuse, 1, __ATOMIC_ACQ_REL);
    __atomic_fetch_add(&control->refused, 1, __ATOMIC_ACQ_REL);
    return 1;
}

static int disk_getattr(const char *path, struct stat *found, struct fuse_file_info *file)
{
    (void)file;
    memset(found, 0, sizeof *found);
    if (!strcmp(path, "/")) {
        found->st_mode = S_IFDIR | 0700;
        found->st_nlink = 2;
        return 0;
    }
    if (strcmp(path, NAME))
        return -ENOENT;
    if (fstat(image, found))
        return -errno;
    return 0;
}

static int disk_open(const char *path, struct fuse_file_info *file)
{
    if (strcmp(path, NAME))
        return -ENOENT;
    file->direct_io = 1; /* no page cache of its own: a write is here when it is done, and its error is the writer's */
    return 0;
}

static int disk_read(const char *path, char *data, size_t length, off_t offset, struct fuse_file_info *file)
{
    (void)path, (void)file;
    ssize_t got = pread(image, data, length, offset);
    return got < 0 ? -errno : (int)got;
}

static int disk_write(const char *path, const char *data, size_t length, off_t offset, struct fuse_file_info *file)
{
    (void)path, (void)file;
    if (refuses(offset, length))
        return -EIO;
    if (pwrite(image, data, length, offset) != (ssize_t)length)
        return -EIO;
    note(WRITTEN, offset, length, data);
    return (int)length;
}

static int disk_fsync(const char *path, int only_data, struct fuse_file_info *file)
{
    (void)path, (void)only_data, (void)file;
    return note(FLUSHED, 0, 0, NULL);
}

static int disk_fallocate(const char *path, int mode, off_t offset, off_t length, struct fuse_file_info *file)
{
    (void)path, (void)file;
    if (!(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)))
        return -EOPNOTSUPP;
    if (fallocate(image, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length))
        return -errno;
    note(ZEROED, offset, (size_t)length, NULL);
    return 0;
}

static const struct fuse_operations operations = {
    .getattr = disk_getattr,
    .open = disk_open,
    .read = disk_read,
    .write = disk_write,
    .fsync = disk_fsync,
    .fallocate = disk_fallocate,
};

int main(int count, char **words)
{
    if (count < 5 || count % 2 == 0 || count > 5 + 128) {
        fprintf(stderr, "usage: disk MOUNTPOINT IMAGE LOG CONTROL [FROM LENGTH]...\n");
        return 2;
    }
    image = open(words[2], O_RDWR | O_CLOEXEC);
    record_log = open(words[3], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int descriptor = open(words[4], O_RDWR | O_CLOEXEC);
    if (image < 0 || record_log < 0 || descriptor < 0) {
        perror("disk");
        return 1;
    }
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (control == MAP_FAILED) {
        perror("disk");
        return 1;
    }
    for (int i = 5; i < count; i += 2, ranges++) {
        range[ranges][0] = strtoull(words[i], NULL, 10);
        range[ranges][1] = strtoull(words[i + 1], NULL, 10);
    }
    char *arguments[] = {words[0], "-s", words[1], NULL};
    return fuse_main(3, arguments, &operations, NULL);
}
