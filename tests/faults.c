/* Makes the n-th file operation of this process fail with a given error: once, or from then on. Loaded before libc. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static long at, seen;
static int error, lasting, armed;

void fault_arm(long n, int number, int for_good) { at = n; error = number; lasting = for_good; seen = 0; armed = 1; }
long fault_disarm(void) { armed = 0; return seen; }

static int fails(void) {
    if (!armed) return 0;
    seen++;
    if (seen == at || (lasting && at && seen > at)) { errno = error; return 1; }
    return 0;
}

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, name)

/* Only what may change something: reading what is there does not fill a disk. */
#define OPEN(function, name) \
int function(const char *path, int flags, ...) { \
    REAL(int, name, const char *, int, ...); \
    va_list rest; va_start(rest, flags); int mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, int) : 0; va_end(rest); \
    if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails()) return -1; \
    return real(path, flags, mode); }
OPEN(open, "open")
OPEN(open64, "open64")
#define OPENAT(function, name) \
int function(int folder, const char *path, int flags, ...) { \
    REAL(int, name, int, const char *, int, ...); \
    va_list rest; va_start(rest, flags); int mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, int) : 0; va_end(rest); \
    if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails()) return -1; \
    return real(folder, path, flags, mode); }
OPENAT(openat, "openat")
OPENAT(openat64, "openat64")
ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return fd > 2 && fails() ? -1 : real(fd, data, size); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return fails() ? -1 : real(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return fails() ? -1 : real(fd, data, size, offset); }
ssize_t sendfile(int out, int in, off_t *offset, size_t size) {
    REAL(ssize_t, "sendfile", int, int, off_t *, size_t);
    return fails() ? -1 : real(out, in, offset, size); }
ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) {
    REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    return fails() ? -1 : real(out, in, offset, size); }
int fsync(int fd) { REAL(int, "fsync", int); return fails() ? -1 : real(fd); }
int fdatasync(int fd) { REAL(int, "fdatasync", int); return fails() ? -1 : real(fd); }
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *); return fails() ? -1 : real(from, to); }
int mkdir(const char *path, mode_t mode) { REAL(int, "mkdir", const char *, mode_t); return fails() ? -1 : real(path, mode); }
int unlink(const char *path) { REAL(int, "unlink", const char *); return fails() ? -1 : real(path); }
int unlinkat(int folder, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int); return fails() ? -1 : real(folder, path, flags); }
