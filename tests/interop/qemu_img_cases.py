"""The picked command lines of qemu_img.py.

A line's first character says how both programs are held to it:

  =  each on its own twin; output, messages and exit code agree to the byte
  ~  each on its own twin; output and exit code agree, and both tell of a failure or neither does
  ?  both on the same images, nothing left out: for commands that only read
  !  another command, run in both folders

SPDX-License-Identifier: Apache-2.0
"""

FIXTURES = [
    "qemu-img create -q -f qcow2 base 1M",
    "qemu-io -c 'write -P 1 0 128k' base",
    "qemu-img create -q -f qcow2 -b base -F qcow2 top 2M",
    "qemu-io -c 'write -P 2 64k 4k' -c 'write -z 512k 64k' top",
    "qemu-img create -q -f raw raw 1M",
    "qemu-img create -q -f raw raw2 2M",
    "qemu-io -f raw -c 'write -P 5 1500000 1' raw2",
    "qemu-img create -q -f qcow2 empty 1M",
    "qemu-img create -q -u -f qcow2 -b gone -F qcow2 orphan 1M",
    "mkdir folder",
    "cp base folder/base",
    "qemu-img create -q -f qcow2 -b base -F qcow2 folder/below",
]

SIZES = ["1.5", "1.1k", ".5k", "5.", "0x", "0x10k", "' 5k'", "+5k", "5K", "5m", "5g", "1.5b", "0.1",
         "18446744073709551615", "18446744073709551616", "'5 k'", "1k5", "0X10", "1.k", "010",
         "0.000001k", "0x1p3", "inf", "nan", "1,5", "1_0", "9223372036854775807",
         "9223372036854775808", "0", "1X", "''", "1e3", "1b", "1kb", "7E", "8E", "9E", "513"]

HUMAN = ["1000k", "1023k", "1023.5k", "1048575", "1047552", "10239", "102399", "1", "1000", "1001",
         "123456789", "99.95k", "999.5k", "9.995k", "2T", "1.5G"]

OPTIONS = [
    "foo=1", "foo", "cluster_size=3000", "cluster_size=4M", "cluster_size=0", "cluster_size=help",
    "cluster_size=4k,,", ",cluster_size=4k", "''", "cluster_size=4k -o refcount_bits=1",
    "cluster_size=1024 -o cluster_size=2048", "cluster_size=64K,cluster_size=bad",
    "compat=0.10,extended_l2=on", "compat=v2", "compat=0.10", "compat=v3", "compat=1.1",
    "compat=0.11", "compat=v2,lazy_refcounts=on", "compat=v2,refcount_bits=8",
    "compat=v2,compression_type=zstd", "compat=v2,data_file=a", "compression_type=zstd",
    "compression_type=lz4", "preallocation=foo", "preallocation=full", "preallocation=falloc",
    "preallocation=metadata", "preallocation=off", "lazy_refcounts", "nolazy_refcounts",
    "lazy_refcounts=maybe", "lazy_refcounts=yes", "lazy_refcounts=y", "lazy_refcounts=true",
    "lazy_refcounts=ON", "refcount_bits=7", "refcount_bits=x", "refcount_bits=-1",
    "refcount_bits=1k", "refcount_bits=128", "refcount_bits=1", "refcount_bits=64",
    "extended_l2=on,cluster_size=4k", "extended_l2=on,cluster_size=16k", "data_file_raw=on",
    "backing_fmt=qcow2", "backing_file=base", "backing_file=base,backing_fmt=qcow2",
    "backing_file=", "backing_file", "size", "cluster_size", "size=2M", "help=on", "nocow=off",
    "extent_size_hint=0", "cluster_size=512,refcount_bits=32,lazy_refcounts=on",
]

PICKED = {
    "standard": [
        "=", "=foo", "=-x", "=--bogus info", "=--image-opts", "=-T", "=--trace", "=-qV", "=--ver",
        "=-V", "?-- info base",
    ],
    "create": [
        "=create", "=create -f qcow2 x", "=create -f qcow2 x 1M", "=create -f qcow2 x 1M",
        "=create -q -f raw x 1M", "=create -f raw x 2M", "=create -f vmdkk x 1M", "=create x 5k",
        "=create -f qcow2 x -5", "=create -f qcow2 x 1M 2M", "=create -x", "=create -f",
        "=create --object", "=create --b x", "=create --foo", "=create --object=x=1 x 1M",
        "=create --object foo x 1M", "=create x -f qcow2 1M", "=create -f qcow2 -f raw x 1M",
        "=create -uf qcow2 -b nope -F qcow2 -q y 1M", "=create -f qcow2 -- -x 1M", "!rm ./-x",
        "=create -f qcow2 nodir/a 1M", "=create -f qcow2 folder 1M", "=create -f raw foo:bar 1M",
        "=create -f raw file:x 1M", "=create -f qcow2 '' 1M", "=create -f qcow2 \"a'b\" 1M",
        "=create -f file x 1M", "=create -f raw -o preallocation=full x 1M",
        "=create -f raw -o preallocation=falloc x 1M", "=create -f raw -o foo=full x 1M",
        "=create -f raw -o preallocation=metadata x 1M", "!rm -f x",
        "=create -f raw -o preallocation=bad x 1M", "!rm -f x", "=create -f qcow2 -o size=5M x",
        "=create -f qcow2 -o size=5M x 1M", "=create -f qcow2 -o size=1G,size=2G x",
        "=create -f qcow2 -o size=-1 x", "=create -f qcow2 -o size=1.5k x",
        "=create -f qcow2 -o cluster_size=512 x 100G",
        "=create -f qcow2 -o cluster_size=512 y 1T", "!rm -f y", "=create -f qcow2 y 3P", "!rm -f y",
    ],
    "create-backing": [
        "=create -f qcow2 -b base x", "=create -f qcow2 -b base -F qcow2 x",
        "=create -f qcow2 -b nope -F qcow2 y", "=create -f qcow2 -b nope -F qcow2 y 5M",
        "=create -u -f qcow2 -b nope -F qcow2 y 5M", "=create -u -f qcow2 -b nope -F qcow2 y",
        "=create -u -f qcow2 -b nope y 1M", "=create -f qcow2 -b base -F foo z",
        "=create -f raw -b base -F qcow2 z", "=create -f raw -b base -F qcow2 z 1M",
        "=create -f qcow2 -b base -o backing_file=base -F qcow2 x",
        "=create -f qcow2 -b z -F qcow2 z", "=create -f qcow2 -b base -F qcow2 x 2M",
        "=create -f qcow2 -b base -F qcow2 x 512k", "=create -f qcow2 -b base -b top -F qcow2 x 1M",
        "=create -f raw -b '' z 1M", "=create -f qcow2 -b '' z 1M", "=create -f qcow2 -b raw z",
        "=create -f qcow2 -b raw -F raw x", "=create -f qcow2 -b nope z 1M",
        "=create -u -f qcow2 -b a,b -F raw x 1M", "?info x",
        "=create -f qcow2 -b base -F qcow2 folder/x", "=create -f qcow2 -b ../base -F qcow2 folder/y",
        "?info folder/y", "?map folder/y", "?map --output=json folder/y",
    ],
    "create-sizes": [f"=create -f raw x {size}" for size in SIZES],
    "create-options": [line for option in OPTIONS
                       for line in (f"=create -f qcow2 -o {option} new 1M", "!rm -f new")],
    "human-sizes": [line for size in HUMAN for line in (f"=create -q -f qcow2 new {size}",
                                                        "?info new")],
    "info": [
        "?info base", "?info --output=json base", "?info top", "?info --output=json top", "?info raw",
        "?info --output=json raw", "?info --backing-chain top",
        "?info --backing-chain --output=json top", "?info nope", "?info", "?info a b",
        "?info --output=foo base", "?info -f raw base", "?info -f raw --output=json top",
        "?info -f foo base", "?info --image-opts driver=qcow2,file.filename=top",
        "?info --image-opts file.filename=top", "?info --image-opts filename=top",
        "?info --image-opts top", "?info --image-opts -f raw top", "?info file:top", "?info -U top",
        "?info -f qcow2 raw", "?info folder", "?info foo:x",
        "?info --image-opts driver=foo,file.filename=top", "?info --image-opts driver=qcow2",
        "?info --image-opts driver=qcow2,file.filename=nope", "?info null-co://",
        "?info --image-opts driver=null-co,size=1M", "?info -f raw null-co://",
        "?info --image-opts driver=raw,offset=512,size=1024,file.filename=raw", "?info -f file raw",
        "?info -f file --output=json raw", "?info orphan", "?info --output=json orphan",
        "?info --backing-chain orphan", "?info -Ux base", "?info -Uf", "?info --outp=json base",
        "?info --for qcow2 base", "?info -fqcow2 base", "?info base -- -U", "?info -f=qcow2 base",
        "?info folder/below", "?info --output=json folder/below", "?info --backing-chain folder/below",
        "?info ./folder/../top",
        "?info 'json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"top\"}}'",
    ],
    "check": [
        "?check base", "?check --output=json base", "?check top", "?check empty", "?check nope",
        "?check --output=json empty", "?check", "?check -r foo base", "=check -r leaks base",
        "=check -r all --output=json base", "?check -q base", "?check -U base",
        "?check -U -r all base", "?check -T foo base", "?check -T none base", "?check -f raw base",
        "?check -f qcow2 raw", "?check raw", "?check --output=json raw", "?check --output=xml base",
        "?check orphan", "?check --format=qcow2 base", "?check --repair",
    ],
    "map": [
        "?map base", "?map --output=json base", "?map top", "?map --output=json top", "?map raw",
        "?map --output=json raw", "?map raw2", "?map nope", "?map",
        "?map --start-offset=64k --max-length=64k top", "?map -s 64k -l 64k --output=json top",
        "?map --start-offset=x top", "?map --start-offset=-1 top", "?map --start-offset=5M top",
        "?map --max-length=0 top", "?map --start-offset=100 --max-length=1000 --output=json top",
        "?map -f raw --output=json base", "?map --output=json raw -s 2M", "?map orphan",
        "?map --output=json folder/below", "?map folder/below", "?map --max-length=9E top",
    ],
    "compare": [
        "?compare a", "?compare", "?compare base top", "?compare base base", "?compare empty raw",
        "?compare -s empty raw", "?compare -s base top", "?compare raw top", "?compare -q raw top",
        "?compare -p empty raw", "?compare -p base top", "?compare nope raw", "?compare raw nope",
        "?compare -f foo raw raw", "?compare -f raw raw raw", "?compare -T bad raw raw",
        "?compare raw raw2", "?compare raw2 raw", "?compare -s raw raw2", "?compare -U raw2 raw",
        "?compare -F qcow2 raw2 raw", "?compare -a", "?compare -s base base", "?compare orphan raw",
        "?compare --image-opts driver=raw,file.filename=raw driver=raw,file.filename=raw",
    ],
    "resize": [
        "=resize", "=resize base", "=resize base 2M", "=resize base +1M", "=resize base -1M",
        "=resize base x", "=resize base -x",
        "=resize base --", "=resize nope 1M", "=resize -q base +1k", "=resize base 0",
        "=resize raw 2M", "=resize -f raw raw 3M", "=resize --preallocation=foo base 4M",
        "=resize --preallocation=full -f raw --shrink raw 1M", "=resize base +0",
        "=resize base 100", "=resize base 2M 3M", "=resize -f foo base 2M", "=resize base 9E",
        "=resize base 5E", "=resize base +9E", "=resize --shrink base 513", "=resize base -9M",
        "=resize --foo base 1M", "=resize -f base 1M", "=resize orphan 2M", "=resize base 1T",
        "=resize -f raw raw 1000", "=resize --shrink -f raw raw 1000", "=resize top +1M",
        "=resize --image-opts driver=qcow2,file.filename=top +1M",
        "=resize --image-opts -f qcow2 driver=qcow2,file.filename=top +1M",
    ],
}
