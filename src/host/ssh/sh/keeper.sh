# shellcheck shell=sh
# The lifeline: as long as its stdin is open, the commands of this daemon may run on this machine; then they end.
# In front of it stands what the daemon says: dd_mark, dd_data (its folder), dd_name, dd_owner, dd_patience (in
# seconds), dd_program (the text of the runner). It answers requests, each a line TAG LINES and so many lines of shell, with what they print, and
# a line MARK TAG STATUS. Nothing it does may take long, since its answers are how the machine is known to live.
# shellcheck disable=SC2154  # What stands in front.

exec 2>/dev/null
cd / || exit 1
umask 077
# Handled, so that a broken pipe does not end it before it has done its duty.
trap : HUP INT QUIT TERM USR1 USR2 ALRM PIPE

# Sends a signal, 0 for none, to a group and to whoever has left it but carries the mark; prints how many there were.
# $4 is the runner, if it lives.
dd_strike() {
    dd_count=0
    if [ -n "$4" ] && read -r dd_what dd_worker dd_its dd_leader dd_line <"$dd_where/r.$4" &&
        [ "$dd_what $dd_its" = "run $3" ] && dd_look_at "$dd_leader"; then
        # The runner has not seen its end: the number is still its own. It may be so young that it neither leads its
        # group nor bears its mark.
        case $dd_state-$dd_group in
        Z-* | X-* | *-"$2") ;;
        *)
            dd_count=1
            if [ "$1" != 0 ]; then kill -s "$1" "$dd_leader"; fi
            ;;
        esac
    fi
    if [ "$2" -gt 1 ] && dd_kill_group 0 "$2"; then
        if [ "$1" != 0 ]; then dd_kill_group "$1" "$2"; fi
        # A zombie does not count.
        if grep -qs ") [^ZX] [0-9]* $2 " /proc/[0-9]*/stat; then dd_count=1; fi
    fi
    for dd_file in $(dd_holding "DRYDOCK_PROCESS_ID=$3" /proc/[0-9]*/environ); do
        dd_pid=${dd_file#/proc/} dd_pid=${dd_pid%/environ}
        dd_look_at "$dd_pid" || continue
        dd_count=$((dd_count + 1))
        # Those of the group have it already; only death may come twice.
        if [ "$1" = 0 ] || { [ "$1" != KILL ] && [ "$dd_group" = "$2" ]; }; then continue; fi
        kill -s "$1" "$dd_pid"
    done
    printf %s "$dd_count"
}

# Sends a signal by its number to a group, or to who will lead it in a moment.
dd_signal() {
    dd_kill_group "$1" "$2" || kill -s "$1" "$2" || :
}

# Prints how many commands, of whatever daemon, are between being written down and their start: nobody knows them yet by
# their environment.
dd_young() {
    dd_files='' dd_count=0
    for dd_file in /dev/shm/drydock.*/r.* "$dd_data/run"/*/r.*; do
        read -r dd_what dd_worker dd_id dd_pid dd_group dd_line <"$dd_file" || continue
        if [ "$dd_what" = run ]; then dd_files="$dd_files /proc/$dd_pid/cmdline"; fi
    done
    # shellcheck disable=SC2086
    if [ -n "$dd_files" ]; then dd_count=$(grep -lsF -e "$dd_data/run/" $dd_files | wc -l); fi
    for dd_file in "$dd_data/launches"/*; do
        if dd_is_young "$dd_file"; then dd_count=$((dd_count + 1)); fi
    done
    printf %s "$dd_count"
}

# Whether what is being launched, by this record, is no program yet. An old record is of a clerk that was killed: the number
# may be somebody else's by now.
dd_is_young() {
    read -r dd_id <"$1" || return 1
    dd_pid=${1##*/}
    if ! dd_look_at "$dd_pid"; then return 1; fi
    case $dd_state-$dd_id in Z-* | X-* | ?-!*) return 1 ;; esac
    [ -z "$(dd_holding "DRYDOCK_PROCESS_ID=$dd_id" "/proc/$dd_pid/environ")" ] &&
        [ -n "$(find "$1" -prune -mmin -1)" ]
}

# The mark of a process.
dd_mark_of() {
    tr '\000' '\n' <"/proc/$1/environ" | sed -n 's/^DRYDOCK_PROCESS_ID=//p'
}

# Whether a process runs for a lease.
dd_runs() {
    [ -n "$(dd_holding "DRYDOCK_LEASE_ID=$2" "/proc/$1/environ")" ]
}

# What a runner has told of its last command.
dd_record() {
    read -r dd_line <"$dd_records/r.$1" && printf %s "$dd_line"
}

# From now on this runner starts nothing more.
dd_void() {
    # Not by a special builtin: when there is no room, that would end the shell.
    true >"$dd_records/v.$1"
    dd_record "$1"
}

dd_forget() {
    rm -f "$dd_records/r.$1" "$dd_records/v.$1"
}

# Whether something listens on a TCP port; $1 is its number, $2 the same in hex.
dd_listens() {
    if [ -r /proc/net/tcp ]; then
        cat /proc/net/tcp /proc/net/tcp6 | grep -q "^ *[0-9]*: [0-9A-F]*:$2 [0-9A-F]*:0000 0A "
    else
        { ss -ltn || netstat -ltn; } | grep -q "[:.]$1 "
    fi
}

# Whether $2, a pid, is a runner of the keeper's folder $1: numbers are given out anew.
dd_is_runner() {
    grep -qsF -e "$1/runner" "/proc/$2/cmdline"
}

# Ends what the runners of a keeper's folder have started, and the runners; at last the folder.
dd_reap() {
    rm -f "$1/alive"
    # Our own folder may be gone already, with all that is beside it.
    dd_where=$dd_records
    if [ "$1" != "$dd_folder" ]; then read -r dd_where <"$1/where" || dd_where=$1; fi
    # Those groups that are still what they were: all of our own, and where the runner or the leader is there.
    dd_trusted=' '
    for dd_file in "$dd_where"/r.*; do
        read -r dd_what dd_worker dd_id dd_pid dd_group dd_line <"$dd_file" || continue
        case $dd_what-$dd_line in idle* | over*0) continue ;; esac
        if [ "$1" = "$dd_folder" ] || dd_is_runner "$1" "$dd_worker" ||
            [ -n "$(dd_holding "DRYDOCK_PROCESS_ID=$dd_id" "/proc/$dd_pid/environ")" ]; then
            dd_trusted="$dd_trusted$dd_group "
            dd_kill_group TERM "$dd_group"
        fi
    done
    dd_round=0
    while [ "$dd_round" -lt 60 ]; do
        sleep 0.1 || sleep 1
        dd_some=0
        for dd_file in "$dd_where"/r.*; do
            read -r dd_what dd_worker dd_id dd_pid dd_group dd_line <"$dd_file" || continue
            dd_runner=
            if dd_is_runner "$1" "$dd_worker"; then dd_runner=${dd_file##*/r.} dd_some=1; fi
            case $dd_what-$dd_line in
            idle* | over*0) ;;
            *)
                case $dd_trusted in *" $dd_group "*) ;; *) dd_group=0 ;; esac
                if [ "$(dd_strike KILL "$dd_group" "$dd_id" "$dd_runner")" != 0 ]; then dd_some=1; fi
                ;;
            esac
            if [ -n "$dd_runner" ]; then kill -s KILL "$dd_worker"; fi
        done
        # Ended when nobody was seen twice: who was about to be born has been by now.
        if [ "$dd_some" = 0 ] && [ "$dd_round" -gt 0 ]; then break; fi
        dd_round=$((dd_round + 1))
    done
    rm -rf "$1" "$dd_where"
}

# Tells the watcher that a request has come: by a file that is there, since what is written into one may be late, or find no
# room. Where no file can be made, the last one is taken again.
dd_heard() {
    [ -e "$dd_records/heard" ] || true >"$dd_records/heard" || mv -f "$dd_records/quiet" "$dd_records/heard"
}

# Beside the keeper: ends everything when no request has come for long, although the line is not cut: the network is gone,
# or the keeper itself.
dd_watch() {
    trap 'kill "$dd_nap"; exit 0' TERM
    while :; do
        sleep "$dd_patience" &
        dd_nap=$!
        wait "$dd_nap"
        if [ ! -e "$dd_records/heard" ]; then break; fi
        mv -f "$dd_records/heard" "$dd_records/quiet"
    done
    [ -d "$dd_folder" ] || exit 0
    kill -s KILL "$$"
    dd_reap "$dd_folder"
    exit 0
}

# When a process began, in ticks since the boot: with the boot's id, this makes its number unmistakable.
dd_birth() {
    read -r dd_line <"/proc/$1/stat" || return 1
    dd_line=${dd_line##*) }
    # shellcheck disable=SC2086
    set -- $dd_line
    case $1 in Z | X) return 1 ;; esac
    printf %s "${20}"
}

# Ends what keepers that are no more have left.
dd_clean() {
    for dd_other in "$dd_data/run"/*; do
        if [ "$dd_other" = "$dd_folder" ] || [ ! -d "$dd_other" ]; then continue; fi
        if ! read -r dd_pid dd_its_boot dd_born dd_its_owner <"$dd_other/who"; then
            # It was just made, unless it is old.
            if [ -n "$(find "$dd_other" -prune -mmin +1)" ]; then rm -rf "$dd_other"; fi
            continue
        fi
        if [ "$dd_its_boot" != "$dd_boot" ]; then
            rm -rf "$dd_other"
            continue
        fi
        if [ "$(dd_birth "$dd_pid")" = "$dd_born" ]; then
            # An earlier one of ours, whose line is cut but does not know it yet.
            [ "$dd_its_owner" = "$dd_owner" ] || continue
            kill -s KILL "$dd_pid"
        fi
        dd_reap "$dd_other"
    done
}

# Removes the records of keepers that are no more, whose folder is gone as well: nobody else would.
dd_sweep() {
    for dd_other in /dev/shm/drydock.*; do
        if [ "$dd_other" = "$dd_records" ] || ! read -r dd_pid dd_its_boot dd_born dd_its_folder <"$dd_other/whose"; then
            continue
        fi
        if [ -d "$dd_its_folder" ]; then continue; fi
        if [ "$dd_its_boot" != "$dd_boot" ] || [ "$(dd_birth "$dd_pid")" != "$dd_born" ]; then rm -rf "$dd_other"; fi
    done
    # No daemon is paused for so many days, and then goes on.
    for dd_other in fences gates launches; do
        if [ ! -d "$dd_data/$dd_other" ]; then continue; fi
        find "$dd_data/$dd_other" -type f -mtime +30 -exec rm -f {} +
        find "$dd_data/$dd_other" -type d -mtime +30 -exec rmdir {} +
    done
}

dd_folder=$dd_data/run/$dd_name
dd_why=$(mkdir -p "$dd_folder" 2>&1) || dd_why=$(mkdir -p "$dd_folder" 2>&1) || {
    printf '\n%s fail %s\n' "$dd_mark" "$dd_why"
    exit 1
}
# In memory, if there is such a place with room: a busy disk would make each command wait. Nobody else can have made it.
dd_records=/dev/shm/drydock.$dd_name
dd_where_quoted=$dd_records
if ! mkdir "$dd_records"; then
    dd_records=
elif ! echo yes >"$dd_records/heard"; then
    rm -rf "$dd_records"
    dd_records=
fi
if [ -z "$dd_records" ]; then dd_records=$dd_folder dd_where_quoted=$dd_quoted; fi
read -r dd_boot </proc/sys/kernel/random/boot_id || dd_boot=unknown
dd_born=$(dd_birth $$)
if ! { printf '%s %s %s %s\n' "$$" "$dd_boot" "$dd_born" "$dd_owner" >"$dd_folder/who" &&
    printf '%s %s %s %s\n' "$$" "$dd_boot" "$dd_born" "$dd_folder" >"$dd_records/whose" &&
    printf '%s\n' "$dd_records" >"$dd_folder/where" &&
    printf 'dd_folder=%s dd_records=%s dd_keeper=%s\n%s\n' "$dd_quoted" "$dd_where_quoted" "$$" "$dd_program" >"$dd_folder/runner" &&
    : >"$dd_folder/alive"; }; then
    rm -rf "$dd_folder" "$dd_records"
    printf '\n%s fail %s\n' "$dd_mark" "cannot write under $dd_folder: No space left on device"
    exit 1
fi
dd_clean
dd_sweep
dd_where=$dd_records
dd_heard
(dd_watch) </dev/null >/dev/null &
dd_watcher=$!
printf '\n%s up %s %s\n' "$dd_mark" "$$" "$dd_boot"

while read -r dd_tag dd_lines; do
    dd_spec=
    while [ "$dd_lines" -gt 0 ]; do
        IFS= read -r dd_line || break
        dd_spec=$dd_spec$dd_line'
'
        dd_lines=$((dd_lines - 1))
    done
    dd_heard
    eval "$dd_spec"
    printf '\n%s %s %s\n' "$dd_mark" "$dd_tag" "$?"
done
kill -s TERM "$dd_watcher"
dd_reap "$dd_folder"
# As it was, if nothing else is there.
rmdir "$dd_data/run" && rmdir "$dd_data"
