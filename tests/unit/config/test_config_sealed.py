"""`${sealed:…}` in the files: where keys come from, what is said when one does not fit, and that nothing is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relay.config import InvalidConfig, load
from relay.config.secret_fields import Form, secret_fields
from relay.config.secret_names import secret_names
from relay.sealing.keyring import Keyring, new_key, parse_key
from relay.upstreams.smtp_options import SmtpOptions

KEY, OTHER = new_key(), new_key()
SECRET = 'p4ss: "word" ${X} $$'
SEALED = "${" + Keyring([parse_key(KEY)]).seal(SECRET) + "}"

TEXT = """\
version: 1
{extra}
bridges: [{{name: shop, pool: main, networks: [192.0.2.1/32]}}]
pools:
  - name: main
    id: 1
    nodes:
      - {{name: box, type: smtp, host: h.example, username: u, password: "{password}"}}
"""


def write(folder: Path, *, extra: str = "", password: str = SEALED) -> Path:
    path = folder / "relay.yaml"
    path.write_text(TEXT.format(extra=extra, password=password))
    return path


def password_of(loaded: Any) -> str:
    return str(loaded.config.pools[0].nodes[0].password.get_secret_value())


def test_keys_in_the_environment(tmp_path: Path) -> None:
    loaded = load(write(tmp_path), environment={"RELAY_SECRET_KEY": KEY}, base=tmp_path)
    assert password_of(loaded) == SECRET
    assert SECRET not in repr(loaded)
    assert not loaded.warnings


def test_a_key_file_of_the_environment_wins_over_the_configured_one(tmp_path: Path) -> None:
    (tmp_path / "env.key").write_text(KEY)
    (tmp_path / "yaml.key").write_text(OTHER)
    for name in ("env.key", "yaml.key"):
        (tmp_path / name).chmod(0o600)
    path = write(tmp_path, extra="secrets: {key_file: yaml.key}")
    loaded = load(path, environment={"RELAY_SECRET_KEY_FILE": "env.key"}, base=tmp_path)
    assert password_of(loaded) == SECRET
    assert tmp_path / "env.key" in loaded.files


def test_the_key_file_may_be_named_in_an_included_file_after_the_secret(tmp_path: Path) -> None:
    (tmp_path / "k").write_text(f"{OTHER}\n{KEY}\n")
    (tmp_path / "k").chmod(0o600)
    (tmp_path / "more.yaml").write_text("secrets: {key_file: k}\n")
    loaded = load(write(tmp_path, extra="include: [more.yaml]"), environment={}, base=tmp_path)
    assert password_of(loaded) == SECRET


def test_a_key_file_that_others_may_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "k").write_text(KEY)
    (tmp_path / "k").chmod(0o644)
    loaded = load(write(tmp_path, extra="secrets: {key_file: k}"), environment={}, base=tmp_path)
    assert ["can be read by every user" in warning.what for warning in loaded.warnings] == [True]


def test_a_sealed_part_of_a_value(tmp_path: Path) -> None:
    path = write(tmp_path, password=f"<{SEALED}>$$")
    assert password_of(load(path, environment={"RELAY_SECRET_KEY": KEY}, base=tmp_path)) == f"<{SECRET}>$"


DAMAGED = SEALED[:-10] + ("A" if SEALED[-10] != "A" else "B") + SEALED[-9:]
FAULTS: dict[str, tuple[str, dict[str, str], str, str]] = {
    "no key": (SEALED, {}, "the value is sealed", "set RELAY_SECRET_KEY or RELAY_SECRET_KEY_FILE"),
    "another key": (
        SEALED,
        {"RELAY_SECRET_KEY": OTHER},
        "was sealed with key",
        "environment variable RELAY_SECRET_KEY",
    ),
    "no key at all": (SEALED, {"RELAY_SECRET_KEY": "x"}, "the value is sealed", "a key begins with"),
    "missing file": (SEALED, {"RELAY_SECRET_KEY_FILE": "none"}, "the value is sealed", "does not exist"),
    "damaged": (DAMAGED, {"RELAY_SECRET_KEY": KEY}, "was damaged", "relay secret set"),
    "cut": (SEALED[:30] + "}", {"RELAY_SECRET_KEY": KEY}, "is no sealed text", ""),
}


@pytest.mark.parametrize(("password", "environment", "what", "hint"), FAULTS.values(), ids=list(FAULTS))
def test_what_cannot_be_opened_is_told_at_its_place(
    tmp_path: Path, password: str, environment: dict[str, str], what: str, hint: str
) -> None:
    path = write(tmp_path, password=password)
    column = path.read_text().splitlines()[7].index('"') + 1
    with pytest.raises(InvalidConfig) as caught:
        load(path, environment=environment, base=tmp_path)
    (fault,) = caught.value.faults
    assert (fault.place.file, fault.place.line, fault.place.column) == (str(path), 8, column)
    assert fault.key == "pools[0].nodes[0].password"
    assert what in fault.what
    assert hint in fault.hint
    assert not any(key.split(":")[1] in str(caught.value) for key in (KEY, OTHER))
    assert SEALED[20:60] not in str(caught.value)


def test_forms_of_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_SECRET_KEY", KEY)
    monkeypatch.setenv("PW", "from-the-environment")
    path = tmp_path / "relay.yaml"
    path.write_text(
        "version: 1\n"
        "bridges:\n"
        "  - {name: a, pool: main, credentials: [{username: a, password: plain-one}, "
        f'{{username: b, password: "sha256:{"ab" * 32}"}}]}}\n'
        "pools:\n  - name: main\n    id: 1\n    nodes:\n"
        "      - {name: n1, type: smtp, host: h.example, username: u, password: &p shared}\n"
        "      - {name: n2, type: smtp, host: h.example, username: u, password: *p}\n"
        '      - {name: n3, type: smtp, host: h.example, username: u, password: "${PW}"}\n'
        f'      - {{name: n4, type: smtp, host: h.example, username: u, password: "{SEALED}"}}\n'
    )
    found = secret_fields(path, load(path).config)
    assert [(entry.key, entry.form) for entry in found] == [
        ("bridges[0].credentials[0].password", Form.PLAIN),
        ("bridges[0].credentials[1].password", Form.HASH),
        ("pools[0].nodes[0].password", Form.PLAIN),
        ("pools[0].nodes[2].password", Form.ELSEWHERE),
        ("pools[0].nodes[3].password", Form.SEALED),
    ]
    assert not any(value in repr(found) for value in ("plain-one", "shared", "from-the-environment", SECRET))


def test_which_keys_of_a_type_hold_secrets() -> None:
    assert secret_names(SmtpOptions) == [("password",), ("oauth", "client_secret"), ("oauth", "refresh_token")]
