"""The library's client for an address. It does not retry by itself: whether something may be asked twice is for those
to say who know what it does."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from relay.redisdb.address import Address, Form

Client = Redis | RedisCluster


def make_client(address: Address, *, timeout_s: float | None = None) -> tuple[Client, list[Redis]]:
    """A client, not connected yet, and others that are to be closed with it (those of the sentinels)."""
    options: dict[str, Any] = {
        "username": address.username or None,
        "password": address.password or None,
        "protocol": address.protocol,
        "socket_timeout": timeout_s or address.timeout_s,
        "socket_connect_timeout": address.timeout_s,
        "client_name": f"relay:{address.name}",
        "health_check_interval": 0,
    }
    if address.form is Form.CLUSTER:
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        cluster = RedisCluster(
            startup_nodes=nodes, retry=Retry(NoBackoff(), 0), **options, **_tls(address), ssl=address.tls
        )
        return cluster, []
    options |= {"db": address.db, "retry": Retry(NoBackoff(), 0), "socket_keepalive": not address.socket}
    if address.form is Form.SENTINEL:
        own = {
            "username": address.sentinel_user or None,
            "password": address.sentinel_password or None,
            "socket_timeout": address.timeout_s,
            "socket_connect_timeout": address.timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "ssl": address.tls,
            **_tls(address),
        }
        sentinel = Sentinel(list(address.hosts), sentinel_kwargs=own, **options, ssl=address.tls, **_tls(address))  # type: ignore[no-untyped-call]
        return sentinel.master_for(address.service), list(sentinel.sentinels)
    if address.socket:
        options.pop("socket_keepalive")
        return Redis(unix_socket_path=address.socket, **options), []
    host, port = address.hosts[0]
    return Redis(host=host, port=port, ssl=address.tls, **options, **_tls(address)), []


def check_files(address: Address) -> None:
    """Load what TLS needs, so that a wrong file is named at the start.

    Raises:
        ValueError: naming the file.
    """
    if not address.tls:
        return
    for path in (address.ca_file, address.cert_file, address.key_file):
        if path and not Path(path).is_file():
            raise ValueError(f"{path} is not a file")
    try:
        context = ssl.create_default_context(cafile=address.ca_file or None)
        if address.cert_file:
            context.load_cert_chain(address.cert_file, address.key_file)
    except (ssl.SSLError, OSError) as error:
        raise ValueError(f"certificates of the shared store: {error}") from error


def _tls(address: Address) -> dict[str, Any]:
    if not address.tls:
        return {}
    return {
        "ssl_cert_reqs": "required" if address.verify else "none",
        "ssl_check_hostname": address.verify,
        "ssl_ca_certs": address.ca_file or None,
        "ssl_certfile": address.cert_file or None,
        "ssl_keyfile": address.key_file or None,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }
