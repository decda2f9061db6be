"""docs/reference/ is what the code says now, and links in the documents lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate import FOLDER, pages
from relay.cli import _COMMANDS
from relay.config.models import Config
from relay.metrics import DECLARED

ROOT = FOLDER.parents[1]
DOCUMENTS = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    return pages()


@pytest.mark.parametrize("name", ["config.md", "cli.md", "metrics.md", "events.md", "api.md"])
def test_a_reference_has_not_drifted(written: dict[str, str], name: str) -> None:
    assert (FOLDER / name).read_text() == written[name].rstrip("\n") + "\n", "run `make docs` and commit the result"


def test_nothing_is_left_out(written: dict[str, str]) -> None:
    assert set(written) == {path.name for path in FOLDER.glob("*.md")}
    assert all(f"`relay {name}`" in written["cli.md"] for name in _COMMANDS)
    assert all(f"| `{name}` |" in written["config.md"] for name in Config.model_fields)
    assert all(f"`{each.name}" in written["metrics.md"] for each in DECLARED)
    assert all(f"`{name}`" in written["events.md"] for name in ("node.deactivated", "webhook.given_up", "alert.told"))
    assert "`POST /api/v1/messages`" in written["api.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name}: {target}"
