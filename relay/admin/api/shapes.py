"""What goes in and comes out, as OpenAPI tells it. Rows of the relay's own may have more members than are named."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from relay.admin.security.roles import Role


def _printable(text: str) -> str:
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in text):
        raise ValueError("control characters are not allowed here")
    return text


Line = Annotated[str, StringConstraints(max_length=500), AfterValidator(_printable)]
Short = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_printable)]
MessageId = Annotated[str, StringConstraints(max_length=40)]


class Body(BaseModel):
    """Something that is sent; unknown members are refused."""

    model_config = ConfigDict(extra="forbid")


class Row(BaseModel):
    """Something that is answered."""

    model_config = ConfigDict(extra="allow")


# Mail


class SelectionBody(Body):
    """Which messages are meant: all that fit every member that is given. None given at all is refused."""

    ids: Annotated[list[MessageId], Field(max_length=10_000)] = []
    pool: Line = ""
    bridge: Line = ""
    standing: Literal["", "queued", "held", "quarantined"] = ""
    text: Line = ""


class HoldBody(SelectionBody):
    reason: Line = "no reason given"


class ReasonBody(Body):
    reason: Line = "no reason given"


class ChangedRow(Row):
    changed: int = Field(description="Messages that were changed.")
    delivering: int = Field(description="Messages left alone because a node has them now.")


class RecipientRow(Row):
    address: str
    status: str
    code: int
    text: str
    node: str


class QueueRow(Row):
    id: str
    bridge: str
    pool: str
    lane: str
    sender: str
    subject: str
    recipients: list[RecipientRow]
    received_at: float
    size: int
    attempts: int
    state: str
    due: float | None
    reason: str


class QueuePage(Row):
    items: list[QueueRow]
    next: str = Field(description="Give it as `after` for what follows; empty at the end.")


class StoryRow(Row):
    id: str
    now: dict[str, Any] | None
    story: list[dict[str, Any]]


# Configuration


class ReloadRow(Row):
    workers: int = Field(description="Workers that took the files over.")
    needs_restart: list[str] = Field(description="Keys that only a restart takes over.")
    problem: str = Field(description="Why a worker did not; empty when all did.")


class TestRow(Row):
    name: str
    ok: bool
    answer: str
    steps: list[str]


class NodeRow(Row):
    name: str
    pool: str
    type: str
    options: dict[str, Any] = Field(description="As written in the file, secrets masked.")
    state: dict[str, Any] | None = Field(description="Of the running relay; null for a node that it does not have.")


class NodeSaved(Row):
    node: NodeRow
    test: TestRow | None
    etag: str
    reload: ReloadRow


class NodeMoved(Row):
    node: NodeRow
    in_flight: int
    etag: str
    reload: ReloadRow


class PoolRow(Row):
    name: str
    internal_name: str
    zone: str
    mta: str
    options: dict[str, Any]
    nodes: list[str]
    bridges: list[str]
    messages: int
    waiting: dict[str, int]


class PoolSaved(Row):
    pool: PoolRow
    etag: str
    reload: ReloadRow


class BridgeRow(Row):
    name: str
    pool: str
    usernames: list[str]
    options: dict[str, Any]


class BridgeSaved(Row):
    bridge: BridgeRow
    etag: str
    reload: ReloadRow


class BridgeSecret(BridgeSaved):
    username: str | None
    password: str | None = Field(description="Told only now.")


class Deleted(Row):
    deleted: list[str]
    etag: str
    reload: ReloadRow


class PauseBody(Body):
    reason: Annotated[Line, StringConstraints(min_length=1)]
    for_seconds: Annotated[float, Field(gt=0, le=366 * 86400)] | None = Field(
        default=None, description="Resume by itself after so many seconds; left out: until it is resumed."
    )


class DrainBody(Body):
    reason: Line = ""


class NodeState(Row):
    name: str
    status: str
    in_flight: int = Field(description="Attempts of the node that are still under way.")


class ReassignBody(Body):
    pool: Short


class RotateBody(Body):
    username: Line = Field(default="", description="Which login; may be left out when there is one.")
    keep: bool = Field(default=False, description="Leave the old login and add another one beside it.")


class ImportRow(Row):
    name: str
    status: Literal["added", "updated", "failed"]
    detail: str
    errors: list[dict[str, str]] = []


class Imported(Row):
    dry_run: bool
    added: int
    updated: int
    failed: int
    rows: list[ImportRow]


class ConfigView(Row):
    valid: bool
    errors: list[dict[str, str]]
    warnings: list[str]
    files: list[str]
    written: dict[str, Any]
    effective: dict[str, Any]


# Others


class StatusRow(Row):
    version: str
    workers: list[dict[str, Any]]
    nodes: list[dict[str, Any]]


class EventRow(Row):
    event: str
    at: float
    level: str
    id: str
    data: dict[str, Any]


class EventList(Row):
    items: list[EventRow]


class AuditRow(Row):
    number: int
    at: float
    who: str
    role: str
    peer: str
    action: str
    target: str
    before: Any
    after: Any


class AuditPage(Row):
    items: list[AuditRow]


class TokenBody(Body):
    name: Annotated[Short, StringConstraints(pattern=r"^[A-Za-z0-9._@-]+$")]
    role: Role
    days: Annotated[float, Field(gt=0, le=3660)] | None = Field(default=None, description="Valid so long.")


class TokenRow(Row):
    id: str
    name: str
    role: Role
    made: float
    made_by: str
    expires: float
    used: float


class TokenMade(Row):
    token: TokenRow
    secret: str = Field(description="Told only now.")


class SessionRow(Row):
    name: str
    role: Role
    csrf: str = Field(description="To be sent as X-CSRF-Token with changes; empty for a bearer token.")


class WebhookRow(Row):
    name: str
    url: str
    events: list[str]
    waiting: int
    taken: int
    given_up: int
    failures: int
    paused_until: float | None
    silenced: str


class CallRow(Row):
    id: str
    number: int
    event: str
    at: float
    state: str
    tries: int
    due: float | None
    answer: str


class ReplayBody(Body):
    ids: Annotated[list[Short], Field(max_length=10_000)] = []
    state: Literal["", "waiting", "taken", "given-up"] = ""
    since: Annotated[float, Field(ge=0, le=1e11)] = Field(default=0.0, description="Events from this moment on.")


class Replayed(Row):
    replayed: int


# Sending


class MailboxBody(Body):
    email: Annotated[str, StringConstraints(max_length=320)]
    name: Annotated[str, StringConstraints(max_length=300)] = ""


Mailbox = MailboxBody | Annotated[str, StringConstraints(max_length=1000)]
Mailboxes = Annotated[list[Mailbox], Field(max_length=10_000)] | Mailbox


class AttachmentBody(Body):
    content: str = Field(description="Base64.")
    filename: Annotated[str, StringConstraints(max_length=500)] = "attachment"
    type: Annotated[str, StringConstraints(max_length=130)] = "application/octet-stream"
    content_id: Annotated[str, StringConstraints(max_length=200)] | None = None


class MessageBody(Body):
    """A message. Addresses are `user@domain`, `Name <user@domain>`, or an object with `email` and `name`."""

    from_: Mailbox = Field(alias="from")
    to: Mailboxes | None = None
    cc: Mailboxes | None = None
    bcc: Mailboxes | None = None
    reply_to: Mailboxes | None = None
    subject: Annotated[str, StringConstraints(max_length=5000)] = ""
    text: str | None = None
    html: str | None = None
    headers: dict[str, str] = {}
    attachments: Annotated[list[AttachmentBody], Field(max_length=100)] = []
    campaign: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    sender: Annotated[str, StringConstraints(max_length=320)] | None = Field(
        default=None, description="Reverse-path; the address of `from` when left out."
    )


class BatchItem(MessageBody):
    idempotency_key: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,120}$")] | None = None


class BatchBody(Body):
    messages: Annotated[list[BatchItem], Field(min_length=1, max_length=100)]


class Accepted(Row):
    id: str
    status: Literal["accepted"]
    recipients: int


class BatchRow(Row):
    status: Literal["accepted", "refused"]
    id: str = ""
    code: int = Field(description="HTTP status this message alone would have had.")
    detail: str = ""
    errors: list[dict[str, str]] = []


class BatchResult(Row):
    accepted: int
    refused: int
    results: list[BatchRow]


class IssueRow(Row):
    number: int
    rule: str
    title: str
    state: Literal["open", "closed"]
    node: str
    pool: str
    error: str = Field(description="That opened it, in the words of who knows.")
    last_error: str
    since: float
    until: float | None
    how: str = Field(description="It closed.")


class IssuePage(Row):
    items: list[IssueRow]


class NoticeRow(Row):
    what: str
    target: str
    state: str
    since: float
    due: float | None
    tries: int
    answer: str


class IssueStory(IssueRow):
    notices: list[NoticeRow]


class TargetRow(Row):
    name: str
    kind: Literal["email", "webhook", "apprise"]
    to: str
    rules: list[str]
    recovery: bool


class TargetTested(Row):
    target: str
    taken: bool
    answer: str
