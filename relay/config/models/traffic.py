"""Bridges, pools and nodes as they stand in the configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast, get_args

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, SecretStr, create_model
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from relay.config.models.shapes import Cap, Caps, Headers, MessageSize, Name, Network, Sender
from relay.envelope import Lane
from relay.fields import Address, Count, CountOrNone, Domain, Flag, Integer, Login, Options, Period, Secret, Text
from relay.pools.pool import Rotation
from relay.upstreams import KINDS, options_model
from relay.upstreams.carries import EVERYTHING, Carries

_M = TypeVar("_M")

Feedtype = Name
Weight = Annotated[Integer, Field(ge=0, le=1_000_000)]

_ARGON2 = re.compile(
    r"\$argon2(?:id|i|d)\$v=19\$m=(\d{1,7}),t=(\d{1,3}),p=(\d{1,3})\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{16,86}"
)
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_TOKEN = re.compile(r"sha256:[0-9a-fA-F]{64}")
_SCHEME = re.compile(r"\$[A-Za-z0-9-]{1,20}\$|\{[A-Za-z0-9.-]{3,20}\}")
_ARGON2_MEMORY_KIB = 256 * 1024
_BCRYPT_COST = range(4, 15)
"""Cost 14 is about a second of work; a login that costs more is a way to stop the relay."""


def is_hash(secret: str) -> bool:
    """True when the text is a hash that can be checked rather than the password itself."""
    return bool(_ARGON2.fullmatch(secret) or _BCRYPT.fullmatch(secret) or _TOKEN.fullmatch(secret))


def _client_secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if argon2 := _ARGON2.fullmatch(text):
        if int(argon2[1]) > _ARGON2_MEMORY_KIB or not 1 <= int(argon2[2]) <= 20 or not 1 <= int(argon2[3]) <= 16:
            raise ValueError("this argon2 hash costs too much to check; at most m=262144, t=20, p=16")
    elif bcrypt := _BCRYPT.fullmatch(text):
        if int(bcrypt[1]) not in _BCRYPT_COST:
            raise ValueError("bcrypt cost must be from 4 to 14")
    elif text.startswith("sha256:"):
        if not _TOKEN.fullmatch(text):
            raise ValueError("`sha256:` is followed by the 64 hexadecimal digits of the token's digest")
    elif _SCHEME.match(text):
        raise ValueError("damaged or unknown password hash; argon2, bcrypt, sha256:HEX or the plain password are read")
    return value


class CredentialModel(Options):
    """One SMTP login."""

    username: Login
    """Name the client logs in with; unique over all bridges."""
    password: Annotated[Secret, AfterValidator(_client_secret)]
    """Plain text (best as `${NAME}`), an argon2 or bcrypt hash, or `sha256:HEX` of a generated token."""


class BridgeLimitsModel(Options):
    """What a bridge may submit. Over a limit the client is told to wait (4xx)."""

    second: Cap | None = None
    """Recipients in any second."""
    minute: Cap | None = None
    """Recipients in any minute."""
    hour: Cap | None = None
    """Recipients in any hour."""
    day: Cap | None = None
    """Recipients in any 24 hours."""
    recipients: Count = 1000
    """Recipients of one message."""
    size: MessageSize | None = None
    """Octets of one message; the listener's `limits.size` when left out."""
    connections: CountOrNone = 0
    """Sessions at once; 0 = only bounded by the listener."""


class BridgeModel(Options):
    """What clients log in with, and what they may do. Several bridges may share a pool; each is revoked alone."""

    name: Name
    """Unique name, for logs and reports."""
    pool: Name | None = None
    """Pool its messages go through; the default pool when left out."""
    credentials: tuple[CredentialModel, ...] = ()
    """Logins; several while a password is being changed."""
    networks: tuple[Network, ...] = ()
    """Clients that are let in without a login, for example `192.0.2.7/32`."""
    senders: tuple[Sender, ...] = ()
    """Allowed senders: `user@domain`, `@domain`, `@.domain` for subdomains too; empty = any."""
    feedtype: Feedtype | None = None
    """Kind of mail; the pool's when left out."""
    lane: Lane | None = None
    """Lane of its messages; left out: `transactional` for that feedtype, else `bulk`, or what the pool says."""
    share: Annotated[Integer, Field(ge=1, le=1000)] = 1
    """Weight against the other bridges of a lane when there is more mail than room."""
    delivery: Literal["queue", "direct"] = "queue"
    """`queue` stores and answers at once; `direct` answers with the upstream's own verdict and stores nothing."""
    may_choose: Flag = False
    """Message headers may choose rotation and lane."""
    limits: BridgeLimitsModel = BridgeLimitsModel()
    """What it may submit."""


class FromModel(Options):
    """What a message lacks is filled from here."""

    name: Annotated[Text, Field(max_length=200)] = ""
    """Display name of the From header."""
    email: Address | None = None
    """Address of the From header."""
    reply_to: Address | None = None
    """Address of the Reply-To header."""


class NodeModel(Options):
    """Keys that every node has, whatever its type."""

    name: Name
    """Unique over the whole configuration; caps, health and counts are kept under it."""
    pool: Name | None = None
    """For nodes of the top-level list: their pool; the default pool when left out."""
    weight: Weight = 1
    """Share in rotation `weighted`; 0 = drained."""
    priority: Annotated[Integer, Field(ge=0, le=1_000_000)] = 1
    """Order in rotation `priority`: lower first, higher numbers stand by."""
    caps: Caps = Caps()
    """Recipients in rolling windows; never exceeded, by any number of workers."""
    connections: Count = 20
    """Attempts at once, in each process."""
    sender_domains: tuple[Domain, ...] = ()
    """Domains this node can send for; empty = any."""
    max_size: MessageSize | None = None
    """Octets of the largest message it takes; left out = not known."""
    max_recipients: Count = 100
    """Recipients in one attempt."""
    smtputf8: Flag = True
    """`false` when it is known not to take international addresses (RFC 6531)."""
    eight_bit: Literal["auto", "convert", "pass"] = "auto"
    """8-bit content: `auto` converts where the upstream cannot take it, `convert` always, `pass` never."""
    headers: Annotated[Headers, Field(default_factory=dict)]
    """Headers added to what passes here; win over the pool's and the global ones."""
    return_path: Address | None = None
    """Reverse-path used instead of the client's (never instead of the null one)."""
    from_: Annotated[FromModel, Field(alias="from")] = FromModel()
    """Defaults for what a message lacks."""

    @property
    def carries(self) -> Carries:
        """What the driver can carry; types with limits of their own say so in their options."""
        return EVERYTHING


class _Lazily(Mapping[str, _M]):
    """Kind → model, made when it is first asked for. Making the models of all kinds takes half a second of processor
    time, and most configurations use two or three."""

    def __init__(self, make: Callable[[str], _M]) -> None:
        self._made = cache(make)

    def __getitem__(self, kind: str) -> _M:
        if kind not in KINDS:
            raise KeyError(kind)
        return self._made(kind)

    def __iter__(self) -> Iterator[str]:
        return iter(KINDS)

    def __len__(self) -> int:
        return len(KINDS)


def _node_class(kind: str) -> type[NodeModel]:
    """The common keys and those of one kind, flat, as they stand in the file.

    A key both declare (`connections`) has the driver's description and default.
    """
    options = OPTION_MODELS[kind]
    kind_type: Any = Literal.__getitem__(kind)
    kind_field = FieldInfo(description="Kind of upstream.")
    bases = (options, NodeModel)
    name = "".join(word.capitalize() for word in kind.split("-"))
    created = create_model(f"{name}Node", __base__=bases, __doc__=options.__doc__, type=(kind_type, kind_field))
    return cast("type[NodeModel]", created)


OPTION_MODELS: Mapping[str, type[Options]] = _Lazily(options_model)
NODE_CLASSES: Mapping[str, type[NodeModel]] = _Lazily(_node_class)


def kind_of(model: type[NodeModel]) -> str:
    """The kind that a class of nodes was made for; empty for the common part alone."""
    field = model.model_fields.get("type")
    return str(get_args(field.annotation)[0]) if field is not None else ""


def node_type(node: NodeModel) -> str:
    """The `type` a node was declared with."""
    return str(getattr(node, "type", ""))


def node_options(node: NodeModel) -> Options:
    """The driver's part of a node, validated already."""
    model = OPTION_MODELS[node_type(node)]
    options: Options = model.model_construct(**{name: getattr(node, name) for name in model.model_fields})
    return options


class _ByType:
    """Reads a node with the model of its `type`, as a union told apart by that key would."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        choices = {kind: model.__pydantic_core_schema__ for kind, model in NODE_CLASSES.items()}
        return handler(core_schema.tagged_union_schema(choices, discriminator="type"))

    def _read(self, value: Any) -> NodeModel:
        if isinstance(value, NodeModel):
            return value
        if not isinstance(value, dict):
            raise PydanticKnownError("model_attributes_type")
        kind = value.get("type")
        if kind is None:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "'type'"})
        if not isinstance(kind, str) or kind not in KINDS:
            known = {"discriminator": "'type'", "tag": "", "expected_tags": ", ".join(KINDS)}
            raise PydanticKnownError("union_tag_invalid", known)
        return NODE_CLASSES[kind].model_validate(value)


if TYPE_CHECKING:
    AnyNode = NodeModel
else:
    AnyNode = Annotated[NodeModel, _ByType()]


class PoolModel(Options):
    """A named group of nodes with one routing logic."""

    name: Name
    """Unique name that bridges refer to."""
    id: Annotated[Integer, Field(ge=1, le=2**53)]
    """Number in the pool's internal name, unique; it never changes."""
    mta: Name | None = None
    """The mta it is bound to; may be left out when there is only one."""
    default: Flag = False
    """The pool of bridges and nodes that name none. One pool at most."""
    kind: Literal["dedicated", "shared"] = "shared"
    """Whether one customer uses it, or many."""
    feedtype: Feedtype = "transactional"
    """Kind of mail, the value of X-Feedtype."""
    lane: Lane | None = None
    """Lane of its messages; left out: `transactional` for that feedtype, else `bulk`."""
    rotation: Rotation = Rotation.ROUND_ROBIN
    """How the next node is chosen."""
    interval: Period = 300.0
    """For rotation `interval`: the next node takes over every so often."""
    headers: Annotated[Headers, Field(default_factory=dict)]
    """Headers added to what passes here; win over the global ones."""
    nodes: tuple[AnyNode, ...] = ()
    """Its nodes."""
