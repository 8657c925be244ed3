"""The rules of the house, held over the code itself.

Each rule is a function from a file to the lines that break it. Every rule is tried twice: on the whole tree, and on a
planted snippet that it must catch beside one that it must let through, so that no rule can go blind unnoticed.
What only the type checker, ruff or import-linter can see is theirs (`pyproject.toml`).
"""

from __future__ import annotations

import ast
import functools
import io
import re
import sys
import tokenize
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "src/blockcloud/"
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600

# Deterministic: every node must compute the same, so integers only and no order that a hash decides.
DETERMINISTIC = (f"{PACKAGE}transaction_chain/", f"{PACKAGE}service_chain/")
# Pure: they take events and `now`, and return what is to be done (DESIGN section 1, rule 1) ...
PURE = (*DETERMINISTIC, f"{PACKAGE}primitives/", f"{PACKAGE}routing/", f"{PACKAGE}service_access/")
# ... except these files, each of which carries out what a core decided.
SERVICE_ACCESS_ADAPTORS = (
    *"announce connector control control_table detours endpoint forward front listener publish".split(),
    *"peer_search reception redial splice sqlite_file steering stream tls udp_flow udp_forward udp_publish".split(),
)
RELAY_ADAPTORS = "control_stream dialling pipe places registration server".split()
FEED_ADAPTORS = "announcing coap collecting following http intake mqtt node outbox secret_files serving".split()
EDGE_ADAPTORS = "streams exchange upstream signing_proxy caching_node".split()
PAYMENT_ADAPTORS = "book purse till".split()
PROXY_ADAPTORS = "dns_stub http_proxy local_services socks_proxy".split()
ADAPTORS = (
    f"{PACKAGE}primitives/files.py",  # a folder's entries, on the medium
    f"{PACKAGE}primitives/keys.py",  # key files, and new keys from the system's randomness
    f"{PACKAGE}service_chain/contracts/wasm.py",  # the binding to the engine in C
    f"{PACKAGE}routing/adaptors/",
    # The asyncio side of the service access layer; the rest of it is sans-IO.
    *(f"{PACKAGE}service_access/{name}.py" for name in SERVICE_ACCESS_ADAPTORS),
    *(f"{PACKAGE}service_access/proxy/{name}.py" for name in PROXY_ADAPTORS),
    *(f"{PACKAGE}service_access/relay/{name}.py" for name in RELAY_ADAPTORS),
    *(f"{PACKAGE}service_access/edge/{name}.py" for name in EDGE_ADAPTORS),
    *(f"{PACKAGE}service_access/edge/feed/{name}.py" for name in FEED_ADAPTORS),
    f"{PACKAGE}service_access/links/",
    *(f"{PACKAGE}service_access/payment/{name}.py" for name in PAYMENT_ADAPTORS),
)
IMPURE_MODULES = frozenset(
    "asyncio builtins concurrent ctypes datetime fcntl glob http httpx2 importlib io.open mmap multiprocessing os "
    "pathlib random rocksdict secrets select selectors shutil signal socket socketserver sqlite3 ssl subprocess "
    "tempfile threading time urllib.request uuid uvicorn uvloop".split()
)
IMPURE_CALLS = frozenset(("open", "io.open", "input", "print", "exec", "eval", "__import__"))

TEXT_SUFFIXES = frozenset(".py .md .toml .txt .yml .yaml .json .js .css .html .sh .service .conf .cfg .lock".split())
TREES = ("src", "tests", "docs", "examples", "deploy", "bench", ".ci")
NOT_OURS = ("vendor/", "__pycache__/")


@dataclass(frozen=True)
class Source:
    """One file: its path from the root of the checkout, and its text."""

    path: str
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    def is_in(self, *places: str) -> bool:
        return self.path.startswith(places)


Finding = tuple[int, str]
Check = Callable[[Source], Iterator[Finding]]


@dataclass(frozen=True)
class Rule:
    """`bad` must be found and `good` must not, each as if it stood in the file `planted_in`."""

    name: str
    check: Check
    applies: Callable[[Source], bool]
    planted_in: str
    bad: tuple[str, ...]
    good: tuple[str, ...]


@functools.cache
def sources() -> tuple[Source, ...]:
    paths = [path for tree in TREES for path in (ROOT / tree).rglob("*")] + list(ROOT.glob("*"))
    wanted = [path for path in paths if path.is_file() and (path.suffix in TEXT_SUFFIXES or path.name == "run")]
    named = {path.relative_to(ROOT).as_posix(): path for path in wanted}
    return tuple(
        Source(name, path.read_text(encoding="utf-8"))
        for name, path in sorted(named.items())
        if not any(part in name for part in NOT_OURS)
    )


def is_python(source: Source) -> bool:
    return source.path.endswith(".py")


def is_product(source: Source) -> bool:
    return is_python(source) and source.is_in("src/")


def is_deterministic(source: Source) -> bool:
    return is_python(source) and source.is_in(*DETERMINISTIC)


def is_pure(source: Source) -> bool:
    return is_python(source) and source.is_in(*PURE) and not source.is_in(*ADAPTORS)


def is_text_but_not_these_rules(source: Source) -> bool:
    return source.path != "tests/test_tidy.py"


# What a file imports and calls


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything imported from outside (`from a import b` is `a.b`)."""
    for node in source.nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def calls(source: Source) -> Iterator[tuple[int, str]]:
    """Line and name of everything called, as written: `open`, `time.sleep`."""
    for node in source.nodes:
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""


def touches_the_world(source: Source) -> Iterator[Finding]:
    for line, name in imports(source):
        if any(name == module or name.startswith(f"{module}.") for module in IMPURE_MODULES):
            yield line, f"imports {name}: give the core what it needs as an argument"
    for line, name in calls(source):
        if name in IMPURE_CALLS:
            yield line, f"calls {name}()"


installed_packages = functools.cache(packages_distributions)


def undeclared_imports(source: Source) -> Iterator[Finding]:
    allowed = {normal(name) for name in runtime_dependencies()} | {"blockcloud"}
    for line, name in imports(source):
        top = name.split(".")[0]
        owners = {normal(owner) for owner in installed_packages().get(top, [top])}
        if top not in sys.stdlib_module_names and not owners & allowed:
            yield line, f"imports {top}, which is no runtime dependency in pyproject.toml"


def sleeps(source: Source) -> Iterator[Finding]:
    from_time = any(name == "time.sleep" for _, name in imports(source))
    for line, name in calls(source):
        if name == "time.sleep" or (name == "sleep" and from_time):
            yield line, "sleeps: wait for a condition, with a limit"


def prints(source: Source) -> Iterator[Finding]:
    yield from ((line, "prints: only the command line speaks") for line, name in calls(source) if name == "print")


# Determinism


def inexact_numbers(source: Source) -> Iterator[Finding]:
    for node in source.nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
            yield node.lineno, f"the number {node.value} is not an integer"
        elif isinstance(node, ast.Name) and node.id in ("float", "complex"):
            yield node.lineno, f"uses {node.id}"
        elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            yield node.lineno, "divides with /: use //"
    for line, name in imports(source):
        if name.split(".")[0] in ("cmath", "decimal", "fractions", "statistics"):
            yield line, f"imports {name}"


SET_TYPES = ("set", "frozenset", "Set", "AbstractSet", "MutableSet")
SET_METHODS = ("union", "intersection", "difference", "symmetric_difference")
SET_OPERATORS = (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)
ORDER_BLIND = ("sorted", "set", "frozenset", "any", "all", "sum", "len", "min", "max")
ORDER_TAKING = ("list", "tuple", "iter", "enumerate", "zip", "map", "filter", "reversed", "dict.fromkeys")


def names_of_sets(nodes: Iterable[ast.AST]) -> set[str]:
    """Variables, attributes and parameters annotated as sets or assigned one, as they are written."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation:
            name = ast.unparse(node.target) if isinstance(node, ast.AnnAssign) else node.arg
            outer = ast.unparse(node.annotation).strip("'\"").split("[")[0].split(".")[-1]
            found |= {name, f"self.{name}"} if outer in SET_TYPES else set()
        elif isinstance(node, ast.Assign) and is_set(node.value, set()):
            found |= {ast.unparse(target) for target in node.targets}
    return found


def is_set(node: ast.AST, known: set[str]) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Name | ast.Attribute):
        return ast.unparse(node) in known
    if isinstance(node, ast.BinOp) and isinstance(node.op, SET_OPERATORS):
        return is_set(node.left, known) or is_set(node.right, known)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in (*SET_METHODS, "copy") and is_set(node.func.value, known)
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("set", "frozenset")


def set_order(source: Source) -> Iterator[Finding]:
    """Attributes are known in the whole file, plain names in their own function only."""
    attributes = {name for name in names_of_sets(source.nodes) if "." in name}
    functions = [node for node in source.nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for scope in [source.tree, *functions]:
        inside = list(ast.walk(scope))
        known = attributes | names_of_sets(inside if scope in functions else ast.iter_child_nodes(scope))
        blind = {id(node.args[0]) for node in inside if isinstance(node, ast.Call) and is_order_blind(node)}
        for node in inside:
            if not isinstance(node, ast.expr | ast.stmt) or id(node) in blind:
                continue
            if any(is_set(taken, known) for taken in taken_in_order(node)):
                yield node.lineno, "goes through a set: its order differs between nodes; use sorted() or a dict"


def is_order_blind(call: ast.Call) -> bool:
    return ast.unparse(call.func) in ORDER_BLIND and len(call.args) == 1


def taken_in_order(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.For | ast.AsyncFor):
        yield node.iter
    elif isinstance(node, ast.ListComp | ast.GeneratorExp | ast.DictComp):
        yield from (generator.iter for generator in node.generators)
    elif isinstance(node, ast.Starred | ast.YieldFrom):
        yield node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("join", "extend"):
        yield from node.args
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "pop":
        yield from [] if node.args else [node.func.value]
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ORDER_TAKING:
        yield from node.args


# Errors and exemptions


def swallowed_errors(source: Source) -> Iterator[Finding]:
    for node in source.nodes:
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                yield node.lineno, "bare except: name the errors"
            elif names_every_error(node.type) and all(does_nothing(line) for line in node.body):
                yield node.lineno, "swallows every error"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("suppress", "contextlib.suppress"):
            yield from (
                (node.lineno, "suppresses every error") for argument in node.args if names_every_error(argument)
            )


def names_every_error(node: ast.expr) -> bool:
    names = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(ast.unparse(name) in ("Exception", "BaseException") for name in names)


def does_nothing(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass | ast.Continue) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def bare_exemptions(source: Source) -> Iterator[Finding]:
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            if re.search(r"type:\s*ignore(?!\[[\w, -]+\])", token.string):
                yield token.start[0], "`type: ignore` without a code"
            if re.search(r"noqa(?!: ?[A-Z]+\d)", token.string):
                yield token.start[0], "`noqa` without a code"


# Words and sizes


def matches(pattern: str, message: str) -> Check:
    compiled = re.compile(pattern)

    def check(source: Source) -> Iterator[Finding]:
        for number, line in enumerate(source.text.splitlines(), 1):
            if found := compiled.search(line):
                yield number, f"{message}: {found.group().strip()}"

    return check


def long_functions(source: Source) -> Iterator[Finding]:
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {lines} lines, more than {FUNCTION_LINES_MAX}"


def long_files(source: Source) -> Iterator[Finding]:
    lines = len(source.text.splitlines())
    if lines > FILE_LINES_MAX:
        yield lines, f"has {lines} lines, more than {FILE_LINES_MAX}"


def missing_docstring(source: Source) -> Iterator[Finding]:
    if source.text.strip() and not ast.get_docstring(source.tree):
        yield 1, "says nowhere what it is: no module docstring"


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX
CORE = f"{PACKAGE}transaction_chain/core.py"

RULES = [
    Rule(
        "pure packages touch nothing outside",
        touches_the_world,
        is_pure,
        f"{PACKAGE}service_access/core.py",
        (
            "import time",
            "from os import path",
            "import asyncio",
            "def f():\n import random",
            "from urllib import request",
            "open('x')",
        ),
        (
            "import hashlib",
            "import urllib.parse",
            "import timeit",
            "from blockcloud.primitives import codec",
            "self.open('x')",
            "opened = 1",
        ),
    ),
    Rule(
        "deterministic code computes with integers only",
        inexact_numbers,
        is_deterministic,
        CORE,
        ("x = 0.5", "x = a / b", "x /= 2", "x = float(y)", "def f(x: float): ...", "import statistics"),
        ("x = 1", "x = a // b", "x = '0.5 / 2'"),
    ),
    Rule(
        "deterministic code never goes through a set",
        set_order,
        is_deterministic,
        CORE,
        (
            "for x in {1, 2}: ...",
            "def f(a: frozenset[int]):\n return [x for x in a]",
            "class C:\n def g(self):\n  self.s: set[int] = set()\n def h(self):\n  return list(self.s)",
            "class C:\n s: set[int]\n def h(self):\n  return tuple(self.s | other)",
            "def f():\n seen = set()\n seen.pop()",
            "b''.join({x for x in y})",
        ),
        (
            "for x in sorted({1, 2}): ...",
            "def f(a: set[int]):\n return sorted(x for x in a)",
            "def f(a: set[int]):\n return 1 in a and len(a)",
            "def f():\n seen = set()\ndef g(seen):\n for x in seen: ...",
            "def f(d):\n d.pop(1)\n for x in d: ...",
        ),
    ),
    Rule(
        "no error is swallowed",
        swallowed_errors,
        is_python,
        f"{PACKAGE}node/x.py",
        (
            "try: f()\nexcept: raise",
            "try: f()\nexcept Exception: pass",
            "try: f()\nexcept (OSError, BaseException): ...",
            "with suppress(Exception): f()",
        ),
        ("try: f()\nexcept OSError: pass", "try: f()\nexcept Exception: log()", "with suppress(OSError): f()"),
    ),
    Rule(
        "an exemption names what it exempts from",
        bare_exemptions,
        is_python,
        f"{PACKAGE}node/x.py",
        ("x = 1  # type: ignore", "x = 1  # noqa", "x = 1  # noqa: because"),
        ("x = 1  # type: ignore[attr-defined]", "x = 1  # noqa: S606 - reason", "x = '# noqa'"),
    ),
    Rule(
        "nothing sleeps",
        sleeps,
        is_python,
        f"{PACKAGE}node/x.py",
        ("import time\ntime.sleep(1)", "from time import sleep\nsleep(1)"),
        ("await asyncio.sleep(0)", "x = 'time.sleep(1)'"),
    ),
    Rule(
        "only the command line prints",
        prints,
        lambda source: is_product(source) and not source.is_in(f"{PACKAGE}cli/"),
        f"{PACKAGE}node/x.py",
        ("print(1)",),
        ("console.print(1)",),
    ),
    Rule(
        "the product imports only what it declares",
        undeclared_imports,
        is_product,
        f"{PACKAGE}node/x.py",
        ("import pytest", "from hypothesis import given", "import no_such_module"),
        ("import json", "import nacl.bindings", "from prometheus_client import Counter", "from blockcloud import cli"),
    ),
    Rule(
        "nothing is left for later in a comment",
        matches(r"\b(TODO|FIXME|XXX|HACK)\b", "finish it or file an issue"),
        is_text_but_not_these_rules,
        "docs/x.md",
        ("# TODO: this", "FIXME later"),
        ("the word todo", "XXXL"),
    ),
    Rule(
        "no path of somebody's machine, no address of a package registry",
        matches(
            # The brackets keep this rule, and the sample below, from being what they forbid.
            r"(?<![\w.~$}])/(w[o]rk|r[o]ot|U[s]ers|h[o]me/\w+)/|//(p[y]pi|files\.p[y]thonhosted|registry\.n[p]mjs)\.",
            "belongs to one machine",
        ),
        is_text_but_not_these_rules,
        "docs/x.md",
        (
            "/".join(("see ", "work", "x")),
            "/".join(("in ", "root", ".cache")),
            "//".join(("https:", "py" + "pi.org/simple")),
        ),
        ("the state/root/x", "see ~/projects/root", "a PyPI package"),
    ),
    Rule(
        "two things share the letters PoS: write cloudpos or proof_of_service",
        matches(r"\bPoS\b", "which of the two"),
        is_text_but_not_these_rules,
        "docs/x.md",
        ("the PoS election",),
        ("the CloudPoS election", "proof of service", "POSIX"),
    ),
    Rule(
        f"a function fits a screen ({FUNCTION_LINES_MAX} lines)",
        long_functions,
        is_product,
        f"{PACKAGE}node/x.py",
        (LONG_FUNCTION,),
        (LONG_FUNCTION.replace("    x = 1\n", "", 1),),
    ),
    Rule(
        f"a file has one subject ({FILE_LINES_MAX} lines)",
        long_files,
        is_python,
        f"{PACKAGE}node/x.py",
        ("x = 1\n" * (FILE_LINES_MAX + 1),),
        ("x = 1\n" * FILE_LINES_MAX,),
    ),
    Rule(
        "a module says what it is",
        missing_docstring,
        is_product,
        f"{PACKAGE}node/x.py",
        ("x = 1",),
        ('"""What it is."""\nx = 1', ""),
    ),
]
EACH_RULE = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


@EACH_RULE
def test_the_tree_obeys(rule: Rule) -> None:
    findings = {
        f"{source.path}:{line}: {message}"
        for source in sources()
        if rule.applies(source)
        for line, message in rule.check(source)
    }
    if findings:
        pytest.fail("\n".join([f"broken rule: {rule.name}", *sorted(findings)]), pytrace=False)


@EACH_RULE
def test_the_rule_catches_what_it_should(rule: Rule) -> None:
    for snippet in rule.bad:
        planted = Source(rule.planted_in, snippet)
        assert rule.applies(planted), f"looks away from {rule.planted_in}"
        assert list(rule.check(planted)), f"missed: {snippet}"


@EACH_RULE
def test_the_rule_lets_good_code_pass(rule: Rule) -> None:
    for snippet in rule.good:
        assert not list(rule.check(Source(rule.planted_in, snippet))), f"wrongly refused: {snippet}"


def test_the_tree_is_really_read() -> None:
    paths = {source.path for source in sources()}
    assert {"dev.py", "pyproject.toml", ".ci/run", "tests/test_tidy.py", f"{PACKAGE}__init__.py"} <= paths
    assert not is_pure(Source(ADAPTORS[0], ""))


# Rules over several files


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def runtime_dependencies() -> tuple[str, ...]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return tuple(re.split(r"[^\w.-]", requirement)[0] for requirement in project["dependencies"])


def repeated_names(paths: Iterable[str]) -> dict[str, list[str]]:
    by_name = defaultdict(list)
    for path in paths:
        by_name[PurePosixPath(path).name].append(path)
    return {name: same for name, same in by_name.items() if len(same) > 1 and name != "conftest.py"}


def test_test_files_have_unique_names() -> None:
    tests = [source.path for source in sources() if is_python(source) and source.is_in("tests/")]
    assert not repeated_names(tests)
    assert repeated_names(["tests/a/test_x.py", "tests/b/test_x.py"])


def unexplained(dependencies: Iterable[str], page: str) -> set[str]:
    explained = {normal(name) for name in re.findall(r"^\| `([\w.-]+)` \|", page, re.MULTILINE)}
    return {name for name in dependencies if normal(name) not in explained}


def test_each_dependency_is_explained() -> None:
    page = (ROOT / "docs" / "explanation" / "dependencies.md").read_text()
    assert not unexplained(runtime_dependencies(), page)
    assert unexplained(["left-pad"], page) == {"left-pad"}
