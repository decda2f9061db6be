"""`${NAME}`, `${NAME:-default}`, `${file:/path}`, `${sealed:…}` and `$$` in scalar values of a parsed tree.

Replacement happens once, after parsing: what comes in is never read as YAML and never searched for `${` again, so a
value can hold any text without changing the structure. A `$` before anything but `{` and `$` stands for itself, so that
password hashes need no escapes. Messages name the variable or file and the place, never the content.

Sealed values wait (`open_sealed`) until all files are joined, because the configuration may name the file of the keys.

Files are read through a callable, the environment is an argument: the rest is pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from relay.config.disk import Unreadable, is_exposed, read_regular
from relay.config.faults import Fault, Notice, did_you_mean, key_path
from relay.config.key_source import KeySource, find_keys
from relay.config.yaml12 import Mapping as Tree
from relay.config.yaml12 import Node, Scalar, scalars
from relay.fields import Interpolated
from relay.sealing.keyring import UnusableSeal, key_id_of

SECRET_FILE_OCTETS = 64 * 1024
"""Room for a private key with its chain; whatever is larger was not meant to be a value."""

_PART = re.compile(r"\$\$|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class SecretFile:
    """`text` without its last line end; `exposed`: others on this machine may read the file."""

    text: str
    exposed: bool


ReadSecret = Callable[[Path], SecretFile]


def read_secret(path: Path) -> SecretFile:
    """Content of a file as a value.

    Raises:
        Unreadable: missing, not a regular file, too large, empty or not UTF-8 text.
    """
    data, mode = read_regular(path, SECRET_FILE_OCTETS + 1)
    if len(data) > SECRET_FILE_OCTETS:
        raise Unreadable(f"is larger than {SECRET_FILE_OCTETS} octets")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable("is not UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise Unreadable("is empty")
    return SecretFile(text, is_exposed(mode))


class Interpolation:
    """Replaces in place; collects faults, warnings and the files that were read."""

    def __init__(self, environment: Mapping[str, str], base: Path, read: ReadSecret = read_secret) -> None:
        """`base`: folder that relative paths in `${file:…}` start from."""
        self.faults: list[Fault] = []
        self.warnings: list[Notice] = []
        self.files: list[Path] = []
        self._environment = environment
        self._base = base
        self._read = read
        self._sealed: list[tuple[Scalar, str]] = []
        self._keys: KeySource | None = None

    def apply(self, root: Node) -> None:
        """Replace in every scalar of the tree."""
        for path, scalar in scalars(root):
            if isinstance(scalar.value, str) and "$" in scalar.value:
                if "${sealed:" in scalar.value:
                    self._sealed.append((scalar, key_path(path)))
                else:
                    self._apply_to(scalar, key_path(path))

    def open_sealed(self, root: Tree) -> None:
        """Replace in the scalars that hold sealed values, once `root` is the joined tree."""
        if not self._sealed:
            return
        self._keys = find_keys(root, self._environment, self._base)
        if self._keys.file is not None:
            self.files.append(self._keys.file)
            if self._keys.exposed:
                scalar, key = self._sealed[0]
                what = f"{self._keys.said}, which opens it, can be read by every user of this machine"
                self.warnings.append(Notice(scalar.place, key, what, f"chmod go-rwx {self._keys.file}"))
        for scalar, key in self._sealed:
            self._apply_to(scalar, key)

    def _apply_to(self, scalar: Scalar, key: str) -> None:
        origins: list[str] = []
        failed = False

        def replace(match: re.Match[str]) -> str:
            nonlocal failed
            if match[0] == "$$":
                return "$"
            value, origin, fault = self._value(match[1], closed=bool(match[2]), scalar=scalar, key=key)
            origins.append(origin)
            if fault is not None:
                failed = True
                self.faults.append(fault)
            return value

        assert isinstance(scalar.value, str)
        text = _PART.sub(replace, scalar.value)
        scalar.value = Interpolated(text) if origins else text
        scalar.origin = " and ".join(dict.fromkeys(origins))
        scalar.failed = failed

    def _value(self, inside: str, *, closed: bool, scalar: Scalar, key: str) -> tuple[str, str, Fault | None]:
        """Text, what to call its source, and what is wrong with it."""

        def fault(what: str, hint: str = "") -> tuple[str, str, Fault]:
            return "", "${…}", Fault(scalar.place, key, what, hint)

        if not closed:
            return fault("`${` without `}`", "write $$ for a dollar sign")
        if "${" in inside:
            return fault("`${…}` inside `${…}` is not supported", "give a plain default")
        if inside.startswith("sealed:"):
            return self._sealed_value(inside, scalar, key)
        if inside.startswith("file:"):
            return self._file_value(inside.removeprefix("file:"), scalar, key)
        name, has_default, default = inside.partition(":-")
        if not _NAME.fullmatch(name):
            return fault(
                "not a reference", "write ${NAME}, ${NAME:-default}, ${file:/path} or ${sealed:…}; $$ for a dollar sign"
            )
        value = self._environment.get(name, "")
        if not value and not has_default:
            # Empty counts as unset (B245): an orchestrator sets what it has no value for to nothing.
            state = "is empty" if name in self._environment else "is not set"
            hint = did_you_mean(name, self._environment) or f"set it, or give a default: ${{{name}:-…}}"
            return "", f"${{{name}}}", Fault(scalar.place, key, f"environment variable {name} {state}", hint)
        return value or default, f"${{{name}}}", None

    def _sealed_value(self, text: str, scalar: Scalar, key: str) -> tuple[str, str, Fault | None]:
        origin = f"${{sealed:v1:{key_id_of(text)}:…}}"
        keys = self._keys
        assert keys is not None
        if keys.fault:
            return "", origin, Fault(scalar.place, key, "the value is sealed", keys.fault)
        try:
            return keys.keyring.open(text), origin, None
        except UnusableSeal as fault:
            hint = f"keys are from {keys.said}; add the one that fits, or `relay secret set` the value anew"
            return "", origin, Fault(scalar.place, key, f"the sealed value {fault}", hint)

    def _file_value(self, text: str, scalar: Scalar, key: str) -> tuple[str, str, Fault | None]:
        origin = f"${{file:{text}}}"
        if not text or "\0" in text:
            return "", origin, Fault(scalar.place, key, "no file named", "write ${file:/run/secrets/name}")
        path = self._base / text
        try:
            secret = self._read(path)
        except Unreadable as fault:
            return "", origin, Fault(scalar.place, key, f"file {text} {fault}")
        if path not in self.files:
            self.files.append(path)
            if secret.exposed:
                what = f"file {text} can be read by every user of this machine"
                self.warnings.append(Notice(scalar.place, key, what, f"chmod o-r {text}"))
        return secret.text, origin, None
