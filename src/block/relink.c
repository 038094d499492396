/*
 * Taking layers out of a live chain.
 *
 *     cut       above <- | fallen ... | <- below        =>   above <- below
 *     sink      | top ... |           <- below          =>   below is the top
 *
 * What the chain reads as is the caller's care; here only edges, rights and the name on disk
 * change, in an order in which a failure leaves the chain as it was. A node that lets go of the
 * one below hands its reference on.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "block/root.h"

int co_block_forbid_write(struct block_node *node, struct hws_error *err)
{
    if (node->read_only)
        return 0;
    int r = co_node_set_read_only(node, true, err);
    return r < 0 ? hws_wrap(err, r, "'%.200s' cannot be made read-only", node->filename) : 0;
}

/* The layer whose backing file is @below; @below NULL: the last one. */
static struct block_node *layer_over(struct block_node *node, const struct block_node *below)
{
    while (node->child[BLOCK_BACKING] != below)
        node = node->child[BLOCK_BACKING];
    return node;
}

int co_root_cut(struct block_root *root, struct block_node *above, struct block_node *below,
                const char *name, const char *format, struct block_node **ret_fallen,
                struct hws_error *err)
{
    bool was_read_only = above->read_only;
    assert(atomic_load(&root->drained));
    assert(above != below && above->child[BLOCK_BACKING] && above->child[BLOCK_BACKING] != below);
    int r = co_block_allow_write(above, err);
    if (r == 0)
        r = co_block_change_backing(above, below ? name : NULL, below ? format : NULL, err);
    struct hws_error why = {0};
    if (was_read_only && !above->read_only && co_node_set_read_only(above, true, &why) < 0)
        log_warning("%s", why.text);
    if (r < 0)
        return r;
    struct block_node *fallen = above->child[BLOCK_BACKING];
    above->child[BLOCK_BACKING] = below;
    if (below)
        layer_over(fallen, below)->child[BLOCK_BACKING] = NULL;
    shortcut_changed(above);
    *ret_fallen = fallen;
    return 0;
}

struct block_node *block_root_sink(struct block_root *root, struct block_node *below)
{
    struct block_node *fallen = root->node;
    assert(atomic_load(&root->drained));
    assert(fallen != below && block_size(fallen) == block_size(below));
    layer_over(fallen, below)->child[BLOCK_BACKING] = NULL;
    shortcut_changed(below);
    root->node = below;
    root_take_size(root);
    return fallen;
}
