/* Makes chosen CUDA calls of a process fail with a chosen error, for a while.
 *
 * Loaded with LD_PRELOAD when the process starts, it does nothing until somebody says so in the file
 * that AFTERSHOCK_CUDA_FAULT names (`order_t`, mapped). An order counts only while all of this holds:
 * its time (CLOCK_BOOTTIME) is not over, and somebody holds an exclusive flock on the file. So it ends
 * by itself, and with whoever gave it, however that ends. The driver's functions are found by dlsym and
 * cuGetProcAddress, which frameworks and CUDA's runtime use, or by linking. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PIDS 16
#define CALLS 256

typedef struct {
    volatile int32_t error; /* 0: nothing is to fail */
    volatile uint32_t count; /* of `pids`; 0: every process that has this file */
    volatile uint64_t until_ns;
    volatile int32_t pids[PIDS];
    volatile uint64_t failed; /* calls that were made to fail, by all processes */
    char calls[CALLS]; /* between commas; empty: all that are known */
} order_t;

static order_t *order;
static int order_fd = -1;
static pid_t opened_by;

static order_t *find_order(void) {
    if (opened_by == getpid()) return order;
    opened_by = getpid();
    const char *path = getenv("AFTERSHOCK_CUDA_FAULT");
    int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0) return order = NULL;
    void *at = ftruncate(fd, sizeof(order_t)) ? MAP_FAILED
             : mmap(NULL, sizeof(order_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    order_fd = fd;
    return order = at == MAP_FAILED ? NULL : at;
}

static int is_held(void) {
    if (flock(order_fd, LOCK_SH | LOCK_NB)) return 1;
    flock(order_fd, LOCK_UN);
    return 0;
}

static int is_meant(const order_t *told) {
    for (uint32_t i = 0; i < told->count && i < PIDS; i++)
        if (told->pids[i] == getpid()) return 1;
    return told->count == 0;
}

static int is_called(const order_t *told, const char *name) {
    size_t length = strlen(name);
    if (!told->calls[0]) return 1;
    for (const char *at = told->calls; (at = strstr(at, name)); at += length)
        if ((at == told->calls || at[-1] == ',') && (!at[length] || at[length] == ',')) return 1;
    return 0;
}

/* The error with which a call is to fail now, or 0. */
static int failing(const char *name) {
    order_t *told = find_order();
    if (!told || !told->error || !is_meant(told) || !is_called(told, name)) return 0;
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    if ((uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec >= told->until_ns || !is_held()) return 0;
    __atomic_add_fetch(&told->failed, 1, __ATOMIC_RELAXED);
    return told->error;
}

typedef void *(*dlsym_t)(void *, const char *);

static dlsym_t real_dlsym(void) {
    static dlsym_t found;
    static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.17", "GLIBC_2.2.5"};
    for (int i = 0; !found && i < 3; i++) found = (dlsym_t)dlvsym(RTLD_NEXT, "dlsym", versions[i]);
    return found;
}

/* All arguments of these functions are integers or pointers, twelve at most: passing on more than
 * there are does no harm in the calling conventions of x86-64 and aarch64. */
#define PARAMETERS long a, long b, long c, long d, long e, long f, long g, long h, long i, long j, long k, long l
#define ARGUMENTS a, b, c, d, e, f, g, h, i, j, k, l
typedef int (*call_t)(PARAMETERS);

#define KNOWN(X) \
    X(cuInit) X(cuDevicePrimaryCtxRetain) X(cuCtxSynchronize) X(cuMemAlloc_v2) X(cuMemAllocAsync) \
    X(cuMemCreate) X(cuLaunchKernel) X(cuLaunchKernelEx) X(cuGraphLaunch) X(cuMemcpyHtoDAsync_v2) \
    X(cuMemcpyDtoHAsync_v2) X(cuMemcpyDtoDAsync_v2) X(cuStreamSynchronize) X(cuEventSynchronize) \
    X(cuEventQuery) X(cuStreamQuery)

#define WRAP(name) \
    static call_t real_##name; \
    __attribute__((visibility("default"))) int name(PARAMETERS) { \
        int error = failing(#name); \
        if (error) return error; \
        if (!real_##name) real_##name = (call_t)real_dlsym()(RTLD_NEXT, #name); \
        return real_##name ? real_##name(ARGUMENTS) : 500; \
    }
KNOWN(WRAP)

typedef struct { const char *name; call_t wrapper; call_t *real; } entry_t;
#define ENTRY(name) {#name, name, &real_##name},
static const entry_t entries[] = {KNOWN(ENTRY)};
#define ENTRIES (int)(sizeof entries / sizeof *entries)

/* `loose`: cuGetProcAddress is asked for a name without the _v2 of its newest version. */
static const entry_t *find_entry(const char *name, int loose) {
    size_t length = strlen(name);
    if (strncmp(name, "cu", 2)) return NULL;
    for (int i = 0; i < ENTRIES; i++) {
        if (!strcmp(entries[i].name, name)) return &entries[i];
        if (loose && !strncmp(entries[i].name, name, length) && !strcmp(entries[i].name + length, "_v2"))
            return &entries[i];
    }
    return NULL;
}

typedef int (*address_t)(const char *, void **, int, uint64_t, void *);
static address_t real_address, real_address_v2;

static int give_address(address_t real, const char *name, void **found, int version, uint64_t flags, void *more) {
    int result = real(name, found, version, flags, more);
    const entry_t *entry = result || !found || !*found ? NULL : find_entry(name, 1);
    if (entry && *found != (void *)entry->wrapper) {
        *entry->real = (call_t)*found;
        *found = (void *)entry->wrapper;
    }
    return result;
}
static int address(const char *name, void **found, int version, uint64_t flags, void *more) {
    return give_address(real_address, name, found, version, flags, more);
}
static int address_v2(const char *name, void **found, int version, uint64_t flags, void *more) {
    return give_address(real_address_v2, name, found, version, flags, more);
}

static void *replacement(void *handle, const char *name) {
    const entry_t *entry = find_entry(name, 0);
    if (!entry && strncmp(name, "cuGetProcAddress", 16)) return NULL;
    void *real = real_dlsym()(handle, name);
    if (!real) return NULL;
    if (entry) {
        if (real != (void *)entry->wrapper) *entry->real = (call_t)real;
        return (void *)entry->wrapper;
    }
    int is_v2 = !strcmp(name, "cuGetProcAddress_v2");
    *(is_v2 ? &real_address_v2 : &real_address) = (address_t)real;
    return is_v2 ? (void *)address_v2 : (void *)address;
}

/* Everything else is passed on by a jump, so that RTLD_NEXT keeps meaning the caller's next. */
__attribute__((visibility("default"))) void *dlsym(void *handle, const char *name) {
    if (name[0] == 'c' && name[1] == 'u' && handle != RTLD_NEXT) {
        void *ours = replacement(handle, name);
        if (ours) return ours;
    }
    return real_dlsym()(handle, name);
}
