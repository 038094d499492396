"""hawserd for tests: started in a scratch folder, asked over its unix sockets, killed and started again."""
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time

from lib import HAWSER, Skip

FOLDER = os.path.join(os.path.dirname(os.path.dirname(HAWSER)), "daemon")


MIB = 1 << 20


class Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout=90):
        super().__init__("hawserd", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)
        self.sock.settimeout(self.timeout)


class Error(Exception):
    def __init__(self, status, body):
        super().__init__(f"{status}: {body}")
        self.status, self.body = status, body
        self.error = body.get("error", {}) if isinstance(body, dict) else {}


class Daemon:
    def __init__(self, *words, program="hawserd", env=None):
        self.rest, self.docker = os.path.abspath("rest.sock"), os.path.abspath("docker.sock")
        self.words = [os.path.join(FOLDER, program), f"--state={os.path.abspath('state')}", f"--socket={self.rest}",
                      f"--docker-socket={self.docker}", f"--program={HAWSER}", *words]
        self.start(env)

    def start(self, env=None, program=None):
        words = [os.path.join(FOLDER, program)] + self.words[1:] if program else self.words
        self.log = open("hawserd.log", "a")
        self.process = subprocess.Popen(words, stderr=self.log, env={**os.environ, **(env or {})})
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, open("hawserd.log").read()[-2000:]
            assert time.monotonic() < deadline, "hawserd did not start"
            try:
                Connection(self.rest).connect()
                Connection(self.docker).connect()
                return
            except OSError:
                time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop()

    def stop(self, seconds=60):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(seconds) == 0, open("hawserd.log").read()[-2000:]

    def kill(self):
        self.process.kill()
        self.process.wait(30)

    def ask(self, method, path, body=None, socket_path=None, raw=None, headers=None):
        """@return status, body."""
        connection = Connection(socket_path or self.rest)
        data = raw if raw is not None else json.dumps(body) if body is not None else None
        connection.request(method, path, data, headers or {})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if text and path != "/metrics" else text.decode()

    def call(self, method, path, body=None):
        status, answer = self.ask(method, path, body)
        if status >= 400:
            raise Error(status, answer)
        return answer

    def get(self, path):
        return self.call("GET", path)

    def post(self, path, /, **body):
        return self.call("POST", path, body)

    def delete(self, path):
        return self.call("DELETE", path)

    def refused(self, method, path, body=None):
        """@return the code of the error that the call must have."""
        status, answer = self.ask(method, path, body)
        assert status >= 400, answer
        assert answer["error"]["message"] and answer["error"]["request"], answer
        return answer["error"]["code"]

    def plugin(self, call, body=None):
        return self.ask("POST", "/" + call, body, self.docker)

    def pool(self, **more):
        return self.post("/v1/pools", name="pool", path=os.path.abspath("pool"), **more)

    def images(self):
        return sorted(os.listdir("pool/images"))


@contextlib.contextmanager
def commanded():
    """A hawserd that the commands find."""
    with Daemon() as d:
        os.environ["HAWSERD_SOCKET"] = d.rest
        try:
            yield d
        finally:
            del os.environ["HAWSERD_SOCKET"]


def resident(d):
    with open(f"/proc/{d.process.pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def need_own_memory():
    """Skips where a sanitizer's memory is beyond what hawserd can bound."""
    with open(os.path.join(FOLDER, "hawserd"), "rb") as program:
        text = program.read()
    if b"__asan_init" in text or b"__tsan_init" in text:
        raise Skip("a sanitizer's memory is not hawserd's")


def mountpoint(attachment):
    path = attachment["mountpoint"]
    assert os.path.ismount(path), path
    return path


def write(path, text):
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
