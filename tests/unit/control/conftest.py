"""Delivery beneath the operator is tested in virtual time; what talks over sockets keeps the real one."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.unit.delivery.virtual_time import VirtualTimeLoop


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Any]:
    if item.path.name == "test_operator.py":
        return {"virtual": VirtualTimeLoop}
    return {"real": asyncio.SelectorEventLoop}
