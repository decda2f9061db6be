"""Where the keys for sealed secrets come from: the environment, or a file that it or the configuration names.

`RELAY_SECRET_KEY` holds keys, `RELAY_SECRET_KEY_FILE` names a file; both win over `secrets.key_file`. Looked for only
when something sealed is met, so a configuration without sealed values needs no key.
"""

from __future__ import annotations

from collections.abc import Mapping as Table
from dataclasses import dataclass
from pathlib import Path

from relay.config.disk import Unreadable, is_exposed, read_regular
from relay.config.yaml12 import Mapping, Scalar
from relay.sealing.keyring import Key, Keyring, UnusableSeal, parse_keys

KEY_VARIABLE, FILE_VARIABLE = "RELAY_SECRET_KEY", "RELAY_SECRET_KEY_FILE"
_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class KeySource:
    """What was found.

    Attributes:
        said: where the keys are from, in words: `file conf/secret.key`; empty when nothing names any.
        file: the file, if it is one.
        fault: why there are no keys; empty with keys.
        exposed: others on this machine may read the file.
    """

    keyring: Keyring
    said: str = ""
    file: Path | None = None
    fault: str = ""
    exposed: bool = False


NO_KEYS = (
    f"no key to open it: set {KEY_VARIABLE} or {FILE_VARIABLE}, or `secrets: {{key_file: …}}` in the configuration"
)


def find_keys(root: Mapping, environment: Table[str, str], base: Path) -> KeySource:
    """The keys for a joined tree. `base`: folder that relative paths start from."""
    if text := environment.get(KEY_VARIABLE, ""):
        said = f"environment variable {KEY_VARIABLE}"
        try:
            return KeySource(Keyring(parse_keys(text)), said)
        except UnusableSeal as fault:
            return KeySource(Keyring(()), said, fault=f"{said}: {fault}")
    named = environment.get(FILE_VARIABLE, "") or _configured(root)
    if not named:
        return KeySource(Keyring(()), fault=NO_KEYS)
    return read_key_file(base / named)


def read_key_file(path: Path) -> KeySource:
    """The keys of a file."""
    said = f"file {path}"
    try:
        keys, exposed = _read(path)
    except (Unreadable, UnusableSeal) as fault:
        return KeySource(Keyring(()), said, path, f"{said}: {fault}")
    return KeySource(Keyring(keys), said, path, exposed=exposed)


def _read(path: Path) -> tuple[tuple[Key, ...], bool]:
    data, mode = read_regular(path, _LIMIT)
    try:
        return parse_keys(data.decode()), is_exposed(mode)
    except UnicodeDecodeError:
        raise UnusableSeal("is not text") from None


def _configured(root: Mapping) -> str:
    section = root.entries.get("secrets")
    named = section.entries.get("key_file") if isinstance(section, Mapping) else None
    if isinstance(named, Scalar) and isinstance(named.value, str) and not named.failed:
        return named.value
    return ""
