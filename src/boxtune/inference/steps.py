"""One token for every slot: the step that is taken hundreds of times an answer, so that nothing in it may wait.

A step of one token is a thousand small kernels, and starting them takes ten times as long as they run (Qwen2.5-VL-7B on
an H200: 36 ms a step, of which memory's speed explains 4). On a GPU a step is therefore recorded once as a CUDA graph,
for each length that is looked back on, and replayed; the next one may be begun before the tokens of one are looked at.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch

from boxtune.collators.encode import EncodedSample
from boxtune.inference.language_pass import Read, read_questions, run_layers, token_masks
from boxtune.inference.slots import SlotMemory
from boxtune.models.bare import bare_model
from boxtune.models.compile import are_compiled, is_compile_error, release_blocks
from boxtune.models.sending import on_its_way, sent

Result = TypeVar("Result")
_QUARTER: Final = 4
"""A quarter of the slots is recorded by itself: a call with few images does not look back on all."""


@dataclass(frozen=True)
class Chosen:
    """A token for each slot, maybe still on its way.

    Attributes:
        copy: `[2, n]`, on the CPU: the tokens, and the natural logarithms of their probabilities.
        is_there: tells when the copy is made; None: it is.
    """

    copy: torch.Tensor
    is_there: torch.cuda.Event | None

    def pairs(self) -> list[tuple[int, float]]:
        """Token and log-probability of each slot, as soon as they are there."""
        if self.is_there is not None:
            self.is_there.synchronize()
        tokens, log_probs = self.copy.tolist()
        return [(int(token), log_prob) for token, log_prob in zip(tokens, log_probs, strict=True)]


class Steps:
    """Slots with answers under way, on the model's device.

    Args:
        model: of transformers, or a PeftModel around it, in evaluation mode.
        num_slots: answers at a time.
        dtype: that the step computes in.
        graphs: record steps as CUDA graphs.
        tap: of what is read of questions; see `read_questions`.

    Attributes:
        log_probs: `[N, V]` of the last choice in every slot.
    """

    def __init__(self, model: Any, num_slots: int, dtype: torch.dtype, *, graphs: bool, tap: int | None = None) -> None:
        self.bare, self.tap = bare_model(model), tap
        self.config, self.dtype, self.graphs = self.bare.config.get_text_config(), dtype, graphs
        self.device: torch.device = self.bare.device
        self.memory = SlotMemory(self.config, num_slots, self.device, dtype)
        counts = torch.zeros(num_slots, device=self.device, dtype=torch.long)
        self.tokens, self.lengths, self.ahead, self.active = (counts.clone() for _ in range(4))
        self.rows = torch.arange(num_slots, device=self.device)
        self.log_probs = torch.empty(0)
        self._lengths = [0] * num_slots  # what the device counts, without asking it
        self._recorded: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]] = {}

    def clear(self) -> None:
        """All slots are free; memory and recorded steps stay."""
        for counts in (self.tokens, self.lengths, self.ahead, self.active):
            counts.zero_()
        self._lengths = [0] * len(self._lengths)

    def forget(self) -> None:
        """Record steps anew: the model's layers have changed."""
        self._recorded.clear()

    def begin(self, samples: Sequence[EncodedSample], slots: Sequence[int], room: int) -> tuple[Chosen, Read]:
        """Read questions into free slots, in one packed row; the device may still be at work when this is over.

        Args:
            samples: questions.
            slots: one for each.
            room: tokens that an answer may have.

        Returns:
            The first token of each answer; and what was read.
        """
        return self._uncompiled_if_need_be(lambda: self._begin(samples, slots, room))

    def _begin(self, samples: Sequence[EncodedSample], slots: Sequence[int], room: int) -> tuple[Chosen, Read]:
        lengths = [len(sample) for sample in samples]
        if self.memory.grow(max(lengths) + room):
            self.forget()
        place = sent(torch.tensor(slots), self.device)
        row = place.repeat_interleave(sent(torch.tensor(lengths), self.device), output_size=sum(lengths))
        read = read_questions(
            self.bare, samples, lambda at: self.memory.views(row, at[0], looks_back=False), tap=self.tap
        )
        assert read.hidden is not None
        chosen, best, log_probs = self._choose(read.hidden[0, read.last])
        end = read.positions[:, read.last]
        self.tokens[place], self.lengths[place] = chosen, end[0] + 1
        self.active.index_fill_(0, place, 1)  # a number put at places by `[…] =` would be waited for
        self.ahead[place] = end[1:].amax(0) - end[0]
        if len(self.log_probs) < self.memory.num_slots:  # after a step of fewer slots, or none
            self.log_probs = log_probs.new_zeros(self.memory.num_slots, log_probs.shape[-1])
        self.log_probs[place] = log_probs
        for slot, length in zip(slots, lengths, strict=True):
            self._lengths[slot] = length
        return Chosen(*on_its_way(torch.stack([chosen.float(), best]))), read

    def end(self, slot: int) -> None:
        """Nothing more is written in this slot, but for its first place, over and over."""
        self.active[slot] = self.lengths[slot] = self._lengths[slot] = 0

    def replace(self, slot: int, token: int) -> None:
        """Go on from another token than the one that was chosen."""
        self.tokens[slot] = token

    def step(self) -> Chosen:
        """The next token of each slot up to the last in use."""
        width = min(self.memory.rounded(max(self._lengths) + 1), self.memory.length)
        used = max((slot + 1 for slot, length in enumerate(self._lengths) if length), default=1)
        quarter = -(-self.memory.num_slots // _QUARTER)
        size = width, quarter if used <= quarter else self.memory.num_slots
        if self.graphs and size not in self._recorded:
            self._uncompiled_if_need_be(lambda: self._try_to_record(*size))
        if size in self._recorded:
            graph, chosen, self.log_probs = self._recorded[size]
            graph.replay()
        else:
            chosen, self.log_probs = self._uncompiled_if_need_be(lambda: self._step(width, used))
        self._lengths = [length + (length > 0) for length in self._lengths]
        return Chosen(*on_its_way(chosen))

    def _step(self, width: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Choice `[2, N]` and log-probabilities `[N, V]` of the first slots; all stays on the device."""
        tokens, lengths = self.tokens[:number], self.lengths[:number]
        embeddings = self.bare.get_input_embeddings()(tokens)[:, None]
        positions = (lengths + self.ahead[:number])[None, :, None].expand(3, -1, -1)
        memory = self.memory.views(self.rows[:number], lengths, looks_back=True, length=width, number=number)
        masks = token_masks(self.config, lengths, width, self.dtype)
        hidden = run_layers(self.bare, embeddings, positions, memory, masks)
        chosen, best, log_probs = self._choose(hidden[:, 0])
        tokens.copy_(chosen)
        lengths.add_(self.active[:number])
        return torch.stack([chosen.float(), best]), log_probs

    def _choose(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        log_probs = self.bare.lm_head(hidden).float().log_softmax(-1)
        best, tokens = log_probs.max(-1)
        return tokens, best, log_probs

    def _try_to_record(self, width: int, number: int) -> None:
        tokens, active = self.tokens.clone(), self.active.clone()
        try:
            self._recorded[width, number] = self._record(width, number)
        except RuntimeError as error:
            if is_compile_error(error):
                raise
            self.graphs = False
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"Steps run one kernel at a time: recording them failed ({reason}).", stacklevel=2)
        finally:
            self.tokens.copy_(tokens)
            self.active.copy_(active)

    def _uncompiled_if_need_be(self, act: Callable[[], Result]) -> Result:
        """Where blocks cannot be compiled, they run as they are."""
        try:
            return act()
        except Exception as error:
            if not are_compiled(self.bare) or not is_compile_error(error):
                raise
            release_blocks(self.bare)
            self.forget()
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"Blocks run uncompiled: compiling them failed ({reason}).", stacklevel=2)
            return act()

    def _record(self, width: int, number: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]:
        """A graph of the step and what it writes; leaves the slots at rest.

        With slots at rest a step writes what it has written before: it may run as often as the recording needs.
        """
        tokens = self.tokens.clone()
        self.active.zero_()
        aside = torch.cuda.Stream(self.device)
        aside.wait_stream(torch.cuda.current_stream(self.device))
        # weights that autocast has cast before would be let go while the graph still reads them
        autocast = torch.autocast("cuda", torch.bfloat16, torch.is_autocast_enabled("cuda"), cache_enabled=False)
        with torch.cuda.device(self.device), autocast:
            with torch.cuda.stream(aside):
                for _ in range(2):
                    self._step(width, number)
                    self.tokens.copy_(tokens)
            torch.cuda.current_stream(self.device).wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # a stream of this device: the one torch takes by itself is of the first GPU that recorded, and there this
            # step would leave no trace; and by thread, since other threads bring the next images to the GPU meanwhile
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                chosen, log_probs = self._step(width, number)
        return graph, chosen, log_probs
