# shellcheck shell=sh
# Does small work with Drydock's own folders and launches what outlives the daemon; it answers as the keeper does, but it
# may have to wait for a disk. In front of it stand start.sh, find.sh and dd_mark.
# shellcheck disable=SC2154  # What stands in front.

exec 2>/dev/null
cd / || exit 1
umask 077
trap : PIPE

# Lets in what is done in these names, pairs of a fence and an epoch, or prints that it comes too late. From then on a path
# leads through the gates, as long as they are folders.
dd_pass() {
    while [ $# -gt 1 ]; do
        dd_gate=${1%/fences/*}/gates/${1##*/}/$2 dd_said=
        # Not to be opened again by who comes late, not even for a moment.
        if ! dd_is_fenced "$1" "$2" && [ ! -d "$dd_gate" ]; then dd_said=$(LC_ALL=C mkdir -p -- "$dd_gate" 2>&1); fi
        if dd_is_fenced "$1" "$2"; then
            rmdir -- "$dd_gate"
            printf fenced
            return 1
        fi
        if [ ! -d "$dd_gate" ]; then
            printf %s "$dd_said"
            return 1
        fi
        shift 2
    done
}

# Behind the folder come pairs. The folder is made first, and only then is seen whether it may be: so either who cleans up
# finds it, or it goes again.
dd_make_folder() {
    dd_made=
    if [ ! -d "$1" ]; then
        LC_ALL=C mkdir -p -- "$1" 2>&1 || return
        dd_made=$1
    fi
    shift
    dd_pass "$@" && return
    [ -z "$dd_made" ] || rmdir -- "$dd_made"
    return 1
}

# From now on the fence $1 lets in nothing below the epoch $2. Two at once must not undo each other.
dd_fence_off() {
    LC_ALL=C mkdir -p -- "${1%/*}" 2>&1 || return
    dd_tries=0
    until (set -C && : >"$1.lock"); do
        dd_tries=$((dd_tries + 1))
        # Whoever has it for so long was killed.
        if [ "$dd_tries" = 30 ]; then rm -f -- "$1.lock"; fi
        if [ "$dd_tries" -gt 40 ]; then
            printf %s "$1.lock is in the way"
            return 1
        fi
        sleep 0.1 || sleep 1
    done
    dd_raise "$1" "$2" && dd_shut "${1%/fences/*}/gates/${1##*/}" "$2"
    dd_status=$?
    rm -f -- "$1.lock"
    return "$dd_status"
}

dd_raise() {
    if [ -e "$1" ]; then
        # It lets in less already, or as much.
        if dd_is_fenced "$1" "$2" || [ "$dd_least" = "$2" ]; then return 0; fi
    fi
    dd_write "$1" "$1.$$" "$2
" "$1"
}

# Puts files in the place of the gates below $1 for the epochs below $2.
dd_shut() {
    for dd_gate in "$1"/*; do
        [ "${dd_gate##*/}" -lt "$2" ] || continue
        while [ -d "$dd_gate" ]; do
            # Who comes late may just do the same.
            dd_said=$(LC_ALL=C rmdir -- "$dd_gate" 2>&1) || [ ! -d "$dd_gate" ] || {
                printf %s "$dd_said"
                return 1
            }
            (set -C && : >"$dd_gate")
        done
    done
}

dd_read() {
    if [ -r "$1" ] && [ ! -d "$1" ]; then
        cat -- "$1"
    else
        # It may have come in between: then there is nothing wrong.
        LC_ALL=C cat -- "$1" 2>&1
    fi
}

# $2 is a temporary sibling, and $4 the way to $1 by way of gates; behind it come pairs.
dd_write() {
    if [ -d "$1" ]; then
        printf %s 'Is a directory'
        return 1
    fi
    dd_to=$4 dd_beside=$2 dd_text=$3
    shift 4
    dd_pass "$@" || return
    dd_said=$(printf %s "$dd_text" | LC_ALL=C dd of="$dd_beside" conv=fsync 2>&1) &&
        dd_said=$(LC_ALL=C mv -f -- "$dd_beside" "$dd_to" 2>&1) && return 0
    rm -f -- "$dd_beside"
    # It may have been shut in between.
    dd_pass "$@" || return
    printf %s "$dd_said"
    return 1
}

dd_free() {
    LC_ALL=C df -Pk -- "$1" 2>&1
}

# What a script of ours prints; $2 is its word.
dd_question() {
    dd_it=$1
    shift
    (eval "$dd_it")
}

# Starts what dd_it says, its output appended to $1. First without starting it, to see whether it can be. $2 is its mark, and $3
# the folder where it is known by its number until it can be known by its environment.
dd_launch() {
    dd_why=$( (: >>"$1") 2>&1) || {
        printf 'log %s' "$dd_why"
        return 1
    }
    dd_step=look
    (eval "$dd_it") || return 1
    LC_ALL=C mkdir -p -- "$3" || {
        printf full
        return 1
    }
    dd_step=go
    (dd_note "$2" "$3" && eval "$dd_it") </dev/null >>"$1" 2>&1 &
    printf %s "$!"
}

# Told first, and only then seen whether it may: so either who cleans up knows of it, or it does not run.
dd_note() {
    cd -P /proc/self 2>/dev/null || PWD=
    dd_pid=${PWD##*/}
    case $dd_pid in '' | *[!0-9]*) dd_pid=$(exec sh -c 'echo $PPID') ;; esac
    dd_noted=$2/$dd_pid
    { printf '%s\n' "$1" >"$dd_noted"; } 2>/dev/null
}

# What became of the launch of which $1 tells, $2 being its mark: whether it is no program yet, which may be before it has told of
# itself; else, for the last time, why it was refused.
dd_launched_as() {
    if dd_look_at "${1##*/}"; then
        case $dd_state in
        Z | X) ;;
        *)
            if [ -z "$(dd_holding "DRYDOCK_PROCESS_ID=$2" "/proc/${1##*/}/environ")" ]; then
                printf young
                return
            fi
            ;;
        esac
    fi
    dd_line='! full'
    read -r dd_line <"$1"
    rm -f -- "$1"
    printf %s "$dd_line"
}

dd_refuse() {
    if [ "$dd_step" = go ]; then printf '! %s\n' "$1" >"$dd_noted"; fi
    printf %s "$1"
    exit 1
}

dd_look() {
    dd_find "$1" && return
    printf 'program %s' "$dd_why"
    exit 1
}

dd_go() {
    [ "$dd_step" = go ] || exit 0
    # In the background these two are ignored, and would be for ever.
    if "$dd_env" --default-signal=INT,QUIT true 2>/dev/null; then set -- "$dd_env" --default-signal=INT,QUIT "$@"; fi
    dd_become "$@"
}

printf '\n%s up %s\n' "$dd_mark" "$$"
while read -r dd_tag dd_lines; do
    dd_spec=
    while [ "$dd_lines" -gt 0 ]; do
        IFS= read -r dd_line || exit 0
        dd_spec=$dd_spec$dd_line'
'
        dd_lines=$((dd_lines - 1))
    done
    eval "$dd_spec"
    printf '\n%s %s %s\n' "$dd_mark" "$dd_tag" "$?"
done
