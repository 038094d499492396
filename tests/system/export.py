#!/usr/bin/env python3
"""`hawser export` as far as it needs no kernel: what is refused, in words and with nothing left, and what
is saved. The rest is tests/lab/tests/export-iscsi.
"""
import json
import os
from lib import hawser, main

ME = "iqn.2026-11.org.example:me"
SECRET = "very-secret-123"


def scratch():
    folder = os.getcwd()
    os.environ["HAWSER_STATE_DIR"] = f"{folder}/state"
    hawser("create", "-q", f"{folder}/a.qcow2", "64M")
    return folder


def refused(word, *arguments, code=1):
    done = hawser("export", *arguments, code=code)
    assert word in done.err, (word, done.err)
    assert SECRET not in done.err + done.out
    run = os.environ["HAWSER_RUN_DIR"]
    assert not os.path.isdir(run) or os.listdir(run) == [], arguments


def test_what_is_wrong_is_told_and_leaves_nothing():
    folder = scratch()
    image, secrets = f"{folder}/a.qcow2", f"{folder}/chap"
    refused("--iscsi and --nvme", "--iscsi", "--nvme", image, code=2)
    refused("--iscsi, --nvme, --fc or --vhost-scsi", image, code=2)
    refused("IMAGE is missing", "--iscsi", code=2)
    refused("--restore and --stop", "--restore", "--stop", code=2)
    refused("--any-initiator", "--iscsi", image)
    refused("somebody", "--iscsi", "-i", "somebody", image)
    refused("is no iSCSI name", "--iscsi", "-i", ME, "-t", "disk", image)
    refused("portal 'host:3260'", "--iscsi", "-i", ME, "-p", "host:3260", image)
    refused("fcloop", "--iscsi", "--fcloop", "-i", ME, image)
    refused("is no name", "--iscsi", "--name", "../x", "-i", ME, image)
    refused("no/such", "--iscsi", "-i", ME, "--secrets", "no/such", image)
    with open(secrets, "w") as file:
        file.write(f"user=me\npassword={SECRET}\nmutual-user=t\nmutual-password={SECRET}\n")
    os.chmod(secrets, 0o644)
    refused("chmod 600", "--iscsi", "-i", ME, "--secrets", secrets, image)
    os.chmod(secrets, 0o600)
    refused("must differ", "--iscsi", "-i", ME, "--secrets", secrets, image)
    refused("no export 'x' is saved", "--restore", "x")


def test_what_is_saved_and_broken_is_told_alone_and_can_be_forgotten():
    folder = scratch()
    exports = f"{folder}/state/exports"
    os.makedirs(exports, mode=0o700)
    good = {"version": 1, "name": "gone", "fabric": "iscsi", "options": {"initiators": ME, "target": ME},
            "images": [f"{folder}/no-such.qcow2"], "volume": {"read-only": False, "queues": 0}, "secrets": SECRET}
    texts = {"empty": "", "old": '{"version": 0}', "renamed": json.dumps(good), "gone": json.dumps(good)}
    for name, text in texts.items():
        with open(f"{exports}/{name}.json", "w") as file:
            file.write(text)
        os.chmod(f"{exports}/{name}.json", 0o600)
    done = hawser("export", "--restore", "--output=json", code=1)
    results = {one["name"]: one for one in done.json()}
    assert set(results) == set(texts) and all(one["result"] == "failed" for one in results.values()), results
    assert SECRET not in done.out + done.err
    listed = {one["name"]: one["state"] for one in hawser("list", "--output=json").json()}
    assert listed == {"empty": "unreadable", "old": "unreadable", "renamed": "unreadable", "gone": "saved"}, listed
    os.chmod(f"{exports}/gone.json", 0o666)
    assert "writable by nobody else" in hawser("export", "--restore", "gone", code=1).err
    for name in texts:
        hawser("detach", name)
    assert os.listdir(exports) == []
    hawser("detach", "gone", code=1)
    assert hawser("export", "--restore", "--output=json").json() == []


main(globals())
