/* A stand-in for the NVIDIA driver: what libnvidia-ml.so.1 (mock_nvml.c), libcuda.so.1 (mock_cuda.c)
 * and dcgmi (mock_dcgmi.c) share.
 *
 * That is a ledger, a file named by MOCKGPU_LEDGER that stands for the 80 GB cards of one node, as many
 * as MOCKGPU_COUNT said when it was made (one, unless told), each split by MIG into as many equal instances
 * as MOCKGPU_MIG said (none, unless told). Memory belongs to processes and returns
 * when they end, however they end: a slot counts only while its PID lives with the start time noted in
 * it. Utilisation is the share of the last second in which kernels ran.
 *
 * Cards map memory in pages, as real ones do: what is free in bits and pieces serves a large allocation
 * as well. Where MOCKGPU_CONTIGUOUS=1 was said when the ledger was made, each needs a hole of its size. */
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

#define MAGIC 0x41465348u /* "AFSH" */
#define CARDS 8
#define INSTANCES 7 /* of a card that is split by MIG, at most */
#define SLOTS 64
#define BUCKETS 32
#define BUCKET_NS 100000000ull
#define WINDOW 10 /* buckets that utilisation looks back on */
#define EVENTS 32 /* Xids that are remembered */
#define LOCKS 64
#define TOTAL_BYTES (80ull << 30)
#define RESERVED_BYTES (600ull << 20)
#define PAGE_BYTES (2ull << 20)
#define PAGES ((TOTAL_BYTES - RESERVED_BYTES) / PAGE_BYTES)
#define TOP_MHZ 1980u
#define TOP_MILLIWATTS 700000u
#define CARD_NAME "Aftershock Mock H100 80GB"

typedef struct { uint64_t index, busy_ns; } bucket_t;
typedef struct { int32_t pid; uint32_t instance; uint64_t started, bytes; bucket_t buckets[BUCKETS]; } slot_t;
typedef struct {
    char uuid[48];
    slot_t slots[SLOTS];
    bucket_t buckets[BUCKETS]; /* of all processes, also of those that have ended since */
    uint32_t lost, compute_mode, throttled;
    uint32_t locked_mhz, power_milliwatts; /* 0: not set */
    uint32_t dcgm_xid; /* what dcgmi was told to show; NVML knows nothing of it */
    uint32_t persistence;
    uint32_t instances; /* 0: not split by MIG */
    uint64_t uncorrected_errors;
    uint64_t xid_count;
    uint32_t xids[EVENTS];
} card_t;
typedef struct { int32_t pid; uint64_t started; } lock_t; /* a process whose CUDA calls block */
typedef struct {
    uint32_t magic, count;
    uint64_t pid_namespace;
    card_t cards[CARDS];
    uint32_t contiguous;
    uint8_t owners[CARDS][PAGES]; /* of each page: its slot, from 1; 0: free. Of contiguous cards only */
    lock_t locks[LOCKS];
    uint32_t xids_in_all; /* a futex: who waits for an Xid waits here */
} ledger_t;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static ledger_t *ledger;
static int ledger_fd = -1;
static pid_t opened_by; /* a forked child must not share its parent's lock */

static inline uint64_t pid_namespace(void) {
    struct stat st;
    return stat("/proc/self/ns/pid", &st) ? 0 : st.st_ino;
}

/* Start time (clock ticks since boot) of a live process, 0 when it is gone or a zombie. */
static inline uint64_t start_time(pid_t pid) {
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

static inline void name_card(card_t *card, const char *path, unsigned number) {
    uint64_t h = 1469598103934665603ull; /* FNV-1a: the same node always has the same UUIDs */
    for (const char *c = path; *c; c++) h = (h ^ (uint8_t)*c) * 1099511628211ull;
    snprintf(card->uuid, sizeof card->uuid, "GPU-%08x-%04x-4000-8%03x-%012llx", (unsigned)(h >> 32),
             (unsigned)(h >> 16 & 0xffff), number, (unsigned long long)(h & 0xffffffffffffull));
}

static inline int open_ledger(void) {
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

static inline uint32_t told_number(const char *variable, long otherwise, long most) {
    const char *told = getenv(variable);
    long number = told ? strtol(told, NULL, 10) : otherwise;
    return (uint32_t)(number < otherwise ? otherwise : number > most ? most : number);
}

static inline void begin_ledger(uint64_t here) {
    memset(ledger, 0, sizeof *ledger);
    ledger->count = told_number("MOCKGPU_COUNT", 1, CARDS);
    for (unsigned i = 0; i < ledger->count; i++) {
        name_card(&ledger->cards[i], getenv("MOCKGPU_LEDGER"), i);
        ledger->cards[i].instances = told_number("MOCKGPU_MIG", 0, INSTANCES);
    }
    ledger->contiguous = told_number("MOCKGPU_CONTIGUOUS", 0, 1);
    ledger->pid_namespace = here;
    ledger->magic = MAGIC;
}

/* A slot is empty again, and what its process held is free. */
static inline void drop(unsigned card, int slot) {
    memset(&ledger->cards[card].slots[slot], 0, sizeof(slot_t));
    for (unsigned p = 0; ledger->contiguous && p < PAGES; p++)
        if (ledger->owners[card][p] == slot + 1) ledger->owners[card][p] = 0;
}

static inline void drop_dead(void) {
    for (unsigned c = 0; c < ledger->count; c++)
        for (int i = 0; i < SLOTS; i++) {
            slot_t *s = &ledger->cards[c].slots[i];
            if (s->pid && start_time(s->pid) != s->started) drop(c, i);
        }
    for (int i = 0; i < LOCKS; i++) {
        lock_t *lock = &ledger->locks[i];
        if (lock->pid && start_time(lock->pid) != lock->started) *lock = (lock_t){0};
    }
}

static inline int leave(int result) {
    flock(ledger_fd, LOCK_UN);
    pthread_mutex_unlock(&mutex);
    return result;
}

/* Everything below the entry points runs between enter() and leave(). */
static inline int enter(void) {
    pthread_mutex_lock(&mutex);
    if (!open_ledger()) { pthread_mutex_unlock(&mutex); return 0; }
    while (flock(ledger_fd, LOCK_EX) && errno == EINTR) {}
    uint64_t here = pid_namespace();
    if (ledger->magic != MAGIC) begin_ledger(here);
    if (ledger->pid_namespace != here) /* our PIDs mean nothing there: every holder would look dead */
        return leave(0);
    drop_dead();
    return 1;
}

static inline uint64_t used_bytes(const card_t *card) {
    uint64_t used = RESERVED_BYTES;
    for (int i = 0; i < SLOTS; i++) used += card->slots[i].bytes;
    return used;
}

/* An instance's share of what a card has; all of it where the card isn't split. */
static inline uint64_t share_of(const card_t *card, uint64_t bytes) {
    return card->instances ? bytes / card->instances >> 20 << 20 : bytes;
}

static inline uint64_t used_in(const card_t *card, unsigned instance) {
    uint64_t used = share_of(card, RESERVED_BYTES);
    for (int i = 0; i < SLOTS; i++)
        if (card->slots[i].instance == instance) used += card->slots[i].bytes;
    return used;
}

/* "MIG-…": the card's, but for a group that says which instance. */
static inline void name_instance(char *text, const card_t *card, unsigned instance) {
    snprintf(text, sizeof card->uuid, "MIG-%.14s5%03x%s", card->uuid + 4, instance, card->uuid + 22);
}

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* Busy time of the last second, in ns. */
static inline uint64_t recent_ns(const bucket_t *buckets) {
    uint64_t current = now_ns() / BUCKET_NS, busy = 0;
    for (int i = 0; i < BUCKETS; i++)
        if (buckets[i].index < current && buckets[i].index + WINDOW >= current)
            busy += buckets[i].busy_ns < BUCKET_NS ? buckets[i].busy_ns : BUCKET_NS;
    return busy;
}
