"""A PostgreSQL of our own, for `demo`, `run --embedded` and the tests, in the care of one process.

binaries.py   where `postgres` and `initdb` are, and which major version
folder.py     the data folder: its owner, its passwords, its making
identity.py   as whom the server runs, for PostgreSQL refuses to run as root
keeper.py     the small program between us and the server, which ends the server when we die
process.py    our side of the keeper
leftovers.py  what an earlier server left: stale postmaster.pid, orphaned server and backends
database.py   the service's role and database inside it
cluster.py    `Cluster`, the whole
running.py    finding the servers that other processes run
"""

from __future__ import annotations

from service.store.embedded.cluster import Cluster

__all__ = ["Cluster"]
