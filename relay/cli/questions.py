"""What `relay init` has to ask for a node: worked out from the option model of its type, so that a new type is asked
for by itself. Pure: what was answered comes in as values.

Asked are the keys without a default, secrets, and those that tell whose login it is or where the account lives. All
others have a default that serves a beginning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from relay.upstreams.smtp_presets import PRESETS

_TELLING = frozenset(
    {"host", "url", "username", "access_key_id", "region", "client_id", "tenant", "account", "user", "mailbox"}
)
"""Optional keys that most users of a type give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`default` None: there is none, and an answer is needed unless the question is `optional`."""

    key: str
    text: str
    choices: tuple[str, ...] = ()
    default: str | None = None
    secret: bool = False
    optional: bool = False


def next_question(kind: str, model: type[BaseModel], given: Mapping[str, Any]) -> Question | None:
    """The next thing to ask; None when all is known. Answered keys are in `given`, those left empty as None."""
    if kind == "smtp":
        return _smtp(model, given)
    return next((q for q in _of_model(model, "") if q.key not in given), None)


def _smtp(model: type[BaseModel], given: Mapping[str, Any]) -> Question | None:
    preset = PRESETS.get(str(given.get("preset")))
    if "preset" not in given and "host" not in given:
        text = "Well-known server (none: any other)"
        return Question(key="preset", text=text, choices=("none", *PRESETS), default="none")
    keys = ["region"] if preset and "{region}" in preset.host and not preset.regions else []
    keys += [] if preset else ["host", "tls", "port"]
    for key in keys:
        if key not in given:
            return _smtp_place(key, model, given)
    if preset and preset.oauth and "login" not in given and "password" not in given and not _inside("oauth", given):
        text = f"Log in by password or oauth (password: {preset.hint})"
        return Question(key="login", text=text, choices=("password", "oauth"), default="password")
    if "username" not in given and (preset is None or preset.username == ""):
        return Question(key="username", text="Username (empty for none)", optional=True)
    if given.get("login") == "oauth":
        return next((q for q in _oauth(preset.oauth if preset else "") if q.key not in given), None)
    wanted = bool(given.get("username")) or bool(preset and preset.username)
    if "password" not in given and wanted and not _inside("oauth", given):
        what = f"Password: {preset.hint}" if preset else "Password"
        return Question(key="password", text=what, secret=True, optional=True)
    return None


def _smtp_place(key: str, model: type[BaseModel], given: Mapping[str, Any]) -> Question:
    match key:
        case "region":
            return Question(key="region", text="Region, for example us-east-1")
        case "host":
            return Question(key="host", text="SMTP server")
        case "tls":
            return Question(key="tls", text="TLS", choices=_choices(model.model_fields["tls"]), default="starttls")
        case _:
            usual = {"none": "25", "opportunistic": "25", "starttls": "587", "implicit": "465"}
            return Question(key="port", text="Port", default=usual.get(str(given.get("tls")), "587"))


def _oauth(provider: str) -> list[Question]:
    asked = [
        Question(key="oauth.client_id", text="Client id of the application you registered"),
        Question(key="oauth.client_secret", text="Its secret (empty for none)", secret=True, optional=True),
    ]
    if provider == "microsoft":
        asked.append(Question(key="oauth.tenant", text="Tenant id or domain (empty: common)", optional=True))
    return asked


def _inside(key: str, given: Mapping[str, Any]) -> bool:
    return any(name.startswith(f"{key}.") for name in given)


def _of_model(model: type[BaseModel], prefix: str) -> list[Question]:
    found = []
    for name, info in model.model_fields.items():
        key = prefix + (info.alias or name)
        secret = _is_secret(info)
        if info.is_required() and (inner := _model_in(info.annotation)) is not None:
            found += _of_model(inner, f"{key}.")
        elif info.is_required() or secret or name in _TELLING:
            found.append(_question(key, info, secret=secret))
    # Where it is and whose, before what proves it.
    return sorted(found, key=lambda question: question.secret)


def _question(key: str, info: FieldInfo, *, secret: bool) -> Question:
    sentence = " ".join((info.description or "").split()).partition(". ")[0].rstrip(".").replace("`", "")
    optional = not info.is_required()
    default = info.default if optional and isinstance(info.default, str) else None
    empty = " (empty for none)" if optional and default is None else ""
    text = f"{key.replace('_', ' ').replace('.', ' ').capitalize()}{f', {_low(sentence)}' if sentence else ''}{empty}"
    return Question(key=key, text=text, choices=_choices(info), default=default, secret=secret, optional=optional)


def _low(sentence: str) -> str:
    return sentence if sentence[1:2].isupper() else sentence[:1].lower() + sentence[1:]


def _is_secret(info: FieldInfo) -> bool:
    from relay.config.secret_names import is_secret

    return is_secret(info.annotation)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _choices(info: FieldInfo) -> tuple[str, ...]:
    if get_origin(info.annotation) is Literal:
        return tuple(str(choice) for choice in get_args(info.annotation))
    return ()
