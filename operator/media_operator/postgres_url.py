"""The URL of PostgreSQL as people write it, for SQLAlchemy."""

import re

from psycopg.pq import Conninfo
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

_SEVERAL = re.compile(
    r"(?P<before>[^:/?]+://(?:[^:/@]*(?::[^@]*)?@)?+)(?P<hosts>[^@/?]*,[^@/?]*)(?P<after>(?:[/?].*)?)", re.DOTALL
)
"""Several hosts, each with or without its port, as libpq takes them. A comma of the password is none of theirs."""
_HOST = re.compile(r"(?:\[([^]]*)\]|([^:]*))(?::([0-9]+))?")


def parsed(text: str) -> URL:
    """The URL, of the driver psycopg. Several hosts become `?host=a,b&port=1,2`, which SQLAlchemy and libpq have both.

    Raises ValueError with a sentence. It has no part of the URL that may be secret.
    """
    try:
        several = _SEVERAL.fullmatch(text.strip())
        url = make_url(several["before"] + several["after"] if several else text.strip())
        if several:
            hosts, ports = zip(*map(_place, several["hosts"].split(",")), strict=True)
            url = url.update_query_dict({"port": ",".join(ports), **url.query, "host": ",".join(hosts)})
        host, port = url.query.get("host"), url.query.get("port")
        if isinstance(host, str) and isinstance(port, str) and "," not in port:  # one port of all hosts
            url = url.update_query_dict({"port": ",".join(port for _ in host.split(","))})
    except (ArgumentError, ValueError):
        raise ValueError(_FORM) from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError(_FORM)
    known = {each.keyword.decode() for each in Conninfo.get_defaults()}
    if unknown := sorted(url.query.keys() - known):
        raise ValueError(f"PostgreSQL's client library knows no parameter {unknown[0]}: leave it out")
    return url.set(drivername="postgresql+psycopg")


_FORM = (
    "it must be postgresql://role:password@host:5432/database, with letters such as @ : / ? # % of the password as %40 "
    "%3A %2F %3F %23 %25"
)


def _place(text: str) -> tuple[str, str]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return found[1] or found[2], found[3] or "5432"
