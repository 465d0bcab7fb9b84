"""How lines are written, ours and those of libraries: a program for each test, since what is set up holds for one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

SETUP = """
import json, logging, os, structlog, sys, threading
from crmbridge import log
log.configure(level='info', form='json', mask_numbers='mask' in sys.argv)
one = structlog.get_logger('crmbridge.x')
"""


def run(program: str, *arguments: str) -> list[dict[str, object]]:
    """The lines that it writes."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP + program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_the_journal_is_told_how_grave_a_line_is_and_nobody_else() -> None:
    """`journalctl -p warning` goes by it."""
    says = "one.info('a.b'); one.warning('a.b'); one.error('a.b'); one.critical('a.b'); logging.warning('a library')"
    for is_journal in (True, False):
        reading, writing = os.pipe()
        stat = os.fstat(writing)
        stream = f"{stat.st_dev}:{stat.st_ino if is_journal else 1}"
        done = subprocess.run(
            [sys.executable, "-c", SETUP + says],
            stderr=writing,
            env={**os.environ, "JOURNAL_STREAM": stream},
            check=False,
        )
        os.close(writing)
        with os.fdopen(reading) as said:
            lines = said.read().splitlines()
        assert done.returncode == 0
        assert [line.partition("{")[0] for line in lines] == (
            ["<6>", "<4>", "<3>", "<2>", "<4>"] if is_journal else [""] * 5
        )


def test_a_new_level_reaches_loggers_that_are_in_use() -> None:
    lines = run("""
bound = one.bind(user='u')
def say():
    for logger in (one, bound):
        logger.debug('debug'); logger.info('info'); logger.warning('warning'); logger.exception('exception')
for level in ('info', 'debug', 'error', 'info'):
    say()
    log.set_level(level)
assert log.counts == dict(debug=2, info=6, warning=6, error=8, critical=0), log.counts
""")
    three = ["info", "warning", "exception"]
    for of_bound in (False, True):
        told = [line["event"] for line in lines if ("user" in line) == of_bound]
        assert told == [*three, *three, "debug", *three, "exception"]


@pytest.mark.parametrize("masks", [False, True])
def test_lines_of_libraries_are_like_ours(masks: bool) -> None:
    """But for those below a warning, which are nobody's business."""
    ours, library, raised = run(
        """
library = logging.getLogger('aiohttp.server')
with structlog.contextvars.bound_contextvars(pbx='haifa'):
    one.warning('a.b', number='0529876543')
    library.warning('from %s', '0529876543')
library.info('nothing')
try:
    int('0529876543 in an error')
except ValueError:
    library.exception('it %s', 'failed')
""",
        *(["mask"] if masks else []),
    )
    number = "*******543" if masks else "0529876543"
    assert list(ours) == ["number", "event", "pbx", "level", "logger", "timestamp"]
    assert list(library) == ["event", "pbx", "level", "logger", "timestamp"]
    assert list(raised) == ["event", "level", "logger", "timestamp", "exception"]
    assert (ours["number"], library["event"]) == (number, f"from {number}")
    assert (library["level"], library["logger"], library["pbx"]) == ("warning", "aiohttp.server", "haifa")
    assert (raised["level"], raised["event"]) == ("error", "it failed")
    assert str(raised["exception"]).endswith(f"{number} in an error'")
    for line in (ours, library, raised):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(line["timestamp"]))
    assert ours["timestamp"] <= library["timestamp"] <= raised["timestamp"]  # type: ignore[operator]  # texts


def test_lines_of_libraries_are_held_back_and_counted_like_ours() -> None:
    lines = run("""
for number in range(100):
    one.warning('a.b', number=number)
    logging.getLogger('lib').warning('of a library: %s', number)
logging.getLogger('other').warning('of a library: %s', 1)
assert (log.counts['warning'], log.held_back()) == (201, 160)
""")
    for logger in ("crmbridge.x", "lib"):
        of_it = [line for line in lines if line["logger"] == logger]
        assert [line.get("repeated") for line in of_it] == [None] * 20 + [79], "the last one stands for the others"
        assert of_it[-1].get("number") == 99 or of_it[-1]["event"] == "of a library: 99"


def test_lines_of_several_threads_are_whole_and_in_order() -> None:
    """Longer than what a pipe takes at once, of ours and of libraries."""
    lines = run("""
def say(thread):
    for number in range(100):
        one.info('a.b', click=f'{thread}', number=number, text='x' * 10_000)
        logging.getLogger(f'lib{thread}').warning(f'%s {number}', 'x' * 10_000)
threads = [threading.Thread(target=say, args=(thread,)) for thread in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""")
    for thread in range(4):
        assert [line["number"] for line in lines if line.get("click") == str(thread)] == list(range(100))
        of_library = [str(line["event"]) for line in lines if line["logger"] == f"lib{thread}"]
        assert [event.partition(" ")[2] for event in of_library] == [str(number) for number in range(100)]
        assert {len(event.partition(" ")[0]) for event in of_library} == {10_000}
    assert len(lines) == 800


@pytest.mark.parametrize("arguments", [[], ["mask"]])
@pytest.mark.parametrize(
    "value",
    [
        "Broken()",
        "loop",
        "{(1, 2): 3}",
        "10 ** 5000",
        "'0529876543 %' + chr(0xDC80)",
        "deep",
    ],
)
def test_of_a_value_that_cant_be_shown_the_rest_of_the_line_is_written(value: str, arguments: list[str]) -> None:
    """Of each level, since what is held back is looked at in another way; and of a library."""
    lines = run(
        f"""
class Broken:
    def __repr__(self): raise RuntimeError('broken')
loop, deep = dict(), []
loop['again'] = loop
for _ in range(100_000): deep = [deep]
value = {value}
one.info('a.call', linkedid='1.1', what=value)
for _ in range(25):
    one.info('a.b', what=value, reason='this')
    one.error('a.b', what=value, reason='this')
logging.getLogger('lib').warning('for %d', value, 1)
logging.getLogger('lib').warning(value)
os._exit(0)  # to take such a depth apart is beyond Python
""",
        *arguments,
    )
    call, *_, one, other = lines
    assert (call["event"], call["linkedid"], call["level"]) == ("a.call", "1.1", "info")
    assert [line["event"] for line in lines].count("a.b") == 40
    assert all(line["reason"] == "this" for line in lines if line["event"] == "a.b")
    assert one["event"] == "for %d"
    assert other["logger"] == "lib"


@pytest.mark.parametrize("broken", ["full disk", "no reader", "full pipe", "closed", "none"])
def test_whoever_logs_does_not_fail_for_a_standard_error_that_takes_nothing(broken: str) -> None:
    program = f"""{SETUP}
if {broken!r} == 'closed': sys.stderr.close()
for number in range(100):
    one.info('a.b', click=str(number), text='x' * 10_000)
    one.error('a.b')
    logging.getLogger('lib').error('of a library')
print(log.counts['error'], log.counts['info'])
os._exit(0)
"""
    if broken == "none":
        program = f"import os, sys; os.close(2); sys.stderr = None\n{program}"
    reading, writing = os.pipe()
    if broken == "no reader":
        os.close(reading)
    os.set_blocking(writing, broken != "full pipe")
    with open("/dev/full", "w") as full:
        taking = full if broken == "full disk" else writing
        command = [sys.executable, "-u", "-c", program]
        done = subprocess.run(command, stderr=taking, stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writing)
    if broken != "no reader":
        os.close(reading)
    assert (done.returncode, done.stdout) == (0, "200 100\n")


def test_tests_can_catch_lines_of_loggers_that_are_in_use() -> None:
    lines = run("""
one.info('a.b')
with structlog.testing.capture_logs() as caught:
    one.bind(x=1).warning('a.c', y=2)
one.info('a.d')
assert caught == [dict(x=1, y=2, event='a.c', log_level='warning')], caught
""")
    assert [line["event"] for line in lines] == ["a.b", "a.d"]
