# shellcheck shell=sh
# Runs commands, one after the other, on a channel of its own. In front of it stand start.sh and what the keeper says:
# dd_folder, dd_records (where it writes down what it does), dd_keeper (its pid). $1 is the name of this runner.
#
# A line asks for a command: MARK ID MODE LINES, and so many lines of shell follow. Both streams then hold SMARK (on
# stdout with pid and group, or with ! and why it was refused), the command's own bytes, and EMARK with its status
# and 1 when its group lives on: then all that comes is its own. Else RMARK follows on stdout, with 1 when something
# hides elsewhere, and whether the runner stays. MARK is random: no command can know it.
# shellcheck disable=SC2154  # What stands in front.

if [ "$2" != scrubbed ]; then
    exec env -i PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}" HOME="${HOME:-/}" \
        USER="${USER:-${LOGNAME:-$(id -un)}}" LANG="${LANG:-C.UTF-8}" TMPDIR="${TMPDIR:-/tmp}" \
        sh "$0" "$1" scrubbed
fi
cd / || exit 1
exec 4>&2 2>/dev/null
# Handled, not ignored: what is ignored would be ignored by the commands too.
trap : HUP INT QUIT TERM USR1 USR2 ALRM PIPE
dd_record=$dd_records/r.$1 dd_void=$dd_records/v.$1
# Where there is no room, the first command is told so.
printf 'idle %s\n' "$$" >"$dd_record" || [ -e "$dd_folder/alive" ] || exit 1

dd_refuse() {
    printf 'S%s ! %s\n' "$dd_mark" "$1"
    exit 125
}

# In front of the exports: the program is looked for with the command's own PATH, after them.
dd_look() {
    dd_find "$1" && return
    printf 'S%s 0 0\n' "$dd_mark"
    printf 'drydock: %s: %s\n' "$1" "$dd_why" >&2
    exit "$dd_code"
}

dd_go() {
    printf 'S%s %s %s\n' "$dd_mark" "$dd_pid" "$dd_group"
    dd_become "$@"
}

# Words that were too long for a line.
dd_take() {
    [ -r "$1" ] || dd_refuse keeper
    # shellcheck disable=SC1090
    . "$1"
    "$dd_rm" -f -- "$1"
}

dd_child() {
    # Nothing else tells a shell its own number without a fork.
    cd -P /proc/self 2>/dev/null || PWD=
    dd_pid=${PWD##*/}
    case $dd_pid in '' | *[!0-9]*) dd_pid=$(exec sh -c 'echo $PPID') ;; esac
    dd_group=$dd_pid
    [ -n "$dd_setsid" ] || dd_group=$$
    # Told first, and only then seen whether it may: so either the keeper knows of it, or it does not run.
    { printf 'run %s %s %s %s\n' "$$" "$dd_id" "$dd_pid" "$dd_group" >"$dd_record"; } 2>/dev/null || {
        if [ -e "$dd_folder/alive" ] && kill -s 0 "$dd_keeper" 2>/dev/null; then dd_refuse full; fi
        dd_refuse keeper
    }
    if [ ! -e "$dd_folder/alive" ] || [ -e "$dd_void" ] || ! kill -s 0 "$dd_keeper" 2>/dev/null; then dd_refuse keeper; fi
    eval "$dd_spec"
}

# Whether something of the command that ended has left its group: by its mark, among the processes that are younger.
dd_hides() {
    read -r dd_last dd_last dd_last dd_last dd_last </proc/loadavg || return 1
    [ "$dd_last" != "$dd_pid" ] || return 1
    set --
    for dd_file in /proc/[0-9]*; do
        # The numbers may have begun anew.
        if [ "${dd_file#/proc/}" -gt "$dd_pid" ] || [ "$dd_last" -lt "$dd_pid" ]; then
            set -- "$@" "$dd_file/environ"
        fi
    done
    [ $# -gt 0 ] && grep -qsF -e "DRYDOCK_PROCESS_ID=$dd_id" "$@"
}

while read -r dd_mark dd_id dd_mode dd_lines; do
    dd_spec=
    while [ "$dd_lines" -gt 0 ]; do
        IFS= read -r dd_line || exit 0
        dd_spec=$dd_spec$dd_line'
'
        dd_lines=$((dd_lines - 1))
    done
    printf 'S%s\n' "$dd_mark" >&4 || exit 0
    case $dd_mode in
    none) (dd_child) </dev/null 2>&4 4>&- ;;
    none+merge) (dd_child) </dev/null 2>&1 4>&- ;;
    pipe) (dd_child) 2>&4 4>&- ;;
    pipe+merge) (dd_child) 2>&1 4>&- ;;
    *) exit 1 ;;
    esac
    dd_status=$?
    read -r dd_line dd_line dd_line dd_pid dd_group <"$dd_record" || exit 1
    # Until it is known better: the keeper must not miss what hides.
    printf 'over %s %s %s %s %s 1\n' "$$" "$dd_id" "$dd_pid" "$dd_group" "$dd_status" >"$dd_record"
    dd_left=0
    if [ -n "$dd_setsid" ] && dd_kill_group 0 "$dd_group"; then dd_left=1; fi
    printf 'E%s %s %s\n' "$dd_mark" "$dd_status" "$dd_left" || exit 0
    printf 'E%s %s %s\n' "$dd_mark" "$dd_status" "$dd_left" >&4 || exit 0
    # What is left holds our pipes: this was all.
    if [ "$dd_left" = 1 ]; then exit 0; fi
    if dd_hides; then dd_left=1; fi
    dd_stays=stay
    # Our stdin was the command's, or our group was.
    if [ "$dd_left" = 1 ] || [ -z "$dd_setsid" ]; then dd_stays=go; fi
    case $dd_mode in pipe*) dd_stays=go ;; esac
    printf 'over %s %s %s %s %s %s\n' "$$" "$dd_id" "$dd_pid" "$dd_group" "$dd_status" "$dd_left" >"$dd_record"
    printf 'R%s %s %s\n' "$dd_mark" "$dd_left" "$dd_stays" || exit 0
    if [ $dd_stays = go ]; then exit 0; fi
done
