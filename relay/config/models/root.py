"""The whole configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from relay.config.models.admin import Admin, AdminModel, WebhookModel
from relay.config.models.alerts import AlertsModel
from relay.config.models.server import (
    AccountModel,
    DkimModel,
    DsnModel,
    HealthModel,
    HistoryModel,
    LimitsModel,
    ListenerModel,
    LogModel,
    MtaModel,
    ReloadModel,
    RetryModel,
    SecretsModel,
    SpoolModel,
    Store,
    StoreModel,
    UncertainModel,
    Workers,
)
from relay.config.models.shapes import Address, Headers
from relay.config.models.traffic import AnyNode, BridgeModel, PoolModel
from relay.fields import Host, Options, Period, Text


class Config(Options):
    """Every top-level key. Lists may be spread over included files."""

    version: Literal[1]
    """Version of this format."""
    include: tuple[Text, ...] = ()
    """Files, or patterns such as `pools/*.yaml`, relative to this one: the same top-level keys; lists are joined."""
    hostname: Host | None = None
    """Name the relay gives itself in greetings, Received and Message-ID; the machine's when left out."""
    store: Store = StoreModel()
    """`sqlite:FOLDER`, `redis://…`, or one for each: `{spool: sqlite:var/relay, state: redis://…}`."""
    workers: Workers = "auto"
    """Processes that share the work; `auto` is one for each core."""
    account: AccountModel = AccountModel()
    """Whose relay this is."""
    mtas: Annotated[tuple[MtaModel, ...], Field(min_length=1)] = (MtaModel(id="mta1", zone="local"),)
    """Backends that pools are bound to."""
    listeners: tuple[ListenerModel, ...] = (ListenerModel(bind=Address("127.0.0.1", 2525)),)
    """Where mail is accepted."""
    limits: LimitsModel = LimitsModel()
    """What clients may cost."""
    line_endings: Literal["reject", "normalize"] = "normalize"
    """Bare CR or LF in content: `reject` it (554), or make it CRLF once, before anything is signed."""
    accept_deadline: Period = 60.0
    """Storing a message must end within this time, else the client hears 451 and nothing is delivered."""
    drain: Annotated[Period, Field(le=3600.0)] = 25.0
    """Time to finish what runs when the relay is told to stop."""
    secrets: SecretsModel = SecretsModel()
    """Keys of sealed secrets."""
    headers: Annotated[Headers, Field(default_factory=dict)]
    """Headers added to every message."""
    dkim: tuple[DkimModel, ...] = ()
    """Keys to sign with."""
    health: HealthModel = HealthModel()
    """What happens to a node that fails."""
    retry: RetryModel = RetryModel()
    """When a deferred message is tried again."""
    uncertain: UncertainModel = UncertainModel()
    """What happens when it is not known whether a message arrived."""
    reload: ReloadModel = ReloadModel()
    """What happens after a changed configuration was taken over."""
    dsn: DsnModel = DsnModel()
    """Reports to senders."""
    spool: SpoolModel = SpoolModel()
    """Bounds of what may wait."""
    history: HistoryModel = HistoryModel()
    """What is kept about finished messages."""
    log: LogModel = LogModel()
    """What is written, and where."""
    admin: Admin = AdminModel()
    """The admin server; `off` for none."""
    webhooks: tuple[WebhookModel, ...] = ()
    """Who is told of events by HTTP."""
    alerts: AlertsModel = AlertsModel()
    """What operators are told of, and where."""
    bridges: tuple[BridgeModel, ...] = ()
    """Logins of clients."""
    pools: tuple[PoolModel, ...] = ()
    """Groups of nodes."""
    nodes: tuple[AnyNode, ...] = ()
    """Nodes outside a pool's own list; they name their pool or go to the default one."""
