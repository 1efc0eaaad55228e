"""What may be asked for: methods, networks, public data sets, the schema of a request."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from api.catalog_schemas import (
    MethodList,
    MethodSchema,
    NetworkList,
    NetworkSchema,
    PresetList,
    PresetSchema,
    RecipeList,
    RecipeSchema,
)
from distill import architectures, recipes
from distill.method_specs import method_schemas
from distill.spec import DistillSpec, NetworkOptions
from service import presets

router = APIRouter(tags=["catalog"])


@router.get("/methods")
def list_methods() -> MethodList:
    """Ways to distil, each with its settings and their defaults."""
    found = (
        MethodSchema(type=method["type"], summary=method["summary"], json_schema=method["schema"])
        for method in method_schemas()
    )
    return MethodList(data=list(found))


@router.get("/networks")
def list_networks(
    q: Annotated[str, Query(max_length=64, description="Part of the name.")] = "",
) -> NetworkList:
    """Networks for teachers and students, with their sizes and costs."""
    found = [NetworkSchema.model_validate(entry) for entry in architectures.catalog(q)]
    return NetworkList(data=found, options_schema=NetworkOptions.model_json_schema())


@router.get("/presets")
def list_presets() -> PresetList:
    """Public data sets that a request may name, and whether their files are in place."""
    return PresetList(data=[PresetSchema.of(state) for state in presets.listing()])


@router.get("/recipes")
def list_recipes(
    q: Annotated[str, Query(max_length=100, description="Words of the id or the title.")] = "",
    method: Annotated[str, Query(max_length=32, description="A type from GET /methods.")] = "",
) -> RecipeList:
    """Published rows with the settings that lead to them; `"recipe": id` in a request asks for one."""
    return RecipeList(data=[RecipeSchema.model_validate(entry) for entry in recipes.catalog(q, method=method)])


@router.get("/schemas/distill.json")
def get_distill_schema() -> dict[str, Any]:
    """The JSON schema of the body of POST /distill."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **DistillSpec.model_json_schema()}
