"""Campaigns are told apart as long as there are not too many of them; sums per node are kept whatever happens."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from relay.state import CountKey, sqlite_counts
from relay.state.sqlite import SqliteState


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_counts, "CAMPAIGNS", 10)
    monkeypatch.setattr(sqlite_counts, "SLACK", 2)


def sent(campaign: str, node: str = "a", pool: str = "shop") -> CountKey:
    return CountKey(pool, campaign, node, "sent")


def sums(counts: Mapping[CountKey, int]) -> Counter[tuple[str, str, str]]:
    total: Counter[tuple[str, str, str]] = Counter()
    for key, count in counts.items():
        total[key.pool, key.node, key.what] += count
    return total


async def test_campaigns_without_end_do_not_make_the_counts_grow_and_lose_no_recipient(tmp_path: Path) -> None:
    state = await SqliteState.open(tmp_path / "state.db")
    for number in range(100):
        tag = f"t{number}"
        await state.count({sent(tag): 1, sent(tag, "b"): 2, sent(tag, pool="news"): 3, sent("daily"): 1})
    counts = await state.counts()
    assert len({(key.pool, key.campaign) for key in counts}) <= 10 + 2 + 2
    assert sums(counts) == {("shop", "a", "sent"): 200, ("shop", "b", "sent"): 200, ("news", "a", "sent"): 300}
    assert counts[sent("daily")] == 100, "one that is always in use was forgotten"
    assert counts[sent("t99")] == 1
    assert sent("t0") not in counts
    await state.close()


async def test_the_cursors_of_a_forgotten_campaign_go_with_it_and_others_stay(tmp_path: Path) -> None:
    state = await SqliteState.open(tmp_path / "state.db")
    own = ["pool:shop/campaign:t1", "pool:shop/campaign:t1/nodes:5"]
    others = ["pool:shop", "pool:shop/campaign:t1-b", "pool:shop/campaign:t10", "pool:shop/nodes:5"]
    for name in own + others:
        await state.turns(name, 1)
    await state.count({sent("t1"): 1})
    await state.count({sent(f"x{number}"): 1 for number in range(12)})
    await state.close()
    connection = sqlite3.connect(tmp_path / "state.db")
    assert {name for (name,) in connection.execute("SELECT name FROM cursors")} == set(others)
    connection.close()


async def test_counts_of_the_version_before_are_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state = await SqliteState.open(path)
    await state.count({sent(f"old{number}"): 1 for number in range(10)})
    await state.close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("DROP TABLE campaigns")
        connection.execute("PRAGMA user_version=1")
    connection.close()
    state = await SqliteState.open(path)
    assert len(await state.counts()) == 10
    await state.count({sent(f"new{number}"): 1 for number in range(5)})
    counts = await state.counts()
    assert sums(counts) == {("shop", "a", "sent"): 15}
    assert {f"new{number}" for number in range(5)} < {key.campaign for key in counts}
    assert counts[sent("")] == 5
    await state.close()
