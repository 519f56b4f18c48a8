"""What is wrong with a value, in the words of this house: of settings and of options of the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

# kinds of errors as pydantic names them (docs: "Validation Errors") → what a value must be
_WANTED: Final = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "below {lt:g}",
    "less_than_equal": "{le:g} or less",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "literal_error": "{expected}",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a section of keys",
}


def in_words(problems: Iterable[Any]) -> str:
    """`must be above 0 or 'auto'`: one sentence for all problems of a value, a union's members joined.

    Args:
        problems: of `pydantic.ValidationError.errors()`, about one value.
    """
    wanted: list[str] = []
    other: list[str] = []
    for problem in problems:
        context = problem.get("ctx", {})
        if problem["type"] in _WANTED:
            wanted.append(_WANTED[problem["type"]].format(**context))
        elif problem["type"] == "value_error":
            other.append(str(context["error"]).rstrip("."))
        else:
            other.append(problem["msg"][0].lower() + problem["msg"][1:])
    must = [f"must be {' or '.join(dict.fromkeys(wanted))}"] if wanted else []
    return "; ".join([*must, *dict.fromkeys(other)])
