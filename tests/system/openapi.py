"""hawserd held to its own description: every call of /v1/openapi.json with generated valid and invalid input, against the
real daemon. What the description does not allow is refused with 400, what it allows never is an internal error, and
answers look as described. HAWSER_OPENAPI_ROUNDS makes it longer, HAWSER_SEED repeats a run."""
import json
import os
import random
import string
import urllib.parse

from daemon import Connection, Daemon
from lib import Skip, main, need_devices

try:
    import jsonschema
except ImportError:
    jsonschema = None

SEED = int(os.environ.get("HAWSER_SEED", random.randrange(10 ** 6)))
ROUNDS = int(os.environ.get("HAWSER_OPENAPI_ROUNDS", 3))
HOSTILE_NAMES = ["..", ".", "%2e%2e%2f%2e%2e%2fetc", "%2fetc%2fpasswd", "a%00b", "%ff%fe", "ä%C3%A4".encode().decode(), "x" * 255,
                 "x" * 300, "%0d%0aX-Evil:1", "-rf", "$(id)", "a b".replace(" ", "%20"), "%27%3bDROP%20TABLE%20object%3b--",
                 "00000000-0000-0000-0000-000000000000", "pool%20", "%F0%9F%90%B3"]
TEXTS = ["", "x", "ä€🐳", "../../../../etc/passwd", "/etc/passwd", "a\nb", "%s%n", "x" * 1024, "\u202e", "'; --", "-1", "null"]
WRONG = {"string": [1, True, [], {}, 1.5, "a\x00b"], "integer": [-1, 1.5, True, [], {}, 1 << 63, "x"],
         "boolean": [0, 1, "true", [], {}], "array": ["x", {}, 1, [1], [None], [["x"]]],
         "object": ["x", [], 1, {"k": 1}, {"k": None}, {"": "x"}, {"k": "x" * 1025}, {"k" * 129: "x"}]}


def kinds_of(schema):
    """The alternatives of a field."""
    found = []
    for part in schema.get("anyOf", [schema]):
        found += kinds_of(part) if "anyOf" in part else [part]
    return found


class Api:
    def __init__(self, daemon, rng):
        self.daemon, self.rng = daemon, rng
        self.document = daemon.get("/v1/openapi.json")
        self.calls = [(path, method.upper(), call) for path, calls in self.document["paths"].items()
                      for method, call in calls.items()]

    def validator(self, schema):
        if not jsonschema:
            return None
        return jsonschema.Draft202012Validator({**schema, "components": self.document["components"]})

    def send(self, method, path, raw=None):
        connection = Connection(self.daemon.rest)
        connection.request(method, path, raw)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        assert answer.getheader("X-Request-Id"), (method, path)
        plain = answer.getheader("Content-Type", "").startswith("text/plain")
        return answer.status, text.decode() if plain else json.loads(text) if text else None

    def check(self, call, status, answer, what):
        """An answer is as described, whatever it says; @what was asked."""
        assert status != 500, (what, answer)
        expected = call["responses"].get(str(status))
        if expected is None:
            assert status >= 400, (what, status, answer)
            expected = call["responses"]["default"]
        content = expected.get("content", {}).get("application/json")
        if content and jsonschema:
            errors = list(self.validator(content["schema"]).iter_errors(answer))
            assert not errors, (what, answer, errors[0].message)

    def text(self):
        return self.rng.choice(TEXTS)

    def name(self):
        return "n" + "".join(self.rng.choices(string.ascii_letters + string.digits + "_.-", k=self.rng.randrange(1, 40)))

    def value(self, field, schema):
        """What the schema allows; where it makes sense, what is there."""
        known = {"name": self.name(), "pool": "pool", "class": "class", "size": "8M", "volume": "v", "clone": "v@s",
                 "snapshot": "s", "path": os.path.abspath("pools/" + self.name()), "fs": "none", "mode": "device"}
        if field in known and self.rng.random() < 0.8:
            return known[field]
        kind = self.rng.choice(kinds_of(schema))
        if "enum" in kind:
            return self.rng.choice(kind["enum"])
        if kind["type"] == "string":
            return self.rng.choice(kind["examples"]) if "pattern" in kind else self.text()[:kind.get("maxLength", 1024)]
        if kind["type"] == "integer":
            return self.rng.choice([0, 1, 4096, 65536, min(kind["maximum"], 1 << 30), kind["maximum"]])
        if kind["type"] == "array":
            return [self.text() for _ in range(self.rng.randrange(3))]
        if kind["type"] == "object":
            return {self.name(): self.text() for _ in range(self.rng.randrange(3))}
        return {"boolean": self.rng.random() < 0.3, "null": None}[kind["type"]]

    def body(self, schema):
        """A body that the schema allows."""
        fields = schema["properties"]
        return {name: self.value(name, field) for name, field in fields.items()
                if name in schema["required"] or self.rng.random() < 0.3}

    def wrong_values(self, schema):
        kinds = kinds_of(schema)
        types = {kind["type"] for kind in kinds}
        for kind in kinds:
            for value in WRONG.get(kind["type"], []):
                if isinstance(value, str) and "string" in types and "\x00" not in value and "pattern" not in str(kinds):
                    continue
                if jsonschema and not list(self.validator(schema).iter_errors(value)) and "\x00" not in str(value):
                    continue
                yield value
            if "maxLength" in kind:
                yield "x" * (kind["maxLength"] + 1)
            if "enum" in kind:
                yield "nonesuch"
            if "maxItems" in kind:
                yield ["x"] * (kind["maxItems"] + 1)
            if "maxProperties" in kind:
                yield {f"k{n}": "x" for n in range(kind["maxProperties"] + 1)}

    def real_path(self, pattern):
        """The pattern with objects that are there, where there are any."""
        path = ""
        for part in pattern.split("/")[1:]:
            if part.startswith("{"):
                status, page = self.send("GET", path)
                items = page.get("items") if status == 200 else None
                item = self.rng.choice(items) if items else {}
                part = self.rng.choice([item.get("id"), item.get("name"), "v"]) or "nonesuch"
            path += "/" + part
        return path

    def path(self, pattern, arguments=None):
        given = {"pool": "pool", "class": "class", "volume": "v", "snapshot": "s", **(arguments or {})}
        for part in set(p for p in pattern.split("/") if p.startswith("{")):
            pattern = pattern.replace(part, given.get(part[1:-1], "nonesuch"))
        return pattern


def schema_of(call):
    body = call.get("requestBody")
    return body["content"]["application/json"]["schema"] if body else None


def prepare(d):
    for folder in ("pools", "beside"):
        os.mkdir(folder)
    d.pool()
    d.post("/v1/classes", name="class", fs="none", size="8M")
    d.post("/v1/volumes", name="v", fs="none", size="8M")
    d.post("/v1/volumes/v/snapshots", name="s")


def start():
    print(f"  HAWSER_SEED={SEED}")
    return Daemon()


def test_the_document_is_what_the_standard_says():
    with start() as d:
        api = Api(d, random.Random(SEED))
        assert api.document["openapi"].startswith("3.1.") and len(api.calls) > 25
        for _, _, call in api.calls:
            assert call["summary"] and call["operationId"] and call["x-role"] in ("viewer", "operator", "admin")
        if not jsonschema:
            raise Skip("needs python3-jsonschema")
        for name, schema in api.document["components"]["schemas"].items():
            jsonschema.Draft202012Validator.check_schema(schema)
        for _, _, call in api.calls:
            if schema_of(call):
                jsonschema.Draft202012Validator.check_schema(schema_of(call))


def test_what_the_description_does_not_allow_is_refused():
    with start() as d:
        prepare(d)
        api = Api(d, random.Random(SEED))
        refused = 0
        before = [d.get(f"/v1/{kind}") for kind in ("pools", "classes", "volumes", "volumes/v/snapshots")]
        for pattern, method, call in api.calls:
            schema, path = schema_of(call), api.path(pattern)
            bodies = [{"nonesuch": 1}] if method != "GET" else [{"x": 1}]
            if schema:
                base = {name: api.value(name, field) for name, field in schema["properties"].items()
                        if name in schema["required"]}
                bodies += [{k: v for k, v in base.items() if k != name} for name in schema["required"]]
                bodies += [{**base, name: None} for name in schema["required"]]
                for name, field in schema["properties"].items():
                    bodies += [{**base, name: value} for value in api.wrong_values(field)]
                for body in bodies:
                    assert not jsonschema or list(api.validator(schema).iter_errors(body)) or "\\u0000" in json.dumps(body), body
            for body in bodies:
                status, answer = api.send(method, path, json.dumps(body))
                assert status == 400, (method, path, body, status, answer)
                refused += 1
            for raw in (b"{", b"[]", b"1", b"null", b"\"x\"", b"{\"a\":1,\"a\":2}", b"{\"a\":\"\xff\"}", b"[" * 5000, b"\x00",
                        b"{} x", b"{\"labels\":" * 3000, b"{\"a\":1e999}", b"{\"a\":\"\\ud800\"}"):
                status, answer = api.send(method, path, raw)
                assert status == 400, (method, path, raw[:20], status, answer)
                refused += 1
            for parameter in call.get("parameters", []):
                if parameter["in"] != "query":
                    continue
                bad = ["nonesuch"] if "enum" in parameter["schema"] else []
                if parameter["schema"]["type"] == "integer":
                    low, high = parameter["schema"]["minimum"], parameter["schema"]["maximum"]
                    bad += ["x", "", "-1", "1.5", "0x1", "%201", str(high + 1), "9" * 30] + [str(low - 1)] * (low > 0)
                for value in bad:
                    status, answer = api.send(method, f"{path}?{parameter['name']}={value}")
                    assert status == 400, (method, path, parameter["name"], value, status, answer)
                    refused += 1
            status, answer = api.send(method, f"{path}?nonesuch=1")
            assert status == 400, (method, path, status, answer)
        for path in api.document["paths"]:
            assert api.send("PUT", api.path(path))[0] == 405
        after = [d.get(f"/v1/{kind}") for kind in ("pools", "classes", "volumes", "volumes/v/snapshots")]
        assert [[i["id"] for i in page["items"]] for page in before] == [[i["id"] for i in page["items"]] for page in after]
        assert before[2] == after[2]
        print(f"  {refused} requests refused")


def test_what_it_allows_is_no_internal_error():
    need_devices()
    rng = random.Random(SEED)
    with start() as d:
        prepare(d)
        api = Api(d, rng)
        statuses = {}
        for _ in range(ROUNDS):
            order = api.calls[:]
            rng.shuffle(order)
            for pattern, method, call in order:
                path = api.real_path(pattern)
                queries = [(p["name"], p["schema"]) for p in call.get("parameters", []) if p["in"] == "query"]
                if "stream" in dict(queries):
                    queries = [q for q in queries if q[0] != "stream"]  # has no end; events.py has it
                chosen = {name: api.value(name, schema) if name not in ("wait", "watch") else 1 for name, schema in queries
                          if rng.random() < 0.3}
                if chosen:
                    path += "?" + urllib.parse.urlencode(chosen)
                schema = schema_of(call)
                body = api.body(schema) if schema else None
                assert not (schema and jsonschema) or not list(api.validator(schema).iter_errors(body)), body
                status, answer = api.send(method, path, json.dumps(body) if schema else None)
                api.check(call, status, answer, (method, path, body))
                statuses[status] = statuses.get(status, 0) + 1
                if d.ask("GET", "/v1/volumes/v")[0] == 404:  # renamed or deleted: for the calls to come
                    d.ask("POST", "/v1/volumes", {"name": "v", "fs": "none", "size": "8M"})
                d.ask("POST", "/v1/volumes/v/snapshots", {"name": "s"})
        print(f"  statuses {statuses}")
        assert statuses.get(200, 0) > 10 and statuses.get(201, 0) > 0, statuses
        for volume in d.get("/v1/volumes?limit=1000")["items"]:
            d.ask("POST", f"/v1/volumes/{volume['id']}/detach", {"force": True})
        assert sorted(os.listdir("beside")) == []


def test_names_are_no_paths():
    with start() as d:
        prepare(d)
        api = Api(d, random.Random(SEED))
        tree = lambda: sorted(os.path.join(at, n) for at, _, names in os.walk(".") for n in names
                              if "catalog" not in n and n != "hawserd.log")
        before = tree()
        for pattern, method, call in api.calls:
            for part in [p[1:-1] for p in pattern.split("/") if p.startswith("{")]:
                for name in HOSTILE_NAMES:
                    path = urllib.parse.quote(api.path(pattern, {part: name}), safe="/%$()")
                    status, answer = api.send(method, path, None)
                    assert status in (400, 404, 405), (method, path, status, answer)
                    api.check(call, status, answer, (method, path))
        for name in ("../x", "a/b", "..", ".", "", " ", "a b", "ä", "-x", "x\n", "x" * 129, "🐳",
                     "00000000-0000-0000-0000-000000000000", "x\u0000y"):
            for path, body in (("/v1/volumes", {"name": name, "fs": "none", "size": "8M"}), ("/v1/classes", {"name": name}),
                               ("/v1/pools", {"name": name, "path": os.path.abspath("pools/p")}),
                               ("/v1/volumes/v/snapshots", {"name": name})):
                status, answer = api.send("POST", path, json.dumps(body))
                assert status == 400, (path, name, status, answer)
        assert tree() == before


def test_bodies_of_ten_megabytes():
    with start() as d:
        prepare(d)
        api = Api(d, random.Random(SEED))
        for pattern, method, call in api.calls:
            status, answer = api.send(method, api.path(pattern), b" " * (10 << 20))
            assert status == 413 and answer["error"]["code"] == "too-large", (method, pattern, status, answer)
        status, answer = api.send("POST", "/v1/volumes", b'{"name":"x","labels":{"a":"' + b"x" * (1 << 20) + b'"}}')
        assert status == 413, answer
        assert api.send("POST", "/v1/volumes", b'{"size":' + b"1" * 900000 + b"}")[0] == 400
        labels = json.dumps({"name": "l", "size": "8M", "fs": "none", "labels": {f"k{n}": "ä" * 512 for n in range(64)}})
        assert api.send("POST", "/v1/volumes", labels)[0] == 201


main(globals())
