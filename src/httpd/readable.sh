# shellcheck shell=sh
# Who serves the TCP port whose number in hex is $1, and whether they can go into the folder $2, or into the nearest one
# above it that is there. Prints a line with user and folder for those who cannot; nothing when all can, or when it
# cannot be known: only root can look.
[ "$(id -u)" = 0 ] && command -v setpriv >/dev/null 2>&1 || exit 0
inodes=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | while read -r _ local _ state _ _ _ _ _ inode _; do
    case $local-$state in *:"$1"-0A) echo "$inode" ;; esac
done)
[ -n "$inodes" ] || exit 0
marks=
for inode in $inodes; do marks="$marks -e socket:\\[$inode\\]"; done
# shellcheck disable=SC2010,SC2012,SC2086
holders=$(ls -l /proc/[0-9]*/fd 2>/dev/null | grep -e '^/proc/' $marks | {
    pid=
    while read -r line; do
        case $line in
        /proc/*) pid=${line#/proc/} pid=${pid%%/*} ;;
        *) echo "$pid" ;;
        esac
    done
})
folder=$2
while [ ! -e "$folder" ] && [ "$folder" != / ]; do folder=$(dirname "$folder"); done
told=' '
for pid in $holders; do
    parent=0 user=0 group=0
    while read -r word first _; do
        case $word in PPid:) parent=$first ;; Uid:) user=$first ;; Gid:) group=$first ;; esac
    done <"/proc/$pid/status"
    # A master serves nobody itself.
    # shellcheck disable=SC2086,SC2116
    case " $(echo $holders) " in *" $parent "*) ;; *) continue ;; esac
    case $told in *" $user "*) continue ;; esac
    told="$told$user "
    # shellcheck disable=SC2016
    if [ "$user" != 0 ] && ! setpriv --reuid="$user" --regid="$group" --init-groups sh -c 'cd -- "$1"' sh "$folder" 2>/dev/null; then
        echo "$(id -un "$user" 2>/dev/null || echo "$user") $folder"
    fi
done
exit 0
