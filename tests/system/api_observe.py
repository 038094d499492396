"""What supervision sees of hawserd: metrics of pools, volumes and engines, those that hang and those that died included,
and a log in which a request is found from the answer down to the engine."""
import json
import os
import re
import signal
import time

from daemon import Connection, Daemon
from lib import entry, main, need_devices

SAMPLE = re.compile(r'^([a-z_]+)(?:\{((?:[a-z]+="[^"\\]*",?)*)\})? (-?[0-9.]+)$')


def scrape(d):
    """@return {(metric, labels): value}, each line held to the text format."""
    status, text = d.ask("GET", "/metrics")
    assert status == 200 and text.endswith("\n")
    types, samples = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types, name
            types[name] = kind
        elif not line.startswith("# HELP "):
            name, labels, value = SAMPLE.match(line).groups()
            family = name if name in types else re.sub("_(bucket|sum|count)$", "", name)
            assert types[family] == "histogram" if family != name else types[name] in ("gauge", "counter"), line
            key = (name, labels or "")
            assert key not in samples, line
            samples[key] = float(value)
    buckets = {}
    for (name, labels), value in samples.items():  # cumulative, and the last is all
        if name.endswith("_bucket"):
            series = labels.rsplit(",le=", 1)[0]
            assert value >= buckets.get(series, 0), labels
            buckets[series] = value
    for series, value in buckets.items():
        assert samples[("hawser_volume_latency_seconds_count", series)] == value, series
    return samples


def fresh(d, what, seconds=90):
    """Scrapes until @what holds: answers of engines are kept for some seconds."""
    deadline = time.monotonic() + seconds
    while True:
        samples = scrape(d)
        if what(samples):
            return samples
        assert time.monotonic() < deadline, samples
        time.sleep(0.2)


def test_metrics_tell_what_volumes_do():
    need_devices()
    with Daemon() as d:
        d.pool()
        for name in ("a", "b", "c", "idle"):
            d.post("/v1/volumes", name=name, size="16M", fs="none")
        devices = {name: d.post(f"/v1/volumes/{name}/attach", mode="device")["device"] for name in ("a", "b", "c")}
        d.post("/v1/volumes/a/snapshots", name="s")
        with open(devices["a"], "r+b", buffering=0) as disk:
            for n in range(8):
                disk.write(b"x" * 65536)
            os.fsync(disk.fileno())
        samples = fresh(d, lambda s: s.get(("hawser_volume_bytes_total", 'volume="a",operation="write"'), 0) >= 8 * 65536)
        where = 'volume="a",pool="pool"'
        assert samples[("hawser_volume_size_bytes", where)] == 16 << 20
        assert samples[("hawser_volume_chain_depth", where)] == 1
        assert samples[("hawser_volume_allocated_bytes", where)] >= 8 * 65536
        assert samples[("hawser_volume_attached", where)] == 1 and samples[("hawser_volume_up", where)] == 1
        assert samples[("hawser_volume_attached", 'volume="idle",pool="pool"')] == 0
        assert ("hawser_volume_up", 'volume="idle",pool="pool"') not in samples
        assert samples[("hawser_pool_volumes", 'pool="pool"')] == 4 and samples[("hawser_pool_up", 'pool="pool"')] == 1
        assert samples[("process_resident_memory_bytes", "")] > 1 << 20 and samples[("process_open_fds", "")] > 3

        # One engine hangs, one is dead: they are told so, in bounded time, and hold up nobody else's.
        pids = {name: entry(d.get(f"/v1/volumes/{name}")["id"])["pid"] for name in ("b", "c")}
        os.kill(pids["b"], signal.SIGSTOP)
        os.kill(pids["c"], signal.SIGKILL)
        try:
            up = lambda s, name: s[("hawser_volume_up", f'volume="{name}",pool="pool"')]
            began = time.monotonic()
            fresh(d, lambda s: up(s, "b") == 0 and up(s, "a") == 1)
            for _ in range(3):
                scrape(d)
            assert time.monotonic() - began < 60
        finally:
            os.kill(pids["b"], signal.SIGCONT)
        fresh(d, lambda s: s[("hawser_volume_up", 'volume="b",pool="pool"')] == 1)
        os.rename("pool", "away")
        assert scrape(d)[("hawser_pool_up", 'pool="pool"')] == 0
        os.rename("away", "pool")
        for name in devices:
            d.post(f"/v1/volumes/{name}/detach", force=True)


def test_a_request_is_found_from_the_answer_down_to_the_engine():
    need_devices()
    with Daemon("--log-format=json") as d:
        d.pool()
        volume = d.post("/v1/volumes", name="v", size="16M", fs="none")["id"]
        d.post("/v1/volumes/v/attach", mode="device")
        before = d.get("/v1/events")["next"]
        connection = Connection(d.rest)
        connection.request("POST", "/v1/volumes/v/snapshots", '{"name": "s"}')
        answer = connection.getresponse()
        answer.read()
        request = answer.getheader("X-Request-Id")
        events = d.get(f"/v1/events?after={before}")["items"]
        assert events and {e["request"] for e in events} == {request}, (request, events)
        assert f"snapshot [{request}]: done" in open(f"run/{volume}/log").read()
        status, refused = d.ask("POST", "/v1/volumes", {"name": "v", "size": "1M"})
        assert status == 409
        d.post("/v1/volumes/v/detach")
        d.stop()
        lines = [json.loads(line) for line in open("hawserd.log")]
        assert all(line["level"] in ("info", "warning") and line["message"] and "T" in line["time"] for line in lines)
        for wanted in (request, refused["error"]["request"]):
            assert [line for line in lines if line.get("request") == wanted], wanted
        assert not [line for line in lines if "serves" in line["message"] and "request" in line]


main(globals())
