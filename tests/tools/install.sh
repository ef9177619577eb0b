#!/bin/sh
# sh install.sh PROGRAMS WITHOUT ELSEWHERE PACKAGE...
#
# Gives the machine Debian packages where nobody has to be asked: on Debian and Ubuntu, as root. Elsewhere one line says
# how to get them. Costs nothing once they are there, and never fails: what needs them says what it does without.
#
# PROGRAMS: those that the packages have, with spaces. WITHOUT: a sentence about what is not done without them.
# ELSEWHERE: how to get them on other systems. STOP, of the environment: a service that Debian starts with them, to be
# stopped.
programs=$1 without=$2 elsewhere=$3
shift 3

PATH="$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin:/opt/homebrew/opt/clamav/sbin:/usr/local/opt/clamav/sbin"
missing=""
for program in $programs; do command -v "$program" >/dev/null || missing="$missing $program"; done
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "missing:$missing. $without. $elsewhere"
elif [ "$(id -u)" != 0 ]; then
    echo "missing:$missing. $without. To get it: sudo apt-get install $*"
else
    echo "installing$missing (apt-get install $*), once"
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    # Without lists, or with old ones, it is tried again after an update.
    install="apt-get install --yes --no-install-recommends $*"
    $install >"$log" 2>&1 || { apt-get update && $install; } >"$log" 2>&1 ||
        echo "missing:$missing. $without. apt-get failed with «$(grep '^E:' "$log" | tail -1)»"
    rm -f "$log"
    if [ -n "$STOP" ]; then
        service "$STOP" stop >/dev/null 2>&1
        update-rc.d "$STOP" disable >/dev/null 2>&1
    fi
fi
exit 0
