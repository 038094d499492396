"""Exports of the NBD server: by configuration, by option, by method; and sockets from a service manager."""
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time

from lib import HAWSER, hawser, main, need_tool, run, wait_until
from nbd_peer import Engine, answer, exact, hung_up, image, negotiate, request


def two_volumes(**nbd):
    """One with bitmaps, one without."""
    image("2M", "one.qcow2")
    image("1M", "two.qcow2")
    for bitmap in ("b0", "b1", "b2"):
        run("qemu-img", "bitmap", "--add", "one.qcow2", bitmap)
    volumes = [{"name": n, "image": os.path.abspath(f"{n}.qcow2"), "via": "none"} for n in ("one", "two")]
    return {"volumes": volumes, "nbd": nbd}


def info(engine, name=None):
    words = ["--json", engine.uri(name)] if name is not None else ["--list", "--json", f"nbd+unix://?socket={engine.socket}"]
    return {e["export-name"]: e for e in json.loads(run("nbdinfo", *words))["exports"]}


def test_exports_are_as_configured():
    need_tool("nbdinfo", "qemu-img")
    exports = [{"name": "", "volume": "two"}, {"name": "one", "description": "a disk, with a comma"},
               {"name": "look", "volume": "one", "read-only": True, "bitmaps": ["b1"], "allocation-depth": False},
               {"name": "bare", "volume": "one", "bitmaps": []}, {"name": "one by one", "volume": "two", "connections": 1}]
    with Engine(config=two_volumes(exports=exports)) as engine:
        told = info(engine)
        assert list(told) == [e["name"] for e in exports]
        assert told["one"]["description"] == "a disk, with a comma" and "description" not in told["look"]
        assert told[""]["export-size"] == 1 << 20 and told["one"]["export-size"] == 2 << 20
        assert told["look"]["is_read_only"] and not told["one"]["is_read_only"]
        every = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b1",
                 "qemu:dirty-bitmap:b2"]
        contexts = {name: e["contexts"] for name, e in told.items()}
        assert "description" not in info(engine, "look")["look"] and info(engine, "one")["one"]["description"] == told["one"]["description"]
        assert contexts == {"": every[:2], "one": every, "look": [every[0], every[3]], "bare": every[:2],
                            "one by one": every[:2]}, contexts
        failed = subprocess.run(["nbdinfo", "--map=qemu:dirty-bitmap:b0", engine.uri("look")], capture_output=True, text=True)
        assert failed.returncode, "a bitmap that is not shown was told"
        status = engine.exports()
        assert status["look"]["volume"] == "one" and status["look"]["read-only"], status


def test_the_limit_of_an_export_is_its_own():
    with Engine(config=two_volumes(exports=[{"name": "few", "volume": "one", "connections": 2},
                                            {"name": "many", "volume": "one"}])) as engine:
        several = [engine.connect() for _ in range(4)]
        for s in several[:2]:
            negotiate(s, b"few")
        exact(several[2], 18)
        several[2].sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 1, 3) + b"few")
        assert hung_up(several[2])
        negotiate(several[3], b"many")
        several[0].close()
        deadline = time.monotonic() + 30
        while engine.exports()["few"]["connections"] == 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with engine.connect() as again:
            negotiate(again, b"few")
        for s in several:
            s.close()


def test_what_one_export_writes_another_reads():
    with Engine(config=two_volumes(exports=[{"name": "a", "volume": "one"},
                                            {"name": "b", "volume": "one", "read-only": True}])) as engine, \
            engine.connect() as a, engine.connect() as b:
        negotiate(a, b"a")
        negotiate(b, b"b")
        a.sendall(request(1, 1, 5, 4) + b"here")
        assert answer(a) == (0, 1)
        b.sendall(request(0, 2, 5, 4))
        assert answer(b) == (0, 2) and exact(b, 4) == b"here"
        b.sendall(request(1, 3, 5, 4) + b"nono")
        assert answer(b) == (1, 3)


def test_exports_come_and_go():
    need_tool("nbdinfo")
    with Engine(config=two_volumes(exports=[])) as engine:
        assert info(engine) == {}
        engine.call("nbd-export-add", name="x", volume="one", description="added", bitmaps=["b2"])
        engine.call("nbd-export-add", name="two")
        assert "there is an NBD export called 'x'" in engine.refuses("nbd-export-add", name="x", volume="two")
        assert "no volume 'three'" in engine.refuses("nbd-export-add", name="y", volume="three")
        assert "no bitmap 'b9'" in engine.refuses("nbd-export-add", name="y", volume="one", bitmaps=["b0", "b9"])
        assert "say which" in engine.refuses("nbd-export-add", name="y")
        assert "up to 4096 bytes" in engine.refuses("nbd-export-add", name="y" * 4097, volume="one")
        assert info(engine)["x"]["contexts"][2:] == ["qemu:dirty-bitmap:b2"]
        engine.call("nbd-export-add", name="y" * 4096, volume="one")
        assert info(engine)["y" * 4096]["export-size"] == 2 << 20
        engine.call("nbd-export-remove", name="y" * 4096)
        with engine.connect() as s, engine.connect() as other:
            negotiate(s, b"x")
            negotiate(other, b"two")
            assert "1 connection" in engine.refuses("nbd-export-remove", name="x")
            s.sendall(request(0, 1, 0, 16))  # it goes on
            assert answer(s) == (0, 1) and exact(s, 16) == bytes(16)
            engine.call("nbd-export-remove", name="x", force=True)
            assert hung_up(s)
            other.sendall(request(0, 2, 0, 16))
            assert answer(other) == (0, 2) and exact(other, 16) == bytes(16)
            # A stop that is refused leaves what is there now, not what was configured.
            assert "1 connection" in engine.refuses("stop")
            assert list(engine.exports()) == ["two"]
        assert "no NBD export called 'x'" in engine.refuses("nbd-export-remove", name="x")
        engine.call("nbd-export-remove", name="two")
        assert engine.exports() == {}


def test_engines_without_a_server_say_so():
    with open("engine.json", "w") as file:
        json.dump({"socket": os.path.abspath("c.sock"), "log-level": "warning",
                   "volumes": [{"name": "disk", "image": os.path.abspath(image("1M")), "via": "none"}]}, file)
    engine = subprocess.Popen([HAWSER, "serve", "--config=engine.json"], stderr=subprocess.PIPE, text=True)
    while not os.path.exists("c.sock"):
        assert engine.poll() is None, engine.stderr.read()
        time.sleep(0.01)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("c.sock")
        s.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "nbd-export-add", "params": {"name": "x"}}\n')
        told = s.makefile().readline()
    engine.send_signal(signal.SIGTERM)
    engine.communicate(timeout=30)
    assert "has no NBD server" in told, told


def test_the_option_says_the_same():
    need_tool("nbdinfo")
    name = image()
    run("qemu-img", "bitmap", "--add", name, "b0")
    with Engine("--nbd-export=,read-only", "--nbd-export=x,volume=disk,description=one,, two,no-bitmaps,connections=3",
                "--nbd-export=y,bitmap=b0,no-allocation-depth", name) as engine:
        told = info(engine)
        assert list(told) == ["", "x", "y"] and told[""]["is_read_only"]
        assert told["x"]["description"] == "one, two" and told["x"]["contexts"] == ["base:allocation", "qemu:allocation-depth"]
        assert told["y"]["contexts"] == ["base:allocation", "qemu:dirty-bitmap:b0"]


def test_exports_that_cannot_be():
    name = image("1M")
    at = "--nbd=unix:" + os.path.abspath("s")
    for words, why in (([at, "--nbd-export=x,volume=other"], "no volume 'other'"), ([at, "--nbd-export=x,bitmap=b"], "no bitmap 'b'"),
                       ([at, "--nbd-export=x", "--nbd-export=x"], "there is an NBD export called 'x'"),
                       ([at, "--nbd-export=x,connections=-1"], "whole number")):
        failed = hawser("serve", *words, name, code=1)
        assert why in failed.err, failed.err
        assert not os.path.exists("s")
    for words, why in ((["--nbd-export=x"], "needs --nbd"), ([at, "--nbd-export=x,nonsense"], "no option 'nonsense'"),
                       ([at, "--nbd-export=x,volume=a,volume=b"], "given twice"), ([at, "--nbd-export=x,"], "no option ''")):
        failed = hawser("serve", *words, name, code=2)
        assert why in failed.err, failed.err
    for exports, why in (([{"name": "x", "description": "x" * 4097}], "up to 4096"), ({"name": "x"}, "a list of objects"), ([{"volume": "disk"}], "'name' is missing"),
                         ([{"name": "x", "nmae": 1}], "no option 'nmae'"), ([{"name": "x", "bitmaps": [1]}], "list of texts"),
                         ([{"name": "x", "bitmaps": {}}], "wrong type"), (["x"], "JSON object"),
                         ([{"name": str(i)} for i in range(257)], "up to 256")):
        with open("engine.json", "w") as file:
            json.dump({"volumes": [{"name": "disk", "image": os.path.abspath(name), "via": "none"}],
                       "nbd": {"listen": ["unix:" + os.path.abspath("s")], "exports": exports}}, file)
        failed = hawser("serve", "--config=engine.json", code=1)
        assert why in failed.err, (exports, failed.err)


# ---- sockets from a service manager ----

PASS = """
import os, socket, sys
variables, kinds, program = eval(sys.argv[1]), eval(sys.argv[2]), sys.argv[3:]
fds = []
for i, kind in enumerate(kinds):
    if kind == "file":
        fds.append(os.open("/dev/null", os.O_RDONLY))
        continue
    s = socket.socket(socket.AF_UNIX if kind != "tcp" else socket.AF_INET,
                      socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM)
    s.bind(f"passed-{i}.sock" if kind != "tcp" else ("127.0.0.1", 0))
    if kind not in ("datagram", "deaf"):
        s.listen(16)
    if kind == "tcp":
        print(s.getsockname()[1], flush=True)
    fds.append(os.dup(s.fileno()))
high = [os.dup2(fd, 100 + i) for i, fd in enumerate(fds)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
os.environ.update({k: str(v) if v != "own" else str(os.getpid()) for k, v in variables.items()})
os.execv(program[0], program)
"""


def passed(variables, kinds, *words):
    return subprocess.Popen([sys.executable, "-c", PASS, repr(variables), repr(kinds), HAWSER, "serve", "--log-level=warning",
                             *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_sockets_are_taken_from_a_service_manager():
    need_tool("nbdinfo")
    name, control = image("1M"), os.path.abspath("control.sock")
    engine = passed({"LISTEN_PID": "own", "LISTEN_FDS": 2, "LISTEN_FDNAMES": "here:there"}, ["unix", "tcp"],
                    "--nbd-activated", f"--socket={control}", "--name=disk", name)
    port = int(engine.stdout.readline())
    uris = [f"nbd+unix:///disk?socket={os.path.abspath('passed-0.sock')}", f"nbd://127.0.0.1:{port}/disk"]
    for uri in uris:
        assert json.loads(run("nbdinfo", "--json", uri))["exports"][0]["export-size"] == 1 << 20
    with socket.socket(socket.AF_UNIX) as s, socket.socket(socket.AF_UNIX) as client:
        s.connect(control)
        s.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "status"}\n')
        assert json.loads(s.makefile().readline())["result"]["nbd"]["activated"] == ["here", "there"]
        # A stop that is refused leaves the sockets served.
        client.connect("passed-0.sock")
        negotiate(client)
        s.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "stop"}\n')
        assert "1 connection" in s.makefile().readline()
    run("nbdinfo", uris[0])
    engine.send_signal(signal.SIGTERM)
    _, err = engine.communicate(timeout=30)
    assert engine.returncode == 0 and "Sanitizer" not in err, err
    assert os.path.exists("passed-0.sock"), "the service manager's socket was removed"


def test_a_real_activator_starts_it_with_the_first_client():
    need_tool("systemd-socket-activate", "nbdinfo")
    name, path = image("1M"), os.path.abspath("lazy.sock")
    with open("log", "w") as log:
        engine = subprocess.Popen(["systemd-socket-activate", f"--listen={path}", "--fdname=disk", HAWSER, "serve",
                                   "--nbd-activated", "--name=disk", "--log-level=info", name], stderr=log)
    try:
        # The activator makes the socket's name before it listens.
        wait_until(lambda: subprocess.run(["nbdinfo", "--size", f"nbd+unix:///disk?socket={path}"], capture_output=True,
                                          timeout=60).stdout == b"1048576\n", 30)
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(60) == 0
    finally:
        engine.kill()
        engine.wait()


def test_wrong_variables_are_told():
    name = image("1M")
    good = {"LISTEN_PID": "own", "LISTEN_FDS": 1}
    cases = [({}, ["unix"], "LISTEN_PID is not set"), ({"LISTEN_PID": "own"}, ["unix"], "LISTEN_FDS is not set"),
             ({**good, "LISTEN_PID": 1}, ["unix"], "for process 1 (LISTEN_PID)"), ({**good, "LISTEN_PID": "x"}, ["unix"], "LISTEN_PID is 'x'"),
             ({**good, "LISTEN_PID": ""}, ["unix"], "LISTEN_PID is ''"), ({**good, "LISTEN_PID": "99999999999999999999"}, ["unix"], "LISTEN_PID is"),
             ({**good, "LISTEN_FDS": 0}, [], "LISTEN_FDS is '0'"), ({**good, "LISTEN_FDS": 17}, ["unix"], "LISTEN_FDS is '17'"),
             ({**good, "LISTEN_FDS": "1 "}, ["unix"], "LISTEN_FDS is '1 '"), ({**good, "LISTEN_FDS": -1}, ["unix"], "LISTEN_FDS is '-1'"),
             ({**good, "LISTEN_FDS": 2}, ["unix"], "descriptor 4 ('unknown') of LISTEN_FDS is no socket"),
             ({**good, "LISTEN_FDNAMES": "a:b"}, ["unix"], "does not have the 1 names"),
             ({**good, "LISTEN_FDS": 2, "LISTEN_FDNAMES": "a"}, ["unix", "unix"], "does not have the 2 names"),
             ({**good, "LISTEN_FDNAMES": "x" * 256}, ["unix"], "of up to 255 bytes"),
             (good, ["file"], "is no socket"), (good, ["datagram"], "no stream socket"), (good, ["deaf"], "does not listen: use Accept=no")]
    for variables, kinds, why in cases:
        engine = passed(variables, kinds, "--nbd-activated", name)
        _, err = engine.communicate(timeout=30)
        assert engine.returncode == 1 and why in err, (variables, kinds, err)
        for i in range(len(kinds)):
            if os.path.exists(f"passed-{i}.sock"):
                os.unlink(f"passed-{i}.sock")


main(globals())
