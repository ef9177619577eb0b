#!/bin/sh
# Gives the machine PgBouncer, which the tests put between our processes and PostgreSQL, where nobody has to be asked: on
# Debian and Ubuntu, as root. Elsewhere one line says how to get it. Costs nothing once it is there, and never fails:
# without it those tests are skipped and say why.
PATH="$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"
command -v pgbouncer >/dev/null && exit 0

missing="PgBouncer is missing, so nothing is tested behind it"
if ! command -v apt-get >/dev/null; then
    echo "$missing. Fedora: sudo dnf install pgbouncer; macOS: brew install pgbouncer"
elif [ "$(id -u)" != 0 ]; then
    echo "$missing. To get it: sudo apt-get install pgbouncer"
else
    echo "installing PgBouncer (apt-get install pgbouncer), once"
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    install="apt-get install --yes --no-install-recommends pgbouncer"
    $install >"$log" 2>&1 || { apt-get update && $install; } >"$log" 2>&1 ||
        echo "$missing: apt-get failed with «$(grep '^E:' "$log" | tail -1)»"
    rm -f "$log"
    # Debian starts a service of its own; the tests start theirs, on ports of their own.
    service pgbouncer stop >/dev/null 2>&1
    update-rc.d pgbouncer disable >/dev/null 2>&1
fi
exit 0
