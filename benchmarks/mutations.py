"""What can be changed in a module: standard mutations of its syntax tree, and a few named ones."""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice


@dataclass(frozen=True)
class Mutant:
    """One change to one file, and the file's text with it."""

    file: str
    where: str
    change: str
    line: int
    text: str

    @property
    def name(self) -> str:
        return f"{self.file} {self.where}: {self.change}"

    @property
    def named(self) -> bool:
        return self.where == "named"


# The mistakes that spoil a design like this one: what is wrong, and where; then, for each function
# that is edited, its name, what is found there (a regular expression) and what replaces it.
Edit = tuple[str, str, str]
_CHECKPOINT, _WAKE = r"await checkpoint\(\)", r"self\._readers\.unpark\(1?\)"
NAMED: dict[tuple[str, str], list[Edit]] = {
    ("collect is not sorted", "_stream.py"): [
        ("keep", r"while len\(results\) <= outcome\.index:", "while False:"),
        ("keep", r"results\[outcome\.index\] = outcome", "results.append(outcome)"),
    ],
    ("outcomes are received by anyio's own receive", "_stream.py"): [
        ("__anext__", r"self\._receive\.receive_nowait\(\)", "await self._receive.receive()")
    ],
    ("readers never checkpoint", "_stream.py"): [("__anext__", _CHECKPOINT, "pass")],
    ("workers never checkpoint between calls", "_workers.py"): [
        ("_be_fair", r"await undisturbed\(checkpoint\)", "pass")
    ],
    ("workers do not checkpoint before their first call", "_workers.py"): [
        ("_work", r"await undisturbed\(checkpoint\)", "pass")
    ],
    ("the feeder never checkpoints", "_source.py"): [("_iterate", _CHECKPOINT, "pass")],
    ("all calls share one context", "_workers.py"): [("_serve", r"context\.copy\(\)", "context")],
    ("a call's later steps run in the worker's context", "_workers.py"): [
        ("_serve", r"run\(steps\.send, sent\)", "steps.send(sent)")
    ],
    ("errors are thrown into a call in the worker's context", "_workers.py"): [
        ("_serve", r"run\(steps\.throw, without_core_frames\(exc\)\)", "steps.throw(exc)")
    ],
    ("the source is resumed in the contexts of the workers", "_source.py"): [
        ("open", r"partial\(copy_context\(\)\.run, (.*)\)", r"\1")
    ],
    ("a native cancellation is left for the next call", "_workers.py"): [
        ("_serve", r"is_marked = task is not None and .*", "is_marked = False")
    ],
    ("a worker ends natively cancelled", "_workers.py"): [
        ("_work", r"await undisturbed\(cancel_shielded_checkpoint\)", "pass")
    ],
    ("the host waits where the group does", "_workers.py"): [
        ("run", r"while not self\._finished\.is_set\(\):", "while False:")
    ],
    ("what is missing at the end is not counted", "_workers.py"): [
        ("run", r"is_short = .*", "is_short = False")
    ],
    ("a token is kept although somebody waits for it", "_workers.py"): [
        ("_serve", r"limiter\._waiting or ", "")
    ],
    ("a token is kept by a worker that waits", "_workers.py"): [
        ("_serve", r"limit = limiter\.release_on_behalf_of\(token\)(?=\n +if source)", "pass")
    ],
    ("the other limiter's token is never given back", "_workers.py"): [
        ("_call_within", r"(?<=    )limiter\.release_on_behalf_of\(token\)", "pass")
    ],
    ("a call that waited for the other limiter starts in a pause", "_workers.py"): [
        ("_borrow_both", r"self\.limiter\.available_tokens >= 0", "True")
    ],
    ("no reader is woken after a put", "_stream.py"): [("_put", r"self\._wake_reader\(\)", "pass")],
    ("no reader wakes the next", "_stream.py"): [("__anext__", r"self\._wake_reader\(\)", "pass")],
    ("no reader is woken at the end", "_stream.py"): [("_run", _WAKE, "pass")],
    ("no reader is woken on leaving", "_stream.py"): [("_leave", _WAKE, "pass")],
}


class DoesNotFitError(Exception):
    """A named mutant has nothing to change in today's source."""


def named(sources: dict[str, str]) -> Iterator[Mutant]:
    """Yield the named mutants of the sources by file name."""
    for (name, file), edits in NAMED.items():
        text, line = sources[file], 0
        for function, pattern, replacement in edits:
            first, last = _lines_of(text, function)
            lines = text.splitlines(keepends=True)
            body = "".join(lines[first:last])
            edited, times = re.subn(pattern, replacement, body)
            if not times or edited == body:
                raise DoesNotFitError(f"{file}, {name}: no {pattern!r} in {function!r}")
            text, line = "".join([*lines[:first], edited, *lines[last:]]), first + 1
        ast.parse(text)
        yield Mutant(file, "named", name, line, text)


def _lines_of(text: str, function: str) -> tuple[int, int]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _FUNCTIONS) and node.name == function:
            return node.lineno - 1, node.end_lineno or node.lineno
    raise DoesNotFitError(f"no function {function!r}")


def generated(file: str, source: str) -> Iterator[Mutant]:
    """Yield a mutant of source for each mutation of its syntax tree."""
    seen: Counter[str] = Counter()
    for number in range(sum(1 for _ in mutations(ast.parse(source)))):
        tree = ast.parse(source)
        where, change, line, apply = next(islice(mutations(tree), number, None))
        apply()
        seen[f"{where}: {change}"] += 1
        if (times := seen[f"{where}: {change}"]) > 1:
            change += f" (no. {times})"
        yield Mutant(file, where, change, line, ast.unparse(ast.fix_missing_locations(tree)))


Put = Callable[[ast.AST], None]
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_TYPING = {"returns", "annotation", "bases"}


def mutations(
    node: ast.AST, where: tuple[str, ...] = (), line: int = 0, in_function: bool = False
) -> Iterator[tuple[str, str, int, Callable[[], None]]]:
    """Yield for each mutation below node: where it is, what changes, its line, how to apply it."""
    for child, put in _places(node):
        if _is_inert(child):
            continue
        at = getattr(child, "lineno", line)
        for new in chain(_statements(child) if in_function else (), _expressions(child)):
            yield ".".join(where), f"{_short(child)} → {_short(new)}", at, partial(put, new)
        if isinstance(child, (*_FUNCTIONS, ast.ClassDef)):
            inside = in_function or isinstance(child, _FUNCTIONS)
            yield from mutations(child, (*where, child.name), at, inside)
        else:
            yield from mutations(child, where, at, in_function)


def _places(node: ast.AST) -> Iterator[tuple[ast.AST, Put]]:
    """Yield the children of node that matter when it runs, and how to put others there."""
    for field, value in ast.iter_fields(node):
        if field in _TYPING:
            continue
        if isinstance(value, ast.AST):
            yield value, partial(setattr, node, field)
        elif isinstance(value, list):
            for position, child in enumerate(value):
                if isinstance(child, ast.AST):
                    yield child, partial(value.__setitem__, position)


def _is_inert(node: ast.AST) -> bool:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    return is_text or is_typing or isinstance(node, ast.Import | ast.ImportFrom)


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split()) or "nothing"
    return text if len(text) <= 70 else f"{text[:40]} … {text[-27:]}"


_DELETED = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Raise, ast.Break, ast.Continue,
            ast.Delete, ast.If, ast.For, ast.AsyncFor, ast.While)  # fmt: skip


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what a statement of a function may be replaced by."""
    if isinstance(node, _DELETED) and getattr(node, "value", node) is not None:
        yield ast.Pass()
    elif isinstance(node, ast.Return):
        is_falsy = node.value is None or ast.unparse(node.value) in {"None", "False"}
        yield ast.Pass() if is_falsy else ast.Return()
    elif isinstance(node, ast.ExceptHandler) and not isinstance(node.body[0], ast.Raise):
        yield _with(node, body=[ast.Raise()])
    elif isinstance(node, ast.arguments):
        yield from _other_defaults(node)


def _other_defaults(node: ast.arguments) -> Iterator[ast.AST]:
    for field in ("defaults", "kw_defaults"):
        defaults = getattr(node, field)
        for position, default in enumerate(defaults):
            if isinstance(default, ast.Constant) and default.value is None:
                new: ast.expr = ast.Call(ast.Name("object"), [], [])
            elif isinstance(default, ast.Name):
                new = ast.Constant(None)
            else:  # numbers and truth values are mutated where they stand
                continue
            yield _with(node, **{field: [*defaults[:position], new, *defaults[position + 1 :]]})


_COMPARISONS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
}


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    """Yield node with another operator, constant or condition, or without its not or await."""
    match node:
        case ast.Compare():
            for position, operator in enumerate(node.ops):
                for other in _COMPARISONS[type(operator)]:
                    ops = [*node.ops[:position], other(), *node.ops[position + 1 :]]
                    yield _with(node, ops=ops)
        case ast.BoolOp():
            yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.BinOp() | ast.AugAssign() if type(node.op) in _OPERATORS:
            yield _with(node, op=_OPERATORS[type(node.op)]())
        case ast.If() | ast.While() | ast.IfExp():
            yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.Await():
            yield node.value
        case ast.Constant(value=bool() | int() | float() as value):
            changed = [not value] if isinstance(value, bool) else [value + 1, value - 1]
            yield from map(ast.Constant, changed)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.copy(node)
    for field, value in fields.items():
        setattr(new, field, value)
    return new
