"""Keys and values of answers under way: a slot each, filled from its start, and free again when its answer is done.

Answers of one batch end at different times. With a slot each the next question takes the place of one that is done,
where a cache that grows by whole rows would have to wait for the longest (as vLLM's continuous batching does, Kwon et
al. 2023, arXiv 2309.06180; contiguous memory here, since answers are short beside their images).
"""

from __future__ import annotations

from typing import Any, Final

import torch

from boxtune.models.devices import free_bytes

_ROUND_GPU, _ROUND_CPU = 256, 64
"""Lengths are rounded up to these: on a GPU each length that is met is a graph of its own."""
_AT_A_TIME: Final = 4
"""Slots for each question that is read in one pass, at most."""
_SHARE: Final = 0.25
"""Of a GPU's free memory, that more slots than questions may take."""


class LayerSlots:
    """One layer's share, where the attention of transformers expects its cache: `update` is all that it calls.

    Args:
        keys, values: `[N, W, G, D]`, slots as wide as is looked at.
        slots, places: `[T]` where the tokens of this pass are written, in the order of `[B, L]`.
        looks_back: whether tokens attend to their slots (one new token each, row n is slot n) or only to each other.
    """

    def __init__(
        self, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor, places: torch.Tensor, looks_back: bool
    ) -> None:
        self.keys, self.values = keys, values
        self.slots, self.places = slots, places
        self.looks_back = looks_back

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, _layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write `[B, G, L, D]`; returns what is attended to, `[B, G, L, D]` or `[N, G, W, D]`."""
        for memory, new in ((self.keys, key_states), (self.values, value_states)):
            memory[self.slots, self.places] = new.transpose(1, 2).flatten(0, 1).to(memory.dtype)
        if not self.looks_back:
            return key_states, value_states
        return self.keys.transpose(1, 2), self.values.transpose(1, 2)


def num_slots_for(bare: Any, length: int, dtype: torch.dtype, batch_size: int) -> int:
    """Slots on a GPU: a step reads all weights, for one answer as for a hundred (Qwen2.5-VL-7B: 5.3 ms for one, 5.7 for
    32), so the more the better, as long as they leave room for the questions' pass.

    Args:
        bare: model of transformers.
        length: of the longest question with its answer.
        dtype: of keys and values.
        batch_size: questions a pass; as many slots there are in any case.
    """
    each = SlotMemory(bare.config.get_text_config(), 1, bare.device, dtype).bytes_of_slot(length)
    fit = int(_SHARE * free_bytes(bare.device) / each)
    return max(batch_size, min(fit, _AT_A_TIME * batch_size))


class SlotMemory:
    """Keys and values of all layers.

    Args:
        config: of the language model.
        num_slots: answers at a time.
        device, dtype: of keys and values.
    """

    def __init__(self, config: Any, num_slots: int, device: torch.device, dtype: torch.dtype) -> None:
        self.num_slots, self.device, self.dtype = num_slots, device, dtype
        self.num_layers, self.num_groups = config.num_hidden_layers, config.num_key_value_heads
        self.width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.length = 0
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def bytes_of_slot(self, length: int) -> int:
        """That a slot of this length takes."""
        numbers = 2 * self.num_layers * self.rounded(length) * self.num_groups * self.width
        return numbers * torch.empty((), dtype=self.dtype).element_size()

    def rounded(self, length: int) -> int:
        """The next length that memory comes in."""
        step = _ROUND_GPU if self.device.type == "cuda" else _ROUND_CPU
        return -(-length // step) * step

    def grow(self, length: int) -> bool:
        """Room for so many tokens a slot; whether the memory lies elsewhere now."""
        if length <= self.length:
            return False
        rounded, layers = self.rounded(length), []
        shape = (self.num_slots, rounded, self.num_groups, self.width)
        for layer in range(self.num_layers):
            # zeros, since what is masked away is still multiplied, and rubbish may be NaN
            fresh = tuple(torch.zeros(shape, device=self.device, dtype=self.dtype) for _ in range(2))
            for new, tensor in zip(fresh, self.layers[layer] if self.layers else (), strict=False):
                new[:, : tensor.shape[1]] = tensor
            layers.append((fresh[0], fresh[1]))
        self.layers, self.length = layers, rounded  # both at the end: where memory ran out, all is as it was
        return True

    def wipe(self, slot: int | None = None) -> None:
        """Zeros in a slot whose answer came to nothing, or in all: what is masked away is still multiplied, and NaN
        stays NaN.
        """
        for layer in self.layers:
            for tensor in layer:
                (tensor if slot is None else tensor[slot]).zero_()

    def views(
        self,
        slots: torch.Tensor,
        places: torch.Tensor,
        *,
        looks_back: bool,
        length: int | None = None,
        number: int | None = None,
    ) -> list[LayerSlots]:
        """For each layer, to write at slots and places `[T]`, and to look back on the first `length` tokens of the
        first `number` slots; all by default.
        """
        return [
            LayerSlots(keys[:number, :length], values[:number, :length], slots, places, looks_back)
            for keys, values in self.layers
        ]
