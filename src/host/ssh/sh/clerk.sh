# shellcheck shell=sh
# Does small work with Drydock's own folders and launches what outlives the daemon; it answers as the keeper does, but it
# may have to wait for a disk. In front of it stand start.sh and dd_mark.
# shellcheck disable=SC2154  # What stands in front.

exec 2>/dev/null
cd / || exit 1
umask 077
trap : PIPE

# Behind the folder come pairs of a fence and an epoch. The folder is made first, and only then is seen whether it may be:
# so either who cleans up finds it, or it goes again.
dd_make_folder() {
    [ -d "$1" ] || LC_ALL=C mkdir -p -- "$1" 2>&1 || return
    dd_made=$1
    shift
    while [ $# -gt 1 ]; do
        if dd_is_fenced "$1" "$2"; then
            rmdir "$dd_made"
            printf fenced
            return 1
        fi
        shift 2
    done
}

# From now on the fence $1 lets in nothing below the epoch $2.
dd_fence_off() {
    if [ -e "$1" ]; then
        # It lets in less already, or as much.
        if dd_is_fenced "$1" "$2" || [ "$dd_least" = "$2" ]; then return 0; fi
    fi
    LC_ALL=C mkdir -p -- "${1%/*}" 2>&1 || return
    dd_write "$1" "$1.$$" "$2
"
}

dd_read() {
    if [ -r "$1" ] && [ ! -d "$1" ]; then
        cat -- "$1"
    else
        # It may have come in between: then there is nothing wrong.
        LC_ALL=C cat -- "$1" 2>&1
    fi
}

# $2 is a temporary sibling.
dd_write() {
    if [ -d "$1" ]; then
        printf %s 'Is a directory'
        return 1
    fi
    dd_said=$(printf %s "$3" | LC_ALL=C dd of="$2" conv=fsync 2>&1) &&
        dd_said=$(LC_ALL=C mv -f -- "$2" "$1" 2>&1) && return 0
    rm -f -- "$2"
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

# Starts what dd_it says, its output appended to $1. First without starting it, to see whether it can be.
dd_launch() {
    dd_why=$( (: >>"$1") 2>&1) || {
        printf 'log %s' "$dd_why"
        return 1
    }
    dd_step=look
    (eval "$dd_it") || return 1
    dd_step=go
    (eval "$dd_it") </dev/null >>"$1" 2>&1 &
    printf %s "$!"
}

dd_refuse() {
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
