"""Counts per pool, campaign, node and result in the SQLite state, and how many campaigns are told apart.

Clients choose the tags of campaigns, and some send a new one with every message. So only the `CAMPAIGNS` used last keep
counts and cursors of their own. Those of older ones are added to the counts without a campaign: sums per node, which
`least-used` and the operator's view are made of, never change by it. A tag that comes again begins at nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

from relay.state import CountKey

CAMPAIGNS: Final = 1000
"""Some 10,000 rows with a handful of nodes: read in 20 ms, which happens every few seconds."""

SLACK: Final = 100
"""So many more may gather before the oldest are folded, all at once."""

TABLES = """
CREATE TABLE counts (
    pool TEXT, campaign TEXT, node TEXT, what TEXT, n INTEGER NOT NULL, PRIMARY KEY (pool, campaign, node, what)
) WITHOUT ROWID
"""
CAMPAIGN_TABLE = """
CREATE TABLE campaigns (
    pool TEXT, campaign TEXT, used INTEGER NOT NULL, PRIMARY KEY (pool, campaign)
) WITHOUT ROWID;
INSERT INTO campaigns SELECT DISTINCT pool, campaign, 0 FROM counts WHERE campaign <> ''
"""
"""`used` grows with every writing; the highest was used last."""

_OLDEST = "SELECT pool, campaign FROM campaigns ORDER BY used, pool, campaign LIMIT ?1"
_MOVE = """
INSERT INTO counts SELECT pool, '', node, what, sum(n) FROM counts WHERE campaign <> '' AND (pool, campaign) IN
(SELECT pool, campaign FROM campaigns ORDER BY used, pool, campaign LIMIT ?1)
GROUP BY pool, node, what ON CONFLICT DO UPDATE SET n = n + excluded.n
"""


def add(connection: sqlite3.Connection, calls: Sequence[Mapping[CountKey, int]]) -> list[None]:
    """Add the deltas of all calls."""
    total: dict[CountKey, int] = {}
    for deltas in calls:
        for key, delta in deltas.items():
            total[key] = total.get(key, 0) + delta
    connection.executemany(
        "INSERT INTO counts VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET n = n + excluded.n",
        [(key.pool, key.campaign, key.node, key.what, delta) for key, delta in total.items()],
    )
    if campaigns := {(key.pool, key.campaign) for key in total if key.campaign}:
        _use(connection, campaigns)
    return [None] * len(calls)


def read(connection: sqlite3.Connection, pool: str) -> Mapping[CountKey, int]:
    """All counts, or those of one pool."""
    rows = connection.execute("SELECT pool, campaign, node, what, n FROM counts WHERE ?1 = '' OR pool = ?1", (pool,))
    return {CountKey(pool=row[0], campaign=row[1], node=row[2], what=row[3]): row[4] for row in rows}


def _use(connection: sqlite3.Connection, campaigns: set[tuple[str, str]]) -> None:
    (used,) = connection.execute("SELECT coalesce(max(used), 0) + 1 FROM campaigns").fetchone()
    connection.executemany(
        "INSERT INTO campaigns VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET used = excluded.used",
        [(*campaign, used) for campaign in campaigns],
    )
    (known,) = connection.execute("SELECT count(*) FROM campaigns").fetchone()
    if known > CAMPAIGNS + SLACK:
        _fold(connection, known - CAMPAIGNS)


def _fold(connection: sqlite3.Connection, number: int) -> None:
    """Forget the campaigns that were used longest ago; what they counted stays in the sums."""
    oldest = connection.execute(_OLDEST, (number,)).fetchall()
    connection.execute(_MOVE, (number,))
    connection.executemany("DELETE FROM counts WHERE pool = ? AND campaign = ?", oldest)
    connection.executemany("DELETE FROM campaigns WHERE pool = ? AND campaign = ?", oldest)
    # As `router.cursors.CursorKey` writes them: the name, and the name with what stands behind a slash.
    names = [f"pool:{pool}/campaign:{campaign}" for pool, campaign in oldest]
    connection.executemany(
        "DELETE FROM cursors WHERE name = ?1 OR (name > ?1 || '/' AND name < ?1 || '0')", [(name,) for name in names]
    )
