"""Answers to a handful of questions, outside of a detector."""

from __future__ import annotations

from boxtune.inference.decoding import Answer
from boxtune.inference.steps import Steps
from boxtune.inference.writing import Writer, stop_ids
from boxtune.models.attention import choose_for_questions, has_sliding_window, use_attention


def written(model, tokenizer, form, questions, *, num_slots=None, goes_ahead=False, **options) -> list[Answer]:
    """All answers, in order; if wanted, with the next step begun before one is looked at, as on a GPU."""
    looks_back = has_sliding_window(model.config)
    use_attention(model, choose_for_questions(model.device, bf16=False, looks_back=looks_back))
    try:
        steps = Steps(model, num_slots or len(questions), model.dtype, graphs=False)
        writer = Writer(steps, stop_ids(model, tokenizer), tokenizer, form, iter(questions), **options)
        writer.goes_ahead = goes_ahead
        answers = []
        while ready := writer.advance():
            answers += [one.answer for one in ready]
        return answers
    finally:
        model.set_attn_implementation("sdpa")
