/* A stand-in for the NVIDIA driver: built with -DNVML it is libnvidia-ml.so.1, with -DCUDA libcuda.so.1.
 *
 * Both share a ledger, a file named by MOCKGPU_LEDGER that stands for one 80 GB card. Memory belongs to
 * processes and returns when they end, however they end: a slot counts only while its PID lives with the
 * start time noted in it. Utilisation is the share of the last second in which kernels ran. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x41465347u /* "AFSG" */
#define SLOTS 64
#define BUCKETS 32
#define BUCKET_NS 100000000ull
#define WINDOW 10 /* buckets that utilisation looks back on */
#define TOTAL_BYTES (80ull << 30)
#define RESERVED_BYTES (600ull << 20)

typedef struct { int32_t pid; uint64_t started, bytes; } slot_t;
typedef struct { uint64_t index, busy_ns; } bucket_t;
typedef struct {
    uint32_t magic;
    uint64_t pid_namespace;
    char uuid[48];
    slot_t slots[SLOTS];
    bucket_t buckets[BUCKETS];
} ledger_t;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static ledger_t *ledger;
static int ledger_fd = -1;
static pid_t opened_by; /* a forked child must not share its parent's lock */

static uint64_t pid_namespace(void) {
    struct stat st;
    return stat("/proc/self/ns/pid", &st) ? 0 : st.st_ino;
}

/* Start time (clock ticks since boot) of a live process, 0 when it is gone or a zombie. */
static uint64_t start_time(pid_t pid) {
    char path[32], text[1024], state;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return 0;
    text[n] = 0;
    char *end = strrchr(text, ')'); /* the command may hold spaces and brackets */
    unsigned long long started = 0;
    if (!end || sscanf(end + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d"
                                " %*d %*d %llu", &state, &started) != 2)
        return 0;
    return state == 'Z' || state == 'X' ? 0 : started;
}

static void name_card(ledger_t *l, const char *path) {
    uint64_t h = 1469598103934665603ull; /* FNV-1a: the same node always has the same UUID */
    for (const char *c = path; *c; c++) h = (h ^ (uint8_t)*c) * 1099511628211ull;
    snprintf(l->uuid, sizeof l->uuid, "GPU-%08x-%04x-4000-8000-%012llx", (unsigned)(h >> 32),
             (unsigned)(h >> 16 & 0xffff), (unsigned long long)(h & 0xffffffffffffull));
}

static int open_ledger(void) {
    const char *path = getenv("MOCKGPU_LEDGER");
    if (!path) return 0;
    if (ledger && opened_by == getpid()) return 1;
    if (ledger) { munmap(ledger, sizeof *ledger); close(ledger_fd); ledger = NULL; }
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return 0;
    if (ftruncate(fd, sizeof(ledger_t)) ||
        (ledger = mmap(NULL, sizeof(ledger_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED) {
        ledger = NULL;
        close(fd);
        return 0;
    }
    ledger_fd = fd;
    opened_by = getpid();
    return 1;
}

static void drop_dead(void) {
    for (int i = 0; i < SLOTS; i++) {
        slot_t *s = &ledger->slots[i];
        if (s->pid && start_time(s->pid) != s->started) memset(s, 0, sizeof *s);
    }
}

/* Everything below the entry points runs between enter() and leave(). */
static int enter(void) {
    pthread_mutex_lock(&mutex);
    if (!open_ledger()) { pthread_mutex_unlock(&mutex); return 0; }
    while (flock(ledger_fd, LOCK_EX) && errno == EINTR) {}
    uint64_t here = pid_namespace();
    if (ledger->magic != MAGIC) {
        memset(ledger, 0, sizeof *ledger);
        name_card(ledger, getenv("MOCKGPU_LEDGER"));
        ledger->pid_namespace = here;
        ledger->magic = MAGIC;
    }
    if (ledger->pid_namespace != here) { /* our PIDs mean nothing there: every holder would look dead */
        flock(ledger_fd, LOCK_UN);
        pthread_mutex_unlock(&mutex);
        return 0;
    }
    drop_dead();
    return 1;
}

static int leave(int result) {
    flock(ledger_fd, LOCK_UN);
    pthread_mutex_unlock(&mutex);
    return result;
}

static uint64_t used_bytes(void) {
    uint64_t used = RESERVED_BYTES;
    for (int i = 0; i < SLOTS; i++) used += ledger->slots[i].bytes;
    return used;
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

#ifdef NVML
enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9, BAD_VERSION = 25 };
#define MEMORY_V2 0x02000028u
#define TEMPERATURE_V1 0x0100000cu
#define CARD ((void *)0x1)

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned version; int sensor; int temperature; } temperature_t;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } process_t;

static unsigned utilization(void) {
    uint64_t current = now_ns() / BUCKET_NS, busy = 0;
    for (int i = 0; i < BUCKETS; i++) {
        bucket_t *b = &ledger->buckets[i];
        if (b->index < current && b->index + WINDOW >= current)
            busy += b->busy_ns < BUCKET_NS ? b->busy_ns : BUCKET_NS;
    }
    return (unsigned)((busy * 100 + WINDOW * BUCKET_NS / 2) / (WINDOW * BUCKET_NS));
}

static int sample_utilization(unsigned *percent) {
    if (!enter()) return NO_DRIVER;
    *percent = utilization();
    return leave(OK);
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return enter() ? leave(OK) : NO_DRIVER; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int result) {
    switch (result) {
    case OK: return "Success";
    case INVALID: return "Invalid Argument";
    case NOT_FOUND: return "Not Found";
    case TOO_SMALL: return "Insufficient Size";
    case NO_DRIVER: return "Driver Not Loaded";
    case BAD_VERSION: return "Argument Version Mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "550.00-mock"); return OK; }
int nvmlSystemGetNVMLVersion(char *text, unsigned size) { snprintf(text, size, "12.550.00-mock"); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12040; return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (index) return INVALID;
    *device = CARD;
    return OK;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    if (!enter()) return NO_DRIVER;
    int same = uuid && !strcmp(uuid, ledger->uuid);
    if (same) *device = CARD;
    return leave(same ? OK : NOT_FOUND);
}

int nvmlDeviceGetIndex(void *device, unsigned *index) { (void)device; *index = 0; return OK; }
int nvmlDeviceGetMinorNumber(void *device, unsigned *minor) { (void)device; *minor = 0; return OK; }

int nvmlDeviceGetName(void *device, char *text, unsigned size) {
    (void)device;
    snprintf(text, size, "Aftershock Mock H100 80GB");
    return OK;
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    (void)device;
    if (!enter()) return NO_DRIVER;
    snprintf(text, size, "%s", ledger->uuid);
    return leave(OK);
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    (void)device;
    if (!enter()) return NO_DRIVER;
    memory->total = TOTAL_BYTES;
    memory->used = used_bytes();
    memory->free = memory->total - memory->used;
    return leave(OK);
}

int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2_t *memory) {
    (void)device;
    if (memory->version != MEMORY_V2) return BAD_VERSION;
    if (!enter()) return NO_DRIVER;
    memory->total = TOTAL_BYTES; /* version 2 does not count what the driver reserved as used */
    memory->reserved = RESERVED_BYTES;
    memory->used = used_bytes() - RESERVED_BYTES;
    memory->free = memory->total - memory->reserved - memory->used;
    return leave(OK);
}

int nvmlDeviceGetUtilizationRates(void *device, utilization_t *rates) {
    (void)device;
    int result = sample_utilization(&rates->gpu);
    rates->memory = rates->gpu * 6 / 10;
    return result;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    unsigned busy = 0;
    (void)device;
    int result = sample_utilization(&busy);
    *milliwatts = 70000 + busy * 5300;
    return result;
}

int nvmlDeviceGetPowerManagementLimit(void *device, unsigned *milliwatts) { (void)device; *milliwatts = 700000; return OK; }
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *milliwatts) { (void)device; *milliwatts = 700000; return OK; }

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    unsigned busy = 0;
    (void)device;
    if (sensor) return INVALID;
    int result = sample_utilization(&busy);
    *celsius = 34 + busy * 4 / 10;
    return result;
}

int nvmlDeviceGetTemperatureV(void *device, temperature_t *reading) {
    unsigned celsius = 0;
    if (reading->version != TEMPERATURE_V1) return BAD_VERSION;
    int result = nvmlDeviceGetTemperature(device, reading->sensor, &celsius);
    reading->temperature = (int)celsius;
    return result;
}

static const unsigned top_mhz[] = {1980, 1980, 2619, 1545}; /* graphics, SM, memory, video */

int nvmlDeviceGetMaxClockInfo(void *device, unsigned type, unsigned *mhz) {
    (void)device;
    if (type > 3) return INVALID;
    *mhz = top_mhz[type];
    return OK;
}

int nvmlDeviceGetClockInfo(void *device, unsigned type, unsigned *mhz) {
    unsigned busy = 0;
    (void)device;
    if (type > 3) return INVALID;
    int result = sample_utilization(&busy);
    *mhz = busy || type == 2 ? top_mhz[type] : 345;
    return result;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *out) {
    unsigned found = 0, room = *count;
    (void)device;
    if (!enter()) return NO_DRIVER;
    for (int i = 0; i < SLOTS; i++) {
        slot_t *s = &ledger->slots[i];
        if (!s->pid) continue;
        if (out && found < room) out[found] = (process_t){(unsigned)s->pid, s->bytes, ~0u, ~0u};
        found++;
    }
    *count = found;
    return leave(found > room ? TOO_SMALL : OK);
}
#endif

#ifdef CUDA
enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, BAD_DEVICE = 101 };
#define FIRST_ADDRESS 0x7f0000000000ull
#define BLOCKS 65536

typedef struct { uint64_t address, bytes; } block_t;
static block_t blocks[BLOCKS]; /* what this process holds; the ledger knows only the sum */
static int block_count;
static uint64_t next_address = FIRST_ADDRESS;
static pid_t holder; /* what a parent allocated is not its forked child's */

static slot_t *own_slot(void) {
    pid_t pid = getpid();
    slot_t *empty = NULL;
    if (holder != pid) { block_count = 0; holder = pid; }
    for (int i = 0; i < SLOTS; i++) {
        if (ledger->slots[i].pid == pid) return &ledger->slots[i];
        if (!empty && !ledger->slots[i].pid) empty = &ledger->slots[i];
    }
    if (empty) *empty = (slot_t){pid, start_time(pid), 0};
    return empty;
}

/* Note that kernels ran for `busy` ns from `start` on (CLOCK_MONOTONIC). */
static void note_busy(uint64_t start, uint64_t busy) {
    while (busy) {
        uint64_t index = start / BUCKET_NS, rest = (index + 1) * BUCKET_NS - start;
        uint64_t part = busy < rest ? busy : rest;
        bucket_t *b = &ledger->buckets[index % BUCKETS];
        if (b->index != index) *b = (bucket_t){index, 0};
        b->busy_ns += part;
        start += part;
        busy -= part;
    }
}

int cuInit(unsigned flags) {
    (void)flags;
    return enter() ? leave(OK) : NO_DEVICE;
}

int cuDriverGetVersion(int *version) { *version = 12040; return OK; }
int cuDeviceGetCount(int *count) { *count = 1; return OK; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? BAD_DEVICE : OK; }
int cuDeviceGetName(char *text, int size, int device) {
    (void)device;
    snprintf(text, (size_t)size, "Aftershock Mock H100 80GB");
    return OK;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = TOTAL_BYTES; return OK; }
int cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; *context = (void *)0x1; return OK; }
int cuCtxSetCurrent(void *context) { (void)context; return OK; }
int cuCtxSynchronize(void) { return OK; }

int cuDevicePrimaryCtxRelease_v2(int device) {
    (void)device;
    if (!enter()) return NO_DEVICE;
    slot_t *slot = own_slot();
    if (slot) memset(slot, 0, sizeof *slot);
    block_count = 0;
    return leave(OK);
}

int cuGetErrorName(int error, const char **name) {
    *name = error == OK ? "CUDA_SUCCESS" : error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
          : error == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : error == BAD_DEVICE ? "CUDA_ERROR_INVALID_DEVICE"
          : "CUDA_ERROR_INVALID_VALUE";
    return OK;
}
int cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    if (!enter()) return NO_DEVICE;
    *total = TOTAL_BYTES;
    *free_bytes = TOTAL_BYTES - used_bytes();
    return leave(OK);
}

int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (!bytes) return INVALID;
    if (!enter()) return NO_DEVICE;
    slot_t *slot = own_slot();
    if (!slot || block_count == BLOCKS || bytes > TOTAL_BYTES - used_bytes()) return leave(OUT_OF_MEMORY);
    slot->bytes += bytes;
    blocks[block_count++] = (block_t){next_address, bytes};
    *address = next_address;
    next_address += (bytes + 511) / 512 * 512;
    return leave(OK);
}

int cuMemFree_v2(uint64_t address) {
    if (!enter()) return NO_DEVICE;
    slot_t *slot = own_slot();
    for (int i = 0; slot && i < block_count; i++)
        if (blocks[i].address == address) {
            slot->bytes -= blocks[i].bytes;
            blocks[i] = blocks[--block_count];
            return leave(OK);
        }
    return leave(INVALID);
}

int cuMemsetD8_v2(uint64_t address, unsigned char value, size_t bytes) {
    (void)address, (void)value, (void)bytes;
    return OK;
}

/* The mock's own: kernels of this process ran for `busy_ns`, ending now. */
int mockgpu_ran(uint64_t busy_ns) {
    if (busy_ns > WINDOW * BUCKET_NS) busy_ns = WINDOW * BUCKET_NS;
    if (!enter()) return NO_DEVICE;
    note_busy(now_ns() - busy_ns, busy_ns);
    return leave(OK);
}
#endif
