/*
 * The qemu-img personality: what its subcommands share.
 *
 * Called by the name qemu-img, the program takes that tool's command line, prints its texts and
 * JSON and leaves its exit codes, for the programs and scripts that run it. Everything here is
 * learnt from the manual page and from running version 7.2 next to this one; tests/interop/
 * qemu_img.py holds both side by side.
 *
 *     main.c       the table of subcommands        operand.c  names of images, --image-opts
 *     args.c       options, from tables            explain.c  why an image did not open
 *     size.c       sizes, read and printed         json.c     JSON and indented text
 *     create_options.c   -o                        progress.c (12.34/100%)
 *     cmd_*.c      one file a subcommand
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QEMU_IMG_H
#define QEMU_IMG_H

#include "cli/qemu/qemu.h"

/** Runs the command line; @return the exit code. */
int qemu_img_main(int argc, char **argv);

/** Prints the help of all subcommands. @return 0. */
int qi_help(void);

/* ---- common.c ---- */

#define QI_OPTIONS(command, field)                                   \
    {                                                                \
        .letter = 'o', .kind = QI_ARG_TAKE, .call = qi_take_options, \
        .offset = QI_FIELD(command, field, char *)                   \
    }
/** Of -o: a char *, each appended; free(). */
int qi_take_options(void *command, const struct qi_arg *arg, char *text);

/** --image-opts says the format, too: with -f it is told and @return 1, else 0. */
int qi_two_formats(const char *format, unsigned reach);

enum qi_cache_use { QI_CACHE_TARGET, QI_CACHE_SOURCE, QI_CACHE_BENCH };
/** Is @name a cache mode? If not, says so. */
bool qi_cache_known(const char *name, enum qi_cache_use use);
/** "--output": 0 human, 1 JSON, -1 told as unknown. */
int qi_output(const char *name);

/* ---- json.c ---- */

/** In qemu's layout and order of keys; ends the line. */
void qi_print_json(json_t *value);
/** As indented text, "key: value". */
void qi_print_members(json_t *object, int indent);
/** A file name as JSON; bytes that are no UTF-8 are replaced. */
json_t *qi_json_string(const char *text);

/* ---- snapshots.c ---- */

/** The table of the snapshots in @snapshots, as `info` of the library tells them. */
void qi_print_snapshots(json_t *snapshots);

/* ---- create_options.c ---- */

/* What -o was given, checked against the format's table. */
struct qi_create_options {
    const struct qi_option *table;
    const char *format; /* the library's name */
    char *value[32];    /* by row of the table; NULL: not given */
    char *texts[33];    /* for the library: "name=value" of what was given, NULL-terminated */
};

enum qi_option_kind { QI_TEXT, QI_SIZE, QI_NUMBER, QI_BOOL };

/* One option of new images, in the order in which qemu prints them. */
struct qi_option {
    const char *name;
    enum qi_option_kind kind;
    const char *help;
    const char *shown;  /* default that is printed where none is given; NULL: not printed */
    const char *refuse; /* not NULL: there, but not offered here */
    bool local;         /* of the file below the format: nothing that is passed on */
};

/** Is "help" or "?" among the comma-separated words of -o? */
bool qi_wants_help(const char *text);
/** Adds -o @text to *@all, which starts as NULL. @return 0, or 1 told. */
int qi_join_options(char **all, const char *text);
/** Prints what -o takes; @with_file: with those of the file. @return an exit code. */
int qi_options_help(const char *format, bool with_file);
/**
 * Takes @text (may be NULL) apart. @return 0 or -errno with @err.
 */
HWS_MUST_CHECK int qi_options_parse(struct qi_create_options *options, const char *format,
                                    const char *text, struct hws_error *err);
const char *qi_options_get(const struct qi_create_options *options, const char *name);
/** What was given; NULL where the default counts. */
const char *qi_options_given(const struct qi_create_options *options, const char *name);
/** Forgets what was given. */
void qi_options_drop(struct qi_create_options *options, const char *name);
HWS_MUST_CHECK int qi_options_set(struct qi_create_options *options, const char *name,
                                  const char *value, struct hws_error *err);
/** Makes `texts`: what hws_create() is given. */
HWS_MUST_CHECK int qi_options_finish(struct qi_create_options *options, struct hws_error *err);
/** The same of what was given alone, the size too: what hws_amend() is given. */
HWS_MUST_CHECK int qi_options_finish_given(struct qi_create_options *options,
                                           struct hws_error *err);
/** The first option of qcow2 in @text that only new images have, or NULL. */
const char *qi_options_creation_only(const char *text);
/** Prints what amend -o takes. @return 0. */
int qi_options_amend_help(void);
/** What is wrong with the values, in qemu's words. @return 0 or -EINVAL. */
HWS_MUST_CHECK int qi_options_check(const struct qi_create_options *options, struct hws_error *err);
/** "Formatting 'x', fmt=... ..." */
void qi_options_print(const struct qi_create_options *options, const char *name,
                      const char *format);
void qi_options_free(struct qi_create_options *options);

/* ---- progress.c ---- */

struct qi_progress {
    bool on;
    int last; /* hundredths of a percent, printed last */
};

/** @on: -p. Otherwise only SIGUSR1 asks for it. */
void qi_progress_start(struct qi_progress *progress, bool on);
/** A hws_progress_fn. */
int qi_progress_step(void *progress, uint64_t done, uint64_t total);
/** Ends the line; @complete prints 100 % first. */
void qi_progress_end(struct qi_progress *progress, bool complete);

/* ---- cmd_*.c ---- */

int qi_amend(int argc, char **argv);
int qi_bench(int argc, char **argv);
int qi_bitmap(int argc, char **argv);
int qi_check(int argc, char **argv);
int qi_commit(int argc, char **argv);
int qi_compare(int argc, char **argv);
int qi_convert(int argc, char **argv);
int qi_create(int argc, char **argv);
int qi_dd(int argc, char **argv);
int qi_info(int argc, char **argv);
int qi_map(int argc, char **argv);
int qi_measure(int argc, char **argv);
int qi_rebase(int argc, char **argv);
int qi_resize(int argc, char **argv);
int qi_snapshot(int argc, char **argv);

#endif
