# Sourced by scripts in the lab (. "$LAB_LIB"): the few words that they share.

# step WORDS...: says what comes, with the machine's uptime.
step() {
    local up
    read -r up _ </proc/uptime
    printf '[%6.2f] %s\n' "$up" "$*"
}

# A command that fails unforeseen ends a script (set -e); this says which one. A script that has more
# to show then defines on_failure.
set -E
trap 'told_failure $? "${BASH_SOURCE[0]##*/}" $LINENO "$BASH_COMMAND"' ERR
told_failure() {
    [[ $- == *e* ]] || return 0 # in $(...), where a failure ends nothing
    trap - ERR
    echo "FAIL: $2, line $3: exit code $1 of: $4"
    ! declare -F on_failure >/dev/null || on_failure
}

# quietly COMMAND...: what it prints is of interest only when it fails.
quietly() {
    local printed result=0
    printed=$("$@" 2>&1) || result=$?
    [ "$result" = 0 ] || { echo "$printed"; fail "exit code $result of: $*"; }
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
