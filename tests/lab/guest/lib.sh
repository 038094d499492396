# Sourced by scripts in the lab (. "$LAB_LIB"): the few words that they share.

# step WORDS...: says what comes, with the machine's uptime.
step() {
    local up
    read -r up _ </proc/uptime
    printf '[%6.2f] %s\n' "$up" "$*"
}

fail() {
    echo "FAIL: $*"
    exit 1
}

# What nobody waits for in vain: a test is not to fail because the machine is slow.
PATIENCE_S=90

# eventually COMMAND...: until it succeeds.
eventually() {
    local until=$((SECONDS + PATIENCE_S))
    until "$@"; do
        [ "$SECONDS" -lt "$until" ] || fail "not within $PATIENCE_S s: $*"
        sleep 0.1
    done
}

drop_caches() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
}
