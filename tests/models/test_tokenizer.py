"""The tokenizer and the chat template of the models that boxtune builds itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxtune.models.tokenizer import SPECIAL_TOKENS, chat_template, train_tokenizer

TOKENIZER = train_tokenizer(["Detect all tables: [10, 200]"] * 5, vocab_size=400)
TEXTS = st.text(max_size=60)


def text(role: str, words: str):
    return {"role": role, "content": [{"type": "text", "text": words}]}


IMAGE = {"type": "image"}
CONVERSATIONS = {
    "question": [{"role": "user", "content": [IMAGE, {"type": "text", "text": "Find."}]}],
    "answer": [
        {"role": "user", "content": [IMAGE, {"type": "text", "text": "Find {{ braces }} and {% tags %}."}]},
        text("assistant", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}]'),
    ],
    "system": [text("system", "You look."), text("user", "Hello"), text("assistant", "Hi")],
    "many-turns": [
        {"role": "user", "content": [IMAGE, IMAGE, {"type": "text", "text": "Two images"}]},
        text("assistant", "One"),
        {"role": "user", "content": [{"type": "text", "text": "before"}, IMAGE, {"type": "text", "text": "after"}]},
        text("assistant", "Two\nlines\n"),
        text("user", "more"),
    ],
    "plain-strings": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "assistant\n <|im_end|>"},
        {"role": "assistant", "content": "  spaces  "},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": ""},
    ],
    "whitespace": [text("user", "\n\n a \n"), text("assistant", "\n b \n\n")],
}
each_conversation = pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_special_token_is_one_id(token):
    assert TOKENIZER.encode(f"a{token}b", add_special_tokens=False)[1] == TOKENIZER.convert_tokens_to_ids(token)
    assert len(TOKENIZER.encode(token, add_special_tokens=False)) == 1


def test_special_tokens_have_qwens_order(shared_tokenizer):
    ours, theirs = TOKENIZER, shared_tokenizer
    offsets = {theirs.convert_tokens_to_ids(t) - ours.convert_tokens_to_ids(t) for t in SPECIAL_TOKENS}
    assert offsets == {151643}


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_any_text_survives(words):
    assert TOKENIZER.decode(TOKENIZER.encode(words, add_special_tokens=False)) == words


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["{}", "[{}, ", "a{}b", "({},"]))
def test_every_digit_is_a_token(number, around):
    tokens = TOKENIZER.tokenize(around.format(number))
    assert [t for t in tokens if any(c.isdigit() for c in t)] == list(str(number))


@pytest.mark.parametrize("generation", [False, True])
@each_conversation
def test_renders_as_qwens_own_template(trl_template, messages, generation):
    def rendered(template: str) -> str:
        return TOKENIZER.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=generation
        )

    assert rendered(chat_template()) == rendered(trl_template("qwen2_5_vl.jinja"))


@each_conversation
def test_marks_the_answers_as_trls_training_template(trl_template, messages):
    def marked(template: str):
        encoded = TOKENIZER.apply_chat_template(
            messages, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return encoded["input_ids"], encoded["assistant_masks"]

    ids, mask = marked(chat_template())
    assert (ids, mask) == marked(trl_template("qwen2_5_vl_training.jinja"))
    answers = sum(message["role"] == "assistant" for message in messages)
    stop = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
    assert sum(m for token, m in zip(ids, mask, strict=True) if token == stop) == answers
