"""The loss of a step with a detection head: the same whatever the batches are, and a gradient for every parameter."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from boxtune.collators.batch import Collator
from boxtune.collators.objects import ObjectTargets
from boxtune.data.sample import Sample
from boxtune.detections import Detections
from boxtune.losses import detection, language
from boxtune.losses.detection import DetectionLossConfig
from boxtune.losses.language import LANGUAGE
from boxtune.models.areas import recompute_activations
from boxtune.models.compile import compile_blocks
from boxtune.models.detection_head.attached import attach
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.memory import gather_memory
from boxtune.models.families import FAMILIES
from boxtune.training.objective import Objective, TermMeans
from collators.conversations import encoder_of

each_family = pytest.mark.parametrize("model_type", FAMILIES)


def with_head(tiny, model_type: str, **choices: Any) -> tuple[Any, Objective, ObjectTargets]:
    """A tiny model with a head that is a little further than new, so that nothing is zero by chance."""
    model, processor = tiny(model_type)
    model = copy.deepcopy(model)
    torch.manual_seed(0)
    choices = {"num_queries": 6, "caption_layers": 1, "width": 32, **choices}
    head = DetectionHead(fitted_to(model.config.get_text_config(), processor.tokenizer.eos_token_id, **choices))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    attach(model, head)
    return model, Objective(head), ObjectTargets(processor, head.config)


def collator(model_type: str, objects: ObjectTargets, batching: Any = "padded") -> Collator:
    return Collator(encoder_of(model_type, objects.processor), batching=batching, objects=objects)


def sums_of(model: Any, objective: Objective, batch: Any) -> dict[str, torch.Tensor]:
    with objective.watching(model) as features:
        outputs = model(**batch["inputs"], **language.forward_options(batch["targets"]), use_cache=False)
    embedding = model.get_input_embeddings().weight
    return objective.sums(outputs.logits, features, embedding, batch["targets"])


def step(model: Any, objective: Objective, batches: Sequence[Any]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one step of several batches, as the trainer adds them up."""
    model.zero_grad()
    each = [objective.counts(batch["targets"]) for batch in batches]
    counts = {name: torch.tensor(sum(int(one[name]) for one in each)) for name in each[0]}
    loss = torch.stack([objective.share(sums_of(model, objective, batch), counts) for batch in batches]).sum()
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@each_family
def test_batching_changes_neither_loss_nor_gradients(tiny, samples, model_type):
    """Eight times one is once eight, padded and packed; fp32 sums in another order: 1e-5 of each gradient's largest."""
    model, objective, objects = with_head(tiny, model_type)
    alone = [collator(model_type, objects)([sample]) for sample in samples]
    expected_loss, expected = step(model, objective, alone)
    assert {name for name, _ in model.named_parameters()} == expected.keys()
    for batching in ("padded", "packed"):
        loss, gradients = step(model, objective, [collator(model_type, objects, batching)(samples)])
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            largest = max(float(expected[name].abs().max()), 1e-3)
            assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-5 * largest), (batching, name)


@pytest.mark.parametrize("way", ["checkpointing", "compiled"])
def test_what_makes_a_step_smaller_or_faster_changes_nothing(tiny, samples, way):
    model, objective, objects = with_head(tiny, "qwen3_vl")
    batch = collator("qwen3_vl", objects, "packed")(samples)
    expected_loss, expected = step(model.train(), objective, [batch])
    if way == "checkpointing":
        recompute_activations(model)
    else:
        compile_blocks(model, backend="eager")
    loss, gradients = step(model, objective, [batch])
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_language_loss_and_the_weighted_terms_of_the_head(tiny, samples):
    model, objective, objects = with_head(tiny, "qwen2_vl")
    batch = collator("qwen2_vl", objects)(samples)
    counts = {name: torch.tensor(int(count)) for name, count in objective.counts(batch["targets"]).items()}
    assert (counts["box_l1"], counts["objectness"]) == (4, 4)  # boxes, images
    sums = sums_of(model, objective, batch)
    losses = DetectionLossConfig()
    weights = detection.weights(losses)
    expected = float(sums[LANGUAGE] / counts[LANGUAGE])
    expected += sum(weights[name] * float(sums[name] / counts[name]) for name in weights)
    assert float(objective.share(sums, counts)) == pytest.approx(expected, rel=1e-6)
    heavier = Objective(objective.head, DetectionLossConfig(weight=2 * losses.weight))
    text = float(sums[LANGUAGE] / counts[LANGUAGE])
    assert float(heavier.share(sums, counts)) - text == pytest.approx(2 * (expected - text), rel=1e-5)


@pytest.mark.parametrize("queries", ["tokens", "learned"])
def test_without_objects_every_parameter_of_the_head_still_has_a_gradient(tiny, samples, queries):
    """Processes that add gradients up wait for each of them."""
    model, objective, objects = with_head(tiny, "qwen2_vl", queries=queries)
    empty = [Sample(sample.id, sample.image, Detections.empty(), sample.source) for sample in samples[:2]]
    for batching in ("padded", "packed"):
        loss, gradients = step(model, objective, [collator("qwen2_vl", objects, batching)(empty)])
        assert torch.isfinite(torch.tensor(loss))
        assert {name for name, _ in model.named_parameters()} == gradients.keys()
        assert gradients["detection_head.heads.objectness.bias"].abs().sum() > 0


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_another_answer_changes_the_text_and_not_the_head(tiny, samples, batching):
    model, objective, objects = with_head(tiny, "qwen2_5_vl")
    others = [
        Sample(one.id, one.image, Detections([[1, 2, 30, 40], [5, 5, 9, 50]], ["red cell", "table"]), one.source)
        for one in samples
    ]
    found, logits = [], []
    for shown in (samples, others):
        batch = collator("qwen2_5_vl", objects, batching)(shown)
        with torch.no_grad(), objective.watching(model) as features:
            logits.append(model(**batch["inputs"], use_cache=False).logits)
        with torch.no_grad():
            found.append(objective.head(gather_memory(*features.both, batch["targets"]["detection"]["memory"])))
    assert logits[0].shape != logits[1].shape
    torch.testing.assert_close(found[0].states, found[1].states, rtol=0, atol=2e-5)
    torch.testing.assert_close(found[0].found.boxes, found[1].found.boxes, rtol=0, atol=2e-5)


def test_without_a_head_there_is_the_language_loss_alone(tiny, samples):
    model, processor = tiny("qwen2_vl")
    batch = Collator(encoder_of("qwen2_vl", processor))(samples)
    assert "detection" not in batch["targets"]
    objective = Objective()
    sums = sums_of(model, objective, batch)
    counts = {name: torch.tensor(int(count)) for name, count in objective.counts(batch["targets"]).items()}
    assert sums.keys() == counts.keys() == {LANGUAGE}
    assert float(objective.share(sums, counts)) == pytest.approx(float(sums[LANGUAGE]) / int(counts[LANGUAGE]))


def test_means_of_terms_are_over_steps_and_not_over_batches():
    means = TermMeans()
    for first, second in ((1.0, 3.0), (6.0, 2.0)):  # two steps of two batches, each step with two of everything
        means.num_steps += 1
        for total in (first, second):
            means.add({"box_l1": torch.tensor(total, requires_grad=True)}, {"box_l1": torch.tensor(2)})
    names, values = means.take()
    assert (names, values.tolist(), values.requires_grad) == (["box_l1"], [3.0], False)
    assert means.take()[0] == []
    means.add({"box_l1": torch.tensor(5.0)}, {"box_l1": torch.tensor(0)})  # nothing to divide by
    means.forget_step()
    means.add({"box_l1": torch.tensor(7.0)}, {"box_l1": torch.tensor(0)})
    assert means.take()[1].tolist() == [7.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_term_that_is_not_finite_counts_as_the_last_that_was(bad):
    means = TermMeans()
    for total in (bad, 4.0, bad, 1.0):
        means.num_steps += 1
        means.add({"box_l1": torch.tensor(total)}, {"box_l1": torch.tensor(1)})
    assert means.take()[1].tolist() == [(0 + 4 + 4 + 1) / 4]
