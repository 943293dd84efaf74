# shellcheck shell=sh
# Sends the signal $1, 0 for none, to the group $2. dash and bash need the --, busybox does not know it.
if kill -s 0 -- "$$" 2>/dev/null; then
    dd_kill_group() { kill -s "$1" -- "-$2"; }
else
    dd_kill_group() { kill -s "$1" "-$2"; }
fi
