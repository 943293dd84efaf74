#!/usr/bin/env bash
# Three daemons on one PostgreSQL, to try what happens when one of them dies. Needs the programs of PostgreSQL (15 or newer),
# and makes a server of its own in a temporary folder; with DRYDOCK_DATABASE_URL it takes that database instead.
#
#     examples/three-daemons.sh                 # goes on until Ctrl-C, and then takes everything away
#
# In another terminal, with what it prints:
#
#     export DRYDOCK_ADDR=unix:…,unix:…,unix:…
#     drydock daemon list
#     drydock lease acquire host
#     kill -9 PID                               # of the daemon that you like least
#     drydock lease acquire host
set -euo pipefail

cd "$(dirname "$0")/.."
drydock=${DRYDOCK:-}
if [ -z "$drydock" ]; then
    cargo build --locked --quiet
    drydock=${CARGO_TARGET_DIR:-target}/debug/drydock
fi

folder=$(mktemp -d)
daemons=()
server=
finish() {
    trap - EXIT INT TERM
    for pid in "${daemons[@]}" $server; do kill -TERM "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$folder"
}
trap finish EXIT
trap exit INT TERM

# Tries a command for a while.
eventually() {
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    echo "this did not come about in 30 s: $*" >&2
    exit 69
}

database=${DRYDOCK_DATABASE_URL:-}
if [ -z "$database" ]; then
    # Debian keeps the programs out of the PATH.
    programs=$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -1 || true)
    export PATH=$PATH${programs:+:$programs}
    command -v initdb >/dev/null || { echo "PostgreSQL is not installed; say DRYDOCK_DATABASE_URL=postgres://USER@HOST/NAME" >&2; exit 69; }
    mkdir -m 700 "$folder/postgres"
    as=()
    if [ "$(id -u)" = 0 ]; then
        # It refuses to run as root.
        chmod 711 "$folder"
        chown nobody "$folder/postgres"
        as=(setpriv --reuid nobody --regid nogroup --clear-groups)
    fi
    (cd "$folder/postgres" && "${as[@]}" initdb --auth=trust --username=drydock --encoding=UTF8 --pgdata data >/dev/null)
    (cd "$folder/postgres" && exec "${as[@]}" postgres -D data -k "$folder/postgres" -c listen_addresses= 2>log) &
    server=$!
    database=postgres://drydock@${folder//\//%2F}%2Fpostgres/postgres
fi
# Once, before the daemons: what is wrong with the database is said here.
eventually "$drydock" database migrate --database "$database" --data-dir "$folder"

addresses=
for name in one two three; do
    DRYDOCK_STOCK_BLUEPRINTS=true DRYDOCK_LOG=${DRYDOCK_LOG:-warn} \
        "$drydock" serve --database "$database" --data-dir "$folder/$name" >/dev/null &
    daemons+=($!)
    address=unix:$folder/$name/drydock.sock
    eventually "$drydock" --addr "$address" health
    echo "daemon $name: pid $!, $address"
    addresses=$addresses${addresses:+,}$address
done
echo "export DRYDOCK_ADDR=$addresses"
# One that is killed is what this is for: the others go on.
wait "${daemons[@]}" || true
wait
