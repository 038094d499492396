/*
 * MODE SELECT (SPC-4, 6.11): the whole list is checked, against the bits that can be changed,
 * before any of it counts. Changes are for all nexuses, and the others learn of them (2A/01).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/mode.h"

#define LIST_MAX 512

/* The block descriptor may only say what is. */
static int check_block_descriptor(struct call *c, struct cursor *list, size_t length, bool long_lba)
{
    unsigned at = (unsigned)list->position;
    uint64_t blocks = disk_blocks(c->disk);
    if (length == 0)
        return 0;
    if (length != (long_lba ? 16 : 8))
        return fail_parameter(c, at - 1, 7);
    uint64_t all = long_lba ? UINT64_MAX : UINT32_MAX;
    uint64_t count = long_lba ? cursor_be64(list) : cursor_be32(list);
    if (long_lba)
        (void)cursor_be32(list);
    uint32_t bytes = cursor_be32(list) & (long_lba ? UINT32_MAX : 0xffffff);
    if (list->failed)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
    if (count != 0 && count != all && count != MIN(blocks, all))
        return fail_parameter(c, at, 7);
    if (bytes != c->disk->block_bytes)
        return fail_parameter(c, at + (long_lba ? 12 : 5), 7);
    return 0;
}

static const struct mode_page *find_page(uint8_t code)
{
    for (unsigned i = 0; i < mode_page_count; i++)
        if (mode_pages[i].code == code)
            return &mode_pages[i];
    return NULL;
}

static int take_page(struct call *c, struct cursor *list, struct mode_state *state)
{
    unsigned at = (unsigned)list->position;
    const uint8_t *head = cursor_take(list, 2);
    uint8_t now[MODE_PAGE_MAX];
    if (!head)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
    /* The bits PS and SPF are part of the code, so that subpages are not found. */
    const struct mode_page *page = find_page(head[0]);
    if (!page)
        return fail_parameter(c, at, 7);
    if (head[1] != page->length - 2)
        return fail_parameter(c, at + 1, 7);
    const uint8_t *bytes = cursor_take(list, page->length - 2u);
    if (!bytes)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
    bytes -= 2;
    mode_page_fill(page, state, now);
    for (unsigned i = 2; i < page->length; i++) {
        uint8_t wrong = (uint8_t)((bytes[i] ^ now[i]) & ~page->changeable[i]);
        if (wrong)
            return fail_parameter(c, at + i, 31 - __builtin_clz(wrong));
    }
    if (page->take)
        page->take(state, bytes);
    return 0;
}

static int co_apply(struct call *c, const struct mode_state *state)
{
    struct scsi_disk *disk = c->disk;
    struct mode_state before = {
        .write_cache = atomic_exchange(&disk->write_cache, state->write_cache),
        .descriptor_sense = atomic_exchange(&disk->descriptor_sense, state->descriptor_sense),
        .software_write_protect =
            atomic_exchange(&disk->software_write_protect, state->software_write_protect),
    };
    if (before.write_cache != state->write_cache ||
        before.descriptor_sense != state->descriptor_sense ||
        before.software_write_protect != state->software_write_protect)
        attention_raise(disk, ATTENTION_MODE, c->lun);
    /* What is in the cache when it is switched off must not stay there only. */
    int result = before.write_cache && !state->write_cache && !disk->read_only
                     ? co_root_flush(disk->root)
                     : 0;
    return result < 0 ? fail_errno(c, result, true) : SCSI_GOOD;
}

int co_mode_select(struct call *c)
{
    uint8_t bytes[LIST_MAX];
    bool ten = c->command->length == 10;
    size_t length = ten ? load_be16(c->cdb + 7) : c->cdb[4];
    if (c->cdb[1] & 0x01) /* SP: nothing is saved */
        return fail_cdb(c, 1, 0);
    if (length == 0) {
        call_residual(c, 0, c->task->data_out.length);
        return SCSI_GOOD;
    }
    if (!(c->cdb[1] & 0x10)) /* PF: other formats than the standard's are not known */
        return fail_cdb(c, 1, 4);
    if (length > sizeof(bytes))
        return fail_cdb(c, ten ? 7 : 4, 7);
    int status = parameters_load(c, bytes, length);
    if (status)
        return status;
    struct cursor list = cursor_of(bytes, length);
    const uint8_t *header = cursor_take(&list, ten ? 8 : 4);
    if (!header)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
    if (header[ten ? 2 : 1]) /* MEDIUM TYPE */
        return fail_parameter(c, ten ? 2 : 1, 7);
    status = check_block_descriptor(c, &list, ten ? load_be16(header + 6) : header[3],
                                    ten && (header[4] & 1));
    struct mode_state state = mode_current(c->disk);
    while (!status && cursor_left(&list) > 0)
        status = take_page(c, &list, &state);
    return status ? status : co_apply(c, &state);
}
