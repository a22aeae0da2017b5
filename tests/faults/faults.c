/* A library for LD_PRELOAD that makes one system call of one process fail, hang or be its last (see inject.py).

Every call below that concerns a file under FAULTS_FOLDER, a connection, a new process or a message gets a name,
`write clone/models/config.json 2`: what it does, to what, and the how-many-th of that kind it is in its process. Digits
that differ from run to run are `*`. Libraries' own code is seen too: SQLite, Arrow, safetensors.

FAULTS_PROCESS   the words that the command line of the process begins with, after `python -m`
FAULTS_RECORD    a file to which the names are appended
FAULTS_POINT     the name of the call that is to fail
FAULTS_KIND      kill, full (ENOSPC, and the disk stays full), error (EIO), reset, hang (from now on no server answers),
                 clock (from now on it is an hour earlier)
FAULTS_FIRED     a file that is made when that has happened; then it happens no more */
#define _GNU_SOURCE
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The C library's function of this name. */
#define REAL(name)                                                                                                     \
    ({                                                                                                                 \
        static __typeof__(&name) function;                                                                             \
        if (!function) function = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                                          \
        function;                                                                                                      \
    })
#define HOUR 3600
enum { SPACE = 1, FILES = 2, NETWORK = 4 }; /* kinds of calls: those that need space on the disk, files, connections */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int armed, full, hung, late, owner;
static char folder[4096], record[4096], point[4096], kind[16], fired[4096];
static struct { char *name; int count; } names[20000];
static int known;

static void copy(char *target, size_t size, const char *variable) {
    const char *value = getenv(variable);
    snprintf(target, size, "%s", value ? value : "");
}

/* Begin, if the command line is the one meant. The tests' warm process calls this in each fork. */
void faults_begin(const char *command) {
    const char *wanted = getenv("FAULTS_PROCESS");
    armed = full = hung = late = known = 0;
    if (!wanted || strncmp(command, wanted, strlen(wanted))) return;
    copy(folder, sizeof folder, "FAULTS_FOLDER");
    copy(record, sizeof record, "FAULTS_RECORD");
    copy(point, sizeof point, "FAULTS_POINT");
    copy(kind, sizeof kind, "FAULTS_KIND");
    copy(fired, sizeof fired, "FAULTS_FIRED");
    owner = getpid();
    armed = 1;
}

__attribute__((constructor)) static void begin(void) {
    char line[4096] = "", *start = line;
    int file = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY);
    ssize_t size = syscall(SYS_read, file, line, sizeof line - 1);
    syscall(SYS_close, file);
    for (ssize_t i = 0; i < size - 1; i++)
        if (!line[i]) line[i] = ' ';
    char *module = strstr(line, " -m ");
    faults_begin(module ? module + 4 : start);
}

/* Append `text` with what differs from run to run as `*`: numbers, hashes, random names. */
static void normalise(char *out, const char *text) {
    while (*text) {
        const char *end = text;
        const char *rest = text[0] == '.' && out[-1] == '/' ? strchrnul(text, '/') : text;
        if (rest - text > 12 && !strncmp(rest - 4, ".tmp", 4)) { /* DVC's temporary files */
            out = stpcpy(out, ".*.tmp");
            text = rest;
            continue;
        }
        int digits = 0, hex = 1, upper = 0;
        while (isalnum((unsigned char)*end) || (*end == '_' && end > text)) {
            digits += !!isdigit((unsigned char)*end);
            hex &= !!isxdigit((unsigned char)*end);
            upper |= !!isupper((unsigned char)*end);
            end++;
        }
        size_t size = end - text;
        int number = digits == (int)size && (size > 2 || (out[-1] == '/' && *end == '/'));
        int hash = hex && ((size > 5 && digits) || (size == 2 && (text[-1] == '/')));
        int random = (size == 22 && upper) || ((size == 9 || size == 11) && !strncmp(text, "tmp", 3));
        if (size && (number || hash || random)) *out++ = '*';
        else if (size) out = mempcpy(out, text, size);
        text = end;
        if (*text) *out++ = *text++;
    }
    *out = 0;
}

static int count(const char *name) {
    for (int i = 0; i < known; i++)
        if (!strcmp(names[i].name, name)) return ++names[i].count;
    if (known == sizeof names / sizeof *names) return 0;
    names[known].name = strdup(name);
    return names[known++].count = 1;
}

static void append(const char *name) {
    int file = syscall(SYS_openat, AT_FDCWD, record, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    char line[9000];
    int size = snprintf(line, sizeof line, "%s\n", name);
    syscall(SYS_write, file, line, size);
    syscall(SYS_close, file);
}

/* Whether this call is the one, and nothing has happened before. */
static int meets(const char *what, const char *place) {
    char name[8192], whole[8300];
    int length = snprintf(name, sizeof name, "%s ", what);
    normalise(name + length, place);
    pthread_mutex_lock(&mutex);
    snprintf(whole, sizeof whole, "%s %d", name, count(name));
    if (*record) append(whole);
    pthread_mutex_unlock(&mutex);
    if (!*point || strcmp(whole, point)) return 0;
    int file = syscall(SYS_openat, AT_FDCWD, fired, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (file < 0) return 0;
    syscall(SYS_close, file);
    return 1;
}

static void die(void) {
    syscall(SYS_kill, owner, SIGKILL); /* of a child that is to become another program: its parent */
    syscall(SYS_exit_group, 1);
}

/* What becomes of a call: 0, or the error that it ends with. -1: the process dies, once the caller is ready. */
static int strike(const char *what, const char *place, int of) {
    if (full && of & SPACE) return ENOSPC;
    if (!meets(what, place)) return 0;
    if (!strcmp(kind, "kill")) return -1;
    if (!strcmp(kind, "full")) return full = 1, ENOSPC;
    if (!strcmp(kind, "error")) return EIO;
    if (!strcmp(kind, "reset")) return !strcmp(what, "connect") ? ECONNREFUSED : ECONNRESET;
    if (!strcmp(kind, "hang")) return hung = 1, 0;
    if (!strcmp(kind, "clock")) return late = 1, 0;
    return 0;
}

#define STRUCK(what, place, of)                                                                                        \
    do {                                                                                                               \
        int error_ = strike(what, place, of);                                                                          \
        if (error_ < 0) die();                                                                                         \
        if (error_) return errno = error_, -1;                                                                         \
    } while (0)

/* The name of a path, or NULL if it is not in our folder. */
static const char *within(const char *path, char *buffer) {
    size_t size = strlen(folder);
    if (!armed) return NULL;
    if (*path != '/') {
        if (!getcwd(buffer, 4096)) return NULL;
        size_t at = strlen(buffer);
        snprintf(buffer + at, 4096 - at, "/%s", path);
        path = buffer;
    }
    return !strncmp(path, folder, size) && path[size] == '/' ? path + size + 1 : NULL;
}

static const char *within_at(int at, const char *path, char *buffer) {
    if (!armed || *path == '/' || at == AT_FDCWD) return within(path, buffer);
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    ssize_t size = readlink(link, buffer, 2048);
    if (size < 0) return NULL;
    snprintf(buffer + size, 2048, "/%s", path);
    return within(buffer, buffer);
}

static const char *of_file(int file, char *buffer) {
    if (!armed) return NULL;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, buffer, 4095);
    if (size <= 0 || *buffer != '/') return NULL;
    buffer[size] = 0;
    return within(buffer, buffer);
}

static int is_connection(int file) {
    int domain = 0, saved = errno;
    socklen_t size = sizeof domain;
    int known_ = armed && !getsockopt(file, SOL_SOCKET, SO_DOMAIN, &domain, &size);
    errno = saved;
    return known_ && (domain == AF_INET || domain == AF_INET6);
}

/* Files. */

#define OPEN(name, parameters, at, path, ...)                                                                          \
    int name parameters {                                                                                              \
        va_list list;                                                                                                  \
        va_start(list, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;                                        \
        va_end(list);                                                                                                  \
        char buffer[8192];                                                                                             \
        const char *found = flags & (O_CREAT | O_TRUNC) ? within_at(at, path, buffer) : NULL;                          \
        if (found) STRUCK("open", found, FILES | SPACE);                                                               \
        return REAL(name)(__VA_ARGS__, flags, mode);                                                                   \
    }
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, path, path)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, path, path)
OPEN(openat, (int at, const char *path, int flags, ...), at, path, at, path)
OPEN(openat64, (int at, const char *path, int flags, ...), at, path, at, path)

/* A process that is killed while it writes leaves half of it. */
#define WRITE(name, parameters, file, half, ...)                                                                       \
    ssize_t name parameters {                                                                                          \
        char buffer[8192];                                                                                             \
        const char *found = of_file(file, buffer);                                                                     \
        int error = found ? strike("write", found, FILES | SPACE) : 0;                                                 \
        if (error < 0) {                                                                                               \
            half;                                                                                                      \
            die();                                                                                                     \
        }                                                                                                              \
        if (error) return errno = error, -1;                                                                           \
        return REAL(name)(__VA_ARGS__);                                                                                \
    }
WRITE(write, (int file, const void *data, size_t size), file, REAL(write)(file, data, size / 2), file, data, size)
WRITE(pwrite, (int file, const void *data, size_t size, off_t offset), file,
      REAL(pwrite)(file, data, size / 2, offset), file, data, size, offset)
WRITE(pwrite64, (int file, const void *data, size_t size, off64_t offset), file,
      REAL(pwrite64)(file, data, size / 2, offset), file, data, size, offset)
WRITE(writev, (int file, const struct iovec *parts, int number), file, (void)0, file, parts, number)
WRITE(sendfile, (int file, int source, off_t *offset, size_t size), file, REAL(sendfile)(file, source, offset, size / 2),
      file, source, offset, size)
WRITE(sendfile64, (int file, int source, off64_t *offset, size_t size), file,
      REAL(sendfile64)(file, source, offset, size / 2), file, source, offset, size)
WRITE(copy_file_range, (int source, off64_t *from, int file, off64_t *to, size_t size, unsigned flags), file,
      REAL(copy_file_range)(source, from, file, to, size / 2, flags), source, from, file, to, size, flags)

#define WITH_FILE(name, what, of, parameters, file, ...)                                                               \
    int name parameters {                                                                                              \
        char buffer[8192];                                                                                             \
        const char *found = of_file(file, buffer);                                                                     \
        if (found) STRUCK(what, found, of);                                                                            \
        return REAL(name)(__VA_ARGS__);                                                                                \
    }
WITH_FILE(fsync, "fsync", FILES | SPACE, (int file), file, file)
WITH_FILE(fdatasync, "fsync", FILES | SPACE, (int file), file, file)
WITH_FILE(ftruncate, "truncate", FILES, (int file, off_t size), file, file, size)
WITH_FILE(ftruncate64, "truncate", FILES, (int file, off64_t size), file, file, size)

#define WITH_PATH(name, what, of, parameters, at, path, ...)                                                           \
    int name parameters {                                                                                              \
        char buffer[8192];                                                                                             \
        const char *found = within_at(at, path, buffer);                                                               \
        if (found) STRUCK(what, found, of);                                                                            \
        return REAL(name)(__VA_ARGS__);                                                                                \
    }
WITH_PATH(rename, "rename", FILES, (const char *old, const char *new), AT_FDCWD, new, old, new)
WITH_PATH(renameat, "rename", FILES, (int from, const char *old, int to, const char *new), to, new, from, old, to, new)
WITH_PATH(renameat2, "rename", FILES, (int from, const char *old, int to, const char *new, unsigned flags), to, new,
          from, old, to, new, flags)
WITH_PATH(link, "link", FILES | SPACE, (const char *old, const char *new), AT_FDCWD, new, old, new)
WITH_PATH(linkat, "link", FILES | SPACE, (int from, const char *old, int to, const char *new, int flags), to, new,
          from, old, to, new, flags)
WITH_PATH(symlink, "link", FILES | SPACE, (const char *old, const char *new), AT_FDCWD, new, old, new)
WITH_PATH(mkdir, "mkdir", FILES | SPACE, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
WITH_PATH(mkdirat, "mkdir", FILES | SPACE, (int at, const char *path, mode_t mode), at, path, at, path, mode)
WITH_PATH(unlink, "unlink", FILES, (const char *path), AT_FDCWD, path, path)
WITH_PATH(unlinkat, "unlink", FILES, (int at, const char *path, int flags), at, path, at, path, flags)
WITH_PATH(rmdir, "unlink", FILES, (const char *path), AT_FDCWD, path, path)

/* Connections. Once the server hangs, what is sent is lost, and nothing arrives until the caller loses patience. */

static char request[256] = "server"; /* the newest, of HTTP: its method and path */

static const char *note_request(const char *data, size_t size) {
    static const char *methods[] = {"GET /", "POST /", "PUT /", "PATCH /", "DELETE /"};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        size_t length = strlen(methods[i]);
        if (size <= length || strncmp(data, methods[i], length)) continue;
        while (length < size && length < sizeof request - 1 && !strchr("? \r\n", data[length])) length++;
        memcpy(request, data, length);
        request[length] = 0;
    }
    return request;
}

int connect(int file, const struct sockaddr *address, socklen_t size) {
    if (is_connection(file)) STRUCK("connect", "server", NETWORK);
    if (hung && is_connection(file)) return errno = EINPROGRESS, -1;
    return REAL(connect)(file, address, size);
}

#define SEND(name, parameters, file, lost, ...)                                                                        \
    ssize_t name parameters {                                                                                          \
        if (is_connection(file)) STRUCK("send", note_request(data, size), NETWORK);                                    \
        if (hung && is_connection(file)) return lost;                                                                  \
        return REAL(name)(__VA_ARGS__);                                                                                \
    }
SEND(send, (int file, const void *data, size_t size, int flags), file, (ssize_t)size, file, data, size, flags)
SEND(sendto, (int file, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length),
     file, (ssize_t)size, file, data, size, flags, address, length)

#define RECEIVE(name, parameters, file, ...)                                                                           \
    ssize_t name parameters {                                                                                          \
        if (is_connection(file)) STRUCK("receive", request, NETWORK);                                                  \
        if (hung && is_connection(file)) return errno = EAGAIN, -1;                                                    \
        return REAL(name)(__VA_ARGS__);                                                                                \
    }
RECEIVE(recv, (int file, void *data, size_t size, int flags), file, file, data, size, flags)
RECEIVE(recvfrom, (int file, void *data, size_t size, int flags, struct sockaddr *address, socklen_t *length), file,
        file, data, size, flags, address, length)

int poll(struct pollfd *files, nfds_t number, int timeout) {
    if (hung && number == 1 && is_connection(files->fd) && !(files->events & POLLOUT)) {
        files->revents = 0;
        return REAL(poll)(NULL, 0, timeout);
    }
    return REAL(poll)(files, number, timeout);
}

/* New processes, named after the end of their program's path, and the clock. */

static const char *program(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

int execve(const char *path, char *const arguments[], char *const environment[]) {
    if (armed && !access(path, X_OK)) STRUCK("start", program(path), FILES);
    return REAL(execve)(path, arguments, environment);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int code = REAL(clock_gettime)(clock, now);
    if (late && clock == CLOCK_REALTIME) now->tv_sec -= HOUR;
    return code;
}

int gettimeofday(struct timeval *now, void *zone) {
    int code = REAL(gettimeofday)(now, zone);
    if (late) now->tv_sec -= HOUR;
    return code;
}

time_t time(time_t *now) {
    time_t seconds = REAL(time)(NULL) - (late ? HOUR : 0);
    if (now) *now = seconds;
    return seconds;
}
