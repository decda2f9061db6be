"""Every test of the listener runs on both event loops: they differ in buffering, TLS and the order of callbacks."""

from __future__ import annotations

import asyncio

import uvloop


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
