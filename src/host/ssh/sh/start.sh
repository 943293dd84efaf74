# shellcheck shell=sh
# How a command is started; read by the runner and by the clerk. All names begin with dd_: what a command's own
# environment sets must not change ours.
# shellcheck disable=SC2034  # Used by those in front of whom this stands.

# Whether the word is a program, as execvp would see it; else dd_why says why not, and the status is the shell's.
dd_find() {
    dd_why='not found' dd_code=127
    case $1 in
    '') return 1 ;;
    */*)
        dd_is_program "$1" || return 1
        # A text without #! would be run by sh, by whoever execs it; the kernel would not.
        [ -e /proc/sys/fs/binfmt_misc/register ] && return 0
        case $(LC_ALL=C dd bs=4 count=1 <"$1" 2>/dev/null) in
        '#!'* | ?ELF | '') return 0 ;;
        esac
        dd_why='not a program (no #! line?)' dd_code=126
        return 1
        ;;
    esac
    dd_rest=$PATH:
    while [ -n "$dd_rest" ]; do
        dd_part=${dd_rest%%:*} dd_rest=${dd_rest#*:}
        dd_is_program "${dd_part:-.}/$1" && return 0
    done
    return 1
}

dd_is_program() {
    if [ -f "$1" ] && [ -x "$1" ]; then return 0; fi
    [ ! -e "$1" ] || { dd_why='not executable' dd_code=126; }
    return 1
}

# Whether what is done in the name of a lease comes too late: $1 is the file that says from which epoch on something is let
# in, $2 its own. Half a file lets nothing in.
dd_is_fenced() {
    [ -e "$1" ] || return 1
    dd_least=
    read -r dd_least <"$1"
    case $dd_least in '' | *[!0-9]*) return 0 ;; esac
    [ "$2" -lt "$dd_least" ]
}

dd_fence() {
    if dd_is_fenced "$1" "$2"; then dd_refuse fenced; fi
}

# The working directory. PWD and its like are not ours to hand on.
dd_enter() {
    if ! cd -P -- "$1" 2>/dev/null; then
        if [ ! -e "$1" ]; then dd_refuse missing; fi
        if [ ! -d "$1" ]; then dd_refuse file; fi
        dd_refuse denied
    fi
    unset PWD OLDPWD SHLVL
}

# Becomes the program, in a session of its own where the machine can do that.
dd_become() {
    if [ -z "$dd_setsid" ]; then exec "$@"; fi
    case $1 in
    -*) exec "$dd_setsid" -- "$@" ;;
    *) exec "$dd_setsid" "$@" ;;
    esac
}

dd_setsid=$(command -v setsid)
dd_env=$(command -v env) dd_rm=$(command -v rm)
