"""The events of hawserd: at once, after a wait, as a stream; gaps, slow readers, restarts; and watched objects."""
import json
import os
import socket
import threading
import time

from daemon import Connection, Daemon
from lib import main, wait_until


def position(d):
    return d.get("/v1/events")["next"]


def label(d, value, volume="v"):
    d.call("PATCH", f"/v1/volumes/{volume}", {"labels": {"n": str(value)}})


def prepared(d):
    d.pool()
    d.post("/v1/volumes", name="v", size="16M", fs="none")


def in_background(call):
    """@return a list that gets what the call answers, and its thread."""
    got = []
    thread = threading.Thread(target=lambda: got.append(call()))
    thread.start()
    return got, thread


def test_what_happens_is_told_in_order():
    with Daemon() as d:
        start = position(d)
        assert d.get(f"/v1/events?after={start}") == {"items": [], "next": start}
        prepared(d)
        d.post("/v1/volumes/v/snapshots", name="s")
        d.delete("/v1/volumes/v/snapshots/s")
        d.delete("/v1/volumes/v")
        told = d.get(f"/v1/events?after={start}&limit=1000")
        items = told["items"]
        assert [e["sequence"] for e in items] == list(range(start + 1, start + 1 + len(items))), items
        assert told["next"] == items[-1]["sequence"] and "gap" not in told
        seen = [(e["kind"], e["event"]) for e in items]
        for expected in (("pool", "created"), ("volume", "created"), ("snapshot", "created"), ("snapshot", "removed"),
                         ("volume", "removed"), ("job", "begun"), ("job", "ended")):
            assert expected in seen, (expected, seen)
        assert {kind for kind, _ in seen} == {"pool", "volume", "snapshot", "job"}, seen
        made = next(e for e in items if e["kind"] == "snapshot" and e["event"] == "created")
        volume = next(e for e in items if e["kind"] == "volume" and e["event"] == "created")
        assert made["name"] == "s" and made["owner"] == volume["id"] and len(made["request"]) == 16, made
        log = open("hawserd.log").read()
        assert f"rest {made['request']}: POST /v1/volumes/v/snapshots" in log
        part = d.get(f"/v1/events?after={start}&limit=3")
        assert part["items"] == items[:3] and part["next"] == start + 3


def test_a_wait_ends_with_the_event_or_with_its_time():
    with Daemon() as d:
        prepared(d)
        at = position(d)
        began = time.monotonic()
        assert d.get(f"/v1/events?after={at}&wait=1") == {"items": [], "next": at}
        assert time.monotonic() - began >= 1
        # Many more waits than there are workers, and the daemon answers meanwhile.
        waits = [in_background(lambda: d.get(f"/v1/events?after={at}&wait=60")) for _ in range(60)]
        wait_until(lambda: d.get("/healthz")["status"] == "ok")
        label(d, 1)
        for got, thread in waits:
            thread.join(60)
            assert got and got[0]["items"][0]["sequence"] == at + 1, got
        # One that waits when hawserd ends has its answer.
        got, thread = in_background(lambda: d.get(f"/v1/events?after={position(d)}&wait=60"))
        time.sleep(0.5)
        d.stop()
        thread.join(60)
        assert got and got[0]["items"] == [], got


def test_objects_are_watched():
    with Daemon() as d:
        prepared(d)
        d.post("/v1/volumes", name="other", size="16M", fs="none")

        def sequence(path):
            connection = Connection(d.rest)
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            return int(answer.getheader("X-Sequence"))

        at = sequence("/v1/volumes/v")
        got, thread = in_background(lambda: d.get(f"/v1/volumes/v?watch={at}&wait=60"))
        label(d, "x", "other")
        time.sleep(0.5)
        assert thread.is_alive(), got  # that was another one
        label(d, "mine")
        thread.join(60)
        assert got[0]["labels"] == {"n": "mine"}, got
        at = sequence("/v1/volumes/v")
        got, thread = in_background(lambda: d.get(f"/v1/volumes/v?watch={at}&wait=60"))
        d.post("/v1/volumes/v/snapshots", name="s")  # what belongs to it counts
        thread.join(60)
        assert got[0]["id"] == d.get("/v1/volumes/v")["id"], got
        at = sequence("/v1/volumes")
        got, thread = in_background(lambda: d.get(f"/v1/volumes?watch={at}&wait=60"))
        d.delete("/v1/volumes/other")
        thread.join(60)
        assert len(got[0]["items"]) <= 2, got
        # What was removed is told at once, and what did not change after the wait.
        at = sequence("/v1/volumes/v")
        assert d.ask("GET", f"/v1/volumes/v?watch={at}&wait=1")[0] == 200
        d.post("/v1/classes", name="c")
        at = sequence("/v1/classes/c")
        got, thread = in_background(lambda: d.ask("GET", f"/v1/classes/c?watch={at}&wait=60"))
        d.delete("/v1/classes/c")
        thread.join(60)
        assert got[0][0] == 404, got


class Stream:
    def __init__(self, d, after):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(d.rest)
        self.socket.sendall(f"GET /v1/events?stream=lines&after={after} HTTP/1.0\r\nHost: h\r\n\r\n".encode())
        self.file = self.socket.makefile("rb")
        while self.file.readline().strip():
            pass

    def line(self):
        """The next that tells something; None at the end."""
        while True:
            text = self.file.readline()
            if not text:
                return None
            if text.strip():
                return json.loads(text)

    def close(self):
        self.file.close()
        self.socket.close()


def test_a_stream_tells_what_happens():
    with Daemon() as d:
        prepared(d)
        at = position(d)
        label(d, 0)
        streams = [Stream(d, at) for _ in range(40)]  # more than workers
        for stream in streams:
            assert stream.line()["sequence"] == at + 1
        for n in range(50):
            label(d, n)
        for stream in streams:
            assert [stream.line()["sequence"] for _ in range(50)] == list(range(at + 2, at + 52))
        connection = Connection(d.rest)  # HTTP/1.1: in chunks
        connection.request("GET", f"/v1/events?stream=lines&after={at}")
        answer = connection.getresponse()
        assert answer.getheader("Transfer-Encoding") == "chunked" and "ndjson" in answer.getheader("Content-Type")
        lines = [json.loads(answer.readline() if n else answer.readline() and answer.readline()) for n in range(3)]
        assert lines[-1]["sequence"] > at
        for stream in streams[1:]:
            stream.close()
        d.stop()
        assert streams[0].line() is None


def test_gaps_and_slow_readers():
    with Daemon("--request-seconds=600", "--events=500") as d:  # who takes nothing for so long is cut off
        prepared(d)
        at = position(d)
        slow = socket.socket(socket.AF_UNIX)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(d.rest)
        slow.sendall(f"GET /v1/events?stream=lines&after={at} HTTP/1.0\r\nHost: h\r\n\r\n".encode())

        def many(first):
            for n in range(first, first + 1200):
                label(d, n)

        threads = [threading.Thread(target=many, args=(k * 100000,)) for k in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(500)
        last = position(d)
        assert last - at >= 2400
        told = d.get(f"/v1/events?after={at}&limit=5")
        assert told["gap"] and told["items"][0]["sequence"] == last - 500 + 1, told
        told = d.get(f"/v1/events?after={last - 500}&limit=5")
        assert "gap" not in told and len(told["items"]) == 5
        assert d.get(f"/v1/events?after={last + 1}")["gap"]
        # The slow reader finds a gap told where it was too slow, and everything else in order.
        slow.settimeout(60)
        text = b""
        while b'"sequence":%d,' % last not in text:
            more = slow.recv(1 << 20)
            assert more, text[-500:]
            text += more
        lines = [json.loads(line) for line in text.split(b"\r\n\r\n", 1)[1].splitlines() if line.strip()]
        expected, gaps = at + 1, 0
        for line in lines:
            if line.get("gap"):
                assert line["next"] >= expected
                expected, gaps = line["next"] + 1, gaps + 1
            else:
                assert line["sequence"] == expected, (line, expected)
                expected += 1
        assert gaps == 1 and expected == last + 1, (gaps, expected, last)


def test_numbers_grow_over_restarts_and_the_gap_is_told():
    d = Daemon()
    prepared(d)
    before = position(d)
    label(d, 1)
    d.kill()
    d.start()
    told = d.get(f"/v1/events?after={before}")
    assert told["gap"] and told["next"] > before, told
    again = told["next"]
    label(d, 2)
    told = d.get(f"/v1/events?after={again}")
    assert "gap" not in told and told["items"][0]["sequence"] > again, told
    d.stop()


main(globals())
