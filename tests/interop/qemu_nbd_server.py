"""An NBD server that answers what it is told to, for clients that ask for a list.

LISTS has what servers say: good, odd, broken and hostile; every client must take it alike. SPDX-License-Identifier:
Apache-2.0
"""
import os
import socket
import struct
import threading

OPTION, REPLY = b"IHAVEOPT", 0x0003e889045565a9
ABORT, LIST, INFO, STRUCTURED, CONTEXTS = 2, 3, 6, 8, 9
ACK, ERROR = (1, b""), 0x80000000


def name(text, description=b""):
    return 2, struct.pack(">I", len(text)) + text + description


def info(size, flags, blocks=(1, 4096, 1 << 25), *more):
    replies = [(3, struct.pack(">HQH", 0, size, flags))]
    if blocks:
        replies.append((3, struct.pack(">HIII", 3, *blocks)))
    return replies + list(more) + [ACK]


def contexts(*names):
    return [(4, struct.pack(">I", number) + text) for number, text in enumerate(names)] + [ACK]


def raw(option, kind, length, data=b""):
    return struct.pack(">QIII", REPLY, option, kind, length) + data


def one(**answers):
    """A server of one export that is good but for the answers given."""
    good = {"structured": [ACK], "list": [name(b"a"), ACK], "info": info(5, 1), "contexts": contexts(b"base:allocation")}
    good.update(answers)
    return Script({STRUCTURED: good["structured"], LIST: good["list"], INFO: good["info"], CONTEXTS: good["contexts"]})


class Script:
    """@answers: of an option's number the replies, bytes as they are, or None to hang up."""

    def __init__(self, answers, greeting=None, flags=3):
        self.answers, self.greeting, self.flags = answers, greeting, flags

    def stream(self):
        """What the server sends to who asks as nbd_client_list() does; for the fuzzer's corpus."""
        if self.greeting is not None:
            return self.greeting
        sent = b"NBDMAGIC" + OPTION + struct.pack(">H", self.flags)
        for option in (STRUCTURED, LIST, INFO, CONTEXTS, CONTEXTS):
            sent += self.bytes(option) or b""
        return sent

    def bytes(self, option):
        answer = self.answers.get(option, [(ERROR | 1, b"")])
        if answer is None or isinstance(answer, bytes):
            return answer
        return b"".join(raw(option, kind, len(data), data) for kind, data in answer)

    def talk(self, s):
        if self.greeting is not None:
            s.sendall(self.greeting)
            return
        s.sendall(b"NBDMAGIC" + OPTION + struct.pack(">H", self.flags))
        exact(s, 4)
        while True:
            _, option, length = struct.unpack(">8sII", exact(s, 16))
            exact(s, length)
            answer = self.bytes(option)
            if answer is None or option == ABORT:
                return
            s.sendall(answer)

    def serve_one(self, path):
        """Listens at @path; the thread that serves one client, to be joined."""
        if os.path.exists(path):
            os.unlink(path)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen()
        listening.settimeout(30)

        def run():
            try:
                s, _ = listening.accept()
                with s:
                    s.settimeout(30)
                    self.talk(s)
            except OSError:
                pass
            finally:
                listening.close()
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


def exact(s, count):
    got = b""
    while len(got) < count:
        part = s.recv(count - len(got))
        if not part:
            raise ConnectionError
        got += part
    return got


OLD_STYLE = b"NBDMAGIC" + struct.pack(">QQI", 0x420281861253, 1 << 20, 3) + bytes(124)

LISTS = {
    "two": Script({STRUCTURED: [ACK], LIST: [name(b"a"), name(b"b", b"what b is"), ACK], INFO: info(1 << 20, 1),
                   CONTEXTS: contexts(b"base:allocation", b"qemu:dirty-bitmap:x y")}),
    "none": one(list=[ACK]),
    "simple replies only": one(structured=[(ERROR | 1, b"")]),
    "structured denied": one(structured=[(ERROR | 2, b"go")]),
    "all flags": one(info=info(2**64 - 1, 0xffff)),
    "no flags": one(info=info(5, 0)),
    "names": one(list=[name(b"it's\n\x01\xff"), ACK], contexts=contexts(b"a b\n")),
    "info unsupported": one(info=[(ERROR | 1, b"")]),
    "info unknown": one(info=[(ERROR | 6, b"no such")]),
    "info twice": one(info=info(5, 1, (1, 4096, 1 << 25), (3, struct.pack(">HQH", 0, 7, 3)))),
    "info then error": one(info=[(3, struct.pack(">HQH", 0, 5, 1)), (ERROR | 6, b"late")]),
    "info without export": one(info=[ACK]),
    "info of other kinds": one(info=info(5, 1, (1, 4096, 1 << 25), (3, struct.pack(">H", 77) + b"x"),
                                         (3, struct.pack(">H", 1) + b"name"), (3, struct.pack(">H", 2) + b"text"))),
    "no block sizes": one(info=info(5, 3, None)),
    "no contexts": one(contexts=[ACK]),
    "contexts unsupported": one(contexts=[(ERROR | 1, b"")]),
    "contexts then error": one(contexts=[(4, bytes(4) + b"x:y"), (ERROR | 3, b"")]),
    "long context": one(contexts=contexts(b"x" * 5000)),
    "list unsupported": one(list=[(ERROR | 1, b"what")]),
    "list unsupported later": one(list=[name(b"a"), (ERROR | 1, b"late")]),
    "list denied later": one(list=[name(b"a"), (ERROR | 2, b"late")]),
    "list acknowledged with data": one(list=[(1, b"xx")]),
    "list of another kind": one(list=[(3, b"xx"), ACK]),
    "list without a length": one(list=[(2, b"ab"), ACK]),
    "list with a wrong length": one(list=[(2, struct.pack(">I", 50) + b"n"), ACK]),
    "list with a long name": one(list=[name(b"n" * 4097), ACK]),
    "list with the longest name": one(list=[name(b"n" * 4096, b"d" * 4096), ACK]),
    "list with a long description": one(list=[name(b"n", b"d" * 4097), ACK]),
    "list without end": one(list=raw(LIST, 2, 0xffffffff)),
    "error without end": one(list=raw(LIST, ERROR | 2, 0xffffffff, b"z" * 100)),
    "structured of another kind": one(structured=[(3, b"")]),
    "structured of an unknown kind": one(structured=[(99, b"")]),
    "structured with data": one(structured=[(1, b"xx")]),
    "info acknowledged with data": one(info=[(3, struct.pack(">HQH", 0, 5, 1)), (1, b"late")]),
    "info of another kind": one(info=[(4, struct.pack(">HQH", 0, 5, 1)), ACK]),
    "info of one byte": one(info=[(3, b"x"), ACK]),
    "info export too short": one(info=[(3, struct.pack(">HQ", 0, 5)), ACK]),
    "info export too long": one(info=[(3, struct.pack(">HQHH", 0, 5, 1, 1)), ACK]),
    "info blocks too short": one(info=[(3, struct.pack(">HI", 3, 5)), ACK]),
    "contexts of another kind": one(contexts=[(2, b"xx"), ACK]),
    "contexts acknowledged with data": one(contexts=[(1, b"xx")]),
    "context of two bytes": one(contexts=[(4, b"xx"), ACK]),
    "context without a name": one(contexts=[(4, bytes(4)), ACK]),
    "answer to another question": one(list=raw(CONTEXTS, 1, 0)),
    "no magic": one(structured=b"X" * 20),
    "not fixed": Script({STRUCTURED: [ACK], LIST: [name(b"a"), ACK]}, flags=0),
    "unknown flags": Script({STRUCTURED: [ACK], LIST: [name(b"a"), ACK], INFO: info(5, 1)}, flags=0xff),
    "old style": Script({}, greeting=OLD_STYLE),
    "old style, cut": Script({}, greeting=OLD_STYLE[:50]),
    "nothing": Script({}, greeting=b""),
    "half a magic": Script({}, greeting=b"NBDM"),
    "another magic": Script({}, greeting=b"X" * 18),
    "another second magic": Script({}, greeting=b"NBDMAGIC" + b"X" * 150),
    **{f"error {number}": one(list=[(ERROR | number, b"said so" if number % 2 else b"")]) for number in range(2, 12)},
    **{f"blocks {sizes}": one(info=info(513, 1, sizes))
       for sizes in ((0, 0, 0), (3, 4096, 4096), (512, 100, 4096), (512, 512, 100), (512, 513, 1 << 25),
                     (512, 1 << 26, 1 << 25), (1 << 20, 1 << 20, 1 << 21), (1, 1 << 16, 0xffffffff))},
    **{f"hung up at {option}": Script({STRUCTURED: [ACK], LIST: [name(b"a"), ACK], INFO: info(5, 1), option: None})
       for option in (STRUCTURED, LIST, INFO, CONTEXTS)},
}

# What ours does not wait for, or take: the text and exit code 1.
REFUSED = {
    "info without end": (one(info=raw(INFO, 3, 0xffffffff)), "the server tells too much of an export"),
    "very many exports": (one(list=[name(b"%d" % number) for number in range(5000)] + [ACK]),
                          "the server lists more than 4096 exports"),
    "very many contexts": (one(contexts=contexts(*(b"%d" % number for number in range(600)))),
                           "the server has more than 512 meta contexts of an export"),
    "very many infos": (one(info=[(3, struct.pack(">H", 77))] * 100 + [ACK]), "the server tells too much of an export"),
}
