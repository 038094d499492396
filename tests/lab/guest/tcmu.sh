# Sourced by scripts in the lab (. "$LAB_SOURCE/tests/lab/guest/tcmu.sh"): disks by the SCSI target, and by nbd.

# state NAME MEMBER: of an attachment's state file ("pid") or of its volume ("device").
state() {
    python3 -c 'import json, sys
state = json.load(open(f"/run/hawser/{sys.argv[1]}/state.json"))
print(state.get(sys.argv[2], state["volumes"][0].get(sys.argv[2])))' "$1" "$2"
}

# keeper NAME: the process number of the attachment's keeper.
keeper() {
    local parent
    parent=$(awk '/^PPid:/ {print $2}' "/proc/$(state "$1" pid)/status")
    [ "$(cat "/proc/$parent/comm")" = hawser-keeper ] || fail "the engine's parent is no keeper: $(cat "/proc/$parent/comm")"
    echo "$parent"
}

# nothing_left: of anything that was ever attached.
nothing_left() {
    local found
    found=$(find /sys/kernel/config/target/core -mindepth 2 -maxdepth 2 -type d -path '*/user_*' 2>/dev/null || true)
    [ -z "$found" ] || fail "a backstore is left: $found"
    ! compgen -G '/sys/kernel/config/target/loopback/naa.*' >/dev/null || fail "a loopback target is left"
    ! compgen -G '/sys/block/sd*' >/dev/null || fail "a disk is left: $(ls -d /sys/block/sd*)"
    ! compgen -G '/sys/class/uio/uio*' >/dev/null || fail "a uio device is left"
    ! compgen -G '/sys/block/nbd*/pid' >/dev/null || fail "a network block device is left: $(grep . /sys/block/nbd*/pid)"
    [ -z "$(ls -A /run/hawser 2>/dev/null)" ] || fail "files are left: $(ls -AR /run/hawser)"
    eventually no_process
}

no_process() {
    ! pgrep '^hawser' >/dev/null
}

# no_errors: none of a disk or a file system reached the kernel's log.
no_errors() {
    local found
    found=$(dmesg | grep -iE 'I/O error|Buffer I/O|EXT4-fs (error|warning)|XFS .*(error|corrupt|shutdown)|remounting|offline' || true)
    [ -z "$found" ] || fail "the kernel told of errors: $found"
}
