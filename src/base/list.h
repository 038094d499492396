/*
 * Intrusive circular doubly linked list. The head is a node of its own; an unlinked node points to
 * itself, so list_del() may be called twice.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include "base/common.h"

struct list {
    struct list *next, *prev;
};

#define LIST_INIT(name)  \
    {                    \
        &(name), &(name) \
    }

static inline void list_init(struct list *node)
{
    node->next = node->prev = node;
}

static inline bool list_empty(const struct list *head)
{
    return head->next == head;
}

static inline void list_insert_(struct list *node, struct list *prev, struct list *next)
{
    node->prev = prev;
    node->next = next;
    prev->next = next->prev = node;
}

static inline void list_push_front(struct list *head, struct list *node)
{
    list_insert_(node, head, head->next);
}

static inline void list_push_back(struct list *head, struct list *node)
{
    list_insert_(node, head->prev, head);
}

static inline void list_del(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}

/** First node, unlinked; NULL when the list is empty. */
static inline struct list *list_pop_front(struct list *head)
{
    struct list *node = head->next;
    if (node == head)
        return NULL;
    list_del(node);
    return node;
}

/** Moves all of @from to the end of @to. */
static inline void list_splice_back(struct list *to, struct list *from)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

#define list_entry(node, type, member) container_of(node, type, member)
#define list_for_each(node, head) \
    for (struct list *node = (head)->next; node != (head); node = node->next)
#define list_for_each_safe(node, head)                                                \
    for (struct list *node = (head)->next, *node##_next = node->next; node != (head); \
         node = node##_next, node##_next = node->next)

#endif
