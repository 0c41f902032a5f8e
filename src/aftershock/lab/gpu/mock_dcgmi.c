/* The mock's dcgmi, as far as it fakes an Xid for monitoring and shows the last one:
 *
 *     dcgmi test --inject --gpuid N -f 230 -v XID
 *     dcgmi dmon -e 230 -c 1 -i N[,N...]
 *
 * Field 230 (DCGM_FI_DEV_XID_ERRORS) is the last Xid, as long as nothing overwrites it. */
#include "mock_gpu.h"

#define XID_ERRORS "230"

static const char *option(int count, char **words, const char *name) {
    for (int i = 2; i + 1 < count; i++)
        if (!strcmp(words[i], name)) return words[i + 1];
    return "";
}

static void show(unsigned long index) {
    card_t *card = &ledger->cards[index];
    uint32_t last = card->xid_count ? card->xids[(card->xid_count - 1) % EVENTS] : 0;
    printf("GPU %lu     %u\n", index, card->dcgm_xid ? card->dcgm_xid : last);
}

int main(int count, char **words) {
    int injects = count > 2 && !strcmp(words[1], "test") && !strcmp(words[2], "--inject");
    int shows = count > 1 && !strcmp(words[1], "dmon");
    const char *field = option(count, words, injects ? "-f" : "-e");
    const char *indexes = option(count, words, injects ? "--gpuid" : "-i");
    if (!(injects || shows) || strcmp(field, XID_ERRORS) || !enter()) {
        fprintf(stderr, "Error: unable to do that\n");
        return 1;
    }
    if (shows) printf("#Entity   XIDER\nID\n");
    for (const char *at = indexes; *at || at == indexes; at += *at == ',') {
        char *end;
        unsigned long index = strtoul(at, &end, 10);
        if (end == at || index >= ledger->count) {
            fprintf(stderr, "Error: no GPU %s\n", at);
            return leave(1);
        }
        at = end;
        if (shows) show(index);
        else ledger->cards[index].dcgm_xid = (uint32_t)strtoul(option(count, words, "-v"), NULL, 10);
    }
    if (injects) printf("Successfully injected.\n");
    return leave(0);
}
