#!/usr/bin/env python3
"""Where the processor time of an NBD request goes: a flame graph of the server, as one SVG.

  bench/flamegraph.py HAWSER CLIENT OUTPUT.svg [--work randread|randwrite|read] [--bytes N] [--depth N] [--seconds N]

HAWSER serves a full qcow2 in memory to CLIENT (build/bench/bench-nbd-client); perf samples the server 2,000 times a
second, by the clock, with its stacks as the debugging information unwinds them. The width of a frame is its share of
the samples; frames below 0.3 % are left out. Needs perf (linux-perf) and root.
"""
import argparse
import collections
import html
import json
import os
import re
import subprocess
import sys
import tempfile
import time

WIDTH, ROW, LEAST = 1200, 17, 0.003
# By whose code it is.
COLOURS = (("kernel", "#d9a05b"), ("hawser", "#7fa8d1"), ("other", "#b9b9b9"))


class Frame:
    def __init__(self):
        self.samples = 0
        self.below = collections.OrderedDict()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hawser")
    parser.add_argument("client")
    parser.add_argument("output")
    parser.add_argument("--work", default="randread", choices=("randread", "randwrite", "read"))
    parser.add_argument("--bytes", type=int, default=4096)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--size-mib", type=int, default=256)
    return parser.parse_args()


def serve(options, folder):
    image, path = os.path.join(folder, "disk.qcow2"), os.path.join(folder, "sock")
    raw = os.path.join(folder, "disk.raw")
    with open(raw, "wb") as file:
        for _ in range(options.size_mib):
            file.write(os.urandom(1 << 20))
    subprocess.run([options.hawser, "convert", "-q", "-f", "raw", "-O", "qcow2", raw, image], check=True)
    os.unlink(raw)
    # pylint: disable-next=consider-using-with
    server = subprocess.Popen([options.hawser, "serve", f"--nbd=unix:{path}", "--name=disk", image],
                              stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while not os.path.exists(path):
        if server.poll() is not None or time.monotonic() > until:
            sys.exit("flamegraph: the server does not serve")
        time.sleep(0.01)
    return server, path


def sample(options, folder):
    """@return perf's text, and the client's result."""
    server, path = serve(options, folder)
    data = os.path.join(folder, "perf.data")
    try:
        with subprocess.Popen([options.client, path, "disk", options.work, str(options.bytes), str(options.depth),
                               str(options.seconds)], stdout=subprocess.PIPE, text=True) as client:
            time.sleep(0.3)
            subprocess.run(["perf", "record", "-q", "-F", "2000", "-e", "cpu-clock", "--call-graph", "dwarf,8192", "-o", data,
                            "-p", str(server.pid), "--", "sleep", str(options.seconds - 1)], check=True, stderr=subprocess.DEVNULL)
            result = json.loads(client.communicate(timeout=60)[0])
    finally:
        server.terminate()
        server.wait(20)
    text = subprocess.run(["perf", "script", "-i", data, "-F", "ip,sym,dso"], check=True, capture_output=True, text=True)
    return text.stdout, result


def fold(text):
    """Stacks from the outside to the inside, as a tree."""
    root, stack = Frame(), []

    def end():
        if not stack:
            return
        at, outer = root, "other"
        at.samples += 1
        for name, whose in reversed(stack):
            outer = whose or outer
            at = at.below.setdefault((name, outer), Frame())
            at.samples += 1
        stack.clear()

    for line in text.splitlines():
        found = re.match(r"\s+[0-9a-f]+ (.+) \((.*)\)$", line)
        if not found:
            end()
            continue
        name, where = found.groups()
        if name == "[unknown]":
            continue
        if where == "inlined":
            whose = None  # as what it was inlined into
        else:
            whose = "kernel" if "kernel" in where or where.startswith("[") else "hawser" if "hawser" in where else "other"
        stack.append((re.sub(r"\.(isra|part|constprop|cold)\.?\d*", "", name), whose))
    end()
    return root


def draw(root, title):
    colours, rows, depth = dict(COLOURS), [], 0

    def place(frame, left, level):
        nonlocal depth
        depth = max(depth, level)
        # The same order in every picture, so that two can be compared.
        for (name, whose), below in sorted(frame.below.items()):
            share = below.samples / root.samples
            if share >= LEAST:
                rows.append((left, level, share, name, whose))
                place(below, left, level + 1)
            left += share

    place(root, 0.0, 0)
    height = (depth + 2) * ROW + 30
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="monospace" font-size="11">',
           f'<text x="4" y="15">{html.escape(title)}</text>']
    for i, (whose, colour) in enumerate(COLOURS):
        out.append(f'<rect x="{WIDTH - 260 + i * 85}" y="5" width="11" height="11" fill="{colour}"/>'
                   f'<text x="{WIDTH - 245 + i * 85}" y="15">{whose}</text>')
    for left, level, share, name, whose in rows:
        x, wide, y = left * WIDTH, share * WIDTH, height - (level + 1) * ROW
        name = html.escape(name)
        text = f'<text x="{x + 2:.1f}" y="{y + 12}">{name[:int(wide / 6.8)]}</text>' if wide > 24 else ""
        out.append(f'<g><title>{name} {share * 100:.1f} %</title><rect x="{x:.1f}" y="{y}" width="{max(wide - 0.5, 0.5):.1f}" '
                   f'height="{ROW - 1}" fill="{colours[whose]}"/>{text}</g>')
    return "\n".join(out + ["</svg>"]) + "\n"


def main():
    options = arguments()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        text, result = sample(options, folder)
    root = fold(text)
    if root.samples < 100:
        sys.exit(f"flamegraph: only {root.samples} samples")
    title = (f"{options.work} {options.bytes} bytes, depth {options.depth}: {root.samples} samples, "
             f"{result['requests'] / result['seconds'] / 1000:.0f}k requests/s")
    with open(options.output, "w", encoding="utf-8") as out:
        out.write(draw(root, title))
    print(f"{options.output}: {title}")


if __name__ == "__main__":
    main()
