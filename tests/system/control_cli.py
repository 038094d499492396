"""The commands that are clients of hawserd, against the real one: every verb's row against the API's own description,
what they print against what REST answers, and wrong command lines made from the tables."""
import json
import os
import pty
import random
import select
import socket
import subprocess
import threading
import time

from daemon import commanded as daemon, mountpoint, write
from lib import HAWSER, Skip, hawser, main, need_devices, need_tool, run, wait_until

# Routes that no verb is for.
NO_VERB = {("GET", "/v1/attachments"),  # "attachment" of volumes
           ("GET", "/v1/events"), ("GET", "/v1/doctor"), ("POST", "/v1/doctor"),  # commands without verbs
           ("GET", "/v1/openapi.json"), ("GET", "/healthz"), ("GET", "/metrics")}
# Members of bodies that the tables do not name: what code of the command's own fills, and why.
FILES = {"value", "server-cert", "server-key", "ca-cert", "ca-crl"}
OWN_CODE = {("volume", "create"): {"image", "clone"},  # --from
            ("secret", "create"): FILES, ("secret", "set"): FILES,  # read from files
            ("export", "create"): {"listen"},  # made absolute
            }


def commands():
    """(command's table, verb's row) of all verbs."""
    for command in hawser("help", "--dump-options").json():
        for owner in (command, command.get("managed", {"verbs": []})):
            for verb in owner["verbs"]:
                yield owner, verb


def options_of(command, verb):
    return [o for o in command["options"] if verb["name"] in o.get("verbs", verb["name"]).split()]


# ---- the tables against the API's description ---------------------------------------------------

def operation(document, method, path):
    """The description of what a verb calls."""
    for pattern, item in document["paths"].items():
        ours, theirs = path.split("/"), pattern.split("/")
        if len(ours) == len(theirs) and all(a == b or (a == "%" and b[0] == "{") for a, b in zip(ours, theirs)):
            return pattern, item, item.get(method.lower())
    return None, None, None


def resolve(document, schema):
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def body_members(document, what):
    content = what.get("requestBody", {}).get("content", {}).get("application/json", {})
    return set(resolve(document, content.get("schema", {})).get("properties", {}))


def answer_schema(document, what, listed):
    for status, answer in what["responses"].items():
        if status.startswith("2") and "content" in answer:
            schema = resolve(document, answer["content"]["application/json"]["schema"])
            return resolve(document, schema["properties"]["items"]["items"]) if listed else schema
    return {}


def test_every_verb_is_a_call_of_the_api_and_every_call_has_a_verb():
    with daemon() as d:
        document = d.get("/v1/openapi.json")
    called = set()
    for command, verb in commands():
        where = (command["name"], verb["name"])
        pattern, item, what = operation(document, verb["method"], verb["path"])
        assert what, (where, verb["path"])
        called.add((verb["method"], pattern))
        options = options_of(command, verb)
        queries = {p["name"] for p in item.get("parameters", []) + what.get("parameters", []) if p["in"] == "query"}
        for option in options:
            if option.get("member", "").startswith("?"):
                assert option["member"][1:].split("=")[0] in queries, (where, option["member"], queries)
        said = {o["member"].split("=")[0] for o in options if "member" in o and not o["member"].startswith("?")}
        said |= {word.split("=")[0].strip("/#[]") for word in verb.get("body", "").split()}
        known = body_members(document, what)
        assert said <= known, (where, said - known)
        schema = answer_schema(document, what, bool(queries & {"limit"}))
        for column in verb["columns"]:
            at = schema
            for part in column.split("."):
                at = resolve(document, at)
                if "properties" not in at:
                    break  # any members: labels
                assert part in at["properties"], (where, column, list(at["properties"]))
                at = at["properties"][part]
    routes = {(method.upper(), path) for path, item in document["paths"].items() for method in item
              if method in ("get", "post", "patch", "delete", "put")}
    assert routes - called == NO_VERB & routes, routes - called - NO_VERB


def test_every_member_of_a_body_can_be_said():
    with daemon() as d:
        document = d.get("/v1/openapi.json")
    said, known = {}, {}
    for command, verb in commands():
        pattern, _, what = operation(document, verb["method"], verb["path"])
        if verb["method"] in ("GET", "DELETE"):
            continue
        key = (verb["method"], pattern)
        known[key] = body_members(document, what)
        words = {o["member"].split("=")[0] for o in options_of(command, verb) if "member" in o}
        words |= {word.split("=")[0].strip("/#[]") for word in verb.get("body", "").split()}
        said.setdefault(key, set()).update(words | OWN_CODE.get((command["name"], verb["name"]), set()))
    for key, members in known.items():
        assert members <= said[key], (key, members - said[key])


# ---- what is printed ----------------------------------------------------------------------------

def rows(text):
    """A table as a list of {title: cell}."""
    lines = text.rstrip("\n").split("\n")
    titles, starts, at = [], [], 0
    for part in lines[0].split("  "):  # titles hold single blanks
        if part.strip():
            start = lines[0].index(part.strip(), at)
            titles.append(part.strip())
            starts.append(start)
            at = start + len(part)
    return [{t: line[s:e].strip() for t, s, e in zip(titles, starts, starts[1:] + [None])} for line in lines[1:]]


def fields(text):
    return dict((part.strip() for part in line.split(":", 1)) for line in text.rstrip("\n").split("\n"))


def still(value):
    """Without what changes by itself: the room that a file system has."""
    if isinstance(value, list):
        return [still(item) for item in value]
    return {key: item for key, item in value.items() if key != "free"}


def compare(d, path, *words):
    """A list as the command prints it, for people and for programs, against REST's. @return the rows."""
    items = d.get(path)["items"]
    assert still(hawser(*words, "--output=json").json()) == still(items)
    table = rows(hawser(*words).out)
    assert len(table) == len(items), (table, items)
    return table


def compare_one(d, path, *words):
    item = d.get(path)
    assert still(hawser(*words, "--output=json").json()) == still(item)
    return fields(hawser(*words).out)


def test_pools_and_classes():
    with daemon() as d:
        os.mkdir("images")
        made = hawser("pool", "create", "p", "pool", "--capacity=1G", "--quota=512M", "--overcommit=200",
                      "--image-root=images", "--label=a=b", "--label=c=d=e", "--output=json").json()
        assert made["path"] == os.path.abspath("pool") and made["image-roots"] == [os.path.abspath("images")], made
        assert (made["capacity"], made["quota"], made["overcommit-percent"]) == (1 << 30, 512 << 20, 200), made
        shown = compare_one(d, "/v1/pools/p", "pool", "show", "p")
        assert shown["quota"] == "512 MiB" and shown["labels"] == "a=b, c=d=e" and shown["state"], shown
        assert compare(d, "/v1/pools", "pool", "list")[0]["NAME"] == "p"
        made = hawser("class", "create", "c", "-s", "512M", "--fs=xfs", "-f", "raw", "--output=json").json()
        assert (made["size"], made["fs"], made["format"]) == (512 << 20, "xfs", "raw"), made
        assert compare_one(d, "/v1/classes/c", "class", "show", "c")["file system"] == "xfs"
        assert compare(d, "/v1/classes", "class", "list")[0]["SIZE"] == "512 MiB"
        volume = hawser("volume", "create", "v", "--class=c", "--output=json").json()
        assert (volume["size"], volume["fs"], volume["format"]) == (512 << 20, "xfs", "raw"), volume
        shown = compare_one(d, "/v1/volumes/v", "volume", "show", "v")
        assert (shown["pool"], shown["class"]) == ("p", "c"), "ids are told as names"
        hawser("class", "set", "c", "--size=1G", "--mount-option=noatime", "--mount-option=lazytime", "--trash-retention=2h",
               "--lazy-refcounts=off")
        shown = compare_one(d, "/v1/classes/c", "class", "show", "c")
        assert (shown["size"], shown["mount options"], shown["trash retention"]) == ("1 GiB", "noatime, lazytime", "2h"), shown
        hawser("class", "rename", "c", "k")
        hawser("pool", "set", "p", "--quota=0", "--trash-retention=7d", "--no-labels")
        pool = d.get("/v1/pools/p")
        assert (pool["quota"], pool["trash-retention"], pool["labels"]) == (0, 7 * 86400, {}), pool
        hawser("pool", "set", "p", "--trash-retention=0")
        shown = fields(hawser("pool", "show", "p").out)
        assert shown["overcommit"] == "200 %" and not {"quota", "labels", "trash retention"} & set(shown), shown
        hawser("volume", "delete", "v")
        hawser("class", "delete", "k")
        hawser("pool", "delete", "p")
        assert hawser("class", "list", "--output=json").json() == hawser("pool", "list", "--output=json").json() == []
        assert len(hawser("pool", "list").out.splitlines()) == 1


def test_volumes():
    need_devices()
    with daemon() as d:
        d.pool(**{"image-roots": [os.getcwd()]})
        for name in ("a", "b"):
            hawser("volume", "create", name, "--size=32M", f"--label=n={name}")
        assert [row["NAME"] for row in compare(d, "/v1/volumes", "volume", "list")] == ["a", "b"]
        at = hawser("volume", "attach", "a", "--user=x", "--output=json").json()
        assert at["users"] == ["x"]
        write(mountpoint(at) + "/file", "one")
        row = compare(d, "/v1/volumes", "volume", "list")[0]
        assert (row["USERS"], row["MOUNTED AT"], row["SIZE"]) == ("1", at["mountpoint"], "32 MiB"), row
        assert "x" in compare_one(d, "/v1/volumes/a", "volume", "show", "a")["users"]
        assert hawser("volume", "attach", "b", "--device").out.startswith("device:")
        hawser("volume", "resize", "a", "64M")
        assert d.get("/v1/volumes/a")["size"] == 64 << 20
        assert "y" in hawser("volume", "detach", "a", "--user=y", code=1).err.split("error:")[1]
        assert "attached" in hawser("volume", "delete", "a", "b", code=1).err
        hawser("volume", "detach", "a", "b", "--force")
        hawser("volume", "rename", "a", "c")
        assert compare_one(d, "/v1/volumes/c", "volume", "show", "c")["labels"] == "n=a"
        hawser("volume", "set", "c", "--label=m=1", "--label=o=2")
        assert d.get("/v1/volumes/c")["labels"] == {"m": "1", "o": "2"}
        hawser("volume", "set", "c", "--no-labels")
        assert d.get("/v1/volumes/c")["labels"] == {}
        assert "say what to change" in hawser("volume", "set", "c", code=1).err
        hawser("volume", "protect", "c")
        failed = hawser("volume", "delete", "c", "b", "nobody", code=1)  # goes on after a failure
        assert "protected" in failed.err and "nobody" in failed.err
        assert [v["name"] for v in d.get("/v1/volumes")["items"]] == ["c"]
        hawser("volume", "unprotect", "c")
        run("qemu-img", "create", "-q", "-f", "qcow2", "image.qcow2", "32M")
        hawser("volume", "create", "taken", "--from=./image.qcow2")
        hawser("volume", "create", "copy", "--from=c")
        hawser("volume", "delete", "c", "copy", "taken")
        assert os.path.exists("image.qcow2") and d.images() == []


def test_snapshots():
    need_devices()
    with daemon() as d:
        d.pool()
        for name in ("v", "w", "none"):
            d.post("/v1/volumes", name=name, size="32M")
        at = mountpoint(d.post("/v1/volumes/v/attach", user="a"))
        write(f"{at}/file", "one")
        made = hawser("snapshot", "create", "v@s1", "--label=day=monday", "--output=json").json()
        assert made["name"] == "s1" and made["labels"] == {"day": "monday"}, made
        write(f"{at}/file", "two")
        hawser("snapshot", "create", "v@s2")
        hawser("snapshot", "create", "w@s1")
        table = compare(d, "/v1/volumes/v/snapshots", "snapshot", "list", "v")
        assert [(row["VOLUME"], row["NAME"]) for row in table] == [("v", "s1"), ("v", "s2")], table
        assert compare(d, "/v1/volumes/v/snapshots", "volume", "snapshots", "v") == table
        assert sorted((row["VOLUME"], row["NAME"]) for row in rows(hawser("snapshot", "list").out)) == \
            [("v", "s1"), ("v", "s2"), ("w", "s1")]
        assert compare_one(d, "/v1/volumes/v/snapshots/s1", "snapshot", "show", "v@s1")["labels"] == "day=monday"
        assert "is attached" in hawser("snapshot", "revert", "v@s1", code=1).err
        hawser("volume", "detach", "v", "--force")
        hawser("snapshot", "revert", "v@s1")
        at = hawser("volume", "attach", "v", "--output=json").json()["mountpoint"]
        assert open(f"{at}/file").read() == "one"
        hawser("snapshot", "delete", "v@s1", "v@s2", "w@s1")
        assert hawser("snapshot", "list", "--output=json").json() == []
        for word in ("v", "v@", "@s"):
            assert "VOLUME@" in hawser("snapshot", "show", word, code=1).err
        # What is no action is an image, as ever.
        hawser("create", "disk.qcow2", "1M")
        hawser("snapshot", "disk.qcow2", "list")
        assert os.path.exists("list")


def certificate(name, *more):
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", *more)


def test_secrets():
    need_tool("openssl")
    with daemon() as d:
        made = fields(hawser("secret", "create", "alice").out)
        assert len(made["value"]) == 64 and made["kind"] == "psk", made
        assert "value" not in compare_one(d, "/v1/secrets/alice", "secret", "show", "alice")
        key = "0123456789abcdef" * 4
        write("key", key + "\n")
        assert hawser("secret", "create", "bob", "--value=key", "--output=json").json().get("value") is None
        assert hawser("secret", "create", "carol", "--value=-", input=key).code == 0
        assert hawser("secret", "create", "dave", "--generate=chap", "--output=json").json()["kind"] == "chap"
        certificate("ca")
        hawser("secret", "create", "office", "--kind=x509", "--server-cert=ca.pem", "--server-key=ca.key", "--ca-cert=ca.pem")
        table = {row["NAME"]: row["KIND"] for row in compare(d, "/v1/secrets", "secret", "list")}
        assert table == {"alice": "psk", "bob": "psk", "carol": "psk", "dave": "chap", "office": "x509"}, table
        assert hawser("secret", "set", "bob", "--generate=psk", "--output=json").json()["version"] == 2
        hawser("secret", "rotate")
        for words in (("--value=missing",), ("--value=/dev/zero",), ("--value=.",), ("--value=key", "--generate=psk"),
                      ("--kind=x509",), ("--kind=x509", "--server-cert=key")):
            assert hawser("secret", "create", "more", *words, code=1).err
        assert hawser("secret", "create", "more", "--value=-", input="short", code=1).err
        hawser("secret", "delete", *table)
        assert hawser("secret", "list", "--output=json").json() == []
        assert key not in open("hawserd.log").read()


def test_exports():
    need_devices()
    need_tool("nbdinfo")
    with daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="32M")
        hawser("snapshot", "create", "v@s")
        made = hawser("export", "create", "v", "--listen=unix:v.sock", "--description=a disk", "--output=json").json()
        assert (made["name"], made["listen"]) == ("v", f"unix:{os.getcwd()}/v.sock"), made
        made = hawser("export", "create", "v@s", "--listen=unix:s.sock", "--output=json").json()
        assert made["name"] == "v-s" and made["read-only"], made
        for name, path in (("v", "v.sock"), ("v-s", "s.sock")):
            told = json.loads(run("nbdinfo", "--json", f"nbd+unix:///{name}?socket={path}"))["exports"][0]
            assert told["export-size"] == 32 << 20 and told["is_read_only"] == (name == "v-s"), told
        table = {row["NAME"]: (row["VOLUME"], row["SERVING"]) for row in compare(d, "/v1/exports", "export", "list")}
        assert table == {"v": ("v", "yes"), "v-s": ("v", "yes")}, table
        assert compare_one(d, "/v1/exports/v", "export", "show", "v")["description"] == "a disk"
        port = socket.create_server(("127.0.0.1", 0))
        address = "tcp:127.0.0.1:%d" % port.getsockname()[1]
        port.close()
        hawser("secret", "create", "alice")
        made = hawser("export", "create", "v", "shared", f"--listen={address}", "--secret=alice", "--shared", "-r",
                      "--output=json").json()
        assert made["tls"] == "psk" and made["read-only"] and made["shared"], made
        assert fields(hawser("export", "show", "shared").out)["secret"] == "alice"
        assert "nbd" in hawser("export", "create", "v", "w", "--protocol=iscsi", code=1).err
        assert hawser("volume", "delete", "v", code=1).err
        hawser("export", "delete", "v", "shared")
        hawser("export", "delete", "v-s", "--force")
        assert hawser("export", "list", "--output=json").json() == []
        # What is no action is an image, as ever.
        assert "--iscsi" in hawser("export", "./create", code=2).err


def test_doctor():
    with daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="32M")
        assert hawser("doctor", "--deep").out == "all is well\n" and hawser("doctor", "--output=json").json() == []
        foreign = "pool/images/00000000-0000-4000-8000-000000000000.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", foreign, "1M")
        found = hawser("doctor", code=1)
        assert found.out.startswith("file-foreign: ") and "repair: " in found.out and "--repair=all" in found.err, found.out
        assert hawser("doctor", "--output=json", code=1).json() == d.get("/v1/doctor")["items"]
        hawser("doctor", "--repair=file-foreign", "--dry-run", code=1)
        hawser("doctor", "--repair=mount-left", code=1)
        assert os.path.exists(foreign)
        assert "repaired" in hawser("doctor", "--repair=all").out
        assert not os.path.exists(foreign) and hawser("doctor").out == "all is well\n"
        assert "no-such" in hawser("doctor", "--repair=no-such", code=1).err
        assert "--repair" in hawser("doctor", "--dry-run", code=2).err


def test_trash():
    with daemon() as d:
        d.pool()
        for name in ("v", "w", "x"):
            d.post("/v1/volumes", name=name, size="32M")
        hawser("snapshot", "create", "v@s")
        hawser("volume", "delete", "v", "--keep=2h")
        assert [(row["NAME"], row["SNAPSHOTS"]) for row in rows(hawser("volume", "trash").out)] == [("v", "1")]
        assert 7000 < hawser("volume", "trash", "--output=json").json()[0]["remaining"] <= 7200
        assert "v" not in hawser("volume", "list").out.split()
        assert hawser("volume", "restore", "v", "u", "--output=json").json()["name"] == "u"
        hawser("snapshot", "show", "u@s")
        hawser("volume", "set", "w", "--trash-retention=7d")
        hawser("volume", "delete", "w")
        hawser("volume", "delete", "w", code=1)
        hawser("volume", "restore", "w")
        hawser("volume", "delete", "w", "--purge")
        hawser("volume", "delete", "x", "--keep=1h")
        hawser("volume", "purge", "x")
        assert hawser("volume", "trash", "--output=json").json() == []


def test_groups():
    need_devices()
    with daemon() as d:
        d.pool()
        for name in ("a", "b", "c"):
            d.post("/v1/volumes", name=name, size="32M")
        assert hawser("group", "create", "g", "a", "b", "--label=x=y", "--output=json").json()["labels"] == {"x": "y"}
        shown = compare_one(d, "/v1/groups/g", "group", "show", "g")
        assert shown["volumes"] == "a, b", shown
        hawser("group", "set", "g", "--volume=a", "--volume=b", "--volume=c", "--no-labels")
        assert compare(d, "/v1/groups", "group", "list")[0]["VOLUMES"] == "a, b, c"
        at = {name: mountpoint(d.post(f"/v1/volumes/{name}/attach", user="t")) for name in "abc"}
        for name in at:
            write(f"{at[name]}/file", "one")
        hawser("group", "snapshot", "g@s")
        hawser("group", "snapshot", "g@t")
        for name in at:
            write(f"{at[name]}/file", "two")
        assert [row["NAME"] for row in compare(d, "/v1/groups/g/snapshots", "group", "snapshots", "g")] == ["s", "t"]
        assert compare_one(d, "/v1/groups/g/snapshots/s", "group", "show-snapshot", "g@s")["volumes"] == "3"
        assert hawser("group", "revert", "g@s", code=1).err
        hawser("volume", "detach", "a", "b", "c", "--force")
        hawser("group", "revert", "g@s")
        for name in "abc":
            assert open(mountpoint(d.post(f"/v1/volumes/{name}/attach", user="t")) + "/file").read() == "one"
        assert hawser("group", "delete", "g", code=1).err
        hawser("group", "delete-snapshot", "g@s", "g@t")
        hawser("group", "rename", "g", "h")
        hawser("group", "delete", "h")
        assert hawser("group", "list", "--output=json").json() == [] and "GROUP@" in hawser("group", "revert", "g", code=1).err


def test_schedules():
    with daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="32M")
        d.post("/v1/volumes", name="w", size="32M")
        d.post("/v1/groups", name="g", volumes=["w"])
        made = hawser("schedule", "create", "nightly", "--volume=v", "--every=daily", "--keep=7", "--keep-for=2w",
                      "--label=a=b", "--output=json").json()
        assert (made["keep"], made["keep-for"], made["every"]) == (7, 14 * 86400, "daily"), made
        hawser("schedule", "create", "work", "--group=g", "--cron=30 2 * * 1-5", "--keep-hourly=1", "--keep-daily=2",
               "--keep-weekly=3", "--keep-monthly=4", "--paused")
        table = {row["NAME"]: row for row in compare(d, "/v1/schedules", "schedule", "list")}
        assert (table["nightly"]["VOLUME"], table["work"]["GROUP"], table["work"]["PAUSED"]) == ("v", "g", "yes"), table
        assert table["nightly"]["NEXT"].startswith("20"), table
        hawser("schedule", "resume", "work")
        assert not d.get("/v1/schedules/work")["paused"]
        hawser("schedule", "pause", "work", "nightly")
        assert d.get("/v1/schedules/work")["paused"] and d.get("/v1/schedules/nightly")["paused"]
        hawser("schedule", "set", "nightly", "--every=6h", "--keep=0", "--no-labels")
        shown = compare_one(d, "/v1/schedules/nightly", "schedule", "show", "nightly")
        assert (shown["every"], shown["keep"], shown["keep for"], shown["volume"]) == ("6h", "0", "2w", "v"), shown
        hawser("schedule", "rename", "nightly", "n")
        for words in (("--volume=v",), ("--volume=v", "--every=sometimes"), ("--every=daily",),
                      ("--volume=v", "--cron=61 * * * *"), ("--volume=v", "--every=1h", "--cron=* * * * *")):
            assert hawser("schedule", "create", "bad", *words, code=1).err
        hawser("schedule", "delete", "n", "work")
        assert hawser("schedule", "list", "--output=json").json() == []


def test_images_are_imported():
    need_tool("qemu-img", "qemu-io")
    with daemon() as d:
        os.mkdir("images")
        d.pool(**{"image-roots": [os.path.abspath("images")]})
        run("qemu-img", "create", "-q", "-f", "qcow2", "images/vm.old.qcow2", "64M")
        run("qemu-io", "-c", "write -P 7 0 48M", "images/vm.old.qcow2")
        made = hawser("volume", "import", "images/vm.old.qcow2", "--output=json").json()
        assert (made["name"], made["state"], made["size"]) == ("vm.old", "available", 64 << 20), made
        assert fields(hawser("volume", "import", "images/vm.old.qcow2", "vm", "--size=96M").out)["size"] == "96 MiB"
        made = hawser("volume", "import", "images/vm.old.qcow2", "later", "-b", "--output=json").json()
        assert made["job"], made
        hawser("job", "wait", "--quiet")
        assert d.get("/v1/volumes/later")["state"] == "available"
        run("qemu-img", "convert", "-O", "raw", "images/vm.old.qcow2", "images/raw.img")
        hawser("volume", "import", "images/raw.img", "raw", "--image-format=raw", "-q")
        for name in ("vm.old", "later", "raw"):
            layer = f"pool/images/{d.get(f'/v1/volumes/{name}')['layer']}.qcow2"
            run("qemu-img", "compare", "-q", "images/vm.old.qcow2", layer, "-F", "qcow2", "-f", "qcow2")
        run("qemu-img", "create", "-q", "-f", "vmdk", "images/vm.vmdk", "1M")
        assert "vmdk" in hawser("volume", "import", "images/vm.vmdk", code=1).err.lower()
        assert hawser("volume", "import", "images/none.qcow2", "x", code=1).err
        assert hawser("volume", "import", "/etc/passwd", "x", code=1).err
        assert "x" not in [v["name"] for v in d.get("/v1/volumes")["items"]]


def test_an_interrupted_import_goes_on():
    """Ctrl-C at a terminal ends the waiting alone; the bar is drawn there and nowhere else."""
    need_tool("qemu-img", "qemu-io")
    with daemon() as d:
        d.pool(**{"image-roots": [os.getcwd()]})
        run("qemu-img", "create", "-q", "-f", "qcow2", "big.qcow2", "1G")
        run("qemu-io", *(word for at in range(0, 1024, 512) for word in ("-c", f"write -P 7 {at}M 512M")), "big.qcow2")
        pid, fd = pty.fork()
        if pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(HAWSER, [HAWSER, "volume", "import", "big.qcow2", "big"])
        out, deadline, interrupted = b"", time.monotonic() + 120, False
        while time.monotonic() < deadline:
            try:
                if select.select([fd], [], [], 1)[0]:
                    out += os.read(fd, 4096)
            except OSError:
                break
            if b"importing [" in out and not interrupted:
                os.write(fd, b"\x03")
                interrupted = True
        status = os.waitpid(pid, 0)[1]
        os.close(fd)
        if interrupted and os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == 2 and b"goes on" in out, out
        else:
            assert not interrupted and os.WEXITSTATUS(status) == 0, (status, out)  # it was too quick
        print("  interrupted" if interrupted else "  too quick to be interrupted")
        jobs = hawser("job", "list", "--output=json").json()
        for job in jobs:
            hawser_any("job", "cancel", job["id"])
            if hawser_any("job", "wait", job["id"], "-q"):
                assert d.get("/v1/volumes")["items"] == [] and d.images() == []


def test_node():
    need_devices()
    with daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="32M")
        assert hawser("node", "upgrade", "--output=json").json() == hawser("node", "engines", "--output=json").json() == []
        d.post("/v1/volumes/v/attach", user="a")
        shown = compare_one(d, "/v1/node", "node", "show")
        assert shown["engines"] == "1" and shown["host"] == socket.gethostname() and "landlock=" in shown["features"], shown
        table = rows(hawser("node", "engines").out)
        engine = hawser("node", "engines", "--output=json").json()[0]
        assert (table[0]["VOLUME"], table[0]["PID"], table[0]["VIA"]) == ("v", str(engine["pid"]), engine["via"]), table
        upgraded = subprocess.run([HAWSER, "node", "upgrade"], capture_output=True, text=True, timeout=60)
        row = rows(upgraded.stdout)[0]
        assert row["VOLUME"] == "v" and row["OUTCOME"] == ("refused" if upgraded.returncode else "replaced"), upgraded
        assert ("go on as they were" in upgraded.stderr) == (upgraded.returncode == 1), upgraded
        hawser("volume", "detach", "v", "--force")


def test_jobs_are_shown_awaited_and_cancelled():
    need_devices()
    with daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="256M")
        device = d.post("/v1/volumes/v/attach", mode="device", user="a")["device"]

        def fill(byte):
            with open(device, "r+b", buffering=0) as disk:
                for at in range(0, 192 << 20, 8 << 20):
                    os.pwrite(disk.fileno(), bytes([byte]) * (8 << 20), at)
        for number in range(4):
            hawser("snapshot", "create", f"v@s{number}")
            fill(number + 1)
        ended, seen = {}, set()
        for number in range(3):
            hawser("snapshot", "delete", f"v@s{number}")
            deadline = time.monotonic() + 90
            while time.monotonic() < deadline and len(ended) <= number:
                for job in hawser("job", "list", "--output=json").json():
                    if job["id"] in seen:
                        continue
                    seen.add(job["id"])
                    if number == 1:
                        hawser_any("job", "cancel", job["id"])
                    hawser_any("job", "wait", job["id"], "--quiet")
                ended = {job["id"]: job for job in hawser("job", "list", "--ended", "--output=json").json()}
        compare(d, "/v1/jobs?state=ended&limit=1000", "job", "list", "--ended")
        table = rows(hawser("job", "list", "--ended").out)
        assert {row["OF"] for row in table} == {"v"} and len(table) >= 3, table
        for id, job in ended.items():
            assert compare_one(d, f"/v1/jobs/{id}", "job", "show", id)["state"] == job["state"]
            assert hawser_any("job", "wait", id) == (0 if job["state"] == "concluded" else 1), job
            assert "ended" in hawser("job", "cancel", id, code=1).err
        assert hawser("job", "wait", "0" * 8 + "-0000-4000-8000-" + "0" * 12, code=1).err
        print(f"  {len(seen)} seen under way, {sorted(job['state'] for job in ended.values())}")


def hawser_any(*words):
    """@return 0 or 1: which of them is for chance to say."""
    done = subprocess.run([HAWSER, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1) and "Sanitizer" not in done.stderr, done
    return done.returncode


def test_long_lists_are_told_in_full():
    with daemon() as d:
        for number in range(1203):
            d.post("/v1/classes", name=f"c{number:04}")
        names = [row["NAME"] for row in rows(hawser("class", "list").out)]
        assert names == [f"c{number:04}" for number in range(1203)]


# ---- watching -----------------------------------------------------------------------------------

def test_a_watched_list_is_told_again_when_it_changes():
    with daemon() as d:
        watching = subprocess.Popen([HAWSER, "class", "list", "--watch", "--output=json"], stdout=subprocess.PIPE, text=True)
        try:
            assert json.loads(watching.stdout.readline()) == []
            d.post("/v1/classes", name="c")
            assert [c["name"] for c in json.loads(watching.stdout.readline())] == ["c"]
        finally:
            watching.terminate()
            watching.wait(30)
        watching = subprocess.Popen([HAWSER, "class", "list", "-w"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert watching.stdout.readline().startswith("NAME")
        pid, fd = pty.fork()  # at a terminal the screen is drawn anew
        if pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(HAWSER, [HAWSER, "class", "list", "-w"])
        out = b""
        while out.count(b"\x1b[H") < 2:
            if b"NAME" in out and out.count(b"\x1b[H") == 1:
                d.ask("POST", "/v1/classes", {"name": "k"})
            assert select.select([fd], [], [], 60)[0], out
            out += os.read(fd, 4096)
        os.write(fd, b"\x03")
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == 2
        os.close(fd)
        d.stop()
        assert watching.wait(60) == 1 and "does it run" in watching.stderr.read()  # not for ever


def test_events_are_told_and_go_on():
    with daemon() as d:
        d.post("/v1/classes", name="c")
        watching = subprocess.Popen([HAWSER, "events", "--watch", "--output=json"], stdout=subprocess.PIPE, text=True)
        try:
            first = json.loads(watching.stdout.readline())
            assert (first["kind"], first["event"], first["name"]) == ("class", "created", "c"), first
            d.delete("/v1/classes/c")
            assert json.loads(watching.stdout.readline())["event"] == "removed"
        finally:
            watching.terminate()
            watching.wait(30)
        events = hawser("events", "--output=json").json()
        assert events == d.get("/v1/events?after=0")["items"] and len(events) == 2, events
        lines = hawser("events").out.splitlines()
        assert len(lines) == 2 and lines[0].split()[3:] == ["class", "created", "c"], lines
        assert hawser("events", f"--after={events[0]['sequence']}", "--output=json").json() == events[1:]
        assert hawser("events").err == "", "nobody asked from when on"
        assert "not remembered" in hawser("events", "--after=9223372036854775807").err
        assert hawser("events", "--after=x", code=2).err and hawser("events", "more", code=2).err


# ---- what is wrong ------------------------------------------------------------------------------

def test_wrong_command_lines_are_refused_before_anything_is_asked():
    """Of every verb: too few and too many operands, options of others, values of the wrong form."""
    asked = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("ask.sock")
    listener.listen(100)
    threading.Thread(target=lambda: [asked.append(listener.accept()[0]) for _ in iter(int, 1)], daemon=True).start()
    env = {"HAWSERD_SOCKET": os.path.abspath("ask.sock")}
    lines = []
    for command, verb in commands():
        words = [command["name"], verb["name"]]
        operands = verb["operands"].split()
        fixed = [o for o in operands if not o.startswith("[")]
        right = ["x@y" if "@" in o else "x" for o in fixed]
        if fixed:
            lines.append(words + right[:-1])
        if not operands or "..." not in operands[-1]:
            lines.append(words + ["x@y" if "@" in o else "x" for o in operands] + ["more"])
        lines.append(words + right + ["--no-such-option"])
        lines.append(words + right + ["-Z"])
        for option in command["options"]:
            here = option in options_of(command, verb)
            name = "--" + option["name"]
            if not here:
                lines.append(words + right + [name + ("" if option["flag"] else "=1")])
            elif option["flag"]:
                lines.append(words + right + [name + "=yes"])
            else:
                lines.append(words + right + [name])
                if option["choices"]:
                    lines.append(words + right + [name + "=nothing-of-these"])
                if option["value"] in ("SIZE", "N", "PERCENT", "TIME"):
                    lines += [words + right + [f"{name}={bad}"] for bad in ("-1", "x", "1x", "9" * 30, "")]
    for name in {command["name"] for command, _ in commands() if not command["synopsis"].startswith("-")}:
        lines.append([name])
    for line in lines:
        failed = hawser(*line, code=2, env=env, timeout=30)
        assert failed.out == "" and failed.err.startswith(f"hawser {line[0]}: error: "), (line, failed.err)
    assert not asked, "hawserd was asked"
    print(f"  {len(lines)} command lines")


def test_hostile_names_are_refused_in_words():
    names = ["../x", "a/b", "%2e%2e", "\x1b[31m", "x" * 3000, "?state=ended", "#", "a b", "ä", "-", ".", "..", "*", "a\nb"]
    draw = random.Random(7)
    names += ["".join(chr(draw.choice([draw.randrange(1, 127), draw.randrange(128, 1000)])) for _ in range(draw.randrange(1, 300)))
              for _ in range(20)]
    with daemon() as d:
        d.pool()
        for name in names:
            for words in (("volume", "show"), ("pool", "delete"), ("class", "create"), ("job", "cancel")):
                failed = hawser(*words, "--", name, code=1)
                assert failed.out == "" and "error: " in failed.err and "\x1b" not in failed.err, (words, name, failed.err)
        failed = subprocess.run([HAWSER, "volume", "create", b"\xff\xfe"], capture_output=True, timeout=60)
        assert failed.returncode == 1 and b"UTF-8" in failed.stderr, failed
        for words in (("volume", "create", "v", "--label=x"), ("volume", "create", "v", "--from=./none.qcow2"),
                      ("volume", "create", "v", "--label==x\n"), ("volume", "resize", "v", "10X")):
            assert hawser(*words, code=1).err
        assert d.get("/v1/volumes")["items"] == d.get("/v1/classes")["items"] == []


def test_without_hawserd_the_message_says_what_to_do():
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("dead.sock")  # nobody listens any more
    listener.close()
    for path in ("none.sock", "dead.sock"):
        failed = hawser("volume", "list", f"--socket={path}", code=1)
        assert "systemctl start hawserd" in failed.err and "HAWSERD_SOCKET" in failed.err and path in failed.err
    open("file.sock", "w").close()
    assert hawser("volume", "list", "--socket=file.sock", code=1).err
    assert "too long" in hawser("volume", "list", "--socket=" + "x" * 200, code=1).err
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("other.sock")
    listener.listen(10)

    def answer():
        for text in (b"SSH-2.0-x\r\n", b"", b"HTTP/1.1 200 OK\r\n\r\n{not json", b"HTTP/1.1 500 x\r\n\r\n"):
            client = listener.accept()[0]
            client.recv(4096)
            client.sendall(text)
            client.close()
    thread = threading.Thread(target=answer)
    thread.start()
    assert "no hawserd" in hawser("volume", "show", "v", "--socket=other.sock", code=1).err
    assert "no hawserd" in hawser("volume", "show", "v", "--socket=other.sock", code=1).err
    assert hawser("volume", "show", "v", "--socket=other.sock", code=1).err
    assert "gave no reason" in hawser("volume", "show", "v", "--socket=other.sock", code=1).err
    thread.join(60)


def test_another_user_is_told_to_be_root():
    if os.geteuid() != 0:
        raise Skip("needs root")
    with daemon() as d:
        os.chmod(".", 0o711)
        os.chmod(d.rest, 0o600)
        done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", HAWSER, "volume", "list"],
                              capture_output=True, text=True, timeout=60)
        if "setpriv" in done.stderr or done.returncode == 127 or "Permission denied" in done.stderr:
            raise Skip("the program is not for others here")
        assert done.returncode == 1 and "as root" in done.stderr, done


if __name__ == "__main__":
    main(globals())
