#!/bin/sh
# Gives the machine wrk, which makes the load of small requests, and strace, which counts the api's fsyncs, where nobody
# has to be asked: on Debian and Ubuntu, as root. Never fails: without them the bench says what it does without.
missing=""
for tool in wrk strace; do command -v "$tool" >/dev/null || missing="$missing $tool"; done
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "not installed:$missing (Fedora: sudo dnf install$missing; macOS: brew install wrk)"
elif [ "$(id -u)" != 0 ]; then
    echo "not installed:$missing. To get it: sudo apt-get install$missing"
else
    echo "installing$missing, once"
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    install="apt-get install --yes --no-install-recommends $missing"
    $install >"$log" 2>&1 || { apt-get update && $install; } >"$log" 2>&1 ||
        echo "not installed:$missing; apt-get failed with «$(grep '^E:' "$log" | tail -1)»"
    rm -f "$log"
fi
exit 0
