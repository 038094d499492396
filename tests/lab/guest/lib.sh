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

# eventually SECONDS COMMAND...: until it succeeds.
eventually() {
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$until" ] || fail "not within the time given: $*"
        sleep 0.1
    done
}

drop_caches() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
}
