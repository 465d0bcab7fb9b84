"""What the documentation says of settings must be so."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from tests.asterisk import test_check as of_asterisk
from tests.integration import test_check as of_the_rest

from crmbridge import checks, intake, retention
from crmbridge.calls.dialing import Code
from crmbridge.calls.phases import diagram, drawn
from crmbridge.calls.tracker import Tracker
from crmbridge.config import Settings, parse
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
    "http.tls_cert",
    "http.tls_key",
}


def uncommented() -> dict[str, Any]:
    """The example with every key that is commented out put in force."""
    text = re.sub(r'^# (?=[a-z_]+ = |\[|"PJSIP|"05)', "", EXAMPLE, flags=re.MULTILINE)
    values = tomllib.loads(text)
    values["ami"]["secret"] = values["http"]["password"] = "filled in"
    return values


def test_the_example_is_valid_as_it_stands_once_the_secrets_are_filled_in() -> None:
    values = tomllib.loads(EXAMPLE)
    values["ami"]["secret"] = values["http"]["password"] = "filled in"
    parse(values, source="docs/config.toml")


def test_the_example_holds_every_key_with_its_default() -> None:
    shown = parse(uncommented(), source="docs/config.toml")
    for name, section in Settings.model_fields.items():
        model = section.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        for key, field in model.model_fields.items():
            where = f"{name}.{key}"
            assert key in uncommented()[name], f"{where} is missing in docs/config.toml"
            if where not in NO_DEFAULT | EXAMPLES_ONLY:
                assert getattr(getattr(shown, name), key) == field.default, where


def test_the_page_names_every_key() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for section in Settings.model_fields.values():
        model = section.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
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
