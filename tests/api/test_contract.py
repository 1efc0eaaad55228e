"""The published schema, and what the API needs to be there at all."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api import openapi
from api.app import create_app
from api.problems import CODES
from distill import architectures
from distill.spec import DistillSpec
from service import __version__, workers
from service.settings import settings

ROOT = Path(__file__).resolve().parents[2]
ROUTES = {
    "POST /distill/sweep", "GET /distill/sweep", "GET /distill/sweep/{sweep_id}",
    "POST /distill/sweep/{sweep_id}/cancel", "POST /distill", "POST /distill/estimate",
    "GET /distill", "GET /distill/{job_id}",
    "POST /distill/{job_id}/cancel",
    "GET /distill/{job_id}/events", "GET /distill/{job_id}/metrics", "GET /distill/{job_id}/logs",
    "GET /distill/{job_id}/artifacts", "GET /distill/{job_id}/artifacts/{name}",
    "HEAD /distill/{job_id}/artifacts/{name}",
    "GET /distill/{job_id}/student", "HEAD /distill/{job_id}/student", "GET /distill/{job_id}/report",
    "POST /uploads", "GET /uploads/{upload_id}", "HEAD /uploads/{upload_id}", "PATCH /uploads/{upload_id}",
    "PUT /uploads/{upload_id}/content",
    "POST /uploads/{upload_id}/complete", "POST /teachers", "GET /teachers", "GET /teachers/{teacher_id}",
    "DELETE /teachers/{teacher_id}", "POST /datasets", "GET /datasets", "GET /datasets/{dataset_id}",
    "DELETE /datasets/{dataset_id}", "GET /datasets/{dataset_id}/preview", "GET /datasets/{dataset_id}/skipped",
    "GET /methods", "GET /networks", "GET /presets", "GET /recipes",
    "GET /schemas/distill.json",
    "GET /healthz", "GET /readyz", "GET /version",
}  # fmt: skip


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app().openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_the_committed_schema_is_the_one_that_is_served() -> None:
    committed = (ROOT / "openapi.json").read_text()
    assert committed == openapi.as_text(create_app()), "run `limbeck openapi > openapi.json`"


def test_the_schema_names_every_route_once(document: dict[str, Any]) -> None:
    found = dict(operations(document))
    assert set(found) == ROUTES
    names = [operation["operationId"] for operation in found.values()]
    assert len(set(names)) == len(names)


def test_every_operation_says_how_it_refuses_and_what_it_does(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        refusal = operation["responses"]["default"]["content"]["application/problem+json"]["schema"]
        assert refusal == {"$ref": "#/components/schemas/Problem"}, name
        assert operation["description"].endswith("."), name


def test_no_answer_is_left_undescribed(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, answer in operation["responses"].items():
            for media, part in answer.get("content", {}).items():
                assert part.get("schema"), (name, status, media)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    defined = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= defined


_WITHOUT_TORCH = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy", "safetensors", "PIL", "worker", "limbeck"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
import asyncio, httpx
from api.app import create_app
async def main():
    transport = httpx.ASGITransport(create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        catalog = ("/networks", "/methods", "/recipes", "/schemas/distill.json")
        for path in ("/openapi.json", *catalog, "/docs", "/healthz"):
            answer = await client.get(path)
            print(answer.status_code, path, len(answer.content))
asyncio.run(main())
"""


def test_the_api_serves_its_schema_without_torch(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "LIMBECK_DATA_DIR": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert [line.split()[0] for line in run.stdout.splitlines()] == ["200"] * 7


def test_the_version_is_the_packages(client: httpx.Client) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert client.get("/version").json() == {"name": "limbeck", "version": declared, "api": "v1"}
    assert __version__ == declared


class TestCatalog:
    def test_networks_are_found_by_part_of_their_name(self, client: httpx.Client) -> None:
        everything = client.get("/networks").json()
        assert [network["name"] for network in everything["data"]] == architectures.names()
        assert set(everything["options_schema"]["properties"]) == {"width", "stem_stride"}
        wide = client.get("/networks", params={"q": "wrn_16"}).json()["data"]
        assert wide
        assert all(network["name"].startswith("wrn_16") for network in wide)

    def test_a_network_tells_what_is_pooled_and_what_images_it_takes(self, client: httpx.Client) -> None:
        (found,) = client.get("/networks", params={"q": "mobilenetv2_half"}).json()["data"]
        assert found.pop("macs") == pytest.approx(6.5e6, rel=0.01)
        assert found == {
            "name": "mobilenetv2_half",
            "family": "mobilenetv2",
            "stages": [12, 16, 48, 160],
            "feature_width": 1280,
            "parameters": 812_836,
            "input": {"channels": 3, "height": 32, "width": 32, "fixed": False},
            "preprocessing": {"mean": None, "std": None, "interpolation": "bilinear"},
            "binary_macs": 0,
            "pools": True,
            "roles": ["teacher", "student"],
        }

    def test_methods_come_with_schema_and_defaults(self, client: httpx.Client) -> None:
        found = {method["type"]: method for method in client.get("/methods").json()["data"]}
        assert {"srrl", "ce"} <= set(found)
        settings_schema = found["srrl"]["schema"]["$defs"]["SRRLSettings"]["properties"]
        assert settings_schema["feature_weight"]["default"] == 1.0

    def test_the_schema_of_a_request(self, client: httpx.Client) -> None:
        found = client.get("/schemas/distill.json").json()
        assert found["$schema"]
        assert set(found["properties"]) == set(DistillSpec.model_fields)


class TestHealth:
    def test_alive(self, client: httpx.Client) -> None:
        assert client.get("/healthz").json() == {"status": "ok"}

    def test_each_part_is_told_and_one_that_fails_is_enough(
        self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LIMBECK_BROKER_URL", "memory://")
        settings.cache_clear()
        answer = client.get("/readyz")
        checks = answer.json()["checks"]
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert {name: check["ok"] for name, check in checks.items()} == {
            "database": True,
            "broker": True,
            "storage": True,
            "worker": False,
        }
        assert "limbeck work" in checks["worker"]["detail"]
        assert answer.headers["retry-after"]
        workers.seen("tester", facts={})
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (200, True)

    def test_a_broker_that_is_away_or_frozen_is_told_in_time(
        self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import socket
        import time

        with socket.create_server(("127.0.0.1", 0)) as silent:
            for url in (f"redis://127.0.0.1:{silent.getsockname()[1]}/0", "redis://127.0.0.1:1/0"):
                monkeypatch.setenv("LIMBECK_BROKER_URL", url)
                settings.cache_clear()
                started = time.monotonic()
                check = client.get("/readyz").json()["checks"]["broker"]
                assert check["ok"] is False
                assert check["detail"]
                assert time.monotonic() - started < 6


def test_the_codes_that_jobs_are_promised_are_explained(client: httpx.Client) -> None:
    page = client.get("/docs").text
    for code in CODES:
        assert f'id="error-{code}"' in page
    assert json.loads(client.get("/openapi.json").text) == create_app().openapi()
