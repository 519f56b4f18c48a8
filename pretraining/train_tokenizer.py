"""Train the tokenizer of the embedded model: questions, answers, labels and everyday words, 2800 tokens.

python pretraining/train_tokenizer.py      # writes pretraining/tokenizer
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import yaml

from boxtune.grounding.json_form import JsonForm
from boxtune.grounding.prompts import build_prompt
from boxtune.grounding.token_form import TokenForm
from boxtune.models.tokenizer import train_tokenizer

HERE = Path(__file__).parent


def corpus(labels: list[str], seed: int = 0, count: int = 4000) -> list[str]:
    """Questions and answers as the families write them, about random labels."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        some = [str(label) for label in rng.choice(labels, rng.integers(1, 5))]
        for form in (TokenForm(), JsonForm()):
            texts.append(re.sub(r"<\|\w+\|>", "\n", build_prompt(None, some, form)))  # never split, never merged
        texts.append("".join(f'{{"bbox_2d": [1, 2, 3, 4], "label": "{label}"}}, ' for label in some))
        texts.append(" ".join(some) + "; " + ", ".join(some).capitalize() + ". none")
    return [*texts, *["system\nYou are a helpful assistant.", "user\n", "assistant\n"] * 1000]


def main() -> None:
    """Write the tokenizer folder."""
    recipe = yaml.safe_load((HERE / "config.yaml").read_text())
    labels = (HERE / "labels.txt").read_text(encoding="utf-8").split("\n")
    tokenizer = train_tokenizer(corpus([label for label in labels if label]), recipe["vocab_size"])
    tokenizer.save_pretrained(HERE / "tokenizer")
    print(len(tokenizer), tokenizer.tokenize("Detect nutrition-table, red blood cell, WBC: (17,230),(999,1000)"))


if __name__ == "__main__":
    main()
