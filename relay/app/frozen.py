"""A loaded configuration as octets, to hand it from one worker to the others through memory that they share.

Pickle, because the octets never leave the processes of one relay, all forked from the same program: what comes back is
the very same values, secrets and lists of networks included, without reading or checking anything again.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, cast

from relay.config.load import Loaded
from relay.config.models.traffic import NODE_CLASSES, NodeModel, kind_of


def freeze(loaded: Loaded) -> bytes:
    """The configuration with its secrets in clear: for memory only."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(loaded)
    return buffer.getvalue()


def thaw(frozen: bytes) -> Loaded:
    """What `freeze` was given."""
    return cast("Loaded", pickle.loads(frozen))  # noqa: S301 - our own memory, see above


class _Pickler(pickle.Pickler):
    """The classes of nodes are made when they are needed and stand in no module under their names."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type) and issubclass(obj, NodeModel) and (kind := kind_of(obj)):
            return _node_class, (kind,)
        return NotImplemented


def _node_class(kind: str) -> type[NodeModel]:
    return NODE_CLASSES[kind]
