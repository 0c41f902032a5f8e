/* What mock_nvml.c's handles mean, and what NVML tells of a card that MIG has split. */

/* A device's handle is its number, from 1; a MIG instance's has its own above that, from 1 as well. */
#define PARENT 0xffu
#define PART_BITS 8
static unsigned index_of(void *device) { return (unsigned)((uintptr_t)device & PARENT) - 1; }
static unsigned part_of(void *device) { return (unsigned)((uintptr_t)device >> PART_BITS); }

/* Begin to answer about a device or an instance; what it returns other than OK is the answer. */
static int ask_part(void *device, card_t **card) {
    if (!enter()) return NO_DRIVER;
    unsigned index = index_of(device);
    if (index >= ledger->count || part_of(device) > ledger->cards[index].instances) return leave(INVALID);
    *card = &ledger->cards[index];
    return (*card)->lost ? leave(IS_LOST) : OK;
}
static int ask(void *device, card_t **card) {
    int refused = ask_part(device, card);
    return !refused && part_of(device) ? leave(NOT_SUPPORTED) : refused;
}
#define ASK(device, card) card_t *card; int refused = ask(device, &card); if (refused) return refused
#define ASK_PART(device, card) card_t *card; int refused = ask_part(device, &card); if (refused) return refused

static void name_part(char *text, const card_t *card, unsigned part) {
    if (part) name_instance(text, card, part - 1);
    else strcpy(text, card->uuid);
}

static uint64_t used_by(const card_t *card, unsigned part) {
    return part ? used_in(card, part - 1) : used_bytes(card);
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    ASK(device, card);
    if (!card->instances) return leave(NOT_SUPPORTED);
    *current = *pending = 1;
    return leave(OK);
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) {
    ASK(device, card);
    *count = card->instances ? INSTANCES : 0;
    return leave(OK);
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **part) {
    ASK(device, card);
    if (!card->instances) return leave(NOT_SUPPORTED);
    if (index >= INSTANCES) return leave(INVALID);
    if (index >= card->instances) return leave(NOT_FOUND);
    *part = (void *)((uintptr_t)(index + 1) << PART_BITS | (uintptr_t)device);
    return leave(OK);
}

int nvmlDeviceIsMigDeviceHandle(void *device, unsigned *is_part) {
    ASK_PART(device, card);
    (void)card;
    *is_part = part_of(device) != 0;
    return leave(OK);
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *part, void **device) {
    ASK_PART(part, card);
    (void)card;
    if (!part_of(part)) return leave(INVALID);
    *device = (void *)(uintptr_t)(index_of(part) + 1);
    return leave(OK);
}

int nvmlDeviceGetGpuInstanceId(void *part, unsigned *id) {
    ASK_PART(part, card);
    (void)card;
    if (!part_of(part)) return leave(INVALID);
    *id = part_of(part); /* from 1: 0 is the one that has all of a card */
    return leave(OK);
}

int nvmlDeviceGetComputeInstanceId(void *part, unsigned *id) {
    int result = nvmlDeviceGetGpuInstanceId(part, id);
    *id = 0;
    return result;
}
