# shellcheck shell=sh
# Removes the folder $2, a path below $1, with all that is in it; read-only entries too. Missing is fine. No link on the
# way is followed.
cd -P -- "$1" 2>/dev/null || exit 0
rest=$2
while :; do
    case $rest in */*) ;; *) break ;; esac
    part=${rest%%/*} rest=${rest#*/}
    if [ -L "$part" ]; then
        echo "drydock: $part: Is a symbolic link" >&2
        exit 1
    fi
    [ -d "$part" ] || exit 0
    [ -x "$part" ] || chmod u+rwx "./$part"
    cd -P -- "./$part" || exit 1
done
gone() { [ ! -e "./$rest" ] && [ ! -L "./$rest" ]; }
for try in 1 2 3 4 5; do
    rm -rf -- "./$rest" 2>/dev/null
    if gone; then exit 0; fi
    # What is closed to its owner, us, is opened; chmod -R follows no link.
    if [ ! -L "./$rest" ]; then chmod -R u+rwX "./$rest" 2>/dev/null; fi
done
: "$try"
rm -rf -- "./$rest"
gone
