"""Secrets and exports of hawserd: volumes over NBD with pre-shared keys and certificates, through deaths and changes,
and secrets that appear nowhere."""
import glob
import json
import os
import signal
import subprocess
import time

from daemon import Daemon, mountpoint, write
from lib import hawser, main, need_devices, need_tool, nothing_left, run, wait_until

KEY = "5f" * 32
OTHER = "a7" * 32


def psk_file(name, user, key):
    with open(name, "w") as file:
        file.write(f"{user}:{key}\n")
    os.chmod(name, 0o600)
    return os.path.abspath(name)


def uri(export, socket="export.sock", user=None, file=None, folder=None):
    where = f"localhost/{export}?socket={os.path.abspath(socket)}"
    if file:
        return f"nbds+unix://{user}@{where}&tls-psk-file={file}"
    if folder:
        return f"nbds+unix://{where}&tls-certificates={folder}"
    return f"nbd+unix:///{export}?socket={os.path.abspath(socket)}"


def nbd(*words, check=True):
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
    return done


def size_of(address):
    done = nbd("nbdinfo", "--size", address, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def unix(name="export.sock"):
    return "unix:" + os.path.abspath(name)


def serving(daemon, export):
    return daemon.get(f"/v1/exports/{export}")["serving"]


def test_a_volume_is_exported_with_a_key():
    need_tool("nbdinfo", "nbdcopy", "qemu-img")
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="64M", fs="none")
        d.post("/v1/secrets", name="alice", value=KEY)
        export = d.post("/v1/exports", name="disk", volume="v", listen=unix(), secret="alice")
        assert export["tls"] == "psk" and export["serving"] and export["secret-name"] == "alice", export
        good = uri("disk", user="alice", file=psk_file("good.psk", "alice", KEY))
        assert size_of(good) == 64 << 20
        with open("data", "wb") as file:
            file.write(os.urandom(1 << 20) * 64)
        nbd("nbdcopy", "data", good)
        nbd("nbdcopy", good, "back")
        assert open("data", "rb").read() == open("back", "rb").read()
        os.mkdir("keys")
        psk_file("keys/keys.psk", "alice", KEY)
        options = f"driver=nbd,server.type=unix,server.path={os.path.abspath('export.sock')},export=disk,tls-creds=t"
        nbd("qemu-img", "compare", "--object", "tls-creds-psk,id=t,dir=keys,endpoint=client,username=alice",
            "--image-opts", options, "driver=raw,file.filename=data")
        # A wrong key, a wrong name, none at all.
        assert size_of(uri("disk", user="alice", file=psk_file("bad.psk", "alice", OTHER))) is None
        assert size_of(uri("disk", user="bob", file=psk_file("bob.psk", "bob", KEY))) is None
        assert size_of(uri("disk")) is None
        assert d.refused("DELETE", "/v1/secrets/alice") == "busy"
        assert d.refused("DELETE", "/v1/volumes/v") == "busy"
        d.delete("/v1/exports/disk")
        assert size_of(good) is None and not os.path.lexists("export.sock")
        d.delete("/v1/volumes/v")
        d.delete("/v1/secrets/alice")
        assert d.get("/v1/attachments")["items"] == []


if __name__ == "__main__":
    main(globals())
