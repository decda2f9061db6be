"""The OpenAPI 3.1 document: what the paths declare, and what they all share."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

import relay
from relay.admin.api.problems import ProblemModel
from relay.admin.api.shapes import MessageBody
from relay.config.models.traffic import NODE_CLASSES, BridgeModel, PoolModel

REF = "#/components/schemas/{model}"

SECURITY = {
    "token": {"type": "http", "scheme": "bearer", "description": "Of `relay token add`."},
    "bridgeLogin": {"type": "http", "scheme": "basic", "description": "Username and password of a bridge."},
    "bridgeToken": {"type": "http", "scheme": "bearer", "description": "A generated password of a bridge alone."},
}

ANYBODY = ("/livez", "/readyz", "/metrics", "/login")

NAME = re.compile(r"[^A-Za-z0-9_.-]")


def install(app: FastAPI) -> None:
    """Give the app its document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def build(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title="relay",
        version=relay.__version__,
        openapi_version="3.1.0",
        description="Admin API and send API of the relay. Errors are problem+json (RFC 9457).",
        routes=app.routes,
    )
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas.update(_extra_schemas())
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = SECURITY
    for path, item in made["paths"].items():
        for operation in item.values():
            if path in ANYBODY:
                operation["security"] = []
            elif "security" not in operation or not path.startswith("/api/v1/messages"):
                operation["security"] = [{"token": []}]
    return made


def _extra_schemas() -> dict[str, Any]:
    """Bodies that are read as they come, and judged by the models of the configuration."""
    models: list[Any] = [*NODE_CLASSES.values(), PoolModel, BridgeModel, ProblemModel, MessageBody]
    names, found = models_json_schema([(model, "validation") for model in models], by_alias=True, ref_template=REF)
    defs: dict[str, Any] = found["$defs"]
    node_refs = {kind: names[model, "validation"]["$ref"] for kind, model in NODE_CLASSES.items()}
    defs["Node"] = {
        "oneOf": [{"$ref": ref} for ref in node_refs.values()],
        "discriminator": {"propertyName": "type", "mapping": node_refs},
    }
    defs["Members"] = {
        "type": "object",
        "description": "Keys of the configuration with their values; null takes one away.",
        "additionalProperties": True,
    }
    pool = defs["PoolModel"]
    defs["Pool"] = {**pool, "required": ["name"], "properties": dict(pool["properties"])}
    bridge = defs["BridgeModel"]
    fields = {key: value for key, value in bridge["properties"].items() if key != "credentials"}
    fields["username"] = {"type": ["string", "null"], "description": "Login; the bridge's name when left out."}
    defs["Bridge"] = {**bridge, "properties": fields}
    defs["Problem"] = defs.pop("ProblemModel")
    return defs
