"""Patches sent with `git send-email` arrive octet for octet and give the same tree again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.clients import run
from tests.interop.gateway import MODES, Passage
from tests.interop.programs import needs
from tests.interop.samples import assert_stamped, head_of, unix

pytestmark = [pytest.mark.interop, pytest.mark.scenario, needs("git"), needs("git send-email")]

IDENTITY = {
    "GIT_AUTHOR_NAME": "Zoë Müller",
    "GIT_AUTHOR_EMAIL": "zoe@acme.example",
    "GIT_COMMITTER_NAME": "Zoë Müller",
    "GIT_COMMITTER_EMAIL": "zoe@acme.example",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


class Repository:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self("init", "-q", "-b", "main")
        (folder / "readme").write_text("start\n")
        self.commit("start")

    def __call__(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        return run(["git", "-C", self.folder, *arguments], stdin=stdin, **IDENTITY)

    def commit(self, title: str) -> None:
        self("add", "-A")
        self("commit", "-q", "-m", title, "-m", "Body of the commit.\n\n.\n.. dots\n")

    def tree(self) -> str:
        return self("rev-parse", "HEAD^{tree}").strip()


@pytest.fixture
def series(tmp_path: Path) -> tuple[Repository, list[Path]]:
    """Three patches with what mail tends to damage, and a repository that has them."""
    author = Repository(tmp_path / "author")
    (author.folder / "dots").write_text(".\n..\n.x\n\n.\n" + "blank at the end \t\n" + "From a line\n")
    author.commit("Lines of dots")
    (author.folder / "wide").write_text("Grüße\n注文\nتأكيد\n")
    author.commit("Wörter in acht Bit")
    (author.folder / "long").write_bytes(b"word " * 1000 + b"\n" + b"dos line\r\n" * 3)
    author.commit("A long line, and lines of another system")
    author("format-patch", "-q", "--base=HEAD~3", "-o", tmp_path / "out", "HEAD~3")
    return author, sorted((tmp_path / "out").glob("*.patch"))


@pytest.mark.parametrize("mode", MODES)
def test_patches_arrive_octet_for_octet_and_apply(passage: Passage, tmp_path: Path, series, mode: str):
    author, patches = series
    door = passage.gateway.doors[mode]
    recipient = f"patches.{mode}@lists.example"
    settings = {
        "smtpServer": door.host,
        "smtpServerPort": door.port,
        "smtpEncryption": {"none": "none", "starttls": "tls", "implicit": "ssl"}[mode],
        "smtpSSLCertPath": door.ca,
        "smtpUser": door.user,
        "smtpPass": door.password,
    }
    options = [part for name, value in settings.items() for part in ("-c", f"sendemail.{name}={value}")]
    author(
        *options, "send-email", "--to", recipient, "--from", "Zoë Müller <zoe@acme.example>", "--confirm=never",
        "--suppress-cc=all", "--8bit-encoding=UTF-8", *patches,
    )  # fmt: skip
    arrived = sorted(passage.all_arrived(recipient, len(patches)), key=lambda one: _subject(one.content))
    for patch, one in zip(patches, arrived, strict=True):
        assert one.sender == "zoe@acme.example"
        assert_stamped(one.content)
        if patch.name.startswith("0003"):
            assert b"Content-Transfer-Encoding: quoted-printable" in head_of(one.content)
        else:
            sent_body = patch.read_bytes().partition(b"\n\n")[2]
            body = one.content.partition(b"\r\n\r\n")[2]
            assert body == sent_body.replace(b"\n", b"\r\n")
    reader = Repository(tmp_path / "reader")
    for one in arrived:
        reader("am", "-q", "--keep-cr", stdin=unix(one.content))
    assert reader.tree() == author.tree()


def _subject(content: bytes) -> bytes:
    return next(line for line in content.split(b"\r\n") if line.startswith(b"Subject: "))
