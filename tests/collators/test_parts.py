"""The losses of a batch's halves are those of the batch."""

from __future__ import annotations

import pytest
import torch

from boxtune.collators.batch import Collator
from boxtune.collators.objects import ObjectTargets
from boxtune.collators.parts import halves, num_samples, num_tokens
from boxtune.models.detection_head.attached import attach
from boxtune.models.detection_head.config import DetectionHeadConfig, fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.families import FAMILIES
from boxtune.models.tiny import build_tiny
from boxtune.training.objective import Objective
from collators.conversations import encoder_of


def with_head(model_type: str) -> tuple:
    model, processor = build_tiny(model_type)
    torch.manual_seed(0)
    config: DetectionHeadConfig = fitted_to(
        model.config.get_text_config(), processor.tokenizer.eos_token_id, num_queries=5, width=32
    )
    head = DetectionHead(config).eval()
    attach(model, head)
    return model.eval(), processor, head


@torch.no_grad()
def sums_of(model, objective: Objective, batch) -> dict[str, torch.Tensor]:
    with objective.watching(model) as features:
        logits = model(**batch["inputs"], use_cache=False).logits
    return objective.sums(logits, features, model.get_input_embeddings().weight, batch["targets"])


@pytest.mark.parametrize("batching", ["padded", "packed"])
@pytest.mark.parametrize("model_type", [name for name in FAMILIES if not name.endswith("moe")])
def test_halves_add_up(model_type, batching, samples):
    model, processor, head = with_head(model_type)
    objective = Objective(head)
    collator = Collator(
        encoder_of(model_type, processor), batching=batching, objects=ObjectTargets(processor, head.config)
    )
    batch = collator(samples)
    parts = [quarter for half in halves(batch) for quarter in (halves(half) if num_samples(half) > 1 else (half,))]
    assert [sample_id for part in parts for sample_id in part["targets"]["sample_ids"]] == [s.id for s in samples]
    if batching == "packed":
        assert sum(num_tokens(part) for part in parts) == num_tokens(batch)
    whole, found = sums_of(model, objective, batch), [sums_of(model, objective, part) for part in parts]
    for name, expected in whole.items():
        assert float(sum(part[name] for part in found)) == pytest.approx(float(expected), rel=2e-4, abs=1e-4), name
    counts = [objective.counts(part["targets"]) for part in parts]
    for name, expected in objective.counts(batch["targets"]).items():
        assert sum(int(count[name]) for count in counts) == int(expected), name


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_a_half_is_what_the_collator_makes_of_its_samples(batching, samples):
    processor = build_tiny("qwen2_vl")[1]
    collator = Collator(encoder_of("qwen2_vl", processor), batching=batching)
    first, second = halves(collator(samples))
    middle = num_samples(first)
    for half, own in ((first, samples[:middle]), (second, samples[middle:])):
        made = collator(own)
        assert half["inputs"].keys() == made["inputs"].keys()
        for name, expected in made["inputs"].items():
            found = half["inputs"][name]
            if batching == "padded" and getattr(expected, "ndim", 0) == 2 and name != "pixel_values":
                found = found[:, : expected.shape[1]]  # rows stay as long as they were
            assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected)), name


def test_a_packed_row_is_cut_near_its_middle(samples):
    processor = build_tiny("qwen2_vl")[1]
    collator = Collator(encoder_of("qwen2_vl", processor), batching="packed")
    first, second = halves(collator([samples[3], *samples[:3]]))
    borders = collator([samples[3], *samples[:3]])["inputs"]["cu_seq_lens_q"].tolist()
    cut = num_tokens(first)
    assert cut in borders
    assert all(abs(2 * cut - borders[-1]) <= abs(2 * other - borders[-1]) for other in borders[1:-1])
    assert num_tokens(second) == borders[-1] - cut
