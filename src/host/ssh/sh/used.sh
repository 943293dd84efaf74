# shellcheck shell=sh
# Prints the bytes of all files below $1, as they are long; links are not followed. What goes meanwhile does not count.
ls -- "$1" >/dev/null || exit 1
find "$1" ! -type d -exec stat -c %s -- {} + 2>/dev/null | {
    sum=0
    while read -r size; do sum=$((sum + size)); done
    echo "$sum"
}
