"""`mediactl`: the application with all its commands."""

from mediactl.program.command import app

# Each import registers its commands. Help lists them in this order.
# isort: off
from mediactl.commands import tokens
from mediactl.commands import files
from mediactl.commands import rooms
from mediactl.commands import jobs
from mediactl.commands import search
from mediactl.commands import events
from mediactl.commands import usage
# isort: on

__all__ = ["app", "events", "files", "jobs", "rooms", "search", "tokens", "usage"]
