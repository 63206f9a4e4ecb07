"""Pattern: a regular expression -> a text that matches it.

Walks the parse tree of Python's own `re`, so every pattern that `re` can parse is read the same way here; look-arounds and back
references have no constructive reading and give None, and the caller keeps its plain text.
"""

import importlib
import re
from collections.abc import Callable
from typing import Any

# `re._parser` is the same module in 3.11 - 3.14; the public `sre_parse` is only a deprecated alias of it.
_parser: Any = importlib.import_module("re._parser")
_SPACE = 3  # at most this many repetitions beyond the minimum
_CATEGORIES = {
    "CATEGORY_DIGIT": "0123456789",
    "CATEGORY_WORD": "abcdefghijklmnopqrstuvwxyz0123456789",
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_DIGIT": "abcdefghijklmnopqrstuvwxyz",
    "CATEGORY_NOT_WORD": "-.",
    "CATEGORY_NOT_SPACE": "abcdefghijklmnopqrstuvwxyz0123456789",
}
_PRINTABLE = "".join(chr(code) for code in range(32, 127))

Roll = Callable[[int], int]


class _NoReading(Exception):
    """The pattern uses something that cannot be built forward."""


def matching(pattern: str, roll: Roll) -> str | None:
    """A text in which `pattern` is found, or None when none could be built; `roll(n)` chooses from 0..n-1."""
    try:
        text = "".join(_node(op, argument, roll) for op, argument in _parser.parse(pattern))
        return text if re.search(pattern, text) else None
    except (_NoReading, re.error):
        return None


def _node(op: Any, argument: Any, roll: Roll) -> str:
    match str(op):
        case "LITERAL":
            return chr(argument)
        case "NOT_LITERAL":
            return "b" if argument == ord("a") else "a"
        case "ANY":
            return "a"
        case "AT":
            return ""
        case "IN":
            letters = _letters(argument)
            return letters[roll(len(letters))]
        case "BRANCH":
            branches = argument[1]
            return _sequence(branches[roll(len(branches))], roll)
        case "SUBPATTERN":
            return _sequence(argument[3], roll)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, most, inner = argument
            times = least + roll(min(int(most) - least, _SPACE) + 1)
            return "".join(_sequence(inner, roll) for _ in range(times))
        case _:
            raise _NoReading(str(op))


def _sequence(nodes: Any, roll: Roll) -> str:
    return "".join(_node(op, argument, roll) for op, argument in nodes)


def _letters(parts: Any) -> str:
    """The characters of a class such as `[A-Z0-9_]`."""
    letters: list[str] = []
    negated = False
    for op, argument in parts:
        match str(op):
            case "NEGATE":
                negated = True
            case "LITERAL":
                letters.append(chr(argument))
            case "RANGE":
                low, high = argument
                letters.extend(chr(code) for code in range(low, min(high, low + 127) + 1))
            case "CATEGORY":
                letters.extend(_CATEGORIES.get(str(argument), ""))
            case _:
                raise _NoReading(str(op))
    chosen = [letter for letter in _PRINTABLE if letter not in letters] if negated else letters
    if not chosen:
        raise _NoReading("empty class")
    return "".join(chosen)
