"""The OpenAPI document as the page /docs shows it."""

from __future__ import annotations

from typing import Any

from api.problems import CODES

_METHODS = ("get", "head", "post", "put", "patch", "delete")


def of(document: dict[str, Any]) -> dict[str, Any]:
    """Operations by tag, schemas by name, codes."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                entry = _operation(method.upper(), path, methods[method])
                groups.setdefault((methods[method].get("tags") or ["other"])[0], []).append(entry)
    schemas = [_schema(name, body) for name, body in document["components"]["schemas"].items()]
    return {"info": document["info"], "groups": groups, "schemas": schemas, "codes": sorted(CODES.items())}


def _operation(method: str, path: str, operation: dict[str, Any]) -> dict[str, Any]:
    body = operation.get("requestBody", {}).get("content", {})
    return {
        "id": operation["operationId"],
        "method": method,
        "path": path,
        "description": operation.get("description", ""),
        "parameters": [_parameter(parameter) for parameter in operation.get("parameters", [])],
        "body": next((type_of(part.get("schema", {})) for part in body.values()), None),
        "responses": [_response(status, answer) for status, answer in operation["responses"].items()],
    }


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    schema = parameter.get("schema", {})
    return {
        "name": parameter["name"],
        "where": parameter["in"],
        "type": type_of(schema),
        "default": schema.get("default"),
        "description": parameter.get("description") or schema.get("description") or "",
    }


def _response(status: str, answer: dict[str, Any]) -> dict[str, Any]:
    contents = [(media, type_of(part.get("schema", {}))) for media, part in answer.get("content", {}).items()]
    return {"status": status, "description": answer.get("description", ""), "contents": contents}


def _schema(name: str, body: dict[str, Any]) -> dict[str, Any]:
    required = body.get("required", [])
    fields = [
        {
            "name": field,
            "type": type_of(schema),
            "default": schema.get("default"),
            "required": field in required,
            "description": schema.get("description", ""),
        }
        for field, schema in body.get("properties", {}).items()
    ]
    return {"name": name, "description": body.get("description", ""), "fields": fields}


def type_of(schema: dict[str, Any]) -> list[tuple[str, str]]:
    """A schema in words, as pieces of (text, name of the schema to link to or nothing)."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return [(name, name)]
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return _joined([type_of(option) for option in options])
    if "enum" in schema:
        return [(" | ".join(repr(value) for value in schema["enum"]), "")]
    if "const" in schema:
        return [(repr(schema["const"]), "")]
    if schema.get("type") == "array":
        return [("list of ", ""), *type_of(schema.get("items", {}))]
    return [(_plain(schema), "")]


def _joined(options: list[list[tuple[str, str]]]) -> list[tuple[str, str]]:
    pieces = options[0]
    for option in options[1:]:
        pieces = [*pieces, (" | ", ""), *option]
    return pieces


def _plain(schema: dict[str, Any]) -> str:
    text = str(schema.get("format") or schema.get("type") or "any")
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "maxLength": "length ≤"}
    limits = [f"{sign} {schema[key]}" for key, sign in bounds.items() if key in schema]
    return " ".join([text, ", ".join(limits)]).strip()
