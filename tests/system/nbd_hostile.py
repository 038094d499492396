"""The NBD server under clients that mean harm: what they cost, and that others do not notice."""
import os
import socket
import time

from lib import main, wait_until
from nbd_peer import Engine, answer, exact, image, negotiate, request

MIB = 1 << 20


def resident(engine):
    """Bytes of memory that are the engine's own."""
    with open(f"/proc/{engine.process.pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith(("Private_", "Swap:")))


def server(engine):
    return engine.call("status")["nbd"]


def served_in(s, cookie, seconds):
    """A small read is answered in time."""
    started = time.monotonic()
    s.sendall(request(0, cookie, 0, 4096))
    assert answer(s) == (0, cookie)
    exact(s, 4096)
    took = time.monotonic() - started
    assert took < seconds, took
    return took


def config(**nbd):
    return {"volumes": [{"name": "disk", "image": os.path.abspath(image("256M")), "via": "none"}], "nbd": nbd}


def test_a_thousand_idle_clients_cost_little():
    with Engine(config=config(connections=1100)) as engine:
        with engine.connect() as s:
            negotiate(s)
            served_in(s, 1, 30)
        before = resident(engine)
        several = [engine.connect() for _ in range(1000)]
        for s in several:
            negotiate(s)
            s.sendall(request(0, 7, 0, 4096))
        for s in several:
            assert answer(s) == (0, 7) and exact(s, 4096) == bytes(4096)
        wait_until(lambda: server(engine)["memory"] <= 4 * MIB)
        time.sleep(2.5)  # what rests goes back
        each = (resident(engine) - before) / 1000
        print(f"  {each:.0f} bytes a client")
        assert each < 4096, each
        for s in several:
            s.close()
        wait_until(lambda: server(engine)["connections"] == 0)


def test_half_a_header_costs_no_buffer():
    with Engine(config=config()) as engine:
        several = [engine.connect() for _ in range(500)]
        for s in several:
            negotiate(s)
            s.sendall(request(0, 7, 0, 4096)[:27])
        time.sleep(0.5)
        assert server(engine)["memory"] <= 4 * MIB, server(engine)
        for s in several:
            s.sendall(request(0, 7, 0, 4096)[27:])
        for s in several:
            assert answer(s) == (0, 7) and exact(s, 4096) == bytes(4096)
            s.close()


def test_clients_that_never_read_do_not_use_up_memory():
    budget = 64 * MIB
    with Engine(config=config(memory=budget)) as engine, engine.connect() as good:
        negotiate(good)
        served_in(good, 1, 30)
        before = resident(engine)
        greedy = []
        for _ in range(20):
            s = engine.connect()
            negotiate(s)
            s.settimeout(0.05)
            try:
                s.sendall(request(0, 9, 0, MIB) * 64)
            except socket.timeout:
                pass
            greedy.append(s)
        wait_until(lambda: server(engine)["waiting-for-memory"] > 0, 30)
        worst, cookie, peak = 0, 2, 0
        for cookie in range(2, 60):
            worst = max(worst, served_in(good, cookie, 20))
            peak = max(peak, resident(engine) - before)
            assert server(engine)["memory"] <= budget + 4 * MIB, server(engine)
            time.sleep(0.02)
        assert worst < 2, worst
        print(f"  at most {peak >> 20} MiB, and {worst * 1000:.0f} ms for a good client's read")
        assert peak < budget + 24 * MIB, peak  # what threads keep for their next requests among it
        # Those that stand still make room: a large read gets its turn.
        good.settimeout(60)
        good.sendall(request(0, 3, 0, 32 * MIB))
        assert answer(good) == (0, 3) and len(exact(good, 32 * MIB)) == 32 * MIB
        assert server(engine)["cut"] > 0
        for s in greedy:
            s.close()
        wait_until(lambda: server(engine)["connections"] == 1 and server(engine)["memory"] <= 4 * MIB)


def test_payload_that_never_ends_makes_room_for_others():
    with Engine(config=config(memory=64 * MIB)) as engine, engine.connect() as good:
        negotiate(good)
        slow = []
        for _ in range(60):
            s = engine.connect()
            negotiate(s)
            s.sendall(request(1, 1, 0, 2 * MIB) + bytes(100000))
            slow.append(s)
        wait_until(lambda: server(engine)["waiting-for-memory"] > 0, 30)
        for cookie in range(20):
            served_in(good, cookie, 20)
        good.settimeout(60)
        good.sendall(request(1, 3, 0, 2 * MIB) + bytes(2 * MIB))
        assert answer(good) == (0, 3)
        for s in slow:
            s.close()
        wait_until(lambda: server(engine)["connections"] == 1)


main(globals())
