"""Every metric of the relay, in one place: names, labels, help, and how they come from what workers tell.

Base units (seconds, octets), counters end in `_total`. Labels come from the configuration and from closed sets, never
from addresses, subjects or words of peers, so series are bounded. A worker counts since its own start; after a crash
its counters begin anew, as Prometheus expects, and `relay_recipients_found_total` says what it found in its files.

What one worker tells is of one moment. Per shard, and so in sum, every scrape balances::

    found + accepted = delivered + failed + expired + dropped + withdrawn + pending

(see `relay.spool.ledger`; held and quarantined mail is pending). `delivery: direct` stores nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Declared:
    """`kind`: `counter` or `gauge`. Counters are named without `_total`, which the exposition adds."""

    kind: str
    name: str
    help: str
    labels: tuple[str, ...] = ()


_RESULTS = ("delivered", "failed", "expired", "dropped", "withdrawn")

BUILD = Declared("gauge", "relay_build_info", "Version of the relay; the value is always 1.", ("version",))
UP = Declared("gauge", "relay_worker_up", "1 for a worker that runs and takes mail, else 0.", ("shard",))
STARTED = Declared("gauge", "relay_worker_start_time_seconds", "When the worker started, epoch seconds.", ("shard",))
SILENT = Declared("gauge", "relay_workers_silent", "Workers that did not answer this scrape.")
SESSIONS = Declared("gauge", "relay_sessions", "Open client sessions.", ("shard",))
ATTEMPTS = Declared("gauge", "relay_attempts_running", "Attempts to deliver that are under way.", ("shard",))

FOUND = Declared("counter", "relay_recipients_found", "Recipients found pending at the start of a worker.", ("shard",))
ACCEPTED = Declared(
    "counter", "relay_recipients_accepted", "Recipients of messages stored, reports of our own included.", ("shard",)
)
FINISHED = Declared(
    "counter",
    "relay_recipients_finished",
    "Recipients that are done, by result: delivered, failed, expired, dropped, withdrawn.",
    ("shard", "result"),
)
PENDING = Declared("gauge", "relay_recipients_pending", "Recipients that wait or are being delivered.", ("shard",))

QUEUE = Declared(
    "gauge",
    "relay_queue_messages",
    "Messages in the queue by standing: queued, held, quarantined.",
    ("shard", "pool", "lane", "bridge", "standing"),
)
QUEUE_OCTETS = Declared("gauge", "relay_queue_octets", "Octets in the queue.", ("shard", "pool", "lane", "bridge"))
QUEUE_OLDEST = Declared(
    "gauge",
    "relay_queue_oldest_time_seconds",
    "When the oldest message of the queue came, epoch seconds.",
    ("shard", "pool", "lane", "bridge"),
)

EVENTS = Declared(
    "counter", "relay_events", "Events by name and what they are about.", ("shard", "event", "bridge", "pool", "node")
)
HISTORY_DROPPED = Declared(
    "counter", "relay_history_dropped", "Events that could not be kept for their stories.", ("shard",)
)

STORE_UP = Declared(
    "gauge", "relay_shared_store_up", "1 while a shared store (spool, state) answers this worker.", ("shard", "store")
)

NODE_AVAILABLE = Declared("gauge", "relay_node_available", "1 while a node may be given mail.", ("pool", "node"))
NODE_STATUS = Declared(
    "gauge", "relay_node_status", "1 for the status a node has: active, inactive, paused.", ("pool", "node", "status")
)
NODE_RECIPIENTS = Declared(
    "counter",
    "relay_node_recipients",
    "Recipients by result of an attempt with a node: sent, delivered, deferred, refused, uncertain, bounced.",
    ("pool", "node", "result"),
)
CAP_LIMIT = Declared(
    "gauge", "relay_node_cap_limit", "Recipients a cap allows in its window.", ("pool", "node", "window_seconds")
)
CAP_USED = Declared(
    "gauge", "relay_node_cap_used", "Recipients counted in the window of a cap.", ("pool", "node", "window_seconds")
)

WEBHOOK_WAITING = Declared("gauge", "relay_webhook_waiting", "Webhook calls that wait for their next try.")
WEBHOOK_CALLS = Declared(
    "counter", "relay_webhook_calls", "Webhook calls by result: taken, failed, given_up, missed.", ("result",)
)

ISSUES = Declared("gauge", "relay_issues_open", "Open issues by what they are about.", ("rule",))
ALERT_NOTICES = Declared(
    "counter",
    "relay_alert_notices",
    "Tries to tell a target of alerts, by result: taken, failed, given_up.",
    ("result",),
)

DECLARED = (
    BUILD, UP, STARTED, SILENT, SESSIONS, ATTEMPTS, FOUND, ACCEPTED, FINISHED, PENDING, QUEUE, QUEUE_OCTETS,
    QUEUE_OLDEST, EVENTS, HISTORY_DROPPED, STORE_UP, NODE_AVAILABLE, NODE_STATUS, NODE_RECIPIENTS, CAP_LIMIT, CAP_USED,
    WEBHOOK_WAITING, WEBHOOK_CALLS, ISSUES, ALERT_NOTICES,
)  # fmt: skip
"""All of them, in the order of the exposition."""

ISSUE_RULES = ("node", "cap", "queue", "reload", "expiry", "spool")
"""Words of `relay.admin.alerts.rules.Rule`; a test compares."""

_STATUSES = ("active", "inactive", "paused")


def exposition(
    version: str,
    workers: Sequence[Mapping[str, Any]],
    nodes: Sequence[Mapping[str, Any]],
    control: Mapping[str, int],
) -> bytes:
    """The text of a scrape.

    Args:
        workers: `metrics` of each worker (`control.operator.Operator.metrics`).
        nodes: rows of `Operator.nodes`; the shared state makes them the same in all workers.
        control: counts of the control process: `workers_silent`, `webhook_…`, `issues_…`, `alert_…`.
    """
    families: dict[Declared, Any] = {}

    def add(what: Declared, labels: Sequence[str], value: float) -> None:
        family = families.get(what)
        if family is None:
            made = CounterMetricFamily if what.kind == "counter" else GaugeMetricFamily
            family = families[what] = made(what.name, what.help, labels=what.labels)
        family.add_metric(labels, value)

    add(BUILD, (version,), 1)
    add(SILENT, (), control.get("workers_silent", 0))
    for worker in workers:
        _add_worker(add, worker)
    for node in nodes:
        _add_node(add, node)
    add(WEBHOOK_WAITING, (), control.get("webhook_waiting", 0))
    for result in ("taken", "failed", "given_up", "missed"):
        add(WEBHOOK_CALLS, (result,), control.get(f"webhook_{result}", 0))
    for rule in ISSUE_RULES:
        add(ISSUES, (rule,), control.get(f"issues_{rule}", 0))
    for result in ("taken", "failed", "given_up"):
        add(ALERT_NOTICES, (result,), control.get(f"alert_{result}", 0))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([families[what] for what in DECLARED if what in families]))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _add_worker(add: Any, worker: Mapping[str, Any]) -> None:
    shard = worker["shard"]
    well = worker["phase"] == "running" and not worker["unhealthy"]
    add(UP, (shard,), int(well))
    add(STARTED, (shard,), worker["started"])
    add(SESSIONS, (shard,), worker["sessions"])
    add(ATTEMPTS, (shard,), worker["attempts"])
    add(HISTORY_DROPPED, (shard,), worker["history_dropped"])
    for store, up in worker.get("stores", {}).items():
        add(STORE_UP, (shard, store), up)
    ledger = worker.get("ledger")
    if ledger:
        add(FOUND, (shard,), ledger["found"])
        add(ACCEPTED, (shard,), ledger["accepted"])
        add(PENDING, (shard,), ledger["pending"])
        for result in _RESULTS:
            add(FINISHED, (shard, result), ledger[result])
    for queue in worker["queues"]:
        key = (shard, queue["pool"], queue["lane"], queue["bridge"])
        for standing in ("queued", "held", "quarantined"):
            add(QUEUE, (*key, standing), queue[standing])
        add(QUEUE_OCTETS, key, queue["size"])
        if queue["oldest"]:
            add(QUEUE_OLDEST, key, queue["oldest"])
    events: Counter[tuple[str, ...]] = Counter()
    for series in worker.get("series", ()):
        events[(shard, series["event"], series["bridge"], series["pool"], series["node"])] += series["count"]
    for labels, count in events.items():
        add(EVENTS, labels, count)


def _add_node(add: Any, node: Mapping[str, Any]) -> None:
    key = (node["pool"], node["name"])
    add(NODE_AVAILABLE, key, int(not node["unavailable"]))
    for status in _STATUSES:
        add(NODE_STATUS, (*key, status), int(node["status"] == status))
    for result, count in sorted(node["counts"].items()):
        add(NODE_RECIPIENTS, (*key, result), count)
    for cap in node["caps"]:
        window = f"{cap['window_s']:g}"
        add(CAP_LIMIT, (*key, window), cap["limit"])
        add(CAP_USED, (*key, window), cap["used"])
