"""Files below `/static/`: those of this package and no others, read once, named with their digest so that browsers may
keep them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from relay.admin.refusals import not_found

router = APIRouter(include_in_schema=False)

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_FOR_A_YEAR = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    media_type: str
    digest: str


@cache
def assets() -> dict[str, Asset]:
    """By name. Blocking at first."""
    found = {}
    for file in files("relay.admin.web").joinpath("static").iterdir():
        ending = file.name[file.name.rfind(".") :]
        if ending in _TYPES:
            content = file.read_bytes()
            found[file.name] = Asset(content, _TYPES[ending], hashlib.sha256(content).hexdigest()[:12])
    return found


def url_of(name: str) -> str:
    """Of a file, as pages write it. Raises KeyError for a file there is not."""
    return f"/static/{name}?v={assets()[name].digest}"


@router.get("/static/{name}")
async def static(name: str, v: str = "") -> Response:
    """`v`: the digest of what a page asks for."""
    found = assets().get(name)
    if found is None:
        raise not_found("file", name)
    is_this = v == found.digest
    return Response(
        found.content,
        media_type=found.media_type,
        headers={"Cache-Control": _FOR_A_YEAR if is_this else "no-cache"},
    )
