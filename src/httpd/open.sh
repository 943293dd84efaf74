# shellcheck shell=sh
# Opens the way from below the folder $1 down to the folder $2 for everybody who may go through $1: what is on the way can be
# passed and not listed. Nothing is done for folders elsewhere, or where a link is on the way.
way=$1
rest=${2#"$1"/}
[ "$rest" != "$2" ] || exit 0
while [ -n "$rest" ]; do
    part=${rest%%/*}
    case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
    way=$way/$part
    if [ -L "$way" ] || [ ! -d "$way" ]; then exit 0; fi
    chmod o+x -- "$way"
done
chmod o+r -- "$way"
