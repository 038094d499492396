/*
 * A virtual machine's view of a vhost-scsi target, without the machine: the SCSI commands that a
 * guest's driver would send, through virtqueues of our own to the kernel's /dev/vhost-scsi.
 *
 *     vhost_scsi NAA inquiry              vendor, product and serial number
 *     vhost_scsi NAA capacity             bytes and bytes a block, by READ CAPACITY (16)
 *     vhost_scsi NAA write FILE           writes the file to the start of the disk, then flushes
 *     vhost_scsi NAA read FILE BYTES      reads the start of the disk into the file
 *     vhost_scsi NAA hold                 stays attached until its input ends
 *
 * The "guest's memory" is one anonymous mapping whose guest addresses are 0 upwards: the queues,
 * then one slot a request with its header, its answer and its data. Data commands are sent
 * QUEUE_DEPTH at a time and answered in any order. Layout of queues and requests: virtio 1.2,
 * sections 2.7 and 5.6.6. One thread.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_scsi.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define QUEUES        3 /* control, event, request: 5.6.2 */
#define REQUEST_QUEUE 2
#define RING_ENTRIES  128
#define QUEUE_BYTES   16384 /* of memory for one queue's three parts */
#define QUEUE_DEPTH   16
#define DATA_BYTES    65536
#define SLOT_BYTES    (4096 + DATA_BYTES) /* header at 0, answer at 1024, data at 4096 */
#define ANSWER_AT     1024
#define DATA_AT       4096
#define MEMORY_BYTES  (QUEUES * QUEUE_BYTES + QUEUE_DEPTH * SLOT_BYTES)
#define PATIENCE_MS   30000

struct queue {
    struct vring ring;
    int kick, call;
    uint16_t taken; /* answers seen */
};

struct machine {
    int vhost;
    uint8_t *memory;
    struct queue queues[QUEUES];
    uint32_t block_bytes;
    uint64_t blocks;
};

struct command {
    uint8_t cdb[16];
    bool out;
    uint32_t data_bytes;
};

static void die(const char *what)
{
    fprintf(stderr, "vhost_scsi: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void control(const struct machine *m, unsigned long request, void *arg, const char *what)
{
    if (ioctl(m->vhost, request, arg) < 0)
        die(what);
}

/* ---- the machine ---- */

static void give_memory(struct machine *m)
{
    struct vhost_memory *table = calloc(1, sizeof(*table) + sizeof(table->regions[0]));
    m->memory =
        mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!table || m->memory == MAP_FAILED)
        die("memory");
    table->nregions = 1;
    table->regions[0].memory_size = MEMORY_BYTES;
    table->regions[0].userspace_addr = (uintptr_t)m->memory;
    control(m, VHOST_SET_MEM_TABLE, table, "VHOST_SET_MEM_TABLE");
    free(table);
}

static void give_queue(struct machine *m, unsigned index)
{
    struct queue *queue = &m->queues[index];
    vring_init(&queue->ring, RING_ENTRIES, m->memory + (size_t)index * QUEUE_BYTES, 4096);
    queue->kick = eventfd(0, EFD_CLOEXEC);
    queue->call = eventfd(0, EFD_CLOEXEC);
    struct vhost_vring_state size = {.index = index, .num = RING_ENTRIES};
    struct vhost_vring_state base = {.index = index};
    struct vhost_vring_addr address = {
        .index = index,
        .desc_user_addr = (uintptr_t)queue->ring.desc,
        .avail_user_addr = (uintptr_t)queue->ring.avail,
        .used_user_addr = (uintptr_t)queue->ring.used,
    };
    struct vhost_vring_file kick = {.index = index, .fd = queue->kick};
    struct vhost_vring_file call = {.index = index, .fd = queue->call};
    control(m, VHOST_SET_VRING_NUM, &size, "VHOST_SET_VRING_NUM");
    control(m, VHOST_SET_VRING_BASE, &base, "VHOST_SET_VRING_BASE");
    control(m, VHOST_SET_VRING_ADDR, &address, "VHOST_SET_VRING_ADDR");
    control(m, VHOST_SET_VRING_KICK, &kick, "VHOST_SET_VRING_KICK");
    control(m, VHOST_SET_VRING_CALL, &call, "VHOST_SET_VRING_CALL");
}

static void start(struct machine *m, const char *naa)
{
    uint64_t features = 0;
    struct vhost_scsi_target target = {.vhost_tpgt = 1};
    m->vhost = open("/dev/vhost-scsi", O_RDWR | O_CLOEXEC);
    if (m->vhost < 0)
        die("/dev/vhost-scsi");
    control(m, VHOST_SET_OWNER, NULL, "VHOST_SET_OWNER");
    control(m, VHOST_GET_FEATURES, &features, "VHOST_GET_FEATURES");
    features &= 1ull << VIRTIO_F_VERSION_1;
    control(m, VHOST_SET_FEATURES, &features, "VHOST_SET_FEATURES");
    control(m, VHOST_SCSI_GET_ABI_VERSION, &target.abi_version, "VHOST_SCSI_GET_ABI_VERSION");
    give_memory(m);
    for (unsigned i = 0; i < QUEUES; i++)
        give_queue(m, i);
    snprintf(target.vhost_wwpn, sizeof(target.vhost_wwpn), "%s", naa);
    control(m, VHOST_SCSI_SET_ENDPOINT, &target, naa);
}

/* ---- requests ---- */

static uint64_t slot_address(unsigned slot)
{
    return QUEUES * QUEUE_BYTES + (uint64_t)slot * SLOT_BYTES;
}

static uint8_t *slot_data(const struct machine *m, unsigned slot)
{
    return m->memory + slot_address(slot) + DATA_AT;
}

/* Header, data to the device, answer, data from the device: in this order (2.7.4.2, 5.6.6.1). */
static void submit(struct machine *m, unsigned slot, const struct command *command)
{
    struct queue *queue = &m->queues[REQUEST_QUEUE];
    struct vring *ring = &queue->ring;
    uint64_t at = slot_address(slot);
    struct virtio_scsi_cmd_req *header = (void *)(m->memory + at);
    *header = (struct virtio_scsi_cmd_req){.lun = {1, 1, 0x40, 0}, .tag = slot};
    memcpy(header->cdb, command->cdb, sizeof(command->cdb));
    memset(m->memory + at + ANSWER_AT, 0xff, sizeof(struct virtio_scsi_cmd_resp));
    struct vring_desc parts[3] = {{.addr = at, .len = sizeof(*header)}};
    struct vring_desc data = {.addr = at + DATA_AT, .len = command->data_bytes};
    struct vring_desc answer = {.addr = at + ANSWER_AT,
                                .len = sizeof(struct virtio_scsi_cmd_resp),
                                .flags = VRING_DESC_F_WRITE};
    unsigned n = 1;
    if (command->out && command->data_bytes)
        parts[n++] = data;
    parts[n++] = answer;
    if (!command->out && command->data_bytes) {
        data.flags = VRING_DESC_F_WRITE;
        parts[n++] = data;
    }
    for (unsigned i = 0; i < n; i++) {
        ring->desc[slot * 3 + i] = parts[i];
        if (i + 1 < n) {
            ring->desc[slot * 3 + i].flags |= VRING_DESC_F_NEXT;
            ring->desc[slot * 3 + i].next = (uint16_t)(slot * 3 + i + 1);
        }
    }
    uint16_t next = ring->avail->idx;
    ring->avail->ring[next % RING_ENTRIES] = (uint16_t)(slot * 3);
    __atomic_store_n(&ring->avail->idx, (uint16_t)(next + 1), __ATOMIC_RELEASE);
    if (eventfd_write(queue->kick, 1) < 0)
        die("kick");
}

/* The next answered slot. Anything but GOOD ends the program with the sense data. */
static unsigned take(struct machine *m)
{
    struct queue *queue = &m->queues[REQUEST_QUEUE];
    while (__atomic_load_n(&queue->ring.used->idx, __ATOMIC_ACQUIRE) == queue->taken) {
        struct pollfd wait = {.fd = queue->call, .events = POLLIN};
        eventfd_t rung;
        if (poll(&wait, 1, PATIENCE_MS) != 1) {
            errno = ETIMEDOUT;
            die("no answer");
        }
        if (eventfd_read(queue->call, &rung) < 0)
            die("call");
    }
    unsigned slot = queue->ring.used->ring[queue->taken++ % RING_ENTRIES].id / 3;
    const struct virtio_scsi_cmd_resp *answer =
        (void *)(m->memory + slot_address(slot) + ANSWER_AT);
    if (answer->response != VIRTIO_SCSI_S_OK || answer->status) {
        fprintf(stderr, "vhost_scsi: response %u, status 0x%02x, sense key %x, asc %02x%02x\n",
                answer->response, answer->status, answer->sense[2] & 15, answer->sense[12],
                answer->sense[13]);
        exit(2);
    }
    return slot;
}

static uint8_t *execute(struct machine *m, const struct command *command)
{
    memset(slot_data(m, 0), 0, DATA_BYTES);
    submit(m, 0, command);
    return slot_data(m, take(m));
}

/* ---- what can be asked for ---- */

/* The first commands after a login meet unit attentions: a driver asks until there are none. */
static void clear_attentions(struct machine *m)
{
    for (unsigned n = 0; n < 8; n++) {
        submit(m, 0, &(struct command){.cdb = {0}});
        const struct virtio_scsi_cmd_resp *answer =
            (void *)(m->memory + slot_address(0) + ANSWER_AT);
        struct queue *queue = &m->queues[REQUEST_QUEUE];
        struct pollfd wait = {.fd = queue->call, .events = POLLIN};
        eventfd_t rung;
        if (poll(&wait, 1, PATIENCE_MS) != 1 || eventfd_read(queue->call, &rung) < 0)
            die("TEST UNIT READY");
        queue->taken++;
        if (answer->response == VIRTIO_SCSI_S_OK && answer->status == 0)
            return;
        if (answer->response != VIRTIO_SCSI_S_OK || (answer->sense[2] & 15) != 6)
            break;
    }
    errno = EIO;
    die("the disk does not become ready");
}

static void read_capacity(struct machine *m)
{
    const uint8_t *data =
        execute(m, &(struct command){.cdb = {0x9e, 0x10, [13] = 32}, .data_bytes = 32});
    uint64_t last;
    uint32_t bytes;
    memcpy(&last, data, sizeof(last));
    memcpy(&bytes, data + 8, sizeof(bytes));
    m->blocks = be64toh(last) + 1;
    m->block_bytes = be32toh(bytes);
}

static void print_inquiry(struct machine *m)
{
    const uint8_t *data =
        execute(m, &(struct command){.cdb = {0x12, 0, 0, 0, 96}, .data_bytes = 96});
    printf("%.8s %.16s ", data + 8, data + 16);
    data = execute(m, &(struct command){.cdb = {0x12, 1, 0x80, 0, 96}, .data_bytes = 96});
    printf("%.*s\n", data[3], data + 4);
}

static struct command transfer(const struct machine *m, bool out, uint64_t offset, uint32_t bytes)
{
    struct command command = {.cdb = {out ? 0x2a : 0x28}, .out = out, .data_bytes = bytes};
    uint32_t block = htobe32((uint32_t)(offset / m->block_bytes));
    uint16_t count = htobe16((uint16_t)(bytes / m->block_bytes));
    memcpy(command.cdb + 2, &block, sizeof(block));
    memcpy(command.cdb + 7, &count, sizeof(count));
    return command;
}

struct transfers {
    int file;
    bool out;
    uint64_t bytes, next; /* where the next command begins */
    uint64_t offset[QUEUE_DEPTH];
    uint32_t length[QUEUE_DEPTH];
};

/* Sends the next part of the transfer by @slot. */
static void send_part(struct machine *m, struct transfers *t, unsigned slot)
{
    uint64_t left = t->bytes - t->next;
    uint32_t length = left < DATA_BYTES ? (uint32_t)left : DATA_BYTES;
    struct command command = transfer(m, t->out, t->next, length);
    if (t->out && pread(t->file, slot_data(m, slot), length, (off_t)t->next) != (ssize_t)length)
        die("file");
    t->offset[slot] = t->next;
    t->length[slot] = length;
    t->next += length;
    submit(m, slot, &command);
}

/* Copies between a file and the disk's start, with up to QUEUE_DEPTH commands in flight. */
static void copy(struct machine *m, struct transfers *t)
{
    unsigned flying = 0;
    if (t->bytes % m->block_bytes || t->bytes / m->block_bytes > m->blocks) {
        errno = ERANGE;
        die("length");
    }
    for (; flying < QUEUE_DEPTH && t->next < t->bytes; flying++)
        send_part(m, t, flying);
    while (flying) {
        unsigned slot = take(m);
        ssize_t length = (ssize_t)t->length[slot];
        if (!t->out &&
            pwrite(t->file, slot_data(m, slot), (size_t)length, (off_t)t->offset[slot]) != length)
            die("file");
        if (t->next < t->bytes)
            send_part(m, t, slot);
        else
            flying--;
    }
    if (t->out)
        execute(m, &(struct command){.cdb = {0x35}});
}

int main(int argc, char **argv)
{
    struct machine m = {0};
    const char *what = argc > 2 ? argv[2] : "";
    bool out = strcmp(what, "write") == 0;
    bool transfers = (out && argc == 4) || (strcmp(what, "read") == 0 && argc == 5);
    bool plain = !strcmp(what, "inquiry") || !strcmp(what, "capacity") || !strcmp(what, "hold");
    if (!transfers && !(argc == 3 && plain)) {
        fprintf(stderr,
                "usage: vhost_scsi NAA inquiry | capacity | hold | write FILE | read FILE BYTES\n");
        return 64;
    }
    start(&m, argv[1]);
    clear_attentions(&m);
    read_capacity(&m);
    if (strcmp(what, "inquiry") == 0) {
        print_inquiry(&m);
    } else if (strcmp(what, "hold") == 0) {
        puts("attached");
        fflush(stdout);
        while (getchar() != EOF)
            ;
    } else if (strcmp(what, "capacity") == 0) {
        printf("%llu %u\n", (unsigned long long)m.blocks * m.block_bytes, m.block_bytes);
    } else {
        int file = open(argv[3], (out ? O_RDONLY : O_RDWR | O_CREAT | O_TRUNC) | O_CLOEXEC, 0600);
        if (file < 0)
            die(argv[3]);
        struct transfers t = {.file = file, .out = out};
        t.bytes = out ? (uint64_t)lseek(file, 0, SEEK_END) : strtoull(argv[4], NULL, 10);
        copy(&m, &t);
    }
    return 0;
}
