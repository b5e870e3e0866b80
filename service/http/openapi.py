"""The OpenAPI document: FastAPI's description of the routes, in a form for client generators.

Generators read two rules of OpenAPI 3.1 differently, so the document avoids both: a field with a default counts as
always sent, and a field that may be null is sent as the text "None" in a form. Fields of requests therefore state
their default in words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from jobs.schema import InvalidProblem, Problem

BINARY: Final = {"type": "string", "format": "binary"}
"""Schema of a file, in requests and responses."""
_SCHEMAS: Final = "#/components/schemas/"


def description(app: FastAPI, extra: dict[str, Any]) -> dict[str, Any]:
    """Build the OpenAPI document of an application once; `extra` are schemas of forms."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
            servers=[{"url": "/", "description": "This server."}],
        )
        schemas = document["components"]["schemas"]
        schemas |= extra
        problem = InvalidProblem.model_json_schema(ref_template=f"{_SCHEMAS}{{model}}")
        schemas |= problem.pop("$defs") | {InvalidProblem.__name__: problem}
        schemas.setdefault(Problem.__name__, Problem.model_json_schema())
        document["components"]["schemas"] = dict(sorted(schemas.items()))
        _secure(document)
        for operation in _operations(document):
            for parameter in operation.get("parameters", []):
                parameter["schema"] = _simple(parameter)
        _complete(document)
        schemas["JobOptions"]["properties"]["routing"].pop("enum")  # jobs of earlier versions have other routings
        app.openapi_schema = document
    return app.openapi_schema


def _secure(document: dict[str, Any]) -> None:
    """State the API key once for all operations, as optional: a server without keys needs none."""
    keys: list[dict[str, list[str]]] = [{scheme: []} for scheme in document["components"]["securitySchemes"]]
    document["security"] = [*keys, {}]
    for operation in _operations(document):
        if "security" in operation:
            del operation["security"]
        else:
            operation["security"] = []


def _complete(document: dict[str, Any]) -> None:
    """Tell requests from responses: a request may leave fields out, a response always has all of its fields."""
    schemas = document["components"]["schemas"]
    sent = _reachable(schemas, [operation.get("requestBody", {}) for operation in _operations(document)])
    received = _reachable(schemas, [operation["responses"] for operation in _operations(document)])
    for name, schema in schemas.items():
        properties = schema.get("properties", {})
        if name in sent:
            schema["properties"] = {key: _optional(given) for key, given in properties.items()}
        elif name in received and properties:
            schema["required"] = list(properties)
            schema["properties"] = {key: _without_default(given) for key, given in properties.items()}


def _reachable(schemas: dict[str, Any], roots: list[Any]) -> set[str]:
    """Names of the schemas that parts of the document refer to, directly or through other schemas."""
    found: set[str] = set()
    coming = _references(roots)
    while coming:
        found |= coming
        coming = _references([schemas[name] for name in coming]) - found
    return found


def _references(parts: list[Any]) -> set[str]:
    return set(re.findall(rf'"{_SCHEMAS}(\w+)"', json.dumps(parts)))


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a request's field: never null, and with its default in words."""
    plain = _never_null(schema)
    default = plain.pop("default", None)
    if default is not None:
        plain["description"] = f"{plain.get('description', '')} Default: {default}.".strip()
    return plain


def _simple(parameter: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter: never null; a header is one text, even if it may come in several lines."""
    schema = _never_null(parameter["schema"])
    if parameter["in"] == "header" and schema.get("type") == "array":
        return {**{key: value for key, value in schema.items() if key != "items"}, **schema["items"]}
    return schema


def _never_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return dict(schema)
    rest = {key: value for key, value in schema.items() if key != "anyOf" and value is not None}
    return {**kinds[0], **rest}


def _without_default(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "default"}


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        yield from methods.values()
