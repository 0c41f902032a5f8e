/* The mock's libcuda.so.1: the part of the driver API that engines and Aftershock's children use.
 *
 * A kernel's second parameter, a u32, says for how many iterations it runs; each takes ITERATION_NS.
 * A process that waits for its kernels while others keep the card busy waits longer. One that is locked
 * by cuCheckpointProcessLock waits in its next call, until it is unlocked by whomever. */
#include "mock_gpu.h"

enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, DEVICE_UNAVAILABLE = 46, NO_DEVICE = 100, BAD_DEVICE = 101,
       BAD_CONTEXT = 201, ILLEGAL_STATE = 401 };
enum { RUNNING = 0, LOCKED = 1 }; /* CUprocessState */
enum { COMPUTE_DEFAULT = 0, COMPUTE_PROHIBITED = 2 };
#define FIRST_ADDRESS 0x7f0000000000ull
#define BLOCKS 65536
#define ITERATION_NS 4ull
#define MULTIPROCESSORS 132
#define POLL_US 10000
#define MULTIPROCESSOR_COUNT 16 /* the attribute's number */

typedef struct { uint64_t address, bytes; unsigned card, page; } block_t; /* page: the first of a contiguous card */
static block_t blocks[BLOCKS]; /* what this process holds; the ledger knows only the sum */
static int block_count;
static uint64_t next_address = FIRST_ADDRESS;
static pid_t holder; /* what a parent allocated is not its forked child's */
static unsigned visible[CARDS]; /* card by ordinal, as CUDA_VISIBLE_DEVICES has it */
static int visible_count = -1;
static unsigned instance; /* of the visible card, where that is split: CUDA shows a process a single one */
static _Thread_local unsigned current; /* card + 1; 0: no context */
static _Thread_local uint64_t pending_ns; /* launched, and not waited for */

static lock_t *lock_of(pid_t pid) { /* 0: one that is free */
    for (int i = 0; i < LOCKS; i++)
        if (ledger->locks[i].pid == pid) return &ledger->locks[i];
    return NULL;
}

/* enter(), once this process is not locked: the others have the ledger meanwhile. */
static int begin(void) {
    while (enter()) {
        if (!lock_of(getpid())) return 1;
        leave(0);
        usleep(POLL_US);
    }
    return 0;
}

/* The card that a word of CUDA_VISIBLE_DEVICES means: its number, how its UUID begins, or an instance's
 * UUID, which is noted. */
static int card_named(const char *word) {
    char uuid[sizeof ledger->cards[0].uuid];
    for (unsigned i = 0; i < ledger->count; i++) {
        const card_t *card = &ledger->cards[i];
        if (!strncmp(word, "GPU-", 4) && !strncmp(card->uuid, word, strlen(word))) return (int)i;
        for (unsigned part = 0; part < card->instances; part++) {
            name_instance(uuid, card, part);
            if (!strcmp(uuid, word)) { instance = part; return (int)i; }
        }
    }
    char *end;
    long number = strtol(word, &end, 10);
    return *word && !*end && number >= 0 && number < (long)ledger->count ? (int)number : -1;
}

static void look_at_devices(void) {
    const char *told = getenv("CUDA_VISIBLE_DEVICES");
    int most = ledger->cards[0].instances ? 1 : CARDS;
    visible_count = 0;
    instance = 0;
    if (!told) {
        for (unsigned i = 0; i < ledger->count && visible_count < most; i++) visible[visible_count++] = i;
        return;
    }
    char words[512], *rest = words, *word;
    snprintf(words, sizeof words, "%s", told);
    while ((word = strsep(&rest, ",")) && visible_count < most) {
        int card = card_named(word);
        if (card < 0) return; /* what follows a word that means nothing is not visible either */
        visible[visible_count++] = (unsigned)card;
    }
}

static slot_t *own_slot(unsigned card) {
    pid_t pid = getpid();
    slot_t *slots = ledger->cards[card].slots, *empty = NULL;
    if (holder != pid) { block_count = 0; holder = pid; }
    for (int i = 0; i < SLOTS; i++) {
        if (slots[i].pid == pid) return &slots[i];
        if (!empty && !slots[i].pid) empty = &slots[i];
    }
    if (empty) *empty = (slot_t){.pid = pid, .instance = instance, .started = start_time(pid)};
    return empty;
}

static uint64_t pages_of(uint64_t bytes) { return (bytes + PAGE_BYTES - 1) / PAGE_BYTES; }

/* The first hole of so many pages; PAGES where there is none. */
static unsigned find_hole(unsigned card, uint64_t wanted) {
    const uint8_t *owners = ledger->owners[card], *end = owners + PAGES, *from = owners;
    while ((from = memchr(from, 0, (size_t)(end - from)))) {
        const uint8_t *to = from;
        while (to < end && !*to && (uint64_t)(to - from) < wanted) to++;
        if ((uint64_t)(to - from) == wanted) return (unsigned)(from - owners);
        if (to == end) break;
        from = to;
    }
    return PAGES;
}

static void add_busy(bucket_t *buckets, uint64_t index, uint64_t busy) {
    bucket_t *b = &buckets[index % BUCKETS];
    if (b->index != index) *b = (bucket_t){index, 0};
    b->busy_ns += busy;
}

/* Note that kernels ran for `busy` ns from `start` on (CLOCK_MONOTONIC). */
static void note_busy(unsigned card, uint64_t start, uint64_t busy) {
    slot_t *own = own_slot(card);
    while (busy) {
        uint64_t index = start / BUCKET_NS, rest = (index + 1) * BUCKET_NS - start;
        uint64_t part = busy < rest ? busy : rest;
        add_busy(ledger->cards[card].buckets, index, part);
        if (own) add_busy(own->buckets, index, part);
        start += part;
        busy -= part;
    }
}

/* The share of the last second, in thousandths, in which kernels of others ran. */
static unsigned crowding(unsigned card) {
    uint64_t busy = 0;
    for (int i = 0; i < SLOTS; i++) {
        const slot_t *s = &ledger->cards[card].slots[i];
        if (s->pid && s->pid != getpid() && s->instance == instance) busy += recent_ns(s->buckets);
    }
    uint64_t share = busy * 1000 / (WINDOW * BUCKET_NS);
    return share > 1000 ? 1000 : (unsigned)share;
}

int cuInit(unsigned flags) {
    (void)flags;
    if (!begin()) return NO_DEVICE;
    look_at_devices();
    return leave(visible_count ? OK : NO_DEVICE);
}

int cuDriverGetVersion(int *version) { *version = 12080; return OK; }
int cuDeviceGetCount(int *count) { *count = visible_count; return OK; }
int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal >= 0 && ordinal < visible_count ? OK : BAD_DEVICE;
}
int cuDeviceGetName(char *text, int size, int device) {
    (void)device;
    snprintf(text, (size_t)size, CARD_NAME);
    return OK;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    (void)device;
    if (!begin()) return NO_DEVICE;
    *bytes = share_of(&ledger->cards[0], TOTAL_BYTES);
    return leave(OK);
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    if (!begin()) return NO_DEVICE;
    unsigned parts = ledger->cards[0].instances ? ledger->cards[0].instances : 1;
    *value = attribute == MULTIPROCESSOR_COUNT ? (int)(MULTIPROCESSORS / parts) : 0;
    return leave(OK);
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (device < 0 || device >= visible_count) return BAD_DEVICE;
    if (!begin()) return NO_DEVICE;
    card_t *card = &ledger->cards[visible[device]];
    int shared = 0;
    for (int i = 0; i < SLOTS; i++) {
        const slot_t *s = &card->slots[i];
        shared |= s->pid && s->pid != getpid() && s->instance == instance;
    }
    if (card->compute_mode == COMPUTE_PROHIBITED || (card->compute_mode != COMPUTE_DEFAULT && shared))
        return leave(DEVICE_UNAVAILABLE);
    own_slot(visible[device]);
    *context = (void *)(uintptr_t)(visible[device] + 1);
    return leave(OK);
}
int cuCtxSetCurrent(void *context) { current = (unsigned)(uintptr_t)context; return OK; }

int cuDevicePrimaryCtxRelease_v2(int device) {
    if (device < 0 || device >= visible_count) return BAD_DEVICE;
    if (!begin()) return NO_DEVICE;
    unsigned card = visible[device];
    slot_t *slot = own_slot(card);
    if (slot) drop(card, (int)(slot - ledger->cards[card].slots));
    for (int i = block_count - 1; i >= 0; i--)
        if (blocks[i].card == card) blocks[i] = blocks[--block_count];
    return leave(OK);
}

int cuGetErrorName(int error, const char **name) {
    *name = error == OK ? "CUDA_SUCCESS" : error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
          : error == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : error == BAD_DEVICE ? "CUDA_ERROR_INVALID_DEVICE"
          : error == DEVICE_UNAVAILABLE ? "CUDA_ERROR_DEVICE_UNAVAILABLE"
          : error == BAD_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT"
          : error == ILLEGAL_STATE ? "CUDA_ERROR_ILLEGAL_STATE" : "CUDA_ERROR_INVALID_VALUE";
    return OK;
}
int cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    if (!current) return BAD_CONTEXT;
    if (!begin()) return NO_DEVICE;
    *total = share_of(&ledger->cards[current - 1], TOTAL_BYTES);
    *free_bytes = *total - used_in(&ledger->cards[current - 1], instance);
    return leave(OK);
}

int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (!bytes) return INVALID;
    if (!current) return BAD_CONTEXT;
    if (!begin()) return NO_DEVICE;
    unsigned card = current - 1;
    slot_t *slot = own_slot(card);
    uint64_t room = share_of(&ledger->cards[card], TOTAL_BYTES) - used_in(&ledger->cards[card], instance);
    if (!slot || block_count == BLOCKS || bytes > room) return leave(OUT_OF_MEMORY);
    unsigned page = 0;
    if (ledger->contiguous) {
        if ((page = find_hole(card, pages_of(bytes))) == PAGES) return leave(OUT_OF_MEMORY);
        memset(&ledger->owners[card][page], (int)(slot - ledger->cards[card].slots) + 1, pages_of(bytes));
    }
    slot->bytes += bytes;
    blocks[block_count++] = (block_t){next_address, bytes, card, page};
    *address = next_address;
    next_address += (bytes + 511) / 512 * 512;
    return leave(OK);
}

int cuMemFree_v2(uint64_t address) {
    if (!begin()) return NO_DEVICE;
    for (int i = 0; i < block_count; i++)
        if (blocks[i].address == address) {
            slot_t *slot = own_slot(blocks[i].card);
            if (!slot || i >= block_count) break; /* a forked child holds none of its parent's */
            slot->bytes -= blocks[i].bytes;
            if (ledger->contiguous)
                memset(&ledger->owners[blocks[i].card][blocks[i].page], 0, pages_of(blocks[i].bytes));
            blocks[i] = blocks[--block_count];
            return leave(OK);
        }
    return leave(INVALID);
}

int cuMemsetD8_v2(uint64_t address, unsigned char value, size_t bytes) {
    (void)address, (void)value, (void)bytes;
    return begin() ? leave(OK) : NO_DEVICE;
}

int cuModuleLoadData(void **module, const void *image) {
    *module = (void *)0x1;
    return strstr(image, ".entry") ? OK : INVALID;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    (void)name;
    *function = module;
    return OK;
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared, void *stream, void **parameters,
                   void **extra) {
    (void)function, (void)grid_x, (void)grid_y, (void)grid_z, (void)block_x, (void)block_y, (void)block_z;
    (void)shared, (void)stream, (void)extra;
    if (!current) return BAD_CONTEXT;
    if (!begin()) return NO_DEVICE;
    pending_ns += *(const uint32_t *)parameters[1] * ITERATION_NS;
    return leave(OK);
}

int cuCtxSynchronize(void) {
    uint64_t busy = pending_ns;
    if (!begin()) return NO_DEVICE;
    leave(OK);
    if (!busy) return OK;
    pending_ns = 0;
    struct timespec pause = {(time_t)(busy / 1000000000ull), (long)(busy % 1000000000ull)};
    uint64_t start = now_ns();
    nanosleep(&pause, NULL);
    if (!begin()) return NO_DEVICE;
    note_busy(current - 1, start, busy);
    return leave(OK);
}

/* When a process that has a context was begun; 0: there is none. */
static uint64_t user_begun(pid_t pid) {
    for (unsigned c = 0; pid > 0 && c < ledger->count; c++)
        for (int i = 0; i < SLOTS; i++)
            if (ledger->cards[c].slots[i].pid == pid) return ledger->cards[c].slots[i].started;
    return 0;
}

int cuCheckpointProcessGetState(int pid, int *state) {
    if (!enter()) return NO_DEVICE;
    if (!user_begun(pid)) return leave(INVALID);
    *state = lock_of(pid) ? LOCKED : RUNNING;
    return leave(OK);
}

int cuCheckpointProcessLock(int pid, void *arguments) {
    (void)arguments; /* nothing is under way that a lock would wait for */
    if (!enter()) return NO_DEVICE;
    uint64_t begun = user_begun(pid);
    if (!begun) return leave(INVALID);
    if (lock_of(pid)) return leave(ILLEGAL_STATE);
    lock_t *lock = lock_of(0);
    if (lock) *lock = (lock_t){pid, begun};
    return leave(lock ? OK : OUT_OF_MEMORY);
}

int cuCheckpointProcessUnlock(int pid, void *arguments) {
    (void)arguments;
    if (!enter()) return NO_DEVICE;
    if (!user_begun(pid)) return leave(INVALID);
    lock_t *lock = lock_of(pid);
    if (lock) *lock = (lock_t){0};
    return leave(lock ? OK : ILLEGAL_STATE);
}

/* The mock's own: kernels of this process ran for `busy_ns`, ending now. */
int mockgpu_ran(uint64_t busy_ns) {
    if (!current) return BAD_CONTEXT;
    if (busy_ns > WINDOW * BUCKET_NS) busy_ns = WINDOW * BUCKET_NS;
    if (!begin()) return NO_DEVICE;
    note_busy(current - 1, now_ns() - busy_ns, busy_ns);
    return leave(OK);
}

/* The mock's own: for how much of the time kernels of others run, in thousandths. */
int mockgpu_crowding(unsigned *thousandths) {
    if (!current) return BAD_CONTEXT;
    if (!begin()) return NO_DEVICE;
    *thousandths = crowding(current - 1);
    return leave(OK);
}

/* The mock's own: how many times as long a kernel takes, in thousandths, by locked clocks and a power
 * limit. */
int mockgpu_slowness(unsigned *thousandths) {
    if (!current) return BAD_CONTEXT;
    if (!begin()) return NO_DEVICE;
    const card_t *card = &ledger->cards[current - 1];
    unsigned by_clock = card->locked_mhz ? TOP_MHZ * 1000 / card->locked_mhz : 1000;
    unsigned by_power = card->power_milliwatts ? TOP_MILLIWATTS / (card->power_milliwatts / 1000) : 1000;
    *thousandths = by_clock > by_power ? by_clock : by_power;
    return leave(OK);
}
