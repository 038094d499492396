"""Names of hawserd's objects, completed in bash, zsh and fish as people press Tab."""
import contextlib
import os
import pty
import select
import time

from daemon import commanded as daemon
from lib import HAWSER, main, need_tool, run

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMPLETION = os.path.join(ROOT, "packaging", "completion")


@contextlib.contextmanager
def objects():
    with daemon() as d:
        d.pool()
        d.post("/v1/classes", name="gold")
        for name in ("data", "database", "other"):
            d.post("/v1/volumes", name=name, size="32M")
        d.post("/v1/volumes/data/snapshots", name="monday")
        d.post("/v1/volumes/data/snapshots", name="tuesday")
        d.post("/v1/groups", name="both", volumes=["database", "other"])
        d.post("/v1/groups/both/snapshots", name="sunday")
        d.post("/v1/secrets", name="alice", generate="psk")
        os.makedirs("bin")
        os.symlink(HAWSER, "bin/hawser")
        before = os.environ["PATH"]
        os.environ["PATH"] = os.path.abspath("bin") + ":" + before
        try:
            yield d
        finally:
            os.environ["PATH"] = before


# (what is typed, what it may become)
LINES = [("hawser volum", ["volume"]), ("hawser volume rena", ["rename"]), ("hawser volume show dat", ["data", "database"]),
         ("hawser volume show oth", ["other"]), ("hawser volume delete data oth", ["other"]), ("hawser volume rename data x", []),
         ("hawser volume create --pool=p", ["pool"]), ("hawser volume create --class=g", ["gold"]),
         ("hawser snapshot rev", ["revert"]), ("hawser snapshot create oth", ["other"]),
         ("hawser snapshot show data@m", ["data@monday"]), ("hawser snapshot show data@", ["data@monday", "data@tuesday"]),
         ("hawser group revert both@", ["both@sunday"]), ("hawser schedule create x --group=bo", ["both"]),
         ("hawser secret show al", ["alice"]), ("hawser export create data@t", ["data@tuesday"]),
         ("hawser pool delete p", ["pool"]), ("hawser volume create --cluster", ["--cluster-size="]),
         ("hawser volume resize --cluster", []), ("hawser volume list --wa", ["--watch"]), ("hawser volume attach zzz", [])]


def bash_complete(line):
    words = []
    for word in line.split(" "):  # as readline does, with COMP_WORDBREAKS
        for part in word.replace("=", " = ").replace("@", " @ ").split(" "):
            if part:
                words.append(part)
    if line[-1] in " @=":
        words.append("")
    script = (f"source {COMPLETION}/hawser.bash; COMP_WORDBREAKS=$' \\t\\n\"\\'@><=;|&(:'; COMP_WORDS=({' '.join(repr(w) for w in words)}); "
              f"COMP_CWORD={len(words) - 1}; _hawser 2>/dev/null; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
    return [reply for reply in run("bash", "-c", script).splitlines() if reply]


def test_bash_completes_names():
    need_tool("bash")
    with objects():
        for line, wanted in LINES:
            got = bash_complete(line)
            assert sorted(got) == [w.split("@")[-1] for w in wanted], (line, got)
        os.environ["HAWSERD_SOCKET"] = "/nonexistent/socket"
        assert bash_complete("hawser volume show d") == []


def test_fish_completes_names():
    need_tool("fish")
    with objects():
        for line, wanted in LINES:
            got = run("fish", "--no-config", "-c", f"source {COMPLETION}/hawser.fish; complete -C '{line}'",
                      env={**os.environ, "HOME": os.getcwd()})
            got = [reply.split("\t")[0] for reply in got.splitlines()]
            prefix = line.rsplit("=", 1)[0] + "=" if "--" in line and "=" in line else ""
            wanted = [(prefix.rsplit(" ", 1)[-1] + w).removesuffix("=") if prefix else w.removesuffix("=") for w in wanted]
            assert sorted(got) == wanted, (line, got, wanted)


class Zsh:
    """One shell at a terminal; Tab is pressed as people do."""

    def __init__(self):
        env = {**os.environ, "HOME": os.getcwd(), "ZDOTDIR": os.getcwd(), "TERM": "dumb", "PS1": "ready> "}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe("zsh", ["zsh", "-f", "-i"], env)
        self.say("unsetopt zle prompt_cr prompt_sp beep; PS1=; fpath=(%s $fpath); autoload -U compinit; compinit -D -u\n" % COMPLETION)
        self.say("setopt zle; bindkey -e; unsetopt auto_menu auto_list list_beep; null() { }; zle -N list; compile() { zle -I; }\n")
        self.say("show() { print -r -- \"<<$BUFFER>>\"; }; zle -N show; bindkey '^X' show; print se''t\n")
        self.until("set\r")

    def say(self, text):
        os.write(self.fd, text.encode())

    def until(self, text, seconds=60):
        out, deadline = "", time.monotonic() + seconds
        while text not in out:
            assert time.monotonic() < deadline, out
            if select.select([self.fd], [], [], 1)[0]:
                out += os.read(self.fd, 65536).decode(errors="replace")
        return out

    def complete(self, line):
        """The line after Tab."""
        self.say(line + "\t\x18")
        out = self.until(">>")
        self.say("\x15")  # and away with it
        return out.rsplit("<<", 1)[1].split(">>")[0]

    def close(self):
        os.close(self.fd)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


def test_zsh_completes_names():
    need_tool("zsh")
    with objects():
        shell = Zsh()
        try:
            for line, wanted in LINES:
                got = shell.complete(line).rstrip()
                start = line.rsplit(" ", 1)[0] + " "
                word = line.rsplit(" ", 1)[1]
                option = word.split("=")[0] + "=" if "=" in word and wanted else ""
                common = os.path.commonprefix(wanted) if wanted else word
                assert got == (start + option + common).rstrip(), (line, got, start + option + common)
        finally:
            shell.close()


if __name__ == "__main__":
    main(globals())
