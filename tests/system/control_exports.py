"""Secrets and exports of hawserd: volumes over NBD with pre-shared keys and certificates, through deaths and changes,
and secrets that appear nowhere."""
import glob
import json
import os
import signal
import subprocess
import time

from daemon import Daemon, mountpoint, write
from lib import hawser, main, need_devices, need_tool, run, wait_until

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
        nbd("nbdcopy", "--flush", "data", good)
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



def certificates():
    """An authority, a server's folder, and clients': alice's, and one of another authority."""
    need_tool("openssl")

    def authority(folder):
        os.makedirs(folder)
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
            "30", "-subj", "/CN=" + folder, "-keyout", f"{folder}/ca-key.pem", "-out", f"{folder}/ca-cert.pem")

    def issue(folder, kind, subject, by):
        os.makedirs(folder, exist_ok=True)
        usage = {"server": "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n",
                 "client": "extendedKeyUsage=clientAuth\n"}[kind]
        write("extensions", usage)
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
            "/CN=" + subject, "-keyout", f"{folder}/{kind}-key.pem", "-out", "request")
        run("openssl", "x509", "-req", "-in", "request", "-CA", f"{by}/ca-cert.pem", "-CAkey", f"{by}/ca-key.pem",
            "-CAcreateserial", "-days", "20", "-extfile", "extensions", "-out", f"{folder}/{kind}-cert.pem")
        write(f"{folder}/ca-cert.pem", open("ours/ca-cert.pem").read())

    authority("ours")
    authority("theirs")
    issue("server", "server", "localhost", "ours")
    issue("alice", "client", "alice", "ours")
    issue("mallory", "client", "mallory", "theirs")
    return {name: open(f"server/{name}.pem").read() for name in ("server-cert", "server-key", "ca-cert")}


def test_certificates_let_in_whom_they_should():
    need_tool("nbdinfo", "qemu-img")
    parts = certificates()
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="64M", fs="none")
        assert d.refused("POST", "/v1/secrets", {"name": "pki", "server-cert": parts["server-cert"]}) == "invalid"
        secret = d.post("/v1/secrets", name="pki", **parts)
        assert secret["kind"] == "x509" and "PRIVATE" not in json.dumps(secret), secret
        # What TLS refuses is told, and nothing is left of the export.
        d.post("/v1/secrets", name="broken", **{**parts, "server-cert": parts["ca-cert"]})
        status, answer = d.ask("POST", "/v1/exports", {"name": "b", "volume": "v", "listen": unix("b.sock"),
                                                       "secret": "broken"})
        assert status >= 400 and "server-key.pem" in answer["error"]["message"], answer
        assert d.get("/v1/exports")["items"] == [] and d.get("/v1/attachments")["items"] == []
        for listen in (unix(), "tcp:127.0.0.1:%d" % free_port()):
            export = d.post("/v1/exports", name="disk", volume="v", listen=listen, secret="pki")
            assert export["tls"] == "x509" and export["serving"], export
            if listen.startswith("unix"):
                good, bad, clear = (uri("disk", folder=f) for f in ("alice", "mallory", None))
            else:
                address = "localhost:" + listen.rpartition(":")[2]
                good, bad = (f"nbds://{address}/disk?tls-certificates={f}" for f in ("alice", "mallory"))
                clear = f"nbd://{address}/disk"
            assert size_of(good) == 64 << 20
            assert size_of(bad) is None and size_of(clear) is None
            d.delete("/v1/exports/disk")
            assert size_of(good) is None


def free_port():
    import socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def no_engine_left():
    assert not glob.glob(os.environ["HAWSER_RUN_DIR"] + "/*-*") and os.getcwd() not in open("/proc/self/mountinfo").read()


def engine_pid(daemon, volume="v"):
    volume = daemon.get(f"/v1/volumes/{volume}")
    path = os.path.join(os.environ["HAWSER_RUN_DIR"], volume["id"], "state.json")
    try:
        return json.load(open(path))["pid"]
    except FileNotFoundError:
        return None


def test_exports_outlive_hawserd_and_engines_and_the_host():
    need_tool("nbdinfo", "nbdcopy")
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="32M", fs="none")
        d.post("/v1/secrets", name="alice", value=KEY)
        d.post("/v1/exports", name="disk", volume="v", listen=unix(), secret="alice")
        d.post("/v1/exports", name="look", volume="v", listen=unix("look.sock"), **{"read-only": True})
        good, look = uri("disk", user="alice", file=psk_file("good.psk", "alice", KEY)), uri("look", "look.sock")
        write("data", "x" * (32 << 20))
        nbd("nbdcopy", "--flush", "data", good)
        first = engine_pid(d)
        d.kill()
        assert size_of(good) == 32 << 20 and size_of(look) == 32 << 20
        d.start()
        assert size_of(good) == 32 << 20 and engine_pid(d) == first and serving(d, "disk")
        # The engine dies, with hawserd there and without.
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: engine_pid(d) not in (None, first) and serving(d, "disk") and serving(d, "look"), 30)
        assert size_of(good) == 32 << 20
        nbd("nbdcopy", look, "back")
        assert open("back").read() == open("data").read()
        d.kill()
        os.kill(engine_pid_of_run(), signal.SIGKILL)
        assert size_of(good) is None
        d.start()
        wait_until(lambda: serving(d, "disk") and serving(d, "look"), 30)
        assert size_of(good) == 32 << 20
        # The host starts again: all of /run is gone, and the boot has another id.
        d.kill()
        os.kill(engine_pid_of_run(), signal.SIGKILL)
        time.sleep(0.2)
        run("rm", "-rf", *glob.glob(os.environ["HAWSER_RUN_DIR"] + "/*-*"))
        run("sqlite3", "state/catalog.db", "update object set value = replace(value, "
            f"'{open('/proc/sys/kernel/random/boot_id').read().strip()}', '00000000-0000-4000-8000-000000000000')")
        d.start()
        wait_until(lambda: serving(d, "disk") and serving(d, "look"), 30)
        assert size_of(good) == 32 << 20 and size_of(look) == 32 << 20
        d.delete("/v1/exports/disk")
        assert size_of(look) == 32 << 20
        d.delete("/v1/exports/look")
        assert d.get("/v1/attachments")["items"] == []
    no_engine_left()


def engine_pid_of_run():
    states = glob.glob(os.environ["HAWSER_RUN_DIR"] + "/*/state.json")
    assert len(states) == 1, states
    return json.load(open(states[0]))["pid"]


def test_a_revoked_key_is_out_at_once():
    need_tool("nbdinfo", "qemu-io")
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="32M", fs="none")
        d.post("/v1/secrets", name="alice", value=KEY)
        d.post("/v1/exports", name="disk", volume="v", listen=unix(), secret="alice")
        old = uri("disk", user="alice", file=psk_file("old.psk", "alice", KEY))
        os.mkdir("keys")
        psk_file("keys/keys.psk", "alice", KEY)
        client = subprocess.Popen(["qemu-io", "--object", "tls-creds-psk,id=t,dir=keys,endpoint=client,username=alice",
                                   "--image-opts", f"driver=nbd,server.type=unix,server.path={os.path.abspath('export.sock')},"
                                   "export=disk,tls-creds=t"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True)
        client.stdin.write("read 0 512\n")
        client.stdin.flush()
        wait_until(lambda: "read 512/512" in client.stdout.readline(), 30)
        # With a client that stays, the export is not taken away.
        assert d.refused("DELETE", "/v1/exports/disk") == "busy" and size_of(old)
        d.call("PATCH", "/v1/secrets/alice", {"value": OTHER})
        assert size_of(old) is None
        assert size_of(uri("disk", user="alice", file=psk_file("new.psk", "alice", OTHER))) == 32 << 20
        out, _ = client.communicate("read 0 512\nquit\n", timeout=30)
        assert "read 512/512" not in out and "failed" in out, out
        # One that was made up is told once.
        made = d.call("PATCH", "/v1/secrets/alice", {"generate": "psk"})
        assert len(made["value"]) == 64 and made["version"] == 3, made
        assert size_of(uri("disk", user="alice", file=psk_file("made.psk", "alice", made["value"]))) == 32 << 20
        assert "value" not in d.get("/v1/secrets/alice") and made["value"] not in json.dumps(d.get("/v1/secrets"))
        d.delete("/v1/exports/disk?force=true")
        d.delete("/v1/secrets/alice")


def test_one_engine_serves_a_mount_and_exports():
    need_devices()
    need_tool("nbdinfo", "nbdcopy", "debugfs")
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="64M")
        at = mountpoint(d.post("/v1/volumes/v/attach", user="a"))
        write(f"{at}/file", "mounted")
        body = {"name": "disk", "volume": "v", "listen": unix()}
        assert d.refused("POST", "/v1/exports", body) == "busy"
        d.post("/v1/exports", **{**body, "read-only": True})
        run("sync", "-f", at)
        nbd("nbdcopy", uri("disk"), "copy.img")
        assert run("debugfs", "-R", "cat /file", "copy.img") == "mounted"
        # A snapshot, growth and a snapshot's export while all of it goes on.
        d.post("/v1/volumes/v/snapshots", name="s")
        write(f"{at}/file", "later")
        d.post("/v1/exports", name="old", volume="v@s", listen=unix("old.sock"))
        d.post("/v1/volumes/v/resize", size="96M")
        assert size_of(uri("disk")) == 96 << 20 and size_of(uri("old", "old.sock")) == 64 << 20
        nbd("nbdcopy", uri("old", "old.sock"), "old.img")
        nbd("e2fsck", "-fy", "old.img", check=False)
        assert run("debugfs", "-R", "cat /file", "old.img") == "mounted"
        assert d.refused("DELETE", "/v1/volumes/v/snapshots/s") == "busy"
        # The last container leaves: the export stays. By force the engine goes, and another one comes.
        d.post("/v1/volumes/v/detach", user="a", force=True)
        assert not os.path.ismount(at)
        wait_until(lambda: serving(d, "disk"), 30)
        assert size_of(uri("disk")) == 96 << 20
        # What is exported read-only can be attached: the export goes on.
        at = mountpoint(d.post("/v1/volumes/v/attach", user="b"))
        assert open(f"{at}/file").read() == "later"
        wait_until(lambda: serving(d, "disk"), 30)
        assert size_of(uri("disk")) == 96 << 20
        d.post("/v1/volumes/v/detach", user="b")
        for name in ("disk", "old"):
            d.delete(f"/v1/exports/{name}")
        assert d.get("/v1/attachments")["items"] == []
        d.delete("/v1/volumes/v/snapshots/s")
    no_engine_left()


def test_an_address_in_use_is_told_and_taken_later():
    need_tool("nbdinfo")
    import socket
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="32M", fs="none")
        port = free_port()
        listen = f"tcp:127.0.0.1:{port}"
        d.post("/v1/exports", name="disk", volume="v", listen=listen, tls="none")
        assert size_of(f"nbd://127.0.0.1:{port}/disk") == 32 << 20
        assert d.refused("POST", "/v1/exports", {"name": "two", "volume": "v", "listen": listen, "tls": "none",
                                                 "read-only": True}) == "exists"
        d.kill()
        os.kill(engine_pid_of_run(), signal.SIGKILL)
        time.sleep(0.2)
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen(1)
            d.start()
            wait_until(lambda: "error" in d.get("/v1/exports/disk"), 30)
            assert not serving(d, "disk") and str(port) in d.get("/v1/exports/disk")["error"]
        wait_until(lambda: serving(d, "disk"), 60)
        assert size_of(f"nbd://127.0.0.1:{port}/disk") == 32 << 20
        # A path at which something lies is not taken.
        write("file.sock", "mine")
        assert d.refused("POST", "/v1/exports", {"name": "two", "volume": "v", "listen": unix("file.sock"),
                                                 "read-only": True}) == "exists"
        assert open("file.sock").read() == "mine" and len(d.get("/v1/exports")["items"]) == 1
        d.delete("/v1/exports/disk")


def everything_of(pid):
    """What the host tells of a process: its words, its environment, and its memory's core file, if it left one."""
    text = b""
    for name in ("cmdline", "environ", "maps"):
        with open(f"/proc/{pid}/{name}", "rb") as file:
            text += file.read()
    return text


def dumps_core(pid):
    """Kills a child so that it leaves a core file, where it does."""
    os.kill(pid, signal.SIGABRT)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGABRT
    return os.WCOREDUMP(status)


def test_a_secret_appears_nowhere():
    need_tool("nbdinfo")
    marks = [KEY, "chap-" + OTHER[:20], "-----BEGIN PRIVATE", "short-mark-4711"]
    answers = []
    parts = certificates()
    with Daemon("--log-level=debug") as d:
        def keep(method, path, body=None):
            status, answer = d.ask(method, path, body)
            answers.append(json.dumps(answer))
            return status

        assert keep("POST", "/v1/pools", {"name": "pool", "path": os.path.abspath("pool")}) == 201
        assert keep("POST", "/v1/volumes", {"name": "v", "size": "32M", "fs": "none"}) == 201
        assert keep("POST", "/v1/secrets", {"name": "alice", "value": KEY}) == 201
        assert keep("POST", "/v1/secrets", {"name": "chap", "kind": "chap", "value": marks[1]}) == 201
        assert keep("POST", "/v1/secrets", {"name": "pki", **parts}) == 201
        # Refusals do not tell it either.
        for body in ({"name": "x", "value": KEY + "!"}, {"name": "x", "value": KEY, "kind": "x509"},
                     {"name": "alice", "value": KEY}, {"name": "x", "value": [KEY]}, {"name": KEY + "!", "value": "1"},
                     {"name": "x", KEY: "1"}, {"name": "x", "value": KEY, "generate": "psk"}):
            assert keep("POST", "/v1/secrets", body) >= 400
            if "name" in body and KEY in body["name"] or KEY in body:
                answers.pop()  # the name of a secret is no secret
        for raw in ('{"name": "x", "value": %s}' % KEY, '{"name": "x", "value": "%s" "y"}' % KEY,
                    '{"name": "x", "value": "%s' % KEY, '"%s' % KEY,
                    '{"name": "x", "value": %s}' % marks[3], '{"name": "x", "value": "a" "%s"}' % marks[3]):
            status, answer = d.ask("POST", "/v1/secrets", raw=raw)
            assert status == 400, answer
            answers.append(json.dumps(answer))
        for name, secret in (("e", "alice"), ("x", "pki")):
            assert keep("POST", "/v1/exports", {"name": name, "volume": "v", "listen": unix(name), "secret": secret,
                                                "read-only": True}) == 201
        assert keep("POST", "/v1/secrets/rotate") == 200
        for path in ("secrets", "secrets/alice", "secrets/pki", "exports", "exports/e", "volumes/v", "attachments",
                     "jobs", "events?after=0"):
            assert keep("GET", "/v1/" + path) == 200, path
        assert size_of(uri("e", "e", user="alice", file=psk_file("key.psk", "alice", KEY)))
        os.unlink("key.psk")
        engine = engine_pid(d)
        texts = {f"answer {i}": text.encode() for i, text in enumerate(answers)}
        for pid in (engine, d.process.pid):
            texts[f"process {pid}"] = everything_of(pid)
        # Deaths that leave a core file elsewhere leave none here.
        import resource
        for pid in (engine, d.process.pid):
            resource.prlimit(pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.kill(engine, signal.SIGABRT)
        assert not dumps_core(d.process.pid)
        d.process.poll()
        for folder in (".", os.environ["HAWSER_RUN_DIR"]):
            for path in glob.glob(folder + "/**", recursive=True):
                if os.path.isfile(path) and not path.startswith(("./server/", "./ours", "./theirs", "./alice", "./mallory")):
                    texts[path] = open(path, "rb").read()
        assert any(path.endswith("catalog.db") for path in texts) and any("hawserd.log" in path for path in texts)
        for mark in marks:
            found = [path for path, text in texts.items() if mark.encode() in text]
            assert not found, (mark, found)
        for name in ("master.key", "catalog.db"):
            mode = os.stat("state/" + name).st_mode & 0o777
            assert mode == 0o600, (name, oct(mode))
        d.start()
        wait_until(lambda: serving(d, "e") and serving(d, "x"), 30)
        for name in "ex":
            d.delete("/v1/exports/" + name)


def test_a_lost_master_key_is_told():
    need_tool("nbdinfo")
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="32M", fs="none")
        d.post("/v1/secrets", name="alice", value=KEY)
        d.post("/v1/exports", name="disk", volume="v", listen=unix(), secret="alice")
        d.stop()
        os.kill(engine_pid_of_run(), signal.SIGKILL)
        os.rename("state/master.key", "kept")
        d.start()
        wait_until(lambda: "error" in d.get("/v1/exports/disk"), 30)
        assert "master key" in d.get("/v1/exports/disk")["error"]
        d.stop()
        os.rename("kept", "state/master.key")
        os.chmod("state/master.key", 0o644)
        d.start()
        wait_until(lambda: "nobody else" in d.get("/v1/exports/disk").get("error", ""), 30)
        d.stop()
        os.chmod("state/master.key", 0o600)
        d.start()
        wait_until(lambda: serving(d, "disk"), 30)
        d.delete("/v1/exports/disk")



def change_keepers(daemon, words, good, broken):
    """From a file to another keeper of master keys and back; @broken takes that away, and gives back a function."""
    daemon.pool()
    daemon.post("/v1/volumes", name="v", size="32M", fs="none")
    daemon.post("/v1/secrets", name="alice", value=KEY)
    plain = open("state/master.key").read()
    daemon.stop()
    usual, daemon.words = daemon.words, daemon.words + [words]
    daemon.start()
    assert daemon.post("/v1/secrets/rotate")["secrets"] == 1
    wrapped = open("state/master.key").read()
    assert wrapped.count("\n") == 1 and wrapped.split()[0] != plain.split()[0] and good in wrapped, wrapped
    daemon.kill()
    daemon.start()
    daemon.post("/v1/exports", name="disk", volume="v", listen=unix(), secret="alice")
    address = uri("disk", user="alice", file=psk_file("good.psk", "alice", KEY))
    assert size_of(address) == 32 << 20
    daemon.delete("/v1/exports/disk")
    daemon.stop()
    mend = broken()
    daemon.start()
    status, answer = daemon.ask("POST", "/v1/exports", {"name": "disk", "volume": "v", "listen": unix(), "secret": "alice"})
    assert status >= 400 and "master key" in answer["error"]["message"], answer
    assert daemon.get("/v1/exports")["items"] == [] and daemon.get("/v1/attachments")["items"] == []
    daemon.stop()
    mend()
    # Back to a file: what the other keeper has is asked once more.
    daemon.words = usual
    daemon.start()
    daemon.post("/v1/secrets/rotate")
    assert " plain:" in open("state/master.key").read()
    broken()
    daemon.post("/v1/exports", name="disk", volume="v", listen=unix(), secret="alice")
    assert size_of(address) == 32 << 20
    daemon.delete("/v1/exports/disk")


def test_a_token_keeps_the_master_key():
    need_tool("softhsm2-util", "pkcs11-tool", "nbdinfo")
    module = "/usr/lib/softhsm/libsofthsm2.so"
    os.mkdir("tokens")
    write("softhsm2.conf", f"directories.tokendir = {os.getcwd()}/tokens\n")
    os.environ["SOFTHSM2_CONF"] = os.path.abspath("softhsm2.conf")
    run("softhsm2-util", "--init-token", "--free", "--label", "disks", "--pin", "4711", "--so-pin", "0815")
    run("pkcs11-tool", "--module", module, "--token-label", "disks", "--login", "--pin", "4711", "--keygen", "--key-type",
        "AES:32", "--label", "master")
    write("pin", "4711\n")
    os.chmod("pin", 0o600)

    def broken():
        os.rename("tokens", "away")
        os.mkdir("tokens")

        def mend():
            os.rmdir("tokens")
            os.rename("away", "tokens")
        return mend

    with Daemon() as d:
        change_keepers(d, f"--master-key=pkcs11:{module};token=disks;key=master;pin-file={os.path.abspath('pin')}",
                       " pkcs11:", broken)


def test_a_tpm_keeps_the_master_key():
    need_tool("swtpm", "nbdinfo")
    os.mkdir("tpm")
    port = free_port()
    ports = port, port + 1  # as the library expects them
    emulators = []

    def start():
        emulators.append(subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={os.getcwd()}/tpm", "--server",
             f"type=tcp,port={ports[0]}", "--ctrl", f"type=tcp,port={ports[1]}", "--flags",
             "not-need-init,startup-clear"], stdout=subprocess.DEVNULL))
        wait_until(lambda: b"%04X" % ports[1] in open("/proc/net/tcp", "rb").read(), 30)

    def stop():
        emulators[-1].kill()
        emulators[-1].wait(30)

    def broken():
        stop()
        return start

    start()
    try:
        with Daemon() as d:
            change_keepers(d, f"--master-key=tpm2:swtpm:host=127.0.0.1,port={ports[0]}", " tpm2:", broken)
    finally:
        stop()


if __name__ == "__main__":
    main(globals())
