"""Reads the repository and holds it to the rules in `rules.py`; each rule is also shown a planted fault."""

import ast
import itertools
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tidy import rules

ROOT = Path(__file__).resolve().parents[2]
LICENCE_TEXT = "LICENSE"
# Peers' messages are kept byte for byte as they came.
VERBATIM = ("tests/vectors/", LICENCE_TEXT)

TreeRule = Callable[[str, ast.Module], Iterator[str]]
PACKAGE_RULES: list[TreeRule] = [
    rules.layers,
    rules.builder,
    rules.standalone,
    rules.siblings,
    rules.pure_core,
    rules.float_money,
    rules.printing,
    rules.words,
    rules.docstrings,
]
FIRMWARE_RULES: list[TreeRule] = [rules.builder, rules.words, rules.docstrings, rules.printing]
TEST_RULES: list[TreeRule] = [rules.docstrings, rules.sleeping, rules.weak_tests]


def tracked_files() -> list[str]:
    """Return the paths of all files that are, or on `git add` would be, in the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return sorted(path for path in set(listed.split("\0")) if path and (ROOT / path).is_file())


def parsed(prefix: str) -> Iterator[tuple[str, str, ast.Module]]:
    """Yield (path, source, tree) of every Python file under a prefix."""
    for path in tracked_files():
        if path.startswith(prefix) and path.endswith(".py"):
            source = (ROOT / path).read_text(encoding="utf-8")
            yield path, source, ast.parse(source, path)


def rule_name(value: object) -> str | None:
    return getattr(value, "__name__", None)


def report(findings: list[str]) -> str:
    return f"{len(findings)} findings:\n" + "\n".join(findings)


@pytest.mark.parametrize(
    ("prefix", "held_to"), [("edgegw/", PACKAGE_RULES), ("firmware/", FIRMWARE_RULES), ("tests/", TEST_RULES)]
)
def test_no_file_breaks_a_rule_of_the_house(prefix: str, held_to: list[TreeRule]) -> None:
    """A layer that leaks, an impure core, a test that cannot fail, a function too long: all of them
    are seen on the day they are written."""
    findings, found = [], []
    for path, source, tree in parsed(prefix):
        findings += [finding for rule in held_to for finding in rule(path, tree)]
        findings += rules.lengths(path, source, tree)
        found += [length for length, _ in rules.function_lengths(path, tree)]
    print(f"{len(found)} functions, median {statistics.median(found)} lines, longest {max(found)}")
    assert not findings, report(findings)


def test_no_file_names_a_registry_a_machine_or_unfinished_work() -> None:
    """A path or a host of one machine makes the repository useless on every other one."""
    findings = []
    for path in tracked_files():
        content = (ROOT / path).read_bytes()
        if path.startswith(VERBATIM) or b"\0" in content:
            continue
        findings += rules.text(path, content.decode("utf-8"))
    assert not findings, report(findings)


def test_the_top_level_holds_only_what_belongs_there() -> None:
    """A stray top-level folder is a second house beside the first."""
    folders = {path.split("/")[0] for path in tracked_files() if "/" in path}
    assert folders <= {".ci", "edgegw", "firmware", "provision", "tests", "ansible"}


def test_the_lock_pins_every_package_by_hash_and_names_no_address() -> None:
    """One unpinned package is enough to install what nobody has seen."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert all("==" in line and line.endswith("\\") for line in packages)
    assert all("://" not in line and not line.startswith("-") for line in lines)
    # Every package is followed by a hash.
    assert all(
        "--hash=sha256:" in after
        for line, after in itertools.pairwise(lines)
        if line and not line.startswith((" ", "#"))
    )


# rule, where the fault is planted, the fault, what the finding must say
PLANTS: list[tuple[TreeRule, str, str, str]] = [
    (
        rules.layers,
        "edgegw/core/x.py",
        "from edgegw.ledger.store import Store",
        "core must not import ledger",
    ),
    (rules.layers, "edgegw/core/x.py", "from ..ledger import store", "core must not import ledger"),
    (rules.layers, "edgegw/core/x.py", "def f():\n    import edgegw.errors", "core must not import errors"),
    (rules.layers, "edgegw/ledger/x.py", "from edgegw import payments", "ledger must not import payments"),
    (rules.layers, "edgegw/payments/x.py", "import edgegw.app", "payments must not import app"),
    (
        rules.layers,
        "edgegw/payments/gateway.py",
        "from .protocols import http",
        "must not import payments.protocols",
    ),
    (
        rules.layers,
        "edgegw/access/x.py",
        "from edgegw.traffic import breaker",
        "access must not import traffic",
    ),
    (rules.layers, "edgegw/hub/x.py", "from edgegw.ledger import store", "hub must not import ledger"),
    (rules.layers, "edgegw/demo/x.py", "from edgegw.app import main", "demo must not import app"),
    (rules.layers, "edgegw/newcomer/x.py", "", "has no layer"),
    (rules.builder, "firmware/x.py", "from edgegw.app import main", "the builder must not import"),
    (rules.builder, "edgegw/hub/x.py", "from firmware import roots", "must not import its builder"),
    (rules.standalone, "edgegw/verifier.py", "import msgspec", "the standard library is all"),
    (rules.standalone, "edgegw/verifier.py", "from .core import journal", "the standard library is all"),
    (rules.siblings, "edgegw/payments/rules/a.py", "from . import b", "imports its sibling"),
    (
        rules.siblings,
        "edgegw/payments/rules/a.py",
        "from edgegw.payments.rules.b import C",
        "imports its sibling",
    ),
    (rules.siblings, "edgegw/payments/protocols/a.py", "from .iso8583 import x", "imports its sibling"),
    (rules.pure_core, "edgegw/core/x.py", "import time", "must not import time"),
    (rules.pure_core, "edgegw/core/x.py", "from random import Random", "must not import random"),
    (rules.pure_core, "edgegw/core/x.py", "import os.path", "must not import os"),
    (rules.pure_core, "edgegw/core/x.py", "import aiohttp", "must not import aiohttp"),
    (rules.pure_core, "edgegw/core/x.py", "datetime.now(UTC)", "time comes in as now_ns"),
    (rules.pure_core, "edgegw/core/x.py", "open('x')", "must not call open"),
    (rules.pure_core, "edgegw/core/x.py", "rate = 0.5", "a float in core"),
    (rules.pure_core, "edgegw/core/x.py", "float(3)", "a float in core"),
    (rules.pure_core, "edgegw/core/x.py", "half = a / 2", "true division"),
    (rules.float_money, "edgegw/hub/x.py", "def f(amount_minor: float): ...", "is money"),
    (rules.float_money, "edgegw/hub/x.py", "class A:\n    balance: float | None", "is money"),
    (rules.printing, "edgegw/ledger/x.py", "print(1)", "outside the command line"),
    (rules.words, "edgegw/access/utils.py", "", "says 'utils'"),
    (rules.words, "edgegw/access/x.py", "class KeyManager: ...", "says 'manager'"),
    (rules.words, "edgegw/payments/x.py", "def post_transaction(): ...", "payment, transfer or record"),
    (rules.docstrings, "edgegw/hub/x.py", "a = 1", "no module docstring"),
    (rules.docstrings, "edgegw/core/x.py", "'''M.'''\ndef f(): pass", "f is public"),
    (
        rules.docstrings,
        "edgegw/core/x.py",
        "'''M.'''\nclass A:\n    '''A.'''\n    def g(self): pass",
        "g is public",
    ),
    (rules.sleeping, "tests/x.py", "import time\ntime.sleep(1)", "sleeps"),
    (rules.sleeping, "tests/x.py", "from asyncio import sleep\nsleep(0.1)", "sleeps"),
    (rules.weak_tests, "tests/x.py", "def test_a():\n    f()", "no docstring"),
    (rules.weak_tests, "tests/x.py", "def test_a():\n    '''A.'''\n    pass", "checks nothing"),
    (rules.weak_tests, "tests/x.py", "assert True", "asserts a constant"),
]


@pytest.mark.parametrize(("rule", "path", "fault", "said"), PLANTS, ids=rule_name)
def test_a_planted_fault_is_found(rule: TreeRule, path: str, fault: str, said: str) -> None:
    """A rule that finds nothing looks like a clean house."""
    findings = list(rule(path, ast.parse(fault)))
    assert any(said in finding for finding in findings), findings


# rule, place, what must not be found
INNOCENT: list[tuple[TreeRule, str, str]] = [
    (rules.layers, "edgegw/core/x.py", "from edgegw.core.model import Account\nfrom . import limits"),
    (rules.layers, "edgegw/payments/protocols/x.py", "from edgegw.payments.gateway import Gateway"),
    (rules.layers, "edgegw/__main__.py", "from edgegw.app import run\nfrom edgegw.hub import serve"),
    (rules.standalone, "edgegw/verifier.py", "import hashlib\nfrom pathlib import Path"),
    (rules.siblings, "edgegw/payments/rules/a.py", "from edgegw.payments.rule import Rule"),
    (rules.pure_core, "edgegw/core/x.py", "import hashlib\nhalf = a // 2"),
    (rules.docstrings, "edgegw/core/x.py", "'M.'\nclass A(Protocol):\n    'A.'\n    def g(self): ..."),
    (rules.float_money, "edgegw/hub/x.py", "def f(amount_minor: int, timeout_seconds: float): ..."),
    (rules.printing, "edgegw/__main__.py", "print(1)"),
    (rules.words, "edgegw/ledger/x.py", "def begin_transaction(): ..."),
    (rules.sleeping, "tests/x.py", "import asyncio\nasyncio.sleep(0)"),
]


@pytest.mark.parametrize(("rule", "path", "source"), INNOCENT, ids=rule_name)
def test_innocent_code_is_left_alone(rule: TreeRule, path: str, source: str) -> None:
    """A rule that cries wolf is switched off by the first person in a hurry."""
    assert list(rule(path, ast.parse(source))) == []


def test_a_long_function_and_a_long_file_are_found() -> None:
    """The two limits are counted in different ways, so each is shown its own fault."""
    function = "def f():\n" + "    a = 1\n" * rules.FUNCTION_LINES_MAX
    file = "a = 1\n" * (rules.FILE_LINES_MAX + 1)
    assert "f has 71 lines" in "".join(rules.lengths("x.py", function, ast.parse(function)))
    assert "701 lines" in "".join(rules.lengths("x.py", file, ast.parse(file)))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a \n", "trailing blanks"),
        ("a", "no newline"),
        ("# TO" + "DO: later\n", "unfinished work"),
        ("cd /wo" + "rk/main\n", "a path of one machine"),
        ("index = https://py" + "pi.org/simple\n", "registry host"),
    ],
)
def test_a_planted_line_is_found(line: str, said: str) -> None:
    """Text rules read every file, so one that finds nothing would be missed for long."""
    assert any(said in finding for finding in rules.text("x.md", line))
