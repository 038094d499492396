"""TLS of the NBD server: foreign clients by certificate and by pre-shared key, and those who must not get in."""
import json
import os
import signal
import socket
import subprocess
import time

from lib import HAWSER, Rpc, main, need_tool, run, wait_until


def authority(folder, name="Our disks"):
    os.makedirs(folder, exist_ok=True)
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", f"/CN={name}",
        "-keyout", f"{folder}/ca-key.pem", "-out", f"{folder}/ca-cert.pem")


def certificate(folder, who, name=None, usage=None):
    """@who is "server" or "client": FOLDER/@who-cert.pem and its key, by the authority there."""
    with open(f"{folder}/{who}.ext", "w") as file:
        file.write(f"subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage={usage or who + 'Auth'}\n")
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name or who}", "-keyout", f"{folder}/{who}-key.pem",
        "-out", f"{folder}/{who}.csr")
    run("openssl", "x509", "-req", "-in", f"{folder}/{who}.csr", "-CA", f"{folder}/ca-cert.pem", "-CAkey", f"{folder}/ca-key.pem",
        "-CAcreateserial", "-days", "30", "-extfile", f"{folder}/{who}.ext", "-out", f"{folder}/{who}-cert.pem")


def pki(folder="pki"):
    need_tool("openssl")
    folder = os.path.abspath(folder)
    authority(folder)
    certificate(folder, "server")
    certificate(folder, "client", "alice")
    return folder


def keys(folder="psk", *names):
    need_tool("psktool")
    os.makedirs(folder, exist_ok=True)
    for name in names or ("alice",):
        run("psktool", "-u", name, "-p", f"{folder}/keys.psk")
    return os.path.abspath(folder)


class Engine:
    def __init__(self, credentials, *words, size="64M"):
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


def copy_both_ways(uris):
    need_tool("nbdcopy", "nbdinfo")
    with open("in.raw", "wb") as file:
        file.write(os.urandom(5 << 20) + bytes(3 << 20) + os.urandom(56 << 20))
    for uri in uris:
        told = json.loads(run("nbdinfo", "--json", uri))
        assert told["TLS"] is True and told["exports"][0]["export-size"] == 64 << 20, told
        run("nbdcopy", "in.raw", uri)
        run("nbdcopy", uri, "out.raw")
        assert open("in.raw", "rb").read() == open("out.raw", "rb").read()
        listed = json.loads(run("nbdinfo", "--list", "--json", uri))["exports"]
        assert [e["export-name"] for e in listed] == ["disk"], listed


def test_certificates_let_foreign_clients_in():
    folder = pki()
    with Engine(folder) as engine:
        copy_both_ways(x509_uris(engine, folder))
        told = json.loads(run(
            "qemu-img", "info", "--output=json", "--object", f"tls-creds-x509,id=t,dir={folder},endpoint=client", "--image-opts",
            f"driver=nbd,host=localhost,port={engine.port},export=disk,tls-creds=t"))
        assert told["virtual-size"] == 64 << 20
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
            assert told["virtual-size"] == 64 << 20
        assert engine.call("status")["result"]["nbd"]["tls"] == {"mode": "psk", "required": True, "keys": 1}
        assert "key of 'alice'" in engine.log(), engine.log()


main(globals())
