"""TLS of the NBD server: foreign clients by certificate and by pre-shared key, and those who must not get in."""
import json
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
import warnings

from lib import HAWSER, Rpc, hawser, main, need_tool, run, wait_until

OPTION = b"IHAVEOPT"
EC, RSA = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], ["-newkey", "rsa:2048"]
ACK, INVALID, TLS_REQD = 1, 0x80000003, 0x80000005
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = 1, 2, 3, 5, 6, 7, 8, 9, 10, 11
CONTEXT = struct.pack(">I4sII15s", 4, b"disk", 1, 15, b"base:allocation")
GO_DISK = struct.pack(">I4sH", 4, b"disk", 0)


# ---- credentials ----

def authority(folder, name="Our disks", kind=EC):
    os.makedirs(folder, exist_ok=True)
    run("openssl", "req", "-x509", *kind, "-nodes", "-days", "30", "-subj", f"/CN={name}", "-keyout", f"{folder}/ca-key.pem",
        "-out", f"{folder}/ca-cert.pem")


def certificate(folder, who, name=None, usage=None, kind=EC, days=30):
    """@who is "server" or "client": FOLDER/@who-cert.pem and its key, by the authority there."""
    with open(f"{folder}/{who}.ext", "w") as file:
        file.write(f"subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage={usage or who + 'Auth'}\n")
    run("openssl", "req", *kind, "-nodes", "-subj", f"/CN={name or who}", "-keyout", f"{folder}/{who}-key.pem", "-out",
        f"{folder}/{who}.csr")
    run("openssl", "x509", "-req", "-in", f"{folder}/{who}.csr", "-CA", f"{folder}/ca-cert.pem", "-CAkey",
        f"{folder}/ca-key.pem", "-CAcreateserial", "-days", days, "-extfile", f"{folder}/{who}.ext", "-out",
        f"{folder}/{who}-cert.pem")


def pki(folder="pki", kind=EC):
    need_tool("openssl")
    folder = os.path.abspath(folder)
    authority(folder, kind=kind)
    certificate(folder, "server", kind=kind)
    certificate(folder, "client", "alice", kind=kind)
    return folder


def revoke(folder, name):
    """Makes FOLDER/ca-crl.pem with FOLDER/@name in it, or without any."""
    open(f"{folder}/index", "w").close()
    with open(f"{folder}/crl.conf", "w") as file:
        file.write(f"[ca]\ndefault_ca=d\n[d]\ndatabase={folder}/index\ndefault_md=sha256\ndefault_crl_days=30\n")
    words = ["openssl", "ca", "-config", f"{folder}/crl.conf", "-cert", f"{folder}/ca-cert.pem", "-keyfile", f"{folder}/ca-key.pem"]
    if name:
        run(*words, "-revoke", f"{folder}/{name}")
    run(*words, "-gencrl", "-out", f"{folder}/ca-crl.pem")


def keys(folder="psk", *names):
    need_tool("psktool")
    os.makedirs(folder, exist_ok=True)
    for name in names or ("alice",):
        run("psktool", "-u", name, "-p", f"{folder}/keys.psk")
    return os.path.abspath(folder)


class Engine:
    def __init__(self, credentials, *words, size="24M"):
        self.image = os.path.abspath("disk.qcow2")
        if not os.path.exists(self.image):
            run("qemu-img", "create", "-q", "-f", "qcow2", self.image, size)
        self.socket, self.control = os.path.abspath("nbd.sock"), os.path.abspath("control.sock")
        self.port = free_port()
        self.process = subprocess.Popen(
            [HAWSER, "serve", f"--nbd=unix:{self.socket}", f"--nbd=tcp:127.0.0.1:{self.port}", f"--socket={self.control}",
             "--name=disk", *([f"--nbd-tls={credentials}"] if credentials else []), *words, self.image],
            stderr=open("log", "w"))
        wait_until(lambda: os.path.exists(self.control) or self.process.poll() is not None)
        assert self.process.poll() is None, self.log()

    def __enter__(self):
        return self

    def log(self):
        with open("log") as file:
            return file.read()

    def call(self, method, **params):
        rpc = Rpc(self.control)
        answer = rpc.ask(method, **params)
        rpc.close()
        return answer

    def connections(self):
        return self.call("status")["result"]["nbd"]["exports"][0]["connections"]

    def connect(self):
        s = socket.socket(socket.AF_UNIX)
        s.connect(self.socket)
        s.settimeout(60)
        return s

    def __exit__(self, *_):
        for _ in range(2):
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
                break
            except subprocess.TimeoutExpired:
                pass
        assert self.process.returncode == 0, self.log()
        assert "Sanitizer" not in self.log(), self.log()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def x509_uris(engine, folder):
    return [f"nbds+unix://localhost/disk?socket={engine.socket}&tls-certificates={folder}",
            f"nbds://localhost:{engine.port}/disk?tls-certificates={folder}"]


def psk_uris(engine, folder, name="alice"):
    return [f"nbds+unix://{name}@localhost/disk?socket={engine.socket}&tls-psk-file={folder}/keys.psk",
            f"nbds://{name}@localhost:{engine.port}/disk?tls-psk-file={folder}/keys.psk"]


# ---- a client of our own ----

def exact(s, count):
    got = b""
    while len(got) < count:
        part = s.recv(count - len(got))
        assert part, f"hung up after {len(got)} of {count} bytes"
        got += part
    return got


def greet(engine, flags=3):
    s = engine.connect()
    assert exact(s, 18) == b"NBDMAGIC" + OPTION + b"\0\3"
    s.sendall(struct.pack(">I", flags))
    return s


def option(code, data=b""):
    return OPTION + struct.pack(">II", code, len(data)) + data


def reply(s, code):
    magic, about, kind, length = struct.unpack(">QIII", exact(s, 20))
    assert (magic, about) == (0x3e889045565a9, code), (hex(magic), about)
    return kind, exact(s, length)


def ask(s, code, data=b""):
    """The last of the replies, and all before it."""
    s.sendall(option(code, data))
    replies = [reply(s, code)]
    while replies[-1][0] != ACK and replies[-1][0] < 0x80000000:
        replies.append(reply(s, code))
    return replies[-1][0], replies


def hung_up(s):
    try:
        return s.recv(1) == b""
    except (ConnectionResetError, ssl.SSLError):
        return True


def context_of(folder, who="client", **limits):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(f"{folder}/ca-cert.pem")
    if who:
        context.load_cert_chain(f"{folder}/{who}-cert.pem", f"{folder}/{who}-key.pem")
    for name, value in limits.items():
        setattr(context, name, value)
    return context


def encrypted(engine, context):
    s = greet(engine)
    assert ask(s, STARTTLS)[0] == ACK
    return context.wrap_socket(s, server_hostname="localhost", suppress_ragged_eofs=False)


def go(s):
    kind, replies = ask(s, GO, GO_DISK)
    assert kind == ACK, hex(kind)
    return replies


def refused(engine, context, why):
    """Fails to come in; the log tells why."""
    try:
        with encrypted(engine, context) as s:
            assert ask(s, LIST)[0] != ACK, "came in"
            raise AssertionError("was answered")
    except (OSError, AssertionError) as error:
        assert not str(error).startswith(("came in", "was answered")), error
    deadline = time.monotonic() + 10
    while why not in engine.log():
        assert time.monotonic() < deadline, engine.log()
        time.sleep(0.02)


def copy_both_ways(uris):
    need_tool("nbdcopy", "nbdinfo")
    with open("in.raw", "wb") as file:
        file.write(os.urandom(5 << 20) + bytes(3 << 20) + os.urandom(16 << 20))
    for uri in uris:
        told = json.loads(run("nbdinfo", "--json", uri))
        assert told["TLS"] is True and told["exports"][0]["export-size"] == 24 << 20, told
        run("nbdcopy", "in.raw", uri)
        run("nbdcopy", uri, "out.raw")
        assert open("in.raw", "rb").read() == open("out.raw", "rb").read()
        listed = json.loads(run("nbdinfo", "--list", "--json", uri))["exports"]
        assert [e["export-name"] for e in listed] == ["disk"], listed


def test_certificates_let_foreign_clients_in():
    for kind in (EC, RSA):
        folder = pki(f"pki-{kind[1][:2]}", kind)
        with Engine(folder) as engine:
            copy_both_ways(x509_uris(engine, folder))
            told = json.loads(run(
                "qemu-img", "info", "--output=json", "--object", f"tls-creds-x509,id=t,dir={folder},endpoint=client",
                "--image-opts", f"driver=nbd,host=localhost,port={engine.port},export=disk,tls-creds=t"))
            assert told["virtual-size"] == 24 << 20
            tls = engine.call("status")["result"]["nbd"]["tls"]
            assert tls["mode"] == "x509" and tls["required"] and tls["verify-peer"] and tls["subject"] == "CN=server", tls
            assert "certificate 'CN=alice'" in engine.log(), engine.log()


def test_keys_let_foreign_clients_in():
    folder = keys()
    with Engine(folder) as engine:
        copy_both_ways(psk_uris(engine, folder))
        for priority in ("NORMAL", "NORMAL:-VERS-TLS1.3", "NORMAL:-VERS-TLS1.3:-KX-ALL:+DHE-PSK"):
            told = json.loads(run(
                "qemu-img", "info", "--output=json", "--object",
                f"tls-creds-psk,id=t,dir={folder},endpoint=client,username=alice,priority={priority}", "--image-opts",
                f"driver=nbd,host=localhost,port={engine.port},export=disk,tls-creds=t"))
            assert told["virtual-size"] == 24 << 20
        assert engine.call("status")["result"]["nbd"]["tls"] == {"mode": "psk", "required": True, "keys": 1}
        assert "key of 'alice'" in engine.log(), engine.log()


def test_many_requests_at_once_keep_their_bytes():
    need_tool("fio", "nbdkit")
    folder = pki()
    with Engine(folder) as engine:
        # fio does not open certificates: nbdkit does, as a client of ours.
        jobs = [subprocess.Popen(
            ["nbdkit", "-U", "-", "nbd", f"socket={engine.socket}", "export=disk", "tls=require", f"tls-certificates={folder}", "--run",
             f"fio --name=j{i} --ioengine=nbd --uri=$uri --rw=randwrite --bsrange=512-300k --bs_unaligned --iodepth=32 "
             f"--offset={i * 8}M --size=8M --verify=crc32c --do_verify=1 --randrepeat=0 --output=/dev/null"])
            for i in range(2)]
        for job in jobs:
            assert job.wait(120) == 0
    run("qemu-img", "check", "-q", "disk.qcow2")


def test_nothing_is_told_before_tls():
    with Engine(pki()) as engine:
        asked = [(LIST, b""), (INFO, GO_DISK), (GO, GO_DISK), (STRUCTURED, b""), (LIST_META, CONTEXT), (SET_META, CONTEXT),
                 (EXTENDED, b""), (99, b""), (GO, b"wrong"), (INFO, GO_DISK.replace(b"disk", b"diss")), (LIST, b"x" * 60000)]
        with greet(engine) as s:
            answers = {ask(s, *each)[1][0] for each in asked}
            assert len(answers) == 1, answers
            kind, text = answers.pop()
            assert kind == TLS_REQD and b"disk" not in text, (hex(kind), text)
            assert ask(s, ABORT)[0] == ACK and hung_up(s)
        for flags, sent in ((3, option(EXPORT_NAME, b"disk")), (3, option(EXPORT_NAME)), (0, option(EXPORT_NAME, b"disk")),
                            (0, option(LIST)), (0, option(STARTTLS))):
            with greet(engine, flags) as s:
                s.sendall(sent)
                assert hung_up(s), (flags, sent)
        assert engine.connections() == 0


def test_bytes_in_the_clear_behind_starttls_are_refused():
    folder = pki()
    with Engine(folder) as engine:
        for at_once in (option(LIST), b"\x16", option(GO, GO_DISK)):
            with greet(engine) as s:
                s.sendall(option(STARTTLS) + at_once)
                assert hung_up(s), at_once
        for later in (option(LIST), option(GO, GO_DISK) * 100, b"\0" * 5, os.urandom(70000), b"\x16\x03\x01\x40\x00" + b"x" * 20000,
                      b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\x00"):
            with greet(engine) as s:
                assert ask(s, STARTTLS)[0] == ACK
                try:
                    s.sendall(later)
                    if later[:3] == b"\x16\x03\x01" and later[3:5] == b"\x40\x00":
                        s.shutdown(socket.SHUT_WR)
                    while True:  # an alert, and the end
                        got = s.recv(4096)
                        assert b"disk" not in got and OPTION not in got
                        if not got:
                            break
                except (ConnectionResetError, BrokenPipeError):
                    pass
        wait_until(lambda: "Message too long" in engine.log())
        with encrypted(engine, context_of(folder)) as s:
            go(s)


def test_starttls_once_and_without_data():
    folder = pki()
    with Engine(folder) as engine:
        with greet(engine) as s:
            assert ask(s, STARTTLS, b"data")[0] == INVALID
            assert ask(s, STARTTLS)[0] == ACK
            with context_of(folder).wrap_socket(s, server_hostname="localhost", suppress_ragged_eofs=False) as secret:
                assert ask(secret, STARTTLS)[0] == INVALID
                assert ask(secret, LIST)[1][0] == (2, struct.pack(">I", 4) + b"disk")
                assert ask(secret, ABORT)[0] == ACK
                assert secret.recv(1) == b"", "no close_notify"
    shutil.rmtree("pki")
    with Engine(None) as engine, greet(engine) as s:
        assert ask(s, STARTTLS)[0] == 0x80000001
        assert ask(s, GO, GO_DISK)[0] == ACK


def test_what_was_agreed_on_in_the_clear_is_forgotten():
    folder = pki()
    with Engine(folder, "--nbd-tls-optional") as engine:
        with greet(engine) as s:
            assert ask(s, LIST)[0] == ACK
            assert ask(s, STRUCTURED)[0] == ACK and ask(s, SET_META, CONTEXT)[0] == ACK
            assert ask(s, STARTTLS)[0] == ACK
            with context_of(folder).wrap_socket(s, server_hostname="localhost") as secret:
                assert ask(secret, SET_META, CONTEXT)[0] == INVALID, "structured replies are still agreed on"
                flags = struct.unpack(">HQH", [data for kind, data in go(secret) if data[:2] == b"\0\0"][0])[2]
                assert not flags & 1 << 7
                secret.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 7, 5, 0, 512) + struct.pack(">IHHQQI", 0x25609513, 0, 0, 6, 0, 3))
                assert exact(secret, 16) == struct.pack(">IIQ", 0x67446698, 22, 5)
                assert exact(secret, 16 + 3)[:16] == struct.pack(">IIQ", 0x67446698, 0, 6)
        with greet(engine) as s:
            assert ask(s, EXTENDED)[0] == ACK and ask(s, STARTTLS)[0] == ACK
            with context_of(folder).wrap_socket(s, server_hostname="localhost") as secret:
                secret.sendall(option(EXPORT_NAME, b"disk"))
                assert struct.unpack(">Q", exact(secret, 10)[:8])[0] == 24 << 20
        run("nbdinfo", f"nbd+unix:///disk?socket={engine.socket}")
        assert engine.call("status")["result"]["nbd"]["tls"]["required"] is False


def test_who_must_not_come_in():
    folder, other = pki(), pki("other")
    certificate(folder, "server2", "mallory", usage="serverAuth")
    certificate(folder, "revoked", "bob", usage="clientAuth")
    certificate(folder, "expired", "carol", usage="clientAuth", days=-1)
    revoke(folder, "revoked-cert.pem")
    with Engine(folder) as engine:
        foreign = context_of(folder, None)
        foreign.load_cert_chain(f"{other}/client-cert.pem", f"{other}/client-key.pem")
        refused(engine, foreign, "unable to get local issuer certificate")
        refused(engine, context_of(folder, None), "peer did not return a certificate")
        refused(engine, context_of(folder, "server2"), "unsuitable certificate purpose")
        refused(engine, context_of(folder, "revoked"), "certificate revoked")
        refused(engine, context_of(folder, "expired"), "certificate has expired")
        warnings.simplefilter("ignore", DeprecationWarning)
        old = context_of(folder, maximum_version=ssl.TLSVersion.TLSv1_1, minimum_version=ssl.TLSVersion.TLSv1)
        old.set_ciphers("ALL:@SECLEVEL=0")
        refused(engine, old, "unsupported protocol")
        weak = context_of(folder, maximum_version=ssl.TLSVersion.TLSv1_2)
        weak.set_ciphers("ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
        refused(engine, weak, "no shared cipher")
        assert engine.connections() == 0
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with encrypted(engine, context_of(folder, maximum_version=version, minimum_version=version)) as s:
                assert s.version() == version.name.replace("_", ".")
                go(s)
    with Engine(folder, "--nbd-tls-any-client") as engine, encrypted(engine, context_of(folder, None)) as s:
        go(s)
        assert "no certificate" in engine.log()


def test_keys_that_do_not_fit():
    folder = keys()
    keys("wrong", "alice", "mallory")
    with Engine(folder) as engine:
        for name in ("alice", "mallory"):
            got = subprocess.run(["nbdinfo", psk_uris(engine, os.path.abspath("wrong"), name)[0]], capture_output=True, text=True)
            assert got.returncode == 1 and "fatal alert" in got.stderr, got.stderr
        wait_until(lambda: "unknown key name 'mallory'" in engine.log() and "binder does not verify (key of 'alice')" in engine.log())
        # Without a key.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        refused(engine, context, "no suitable signature algorithm")
        run("nbdinfo", psk_uris(engine, folder)[0])
        # The same name in hexadecimal.
        with open(f"{folder}/keys.psk") as file:
            lines = file.read().replace("alice:", "#" + b"alice".hex() + ":") + "\nbob:" + "00" * 64
        os.makedirs("hexadecimal")
        with open("hexadecimal/keys.psk", "w", opener=lambda path, flags: os.open(path, flags, 0o640)) as file:
            file.write(lines)
    with Engine(os.path.abspath("hexadecimal")) as engine:
        run("nbdinfo", psk_uris(engine, folder)[0])
        assert engine.call("status")["result"]["nbd"]["tls"]["keys"] == 2


class Flow:
    """A client whose bytes are counted: it goes away after @limit of them, sent @step at a time."""

    def __init__(self, engine, context, limit, step=1 << 20):
        self.socket, self.left, self.step = greet(engine), limit, step
        assert ask(self.socket, STARTTLS)[0] == ACK
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def pump(self, call, *words):
        while True:
            try:
                result, done = call(*words), True
            except ssl.SSLWantReadError:
                result, done = None, False
            bytes_ = self.outgoing.read()[:self.left]
            self.left -= len(bytes_)
            for at in range(0, len(bytes_), self.step):
                self.socket.sendall(bytes_[at:at + self.step])
            if self.left == 0:
                raise EOFError
            if done:
                return result
            got = self.socket.recv(65536)
            if not got:
                raise ConnectionResetError
            self.incoming.write(got)

    def run(self, stream):
        """@return True where the limit was not reached."""
        try:
            self.pump(self.tls.do_handshake)
            self.pump(self.tls.write, stream)
            while self.pump(self.tls.read, 65536):
                pass
            return True
        except EOFError:
            return False
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return True
        finally:
            self.socket.close()


def test_a_client_may_vanish_at_any_byte():
    folder = pki()
    stream = (option(STRUCTURED) + option(SET_META, CONTEXT) + option(GO, GO_DISK) + struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 64) +
              b"x" * 64 + struct.pack(">IHHQQI", 0x25609513, 0, 0, 2, 0, 65536) + struct.pack(">IHHQQI", 0x25609513, 0, 2, 3, 0, 0))
    with Engine(folder, "--nbd-tls-any-client") as engine:
        context, whole = context_of(folder, None), False
        cut = 1
        while not whole:
            whole = Flow(engine, context, cut).run(stream)
            cut += 1
            assert cut < 4000
        assert cut > 600, cut  # it is as long as a handshake at least
        wait_until(lambda: engine.connections() == 0)
    with Engine(folder) as engine:  # with its certificate, and in small parts
        context, whole, cut = context_of(folder), False, 1
        while not whole:
            whole = Flow(engine, context, cut, step=50).run(stream)
            cut += 61
        wait_until(lambda: engine.connections() == 0)
        copy_both_ways(x509_uris(engine, folder)[:1])


def test_the_slow_the_silent_and_the_many():
    """Those that do not come to an end in 15 s are hung up on, and nobody waits for them."""
    folder = pki()
    with Engine(folder) as engine:
        started, ended = time.monotonic(), []

        def slow(step, pause):
            s = greet(engine)
            assert ask(s, STARTTLS)[0] == ACK
            hello = ssl.MemoryBIO()
            tls = context_of(folder).wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            bytes_ = hello.read() if step else b""
            try:
                for at in range(0, len(bytes_), max(step, 1)):
                    s.sendall(bytes_[at:at + step])
                    time.sleep(pause)
                while s.recv(4096):
                    pass
            except OSError:
                pass
            ended.append(time.monotonic() - started)
            s.close()

        threads = [threading.Thread(target=slow, args=args) for args in [(1, 1), (0, 0), (10, 0.9), (1000, 0)]]
        for thread in threads:
            thread.start()
        # Meanwhile: hundreds of handshakes, of which many never end, and clients that are served.
        half = [greet(engine) for _ in range(200)]
        for s in half:
            s.sendall(option(STARTTLS))
        several = [encrypted(engine, context_of(folder)) for _ in range(100)]
        for s in several:
            go(s)
        for s in several:
            s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 6, 0, 4096))
        for s in several:
            assert exact(s, 16 + 4096)[:16] == struct.pack(">IIQ", 0x67446698, 0, 6)
        served = time.monotonic() - started
        assert served < 12, served
        assert engine.connections() == 100
        with open(f"/proc/{engine.process.pid}/smaps_rollup") as file:
            mib = sum(int(line.split()[1]) for line in file if line.startswith("Private")) / 1024
        for s in several + half:
            s.close()
        for thread in threads:
            thread.join(60)
        assert all(14 < each < 25 for each in ended), ended
        print(f"  {mib:.1f} MiB with 300 clients")
        assert mib < 40 or sanitized(), mib
        wait_until(lambda: engine.connections() == 0)


def sanitized():
    with open(HAWSER, "rb") as file:
        program = file.read()
    return b"__asan_init" in program or b"__tsan_init" in program


def test_what_is_wrong_with_the_files_is_told():
    good, other = pki(), pki("other")
    run("qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", "1M")

    def fails(change, *why, options=(), folder=None):
        shutil.rmtree("bad", ignore_errors=True)
        shutil.copytree(folder or good, "bad")
        change("bad")
        failed = hawser("serve", "--nbd=unix:nbd.sock", "--nbd-tls=bad", *options, "disk.qcow2", code=1)
        for text in why:
            assert text in failed.err, failed.err

    def write(name, text):
        def change(folder):
            with open(f"{folder}/{name}", "w") as file:
                file.write(text)
            os.chmod(f"{folder}/{name}", 0o600)
        return change

    def remove(*names):
        return lambda folder: [os.unlink(f"{folder}/{name}") for name in names]

    fails(remove("server-cert.pem"), "has neither server-cert.pem", "nor keys.psk")
    fails(remove("server-key.pem"), "cannot read", "server-key.pem: No such file")
    fails(remove("ca-cert.pem"), "ca-cert.pem is missing", "verify-peer")
    fails(lambda f: shutil.copy(f"{other}/server-key.pem", f), "server-key.pem is not the one of the first certificate in")
    fails(lambda f: os.chmod(f"{f}/server-key.pem", 0o644), "everybody on this host can read", "server-key.pem", "chmod o-rwx")
    fails(write("server-key.pem", ""), "server-key.pem holds no private key in PEM")
    fails(write("server-key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "damaged, or has a password")
    fails(lambda f: run("openssl", "pkey", "-in", f"{good}/server-key.pem", "-aes256", "-passout", "pass:x", "-out", f"{f}/server-key.pem"),
          "server-key.pem cannot be read", "has a password")
    fails(write("server-cert.pem", "nothing"), "server-cert.pem holds no certificate in PEM")
    fails(write("ca-cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "ca-cert.pem")
    fails(write("ca-crl.pem", "nothing"), "ca-crl.pem holds no revocation list")
    fails(write("server-cert.pem", "x" * (1 << 20) + "x"), "no ordinary file of up to 1 MiB")
    fails(lambda f: (os.unlink(f"{f}/ca-cert.pem"), os.mkdir(f"{f}/ca-cert.pem")), "no ordinary file")
    fails(write("keys.psk", "a:" + "00" * 16), "has both", options=["--nbd-tls-any-client"])
    psk = keys()
    for text, why in (("", "holds no key"), ("alice", "line 1: a line is NAME:KEY"), ("alice:0011", "32 to 128 digits"), ("\nalice:" + "0g" * 16, "line 2"),
                      (":" + "00" * 16, "1 to 128 bytes"), ("#zz:" + "00" * 16, "no comments"), ("a:" + "00" * 65, "32 to 128"),
                      ("a" * 129 + ":" + "00" * 16, "1 to 128"), (("a:" + "00" * 16 + "\n") * 2, "line 2: a second key")):
        fails(write("keys.psk", text), "keys.psk", why, folder=psk)
    fails(lambda f: os.chmod(f"{f}/keys.psk", 0o604), "everybody on this host can read", folder=psk)
    fails(lambda f: None, "verify-peer", folder=psk, options=["--nbd-tls-any-client"])
    for words, why in ((["--nbd-tls-optional", "--nbd=unix:x"], "--nbd-tls=FOLDER"), (["--nbd-tls=pki"], "--nbd-tls goes with --nbd"),
                       (["--nbd=unix:x", "--nbd-tls=nowhere"], "nowhere has neither")):
        assert why in hawser("serve", *words, "disk.qcow2", code=1 if "nowhere" in why else 2).err, why
    assert not os.path.exists("nbd.sock")


def test_files_are_read_again_on_demand():
    folder, other = pki(), pki("other")
    with Engine(folder) as engine:
        with encrypted(engine, context_of(folder)) as before:
            go(before)
            os.unlink(f"{folder}/server-key.pem")
            failed = engine.call("nbd-tls-reload")["error"]
            assert "server-key.pem" in failed["message"], failed
            with encrypted(engine, context_of(folder)) as s:
                go(s)
            for name in os.listdir(other):
                shutil.copy(f"{other}/{name}", folder)
            assert engine.call("nbd-tls-reload")["result"]["tls"]["subject"] == "CN=server"
            with encrypted(engine, context_of(other)) as s:
                go(s)
            before.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 6, 0, 100))
            assert exact(before, 116)[:16] == struct.pack(">IIQ", 0x67446698, 0, 6)
    with Engine(None) as engine:
        assert "no NBD server with TLS" in engine.call("nbd-tls-reload")["error"]["message"]


def test_a_certificate_past_its_date_is_warned_of():
    folder = pki()
    certificate(folder, "server", days=-1)
    with Engine(folder) as engine:
        assert "server-cert.pem: expired at" in engine.log(), engine.log()


main(globals())
