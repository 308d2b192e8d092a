"""Which server answers: what an address names, and how one life of one server is told from every other.

A failover may lose the last commits, and so may a server that is restored under our feet. What a replica knows of its tenants is
then ahead of the database: a proof that it still holds would claim alerts that are gone. So a lease remembers the life of the
server that it was taken on, and whatever is written under it asks for the same life again.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import parse_qsl

LIFE: Final = """
    (CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END
     || '/' || extract(epoch FROM pg_postmaster_start_time())
     || '/' || coalesce(to_regclass('alertwell.lease')::oid::text, ''))
"""
"""SQL: one life of one server. Another one after a promotion (timeline), a restart (its time), a restore (the table's oid)."""

DURABLE: Final = """
    CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
"""
"""SQL: this transaction is on disk before anybody hears of it, also where the server is told to be hasty: a server process that
dies would lose the last commits else, within one life.
"""


def place(dsn: str) -> str:
    """Hosts and ports of an address, for people. Nothing where user or password may be in it: such as one with a bare slash."""
    address = re.fullmatch(r"\w+://(?:[^@/?]*@)?([\w.:,\[\]-]*)(?:/[^@?]*)?(?:\?([^@]*))?", dsn)
    if address is None:
        return ""
    return address[1] or dict(parse_qsl(address[2] or "")).get("host", "")


def candidates(dsn: str) -> list[dict[str, Any]]:
    """Where the address names several hosts: for each of them, in order, what the driver has to be told besides the address, so
    that it tries this one alone, and takes it only if it takes writes. Without several: one that says nothing.
    """
    address, _, asked = dsn.partition("://")[2].partition("?")
    options = dict(parse_qsl(asked))
    named = address.partition("/")[0].rpartition("@")[2]
    hosts = named.split(",") if named else []
    ports: list[str] = []
    if not hosts:
        hosts, ports = options.get("host", "").split(","), options.get("port", "").split(",")
    if len(hosts) < 2:
        return [{}]
    wanted = {} if "target_session_attrs" in options else {"target_session_attrs": "read-write"}
    return [{**_host(host, ports, n), **wanted} for n, host in enumerate(hosts)]


def _host(host: str, ports: list[str], n: int) -> dict[str, Any]:
    if ports:
        port = ports[n] if n < len(ports) else ports[-1]
        return {"host": host, "port": int(port) if port else 5432}
    split = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?", host)
    if split is None:
        raise ValueError(host)
    return {"host": split[1].strip("[]"), "port": int(split[2] or 5432)}
