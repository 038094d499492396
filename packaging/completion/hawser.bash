# bash completion for hawser; written by tools/gen-docs from the command's tables.

_hawser_values()
{
    case $1 in
    create:--format|create:-f) echo @format ;;
    create:--options|create:-o) echo @ ;;
    create:--backing|create:-b) echo @file ;;
    create:--backing-format|create:-F) echo @format ;;
    create:--allow) echo @folder ;;
    create:--output) echo human json ;;
    info:--format|info:-f) echo @format ;;
    info:--allow) echo @folder ;;
    info:--output) echo human json ;;
    check:--format|check:-f) echo @format ;;
    check:--repair|check:-r) echo leaks all ;;
    check:--allow) echo @folder ;;
    check:--output) echo human json ;;
    convert:--format|convert:-f) echo @format ;;
    convert:--snapshot|convert:-l) echo @ ;;
    convert:--target-format|convert:-O) echo @format ;;
    convert:--options|convert:-o) echo @ ;;
    convert:--level) echo @ ;;
    convert:--size) echo @ ;;
    convert:--backing|convert:-B) echo @file ;;
    convert:--backing-format|convert:-F) echo @format ;;
    convert:--bitmap) echo @ ;;
    convert:--start) echo @ ;;
    convert:--length) echo @ ;;
    convert:--rate|convert:-r) echo @ ;;
    convert:--sparse|convert:-S) echo @ ;;
    convert:--threads) echo @ ;;
    convert:--requests|convert:-m) echo @ ;;
    convert:--allow) echo @folder ;;
    convert:--output) echo human json ;;
    compare:--format|compare:-f) echo @format ;;
    compare:--second-format|compare:-F) echo @format ;;
    compare:--snapshot) echo @ ;;
    compare:--second-snapshot) echo @ ;;
    compare:--threads) echo @ ;;
    compare:--requests|compare:-m) echo @ ;;
    compare:--allow) echo @folder ;;
    compare:--output) echo human json ;;
    map:--format|map:-f) echo @format ;;
    map:--snapshot) echo @ ;;
    map:--start-offset|map:-s) echo @ ;;
    map:--max-length|map:-l) echo @ ;;
    map:--allow) echo @folder ;;
    map:--output) echo human json ;;
    resize:--format|resize:-f) echo @format ;;
    resize:--preallocation) echo @ ;;
    resize:--allow) echo @folder ;;
    resize:--output) echo human json ;;
    commit:--format|commit:-f) echo @format ;;
    commit:--base|commit:-b) echo @file ;;
    commit:--rate|commit:-r) echo @ ;;
    commit:--allow) echo @folder ;;
    bench:--format|bench:-f) echo @format ;;
    bench:--count|bench:-c) echo @ ;;
    bench:--depth|bench:-d) echo @ ;;
    bench:--buffer-size|bench:-s) echo @ ;;
    bench:--step-size|bench:-S) echo @ ;;
    bench:--offset|bench:-o) echo @ ;;
    bench:--pattern) echo @ ;;
    bench:--flush-interval) echo @ ;;
    bench:--cache|bench:-t) echo @ ;;
    bench:--allow) echo @folder ;;
    bench:--output) echo human json ;;
    dd:--format|dd:-f) echo @format ;;
    dd:--snapshot|dd:-l) echo @ ;;
    dd:--target-format|dd:-O) echo @format ;;
    dd:--allow) echo @folder ;;
    measure:--format|measure:-f) echo @format ;;
    measure:--target-format|measure:-O) echo @format ;;
    measure:--options|measure:-o) echo @ ;;
    measure:--size) echo @ ;;
    measure:--allow) echo @folder ;;
    measure:--output) echo human json ;;
    rebase:--format|rebase:-f) echo @format ;;
    rebase:--backing|rebase:-b) echo @file ;;
    rebase:--backing-format|rebase:-F) echo @format ;;
    rebase:--allow) echo @folder ;;
    amend:--format|amend:-f) echo @format ;;
    amend:--options|amend:-o) echo @ ;;
    amend:--allow) echo @folder ;;
    compact:--format|compact:-f) echo @format ;;
    compact:--allow) echo @folder ;;
    compact:--output) echo human json ;;
    snapshot:--create|snapshot:-c) echo @ ;;
    snapshot:--apply|snapshot:-a) echo @ ;;
    snapshot:--delete|snapshot:-d) echo @ ;;
    snapshot:--merge|snapshot:-m) echo @file ;;
    snapshot:--rate|snapshot:-r) echo @ ;;
    snapshot:--format|snapshot:-f) echo @format ;;
    snapshot:--allow) echo @folder ;;
    snapshot:--output) echo human json ;;
    bitmap:--merge) echo @ ;;
    bitmap:--granularity|bitmap:-g) echo @ ;;
    bitmap:--source-file|bitmap:-b) echo @file ;;
    bitmap:--source-format|bitmap:-F) echo @format ;;
    bitmap:--format|bitmap:-f) echo @format ;;
    bitmap:--allow) echo @folder ;;
    bitmap:--output) echo human json ;;
    attach:--name) echo @ ;;
    attach:--format|attach:-f) echo @format ;;
    attach:--cache) echo none writeback writethrough unsafe ;;
    attach:--discard) echo unmap ignore ;;
    attach:--detect-zeroes) echo off on unmap ;;
    attach:--block-size) echo 512 4096 ;;
    attach:--queues) echo @ ;;
    attach:--allow) echo @folder ;;
    attach:--via) echo auto tcmu nbd fuse-loop fuse none ;;
    attach:--device) echo @ ;;
    attach:--mount) echo @folder ;;
    attach:--mkfs) echo @ ;;
    attach:--output) echo human json ;;
    export:--target|export:-t) echo @ ;;
    export:--portal|export:-p) echo @ ;;
    export:--initiator|export:-i) echo @ ;;
    export:--secrets) echo @file ;;
    export:--name) echo @ ;;
    export:--format|export:-f) echo @format ;;
    export:--cache) echo none writeback writethrough unsafe ;;
    export:--discard) echo unmap ignore ;;
    export:--detect-zeroes) echo off on unmap ;;
    export:--block-size) echo 512 4096 ;;
    export:--queues) echo @ ;;
    export:--allow) echo @folder ;;
    export:--output) echo human json ;;
    detach:--output) echo human json ;;
    upgrade:--program) echo @file ;;
    upgrade:--output) echo human json ;;
    list:--output) echo human json ;;
    pool:--capacity) echo @ ;;
    pool:--quota) echo @ ;;
    pool:--overcommit) echo @ ;;
    pool:--image-root) echo @folder ;;
    pool:--label) echo @ ;;
    pool:--socket) echo @file ;;
    pool:--output) echo human json ;;
    volume:--size|volume:-s) echo @ ;;
    volume:--pool) echo @ ;;
    volume:--class) echo @ ;;
    volume:--format|volume:-f) echo @format ;;
    volume:--fs) echo @ ;;
    volume:--from) echo @file ;;
    volume:--cluster-size) echo @ ;;
    volume:--label) echo @ ;;
    volume:--user) echo @ ;;
    volume:--socket) echo @file ;;
    volume:--output) echo human json ;;
    serve:--config|serve:-c) echo @file ;;
    serve:--socket|serve:-s) echo @file ;;
    serve:--path|serve:-p) echo @file ;;
    serve:--state-file) echo @file ;;
    serve:--nbd) echo @ ;;
    serve:--nbd-tls) echo @folder ;;
    serve:--nbd-tls-mode) echo x509 psk ;;
    serve:--nbd-export) echo @ ;;
    serve:--log-level) echo error warning info debug ;;
    serve:--name) echo @ ;;
    serve:--format|serve:-f) echo @format ;;
    serve:--cache) echo none writeback writethrough unsafe ;;
    serve:--discard) echo unmap ignore ;;
    serve:--detect-zeroes) echo off on unmap ;;
    serve:--block-size) echo 512 4096 ;;
    serve:--queues) echo @ ;;
    serve:--allow) echo @folder ;;
    serve:--via) echo auto tcmu nbd fuse-loop fuse none ;;
    serve:--device) echo @ ;;
    tcmu-handler:--allow) echo @folder ;;
    tcmu-handler:--threads) echo @ ;;
    tcmu-handler:--log-level) echo error warning info debug ;;
    version:--output) echo human json ;;
    esac
}

_hawser_options()
{
    case $1 in
    create) echo --format= --options= --backing= --backing-format= --overwrite --allow= --force-share --quiet --output= --help ;;
    info) echo --format= --backing-chain --allow= --force-share --output= --help ;;
    check) echo --format= --repair= --force-share --allow= --quiet --output= --help ;;
    convert) echo --format= --snapshot= --target-format= --options= --compress --level= --size= --existing --overwrite --backing= --backing-format= --bitmaps --skip-broken-bitmaps --bitmap= --start= --length= --target-is-zero --resume --salvage --rate= --sparse= --copy-offload --verify --no-sync --threads= --requests= --allow= --force-share --quiet --output= --help ;;
    compare) echo --format= --second-format= --snapshot= --second-snapshot= --strict --threads= --requests= --allow= --force-share --quiet --output= --help ;;
    map) echo --format= --snapshot= --start-offset= --max-length= --allow= --force-share --output= --help ;;
    resize) echo --format= --shrink --preallocation= --allow= --quiet --output= --help ;;
    commit) echo --format= --base= --keep --rate= --allow= --quiet --help ;;
    bench) echo --format= --count= --depth= --buffer-size= --step-size= --offset= --write --pattern= --flush-interval= --no-drain --cache= --allow= --force-share --output= --help ;;
    dd) echo --format= --snapshot= --target-format= --allow= --force-share --quiet --help ;;
    measure) echo --format= --target-format= --options= --size= --allow= --force-share --output= --help ;;
    rebase) echo --format= --backing= --backing-format= --unsafe --allow= --quiet --help ;;
    amend) echo --format= --options= --force --allow= --quiet --help ;;
    compact) echo --format= --zeroes --allow= --quiet --output= --help ;;
    snapshot) echo --list --create= --apply= --delete= --revert --force --merge= --rate= --keep --quiet --format= --allow= --force-share --output= --help ;;
    bitmap) echo --list --add --remove --clear --enable --disable --merge= --granularity= --source-file= --source-format= --format= --allow= --force-share --output= --help ;;
    attach) echo --name= --format= --read-only --cache= --discard= --detect-zeroes= --block-size= --queues= --allow= --via= --device= --mount= --mkfs= --output= --help ;;
    export) echo --iscsi --nvme --fc --vhost-scsi --target= --portal= --initiator= --any-initiator --secrets= --fcloop --temporary --restore --stop --name= --format= --read-only --cache= --discard= --detect-zeroes= --block-size= --queues= --allow= --output= --help ;;
    detach) echo --force --all --output= --help ;;
    upgrade) echo --program= --all --output= --help ;;
    list) echo --stats --names --output= --help ;;
    pool) echo --capacity= --quota= --overcommit= --image-root= --label= --socket= --output= --help ;;
    volume) echo --size= --pool= --class= --format= --fs= --from= --cluster-size= --protect --label= --device --read-only --user= --force --socket= --output= --help ;;
    serve) echo --config= --socket= --path= --state-file= --nbd= --nbd-tls= --nbd-tls-optional --nbd-tls-any-client --nbd-tls-mode= --nbd-export= --nbd-activated --log-level= --name= --format= --read-only --cache= --discard= --detect-zeroes= --block-size= --queues= --allow= --via= --device= --help ;;
    tcmu-handler) echo --allow= --threads= --no-dbus --keep-answers --log-level= --help ;;
    help) echo --help ;;
    version) echo --output= --help ;;
    esac
}

_hawser_operands()
{
    case $1 in
    create) echo @file ;;
    info) echo @file ;;
    check) echo @file ;;
    convert) echo @file ;;
    compare) echo @file ;;
    map) echo @file ;;
    resize) echo @attachment ;;
    commit) echo @file ;;
    bench) echo @file ;;
    dd) echo @file ;;
    measure) echo @file ;;
    rebase) echo @file ;;
    amend) echo @file ;;
    compact) echo @file ;;
    snapshot) echo @attachment @file ;;
    bitmap) echo @file ;;
    attach) echo @file ;;
    export) echo @file ;;
    detach) echo @attachment ;;
    upgrade) echo @attachment ;;
    list) echo @attachment ;;
    pool) echo @folder ;;
    volume) : ;;
    serve) echo @file ;;
    tcmu-handler) : ;;
    help) echo @command ;;
    version) : ;;
    esac
}

# Adds what compgen finds, a line each: names may hold blanks and stars.
_hawser_add()
{
    local line
    while IFS= read -r line; do
        COMPREPLY+=("$line")
    done < <(compgen "$@")
}

_hawser_words()
{
    # $1: the word so far; the rest: words, or @kinds of words
    local current=$1 kind
    shift
    for kind; do
        case $kind in
        @file) _hawser_add -f -- "$current" ;;
        @folder) _hawser_add -d -- "$current" ;;
        @format) _hawser_add -W "qcow2 raw" -- "$current" ;;
        @attachment)
            _hawser_add -W "$(hawser list --names 2>/dev/null)" -- "$current"
            _hawser_add -f -- "$current"
            ;;
        @command) _hawser_add -W "create info check convert compare map resize commit bench dd measure rebase amend compact snapshot bitmap attach export detach upgrade list pool volume serve tcmu-handler help version formats" -- "$current" ;;
        @) ;;
        *) _hawser_add -W "$kind" -- "$current" ;;
        esac
    done
}

_hawser()
{
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]}
    local option= values
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "create info check convert compare map resize commit bench dd measure rebase amend compact snapshot bitmap attach export detach upgrade list pool volume serve tcmu-handler help version" -- "$current"))
        return
    fi
    # "--name=value" arrives as three words where = breaks words, as one where it does not.
    if [ "$current" = = ]; then
        option=$previous current=
    elif [ "$previous" = = ]; then
        option=${COMP_WORDS[COMP_CWORD - 2]}
    else
        option=$previous
    fi
    case $current in
    --*=*) option=${current%%=*} current=${current#*=} ;;
    esac
    values=$(_hawser_values "$command:$option")
    if [ -n "$values" ]; then
        _hawser_words "$current" $values
        return
    fi
    case $current in
    -*)
        COMPREPLY=($(compgen -W "$(_hawser_options "$command")" -- "$current"))
        [[ ${COMPREPLY-} == *= ]] && compopt -o nospace 2>/dev/null
        ;;
    *) _hawser_words "$current" $(_hawser_operands "$command") ;;
    esac
}

complete -o filenames -F _hawser hawser
