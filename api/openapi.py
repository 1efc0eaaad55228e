"""The machine form of the contract: FastAPI's, with every refusal as the Problem that it is."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.problems import Problem

_REFERENCE = {"$ref": "#/components/schemas/Problem"}
_REFUSAL = {"description": "Refused", "content": {"application/problem+json": {"schema": _REFERENCE}}}


def build(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
        )
        schemas = document["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**problem.pop("$defs"), "Problem": problem}
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = _REFUSAL
        document["components"]["schemas"] = dict(sorted(schemas.items()))
        app.openapi_schema = document
    return app.openapi_schema


def as_text(app: FastAPI) -> str:
    """The text of ``openapi.json`` in the repository."""
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"
