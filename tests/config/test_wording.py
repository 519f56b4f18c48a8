"""Wrong values in words: no word of pydantic's own, and nothing lost."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from boxtune.config.wording import in_words


def refuse(value: int) -> int:
    raise ValueError("seven is taken.")


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (Annotated[int, Field(ge=1)], 0, "must be 1 or more"),
        (Annotated[float, Field(gt=0)], 0, "must be above 0"),
        (Annotated[float, Field(lt=1)], 1, "must be below 1"),
        (Annotated[float, Field(le=0.5)], 1, "must be 0.5 or less"),
        (int, "x", "must be a whole number"),
        (int, 1.5, "must be a whole number"),
        (float, "x", "must be a number"),
        (bool, "x", "must be true or false"),
        (str, 3, "must be text"),
        (Literal["a", "b"], "c", "must be 'a' or 'b'"),
        (Annotated[int, Field(ge=1)] | Literal["auto"], 0, "must be 1 or more or 'auto'"),
        (tuple[int, ...], 3, "must be a list"),
        (Annotated[int, AfterValidator(refuse)], 7, "seven is taken"),
        (bytes, 3, "input should be a valid bytes"),
    ],
)
def test_in_words(kind, value, said):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    assert in_words(caught.value.errors()) == said
