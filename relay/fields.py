"""Field types that every configured model shares: flags, counts, names, hosts, addresses, header values.

A YAML scalar arrives typed and is never coerced: a number is no password, the string `no` is no flag. Only a value that
came out of `${…}` is text by nature; it arrives as `Interpolated` and is read as whatever the field is. Operators'
models are frozen and refuse unknown keys (`Options`).

Used by `relay.config` and by the option models that drivers declare. Pure: no I/O, no clock.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
    StrictInt,
    StringConstraints,
)

from relay.domains import a_labels
from relay.units import Duration

SECRET_LIMIT = 1024
"""Characters of a password or key: longer ones turn slow hashes into a weapon (72 is all that bcrypt reads)."""

_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?[0-9]{1,18}(\.[0-9]{1,18})?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_HEADER_NAME = re.compile(r"[!-9;-~]{1,76}")
_ATOM_TEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_ADDRESS = re.compile(rf"{_ATOM_TEXT}(\.{_ATOM_TEXT})*@([^@\s]+)")


class Interpolated(str):
    """Text that stood behind `${…}`; the only text that number and flag fields read."""

    __slots__ = ()


class Options(BaseModel):
    """Base of every configured model: frozen, unknown keys refused, input never shown in errors (it may be secret)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)


def _read_flag(value: object) -> object:
    if isinstance(value, Interpolated):
        return {"true": True, "false": False}.get(value.lower(), str(value))
    return value


def _read_integer(value: object) -> object:
    if isinstance(value, Interpolated):
        return int(value) if _INTEGER.fullmatch(value) else str(value)
    return value


def _read_number(value: object) -> object:
    if isinstance(value, Interpolated):
        return float(value) if _NUMBER.fullmatch(value) else str(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("not a number")  # noqa: TRY004 - pydantic reports ValueError
    return value


def _printable(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("control characters (line ends, tabs, NUL) are not allowed here")
    return text


def _host(text: str) -> str:
    """A host name, an IPv4 or IPv6 address (without brackets)."""
    bare = text.removeprefix("[").removesuffix("]")
    try:
        return str(ip_address(bare))
    except ValueError:
        pass
    if "/" in text or ":" in text or "@" in text:
        raise ValueError("write the host name alone; scheme, port and login have keys of their own")
    name = text.removesuffix(".")
    try:
        ascii_name = a_labels(name)
    except UnicodeError:
        raise ValueError("not a host name") from None
    if not ascii_name or len(ascii_name) > 253 or not all(_HOST_LABEL.fullmatch(p) for p in ascii_name.split(".")):
        raise ValueError("not a host name or IP address")
    return ascii_name.lower()


def _domain(text: str) -> str:
    host = _host(text)
    try:
        ip_address(host)
    except ValueError:
        return host
    raise ValueError("a domain is needed here, not an IP address")


def _ip(text: str) -> str:
    try:
        return str(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise ValueError("not an IP address") from None


def _header_name(text: str) -> str:
    if not _HEADER_NAME.fullmatch(text):
        raise ValueError("not a header name: printable ASCII without blanks and colons, at most 76 characters")
    return text


def _header_value(text: str) -> str:
    if _CONTROL.sub("", text) != text.replace("\t", ""):
        raise ValueError("a header value is one line: CR, LF and control characters are not allowed")
    if len(text) > 900:
        raise ValueError("a header value has at most 900 characters (lines end at 998)")
    return text


def _address(text: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None or len(text) > 254 or len(text.rpartition("@")[0]) > 64:
        raise ValueError("not an e-mail address; write for example bounces@acme.example")
    return f"{text.rpartition('@')[0]}@{_domain(match[2])}"


def _secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text:
        raise ValueError("empty; an empty secret would protect nothing")
    if len(text) > SECRET_LIMIT:
        raise ValueError(f"longer than {SECRET_LIMIT} characters")
    if "\0" in text or "\n" in text or "\r" in text:
        raise ValueError("line ends and NUL are not allowed in a secret")
    return value


Flag = Annotated[StrictBool, BeforeValidator(_read_flag)]
Integer = Annotated[StrictInt, BeforeValidator(_read_integer)]
Count = Annotated[Integer, Field(ge=1, le=1_000_000_000)]
"""At least one."""
CountOrNone = Annotated[Integer, Field(ge=0, le=1_000_000_000)]
"""0 says: without bound."""
Port = Annotated[Integer, Field(ge=1, le=65535)]
Ratio = Annotated[float, BeforeValidator(_read_number), Field(ge=0.0, le=1.0)]
Period = Annotated[Duration, Field(gt=0.0, le=366 * 86400.0)]
"""A duration above zero and at most a year."""
Text = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_printable)]
Login = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_printable)]
Host = Annotated[str, AfterValidator(_host)]
Domain = Annotated[str, AfterValidator(_domain)]
IpAddress = Annotated[str, AfterValidator(_ip)]
Address = Annotated[str, AfterValidator(_address)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]
Secret = Annotated[SecretStr, AfterValidator(_secret)]
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_printable)]
