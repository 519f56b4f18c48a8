import numpy as np
import pytest

from boxtune.data.synthetic.lettering import Face, fitted, paragraph, word, write


def test_words_begin_and_end_with_ink() -> None:
    for text in ("Energy", "Nährwerte", "Żelazo", "12,5 g"):
        mask = word(text, Face(20)).mask
        assert mask[:, 0].any()
        assert mask[:, -1].any()
        assert mask[0].any()
        assert mask[-1].any()


@pytest.mark.parametrize("marked", ["É", "ä", "ç", "ż", "ñ", "å"])
def test_marks_add_ink_or_leave_the_letter(marked: str) -> None:
    assert word(marked, Face(40)).mask.shape[0] >= word("x", Face(40)).mask.shape[0]


def test_text_that_the_font_lacks_is_still_something() -> None:
    assert word("栄養", Face(12)).mask.any()
    assert word("", Face(12)).mask.any()


def test_fitted_text_is_within_its_width() -> None:
    for width in (30, 60, 120):
        face = fitted("of which saturates", Face(18), width)
        assert word("of which saturates", face).width <= width + 2


def test_writing_is_cut_at_the_borders() -> None:
    ink = np.zeros((10, 20), np.uint8)
    write(ink, "Nutrition", Face(16), -8, 9)
    write(ink, "Nutrition", Face(16), 18, 14)
    assert ink.any()


def test_a_paragraph_reaches_both_sides() -> None:
    ink = np.zeros((60, 200), np.uint8)
    paragraph(ink, ["sugar,", "wheat", "flour,", "salt"], Face(10), 12)
    columns = np.flatnonzero((ink > 60).any(axis=0))
    assert columns[0] <= 1
    assert columns[-1] >= 197
