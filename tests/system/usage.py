#!/usr/bin/env python3
"""The command line itself: help, suggestions, usage errors, and that help, manual pages and completion
list exactly what the parser knows.
"""
import json
import os
import pty
import re
import subprocess
import sys
from lib import HAWSER, Skip, hawser, main, need_tool, run

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def tables():
    return hawser("help", "--dump-options").json()


def test_every_command_explains_itself_with_examples():
    for command in tables():
        text = hawser(command["name"], "--help").out
        assert text.startswith(f"hawser {command['name']}: ") and "Exit codes" in text and "Examples" in text
        assert text == hawser("help", command["name"]).out == hawser(command["name"], "-h").out
        assert max(map(len, text.split("\n"))) <= 90, command["name"]
        for option in command["options"]:
            assert f"--{option['name']}" in text, option
    assert "Commands" in hawser("help").out and "Commands" in hawser(code=2).err
    assert hawser("--help").out == hawser("help").out
    assert hawser("version").out == hawser("--version").out


def test_pages_and_completion_are_what_the_parser_knows():
    done = subprocess.run([sys.executable, f"{ROOT}/tools/gen-docs", HAWSER, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_option_of_every_page_is_known_to_the_parser():
    # The other way round: what pages and completion say, the parser takes or misses a value for.
    for command in tables():
        page = open(f"{ROOT}/docs/man/hawser-{command['name']}.1").read()
        section = page.split(".SH OPTIONS")[1].split(".SH EXIT")[0]
        named = re.findall(r"\\fB\\-\\-([a-z0-9\\-]+)\\fR", section)
        assert "help" in named and len(named) == len(command["options"]) + 1, (command["name"], named)
        for name in named:
            name = name.replace("\\-", "-")
            done = subprocess.run([HAWSER, command["name"], "--" + name], capture_output=True, text=True,
                                  env={**os.environ, "HAWSER_RUN_DIR": "/nonexistent/x"})
            assert "unknown option" not in done.stderr, (command["name"], name, done.stderr)


def test_pages_are_clean_for_mandoc():
    need_tool("mandoc")
    folder = f"{ROOT}/docs/man"
    pages = [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.endswith(".1")]
    assert len(pages) == len(tables()) + 1
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", *pages], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def complete(words):
    script = (f"source {ROOT}/packaging/completion/hawser.bash; hawser() {{ '{HAWSER}' \"$@\"; }}; "
              f"COMP_WORDS=({' '.join(repr(w) for w in words)}); COMP_CWORD={len(words) - 1}; "
              "_hawser 2>/dev/null; printf '%s\\n' \"${COMPREPLY[@]}\"")
    return [line for line in run("bash", "-c", script).splitlines() if line]


def test_bash_completes_commands_options_and_values():
    need_tool("bash")
    assert complete(["hawser", "cr"]) == ["create"]
    assert complete(["hawser", "create", "--ov"]) == ["--overwrite"]
    open("a b*.qcow2", "w").close()
    assert complete(["hawser", "info", "a"]) == ["a b*.qcow2"], "names may hold blanks and stars"
    assert complete(["hawser", "check", "--repair", "=", "l"]) == ["leaks"]
    assert complete(["hawser", "check", "-r", "a"]) == ["all"]
    assert complete(["hawser", "attach", "--cache=w"]) == ["writeback", "writethrough"]
    assert complete(["hawser", "create", "-f", "q"]) == ["qcow2"]
    open("some-image.qcow2", "w").close()
    assert complete(["hawser", "info", "some"]) == ["some-image.qcow2"]
    assert complete(["hawser", "help", "form"]) == ["formats"]


def test_unknown_words_are_answered_with_the_nearest_known():
    for words, hint in (((["creat"]), "did you mean 'create'"), ((["snapshto"]), "did you mean 'snapshot'"),
                        ((["zzz"]), "'hawser help' lists them"),
                        ((["create", "--overwrit", "x"]), "did you mean --overwrite"),
                        ((["attach", "--readonly", "x"]), "did you mean --read-only"),
                        ((["list", "--zzz"]), "--help' lists them"), ((["list", "-Z"]), "unknown option -Z")):
        failed = hawser(*words, code=2)
        assert hint in failed.err and failed.out == "", failed.err


def test_usage_errors_say_what_is_missing():
    for words, hint in ((["create"], "IMAGE is missing"), (["resize", "a"], "SIZE is missing"),
                        (["info", "a", "b"], "unexpected 'b'"), (["info", "--format"], "--format needs a value"),
                        (["info", "-f"], "-f needs a value"), (["info", "--output=xml", "a"], "none of: human, json"),
                        (["info", "-U=1", "a"], "unknown option -="), (["info", "--force-share=1", "a"], "takes no value"),
                        (["attach", "--queues=x", "a"], "is not a number"), (["detach"], "say what to detach"),
                        (["map", "-s", "1x", "a"], "suffixes"), (["snapshot", "a"], "OVERLAY is missing"),
                        (["attach", "--mkfs=ext4", "a"], "--mount"), (["serve"], "IMAGE to serve"),
                        (["snapshot", "--force", "a", "b"], "--revert")):
        failed = hawser(*words, code=2)
        assert hint in failed.err, (words, failed.err)


def test_two_dashes_end_the_options():
    hawser("create", "-q", "-f", "raw", "--", "--strange", "1M")
    assert os.path.exists("--strange")
    assert hawser("info", "-f", "raw", "--output=json", "--", "--strange").json()["virtual-size"] == 1 << 20


def test_errors_go_to_standard_error_and_results_to_standard_output():
    failed = hawser("info", "missing.qcow2", "--output=json", code=1)
    assert failed.out == "" and "missing.qcow2" in failed.err and failed.err.startswith("hawser info: error: ")


def test_a_full_standard_output_is_a_failure():
    with open("/dev/full", "w") as full:
        done = subprocess.run([HAWSER, "help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "cannot write" in done.stderr, done


def on_terminal(env):
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.clear()
        os.environ.update(env)
        os.execv(HAWSER, [HAWSER, "help"])
    out = b""
    while True:
        try:
            part = os.read(fd, 4096)
        except OSError:
            break
        if not part:
            break
        out += part
    os.waitpid(pid, 0)
    return out


def test_colour_is_for_terminals_that_want_it():
    assert b"\x1b[" in on_terminal({"TERM": "xterm"})
    assert b"\x1b[" not in on_terminal({"TERM": "xterm", "NO_COLOR": "1"})
    assert b"\x1b[" not in on_terminal({"TERM": "dumb"})
    assert "\x1b[" not in hawser("help").out


def test_formats_lists_the_options_of_create():
    text = hawser("help", "formats").out
    for word in ("raw", "qcow2", "cluster_size", "file"):
        assert word in text, text


main(globals())
