"""What a service answers when it does not do what was asked, for pages and API alike.

`Refused` carries an HTTP status because the words of HTTP fit: 404 there is none, 409 it stands in the way, 412 it has
changed, 422 it makes no sense, 503 not now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relay.config.change import Outdated
from relay.config.faults import InvalidConfig
from relay.config.yaml_edit import CannotEdit
from relay.control.protocol import ControlError
from relay.errors import ConfigError, RelayError

RETRY_S = 2


class Refused(Exception):
    """
    Args:
        detail: what happened and what to do, for a person.
        errors: single faults: `where` (a key path, a file with line, or a parameter) and `what`.
        more: further members of the answer.
        headers: of the HTTP answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        more: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        self.more = dict(more or {})
        self.headers = dict(headers or {})


def not_found(kind: str, name: str) -> Refused:
    return Refused(404, f"there is no {kind} {name[:200]!r}")


def refusal_of(error: Exception) -> Refused | None:
    """An expected error of the layers below as a refusal; None for one that is a defect."""
    match error:
        case Refused():
            return error
        case Outdated():
            return Refused(412, str(error))
        case InvalidConfig():
            return Refused(
                422,
                "the configuration would not be valid; nothing was changed",
                errors=[
                    {"where": f"{fault.place} {fault.key}".strip(), "what": _what(fault)} for fault in error.faults
                ],
            )
        case CannotEdit():
            return Refused(409, f"{error}; nothing was changed")
        case ConfigError():
            return Refused(422, str(error))
        case ControlError(kind="unknown-name"):
            return Refused(404, str(error))
        case ControlError(kind="invalid"):
            return Refused(422, str(error))
        case RelayError():
            return Refused(503, str(error), headers={"Retry-After": str(RETRY_S)})
        case _:
            return None


def faults_of(errors: Sequence[Any]) -> list[dict[str, str]]:
    """Faults that pydantic found, without the input: it may be secret."""
    return [
        {
            "where": ".".join(str(part) for part in error["loc"] if part != "body") or "body",
            "what": str(error["msg"]).removeprefix("Value error, "),
        }
        for error in errors
    ]


def _what(fault: Any) -> str:
    return f"{fault.what}; {fault.hint}" if fault.hint else str(fault.what)
