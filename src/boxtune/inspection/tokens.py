"""Which tokens of a batch are trained: read back from what the collator made, so that it shows what training sees."""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rich.console import Console
from rich.text import Text

from boxtune.collators.batch import Batch
from boxtune.losses.language import IGNORED

Kind = Literal["image", "masked", "trained", "padding"]
KINDS: tuple[Kind, ...] = ("image", "masked", "trained", "padding")
_STYLES: dict[Kind, str] = {"image": "cyan", "masked": "dim", "trained": "bold green", "padding": "dim magenta"}
_MEANINGS: dict[Kind, str] = {
    "image": "places of image tokens, never trained",
    "masked": "text that is read, not learned",
    "trained": "text that the loss is taken of",
    "padding": "filled up, not attended to",
}


@dataclass(frozen=True)
class TokenRun:
    """Neighbouring tokens of one kind.

    Attributes:
        kind: image, masked, trained or padding.
        start, end: columns of the batch, `[start, end)`.
    """

    kind: Kind
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class SampleTokens:
    """The tokens of one sample in a batch.

    Attributes:
        sample_id: of the data set.
        row: of the batch; 0 for all samples of a packed batch.
        start, end: columns that the sample takes up, `[start, end)`, padding included.
        runs: its tokens by kind, in order.
        counts: tokens of each kind.
    """

    sample_id: str
    row: int
    start: int
    end: int
    runs: tuple[TokenRun, ...]
    counts: dict[Kind, int]

    @property
    def length(self) -> int:
        """Tokens without padding."""
        return self.end - self.start - self.counts["padding"]


@dataclass(frozen=True)
class TokenDistribution:
    """Tokens of a batch by kind.

    Attributes:
        batching: padded (a row a sample) or packed (one row).
        samples: in the order of the batch.
        counts: tokens of each kind, all samples together.
        num_trained_image_tokens: 0 unless the collator is wrong: an image's place is nothing to learn.
    """

    batching: Literal["padded", "packed"]
    samples: tuple[SampleTokens, ...]
    counts: dict[Kind, int]
    num_trained_image_tokens: int

    @property
    def num_tokens(self) -> int:
        """Of the batch, padding included."""
        return sum(self.counts.values())

    @property
    def share_trained(self) -> float:
        """Trained tokens of all but padding."""
        return self.counts["trained"] / max(1, self.num_tokens - self.counts["padding"])

    @property
    def share_padding(self) -> float:
        """Padding of all tokens: work for nothing."""
        return self.counts["padding"] / max(1, self.num_tokens)

    @property
    def untrained_samples(self) -> tuple[str, ...]:
        """Samples that nothing is learned from."""
        return tuple(sample.sample_id for sample in self.samples if not sample.counts["trained"])


def analyze_token_distribution(batch: Batch, image_token_id: int) -> TokenDistribution:
    """Count the tokens of a batch by what the loss makes of them.

    The first token of a sample counts as masked, whatever its label: nothing before it predicts it. So the trained ones
    are those that `losses.language.count` divides by.

    Args:
        batch: of `boxtune.collators.batch.Collator`, padded `[B, L]` or packed `[1, ΣL]`.
        image_token_id: of `<|image_pad|>`.
    """
    inputs, targets = batch["inputs"], batch["targets"]
    packed = "position_ids" in inputs
    ids = inputs["input_ids"]
    places = _packed_places(inputs["position_ids"]) if packed else [(row, 0, ids.shape[1]) for row in range(len(ids))]
    trained = targets["labels"] != IGNORED
    padding = torch.zeros_like(trained) if packed else inputs["attention_mask"] == 0
    images = ids == image_token_id
    samples = []
    for sample_id, (row, start, end) in zip(targets["sample_ids"], places, strict=True):
        first = int((~padding[row, start:end]).int().argmax()) + start
        trained[row, first] = False
        runs = tuple(_runs(images[row], trained[row], padding[row], start, end))
        samples.append(SampleTokens(sample_id, row, start, end, runs, _count(runs)))
    counts = {kind: sum(sample.counts[kind] for sample in samples) for kind in KINDS}
    batching: Literal["padded", "packed"] = "packed" if packed else "padded"
    return TokenDistribution(batching, tuple(samples), counts, int((trained & images).sum()))


def run_text(run: TokenRun, input_ids: torch.Tensor, tokenizer: Any) -> str:
    """The text of a run, harmless to a terminal; the same token over and over is written once, `<|image_pad|> x 256`.

    Args:
        run: columns of the row.
        input_ids: `[L]` the row.
        tokenizer: of the model.
    """
    ids = input_ids[run.start : run.end].tolist()
    if len(ids) > 1 and len(set(ids)) == 1:
        return f"{visible(tokenizer.decode(ids[:1]))} x {len(ids)}"
    return visible(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def visible(text: str) -> str:
    """Text in which nothing acts on a terminal: line ends, escapes and signs without a shape are written out."""
    return "".join(_escaped(sign) if unicodedata.category(sign)[0] in "CZ" and sign != " " else sign for sign in text)


def print_tokens(distribution: TokenDistribution, batch: Batch, tokenizer: Any, console: Console) -> None:
    """Each sample, run by run: kind, number of tokens, text. Colours repeat what the words say."""
    for number, sample in enumerate(distribution.samples, start=1):
        where = f"columns {sample.start}–{sample.end - 1} of row {sample.row}"
        heading = f"\nsample {number}, '{visible(sample.sample_id)}': {sample.length} tokens, {where}"
        console.print(Text(heading, style="bold"), soft_wrap=True)
        for run in sample.runs:
            line = Text(f"{run.kind:<8}{len(run):>5}  ")
            text = run_text(run, batch["inputs"]["input_ids"][sample.row], tokenizer)
            console.print(line.append(text, style=_STYLES[run.kind]), soft_wrap=True)
        if distribution.batching == "packed" and number < len(distribution.samples):
            console.print(Text("──────── border: nothing after it sees what stands before"))
    _print_counts(distribution, console)


def _print_counts(distribution: TokenDistribution, console: Console) -> None:
    console.print(Text(f"\nbatch, {distribution.batching}: {distribution.num_tokens} tokens", style="bold"))
    for kind in KINDS:
        count = distribution.counts[kind]
        share = count / max(1, distribution.num_tokens)
        line = Text(f"{kind:<8}", style=_STYLES[kind])
        console.print(line.append(f"{count:>7} {share:>6.1%}  {_MEANINGS[kind]}", style="not dim not bold default"))
    lengths = [sample.length for sample in distribution.samples]
    console.print(
        Text(
            f"Trained: {distribution.share_trained:.1%} of all tokens but padding. "
            f"Lengths: {', '.join(map(str, lengths))}."
        ),
        soft_wrap=True,
    )
    for sample_id in distribution.untrained_samples:
        console.print(Text(f"Nothing is learned from {visible(sample_id)}: none of its tokens is trained."))
    if distribution.num_trained_image_tokens:
        console.print(Text(f"{distribution.num_trained_image_tokens} image tokens are trained: look at the labels."))


def _packed_places(position_ids: torch.Tensor) -> list[tuple[int, int, int]]:
    """Where each sample lies in a packed row: its text positions `position_ids[0]` start anew at 0."""
    starts = (position_ids[0, 0] == 0).nonzero()[:, 0].tolist()
    return [(0, start, end) for start, end in itertools.pairwise([*starts, position_ids.shape[-1]])]


def _runs(
    images: torch.Tensor, trained: torch.Tensor, padding: torch.Tensor, start: int, end: int
) -> Iterator[TokenRun]:
    def kind(column: int) -> Kind:
        if padding[column]:
            return "padding"
        if trained[column]:
            return "trained"
        return "image" if images[column] else "masked"

    for found, columns in itertools.groupby(range(start, end), key=kind):
        inside = list(columns)
        yield TokenRun(found, inside[0], inside[-1] + 1)


def _count(runs: tuple[TokenRun, ...]) -> dict[Kind, int]:
    counts: Counter[Kind] = Counter()
    for run in runs:
        counts[run.kind] += len(run)
    return {kind: counts[kind] for kind in KINDS}


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
