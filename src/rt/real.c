/*
 * Making a real runtime: io_uring where the kernel and the sandbox let us, threads elsewhere.
 * HAWSER_RUNTIME=uring or =threads in the environment decides where the program asked for no kind.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/real.h"

/* Workers of a runtime that has nothing else for file I/O: they mostly wait. */
#define IO_WORKERS 16u

uint64_t real_now_ns(struct rt *rt)
{
    return rt_clock_ns();
}

uint64_t real_random_u64(struct rt *rt)
{
    return rt_entropy_u64();
}

void real_free(struct rt *rt)
{
    struct rt_real *real = rt_real(rt);
    workers_fini(&real->workers);
    free(real);
}

static int choose_kind(enum rt_kind *kind, bool *forced, struct hws_error *err)
{
    const char *name = getenv("HAWSER_RUNTIME");
    *forced = false;
    if (*kind != RT_AUTO || !name || !*name)
        return 0;
    if (strcmp(name, "uring") == 0)
        *kind = RT_URING;
    else if (strcmp(name, "threads") == 0)
        *kind = RT_THREADS;
    else
        return hws_fail(err, EINVAL,
                        "the environment variable HAWSER_RUNTIME is '%s'; it may be 'uring' or "
                        "'threads'",
                        name);
    *forced = true;
    return 0;
}

int rt_create(const struct rt_options *options, struct rt **ret, struct hws_error *err)
{
    enum rt_kind kind = options ? options->kind : RT_AUTO;
    bool forced;
    int result = choose_kind(&kind, &forced, err);
    if (result < 0)
        return result;
    struct rt_real *real = calloc(1, sizeof(*real));
    if (!real)
        return hws_fail(err, ENOMEM, "no memory for the runtime");
    rt_init(&real->rt, &rt_uring_ops, options);
    unsigned limit = real->rt.options.workers_max;
    result = kind == RT_THREADS ? -EOPNOTSUPP : rt_uring_probe(real);
    if (result < 0 && kind == RT_URING) {
        free(real);
        return hws_fail_errno(err, -result,
                              "the kernel refuses io_uring%s; see kernel.io_uring_disabled and the "
                              "container's seccomp profile, or use the runtime 'threads'",
                              forced ? ", which HAWSER_RUNTIME=uring asks for" : "");
    }
    if (result < 0) {
        real->rt.ops = &rt_threads_ops;
        if (!options || options->workers_max == 0)
            limit = MAX(limit, IO_WORKERS);
    }
    workers_init(&real->workers, limit);
    *ret = &real->rt;
    return 0;
}
