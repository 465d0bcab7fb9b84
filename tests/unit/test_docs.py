"""What the documentation says of settings must be so."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.asterisk import test_check as of_asterisk
from tests.integration import test_check as of_the_rest
from typer.main import get_command

from crmbridge import checks, intake, retention
from crmbridge.calls.dialing import Code
from crmbridge.calls.phases import diagram, drawn
from crmbridge.calls.tracker import Tracker
from crmbridge.cli import cli
from crmbridge.config import ClientSettings, OnePbxSettings, OwnDialerSettings, Settings, parse
from crmbridge.web.metrics import FINAL

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "docs" / "config.toml").read_text(encoding="utf-8")
NO_DEFAULT = {"crm.url", "crm.client_id", "ami.username", "ami.secret", "http.username", "http.password"}
EXAMPLES_ONLY = {
    "crm.clients",
    "pbx.endpoints",
    "tell.mobiles",
    "ami.ca_file",
    "cdr.timezone",
    "cdr.recordings_dir",
    "store.url",
    "store.keep_calls_days",
    "claims.bridge",
    "http.tls_cert",
    "http.tls_key",
}


def uncommented() -> dict[str, Any]:
    """The example with every key that is commented out put in force."""
    text = re.sub(r'^# {1,3}(?=[a-z_]+ = |\[|"PJSIP|"05)', "", EXAMPLE, flags=re.MULTILINE)
    values = tomllib.loads(text)
    values["ami"]["secret"] = values["http"]["password"] = "filled in"
    return values


def in_short_form() -> dict[str, Any]:
    """That of one PBX."""
    return {name: section for name, section in uncommented().items() if name != "pbxes"}


SECTIONS: dict[str, type[BaseModel]] = {
    name: section.annotation
    for name, section in Settings.model_fields.items()
    if isinstance(section.annotation, type) and issubclass(section.annotation, BaseModel)
}


def test_the_example_is_valid_as_it_stands_once_the_secrets_are_filled_in() -> None:
    values = tomllib.loads(EXAMPLE)
    values["ami"]["secret"] = values["http"]["password"] = "filled in"
    parse(values, source="docs/config.toml")


def test_the_example_holds_every_key_with_its_default() -> None:
    shown = parse(in_short_form(), source="docs/config.toml")
    assert {"pbxes", *SECTIONS} == set(Settings.model_fields)
    for name, model in SECTIONS.items():
        for key, field in model.model_fields.items():
            where = f"{name}.{key}"
            assert key in uncommented()[name], f"{where} is missing in docs/config.toml"
            if where not in NO_DEFAULT | EXAMPLES_ONLY:
                assert getattr(getattr(shown, name), key) == field.default, where


def test_the_example_of_several_pbxes_is_valid_and_has_what_is_theirs_alone() -> None:
    values = {name: section for name, section in uncommented().items() if name not in {"ami", "pbx", "cdr"}}
    del values["crm"]["clients"]
    parse(values, source="docs/config.toml")
    (one,) = values["pbxes"]
    assert set(one) == set(OnePbxSettings.model_fields)
    assert set(one["dialer"]) == set(OwnDialerSettings.model_fields)


def test_the_two_bridges_of_the_page_on_scale_have_the_same_settings_but_for_their_names() -> None:
    bridges = [tomllib.loads((ROOT / "docs" / "scale" / f"bridge-{number}.toml").read_text()) for number in (1, 2)]
    for bridge in bridges:
        parse(bridge, source="docs/scale")
    assert [bridge["claims"].pop("bridge") for bridge in bridges] == ["bridge-1", "bridge-2"]
    assert bridges[0] == bridges[1]


def test_the_page_names_every_key() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    models: list[type[BaseModel]] = [*SECTIONS.values(), OnePbxSettings, ClientSettings]
    for model in models:
        for key in model.model_fields:
            assert re.search(rf"`([a-z]+\.)?{key}`", page), f"{key} is missing in docs/configuration.md"


def test_the_trackers_diagram_is_its_table() -> None:
    page = (ROOT / "docs" / "tracker.md").read_text(encoding="utf-8")
    assert drawn(page) == page, "run `make diagram`"
    assert diagram() in page


def test_the_trackers_page_names_every_event_it_takes() -> None:
    page = (ROOT / "docs" / "tracker.md").read_text(encoding="utf-8")
    for event in Tracker.EVENTS:
        assert f"`{event}`" in page


def test_the_integrators_page_names_every_refusal_of_a_click() -> None:
    page = (ROOT / "docs" / "crm.md").read_text(encoding="utf-8")
    for code in Code:
        assert f"`{code.value}`" in page


LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
EVENT = re.compile(r"[a-z_]+\.[a-z_]+", re.ASCII)


@cache
def logged() -> set[str]:
    """Every event name that the program logs: the first argument of a logger's method, and what stands for one."""
    found = set(intake._TRANSITIONS.values()) | set(retention.EVENTS.values()) | {f"crm.{state}" for state in FINAL}
    for file in (ROOT / "daemon" / "crmbridge").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            if ast.unparse(node.func) == "Outage":
                found |= {f"{ast.literal_eval(node.args[0])}.{end}" for end in ("unavailable", "available")}
            elif _is_logging(node.func):
                texts = [one.value for one in ast.walk(node.args[0]) if isinstance(one, ast.Constant)]
                found |= {text for text in texts if isinstance(text, str) and EVENT.fullmatch(text)}
    return found


def _is_logging(function: ast.expr) -> bool:
    return (
        (function.attr in LEVELS) if isinstance(function, ast.Attribute) else ast.unparse(function) in {"tell", "say"}
    )


def test_the_page_on_the_log_names_every_event_and_no_others() -> None:
    page = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(named) == len(set(named))
    assert set(named) == logged()


def test_the_page_on_check_has_every_link_and_what_is_said_of_each_fault() -> None:
    page = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in page.splitlines() if line[:2] == "| "
    ]
    assert tuple(row[0] for row in rows if len(row) == 2 and row[0] != "link") == checks.LINKS
    written = {row[0]: row[1:] for row in rows if len(row) == 4}
    for fault in (*of_asterisk.FAULTS, of_asterisk.NO_RECORDS, *of_the_rest.FAULTS):
        link, state, found = written[fault.what]
        assert (link, state) == (fault.link, fault.state)
        assert all(words in found.replace("\\", "") for words in fault.says), fault.what


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "tests" / "traces" / "README.md"]


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_every_file_that_the_architecture_names_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:daemon|tests|docs)/[\w/.]+)`", page)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_names_is_one(page: Path) -> None:
    root = get_command(cli)
    text = page.read_text(encoding="utf-8")
    fenced = "\n".join(text.split("```")[1::2])
    lines = re.findall(r"`crmbridge ([a-z][^`\n]*)`", text)
    lines += re.findall(r"^crmbridge ([a-z].*)", fenced, flags=re.MULTILINE)
    for line in lines:
        command: Any = root
        for word in line.split(" | ")[0].split():
            if not hasattr(command, "commands"):
                break
            for one in word.split("|"):
                assert one in command.commands, f"crmbridge {line}"
            command = command.commands[word.split("|")[0]]
        options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
        assert set(re.findall(r"(?<= )--?[a-z][a-z-]*", line.partition(" | ")[0])) <= options, f"crmbridge {line}"


def test_every_event_that_the_page_on_troubles_names_is_logged() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    kinds = {event.partition(".")[0] for event in logged()}
    sections = parse(in_short_form(), source="docs/config.toml").model_dump()
    keys = {f"{section}.{key}" for section, values in sections.items() for key in values}
    named = {one for one in re.findall(r"`([a-z_]+\.[a-z_]+)`", page) if one.partition(".")[0] in kinds}
    assert named
    assert named - logged() - keys == set()
