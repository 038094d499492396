"""Writes records of which each is synced; the log tells what must be there."""
import os, sys, zlib
path, log, stop = sys.argv[1:4]
out = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
with open(log, "w", buffering=1) as told:
    n = 0
    while not os.path.exists(stop):
        block = os.urandom(4096)
        os.pwrite(out, block, (n * 7919 % 4096) * 4096)
        os.fsync(out)
        told.write(f"{n * 7919 % 4096} {zlib.crc32(block)}\n")
        n += 1
