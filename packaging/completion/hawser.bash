# bash completion for hawser; written by tools/gen-docs from the command's tables.

# $1: COMMAND:VERB:OPTION
_hawser_values()
{
    case $1 in
    create::--format|create::-f) echo @format ;;
    create::--options|create::-o) echo @ ;;
    create::--backing|create::-b) echo @file ;;
    create::--backing-format|create::-F) echo @format ;;
    create::--allow) echo @folder ;;
    create::--output) echo human json ;;
    info::--format|info::-f) echo @format ;;
    info::--allow) echo @folder ;;
    info::--output) echo human json ;;
    check::--format|check::-f) echo @format ;;
    check::--repair|check::-r) echo leaks all ;;
    check::--allow) echo @folder ;;
    check::--output) echo human json ;;
    convert::--format|convert::-f) echo @format ;;
    convert::--snapshot|convert::-l) echo @ ;;
    convert::--target-format|convert::-O) echo @format ;;
    convert::--options|convert::-o) echo @ ;;
    convert::--level) echo @ ;;
    convert::--size) echo @ ;;
    convert::--backing|convert::-B) echo @file ;;
    convert::--backing-format|convert::-F) echo @format ;;
    convert::--bitmap) echo @ ;;
    convert::--start) echo @ ;;
    convert::--length) echo @ ;;
    convert::--rate|convert::-r) echo @ ;;
    convert::--sparse|convert::-S) echo @ ;;
    convert::--threads) echo @ ;;
    convert::--requests|convert::-m) echo @ ;;
    convert::--allow) echo @folder ;;
    convert::--output) echo human json ;;
    compare::--format|compare::-f) echo @format ;;
    compare::--second-format|compare::-F) echo @format ;;
    compare::--snapshot) echo @ ;;
    compare::--second-snapshot) echo @ ;;
    compare::--threads) echo @ ;;
    compare::--requests|compare::-m) echo @ ;;
    compare::--allow) echo @folder ;;
    compare::--output) echo human json ;;
    map::--format|map::-f) echo @format ;;
    map::--snapshot) echo @ ;;
    map::--start-offset|map::-s) echo @ ;;
    map::--max-length|map::-l) echo @ ;;
    map::--allow) echo @folder ;;
    map::--output) echo human json ;;
    resize::--format|resize::-f) echo @format ;;
    resize::--preallocation) echo @ ;;
    resize::--allow) echo @folder ;;
    resize::--output) echo human json ;;
    commit::--format|commit::-f) echo @format ;;
    commit::--base|commit::-b) echo @file ;;
    commit::--rate|commit::-r) echo @ ;;
    commit::--allow) echo @folder ;;
    bench::--format|bench::-f) echo @format ;;
    bench::--count|bench::-c) echo @ ;;
    bench::--depth|bench::-d) echo @ ;;
    bench::--buffer-size|bench::-s) echo @ ;;
    bench::--step-size|bench::-S) echo @ ;;
    bench::--offset|bench::-o) echo @ ;;
    bench::--pattern) echo @ ;;
    bench::--flush-interval) echo @ ;;
    bench::--cache|bench::-t) echo @ ;;
    bench::--allow) echo @folder ;;
    bench::--output) echo human json ;;
    dd::--format|dd::-f) echo @format ;;
    dd::--snapshot|dd::-l) echo @ ;;
    dd::--target-format|dd::-O) echo @format ;;
    dd::--allow) echo @folder ;;
    measure::--format|measure::-f) echo @format ;;
    measure::--target-format|measure::-O) echo @format ;;
    measure::--options|measure::-o) echo @ ;;
    measure::--size) echo @ ;;
    measure::--allow) echo @folder ;;
    measure::--output) echo human json ;;
    rebase::--format|rebase::-f) echo @format ;;
    rebase::--backing|rebase::-b) echo @file ;;
    rebase::--backing-format|rebase::-F) echo @format ;;
    rebase::--allow) echo @folder ;;
    amend::--format|amend::-f) echo @format ;;
    amend::--options|amend::-o) echo @ ;;
    amend::--allow) echo @folder ;;
    compact::--format|compact::-f) echo @format ;;
    compact::--allow) echo @folder ;;
    compact::--output) echo human json ;;
    snapshot::--create|snapshot::-c) echo @ ;;
    snapshot::--apply|snapshot::-a) echo @ ;;
    snapshot::--delete|snapshot::-d) echo @ ;;
    snapshot::--merge|snapshot::-m) echo @file ;;
    snapshot::--rate|snapshot::-r) echo @ ;;
    snapshot::--format|snapshot::-f) echo @format ;;
    snapshot::--allow) echo @folder ;;
    snapshot::--output) echo human json ;;
    snapshot:create:--label) echo @ ;;
    snapshot:create:--socket) echo @file ;;
    snapshot:create:--output) echo human json ;;
    snapshot:list:--socket) echo @file ;;
    snapshot:list:--output) echo human json ;;
    snapshot:show:--socket) echo @file ;;
    snapshot:show:--output) echo human json ;;
    snapshot:delete:--socket) echo @file ;;
    snapshot:delete:--output) echo human json ;;
    snapshot:revert:--socket) echo @file ;;
    snapshot:revert:--output) echo human json ;;
    bitmap::--merge) echo @ ;;
    bitmap::--granularity|bitmap::-g) echo @ ;;
    bitmap::--source-file|bitmap::-b) echo @file ;;
    bitmap::--source-format|bitmap::-F) echo @format ;;
    bitmap::--format|bitmap::-f) echo @format ;;
    bitmap::--allow) echo @folder ;;
    bitmap::--output) echo human json ;;
    attach::--name) echo @ ;;
    attach::--format|attach::-f) echo @format ;;
    attach::--cache) echo none writeback writethrough unsafe ;;
    attach::--discard) echo unmap ignore ;;
    attach::--detect-zeroes) echo off on unmap ;;
    attach::--block-size) echo 512 4096 ;;
    attach::--queues) echo @ ;;
    attach::--allow) echo @folder ;;
    attach::--via) echo auto tcmu nbd fuse-loop fuse none ;;
    attach::--device) echo @ ;;
    attach::--mount) echo @folder ;;
    attach::--mkfs) echo @ ;;
    attach::--output) echo human json ;;
    export::--target|export::-t) echo @ ;;
    export::--portal|export::-p) echo @ ;;
    export::--initiator|export::-i) echo @ ;;
    export::--secrets) echo @file ;;
    export::--name) echo @ ;;
    export::--format|export::-f) echo @format ;;
    export::--cache) echo none writeback writethrough unsafe ;;
    export::--discard) echo unmap ignore ;;
    export::--detect-zeroes) echo off on unmap ;;
    export::--block-size) echo 512 4096 ;;
    export::--queues) echo @ ;;
    export::--allow) echo @folder ;;
    export::--output) echo human json ;;
    export:create:--listen|export:create:-l) echo @ ;;
    export:create:--tls) echo none psk x509 ;;
    export:create:--secret) echo @secret ;;
    export:create:--description) echo @ ;;
    export:create:--protocol) echo @ ;;
    export:create:--socket) echo @file ;;
    export:create:--output) echo human json ;;
    export:list:--socket) echo @file ;;
    export:list:--output) echo human json ;;
    export:show:--socket) echo @file ;;
    export:show:--output) echo human json ;;
    export:delete:--socket) echo @file ;;
    export:delete:--output) echo human json ;;
    detach::--output) echo human json ;;
    upgrade::--program) echo @file ;;
    upgrade::--output) echo human json ;;
    list::--output) echo human json ;;
    pool:list:--socket) echo @file ;;
    pool:list:--output) echo human json ;;
    pool:show:--socket) echo @file ;;
    pool:show:--output) echo human json ;;
    pool:create:--capacity) echo @ ;;
    pool:create:--quota) echo @ ;;
    pool:create:--overcommit) echo @ ;;
    pool:create:--image-root) echo @folder ;;
    pool:create:--trash-retention) echo @ ;;
    pool:create:--label) echo @ ;;
    pool:create:--socket) echo @file ;;
    pool:create:--output) echo human json ;;
    pool:set:--capacity) echo @ ;;
    pool:set:--quota) echo @ ;;
    pool:set:--overcommit) echo @ ;;
    pool:set:--image-root) echo @folder ;;
    pool:set:--trash-retention) echo @ ;;
    pool:set:--label) echo @ ;;
    pool:set:--socket) echo @file ;;
    pool:set:--output) echo human json ;;
    pool:rename:--socket) echo @file ;;
    pool:rename:--output) echo human json ;;
    pool:take:--socket) echo @file ;;
    pool:take:--output) echo human json ;;
    pool:delete:--socket) echo @file ;;
    pool:delete:--output) echo human json ;;
    class:list:--socket) echo @file ;;
    class:list:--output) echo human json ;;
    class:show:--socket) echo @file ;;
    class:show:--output) echo human json ;;
    class:create:--size|class:create:-s) echo @ ;;
    class:create:--format|class:create:-f) echo @format ;;
    class:create:--fs) echo ext4 xfs btrfs none ;;
    class:create:--cluster-size) echo @ ;;
    class:create:--preallocation) echo off metadata falloc ;;
    class:create:--lazy-refcounts) echo on off ;;
    class:create:--extended-l2) echo on off ;;
    class:create:--mkfs-option) echo @ ;;
    class:create:--mount-option) echo @ ;;
    class:create:--trash-retention) echo @ ;;
    class:create:--label) echo @ ;;
    class:create:--socket) echo @file ;;
    class:create:--output) echo human json ;;
    class:set:--size|class:set:-s) echo @ ;;
    class:set:--format|class:set:-f) echo @format ;;
    class:set:--fs) echo ext4 xfs btrfs none ;;
    class:set:--cluster-size) echo @ ;;
    class:set:--preallocation) echo off metadata falloc ;;
    class:set:--lazy-refcounts) echo on off ;;
    class:set:--extended-l2) echo on off ;;
    class:set:--mkfs-option) echo @ ;;
    class:set:--mount-option) echo @ ;;
    class:set:--trash-retention) echo @ ;;
    class:set:--label) echo @ ;;
    class:set:--socket) echo @file ;;
    class:set:--output) echo human json ;;
    class:rename:--socket) echo @file ;;
    class:rename:--output) echo human json ;;
    class:delete:--socket) echo @file ;;
    class:delete:--output) echo human json ;;
    volume:list:--socket) echo @file ;;
    volume:list:--output) echo human json ;;
    volume:show:--socket) echo @file ;;
    volume:show:--output) echo human json ;;
    volume:create:--size|volume:create:-s) echo @ ;;
    volume:create:--format|volume:create:-f) echo @format ;;
    volume:create:--fs) echo ext4 xfs btrfs none ;;
    volume:create:--cluster-size) echo @ ;;
    volume:create:--preallocation) echo off metadata falloc ;;
    volume:create:--lazy-refcounts) echo on off ;;
    volume:create:--extended-l2) echo on off ;;
    volume:create:--mkfs-option) echo @ ;;
    volume:create:--mount-option) echo @ ;;
    volume:create:--trash-retention) echo @ ;;
    volume:create:--label) echo @ ;;
    volume:create:--pool) echo @pool ;;
    volume:create:--class) echo @class ;;
    volume:create:--from) echo @snapshot ;;
    volume:create:--socket) echo @file ;;
    volume:create:--output) echo human json ;;
    volume:import:--size|volume:import:-s) echo @ ;;
    volume:import:--format|volume:import:-f) echo @format ;;
    volume:import:--fs) echo ext4 xfs btrfs none ;;
    volume:import:--cluster-size) echo @ ;;
    volume:import:--preallocation) echo off metadata falloc ;;
    volume:import:--lazy-refcounts) echo on off ;;
    volume:import:--extended-l2) echo on off ;;
    volume:import:--mkfs-option) echo @ ;;
    volume:import:--mount-option) echo @ ;;
    volume:import:--trash-retention) echo @ ;;
    volume:import:--label) echo @ ;;
    volume:import:--pool) echo @pool ;;
    volume:import:--class) echo @class ;;
    volume:import:--image-format) echo @format ;;
    volume:import:--socket) echo @file ;;
    volume:import:--output) echo human json ;;
    volume:delete:--keep) echo @ ;;
    volume:delete:--socket) echo @file ;;
    volume:delete:--output) echo human json ;;
    volume:trash:--socket) echo @file ;;
    volume:trash:--output) echo human json ;;
    volume:restore:--socket) echo @file ;;
    volume:restore:--output) echo human json ;;
    volume:purge:--socket) echo @file ;;
    volume:purge:--output) echo human json ;;
    volume:attach:--user) echo @ ;;
    volume:attach:--process) echo @ ;;
    volume:attach:--socket) echo @file ;;
    volume:attach:--output) echo human json ;;
    volume:detach:--user) echo @ ;;
    volume:detach:--socket) echo @file ;;
    volume:detach:--output) echo human json ;;
    volume:resize:--socket) echo @file ;;
    volume:resize:--output) echo human json ;;
    volume:rename:--socket) echo @file ;;
    volume:rename:--output) echo human json ;;
    volume:set:--mount-option) echo @ ;;
    volume:set:--trash-retention) echo @ ;;
    volume:set:--label) echo @ ;;
    volume:set:--socket) echo @file ;;
    volume:set:--output) echo human json ;;
    volume:protect:--socket) echo @file ;;
    volume:protect:--output) echo human json ;;
    volume:unprotect:--socket) echo @file ;;
    volume:unprotect:--output) echo human json ;;
    volume:snapshot:--socket) echo @file ;;
    volume:snapshot:--output) echo human json ;;
    volume:snapshots:--socket) echo @file ;;
    volume:snapshots:--output) echo human json ;;
    volume:delete-snapshot:--socket) echo @file ;;
    volume:delete-snapshot:--output) echo human json ;;
    volume:revert:--socket) echo @file ;;
    volume:revert:--output) echo human json ;;
    group:list:--socket) echo @file ;;
    group:list:--output) echo human json ;;
    group:show:--socket) echo @file ;;
    group:show:--output) echo human json ;;
    group:create:--label) echo @ ;;
    group:create:--socket) echo @file ;;
    group:create:--output) echo human json ;;
    group:set:--volume) echo @volume ;;
    group:set:--label) echo @ ;;
    group:set:--socket) echo @file ;;
    group:set:--output) echo human json ;;
    group:rename:--socket) echo @file ;;
    group:rename:--output) echo human json ;;
    group:delete:--socket) echo @file ;;
    group:delete:--output) echo human json ;;
    group:snapshot:--label) echo @ ;;
    group:snapshot:--socket) echo @file ;;
    group:snapshot:--output) echo human json ;;
    group:snapshots:--socket) echo @file ;;
    group:snapshots:--output) echo human json ;;
    group:show-snapshot:--socket) echo @file ;;
    group:show-snapshot:--output) echo human json ;;
    group:delete-snapshot:--socket) echo @file ;;
    group:delete-snapshot:--output) echo human json ;;
    group:revert:--socket) echo @file ;;
    group:revert:--output) echo human json ;;
    schedule:list:--socket) echo @file ;;
    schedule:list:--output) echo human json ;;
    schedule:show:--socket) echo @file ;;
    schedule:show:--output) echo human json ;;
    schedule:create:--volume) echo @volume ;;
    schedule:create:--group) echo @group ;;
    schedule:create:--every) echo @ ;;
    schedule:create:--cron) echo @ ;;
    schedule:create:--keep) echo @ ;;
    schedule:create:--keep-hourly) echo @ ;;
    schedule:create:--keep-daily) echo @ ;;
    schedule:create:--keep-weekly) echo @ ;;
    schedule:create:--keep-monthly) echo @ ;;
    schedule:create:--keep-for) echo @ ;;
    schedule:create:--label) echo @ ;;
    schedule:create:--socket) echo @file ;;
    schedule:create:--output) echo human json ;;
    schedule:set:--every) echo @ ;;
    schedule:set:--cron) echo @ ;;
    schedule:set:--keep) echo @ ;;
    schedule:set:--keep-hourly) echo @ ;;
    schedule:set:--keep-daily) echo @ ;;
    schedule:set:--keep-weekly) echo @ ;;
    schedule:set:--keep-monthly) echo @ ;;
    schedule:set:--keep-for) echo @ ;;
    schedule:set:--label) echo @ ;;
    schedule:set:--socket) echo @file ;;
    schedule:set:--output) echo human json ;;
    schedule:rename:--socket) echo @file ;;
    schedule:rename:--output) echo human json ;;
    schedule:pause:--socket) echo @file ;;
    schedule:pause:--output) echo human json ;;
    schedule:resume:--socket) echo @file ;;
    schedule:resume:--output) echo human json ;;
    schedule:delete:--socket) echo @file ;;
    schedule:delete:--output) echo human json ;;
    job:list:--socket) echo @file ;;
    job:list:--output) echo human json ;;
    job:show:--socket) echo @file ;;
    job:show:--output) echo human json ;;
    job:wait:--socket) echo @file ;;
    job:wait:--output) echo human json ;;
    job:cancel:--socket) echo @file ;;
    job:cancel:--output) echo human json ;;
    secret:list:--socket) echo @file ;;
    secret:list:--output) echo human json ;;
    secret:show:--socket) echo @file ;;
    secret:show:--output) echo human json ;;
    secret:create:--value) echo @file ;;
    secret:create:--generate) echo psk chap ;;
    secret:create:--kind) echo psk chap x509 ;;
    secret:create:--server-cert) echo @file ;;
    secret:create:--server-key) echo @file ;;
    secret:create:--ca-cert) echo @file ;;
    secret:create:--ca-crl) echo @file ;;
    secret:create:--socket) echo @file ;;
    secret:create:--output) echo human json ;;
    secret:set:--value) echo @file ;;
    secret:set:--generate) echo psk chap ;;
    secret:set:--kind) echo psk chap x509 ;;
    secret:set:--server-cert) echo @file ;;
    secret:set:--server-key) echo @file ;;
    secret:set:--ca-cert) echo @file ;;
    secret:set:--ca-crl) echo @file ;;
    secret:set:--socket) echo @file ;;
    secret:set:--output) echo human json ;;
    secret:delete:--socket) echo @file ;;
    secret:delete:--output) echo human json ;;
    secret:rotate:--socket) echo @file ;;
    secret:rotate:--output) echo human json ;;
    node:show:--socket) echo @file ;;
    node:show:--output) echo human json ;;
    node:engines:--socket) echo @file ;;
    node:engines:--output) echo human json ;;
    node:upgrade:--program) echo @file ;;
    node:upgrade:--socket) echo @file ;;
    node:upgrade:--output) echo human json ;;
    events::--after) echo @ ;;
    events::--socket) echo @file ;;
    events::--output) echo human json ;;
    doctor::--repair) echo @ ;;
    doctor::--socket) echo @file ;;
    doctor::--output) echo human json ;;
    serve::--config|serve::-c) echo @file ;;
    serve::--socket|serve::-s) echo @file ;;
    serve::--path|serve::-p) echo @file ;;
    serve::--state-file) echo @file ;;
    serve::--nbd) echo @ ;;
    serve::--nbd-tls) echo @folder ;;
    serve::--nbd-tls-mode) echo x509 psk ;;
    serve::--nbd-export) echo @ ;;
    serve::--log-level) echo error warning info debug ;;
    serve::--name) echo @ ;;
    serve::--format|serve::-f) echo @format ;;
    serve::--cache) echo none writeback writethrough unsafe ;;
    serve::--discard) echo unmap ignore ;;
    serve::--detect-zeroes) echo off on unmap ;;
    serve::--block-size) echo 512 4096 ;;
    serve::--queues) echo @ ;;
    serve::--allow) echo @folder ;;
    serve::--via) echo auto tcmu nbd fuse-loop fuse none ;;
    serve::--device) echo @ ;;
    tcmu-handler::--allow) echo @folder ;;
    tcmu-handler::--threads) echo @ ;;
    tcmu-handler::--log-level) echo error warning info debug ;;
    version::--output) echo human json ;;
    esac
}

# $1: COMMAND:VERB
_hawser_options()
{
    case $1 in
    create:) echo --format= --options= --backing= --backing-format= --overwrite --allow= --force-share --quiet --output= --help ;;
    info:) echo --format= --backing-chain --allow= --force-share --output= --help ;;
    check:) echo --format= --repair= --force-share --allow= --quiet --output= --help ;;
    convert:) echo --format= --snapshot= --target-format= --options= --compress --level= --size= --existing --overwrite --backing= --backing-format= --bitmaps --skip-broken-bitmaps --bitmap= --start= --length= --target-is-zero --resume --salvage --rate= --sparse= --copy-offload --verify --no-sync --threads= --requests= --allow= --force-share --quiet --progress-json --output= --help ;;
    compare:) echo --format= --second-format= --snapshot= --second-snapshot= --strict --threads= --requests= --allow= --force-share --quiet --output= --help ;;
    map:) echo --format= --snapshot= --start-offset= --max-length= --allow= --force-share --output= --help ;;
    resize:) echo --format= --shrink --preallocation= --allow= --quiet --output= --help ;;
    commit:) echo --format= --base= --keep --rate= --allow= --quiet --help ;;
    bench:) echo --format= --count= --depth= --buffer-size= --step-size= --offset= --write --pattern= --flush-interval= --no-drain --cache= --allow= --force-share --output= --help ;;
    dd:) echo --format= --snapshot= --target-format= --allow= --force-share --quiet --help ;;
    measure:) echo --format= --target-format= --options= --size= --allow= --force-share --output= --help ;;
    rebase:) echo --format= --backing= --backing-format= --unsafe --allow= --quiet --progress-json --help ;;
    amend:) echo --format= --options= --force --allow= --quiet --help ;;
    compact:) echo --format= --zeroes --allow= --quiet --output= --help ;;
    snapshot:) echo --list --create= --apply= --delete= --revert --force --merge= --rate= --keep --quiet --format= --allow= --force-share --output= --help ;;
    snapshot:create) echo --label= --socket= --output= --help ;;
    snapshot:list) echo --socket= --output= --help ;;
    snapshot:show) echo --socket= --output= --help ;;
    snapshot:delete) echo --socket= --output= --help ;;
    snapshot:revert) echo --socket= --output= --help ;;
    bitmap:) echo --list --add --remove --clear --enable --disable --merge= --granularity= --source-file= --source-format= --format= --allow= --force-share --output= --help ;;
    attach:) echo --name= --format= --read-only --cache= --discard= --detect-zeroes= --block-size= --queues= --allow= --via= --device= --mount= --mkfs= --sandbox --output= --help ;;
    export:) echo --iscsi --nvme --fc --vhost-scsi --target= --portal= --initiator= --any-initiator --secrets= --fcloop --temporary --restore --stop --name= --format= --read-only --cache= --discard= --detect-zeroes= --block-size= --queues= --allow= --output= --help ;;
    export:create) echo --listen= --tls= --secret= --read-only --shared --description= --protocol= --socket= --output= --help ;;
    export:list) echo --watch --socket= --output= --help ;;
    export:show) echo --watch --socket= --output= --help ;;
    export:delete) echo --force --socket= --output= --help ;;
    detach:) echo --force --all --output= --help ;;
    upgrade:) echo --program= --all --output= --help ;;
    list:) echo --stats --names --output= --help ;;
    pool:list) echo --watch --socket= --output= --help ;;
    pool:show) echo --watch --socket= --output= --help ;;
    pool:create) echo --capacity= --quota= --overcommit= --image-root= --trash-retention= --shared --label= --socket= --output= --help ;;
    pool:set) echo --capacity= --quota= --overcommit= --image-root= --trash-retention= --shared --no-shared --label= --no-labels --socket= --output= --help ;;
    pool:rename) echo --socket= --output= --help ;;
    pool:take) echo --force --socket= --output= --help ;;
    pool:delete) echo --socket= --output= --help ;;
    class:list) echo --watch --socket= --output= --help ;;
    class:show) echo --watch --socket= --output= --help ;;
    class:create) echo --size= --format= --fs= --cluster-size= --preallocation= --lazy-refcounts= --extended-l2= --mkfs-option= --mount-option= --trash-retention= --label= --socket= --output= --help ;;
    class:set) echo --size= --format= --fs= --cluster-size= --preallocation= --lazy-refcounts= --extended-l2= --mkfs-option= --mount-option= --trash-retention= --label= --no-labels --socket= --output= --help ;;
    class:rename) echo --socket= --output= --help ;;
    class:delete) echo --socket= --output= --help ;;
    volume:list) echo --watch --socket= --output= --help ;;
    volume:show) echo --watch --socket= --output= --help ;;
    volume:create) echo --size= --format= --fs= --cluster-size= --preallocation= --lazy-refcounts= --extended-l2= --mkfs-option= --mount-option= --trash-retention= --label= --pool= --class= --from= --protect --socket= --output= --help ;;
    volume:import) echo --size= --format= --fs= --cluster-size= --preallocation= --lazy-refcounts= --extended-l2= --mkfs-option= --mount-option= --trash-retention= --label= --pool= --class= --protect --image-format= --background --quiet --socket= --output= --help ;;
    volume:delete) echo --purge --keep= --socket= --output= --help ;;
    volume:trash) echo --socket= --output= --help ;;
    volume:restore) echo --socket= --output= --help ;;
    volume:purge) echo --socket= --output= --help ;;
    volume:attach) echo --device --read-only --user= --process= --socket= --output= --help ;;
    volume:detach) echo --user= --force --socket= --output= --help ;;
    volume:resize) echo --socket= --output= --help ;;
    volume:rename) echo --socket= --output= --help ;;
    volume:set) echo --mount-option= --trash-retention= --label= --no-labels --socket= --output= --help ;;
    volume:protect) echo --socket= --output= --help ;;
    volume:unprotect) echo --socket= --output= --help ;;
    volume:snapshot) echo --socket= --output= --help ;;
    volume:snapshots) echo --socket= --output= --help ;;
    volume:delete-snapshot) echo --socket= --output= --help ;;
    volume:revert) echo --socket= --output= --help ;;
    group:list) echo --watch --socket= --output= --help ;;
    group:show) echo --watch --socket= --output= --help ;;
    group:create) echo --label= --socket= --output= --help ;;
    group:set) echo --volume= --label= --no-labels --socket= --output= --help ;;
    group:rename) echo --socket= --output= --help ;;
    group:delete) echo --socket= --output= --help ;;
    group:snapshot) echo --label= --socket= --output= --help ;;
    group:snapshots) echo --watch --socket= --output= --help ;;
    group:show-snapshot) echo --socket= --output= --help ;;
    group:delete-snapshot) echo --socket= --output= --help ;;
    group:revert) echo --socket= --output= --help ;;
    schedule:list) echo --watch --socket= --output= --help ;;
    schedule:show) echo --watch --socket= --output= --help ;;
    schedule:create) echo --volume= --group= --every= --cron= --keep= --keep-hourly= --keep-daily= --keep-weekly= --keep-monthly= --keep-for= --paused --label= --socket= --output= --help ;;
    schedule:set) echo --every= --cron= --keep= --keep-hourly= --keep-daily= --keep-weekly= --keep-monthly= --keep-for= --label= --no-labels --socket= --output= --help ;;
    schedule:rename) echo --socket= --output= --help ;;
    schedule:pause) echo --socket= --output= --help ;;
    schedule:resume) echo --socket= --output= --help ;;
    schedule:delete) echo --socket= --output= --help ;;
    job:list) echo --ended --watch --socket= --output= --help ;;
    job:show) echo --watch --socket= --output= --help ;;
    job:wait) echo --quiet --socket= --output= --help ;;
    job:cancel) echo --socket= --output= --help ;;
    secret:list) echo --watch --socket= --output= --help ;;
    secret:show) echo --socket= --output= --help ;;
    secret:create) echo --value= --generate= --kind= --server-cert= --server-key= --ca-cert= --ca-crl= --socket= --output= --help ;;
    secret:set) echo --value= --generate= --kind= --server-cert= --server-key= --ca-cert= --ca-crl= --socket= --output= --help ;;
    secret:delete) echo --socket= --output= --help ;;
    secret:rotate) echo --socket= --output= --help ;;
    node:show) echo --socket= --output= --help ;;
    node:engines) echo --socket= --output= --help ;;
    node:upgrade) echo --program= --socket= --output= --help ;;
    events:) echo --after= --watch --socket= --output= --help ;;
    doctor:) echo --repair= --dry-run --deep --socket= --output= --help ;;
    serve:) echo --config= --socket= --path= --state-file= --nbd= --nbd-tls= --nbd-tls-optional --nbd-tls-any-client --nbd-tls-mode= --nbd-export= --nbd-activated --sandbox --log-level= --name= --format= --read-only --cache= --discard= --detect-zeroes= --block-size= --queues= --allow= --via= --device= --help ;;
    tcmu-handler:) echo --allow= --threads= --no-dbus --keep-answers --log-level= --help ;;
    help:) echo --help ;;
    version:) echo --output= --help ;;
    esac
}

_hawser_verbs()
{
    case $1 in
    snapshot) echo create list show delete revert ;;
    export) echo create list show delete ;;
    pool) echo list show create set rename take delete ;;
    class) echo list show create set rename delete ;;
    volume) echo list show create import delete trash restore purge attach detach resize rename set protect unprotect snapshot snapshots delete-snapshot revert ;;
    group) echo list show create set rename delete snapshot snapshots show-snapshot delete-snapshot revert ;;
    schedule) echo list show create set rename pause resume delete ;;
    job) echo list show wait cancel ;;
    secret) echo list show create set delete rotate ;;
    node) echo show engines upgrade ;;
    esac
}

# $1: COMMAND:VERB:NUMBER of the operand
_hawser_operands()
{
    case $1 in
    create::*) echo @file ;;
    info::*) echo @file ;;
    check::*) echo @file ;;
    convert::*) echo @file ;;
    compare::*) echo @file ;;
    map::*) echo @file ;;
    resize::*) echo @attachment ;;
    commit::*) echo @file ;;
    bench::*) echo @file ;;
    dd::*) echo @file ;;
    measure::*) echo @file ;;
    rebase::*) echo @file ;;
    amend::*) echo @file ;;
    compact::*) echo @file ;;
    snapshot::*) echo @attachment @file ;;
    snapshot:create:1) echo @volume ;;
    snapshot:list:1) echo @volume ;;
    snapshot:show:1) echo @snapshot ;;
    snapshot:delete:*) echo @snapshot ;;
    snapshot:revert:1) echo @snapshot ;;
    bitmap::*) echo @file ;;
    attach::*) echo @file ;;
    export::*) echo @file ;;
    export:create:1) echo @snapshot ;;
    export:show:1) echo @export ;;
    export:delete:*) echo @export ;;
    detach::*) echo @attachment ;;
    upgrade::*) echo @attachment ;;
    list::*) echo @attachment ;;
    pool:show:1) echo @pool ;;
    pool:create:2) echo @folder ;;
    pool:set:1) echo @pool ;;
    pool:rename:1) echo @pool ;;
    pool:take:1) echo @pool ;;
    pool:delete:*) echo @pool ;;
    class:show:1) echo @class ;;
    class:set:1) echo @class ;;
    class:rename:1) echo @class ;;
    class:delete:*) echo @class ;;
    volume:show:1) echo @volume ;;
    volume:import:1) echo @file ;;
    volume:delete:*) echo @volume ;;
    volume:restore:1) echo @trash ;;
    volume:purge:*) echo @trash ;;
    volume:attach:1) echo @volume ;;
    volume:detach:*) echo @volume ;;
    volume:resize:1) echo @volume ;;
    volume:rename:1) echo @volume ;;
    volume:set:1) echo @volume ;;
    volume:protect:*) echo @volume ;;
    volume:unprotect:*) echo @volume ;;
    volume:snapshot:1) echo @volume ;;
    volume:snapshots:1) echo @volume ;;
    volume:delete-snapshot:1) echo @volume ;;
    volume:revert:1) echo @volume ;;
    group:show:1) echo @group ;;
    group:create:*) echo @volume ;;
    group:set:1) echo @group ;;
    group:rename:1) echo @group ;;
    group:delete:*) echo @group ;;
    group:snapshot:1) echo @group ;;
    group:snapshots:1) echo @group ;;
    group:show-snapshot:1) echo @group-snapshot ;;
    group:delete-snapshot:*) echo @group-snapshot ;;
    group:revert:1) echo @group-snapshot ;;
    schedule:show:1) echo @schedule ;;
    schedule:set:1) echo @schedule ;;
    schedule:rename:1) echo @schedule ;;
    schedule:pause:*) echo @schedule ;;
    schedule:resume:*) echo @schedule ;;
    schedule:delete:*) echo @schedule ;;
    job:show:1) echo @job ;;
    job:wait:1) echo @job ;;
    job:cancel:*) echo @job ;;
    secret:show:1) echo @secret ;;
    secret:set:1) echo @secret ;;
    secret:delete:*) echo @secret ;;
    events::*) : ;;
    doctor::*) : ;;
    serve::*) echo @file ;;
    tcmu-handler::*) : ;;
    help::*) echo @command ;;
    version::*) : ;;
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
        @command) _hawser_add -W "create info check convert compare map resize commit bench dd measure rebase amend compact snapshot bitmap attach export detach upgrade list pool class volume group schedule job secret node events doctor serve tcmu-handler help version formats" -- "$current" ;;
        @) ;;
        @*) _hawser_add -W "$(hawser __complete "${kind#@}" -- "$current" 2>/dev/null)" -- "$current" ;;
        *) _hawser_add -W "$kind" -- "$current" ;;
        esac
    done
}

# Bash breaks words at @ as well: "VOLUME@SNAPSHOT" is one here. Sets words and count.
_hawser_join()
{
    local word join=
    words=()
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        if [ -n "$join" ] || { [[ $word == @* ]] && [ ${#words[@]} -gt 2 ]; }; then
            words[${#words[@]} - 1]+=$word
        else
            words+=("$word")
        fi
        join=
        [[ $word == @ ]] && join=1
    done
    count=$((${#words[@]} - 1))
}

_hawser()
{
    local -a words
    local count i word option= values verb= number=0
    _hawser_join
    local current=${words[count]} previous=${words[count - 1]} command=${words[1]}
    COMPREPLY=()
    if [ "$count" -eq 1 ]; then
        COMPREPLY=($(compgen -W "create info check convert compare map resize commit bench dd measure rebase amend compact snapshot bitmap attach export detach upgrade list pool class volume group schedule job secret node events doctor serve tcmu-handler help version" -- "$current"))
        return
    fi
    local verbs=$(_hawser_verbs "$command")
    [ "$count" -gt 2 ] && [[ " $verbs " == *" ${words[2]} "* ]] && verb=${words[2]}
    # "--name=value" arrives as three words where = breaks words, as one where it does not.
    if [ "$current" = = ]; then
        option=$previous current=
    elif [ "$previous" = = ]; then
        option=${words[count - 2]}
    else
        option=$previous
    fi
    case $current in
    --*=*) option=${current%%=*} current=${current#*=} ;;
    esac
    values=$(_hawser_values "$command:$verb:$option")
    if [ -n "$values" ]; then
        _hawser_words "$current" $values
    elif [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$(_hawser_options "$command:$verb")" -- "$current"))
        [[ ${COMPREPLY-} == *= ]] && compopt -o nospace 2>/dev/null
    else
        for ((i = 2; i <= count; i++)); do
            [[ ${words[i]} == -* ]] || number=$((number + 1))
        done
        [ "$count" -eq 2 ] && _hawser_words "$current" $verbs
        _hawser_words "$current" $(_hawser_operands "$command:$verb:$((number - 1))")
    fi
    # What is before the @ stands there already.
    if [[ $COMP_WORDBREAKS == *@* && $current == *@* ]]; then
        for i in "${!COMPREPLY[@]}"; do
            COMPREPLY[i]=${COMPREPLY[i]#"${current%@*}@"}
        done
    fi
}

complete -o filenames -F _hawser hawser
