"""The rules of the house as functions from one file's source to findings.

A finding is one line of text: where, what, and the mend. `test_tidy.py` applies the rules and plants faults.
Nothing here imports the package: it is read, not run.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import PurePosixPath

FILE_LINES_MAX = 700
# An auditor copies this one file to an empty machine: it cannot be split, so it has a limit of its own.
STANDALONE_LINES_MAX = 1_540
# A ratchet: lower it when the longest function gets shorter, never raise it.
FUNCTION_LINES_MAX = 70

# Which part of edgegw may import which others; its own modules always. `*` is all.
LAYERS: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "core": frozenset(),
    "zones": frozenset(),
    "tls_tables": frozenset(),
    "config": frozenset({"core", "errors", "zones", "tls_tables"}),
    "ledger": frozenset({"core", "errors", "zones"}),
    "sm": frozenset({"core", "errors"}),
    "access": frozenset({"core", "errors", "sm", "tls_tables"}),
    "traffic": frozenset({"core", "errors"}),
    "observe": frozenset({"core", "errors"}),
    "uplink": frozenset({"core", "errors", "zones"}),
    # The file, not the records: what moves the WAL is the ledger's.
    "replica": frozenset({"core", "errors", "config", "ledger"}),
    # A way in says which keys it reads, and reads them from the keystore.
    "payments": frozenset({"core", "errors", "ledger", "access", "sm"}),
    # An adapter asks who speaks before it asks for anything to be decided.
    "payments.protocols": frozenset({"core", "errors", "ledger", "payments", "access", "tls_tables"}),
    "payments.rules": frozenset({"core", "errors", "payments"}),
    "exchange_http": frozenset({"core", "errors", "access"}),
    "hub": frozenset({"core", "errors", "access", "config", "exchange_http", "zones"}),
    "ledger_source": frozenset({"core", "errors", "ledger", "uplink"}),
    "discovery": frozenset({"config"}),
    "liveness": frozenset(),
    "rereading": frozenset({"errors", "ledger", "uplink"}),
    "support": frozenset({"config"}),
    "running": frozenset(
        {"core", "errors", "config", "discovery", "ledger"}
        | {"machine", "payments", "payments.protocols", "tls_tables", "uplink"}
    ),
    "retention": frozenset({"core", "errors", "config", "access", "ledger", "uplink"}),
    "key_places": frozenset({"config", "access", "tls_tables"}),
    "machine": frozenset(),
    "foreign_files": frozenset(),
    "units": frozenset({"errors", "config"}),
    # What is held to is told beside the ledger; a look runs in a thread as all that waits does.
    "box_health": frozenset({"core", "errors", "config", "ledger", "observe", "running", "uplink"}),
    "gauges": frozenset({"core", "ledger", "payments", "renewal", "uplink"}),
    "card_vault": frozenset({"core", "errors", "config", "access", "payments"}),
    "authorities": frozenset({"core", "config", "access", "key_places", "hub"}),
    "pinned": frozenset({"config", "access", "key_places"}),
    "encryption": frozenset({"config", "access", "tls_tables"}),
    "mirrored": frozenset(
        {
            "core",
            "errors",
            "config",
            "access",
            "ledger",
            "pinned",
            "encryption",
            "ledger_source",
            "tls_tables",
            "uplink",
        }
    ),
    "enrolment": frozenset({"core", "errors", "config", "access", "key_places", "tls_tables"}),
    "by_claim": frozenset(
        {"core", "config", "access", "enrolment", "key_places", "machine", "pinned", "tls_tables"}
    ),
    "first_boot": frozenset(
        {
            "core",
            "errors",
            "config",
            "access",
            "ledger",
            "key_places",
            "enrolment",
            "by_claim",
            "factory_reset",
            "foreign_files",
        }
    ),
    "reset_statement": frozenset({"core", "access"}),
    "factory_reset": frozenset({"core", "config", "access", "ledger", "enrolment"}),
    "renewal": frozenset({"core", "errors", "access", "enrolment"}),
    "own": frozenset(
        {"enrolment", "machine"}
        | {"core", "errors", "config", "access", "ledger", "key_places", "pinned", "mirrored", "encryption"}
    ),
    "mirror": frozenset({"core", "errors", "access", "ledger", "exchange_http"}),
    "demo": frozenset({"core", "errors", "access", "config"}),
    "audit": frozenset({"core", "errors", "ledger"}),
    # It reads all three sides as files; no box or hub runs in its process.
    "reconcile": frozenset({"core", "errors", "access", "ledger", "hub"}),
    # The program of a box, not its records: it reads what a running box says of itself, and no ledger.
    "update": frozenset({"core", "errors", "config", "foreign_files", "zones"}),
    "rotation": frozenset({"core", "errors", "access", "ledger", "own"}),
    "app": frozenset(
        {
            "core",
            "errors",
            "config",
            "ledger",
            "access",
            "sm",
            "traffic",
            "payments",
            "observe",
            "uplink",
            "replica",
        }
        | {
            "payments.protocols",
            "payments.rules",
            "box_health",
            "card_vault",
            "gauges",
            "discovery",
            "key_places",
            "ledger_source",
            "liveness",
            "machine",
            "mirrored",
            "own",
            "renewal",
            "rereading",
            "retention",
            "rotation",
            "running",
            "update",
        }
    ),
    "__init__": frozenset(),
    "__main__": frozenset({"*"}),
    "commands": frozenset({"*"}),
    "references": frozenset({"*"}),
    "verifier": frozenset(),
}

# Folders whose files are discovered: one file each, none knows another.
PLUGIN_FOLDERS = (
    "edgegw/payments/protocols",
    "edgegw/payments/rules",
    "edgegw/traffic/channels",
    "edgegw/uplink/channels",
)

# core computes, and nothing else: every module that it may import is on this list because it is pure.
CORE_MAY_IMPORT = frozenset(
    {
        "__future__",
        "abc",
        "base64",
        "binascii",
        "bisect",
        "collections",
        "copy",
        "dataclasses",
        "datetime",
        "enum",
    }
    | {
        "functools",
        "hashlib",
        "heapq",
        "hmac",
        "itertools",
        "json",
        "math",
        "msgspec",
        "operator",
        "re",
        "string",
    }
    | {"struct", "types", "typing"}
)
CORE_MAY_NOT_CALL = frozenset({"open", "print", "input", "exec", "eval", "breakpoint"})
CLOCK_CALLS = frozenset({"now", "today", "utcnow", "fromtimestamp", "utcfromtimestamp"})

WORDS = {
    "utils": "the noun that the module owns",
    "util": "the noun that the module owns",
    "helpers": "the noun that the module owns",
    "misc": "the noun that the module owns",
    "common": "the noun that the module owns",
    "manager": "what it does: writer, store, registry",
}
PAYMENT_WORDS = {"transaction": "payment, transfer or record (a transaction belongs to SQL)"}

# Split so that this file does not name what it forbids.
REGISTRY_HOSTS = (
    "pypi" + ".org",
    "python" + "hosted.org",
    "registry.npm" + "js.org",
    "deb.debian" + ".org",
)
MACHINE_PATHS = re.compile(r"(?:^|[^\w.])/(?:work|farm)/|/root/\.|/tmp/edge" + "gw|/home/[a-z]+/")
LEFTOVERS = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME)\b")
SLEEPS = ("time.sleep", "asyncio.sleep")
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def part_of(path: str) -> str:
    """Return the layer of a file of the package: `core`, `payments.protocols`, `app`."""
    parts = PurePosixPath(path).with_suffix("").parts[1:]
    nested = ".".join(parts[:2])
    return nested if nested in LAYERS and len(parts) > 2 else parts[0]


def imported_modules(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of every import, also those inside functions."""
    package = PurePosixPath(path).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            module = (base + (node.module or "")).strip(".")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def layers(path: str, tree: ast.Module) -> Iterator[str]:
    """Find imports against the direction of the layers."""
    part = part_of(path)
    if part not in LAYERS:
        yield f"{path}: {part!r} has no layer; give it one in LAYERS"
        return
    allowed = LAYERS[part]
    for line, name in imported_modules(path, tree):
        if not name.startswith("edgegw."):
            continue
        names = name.split(".")[1:]
        nested = ".".join(names[:2])
        target = nested if nested in LAYERS else names[0]
        if target not in LAYERS or target in (part, "__init__") or target in allowed:
            continue
        if "*" in allowed or (target.startswith(part + ".") and PurePosixPath(path).stem == "__init__"):
            continue
        yield f"{path}:{line}: {part} must not import {target}; it may import {sorted(allowed) or 'nothing'}"


def builder(path: str, tree: ast.Module) -> Iterator[str]:
    """Find imports that would bind the image's builder to the product, or the product to its builder."""
    inside = path.startswith("firmware/")
    for line, name in imported_modules(path, tree):
        if inside and name.startswith("edgegw.") and not name.startswith("edgegw.errors"):
            yield f"{path}:{line}: the builder must not import {name}; edgegw.errors is all it may know"
        elif not inside and name.split(".")[0] == "firmware":
            yield f"{path}:{line}: the product must not import its builder"


def standalone(path: str, tree: ast.Module) -> Iterator[str]:
    """Find imports that would keep the verifier from being copied out and run by itself."""
    if part_of(path) != "verifier":
        return
    for line, name in imported_modules(path, tree):
        if name.split(".")[0] not in sys.stdlib_module_names:
            yield f"{path}:{line}: the verifier imports {name}; the standard library is all it may use"


def siblings(path: str, tree: ast.Module) -> Iterator[str]:
    """Find a protocol, rule or channel that imports another one."""
    folder = next((f for f in PLUGIN_FOLDERS if path.startswith(f + "/")), None)
    if folder is None or path == f"{folder}/__init__.py":
        return
    own = PurePosixPath(path).relative_to(folder).with_suffix("").parts[0]
    prefix = folder.replace("/", ".") + "."
    for line, name in imported_modules(path, tree):
        if name.startswith(prefix) and name.removeprefix(prefix).split(".")[0] != own:
            yield f"{path}:{line}: imports its sibling {name}; move what both need one level up"


def pure_core(path: str, tree: ast.Module) -> Iterator[str]:
    """Find I/O, clocks, randomness and floats in core."""
    if not path.startswith("edgegw/core/"):
        return
    for line, name in imported_modules(path, tree):
        root = name.split(".")[0]
        if root != "edgegw" and root not in CORE_MAY_IMPORT:
            yield f"{path}:{line}: core must not import {root}; pass its result in as a value"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _impure_call(path, node)
        elif (isinstance(node, ast.Constant) and isinstance(node.value, float)) or (
            isinstance(node, ast.Name) and node.id == "float"
        ):
            yield f"{path}:{node.lineno}: a float in core; use integers with the unit in the name"
        elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            yield f"{path}:{node.lineno}: true division in core; use // or divmod"


def _impure_call(path: str, node: ast.Call) -> Iterator[str]:
    function = node.func
    if isinstance(function, ast.Name) and function.id in CORE_MAY_NOT_CALL:
        yield f"{path}:{node.lineno}: core must not call {function.id}()"
    if isinstance(function, ast.Attribute) and function.attr in CLOCK_CALLS:
        yield f"{path}:{node.lineno}: core must not call .{function.attr}(); time comes in as now_ns"


def float_money(path: str, tree: ast.Module) -> Iterator[str]:
    """Find amounts that are declared as floats."""
    for node in ast.walk(tree):
        name: str | None = None
        if isinstance(node, ast.arg):
            name, annotation = node.arg, node.annotation
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, annotation = node.target.id, node.annotation
        else:
            continue
        if annotation is not None and re.search(r"amount|balance|_minor|credits|debits", name):
            words = {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)}
            if words & {"float", "Decimal"}:
                yield f"{path}:{node.lineno}: {name} is money; declare it int, in minor units"


def printing(path: str, tree: ast.Module) -> Iterator[str]:
    """Find print() where a log line or a return value belongs."""
    name = PurePosixPath(path).name
    if (
        path.startswith("edgegw/demo/")
        or name.startswith(("__main__", "verif", "command"))
        or "/commands/" in path
    ):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"{path}:{node.lineno}: print() outside the command line; log it or return it"


def words(path: str, tree: ast.Module) -> Iterator[str]:
    """Find names that say nothing, or that mean something else in this house."""
    forbidden = dict(WORDS)
    if path.startswith(("edgegw/core/", "edgegw/payments/")) and "/protocols/" not in path:
        forbidden |= PAYMENT_WORDS
    for line, name in [(1, PurePosixPath(path).stem), *_defined_names(tree)]:
        for word in re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()):
            if word in forbidden:
                yield f"{path}:{line}: {name!r} says {word!r}; say {forbidden[word]}"


def _defined_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, Definition):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def docstrings(path: str, tree: ast.Module) -> Iterator[str]:
    """Find modules without a docstring; in core also public functions and classes without one."""
    if ast.get_docstring(tree) is None:
        yield f"{path}:1: no module docstring; say what it owns and what it leaves out"
    if not path.startswith("edgegw/core/"):
        return
    for node in _public(tree):
        if ast.get_docstring(node) is None and not _is_declaration(node):
            yield f"{path}:{node.lineno}: {node.name} is public without a docstring; one sentence with units"


def _is_declaration(node: Definition) -> bool:
    """Tell whether a method only declares its shape (`...`); its Protocol's docstring speaks for it."""
    return not isinstance(node, ast.ClassDef) and [ast.unparse(step) for step in node.body] == ["..."]


def _public(node: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    for child in node.body:
        if isinstance(child, Definition):
            if child.name.startswith("_"):
                continue
            yield child
            if isinstance(child, ast.ClassDef):
                yield from _public(child)


def function_lengths(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (lines, place) of every function, docstring included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield lines, f"{path}:{node.lineno}: {node.name}"


def lengths(path: str, source: str, tree: ast.Module) -> Iterator[str]:
    """Find files and functions that are too long to be read at once."""
    count = source.count("\n")
    most = STANDALONE_LINES_MAX if path == "edgegw/verifier.py" else FILE_LINES_MAX
    if count > most:
        yield f"{path}: {count} lines; at most {most}: split what changes for different reasons"
    for lines, place in function_lengths(path, tree):
        if lines > FUNCTION_LINES_MAX:
            yield f"{place} has {lines} lines; at most {FUNCTION_LINES_MAX}: give a step its own name"


def sleeping(path: str, tree: ast.Module) -> Iterator[str]:
    """Find sleeps in tests; `sleep(0)` only yields and is allowed."""
    if path == "tests/waiting.py":
        return
    bare = {name.rsplit(".", 1)[1] for _, name in imported_modules(path, tree) if name in SLEEPS}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        dotted = isinstance(function, ast.Attribute) and ast.unparse(function) in SLEEPS
        if dotted or (isinstance(function, ast.Name) and function.id in bare):
            if [ast.unparse(argument) for argument in node.args] == ["0"]:
                continue
            yield f"{path}:{node.lineno}: sleeps; wait for the condition with tests/waiting.py"


def weak_tests(path: str, tree: ast.Module) -> Iterator[str]:
    """Find tests that do not say which harm they prevent, or that cannot fail."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            if ast.get_docstring(node) is None:
                yield f"{path}:{node.lineno}: {node.name} has no docstring; say which harm it prevents"
            if all(isinstance(step, ast.Pass) or _is_text(step) for step in node.body):
                yield f"{path}:{node.lineno}: {node.name} checks nothing"
        elif isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant) and node.test.value:
            yield f"{path}:{node.lineno}: asserts a constant"


def _is_text(step: ast.stmt) -> bool:
    return isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant)


def text(path: str, content: str) -> Iterator[str]:
    """Find stray blanks, leftovers, package registries and paths of one machine in any text file."""
    if content and not content.endswith("\n"):
        yield f"{path}: no newline at the end"
    for number, line in enumerate(content.splitlines(), 1):
        if line != line.rstrip():
            yield f"{path}:{number}: trailing blanks"
        if LEFTOVERS.search(line):
            yield f"{path}:{number}: unfinished work; finish it or file it where issues are kept"
        if MACHINE_PATHS.search(line):
            yield f"{path}:{number}: a path of one machine"
        for host in REGISTRY_HOSTS:
            if host in line:
                yield f"{path}:{number}: the registry host {host}; name packages, not where they come from"
