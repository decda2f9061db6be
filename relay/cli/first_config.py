"""The first configuration: its text, and how a node with its secrets is written into it. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.config.faults import Place
from relay.config.yaml12 import YamlFault, resolve
from relay.config.yaml_edit import scalar

_CONFIG = """\
# yaml-language-server: $schema=./relay.schema.json
# A first configuration. `relay check` tells every fault at once; the schema beside this file explains every key, also
# to your editor.
version: 1
# The name that the relay gives itself; other mail servers want to find it in DNS.
hostname: {hostname}
store: sqlite:var/relay
{secrets}account: {{tag: acme, id: 1}}
mtas:
  - {{id: mta1, zone: local}}

listeners:
  - {{{listener}}}

bridges:
  - name: {bridge}
    pool: main
    credentials:
      # The password was printed once by `relay init`; this is its hash. `relay bridge add` makes more.
      - {{username: {bridge}, password: "{stored}"}}

pools:
  - name: main
    id: 1
    mta: mta1
    default: true
    feedtype: transactional
    nodes:
{node}
"""

_SANDBOX = """\
      # Takes mail without sending it and keeps it in var/sandbox. Put a real server in its place, for example
      # {name: smarthost, type: smtp, host: smtp.example.com}.
      - {name: sandbox, type: sandbox, directory: var/sandbox}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstNode:
    """The node that was asked for.

    Attributes:
        keys: dotted key → value, without secrets.
        secrets: dotted key → the secret, or None: it is to come from the environment.
    """

    name: str
    kind: str
    keys: Mapping[str, Any]
    secrets: Mapping[str, str | None] = field(default_factory=dict, repr=False)

    def variable(self, key: str) -> str:
        """The environment variable for a secret: `SMARTHOST_PASSWORD`."""
        return re.sub(r"[^A-Z0-9]+", "_", f"{self.name}_{key}".upper()).lstrip("_0123456789")

    def facts(self, environment: Mapping[str, str]) -> dict[str, Any]:
        """As the models read it, with the secrets that are known."""
        plain: dict[str, Any] = {"name": self.name, "type": self.kind}
        known = {key: value or environment.get(self.variable(key)) for key, value in self.secrets.items()}
        for key, value in {**self.keys, **{key: value for key, value in known.items() if value}}.items():
            holder = plain
            *above, last = key.split(".")
            for part in above:
                holder = holder.setdefault(part, {})
            holder[last] = value
        return plain

    def missing(self, environment: Mapping[str, str]) -> list[str]:
        """Variables that are still to be set."""
        return [
            self.variable(key)
            for key, value in self.secrets.items()
            if value is None and not environment.get(self.variable(key))
        ]


def typed(text: str) -> Any:
    """A value as plain YAML would have it: `587` is a number, `true` a flag. Raises ValueError."""
    try:
        return resolve(text, Place("")) if text else text
    except YamlFault as fault:
        raise ValueError(fault.fault.what) from None


def node_text(node: FirstNode, written: Mapping[str, str]) -> str:
    """The lines of the node. `written`: dotted key → what to write for each secret."""
    if node.kind == "sandbox" and not node.keys:
        return _SANDBOX.replace("name: sandbox", f"name: {node.name}")
    lines = [f"- name: {scalar(node.name)}", f"  type: {node.kind}"]
    tree: dict[str, Any] = {}
    for key, value in {**node.keys, **{key: _Raw(text) for key, text in written.items()}}.items():
        holder = tree
        *above, last = key.split(".")
        for part in above:
            holder = holder.setdefault(part, {})
        holder[last] = value
    lines += [f"  {line}" for line in _lines(tree)]
    return "\n".join(f"      {line}" for line in lines)


def config_text(
    *, hostname: str, key_file: str, listener: Mapping[str, str], bridge: str, stored: str, node: str
) -> str:
    """The whole file. `key_file`: of sealed secrets, empty for none; `stored`: hash of the bridge's password."""
    return _CONFIG.format(
        hostname=scalar(hostname),
        secrets=f"secrets: {{key_file: {scalar(key_file)}}}\n" if key_file else "",
        listener=", ".join(f"{name}: {scalar(value)}" for name, value in listener.items()),
        bridge=scalar(bridge),
        stored=stored,
        node=node,
    )


class _Raw(str):
    """Written as it is, in quotes: a reference."""

    __slots__ = ()


def _lines(tree: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += [f"{key}:", *(f"  {line}" for line in _lines(value))]
        elif isinstance(value, _Raw):
            found.append(f'{key}: "{value}"')
        elif isinstance(value, bool) or not isinstance(value, str):
            found.append(f"{key}: {str(value).lower() if isinstance(value, bool) else value}")
        else:
            found.append(f"{key}: {scalar(value)}")
    return found
