"""The URL of PostgreSQL as people write it, for SQLAlchemy."""

import re

from psycopg.pq import Conninfo
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

_SEVERAL = re.compile(r"(?P<before>[^/?]+://(?:[^@/?]*@)?)(?P<hosts>[^@/?]*,[^@/?]*)(?P<after>.*)", re.DOTALL)
"""Several hosts, each with or without its port, as libpq takes them."""
_HOST = re.compile(r"(\[[^]]*\]|[^:]*)(?::([0-9]+))?")


def parsed(text: str) -> URL:
    """The URL, of the driver psycopg. Several hosts become `?host=a:1&host=b:2`, as SQLAlchemy has them.

    Raises ValueError with a sentence. It has no part of the URL that may be secret.
    """
    try:
        several = _SEVERAL.fullmatch(text.strip())
        url = make_url(several["before"] + several["after"] if several else text.strip())
        for each in several["hosts"].split(",") if several else ():
            url = url.update_query_pairs([("host", _with_port(each))], append=True)
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


def _with_port(host: str) -> str:
    found = _HOST.fullmatch(host)
    if found is None:
        raise ValueError(host)
    return f"{found[1]}:{found[2] or 5432}"
