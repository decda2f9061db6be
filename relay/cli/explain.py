"""`relay explain`."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import click

from relay.cli.common import ask_all, fail, json_option, print_json, run, shards
from relay.cli.text import age, moment, octets, plural, say, when, wrapped

SHOWN_RECIPIENTS = 5


@click.command()
@click.argument("message_id")
@json_option
@click.pass_obj
def explain(config: str, message_id: str, as_json: bool) -> None:
    """What happened to a message: for each decision why every node was taken or skipped, each answer, and where the
    message stands now."""
    message_id = message_id.strip().upper()

    async def work() -> dict[str, Any] | None:
        async with shards(config) as found:
            told = [t for t in await ask_all(found, "explain", message_id=message_id) if t]
            if not told:
                return None
            # Every shard reads the histories of all: what several tell is one event.
            events = {(e["at"], e["event"], e.get("node", "")): e for t in told for e in t["story"]}
            now = next((t["now"] for t in told if t["now"]), None)
            return {
                "id": message_id,
                "running": any(shard.running for shard in found),
                "now": now,
                "story": sorted(events.values(), key=lambda event: event["at"]),
            }

    told = run(work)
    if told is None:
        fail(
            f"nothing is known of {message_id}: it was never accepted here, or its history is older than "
            "history.keep_for",
            os.EX_DATAERR,
        )
    if as_json:
        print_json(told)
        return
    for event, times in _gathered(told["story"]):
        _print_event(event, times)
    _print_now(told["now"], told["story"], running=told["running"])


def _gathered(story: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """The events; of holds in a row the last one, which knows most, with their number."""
    found: list[tuple[dict[str, Any], int]] = []
    for event in story:
        if found and event["event"] == "route.held" == found[-1][0]["event"]:
            found[-1] = {**event, "first_at": found[-1][0].get("first_at", found[-1][0]["at"])}, found[-1][1] + 1
        else:
            found.append((event, 1))
    return found


def _print_event(event: dict[str, Any], times: int) -> None:
    head = f"{when(event.get('first_at', event['at']))}  {event['event']}"
    said = _said(event)
    if times > 1:
        said = f"asked {times} times until {when(event['at'])}, and the last time: {said}"
    say(wrapped(said, indent=" " * 24, first=f"{head}  "))
    if event["event"] == "route.held":
        for line in event.get("why", ()):
            say(wrapped(str(line), indent=" " * 28, first=" " * 24))
    _print_trace(tuple(line) for line in event.get("route", ()))


_FATES = {"attempt.delivered": "delivered", "attempt.refused": "refused", "message.expired": "given up"}
_TOLD = {"failed": "failed", "delayed": "is late", "relayed": "was passed on"}


def _print_trace(lines: Iterable[tuple[str, str, str]]) -> None:
    for node, verdict, reason in lines:
        mark = "→" if verdict == "chosen" else " "
        said = f"{verdict}: {reason}" if reason else verdict
        say(wrapped(f"{node} {said}", indent=" " * 28, first=f"{' ' * 22}{mark} "))


def _said(event: dict[str, Any]) -> str:
    """The event in words; what has none is listed as key=value."""
    name = event["event"]
    if name == "message.accepted":
        subject = f" “{event['subject']}”" if event.get("subject") else ""
        return (
            f"from {event.get('sender') or '<>'} to {_list(event.get('recipients', ()))}{subject}, "
            f"{octets(event.get('size', 0))}, by bridge {event.get('bridge')} ({event.get('peer')}) for pool "
            f"{event.get('pool')}, lane {event.get('lane')}"
            + (f", campaign {event['campaign']}" if event.get("campaign") else "")
            + "".join(f"; ignored {ignored}" for ignored in event.get("ignored_headers", ()))
        )
    if name.startswith("attempt."):
        vendor = f", its id {event['vendor_id']}" if event.get("vendor_id") else ""
        offered = "" if event.get("attempted", True) else ", nothing was offered"
        return (
            f"attempt {event.get('attempt')} with {event.get('node')} for {_list(event.get('recipients', ()))}: "
            f"{event.get('answer')} ({event.get('took_ms')} ms{vendor}{offered})"
        )
    if name == "route.held":
        return f"waits until {when(event.get('until'))}, because no node may take it now:"
    if name == "message.recovered":
        return f"the relay died during an attempt ({plural(event.get('crashes', 0), 'time')}): may arrive twice"
    if name == "message.expired":
        return f"given up after {age(event.get('age_s'))} for {_list(event.get('recipients', ()))}"
    if name == "message.failed":
        said = (f"{each['address']} ({each['code'] or ''} {each['text']})" for each in event.get("recipients", ()))
        return f"refused for good for {_list(said)}"
    if name == "dsn.created":
        return (
            f"the sender {event.get('to')} is told that it {_TOLD.get(event.get('action', ''), 'ended')} for "
            f"{_list(event.get('recipients', ()))}, as message {event.get('dsn_id')}"
        )
    if name == "message.dropped":
        return f"removed by {event.get('by')}, the sender is not told"
    if "why" in event and len(event) <= 4:
        return str(event["why"])
    data = {k: v for k, v in event.items() if k not in ("at", "event", "level", "id", "route")}
    return " ".join(f"{k}={v}" for k, v in data.items() if v not in ("", None, [], 0))


def _ended(story: list[dict[str, Any]]) -> str:
    """What became of a message that is not in the queue any more; empty when the story does not tell."""
    fate: dict[str, str] = {}
    for event in story:
        if event["event"] in _FATES:
            fate.update(dict.fromkeys(event.get("recipients", ()), _FATES[event["event"]]))
    counts = Counter(fate.values())
    words = [f"{word} for {plural(count, 'recipient')}" for word, count in counts.items()]
    if len(counts) == 1:
        words = list(counts)
    if any(event["event"] == "message.dropped" for event in story):
        words.append("the rest removed by an operator" if words else "removed by an operator")
    if words and any(event["event"] == "dsn.created" and event.get("action") == "failed" for event in story):
        words.append("and the sender is told")
    return ", ".join(words)


def _list(values: Iterable[Any]) -> str:
    words = [str(value) for value in values]
    more = len(words) - SHOWN_RECIPIENTS
    return ", ".join(words[:SHOWN_RECIPIENTS]) + (f" and {more} more" if more > 0 else "")


def _print_now(entry: dict[str, Any] | None, story: list[dict[str, Any]], *, running: bool) -> None:
    now = time.time()
    say()
    if entry is None:
        ended = _ended(story)
        say(f"now: done ({ended})" if ended else "now: no longer in the queue")
        return
    pending = [r["address"] for r in entry["recipients"] if r["status"] == "pending"]
    say(wrapped(f"{_stand(entry, now, running=running)}", indent="     ", first="now: "))
    if entry["reason"] and entry["state"] != "delivering":
        say(wrapped(f"because {entry['reason']}" if entry["state"] == "waiting" else entry["reason"], indent="     "))
    say(wrapped(f"left: {_list(pending)}; {plural(entry['attempts'], 'attempt')} so far", indent="     "))
    if entry["state"] in ("waiting", "ready"):
        say(f"     gives up {moment(entry['gives_up_at'], now)}")
        _print_outlook(entry.get("outlook"), now)


def _stand(entry: dict[str, Any], now: float, *, running: bool) -> str:
    match entry["state"]:
        case "delivering":
            return "being delivered"
        case "held":
            return f"held until `relay queue retry {entry['id']}`"
        case "quarantined":
            return f"set aside by the relay until `relay queue retry {entry['id']}`"
        case "waiting":
            return f"waits until {moment(entry['due'], now)}" if entry["due"] else "waits for a free connection"
        case _:
            return "waits for its turn" if running else "goes when the relay is started"


def _print_outlook(found: dict[str, Any] | None, now: float) -> None:
    """What the router would say."""
    if found is None:
        return
    at = f" at {when(found['at'])}" if found["at"] > now + 1 else " now"
    match found["chance"]:
        case "goes":
            nodes = [line["node"] for line in found["nodes"] if line["verdict"] == "eligible"]
            say(wrapped(f"as things stand it may go{at} through {_list(nodes)}:", indent="     "))
        case "waits":
            say(
                wrapped(
                    f"as things stand no node may take it{at}, until {moment(found['until'], now)}:", indent="     "
                )
            )
        case _:
            say(wrapped(f"as things stand it can never go: {found['reason']}", indent="     "))
    for line in found["nodes"]:
        said = f"{line['verdict']}: {line['reason']}" if line["reason"] else line["verdict"]
        say(wrapped(f"{line['node']} {said}", indent=" " * 9, first=" " * 7))
