# shellcheck shell=sh
# Finds processes by their environment, and signals them; read by the keeper and by the clerk.
# shellcheck disable=SC2034  # Used by those in front of whom this stands.

if printf 'a=1\000b=2\000' | grep -qxzF -e b=2; then
    # Prints which of the files hold an entry.
    dd_holding() {
        dd_entry=$1
        shift
        grep -lsxzF -e "$dd_entry" "$@"
    }
else
    dd_holding() {
        dd_entry=$1
        shift
        grep -lsF -e "$dd_entry" "$@" | while read -r dd_file; do
            if tr '\000' '\n' <"$dd_file" | grep -qxF -e "$dd_entry"; then printf '%s\n' "$dd_file"; fi
        done
    }
fi

# State and group of a process, as dd_state and dd_group.
dd_look_at() {
    dd_state=X dd_group=0
    read -r dd_line <"/proc/$1/stat" || return 1
    # The name, in parentheses, may hold anything.
    dd_line=${dd_line##*) }
    dd_state=${dd_line%% *}
    dd_line=${dd_line#* * }
    dd_group=${dd_line%% *}
}

# Sends a signal, 0 for none, to the processes whose environments these are, all at once; prints how many there are.
dd_send() {
    dd_with=$1 dd_pids='' dd_count=0
    shift
    for dd_file; do
        dd_pid=${dd_file#/proc/}
        dd_pids="$dd_pids ${dd_pid%/environ}" dd_count=$((dd_count + 1))
    done
    # shellcheck disable=SC2086
    if [ "$dd_with" != 0 ] && [ "$dd_count" != 0 ]; then kill -s "$dd_with" $dd_pids; fi
    printf %s "$dd_count"
}

# Sends a signal to all whose environment holds $2, but not to what a user has merely named so. There may be thousands.
dd_strays() {
    dd_files=$(dd_holding "$2" /proc/[0-9]*/environ)
    # Without a file, grep would read our requests.
    # shellcheck disable=SC2086
    if [ -n "$dd_files" ]; then dd_files=$(grep -lsF -e DRYDOCK_PROCESS_ID= $dd_files); fi
    # shellcheck disable=SC2086
    dd_send "$1" $dd_files
}

# Sends a signal to a launched process's tree: $2 is its pid, $3 its lease, $4 its mark if that is known.
dd_launched() {
    dd_files=$(dd_holding "DRYDOCK_LEASE_ID=$3" /proc/[0-9]*/environ)
    dd_marked='' dd_found=''
    # shellcheck disable=SC2086
    if [ -n "$4" ] && [ -n "$dd_files" ]; then dd_marked=$(dd_holding "DRYDOCK_PROCESS_ID=$4" $dd_files); fi
    for dd_file in $dd_files; do
        dd_pid=${dd_file#/proc/}
        if dd_look_at "${dd_pid%/environ}" && [ "$dd_group" = "$2" ]; then dd_found="$dd_found $dd_file"; fi
    done
    for dd_file in $dd_marked; do
        dd_pid=${dd_file#/proc/}
        if dd_look_at "${dd_pid%/environ}" && [ "$dd_group" != "$2" ]; then dd_found="$dd_found $dd_file"; fi
    done
    # shellcheck disable=SC2086
    dd_send "$1" $dd_found
}
