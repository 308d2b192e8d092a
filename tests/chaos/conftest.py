"""The fixtures of the collector's tests, for tests of faults and crashes."""

from __future__ import annotations

from tests.ingest.conftest import bench, books, clock, database, stage, staged

__all__ = ["bench", "books", "clock", "database", "stage", "staged"]
