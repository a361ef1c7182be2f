"""Numbers in ``!ref <a> * 2``: only where arithmetic is plainly meant, and bounded.

HyperPyYAML evaluates whatever parses, so a date ``2024-<day>`` becomes 2023 and
``<a>**<a>**<a>`` hangs. Here an expression is arithmetic if every reference in it is a
number, the rest is digits, operators and parentheses, and a ``-`` or ``/`` that could
as well be part of a date or a path has spaces around it. Where HyperPyYAML computes a
number too, it is the same number.
"""

from __future__ import annotations

import ast
import math
import operator
import re

MAX_LENGTH = 500
MAX_BITS = 256
MAX_EXPONENT = 1024

_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_LITERAL = re.compile(r"[\d.\s+\-*/%()]|(?<=[\d.])[eE](?=[+\-]?\d)")
_TIGHT = re.compile(r"(?<=[\d.>)])(?:-|(?<!/)/(?!/))(?=[\d.<(])")


def looks_numeric(template: str) -> bool:
    """Whether a template, its references aside, is digits and operators with one.

    Example
    -------
    >>> looks_numeric("<a> * 2"), looks_numeric("exp/<a>"), looks_numeric("<a>.<b>")
    (True, False, False)
    """
    bare = re.sub(r"<[^>]*>", " 0 ", template)
    rest = _LITERAL.sub("", bare)
    # An exponent's sign is no operator: "<a>1e-5" is a text with digits.
    operators = re.sub(r"[eE][+\-]", "", bare)
    return not rest and bool(re.search(r"[+\-*/%]", operators))


def is_ambiguous(template: str) -> bool:
    """Whether a ``-`` or ``/`` stands tight between numbers, as in a date or path.

    Example
    -------
    >>> is_ambiguous("2024-<a>"), is_ambiguous("2024 - <a>"), is_ambiguous("<a>//2")
    (True, False, False)
    """
    return bool(_TIGHT.search(template))


def evaluate(expression: str) -> int | float:
    """Evaluate numbers and ``+ - * / // % **`` with bounds on size, depth and time.

    Raises
    ------
    ValueError
        With the reason: not an expression, division by zero, too large.

    Example
    -------
    >>> evaluate("16000 // 2"), evaluate("3 / 2")
    (8000, 1.5)
    >>> evaluate("9 ** 9 ** 9")
    Traceback (most recent call last):
    ValueError: exponent 387420489 is larger than 1024
    """
    if len(expression) > MAX_LENGTH:
        raise ValueError(f"expression longer than {MAX_LENGTH} characters")
    try:
        return _evaluate(ast.parse(expression.strip(), mode="eval").body)
    except ZeroDivisionError:
        raise ValueError("division by zero") from None
    except OverflowError:
        raise ValueError("result too large for a number") from None
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError("not an arithmetic expression") from None


def _evaluate(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)
    if isinstance(node, ast.UnaryOp):
        # HyperPyYAML knows no sign and would hand over a text such as "-5".
        if isinstance(node.op, (ast.USub, ast.UAdd)):
            operand = _evaluate(node.operand)
            return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _evaluate(node.left), _evaluate(node.right)
        if isinstance(node.op, ast.Pow) and abs(right) > MAX_EXPONENT:
            raise ValueError(f"exponent {right} is larger than {MAX_EXPONENT}")
        return _bounded(_OPERATIONS[type(node.op)](left, right))
    raise ValueError("not an arithmetic expression")


def _bounded(value: int | float | complex) -> int | float:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ValueError(f"result larger than {MAX_BITS} bits")
    if isinstance(value, complex) or not math.isfinite(value):
        raise ValueError("result is not a finite real number")
    return value
