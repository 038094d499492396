"""The REST API over TCP: mutual TLS with certificates made here, roles by certificate and by user, certificates that do
not hold, and sockets from a service manager."""
import http.client
import json
import os
import resource
import socket
import ssl
import subprocess
import sys

from daemon import FOLDER, MIB, Daemon, need_own_memory, resident
from lib import HAWSER, Skip, main, need_tool, run

EXTENSIONS = """\
[ca]
basicConstraints=critical,CA:true
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
[server]
basicConstraints=CA:false
extendedKeyUsage=serverAuth
subjectAltName=DNS:localhost,IP:127.0.0.1
[client]
basicConstraints=CA:false
extendedKeyUsage=clientAuth
[other]
basicConstraints=CA:false
extendedKeyUsage=serverAuth
[db]
database=index.txt
default_md=sha256
default_crl_days=30
crlnumber=crlnumber
"""


def authority(name):
    os.makedirs(name)
    with open(f"{name}/extensions", "w") as file:
        file.write(EXTENSIONS)
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
        f"/CN={name}", "-keyout", f"{name}/ca-key.pem", "-out", f"{name}/ca-cert.pem", "-config", "/dev/null", "-extensions",
        "ca", "-config", extension_config(name))


def extension_config(name):
    path = f"{name}/config"
    if not os.path.exists(path):
        with open(path, "w") as file:
            file.write("[req]\ndistinguished_name=dn\n[dn]\n" + EXTENSIONS)
    return path


def certificate(ca, name, subject, kind="client", days="2"):
    run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject, "-keyout",
        f"{ca}/{name}-key.pem", "-out", f"{ca}/{name}.csr", "-config", extension_config(ca))
    run("openssl", "x509", "-req", "-in", f"{ca}/{name}.csr", "-CA", f"{ca}/ca-cert.pem", "-CAkey", f"{ca}/ca-key.pem",
        "-CAcreateserial", "-days", days, "-extfile", f"{ca}/extensions", "-extensions", kind, "-out",
        f"{ca}/{name}-cert.pem")


def fingerprint(ca, name):
    text = run("openssl", "x509", "-in", f"{ca}/{name}-cert.pem", "-noout", "-fingerprint", "-sha256")
    return text.split("=")[1].strip().replace(":", "").lower()


def certificates():
    need_tool("openssl")
    authority("ca")
    certificate("ca", "server", "/CN=localhost", "server")
    certificate("ca", "root", "/CN=alice")
    certificate("ca", "worker", "/OU=ops/CN=bob")
    certificate("ca", "looker", "/CN=carol")
    certificate("ca", "nobody", "/CN=mallory")
    certificate("ca", "banned", "/OU=ops/CN=eve")
    certificate("ca", "two", "/CN=alice/CN=carol")
    certificate("ca", "wrong", "/CN=alice", "other")
    certificate("ca", "late", "/CN=alice", days="-1")
    authority("foreign")
    certificate("foreign", "root", "/CN=alice")


def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def configuration(**more):
    with open("hawserd.json", "w") as file:
        json.dump(more, file)
    return "--config=hawserd.json"


class Remote:
    def __init__(self, at, name=None, ca="ca", minimum=None, maximum=None):
        context = ssl.create_default_context(cafile="ca/ca-cert.pem")
        if name:
            context.load_cert_chain(f"{ca}/{name}-cert.pem", f"{ca}/{name}-key.pem")
        if maximum:
            context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, maximum
        self.connection = http.client.HTTPSConnection("localhost", at, timeout=60, context=context)

    def ask(self, method, path, body=None):
        self.connection.request(method, path, json.dumps(body) if body is not None else None)
        answer = self.connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text and path != "/metrics" else text

    def status(self, *words):
        return self.ask(*words)[0]


ROLES = {"cn:alice": "admin", "ou:ops": "operator", "cn:eve": "none"}


def test_certificates_have_roles():
    certificates()
    at = port()
    roles = {**ROLES, "sha256:" + fingerprint("ca", "looker"): "viewer"}
    with Daemon(configuration(listen=f"localhost:{at}", tls="ca", roles=roles)) as d:
        admin, operator, viewer = Remote(at, "root"), Remote(at, "worker"), Remote(at, "looker")
        pool = {"name": "pool", "path": os.path.abspath("pool")}
        for who in (operator, viewer):
            status, answer = who.ask("POST", "/v1/pools", pool)
            assert status == 403 and answer["error"]["code"] == "forbidden", answer
        assert admin.status("POST", "/v1/pools", pool) == 201
        volume = {"name": "v", "size": "16M", "fs": "none"}
        assert viewer.status("POST", "/v1/volumes", volume) == 403
        assert operator.status("POST", "/v1/volumes", volume) == 201
        for who in (admin, operator, viewer):
            assert who.ask("GET", "/v1/volumes/v")[1]["name"] == "v"
            assert who.status("GET", "/metrics") == 200 and who.status("GET", "/healthz") == 200
        for name in ("nobody", "banned", "two"):  # no role; one that was taken away; whose name is not clear
            status, answer = Remote(at, name).ask("GET", "/v1/volumes")
            assert status == 403 and "role" in answer["error"]["message"], (name, answer)
        document = admin.ask("GET", "/v1/openapi.json")[1]
        for path, calls in document["paths"].items():  # each call of the document, by each role
            for method, call in calls.items():
                needs = ["viewer", "operator", "admin"].index(call["x-role"])
                path = path.replace("{", "").replace("}", "")
                for level, who in enumerate((viewer, operator)):
                    if level < needs:
                        assert who.status(method.upper(), path, {}) == 403, (method, path)
        # A stream, a wait, and a body that is too large, over TLS.
        last = viewer.ask("GET", "/v1/events")[1]["next"]
        viewer.connection.request("GET", f"/v1/events?after={last - 1}&stream=lines")
        answer = viewer.connection.getresponse()
        assert json.loads(answer.readline().strip() or answer.readline())["sequence"] == last
        assert admin.ask("GET", f"/v1/events?after={last}&wait=1")[1]["items"] == []
        admin.connection.request("POST", "/v1/volumes", b" " * (10 << 20))
        answer = admin.connection.getresponse()
        assert answer.status == 413 and json.loads(answer.read())["error"]["code"] == "too-large"
        # A client that says nothing holds up nobody.
        silent = [socket.create_connection(("localhost", at)) for _ in range(50)]
        assert Remote(at, "root").status("GET", "/healthz") == 200
        for connection in silent:
            connection.close()


def test_a_thousand_that_never_shake_hands():
    need_own_memory()
    certificates()
    at = port()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    with Daemon(configuration(listen=f"127.0.0.1:{at}", tls="ca", roles=ROLES), "--request-seconds=2") as d:
        assert Remote(at, "root").status("GET", "/healthz") == 200
        before = resident(d)
        silent = [socket.create_connection(("127.0.0.1", at)) for _ in range(1000)]
        for n, connection in enumerate(silent):
            connection.sendall([b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\n"][n % 3])
        assert Remote(at, "root").status("GET", "/v1/volumes") == 200
        more = resident(d) - before
        print(f"  {more / MIB:.1f} MiB for a thousand")
        assert more < 192 * MIB, more
        for connection in silent:
            connection.settimeout(60)
            try:
                while connection.recv(4096):
                    pass
            except ConnectionResetError:
                pass
            connection.close()
        assert Remote(at, "root").status("GET", "/v1/volumes") == 200


def test_certificates_that_do_not_hold():
    certificates()
    at = port()
    with Daemon(configuration(listen=f"127.0.0.1:{at}", tls="ca", roles=ROLES)) as d:
        for words in ((None,), ("wrong",), ("late",), ("root", "foreign")):
            try:
                status = Remote(at, *words).status("GET", "/v1/volumes")
            except (OSError, http.client.HTTPException):
                continue
            assert status == 403, (words, status)
        assert Remote(at, "root").status("GET", "/v1/volumes") == 200
        try:
            Remote(at, "root", maximum=ssl.TLSVersion.TLSv1_1).status("GET", "/healthz")
            raise AssertionError("TLS 1.1 is spoken")
        except (OSError, ValueError):  # this side's library may refuse as well
            pass
        with socket.create_connection(("127.0.0.1", at)) as plain:
            plain.settimeout(60)
            plain.sendall(b"GET /v1/volumes HTTP/1.0\r\n\r\n")
            text = b""
            try:
                text = plain.recv(4096)
            except OSError:
                pass
            assert b"items" not in text
        d.stop()
        # What was revoked does not hold from the next start on.
        open("ca/index.txt", "w").close()
        with open("ca/crlnumber", "w") as file:
            file.write("01\n")
        revoke = ["-config", "extensions", "-name", "db", "-keyfile", "ca-key.pem", "-cert", "ca-cert.pem"]
        run("openssl", "ca", *revoke, "-revoke", "root-cert.pem", cwd="ca")
        run("openssl", "ca", *revoke, "-gencrl", "-out", "ca-crl.pem", cwd="ca")
        d.start()
        assert Remote(at, "root").status("GET", "/v1/volumes") == 403
        assert "revoked" in open("hawserd.log").read()
        assert Remote(at, "worker").status("GET", "/v1/volumes") == 200


def refused_start(*words):
    done = subprocess.run([os.path.join(FOLDER, "hawserd"), "--state=state", "--socket=refused.sock", "--docker-socket=none",
                           f"--program={HAWSER}", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done
    return done.stderr


def test_configurations_that_are_refused():
    certificates()
    assert "tls" in refused_start(configuration(listen="localhost:0"))
    assert "nobody" in refused_start(configuration(roles={"alice": "admin"}))
    assert "nobody" in refused_start(configuration(roles={"sha256:AB": "admin"}))
    assert "uid:NUMBER" in refused_start(configuration(roles={"uid:root": "admin"}))
    assert "role" in refused_start(configuration(roles={"cn:alice": "king"}))
    assert "PORT" in refused_start(configuration(listen="localhost", tls="ca"))
    assert "PORT" in refused_start(configuration(listen="::1:1", tls="ca"))
    assert "server-cert.pem" in refused_start(configuration(listen="localhost:0", tls="foreign"))
    os.rename("ca/server-key.pem", "ca/kept")
    os.rename("ca/root-key.pem", "ca/server-key.pem")
    assert "server-key.pem" in refused_start(configuration(listen="localhost:0", tls="ca"))


def as_user(uid, groups, path, words):
    """@return the status that a process of that user gets."""
    script = ("import json,os,sys,socket,http.client\n"
              "uid, groups = int(sys.argv[1]), json.loads(sys.argv[2])\n"
              "os.setgroups(groups[1:]); os.setgid(groups[0]); os.setuid(uid)\n"
              "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[3])\n"
              "s.sendall((sys.argv[4] + ' HTTP/1.0\\r\\nContent-Length: 2\\r\\n\\r\\n{}').encode())\n"
              "print(s.makefile().readline().split()[1])\n")
    done = subprocess.run([sys.executable, "-c", script, str(uid), json.dumps(groups), path, words], capture_output=True,
                          text=True, timeout=60)
    return int(done.stdout) if done.returncode == 0 else done.stderr


def test_users_have_roles_at_the_unix_socket():
    if os.geteuid() != 0:
        raise Skip("needs root to be other users")
    os.chmod(".", 0o755)
    with Daemon(configuration(roles={"uid:4001": "viewer", "gid:4002": "operator", "uid:4003": "none"})) as d:
        assert as_user(4001, [4001], d.rest, "GET /v1/volumes") == 200
        assert as_user(4001, [4001], d.rest, "POST /v1/volumes") == 403
        assert as_user(4005, [4005, 4002], d.rest, "POST /v1/volumes") == 400  # it may, and says nothing
        assert as_user(4005, [4005, 4002], d.rest, "POST /v1/pools") == 403
        assert as_user(4003, [4003, 4002], d.rest, "GET /v1/volumes") == 403
        assert as_user(4009, [4009], d.rest, "GET /v1/volumes") == 403
        assert d.ask("POST", "/v1/pools", {})[0] == 400  # root
        assert "Permission" in as_user(4001, [4001], d.docker, "POST /VolumeDriver.List")
    with Daemon() as d:  # without users in the table, nobody else connects at all
        assert "Permission" in as_user(4001, [4001], d.rest, "GET /v1/volumes")


def test_sockets_from_a_service_manager():
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(os.path.abspath("activated.sock"))
    listening.listen(8)
    early = socket.socket(socket.AF_UNIX)
    early.connect(os.path.abspath("activated.sock"))  # before anybody serves it
    early.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")

    def start(names, count=1):
        script = (f"import os,sys\nos.dup2({listening.fileno()}, 3)\nos.set_inheritable(3, True)\n"
                  f"os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='{count}', LISTEN_FDNAMES='{names}')\n"
                  "os.execv(sys.argv[1], sys.argv[1:])\n")
        return subprocess.Popen([sys.executable, "-c", script, os.path.join(FOLDER, "hawserd"), "--state=state",
                                 f"--socket={os.path.abspath('unused.sock')}", "--docker-socket=none",
                                 f"--program={HAWSER}"],
                                stderr=open("hawserd.log", "a"), pass_fds=[listening.fileno()])

    process = start("rest")
    early.settimeout(60)
    assert b"200 OK" in early.recv(4096)
    assert not os.path.exists("unused.sock")
    process.terminate()
    assert process.wait(60) == 0
    assert os.path.exists("activated.sock")  # the manager's, not ours
    for names, count in (("wrong", 1), ("rest:rest", 2)):
        os.dup2(listening.fileno(), 4) if count == 2 else None
        assert start(names, count).wait(60) == 1
    assert "service manager" in open("hawserd.log").read()


main(globals())
