#!/usr/bin/env python3
"""The control socket: what its methods answer, and what hostile, slow, half-dead and flooding clients
cannot do to it.
"""
import json
import os
import signal
import socket
import subprocess
import threading
import time
from lib import HAWSER, Rpc, Skip, connect, hawser, main, wait_until

SANITIZED = any(name in open(HAWSER, "rb").read() for name in (b"__asan_init", b"__tsan_init"))


class Engine:
    """`hawser serve` on a small raw image, without a device: needs no rights."""

    def __enter__(self):
        hawser("create", "-q", "-f", "raw", "disk.img", "16M")
        self.process = subprocess.Popen([HAWSER, "serve", "-f", "raw", "--socket=s", "--name=disk", "disk.img"],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open("log", "w"))
        wait_until(lambda: os.path.exists("s") or self.process.poll() is not None)
        assert self.process.poll() is None, open("log").read()
        return self

    def __exit__(self, *why):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        text = open("log").read()
        assert code == 0, text

    def memory(self):
        return sum(int(line.split()[1]) for line in open(f"/proc/{self.process.pid}/smaps_rollup")
                   if line.startswith(("Private_Clean", "Private_Dirty")))

    def grew_past(self, kib):
        """Sanitizers keep what is freed: there is nothing to measure with them."""
        return not SANITIZED and self.memory() > kib

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def test_methods_list_themselves_and_their_parameters():
    with Engine():
        rpc = Rpc("s")
        told = rpc.ask("rpc.discover")["result"]
        assert told == rpc.ask("methods")["result"]
        methods = {m["name"]: m for m in told["methods"]}
        for name in ("status", "stats", "resize", "snapshot", "internal-snapshot", "revert", "flush", "stop", "log-level", "methods"):
            assert name in methods and methods[name]["help"], name
        assert [p["name"] for p in methods["resize"]["params"]] == ["volume", "size", "shrink"]


def test_the_methods_answer():
    with Engine():
        rpc = Rpc("s")
        status = rpc.ask("status")["result"]
        assert status["state"] == "running" and status["volumes"][0]["size"] == 16 << 20, status
        stats = rpc.ask("stats", histograms=True)["result"]["volumes"][0]
        assert "histogram" in stats["operations"]["read"], stats
        assert rpc.ask("flush")["result"] == {}
        assert rpc.ask("resize", size="+16M")["result"]["size"] == 32 << 20
        assert os.path.getsize("disk.img") == 32 << 20
        assert rpc.ask("log-level", level="debug")["result"] == {}
        for method, params, text in (("hold", {"timeout": 0}, "timeout"), ("hold", {"timeout": 20001}, "timeout"), ("resize", {}, "size"), ("resize", {"size": "x"}, "not a size"),
                                     ("resize", {"size": "1M"}, "shrink"), ("resize", {"size": "1M", "shrnk": True}, "shrnk"),
                                     ("resize", {"size": "1M", "volume": "x"}, "no volume 'x'"),
                                     ("log-level", {"level": "loud"}, "loud"), ("snapshot", {"overlay": "x"}, "absolute"),
                                     ("revert", {}, "no backing file"),
                                     ("internal-snapshot", {"action": "create", "name": "x"}, "no internal snapshots"),
                                     ("internal-snapshot", {"action": "delete"}, "name is missing"), ("stats", {"volume": "x"}, "no volume 'x'")):
            answer = rpc.ask(method, **params)
            assert text in answer["error"]["message"], (method, params, answer)
        assert rpc.ask("nonsense")["error"]["code"] == -32601



def test_a_hold_lasts_through_snapshots_and_ends_by_itself():
    with Engine():
        rpc = Rpc("s")
        assert rpc.ask("hold")["result"] == {}
        for name in ("a", "b"):
            overlay = os.path.abspath(f"{name}.qcow2")
            assert rpc.ask("snapshot", overlay=overlay)["result"]["overlay"] == overlay
        assert rpc.ask("release")["result"] == {"held": True}
        assert rpc.ask("release")["result"] == {"held": False}
        assert rpc.ask("hold", timeout=1)["result"] == {}
        wait_until(lambda: "nobody ended its hold" in open("log").read())
        assert rpc.ask("release")["result"] == {"held": False}
        assert rpc.ask("hold", timeout=20000)["result"] == {}
        assert rpc.ask("flush")["result"] == {}  # does not wait for it
        assert rpc.ask("release")["result"] == {"held": False}
        assert rpc.ask("hold", timeout=20000)["result"] == {}
        assert rpc.ask("hold", timeout=20000)["result"] == {}  # of one who died since
        assert rpc.ask("release")["result"] == {"held": True}
        assert rpc.ask("hold", timeout=1000)["result"] == {}  # and the end of the engine comes in time


def test_malformed_requests_are_answered_and_harm_nothing():
    with Engine():
        rpc = Rpc("s")
        for raw, code in ((b"{", -32700), (b"", -32700), (b"[]", -32600), (b"1", -32600), (b"{}", -32600),
                          (b'{"jsonrpc":"1.0","id":1,"method":"status"}', -32600),
                          (b'{"jsonrpc":"2.0","id":[1],"method":"status"}', -32600),
                          (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
                          (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"status"}', -32700),
                          (b'{"jsonrpc":"2.0","id":1,"method":"status","params":[1]}', -32602),
                          (b'{"jsonrpc":"2.0","id":1,"method":"status","params":{"x":1}}', -32602),
                          (b'\xff\xfe\x00', -32700), (b'"' + b"a" * 1000 + b'"', -32600),
                          (b"[" * 60000, -32700), (b'{"a":' * 8000, -32700), (b"[1,2", -32700)):
            rpc.send(raw + b"\n")
            answer = rpc.receive()
            assert answer["error"]["code"] == code, (raw[:50], answer)
        assert rpc.ask("status")["result"]["state"] == "running"


def test_batches_and_notifications():
    with Engine():
        rpc = Rpc("s")
        rpc.send(b'[{"jsonrpc":"2.0","id":1,"method":"flush"},{"jsonrpc":"2.0","method":"flush"},{"jsonrpc":"2.0","id":2,"method":"x"}]\n')
        answers = rpc.receive()
        assert [a["id"] for a in answers] == [1, 2] and "result" in answers[0] and "error" in answers[1]
        rpc.send(b'{"jsonrpc":"2.0","method":"flush"}\n{"jsonrpc":"2.0","id":"last","method":"flush"}\n')
        assert rpc.receive()["id"] == "last", "a notification is not answered"
        rpc.send(b"[" + b",".join([b'{"jsonrpc":"2.0","id":1,"method":"flush"}'] * 33) + b"]\n")
        assert rpc.receive()["error"]["code"] == -32600


def test_messages_too_long_are_cut_off():
    with Engine() as engine:
        rpc = Rpc("s")
        try:
            rpc.send(b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * (1 << 20))
        except OSError:
            pass
        try:
            answer = rpc.receive()
            assert answer is None or answer["error"]["code"] == -32600, answer
        except ConnectionError:
            pass
        assert Rpc("s").ask("status")["result"]["state"] == "running"
        assert not engine.grew_past(8 << 10)


def test_messages_may_come_byte_by_byte():
    with Engine():
        rpc = Rpc("s")
        for byte in b'{"jsonrpc":"2.0","id":1,"method":"flush"}\n':
            rpc.send(bytes([byte]))
        assert rpc.receive()["result"] == {}


def test_crowds_of_silent_clients_do_not_lock_others_out():
    with Engine() as engine:
        crowd = []
        for _ in range(100):
            crowd.append(connect("s"))
        assert Rpc("s").ask("status")["result"]["state"] == "running"
        assert engine.descriptors() < 100
        for client in crowd:
            client.close()
        assert Rpc("s").ask("status")["result"]["state"] == "running"
        wait_until(lambda: engine.descriptors() < 40)


def test_clients_that_do_not_read_do_not_stall_others():
    with Engine() as engine:
        deaf = socket.socket(socket.AF_UNIX)
        deaf.connect("s")
        deaf.setblocking(False)
        request = b'{"jsonrpc":"2.0","id":1,"method":"methods"}\n' * 200
        for _ in range(200):
            try:
                deaf.send(request)
            except BlockingIOError:
                break
        started = time.monotonic()
        for _ in range(20):
            assert Rpc("s").ask("status")["result"]["state"] == "running"
        assert time.monotonic() - started < 60
        assert not engine.grew_past(8 << 10)
        deaf.close()


def test_clients_that_come_and_go_leave_nothing():
    with Engine() as engine:
        Rpc("s").ask("status")
        before = engine.descriptors(), engine.memory()
        for i in range(300):
            client = connect("s")
            client.send([b"", b"{", b'{"jsonrpc":"2.0","id":1,"method":"methods"}\n'][i % 3])
            client.close()
        wait_until(lambda: engine.descriptors() <= before[0] + 1)
        assert Rpc("s").ask("status")["result"]["state"] == "running"
        assert not engine.grew_past(before[1] + 1024), (before, engine.memory())


def test_other_users_are_refused():
    if os.geteuid() != 0:
        raise Skip("needs root to become another user")
    with Engine():
        os.chmod(".", 0o755)
        os.chmod("s", 0o666)
        code = ("import os, socket; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX); "
                "s.connect('s'); s.settimeout(90)\n"
                "try:\n s.sendall(b'{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}\\n'); print(len(s.recv(100)))\n"
                "except OSError: print(0)")
        done = subprocess.run(["python3", "-c", code], capture_output=True, text=True)
        assert done.stdout.strip() == "0", done


def test_stop_ends_the_engine():
    with Engine() as engine:
        rpc = Rpc("s")
        assert rpc.ask("stop")["result"] == {}
        assert engine.process.wait(90) == 0
        assert not os.path.exists("s")


def test_a_second_engine_does_not_steal_the_socket():
    with Engine():
        failed = subprocess.run([HAWSER, "serve", "-f", "raw", "-r", "--socket=s", "disk.img"], capture_output=True,
                                text=True, timeout=90)
        assert failed.returncode == 1 and failed.stderr, failed
        assert Rpc("s").ask("status")["result"]["state"] == "running"


BAD_SUCCESSOR = """#!/usr/bin/env python3
import os, time
os.write(10, b"prepared\\n")
assert os.read(11, 3) == b"go\\n"
time.sleep(0.3)
os.unlink("s")
os.write(10, b"no room\\n")
"""


def ask_all_the_while(answers, end):
    while not end.is_set():
        try:
            rpc = Rpc("s")
            answers.append(rpc.ask("status")["result"])
            answers.append(rpc.ask("stats")["result"])
            rpc.close()
        except (OSError, ValueError, KeyError, TypeError):
            pass  # between two engines
        time.sleep(0.002)


def test_an_engine_whose_successor_fails_is_reached_as_before():
    with open("bad", "w") as file:
        file.write(BAD_SUCCESSOR)
    os.chmod("bad", 0o700)
    answers, end = [], threading.Event()
    with Engine() as engine:
        asking = threading.Thread(target=ask_all_the_while, args=(answers, end))
        asking.start()
        try:
            answer = Rpc("s").ask("replace", program=os.path.abspath("bad"))
        finally:
            end.set()
            asking.join()
        assert "no room" in answer["error"]["message"], answer
        assert engine.process.poll() is None
        status = Rpc("s").ask("status")["result"]
        assert status["pid"] == engine.process.pid and status["state"] == "running", status
        assert status["volumes"][0]["size"] == 16 << 20, status
        assert sorted(name for name in os.listdir(".") if name.startswith("s")) == ["s"]
    assert answers and not os.path.exists("s")


def test_an_engine_is_replaced_while_it_is_asked():
    answers, end = [], threading.Event()
    with Engine() as engine:
        asking = threading.Thread(target=ask_all_the_while, args=(answers, end))
        asking.start()
        try:
            answer = Rpc("s").ask("replace", program=os.path.realpath(HAWSER))
            assert "result" in answer, answer
            assert engine.process.wait(90) == 0
            assert sorted(name for name in os.listdir(".") if name.startswith("s")) == ["s"]
        finally:
            end.set()
            asking.join()
            rpc = Rpc("s")
            status = rpc.ask("status")["result"]
            assert rpc.ask("stop")["result"] == {}
        assert status["pid"] == answer["result"]["pid"] and status["state"] == "running", status
        wait_until(lambda: not os.path.exists(f"/proc/{status['pid']}") or
                   open(f"/proc/{status['pid']}/stat").read().split()[2] == "Z")
    assert not os.path.exists("s")


def test_bad_configurations_are_refused():
    for config, text in (("{", "line 1"), ("[]", "no JSON object"), ("{}", "1 to 64 volumes"),
                         ('{"volumes":[{"name":"a"}]}', "image"), ('{"volumes":[{"name":"a","image":"b","x":1}]}', "x"),
                         ('{"volumes":[{"name":"a","image":"b","cache":"c"}]}', "cache"),
                         ('{"volumes":[{"name":"a","image":"b"}],"sockt":"x"}', "sockt"),
                         ('{"volumes":[{"name":"a","image":"b","via":"none","path":"p"}]}', "of no use"),
                         ('{"volumes":[{"name":"a","image":"b","allow":"c"}]}', "allow")):
        done = subprocess.run([HAWSER, "serve", "--config=-"], input=config, capture_output=True, text=True, timeout=90)
        assert done.returncode in (1, 2) and text in done.stderr, (config, done.stderr)


main(globals())
