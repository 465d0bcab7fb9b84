"""docs/openapi.yaml and docs/api.md say what the program does: compared with its source, and tried out at random."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from aiohttp import web
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.integration.bridge_thread import LIMIT_S, BridgeThread
from tests.integration.test_bridge import write

from crmbridge.web import answers, dialer

DOCS = Path(__file__).parents[2] / "docs"
OPENAPI = DOCS / "openapi.yaml"
SOURCES = Path(answers.__file__).parent
EXAMPLES = 12
"""For each operation."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

RECORDING = "in-trunk-033004799-20261123-055257-1795413177.274.wav"
"""The page's example."""
Code = tuple[int, str]


class Running(BridgeThread):
    """A bridge that has a recording, and lets anybody click as often as they like."""

    def configured(self, ami_port: int) -> Path:
        day = self.folder / "monitor/2026/11/23"
        day.mkdir(parents=True)
        (day / RECORDING).write_bytes(b"sound" * 1000)
        often = "[dialer]\nper_extension_per_minute = 100000\nper_minute = 100000\nmax_calls = 100000"
        often += f'\n[cdr]\nrecordings_dir = "{self.folder}/monitor"'
        return write(self.folder, ami_port=ami_port, url="http://127.0.0.1:1/", more=often)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("api")) as running:
        yield running


# What is written, and what there is


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    page = yaml.safe_load(OPENAPI.read_text(encoding="utf-8"))
    assert isinstance(page, dict)
    return page


def program_routes(monkeypatch: pytest.MonkeyPatch, folder: Path) -> set[tuple[str, str]]:
    """Method and path of all that the composition root gives the server."""
    found: set[tuple[str, str]] = set()
    add_routes = web.Application.add_routes

    def noted(self: web.Application, routes: Iterable[web.RouteDef]) -> list[web.AbstractRoute]:
        routes = list(routes)
        found.update(
            (route.method.lower(), re.sub(r":(\[[^{}]*\{[^{}]*\}|\.\+)\}", "}", route.path)) for route in routes
        )
        return add_routes(self, routes)

    monkeypatch.setattr(web.Application, "add_routes", noted)
    with Running(folder):
        return found


def test_every_route_is_written_down_and_the_other_way_round(
    written: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    documented = {
        (method, path) for path, item in written["paths"].items() for method in item if method in {"get", "post"}
    }
    there = program_routes(monkeypatch, tmp_path)
    assert there == documented
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    for _, path in documented:
        assert f"{path.replace('{port}', '6560')}`" in page


def program_codes() -> set[Code]:
    """Every error that the program makes: status and code, as they stand in its source."""
    codes = {(status, code) for status, (code, _) in answers._HTTP_CODES.items()}
    codes |= {(status, code.value) for code, status in dialer._STATUS.items()}
    codes |= {(400, "http_error"), (500, "internal_error")}  # answers.problem_of
    for file in SOURCES.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ProblemError":
                status, code = node.args[:2]
                if isinstance(status, ast.Constant) and isinstance(code, ast.Constant):
                    codes.add((int(str(status.value)), str(code.value)))
    return codes


def documented_codes(written: dict[str, Any]) -> set[str]:
    """Codes of all responses, whichever operation they belong to."""
    found: set[str] = set()
    for response in written["components"]["responses"].values():
        schema = response["content"]["application/json"]["schema"]
        found.update(schema["allOf"][1]["properties"]["error"]["properties"]["code"]["enum"])
    return found


def codes_of_operations(written: dict[str, Any]) -> set[Code]:
    """Status and code of each response that an operation names."""
    found: set[Code] = set()
    for item in written["paths"].values():
        for method in item.keys() & {"get", "post"}:
            for status, response in item[method]["responses"].items():
                if "$ref" in response:
                    (name,) = re.fullmatch(r"#/components/responses/(\w+)", response["$ref"]).groups()  # type: ignore[union-attr]
                    one = {"components": {"responses": {name: written["components"]["responses"][name]}}}
                    found.update((int(status), code) for code in documented_codes(one))
    return found


NO_OPERATION = {(405, "method_not_allowed"), (400, "http_error")}
"""Errors of requests that no operation is for."""


def test_every_error_is_written_down_and_the_other_way_round(written: dict[str, Any]) -> None:
    there = program_codes()
    assert len(there) >= 20
    assert documented_codes(written) == {code for _, code in there}
    assert codes_of_operations(written) == there - NO_OPERATION
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    for status, code in there:
        assert re.search(rf"^\| ({status}|4xx) \|.*`{code}`", page, re.MULTILINE), (status, code)


def test_every_parameter_is_in_the_page(written: dict[str, Any]) -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    names = re.findall(r"^ +(?:- )?name: (\w+)$", OPENAPI.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"sExt", "number", "cursor"} < set(names)
    for name in {*names, *written["components"]["schemas"]["Call"]["properties"]} - {"port"}:
        assert f"`{name}`" in page


# Whatever is asked, the answer is one that is written down


schema = schemathesis.openapi.from_path(OPENAPI)


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.parametrize("auth", [("crm", "http-s3cret"), None], ids=["right", "none"])
def test_whatever_is_asked(case: Case[Any], bridge: Running, auth: tuple[str, str] | None) -> None:
    case.headers.pop("Authorization", None)
    response = case.call(base_url=bridge.url, auth=auth, timeout=LIMIT_S)
    if response.status_code == 405:
        return  # a method that is not written down
    case.validate_response(response, checks=CHECKS)
    assert auth or response.status_code in {400, 401, 403, 413, 200, 503}
    assert auth or b"sound" not in response.content
