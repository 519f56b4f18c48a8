"""Detectors of each family that have learnt three pictures by heart."""

from __future__ import annotations

import copy
import functools

import pytest
import torch

from boxtune.collators.batch import Collator
from boxtune.inference.detector import Detector
from boxtune.losses import language
from boxtune.models.contract import default_contract
from boxtune.models.load import LoadedModel
from collators.conversations import LABELS, encoder_of


def overfit(model, batch) -> None:
    """Until the answers are known by heart: 30 steps, less than a second."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    model.train()
    for step in range(120):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 10)
        outputs = model(**batch["inputs"], **language.forward_options(batch["targets"]), use_cache=False)
        loss = language.total(outputs.logits, batch["targets"]) / language.count(batch["targets"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if loss.item() < 0.02:
            return
    pytest.fail(f"the tiny model learns nothing: loss {loss.item():.3f}")


@pytest.fixture(scope="session")
def taught(tiny, samples):
    """model type → detector that knows `samples`."""

    @functools.cache
    def teach(model_type: str) -> Detector:
        model, processor = tiny(model_type)
        model = copy.deepcopy(model)
        overfit(model, Collator(encoder_of(model_type, processor))(samples))
        loaded = LoadedModel(model, processor, default_contract(model_type, processor), False, "taught")
        return Detector(loaded, labels=LABELS, max_new_tokens=120)

    return teach
