"""Terms of the loss are one group of curves."""

from __future__ import annotations

from types import SimpleNamespace

from boxtune.training.callbacks.terms import TermsCallback


class Curves:
    def __init__(self) -> None:
        self.drawn: list[tuple[dict[str, float], int]] = []

    def add_figures(self, figures: dict[str, float], step: int) -> None:
        self.drawn.append((figures, step))


def test_terms_are_one_group():
    curves = Curves()
    terms, state = TermsCallback(curves), SimpleNamespace(global_step=7, is_world_process_zero=True)
    terms.on_log(None, state, None, logs={"loss": 3.0, "loss_language": 1.0, "loss_box_l1": 2.0, "epoch": 1.0})
    terms.on_log(None, state, None, logs={"loss": 3.0, "eval_map": 1.0})
    terms.on_log(None, SimpleNamespace(global_step=7, is_world_process_zero=False), None, logs={"loss_language": 1.0})
    assert curves.drawn == [({"loss/language": 1.0, "loss/box_l1": 2.0}, 7)]
