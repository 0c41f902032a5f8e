/* The mock's libnvidia-ml.so.1: what pynvml asks, answered from the ledger (mock_gpu.h). */
#include "mock_gpu.h"
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7,
       NO_DRIVER = 9, TIMEOUT = 10, IS_LOST = 15, BAD_VERSION = 25 };
#define MEMORY_V2 0x02000028u
#define TEMPERATURE_V1 0x0100000cu
#define XID_EVENTS 8ull
#define FIRST_BUS 0x3bu
#define LEAST_MHZ 210u
#define LEAST_MILLIWATTS 200000u
#define IDLE_REASON 1ull
#define LOCKED_REASON 2ull /* "applications clocks setting" */
#define POWER_CAP_REASON 4ull

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { char legacy[16]; unsigned domain, bus, device, device_id, subsystem_id; char id[32]; } pci_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned version; int sensor; int temperature; } temperature_t;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } process_t;
typedef struct { void *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; } event_t;
typedef struct { uint64_t seen[CARDS]; uint8_t watched[CARDS]; } event_set_t;

#include "mock_mig.h"

static unsigned utilization(const card_t *card) {
    return (unsigned)((recent_ns(card->buckets) * 100 + WINDOW * BUCKET_NS / 2) / (WINDOW * BUCKET_NS));
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return enter() ? leave(OK) : NO_DRIVER; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int result) {
    switch (result) {
    case OK: return "Success";
    case INVALID: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case TOO_SMALL: return "Insufficient Size";
    case NO_DRIVER: return "Driver Not Loaded";
    case TIMEOUT: return "Timeout";
    case IS_LOST: return "GPU is lost";
    case BAD_VERSION: return "Argument Version Mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "570.00-mock"); return OK; }
int nvmlSystemGetNVMLVersion(char *text, unsigned size) { snprintf(text, size, "12.570.00-mock"); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12080; return OK; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    if (!enter()) return NO_DRIVER;
    *count = ledger->count;
    return leave(OK);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(uintptr_t)(index + 1);
    ASK(*device, card);
    (void)card;
    return leave(OK);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    if (!enter()) return NO_DRIVER;
    for (unsigned i = 0; uuid && i < ledger->count; i++)
        for (uintptr_t part = 0; part <= ledger->cards[i].instances; part++) {
            char own[sizeof ledger->cards[i].uuid];
            name_part(own, &ledger->cards[i], (unsigned)part);
            if (strcmp(uuid, own)) continue;
            *device = (void *)(part << PART_BITS | (i + 1));
            return leave(OK);
        }
    return leave(NOT_FOUND);
}

int nvmlDeviceGetIndex(void *device, unsigned *index) {
    *index = part_of(device) ? part_of(device) - 1 : index_of(device);
    return OK;
}
int nvmlDeviceGetMinorNumber(void *device, unsigned *minor) { return nvmlDeviceGetIndex(device, minor); }

int nvmlDeviceGetName(void *device, char *text, unsigned size) {
    ASK_PART(device, card);
    unsigned gib = (unsigned)(share_of(card, TOTAL_BYTES) >> 30);
    if (part_of(device)) snprintf(text, size, CARD_NAME " MIG %ug.%ugb", INSTANCES / card->instances, gib);
    else snprintf(text, size, CARD_NAME);
    return leave(OK);
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    ASK_PART(device, card);
    char own[sizeof card->uuid];
    name_part(own, card, part_of(device));
    snprintf(text, size, "%s", own);
    return leave(OK);
}

int nvmlDeviceGetPciInfo_v3(void *device, pci_t *pci) {
    ASK(device, card);
    (void)card;
    *pci = (pci_t){.bus = FIRST_BUS + index_of(device), .device_id = 0x233010de};
    snprintf(pci->legacy, sizeof pci->legacy, "0000:%02X:00.0", pci->bus);
    snprintf(pci->id, sizeof pci->id, "00000000:%02X:00.0", pci->bus);
    return leave(OK);
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    ASK_PART(device, card);
    memory->total = part_of(device) ? share_of(card, TOTAL_BYTES) : TOTAL_BYTES;
    memory->used = used_by(card, part_of(device));
    memory->free = memory->total - memory->used;
    return leave(OK);
}

int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2_t *memory) {
    if (memory->version != MEMORY_V2) return BAD_VERSION;
    ASK_PART(device, card);
    memory->total = part_of(device) ? share_of(card, TOTAL_BYTES) : TOTAL_BYTES;
    memory->reserved = part_of(device) ? share_of(card, RESERVED_BYTES) : RESERVED_BYTES;
    /* version 2 does not count what the driver reserved as used */
    memory->used = used_by(card, part_of(device)) - memory->reserved;
    memory->free = memory->total - memory->reserved - memory->used;
    return leave(OK);
}

int nvmlDeviceGetUtilizationRates(void *device, utilization_t *rates) {
    ASK(device, card);
    if (card->instances) return leave(NOT_SUPPORTED);
    rates->gpu = utilization(card);
    rates->memory = rates->gpu * 6 / 10;
    return leave(OK);
}

static unsigned limit_of(const card_t *card) {
    return card->power_milliwatts ? card->power_milliwatts : TOP_MILLIWATTS;
}

static unsigned wanted_milliwatts(const card_t *card) { return 70000 + utilization(card) * 5300; }

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    ASK(device, card);
    *milliwatts = wanted_milliwatts(card);
    if (*milliwatts > limit_of(card)) *milliwatts = limit_of(card);
    return leave(OK);
}

int nvmlDeviceGetPowerManagementLimit(void *device, unsigned *milliwatts) {
    ASK(device, card);
    *milliwatts = limit_of(card);
    return leave(OK);
}
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *milliwatts) {
    return nvmlDeviceGetPowerManagementLimit(device, milliwatts);
}
int nvmlDeviceGetPowerManagementDefaultLimit(void *device, unsigned *milliwatts) {
    (void)device;
    *milliwatts = TOP_MILLIWATTS;
    return OK;
}
int nvmlDeviceGetPowerManagementLimitConstraints(void *device, unsigned *least, unsigned *most) {
    (void)device;
    *least = LEAST_MILLIWATTS;
    *most = TOP_MILLIWATTS;
    return OK;
}
int nvmlDeviceSetPowerManagementLimit(void *device, unsigned milliwatts) {
    if (milliwatts < LEAST_MILLIWATTS || milliwatts > TOP_MILLIWATTS) return INVALID;
    ASK(device, card);
    card->power_milliwatts = milliwatts;
    return leave(OK);
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    if (sensor) return INVALID;
    ASK(device, card);
    *celsius = 34 + utilization(card) * 4 / 10;
    return leave(OK);
}

int nvmlDeviceGetTemperatureV(void *device, temperature_t *reading) {
    unsigned celsius = 0;
    if (reading->version != TEMPERATURE_V1) return BAD_VERSION;
    int result = nvmlDeviceGetTemperature(device, reading->sensor, &celsius);
    reading->temperature = (int)celsius;
    return result;
}

static const unsigned top_mhz[] = {TOP_MHZ, TOP_MHZ, 2619, 1545}; /* graphics, SM, memory, video */

int nvmlDeviceGetMaxClockInfo(void *device, unsigned type, unsigned *mhz) {
    (void)device;
    if (type > 3) return INVALID;
    *mhz = top_mhz[type];
    return OK;
}

int nvmlDeviceGetClockInfo(void *device, unsigned type, unsigned *mhz) {
    if (type > 3) return INVALID;
    ASK(device, card);
    *mhz = type == 2 || utilization(card) ? top_mhz[type] : 345;
    if (type < 2 && card->locked_mhz && *mhz > card->locked_mhz) *mhz = card->locked_mhz;
    return leave(OK);
}

int nvmlDeviceSetGpuLockedClocks(void *device, unsigned least, unsigned most) {
    if (least > most || most < LEAST_MHZ || most > TOP_MHZ) return INVALID;
    ASK(device, card);
    card->locked_mhz = most;
    return leave(OK);
}
int nvmlDeviceResetGpuLockedClocks(void *device) {
    ASK(device, card);
    card->locked_mhz = 0;
    return leave(OK);
}

int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *reasons) {
    ASK(device, card);
    *reasons = card->throttled;
    if (card->locked_mhz) *reasons |= LOCKED_REASON;
    if (wanted_milliwatts(card) > limit_of(card)) *reasons |= POWER_CAP_REASON;
    if (!*reasons && !utilization(card)) *reasons = IDLE_REASON;
    return leave(OK);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
    return nvmlDeviceGetCurrentClocksEventReasons(device, reasons);
}

int nvmlDeviceGetTotalEccErrors(void *device, unsigned type, unsigned counter, unsigned long long *count) {
    (void)counter;
    ASK(device, card);
    *count = type == 1 ? card->uncorrected_errors : 0;
    return leave(OK);
}

int nvmlDeviceGetComputeMode(void *device, unsigned *mode) {
    ASK(device, card);
    *mode = card->compute_mode;
    return leave(OK);
}
int nvmlDeviceSetComputeMode(void *device, unsigned mode) {
    if (mode > 3) return INVALID;
    ASK(device, card);
    card->compute_mode = mode;
    return leave(OK);
}

int nvmlDeviceGetPersistenceMode(void *device, unsigned *mode) {
    ASK(device, card);
    *mode = card->persistence;
    return leave(OK);
}
int nvmlDeviceSetPersistenceMode(void *device, unsigned mode) {
    if (mode > 1) return INVALID;
    ASK(device, card);
    card->persistence = mode;
    return leave(OK);
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *out) {
    unsigned found = 0, room = *count, part = part_of(device);
    ASK_PART(device, card);
    for (int i = 0; i < SLOTS; i++) {
        slot_t *s = &card->slots[i];
        if (!s->pid || (part && s->instance != part - 1)) continue;
        unsigned gpu_instance = card->instances ? s->instance + 1 : ~0u;
        unsigned compute_instance = card->instances ? 0 : ~0u;
        if (out && found < room)
            out[found] = (process_t){(unsigned)s->pid, s->bytes, gpu_instance, compute_instance};
        found++;
    }
    *count = found;
    return leave(found > room ? TOO_SMALL : OK);
}

int nvmlDeviceGetSupportedEventTypes(void *device, unsigned long long *types) {
    (void)device;
    *types = XID_EVENTS;
    return OK;
}
int nvmlEventSetCreate(void **set) { return (*set = calloc(1, sizeof(event_set_t))) ? OK : INVALID; }
int nvmlEventSetFree(void *set) { free(set); return OK; }

int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
    if (types & ~XID_EVENTS) return NOT_SUPPORTED;
    ASK(device, card);
    event_set_t *watching = set;
    unsigned at = index_of(device);
    watching->watched[at] = 1;
    watching->seen[at] = card->xid_count;
    return leave(OK);
}

static int next_event(event_set_t *set, event_t *event) {
    for (unsigned i = 0; i < ledger->count; i++) {
        card_t *card = &ledger->cards[i];
        if (!set->watched[i] || set->seen[i] >= card->xid_count) continue;
        if (set->seen[i] + EVENTS < card->xid_count) set->seen[i] = card->xid_count - EVENTS;
        uint32_t xid = card->xids[set->seen[i]++ % EVENTS];
        *event = (event_t){(void *)(uintptr_t)(i + 1), XID_EVENTS, xid, ~0u, ~0u};
        return 1;
    }
    return 0;
}

int nvmlEventSetWait_v2(void *set, event_t *event, unsigned timeout_ms) {
    uint64_t until = now_ns() + timeout_ms * 1000000ull;
    for (;;) {
        if (!enter()) return NO_DRIVER;
        uint32_t heard = ledger->xids_in_all;
        if (leave(next_event(set, event))) return OK;
        uint64_t now = now_ns();
        if (now >= until) return TIMEOUT;
        struct timespec left = {(time_t)((until - now) / 1000000000ull), (long)((until - now) % 1000000000ull)};
        syscall(SYS_futex, &ledger->xids_in_all, FUTEX_WAIT, heard, &left, NULL, 0);
    }
}

/* The mock's own: what no driver does when told to. */
enum { LOST = 0, THROTTLED = 1, UNCORRECTED = 2, XID = 3 };

int mockgpu_set(unsigned index, unsigned what, unsigned long long value) {
    if (!enter()) return NO_DRIVER;
    if (index >= ledger->count || what > XID) return leave(INVALID);
    card_t *card = &ledger->cards[index];
    if (what == LOST) card->lost = value != 0;
    if (what == THROTTLED) card->throttled = (uint32_t)value;
    if (what == XID) {
        card->xids[card->xid_count++ % EVENTS] = (uint32_t)value;
        ledger->xids_in_all++;
        syscall(SYS_futex, &ledger->xids_in_all, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    }
    if (what == UNCORRECTED) card->uncorrected_errors = value;
    return leave(OK);
}
