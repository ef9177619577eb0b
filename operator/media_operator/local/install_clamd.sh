#!/bin/sh
# Gives the machine clamd where nobody has to be asked: on Debian and Ubuntu, as root. Elsewhere one line says how to get
# it. Costs nothing once clamd is there, and never fails: without clamd everything runs, and files wait for a verdict.
PATH="$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/opt/clamav/sbin:/usr/local/opt/clamav/sbin"
command -v clamd >/dev/null && exit 0

missing="clamd is missing, so files get no verdict and stay closed"
if ! command -v apt-get >/dev/null; then
    echo "$missing. Fedora: sudo dnf install clamd; macOS: brew install clamav"
elif [ "$(id -u)" != 0 ]; then
    echo "$missing. To get it: sudo apt-get install clamav-daemon"
else
    echo "installing clamd (apt-get install clamav-daemon), once"
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    # clamav-freshclam comes with it, to fetch the official signatures. Without lists, or with old ones, update and retry.
    install="apt-get install --yes --no-install-recommends clamav-daemon clamav-freshclam"
    $install >"$log" 2>&1 || { apt-get update && $install; } >"$log" 2>&1 ||
        echo "$missing: apt-get failed with «$(grep '^E:' "$log" | tail -1)»"
    rm -f "$log"
fi
exit 0
