"""The OpenAPI description of the REST interface, made from the route table."""

from __future__ import annotations

import re
from collections.abc import Iterable

from casemate import __version__
from casemate.verifier.web import Endpoint

_TYPES = {str: "string", bool: "boolean", float: "number", int: "integer"}


def describe(endpoints: Iterable[Endpoint]) -> dict[str, object]:
    """Return an OpenAPI 3.1 document."""
    paths: dict[str, dict[str, object]] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Casemate verifier", "version": __version__},
        "paths": paths,
        "components": {
            "securitySchemes": {
                "session": {"type": "http", "scheme": "bearer"},
                "agent": {"type": "http", "scheme": "bearer"},
            },
            "schemas": {
                "Error": {
                    "type": "object",
                    "properties": {
                        "error": {
                            "type": "object",
                            "properties": {
                                name: {"type": "string"}
                                for name in ("code", "component", "reason", "remedy")
                            },
                        }
                    },
                }
            },
        },
    }


def _operation(one: Endpoint) -> dict[str, object]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    result: dict[str, object] = {
        "summary": one.summary,
        "operationId": one.handler.__name__.lstrip("_"),
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in re.findall(r"\{(\w+)\}", one.path)
            ),
            *(
                {"name": name, "in": "query", "description": about, "schema": {"type": "string"}}
                for name, about in one.query.items()
            ),
        ],
        "responses": {
            "200": {"description": "done", "content": {"application/json": {}}},
            "default": {"description": "refused, with a remedy", "content": error},
        },
    }
    if one.agent:
        result["security"] = [{"agent": []}]
    elif one.role is not None:
        result["security"] = [{"session": []}]
        result["x-role"] = one.role.value
    if one.raw:
        result["requestBody"] = {"required": True, "content": {"application/json": {}}}
    elif one.fields:
        result["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": [name for name, f in one.fields.items() if f.required],
                        "properties": {
                            name: {"type": _TYPES[f.kind], "description": f.about}
                            for name, f in one.fields.items()
                        },
                    }
                }
            },
        }
    return result
