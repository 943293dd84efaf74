# shellcheck shell=sh
# Writes stdin to the file $1, 0600, by way of its sibling $2; $3 is the way to $1 by way of gates.
umask 077
if [ -d "$1" ]; then
    echo "drydock: $1: Is a directory" >&2
    exit 1
fi
dd of="$2" bs=65536 conv=fsync && mv -f -- "$2" "$3" && exit 0
rm -f -- "$2"
exit 1
