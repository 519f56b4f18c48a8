"""Sizes and choices of a detection head; saved beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from boxtune.errors import ConfigError, nearest

Queries = Literal["learned", "tokens"]
Positions = Literal["learned", "sine", "none"]

_WIDEST = 512  # a decoder layer has 16 × width² weights: at a 7B model's 3584, six layers would be 1.2 billion
_HEAD_WIDTH = 32  # as in DETR: 256 in 8 heads


@dataclass(frozen=True)
class DetectionHeadConfig:
    """What a head is built from.

    Attributes:
        hidden_size: width of the language model, and of the vision embeddings it is given.
        vocab_size: rows of its token embedding.
        end_token_id: token that ends a label.
        width: of the head's own layers; a multiple of 4 and of `num_heads`.
        num_heads: attention heads of each layer.
        ffn_width: inner width of each layer's MLP.
        num_queries: most objects that can be found in an image.
        decoder_layers: of the decoder that turns queries into objects.
        caption_layers: of the decoder that writes labels.
        adapter_ratio: `hidden_size` divided by the inner width of the adapters.
        queries: `tokens`, from the strongest vision tokens of each image; or `learned`, the same for every image, as
            in DETR, which take many times the training to come as far.
        positions: where an image token lies, added to the memory: `learned`, `sine` or `none`.
        max_label_tokens: longest label in tokens, with the one that ends it.
        dropout: in every layer.
        language_layers: of the language model that the head reads the states of; those behind are not run where only
            the head is asked. 0: what goes into the first one; None: all of them, after the last norm.

    Raises:
        ConfigError: sizes that do not fit together, or an unknown choice.
    """

    hidden_size: int
    vocab_size: int
    end_token_id: int
    width: int
    num_heads: int
    ffn_width: int
    num_queries: int = 100
    decoder_layers: int = 2
    caption_layers: int = 4
    adapter_ratio: int = 8
    queries: Queries = "tokens"
    positions: Positions = "learned"
    max_label_tokens: int = 32
    dropout: float = 0.0
    language_layers: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            lowest = 0 if name in ("end_token_id", "dropout", "language_layers") else 1
            if value is not None and not isinstance(value, str) and value < lowest:
                raise ConfigError(f"Detection head: {name} is {value}, at least {lowest} is needed.")
        if self.width % self.num_heads or self.width % 4:
            raise ConfigError(
                f"Detection head: width {self.width} must be a multiple of 4 and of num_heads ({self.num_heads})."
            )
        if self.end_token_id >= self.vocab_size:
            raise ConfigError(
                f"Detection head: end_token_id {self.end_token_id} is outside the vocabulary of {self.vocab_size}."
            )
        if self.dropout >= 1:
            raise ConfigError(f"Detection head: dropout is {self.dropout}, it must be below 1.")
        for name, value, known in (
            ("queries", self.queries, get_args(Queries)),
            ("positions", self.positions, get_args(Positions)),
        ):
            if value not in known:
                raise ConfigError(f"Detection head: unknown {name} '{value}'. {nearest(str(value), known)}")


def fitted_to(text_config: Any, end_token_id: int, **choices: Any) -> DetectionHeadConfig:
    """A head for a language model: as wide as it, up to 512, in attention heads of 32, MLPs four times as wide.

    Args:
        text_config: of a model of transformers (`hidden_size`, `vocab_size`, `num_hidden_layers`).
        end_token_id: token that ends a label; the tokenizer's stop token.
        choices: other fields of the config; those that are None are fitted too.

    Raises:
        ConfigError: see the config; more layers than the language model has.
    """
    chosen = {name: value for name, value in choices.items() if value is not None}
    width = chosen.setdefault("width", min(text_config.hidden_size, _WIDEST))
    chosen.setdefault("num_heads", max(1, width // _HEAD_WIDTH))
    chosen.setdefault("ffn_width", 4 * width)
    config = DetectionHeadConfig(
        hidden_size=text_config.hidden_size, vocab_size=text_config.vocab_size, end_token_id=end_token_id, **chosen
    )
    if not reads_within(config, text_config):
        raise ConfigError(
            f"detection_head.language_layers is {config.language_layers}, the language model has "
            f"{text_config.num_hidden_layers} layers: give fewer, or auto, which reads behind the last one."
        )
    return config


def reads_within(config: DetectionHeadConfig, text_config: Any) -> bool:
    """Whether the language model has the layer that the head reads in front of."""
    return config.language_layers is None or config.language_layers < text_config.num_hidden_layers
