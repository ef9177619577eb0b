#!/bin/sh
# Gives the machine Chromium, which the tests drive, where nobody has to be asked: on Debian, as root. Elsewhere one line
# says how to get it. Costs nothing once it is there, and never fails: without it those tests are skipped and say why.
command -v chromium >/dev/null && exit 0

missing="Chromium is missing, so nothing is tested in a browser"
if ! command -v apt-get >/dev/null; then
    echo "$missing. Fedora: sudo dnf install chromium; another program: MEDIA_TEST_CHROMIUM=/path/to/chrome"
elif [ "$(id -u)" != 0 ]; then
    echo "$missing. To get it: sudo apt-get install chromium"
else
    echo "installing Chromium (apt-get install chromium), once"
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    install="apt-get install --yes --no-install-recommends chromium"
    $install >"$log" 2>&1 || { apt-get update && $install; } >"$log" 2>&1 ||
        echo "$missing: apt-get failed with «$(grep '^E:' "$log" | tail -1)»"
    rm -f "$log"
fi
exit 0
