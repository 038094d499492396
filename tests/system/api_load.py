"""hawserd under clients that mean no good: a thousand slow ones, large bodies that never end, answers that nobody reads,
all at once; what it holds stays bounded, and others are served meanwhile."""
import json
import os
import resource
import select
import socket
import threading
import time

from daemon import MIB, Daemon, need_own_memory, resident
from lib import main, wait_until


def need_descriptors(count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count), hard), hard))


def connect(d):
    client = socket.socket(socket.AF_UNIX)
    client.connect(d.rest)  # without a timeout: waits where the backlog is full
    client.settimeout(60)
    return client


def send_all(clients, data, seconds=60):
    """To all at once, as far as the server takes it."""
    left = {client.fileno(): [client, memoryview(data)] for client in clients}
    poll = select.poll()
    for client in clients:
        client.setblocking(False)
        poll.register(client, select.POLLOUT)
    deadline = time.monotonic() + seconds
    while left and time.monotonic() < deadline:
        ready = poll.poll(1000)
        if not ready:
            break  # nobody is taken any further
        for fd, _ in ready:
            client, rest = left[fd]
            try:
                rest = rest[client.send(rest):]
            except BlockingIOError:
                continue
            except OSError:
                rest = rest[:0]
            left[fd][1] = rest
            if not rest:
                poll.unregister(fd)
                del left[fd]


def served(d, seconds=60):
    """Others are answered."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            assert d.ask("GET", "/v1/volumes")[0] == 200
            return
        except OSError:
            assert time.monotonic() < deadline, "nobody is served"


def test_a_thousand_slow_clients():
    need_own_memory()
    need_descriptors(4096)
    with Daemon() as d:
        d.pool()
        before = resident(d)
        slow = [connect(d) for _ in range(1000)]
        for n, client in enumerate(slow):
            client.sendall([b"", b"G", b"GET /v1/volumes HTTP/1.1\r\nHost: h\r\nX-A: " + b"y" * (n % 3000),
                            b"POST /v1/volumes HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{"][n % 4])
        served(d)
        d.post("/v1/volumes", name="v", size="8M", fs="none")
        more = resident(d) - before
        print(f"  {more / MIB:.1f} MiB for a thousand")
        assert more < 64 * MIB, more
        # Crowded as it is, those that send nothing are cut off, and more come in than there is room for.
        slow += [connect(d) for _ in range(400)]
        wait_until(lambda: sum(closed(c) for c in slow) >= 400)
        served(d)
        for client in slow:
            client.close()
        served(d)


def closed(client):
    client.setblocking(False)
    try:
        return client.recv(65536) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_bodies_that_never_end_are_bounded_together():
    need_own_memory()
    need_descriptors(4096)
    with Daemon() as d:
        d.pool()
        before = resident(d)
        clients = [connect(d) for _ in range(300)]
        body = b'{"name": "' + b"x" * 900000
        send_all(clients, b"POST /v1/volumes HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + body)
        served(d)
        more = resident(d) - before
        print(f"  {more / MIB:.1f} MiB for 300 bodies of 0.9 MiB")
        assert more < 160 * MIB, more
        # Those that did not fit hear so once they are through: nobody is left without an answer.
        send_all(clients, b"y" * (1000000 - len(body)))
        codes = {}
        for client in clients:
            client.settimeout(60)
            status = client.recv(65536).split(b" ", 2)[1]
            codes[status] = codes.get(status, 0) + 1
            client.close()
        print(f"  answers {codes}")
        assert set(codes) == {b"400", b"503"} and codes[b"503"] > 0, codes
        wait_until(lambda: d.ask("POST", "/v1/volumes", {"name": "v", "size": "8M", "fs": "none"})[0] == 201)


def test_answers_that_nobody_reads_are_bounded_together():
    need_own_memory()
    need_descriptors(4096)
    with Daemon("--request-seconds=3") as d:
        d.pool()
        for n in range(32):
            d.post("/v1/volumes", name=f"v{n}", size="8M", fs="none", labels={f"k{k}": "x" * 1000 for k in range(40)})
        before = resident(d)
        clients = []
        for _ in range(120):  # of 1.3 MB each
            client = connect(d)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"GET /v1/volumes?limit=1000 HTTP/1.1\r\nHost: h\r\n\r\n")
            clients.append(client)
        wait_until(lambda: open("hawserd.log").read().count("GET /v1/volumes:") >= 120)
        more = resident(d) - before
        print(f"  {more / MIB:.1f} MiB for 120 answers of {len(json.dumps(d.get('/v1/volumes?limit=1')['items'])) * 32 / MIB:.1f} MiB")
        assert more < 400 * MIB, more
        assert d.ask("GET", "/healthz")[0] == 200
        wait_until(lambda: d.ask("GET", "/v1/volumes?limit=1000")[0] == 200)
        wait_until(lambda: sum(dead(c) for c in clients) == 120)  # after its time, each is cut off
        for client in clients:
            client.close()
        assert len(d.get("/v1/volumes?limit=1000")["items"]) == 32


def dead(client):
    poll = select.poll()
    poll.register(client, select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def test_many_at_once_and_none_is_lost():
    with Daemon() as d:
        d.pool()
        failures = []

        def work(n):
            try:
                for k in range(10):
                    name = f"v{n}-{k}"
                    d.post("/v1/volumes", name=name, size="8M", fs="none")
                    assert d.get(f"/v1/volumes/{name}")["name"] == name
                    d.get("/v1/volumes?limit=5")
                    d.ask("GET", "/metrics")
                    d.delete(f"/v1/volumes/{name}")
            except Exception as failure:
                failures.append(failure)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert not failures, failures[0]
        assert d.get("/v1/volumes")["items"] == [] and d.images() == []


def test_keep_alive_pipelines_and_broken_heads():
    with Daemon("--request-seconds=2") as d:  # what two of the broken ones wait for
        client = connect(d)
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n" * 100)
        text = b""
        while text.count(b"HTTP/1.1 200 OK") < 100:
            text += client.recv(1 << 16)
        for raw in (b"\r\n\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100000,
                    b"GET /" + b"x" * 60000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 20000,
                    b"POST /v1/volumes HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
                    b"POST /v1/volumes HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n",
                    b"POST /v1/volumes HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n"):
            client = connect(d)
            try:
                client.sendall(raw)
                client.shutdown(socket.SHUT_WR)
                answer = client.recv(65536)
            except OSError:
                answer = b""
            assert b" 200 " not in answer.split(b"\r\n")[0] and b" 500 " not in answer.split(b"\r\n")[0], (raw[:40], answer)
            client.close()
        served(d)
        # A body in chunks is a body.
        client = connect(d)
        client.sendall(b"POST /v1/classes HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                       b"8\r\n{\"name\":\r\n5\r\n \"c\"}\r\n0\r\n\r\n")
        assert b"201 Created" in client.recv(65536)


main(globals())
