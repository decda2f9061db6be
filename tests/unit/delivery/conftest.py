"""Delivery is tested in virtual time."""

from __future__ import annotations

from typing import Any

from tests.unit.delivery.virtual_time import VirtualTimeLoop


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Any]:
    return {"virtual": VirtualTimeLoop}
