from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from service import job_views

KEYS = {"type", "title", "status", "code", "detail", "hint", "instance", "request_id", "errors"}


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    """The answer's problem, after all that holds for every problem."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem = dict(answer.json())
    assert set(problem) == KEYS
    assert problem["status"] == answer.status_code
    assert problem["type"] == f"/docs#error-{problem['code']}"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["instance"] == answer.request.url.path
    assert "Traceback" not in answer.text
    return problem


VALID = {"teacher": {"id": "tch_1"}, "dataset": {"id": "ds_1"}, "student": {"architecture": "resnet8"}}


class TestPointers:
    @pytest.mark.parametrize(
        ("changes", "pointer", "code", "near"),
        [
            ({"training": {"epochs": 0}}, "/training/epochs", "invalid_value", []),
            ({"training": {"epohcs": 3}}, "/training/epohcs", "unknown_field", ["epochs"]),
            ({"tranining": {}}, "/tranining", "unknown_field", ["training"]),
            ({"teacher": {}}, "/teacher", "invalid_value", []),
            ({"teacher": {"id": "a", "upload": "b"}}, "/teacher/upload", "unknown_field", ["upload_id"]),
            ({"student": {}}, "/student/architecture", "missing_field", []),
            (
                {"method": {"type": "srrl", "srrl": {"feature_weight": -1}}},
                "/method/srrl/feature_weight",
                "invalid_value",
                [],
            ),
            (
                {"method": {"type": "srrl", "srrl": {"feature_wieght": 1}}},
                "/method/srrl/feature_wieght",
                "unknown_field",
                ["feature_weight"],
            ),
            ({"method": {"type": "srrl", "srll": {}}}, "/method/srll", "unknown_field", ["srrl"]),
            ({"method": {"type": "ce", "srrl": {}}}, "/method/srrl", "unknown_field", []),
            ({"method": {"type": "srl"}}, "/method/type", "invalid_value", ["srrl"]),
            ({"method": {}}, "/method/type", "missing_field", []),
            ({"method": 5}, "/method", "invalid_value", []),
            ({"outputs": ["safetensors", "gguf"]}, "/outputs/1", "invalid_value", []),
            ({"metadata": {"a/b": 5}}, "/metadata/a~1b", "invalid_value", []),
            ({"training": {"learning_rate": "fast"}}, "/training/learning_rate", "invalid_value", []),
            ({"name": 7}, "/name", "invalid_value", []),
            ({"landmarks": {"losss": "l1"}}, "/landmarks/losss", "unknown_field", ["loss"]),
            (
                {"method": {"type": "srrl", "srrl": {"feature_stages": ["last", "stage0"]}}},
                "/method/srrl/feature_stages/1",
                "invalid_value",
                [],
            ),
        ],
    )
    def test_a_flaw_is_found_where_it_is(
        self, client: httpx.Client, changes: dict[str, Any], pointer: str, code: str, near: list[str]
    ) -> None:
        problem = problem_of(client.post("/distill", json={**VALID, **changes}))
        assert (problem["status"], problem["code"]) == (422, code)
        (flaw,) = problem["errors"]
        assert (flaw["pointer"], flaw["code"], flaw["did_you_mean"][:1]) == (pointer, code, near)
        assert client.get("/distill").json()["data"] == []

    def test_zero_epochs_are_told_what_may_be(self, client: httpx.Client) -> None:
        problem = problem_of(client.post("/distill", json={**VALID, "training": {"epochs": 0}}))
        assert problem["detail"].startswith("/training/epochs: Input should be greater than or equal to 1")
        assert "'auto'" in problem["detail"]

    def test_every_flaw_is_told_at_once(self, client: httpx.Client) -> None:
        body = {**VALID, "training": {"epochs": 0, "seed": -1}, "nmae": "x"}
        problem = problem_of(client.post("/distill", json=body))
        assert {flaw["pointer"] for flaw in problem["errors"]} == {"/training/epochs", "/training/seed", "/nmae"}

    def test_what_is_known_is_listed_for_an_unknown_field(self, client: httpx.Client) -> None:
        problem = problem_of(client.post("/distill", json={**VALID, "training": {"zzz": 1}}))
        assert "epochs" in problem["errors"][0]["hint"]


class TestBodies:
    @pytest.mark.parametrize("content", [b'{"name": ', b"{'name': 1}", b"\xff\xfe", b"[" * 100_000, b"nonsense"])
    def test_broken_json(self, client: httpx.Client, content: bytes) -> None:
        answer = client.post("/distill", content=content, headers={"Content-Type": "application/json"})
        problem = problem_of(answer)
        assert (problem["status"], problem["code"]) == (400, "malformed_request")

    def test_broken_json_is_told_where(self, client: httpx.Client) -> None:
        answer = client.post("/distill", content=b'{"name" "x"}', headers={"Content-Type": "application/json"})
        assert "at character 8" in problem_of(answer)["detail"]
        assert answer.json()["hint"]

    @pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", None])
    def test_a_body_that_is_not_called_json(self, client: httpx.Client, kind: str | None) -> None:
        headers = {"Content-Type": kind} if kind else {}
        problem = problem_of(client.post("/distill", content=json.dumps(VALID), headers=headers))
        assert (problem["status"], problem["code"]) == (415, "unsupported_media_type")
        assert "application/json" in problem["hint"]

    def test_no_body(self, client: httpx.Client) -> None:
        problem = problem_of(client.post("/distill"))
        assert (problem["status"], problem["code"], problem["errors"][0]["pointer"]) == (422, "missing_field", "")

    def test_nan_is_no_number_here(self, client: httpx.Client) -> None:
        content = json.dumps({**VALID, "training": {"learning_rate": float("nan")}})
        answer = client.post("/distill", content=content, headers={"Content-Type": "application/json"})
        assert problem_of(answer)["errors"][0]["pointer"] == "/training/learning_rate"

    def test_a_body_beyond_the_limit_is_refused_by_its_length(self, client: httpx.Client) -> None:
        problem = problem_of(client.post("/distill", json={**VALID, "name": "x" * 2**21}))
        assert (problem["status"], problem["code"]) == (413, "too_large")

    def test_and_by_counting(self, client: httpx.Client) -> None:
        def endless() -> Iterator[bytes]:
            for _ in range(64):
                yield b" " * 2**16

        answer = client.post("/distill", content=endless(), headers={"Content-Type": "application/json"})
        assert problem_of(answer)["code"] == "too_large"

    @pytest.mark.parametrize("path", ["/distill/dj_%00", "/teachers/%00"])
    def test_a_nul_is_never_a_fault_of_ours(self, client: httpx.Client, path: str) -> None:
        assert problem_of(client.get(path))["status"] in (400, 404)

    def test_a_nul_in_a_text(self, client: httpx.Client, body: dict[str, Any]) -> None:
        assert client.post("/distill", json=body | {"name": "a\0b"}).status_code in (202, 400)

    @pytest.mark.parametrize("number", ["9" * 30, "-1", "x"])
    def test_numbers_beyond_reason(self, client: httpx.Client, job_id: str, number: str) -> None:
        answer = client.get(f"/distill/{job_id}/events", params={"after": number})
        assert problem_of(answer)["errors"][0]["parameter"] == "after"


class TestRoutes:
    def test_no_such_route(self, client: httpx.Client) -> None:
        problem = problem_of(client.get("/nothing"))
        assert (problem["status"], problem["code"]) == (404, "not_found")
        assert "/docs" in problem["hint"]

    def test_no_such_file(self, client: httpx.Client) -> None:
        assert problem_of(client.get("/static/nothing.js"))["status"] == 404

    @pytest.mark.parametrize(("method", "path"), [("DELETE", "/distill"), ("PATCH", "/uploads"), ("POST", "/healthz")])
    def test_another_method(self, client: httpx.Client, method: str, path: str) -> None:
        answer = client.request(method, path)
        problem = problem_of(answer)
        assert (problem["status"], problem["code"]) == (405, "method_not_allowed")
        assert answer.headers["allow"]

    def test_a_fault_of_ours_says_nothing_of_itself(
        self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def broken(job_id: str) -> None:
            raise ZeroDivisionError("the secret inside")

        monkeypatch.setattr(job_views, "get", broken)
        answer = client.get("/distill/dj_1", headers={"X-Request-Id": "find-me"})
        problem = problem_of(answer)
        assert (problem["status"], problem["code"], problem["request_id"]) == (500, "internal_error", "find-me")
        assert "secret" not in answer.text

    def test_a_database_that_is_away(self, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(job_id: str) -> None:
            raise OperationalError("SELECT 1", None, Exception("server closed the connection"))

        monkeypatch.setattr(job_views, "get", away)
        answer = client.get("/distill/dj_1")
        problem = problem_of(answer)
        assert (problem["status"], problem["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert "SELECT" not in answer.text


class TestRequestIds:
    def test_one_of_the_callers_own_is_kept(self, client: httpx.Client) -> None:
        answer = client.get("/healthz", headers={"X-Request-Id": "abc-123"})
        assert answer.headers["x-request-id"] == "abc-123"

    @pytest.mark.parametrize("given", ["", "a" * 65, "a b", "a;b", "é".encode("latin-1").decode("latin-1")])
    def test_one_of_no_use_is_replaced(self, client: httpx.Client, given: str) -> None:
        answer = client.get("/healthz", headers={"X-Request-Id": given.encode("latin-1")})
        made = answer.headers["x-request-id"]
        assert made != given
        assert len(made) == 16

    def test_each_request_gets_its_own(self, client: httpx.Client) -> None:
        assert len({client.get("/healthz").headers["x-request-id"] for _ in range(5)}) == 5


def test_every_answer_has_safe_headers(client: httpx.Client) -> None:
    for path in ("/", "/healthz", "/nothing", "/static/style.css", "/openapi.json"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-request-id"]


def test_what_is_no_http_is_answered_and_harms_nobody(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as line:
        line.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert b"400" in line.recv(200)
    assert client.get("/healthz").status_code == 200
