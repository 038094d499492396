/*
 * What the personalities qemu-img and qemu-nbd share: options from tables, sizes, names of images,
 * and messages.
 *
 *     message.c  "qemu-img: TEXT"              operand.c  names of images, --image-opts
 *     args.c     options, from tables          explain.c  why an image did not open
 *     size.c     sizes, read and printed       snapshot.c which internal snapshot is meant
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLI_QEMU_H
#define CLI_QEMU_H

#include "base/common.h"
#include "hawser/image.h"
#include <getopt.h>
#include <jansson.h>

/** The version whose behaviour this is. */
#define QI_VERSION "7.2.22"

/* ---- message.c ---- */

/* The tool that this process is. */
struct qi_tool {
    const char *name;        /* "qemu-img" */
    const char *cannot_open; /* what begins the message on an image that does not open */
    const char *try_help;    /* what ends that on a wrong command line */
    int (*help)(void);       /* prints it. @return the exit code */
};
/** Set at the start of each tool's main function. */
extern const struct qi_tool *qi_tool;

/** "qemu-img: TEXT" to standard error. @return 1, the usual exit code. */
int qi_error(const char *format, ...) HWS_PRINTF(1, 2);
/** The same with the pointer to --help below it. */
int qi_usage(const char *format, ...) HWS_PRINTF(1, 2);
/** "qemu-img: warning: TEXT". */
void qi_warning(const char *format, ...) HWS_PRINTF(1, 2);

/* ---- args.c ---- */

enum qi_arg_kind {
    QI_ARG_NOTHING, /* there is nothing that it would change */
    QI_ARG_FLAG,    /* a bool becomes true */
    QI_ARG_BITS,    /* bits are set in an unsigned */
    QI_ARG_DO,      /* call() without a value */
    /* With a value: */
    QI_ARG_TEXT, /* a const char *; the last one counts */
    QI_ARG_SIZE, /* a uint64_t from min to max; told with `what` */
    QI_ARG_TAKE, /* call() with the value */
};

/* One option of a command: its long name, its letter, and where in the command's struct it goes. */
struct qi_arg {
    const char *name; /* or NULL */
    char letter;      /* or 0 */
    enum qi_arg_kind kind;
    size_t offset;
    unsigned bits;
    const char *what;
    uint64_t min, max;
    /** @return 0, or the exit code: told. */
    int (*call)(void *command, const struct qi_arg *arg, char *value);
};

/* The offset of a field, which is of type @as or does not compile. */
#define QI_FIELD(command, field, as) \
    (offsetof(command, field) +      \
     0 * sizeof(char[__builtin_types_compatible_p(typeof(((command *)0)->field), as) ? 1 : -1]))

#define QI_NOTHING(n, c)                               \
    {                                                  \
        .name = n, .letter = c, .kind = QI_ARG_NOTHING \
    }
#define QI_FLAG(command, field, n, c)                                                         \
    {                                                                                         \
        .name = n, .letter = c, .kind = QI_ARG_FLAG, .offset = QI_FIELD(command, field, bool) \
    }
#define QI_BITS(command, field, n, c, b)                                                           \
    {                                                                                              \
        .name = n, .letter = c, .kind = QI_ARG_BITS, .offset = QI_FIELD(command, field, unsigned), \
        .bits = b                                                                                  \
    }
#define QI_WORD(command, field, n, c)                    \
    {                                                    \
        .name = n, .letter = c, .kind = QI_ARG_TEXT,     \
        .offset = QI_FIELD(command, field, const char *) \
    }
#define QI_BYTES(command, field, n, c, w, low, high)                                               \
    {                                                                                              \
        .name = n, .letter = c, .kind = QI_ARG_SIZE, .offset = QI_FIELD(command, field, uint64_t), \
        .what = w, .min = low, .max = high                                                         \
    }
#define QI_DO(n, c, f)                                       \
    {                                                        \
        .name = n, .letter = c, .kind = QI_ARG_DO, .call = f \
    }
#define QI_TAKE(n, c, f)                                       \
    {                                                          \
        .name = n, .letter = c, .kind = QI_ARG_TAKE, .call = f \
    }
/* What many commands have. */
#define QI_OPTS(command)  QI_BITS(command, reach, "image-opts", 0, QI_IMAGE_OPTS)
#define QI_SHARE(command) QI_BITS(command, reach, "force-share", 'U', QI_FORCE_SHARE)
#define QI_OBJECT         QI_TAKE("object", 0, qi_refuse_object)

/* All options of a command; --help comes by itself. */
struct qi_args {
    const struct qi_arg *rows;
    unsigned count;
    /** The C library tells of wrong options, and then this does. @return the exit code. NULL: they
     * are told in qemu-img's words. */
    int (*getopt_told)(void);
};
#define QI_ARGS(rows) (&(const struct qi_args){rows, ARRAY_LEN(rows), NULL})

#define QI_GO         (-1)

/**
 * Takes the options of the command line into @command, in their order; optind is then that of the
 * first operand. @return QI_GO, or the exit code with which the command ends: all is told.
 */
int qi_take(const struct qi_args *args, void *command, int argc, char **argv);

/** --object: refuses @text by its type. @return 1. */
int qi_refuse_object(void *command, const struct qi_arg *arg, char *text);

/* ---- size.c ---- */

/**
 * A size with fraction, hexadecimal digits and suffix. @end NULL: the text must end there.
 * @return 0, -EINVAL or -ERANGE.
 */
int qi_parse_size(const char *text, uint64_t *ret);
/** The same for an argument called @what; tells what is wrong with it. @return 0 or 1, told. */
int qi_size_argument(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *ret);
/** "1.5 MiB". */
const char *qi_human_size(uint64_t bytes, char *buffer, size_t length);

/* ---- operand.c ---- */

enum qi_reach {
    QI_IMAGE_OPTS = 1 << 0, /* the text is "driver=qcow2,file.filename=..." */
    QI_FORCE_SHARE = 1 << 1,
    QI_WRITE = 1 << 2, /* for what is told: which lock, and that raw was guessed */
};

/* One image on the command line. */
struct qi_operand {
    const char *text;       /* as typed */
    const char *format;     /* as typed, or NULL */
    unsigned reach;         /* enum qi_reach */
    struct hws_image image; /* for the library; no names are refused, raw is probed */
    char *path;             /* what image.path points to */
    char *file;             /* the local file at the bottom; NULL where it is none */
    char *shown;            /* the file name in output */
    char driver[32];        /* its format, given or probed, in qemu's word; "" where not known */
};

/** Takes the text apart and looks at the file's header. Tells what is wrong. @return 0 or -errno.
 */
HWS_MUST_CHECK int qi_operand(struct qi_operand *operand, const char *text, const char *format,
                              const char *cache, unsigned reach);
void qi_operand_free(struct qi_operand *operand);
#define autooperand __attribute__((cleanup(qi_operand_free))) struct qi_operand

/** The virtual size, through the whole chain: qemu opens all of it. @return 0 or -errno. */
HWS_MUST_CHECK int qi_virtual_size(const struct qi_operand *operand, uint64_t *ret,
                                   struct hws_error *err);
/** Nobody else uses the file that is going to be replaced? @return 0, or -EAGAIN with @err. */
HWS_MUST_CHECK int qi_target_free(const char *file, struct hws_error *err);
/** Warns where raw was guessed for an image that is going to be written. */
void qi_warn_raw(const struct qi_operand *operand);

/** qemu's word for a driver of this library, and the other way round (NULL: there is none). */
const char *qi_driver_shown(const char *name);
const char *qi_driver_known(const char *name);
/** The name of @name beside @image, as qemu joins them. NULL: out of memory. */
char *qi_beside(const char *image, const char *name);
/** The local file of a name of the command line: without "file:". NULL where it is another one. */
const char *qi_local_file(const char *text);

/* ---- explain.c ---- */

/** Tells why the image of @operand did not open, or what @err says. @return 1. */
int qi_explain(const struct qi_operand *operand, const struct hws_error *err);
/** Tells of a backing file that cannot be opened, where the work itself would not meet it.
 * @return 0, or 1 told. */
int qi_check_backing(const struct qi_operand *operand);
/** The reason alone, without "Could not open 'x': ". @ret may be cut. */
void qi_reason(const struct qi_operand *operand, const struct hws_error *err, char *ret,
               size_t length);

/* ---- snapshot.c ---- */

/* Which snapshot is meant; NULL fields do not count. */
struct qi_snapshot_key {
    char *id, *name; /* both must be so */
    char *either;    /* an ID, or else a name */
};

/** Takes -l apart: "snapshot.id=...,snapshot.name=...", or an ID or name. @return 0, or 1 told. */
int qi_snapshot_param(const char *text, struct qi_snapshot_key *ret);
void qi_snapshot_key_free(struct qi_snapshot_key *key);
/** The ID of the snapshot in the image. @ret_id free(). @return 0, -ENOENT or another -errno. */
HWS_MUST_CHECK int qi_snapshot_find(const struct qi_operand *operand,
                                    const struct qi_snapshot_key *key, char **ret_id,
                                    struct hws_error *err);

#endif
