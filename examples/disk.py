#!/usr/bin/env python3
"""libhawser from Python, by ctypes: blocking calls, and a queue inside of an asyncio loop.

  disk.py IMAGE      makes IMAGE, a qcow2 of 64 MiB, writes to it and reads it again
"""
import asyncio
import ctypes
import mmap
import os
import sys

lib = ctypes.CDLL(os.environ.get("LIBHAWSER", "libhawser.so.0"))

OP_READ, OP_WRITE, OP_ZERO, OP_DISCARD, OP_FLUSH = 1, 2, 3, 4, 5


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("text", ctypes.c_char * 768)]


class Image(ctypes.Structure):
    _fields_ = [("path", ctypes.c_char_p), ("format", ctypes.c_char_p), ("allow", ctypes.c_void_p),
                ("force_share", ctypes.c_bool), ("snapshot", ctypes.c_char_p),
                ("trust_names", ctypes.c_bool), ("probe_raw", ctypes.c_bool), ("cache", ctypes.c_char_p)]


class Create(ctypes.Structure):
    _fields_ = [("size_bytes", ctypes.c_uint64), ("backing", ctypes.c_char_p),
                ("backing_format", ctypes.c_char_p), ("options", ctypes.c_void_p),
                ("unsafe_backing", ctypes.c_bool), ("overwrite", ctypes.c_bool),
                ("progress", ctypes.c_void_p), ("progress_arg", ctypes.c_void_p)]


class QueueOptions(ctypes.Structure):
    _fields_ = [("struct_bytes", ctypes.c_size_t), ("depth", ctypes.c_uint32), ("flags", ctypes.c_uint32)]


class Request(ctypes.Structure):
    _fields_ = [("tag", ctypes.c_uint64), ("offset", ctypes.c_uint64), ("length", ctypes.c_uint64),
                ("buffer", ctypes.c_void_p), ("iov", ctypes.c_void_p), ("iov_count", ctypes.c_uint32),
                ("op", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("reserved", ctypes.c_uint32 * 3)]


class Completion(ctypes.Structure):
    _fields_ = [("tag", ctypes.c_uint64), ("result", ctypes.c_int64)]


lib.hws_disk_size.restype = ctypes.c_uint64
lib.hws_disk_size.argtypes = [ctypes.c_void_p]
lib.hws_disk_read.argtypes = lib.hws_disk_write.argtypes = [
    ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p]
lib.hws_queue_submit.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint]
lib.hws_queue_reap.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint]


def call(function, *arguments):
    """Calls a function whose last argument is the error, and raises OSError with its text."""
    error = Error()
    result = function(*arguments, ctypes.byref(error))
    if result < 0:
        raise OSError(-result, error.text.decode())
    return result


class Disk:
    """An open image. Python's lock is not held during calls: several threads may use one."""

    def __init__(self, path):
        self.handle = ctypes.c_void_p()
        image = Image(path=os.fsencode(path))
        call(lib.hws_disk_open, ctypes.byref(image), None, ctypes.byref(self.handle))

    def size(self):
        return lib.hws_disk_size(self.handle)

    def read(self, offset, length):
        buffer = ctypes.create_string_buffer(length)
        call(lib.hws_disk_read, self.handle, offset, length, buffer, 0)
        return buffer.raw

    def write(self, offset, data):
        call(lib.hws_disk_write, self.handle, offset, len(data), bytes(data), 0)

    def close(self):
        handle, self.handle = self.handle, None
        call(lib.hws_disk_close, handle)


class Queue:
    """Requests that can be awaited."""

    def __init__(self, disk, depth=32):
        self.handle, self.waiting, self.next_tag = ctypes.c_void_p(), {}, 0
        self.room = asyncio.Semaphore(depth)
        options = QueueOptions(struct_bytes=ctypes.sizeof(QueueOptions), depth=depth)
        call(lib.hws_queue_open, disk.handle, ctypes.byref(options), ctypes.byref(self.handle))
        self.fd = lib.hws_queue_fd(self.handle)
        asyncio.get_running_loop().add_reader(self.fd, self.reap)

    def reap(self):
        done = (Completion * 32)()
        for completion in done[:lib.hws_queue_reap(self.handle, done, 32)]:
            self.waiting.pop(completion.tag).set_result(completion.result)

    async def submit(self, op, offset=0, buffer=None):
        """@buffer writable and contiguous; it must not be touched until this has returned."""
        async with self.room:
            tag, self.next_tag = self.next_tag, self.next_tag + 1
            request = Request(tag=tag, op=op, offset=offset)
            if buffer is not None:
                request.length = len(buffer)
                request.buffer = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
            self.waiting[tag] = asyncio.get_running_loop().create_future()
            if lib.hws_queue_submit(self.handle, ctypes.byref(request), 1) != 1:
                raise RuntimeError("the queue takes no request")
            result = await self.waiting[tag]
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    def close(self):
        asyncio.get_running_loop().remove_reader(self.fd)
        call(lib.hws_queue_close, self.handle)


async def use_queue(disk):
    queue = Queue(disk)
    # One mapping, 64 pieces of it: 64 writes side by side, a flush, 64 reads.
    out, back = mmap.mmap(-1, 64 * 65536), mmap.mmap(-1, 64 * 65536)
    out.write(os.urandom(64 * 65536))
    pieces = [slice(i * 65536, (i + 1) * 65536) for i in range(64)]
    await asyncio.gather(*(queue.submit(OP_WRITE, 8 * 2**20 + piece.start, memoryview(out)[piece])
                           for piece in pieces))
    await queue.submit(OP_FLUSH)
    await asyncio.gather(*(queue.submit(OP_READ, 8 * 2**20 + piece.start, memoryview(back)[piece])
                           for piece in pieces))
    queue.close()
    assert out[:] == back[:], "what was read is not what was written"


def main():
    path = sys.argv[1]
    call(lib.hws_create, ctypes.byref(Image(path=os.fsencode(path))),
         ctypes.byref(Create(size_bytes=64 * 2**20)), None)
    disk = Disk(path)
    disk.write(5, b"blocking")
    assert disk.read(0, 16) == b"\0" * 5 + b"blocking" + b"\0" * 3
    try:
        disk.read(disk.size(), 1)
        raise SystemExit("a read past the end did not fail")
    except OSError as error:
        print("as it should be:", error.strerror)
    asyncio.run(use_queue(disk))
    disk.close()
    print("all is well")


if __name__ == "__main__":
    main()
