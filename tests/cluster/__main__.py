"""`python -m tests.cluster up|down|images|load`: the commands behind the Makefile's targets for the cluster."""

from __future__ import annotations

import argparse
import subprocess
import sys

from tests.cluster.node import docker as dockers
from tests.cluster.node import images, kind
from tests.cluster.node.docker import Missing, say
from tests.tools import build


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.cluster", description=__doc__)
    parser.add_argument("action", choices=["up", "down", "images", "load"])
    parser.add_argument("names", nargs="*", help="images; all without names")
    given = parser.parse_args()
    try:
        if given.action == "up":
            _say_how_to_use(kind.up())
        elif given.action == "down":
            kind.down()
        elif given.action == "images":
            docker = dockers.ensure()
            images.make(docker, *given.names)
            for name in images.PROJECT:
                if name in (given.names or images.PROJECT):
                    say(f"biggest in {images.tag(name)}: {images.biggest(docker, name)}")
        else:
            cluster = kind.up()
            cluster.load(*images.make(cluster.docker, *given.names))
    except (Missing, build.BuildFailed) as failed:
        say(str(failed))
        return 1
    except subprocess.CalledProcessError as failed:
        say(f"{failed}\n{failed.stderr or ''}".strip())
        return 1
    return 0


def _say_how_to_use(cluster: kind.Cluster) -> None:
    for line in cluster.exports():
        print(line)


if __name__ == "__main__":
    sys.exit(main())
