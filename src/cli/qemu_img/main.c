/*
 * The way from the command line to the subcommand, and the texts that all of them print.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *synopsis;
} commands[] = {
    {"amend", qi_amend,
     "[--image-opts] [-p] [-q] [-f fmt] [-t cache] [--force] -o options filename"},
    {"bench", qi_bench,
     "[-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] [--no-drain] [-o "
     "offset] [--pattern=pattern] [-q] [-s buffer_size] [-S step_size] [-t cache] [-w] [-U] "
     "filename"},
    {"bitmap", qi_bitmap,
     "(--merge SOURCE | --add | --remove | --clear | --enable | --disable)... [-b source_file [-F "
     "source_fmt]] [-g granularity] [--image-opts | -f fmt] filename bitmap"},
    {"check", qi_check,
     "[--image-opts] [-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] [-T src_cache] [-U] "
     "filename"},
    {"commit", qi_commit,
     "[--image-opts] [-q] [-f fmt] [-t cache] [-b base] [-r rate_limit] [-d] [-p] filename"},
    {"compare", qi_compare,
     "[--image-opts] [-f fmt] [-F fmt] [-T src_cache] [-p] [-q] [-s] [-U] filename1 filename2"},
    {"convert", qi_convert,
     "[--image-opts] [--target-image-opts] [-U] [-C] [-c] [-p] [-q] [-n] [-f fmt] [-t cache] [-T "
     "src_cache] [-O output_fmt] [-B backing_file [-F backing_fmt]] [-o options] [-l "
     "snapshot_param] [-S sparse_size] [-m num_coroutines] [-W] filename output_filename"},
    {"create", qi_create,
     "[-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o options] filename [size]"},
    {"dd", qi_dd,
     "[--image-opts] [-U] [-f fmt] [-O output_fmt] [bs=block_size] [count=blocks] [skip=blocks] "
     "if=input of=output"},
    {"info", qi_info, "[--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] [-U] filename"},
    {"map", qi_map,
     "[--image-opts] [-f fmt] [--start-offset=offset] [--max-length=len] [--output=ofmt] [-U] "
     "filename"},
    {"measure", qi_measure,
     "[--output=ofmt] [-O output_fmt] [-o options] [--size N | [--image-opts] [-f fmt] [-l "
     "snapshot_param] filename]"},
    {"rebase", qi_rebase,
     "[--image-opts] [-U] [-q] [-f fmt] [-t cache] [-T src_cache] [-p] [-u] -b backing_file [-F "
     "backing_fmt] filename"},
    {"resize", qi_resize,
     "[--image-opts] [-f fmt] [--preallocation=prealloc] [-q] [--shrink] filename [+ | -]size"},
    {"snapshot", qi_snapshot,
     "[--image-opts] [-U] [-q] [-l | -a snapshot | -c snapshot | -d snapshot] filename"},
};

static void print_version(void)
{
    printf("qemu-img version " QI_VERSION " (hawser)\n");
}

int qi_help(void)
{
    print_version();
    printf("usage: qemu-img [standard options] command [command options]\n"
           "Hawser's image work with the command line of qemu-img\n\n"
           "    '-h', '--help'       display this help and exit\n"
           "    '-V', '--version'    output version information and exit\n\n"
           "Command syntax:\n");
    for (unsigned i = 0; i < ARRAY_LEN(commands); i++)
        printf("  %s %s\n", commands[i].name, commands[i].synopsis);
    printf(
        "\nSizes are bytes, or end in k, M, G, T, P or E (powers of 1024). Cache modes are none,\n"
        "writeback, writethrough, directsync and unsafe. '-o help' tells the options of a "
        "format.\n"
        "What differs from QEMU's tool: docs/qemu-img.md.\n\n"
        "Supported formats: file host_device null-aio null-co qcow2 raw\n");
    return 0;
}

static const struct qi_tool tool = {
    .name = "qemu-img",
    .cannot_open = "Could not open",
    .try_help = "Try 'qemu-img --help' for more information",
    .help = qi_help,
};

int qemu_img_main(int argc, char **argv)
{
    static const struct option longs[] = {{"help", no_argument, NULL, 'h'},
                                          {"version", no_argument, NULL, 'V'},
                                          {"trace", required_argument, NULL, 'T'},
                                          {NULL, 0, NULL, 0}};
    qi_tool = &tool;
    if (argc < 2)
        return qi_usage("Not enough arguments");
    for (int c; (c = getopt_long(argc, argv, "+:hVT:", longs, NULL)) != -1;) {
        switch (c) {
        case ':':
            return qi_usage("missing argument for option '%s'", argv[optind - 1]);
        case 'h':
            return qi_help();
        case 'V':
            print_version();
            return 0;
        case 'T':
            return qi_error("--trace: this program has no trace points");
        default:
            return qi_usage("unrecognized option '%s'", argv[optind - 1]);
        }
    }
    if (optind >= argc)
        return qi_usage("Not enough arguments");
    const char *name = argv[optind];
    argc -= optind;
    argv += optind;
    /* 0 makes the library look at POSIXLY_CORRECT and at the letters anew. */
    optind = 0;
    for (unsigned i = 0; i < ARRAY_LEN(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return commands[i].run(argc, argv);
    return qi_usage("Command not found: %s", name);
}
