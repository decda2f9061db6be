"""Changing configuration text: what changes is what was meant, and everything else is as it was, octet for octet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.config.change import Draft, Outdated, change, fingerprint
from relay.config.faults import InvalidConfig
from relay.config.yaml_edit import CannotEdit, Text

BLOCK = """\
# top
pools:
  # first
  - name: main   # of all
    id: 7
    caps:
      hour: 5    # by contract
      day: 9
    text: |
      several
      lines
    nodes:
      # the best
      - name: a  # keep
        type: smtp
        # inside
        host: ${HOST}
      - {name: b, type: smtp}
    last: 1
  # second
  - name: other
    id: 8
# end
after: 1
"""

FLOW = (
    """{"pools": [{"name": "main", "id": 7, "nodes": [{"name": "a"}, {"name": "b"}]}, {"name": "other"}], "after": 1}"""
)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("id", 12, "    id: 12"),
        ("name", "new-name", "  - name: new-name   # of all"),
        ("name", "yes", '  - name: "yes"   # of all'),
        ("name", "a: b", '  - name: "a: b"   # of all'),
        ("name", "${X}", '  - name: "$${X}"   # of all'),
        ("caps", {"hour": {"limit": 5, "spread": True}}, "    caps: {hour: {limit: 5, spread: true}}"),
        ("text", "short", "    text: short"),
        ("last", None, "    last: null"),
        ("fresh", [1, "a", {"b": 0.5}], '    fresh: [1, a, {"b": 0.5}]'),
        ("fresh", "x", "    fresh: x"),
    ],
    ids=str,
)
def test_a_key_gets_its_value_in_its_place(key: str, value: Any, line: str) -> None:
    text = Text(BLOCK)
    text.set(key, value, of=text.items("pools")[0])
    before, after = BLOCK.splitlines(), text.text.splitlines()
    assert line in after
    kept = [each for each in before if each in after]
    assert [each for each in after if each in before] == kept  # nothing else moved
    written = yaml.safe_load(text.text)["pools"][0][key]
    assert written == (value.replace("$", "$$") if isinstance(value, str) else value)
    assert {k: v for k, v in yaml.safe_load(text.text)["pools"][0].items() if k != key} == {
        k: v for k, v in yaml.safe_load(BLOCK)["pools"][0].items() if k != key
    }


@pytest.mark.parametrize("key", ["id", "caps", "text", "nodes", "last", "name"])
@pytest.mark.parametrize("source", [BLOCK, FLOW], ids=["block", "flow"])
def test_a_key_goes_and_takes_nothing_along(source: str, key: str) -> None:
    text = Text(source)
    expected = yaml.safe_load(source)
    expected["pools"][0].pop(key, None)
    text.unset(key, of=text.items("pools")[0])
    assert yaml.safe_load(text.text) == expected
    if source is BLOCK:
        for comment in ("# top", "# first", "# second", "# end"):
            assert comment in text.text


def test_the_only_key_does_not_go() -> None:
    text = Text("pools:\n  - name: x\n")
    with pytest.raises(CannotEdit):
        text.unset("name", of=text.items("pools")[0])


@pytest.mark.parametrize("source", [BLOCK, FLOW], ids=["block", "flow"])
@pytest.mark.parametrize("position", [0, 1])
def test_an_item_moves_to_another_list(source: str, position: int) -> None:
    text = Text(source)
    item = text.items("nodes", of=text.items("pools")[0])[position]
    piece = text.piece(item)
    text.remove("nodes", position, of=text.items("pools")[0], comments=len(piece.comments))
    text.put("nodes", piece, of=text.items("pools")[1])
    expected = yaml.safe_load(source)
    expected["pools"][1]["nodes"] = [expected["pools"][0]["nodes"].pop(position)]
    assert yaml.safe_load(text.text) == expected
    if source is BLOCK and position == 0:
        moved = text.text[text.text.index("name: other") :]
        for comment in ("# the best", "# keep", "# inside"):
            assert comment in moved
        assert "${HOST}" in moved
        text.put("nodes", Text(BLOCK).piece(Text(BLOCK).items("pools")[1]), of=text.items("pools")[1])
        assert [n["name"] for n in yaml.safe_load(text.text)["pools"][1]["nodes"]] == ["a", "other"]


MAIN = "version: 1\n# mine\ninclude: [pools.yaml]\nbridges: [{name: app, networks: [192.0.2.1/32]}]\n"
POOLS = """\
# theirs
pools:
  - name: main
    id: 1
    default: true
    nodes: [{name: a, type: sandbox}]
""".replace("\n", "\r\n")


@pytest.fixture
def main(tmp_path: Path) -> Path:
    (tmp_path / "relay.yaml").write_text(MAIN)
    (tmp_path / "pools.yaml").write_bytes(b"\xef\xbb\xbf" + POOLS.encode())
    (tmp_path / "pools.yaml").chmod(0o640)
    return tmp_path / "relay.yaml"


def weigh(draft: Draft) -> None:
    text = draft.text(draft.main.parent / "pools.yaml")
    text.set("weight", 5, of=text.items("nodes", of=text.items("pools")[0])[0])


def test_a_change_lands_in_the_file_where_the_thing_is(main: Path) -> None:
    seen = change(main, weigh)
    pools = main.parent / "pools.yaml"
    assert pools.read_bytes() == b"\xef\xbb\xbf" + POOLS.replace("type: sandbox", "type: sandbox, weight: 5").encode()
    assert pools.stat().st_mode & 0o777 == 0o640
    assert main.read_text() == MAIN
    assert seen.config.pools[0].nodes[0].weight == 5
    assert sorted(path.name for path in main.parent.iterdir()) == ["pools.yaml", "relay.yaml"]


def test_what_does_not_validate_is_never_written(main: Path) -> None:
    def work(draft: Draft) -> None:
        weigh(draft)
        text = draft.text(draft.main)
        text.set("workers", "many", of=text.root)  # type: ignore[arg-type]

    before = {path: path.read_bytes() for path in main.parent.iterdir()}
    with pytest.raises(InvalidConfig, match="workers"):
        change(main, work)
    with pytest.raises(CannotEdit):
        change(main, weigh, lambda after: after.config.pools[0].nodes[0].weight == 6)
    change(main, weigh, dry_run=True)
    assert {path: path.read_bytes() for path in main.parent.iterdir()} == before


def test_a_change_for_other_files_is_refused(main: Path) -> None:
    mark = fingerprint(change(main, lambda _: None).files)
    change(main, weigh, if_match=mark)
    with pytest.raises(Outdated):
        change(main, weigh, if_match=mark)


def test_a_symbolic_link_stays_one(main: Path) -> None:
    real = main.parent / "real.yaml"
    (main.parent / "pools.yaml").rename(real)
    (main.parent / "pools.yaml").symlink_to("real.yaml")
    change(main, weigh)
    assert (main.parent / "pools.yaml").is_symlink()
    assert b"weight: 5" in real.read_bytes()
