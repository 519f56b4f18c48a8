"""A small detector that has learnt pictures by heart, and a service of it."""

from __future__ import annotations

import copy

import pytest

from boxtune.collators.batch import Collator
from boxtune.models.contract import default_contract
from boxtune.models.load import LoadedModel
from collators.conversations import LABELS, encoder_of
from inference.conftest import overfit
from serve.running import Client, HeldDetector, running


@pytest.fixture(scope="session")
def taught(tiny, samples) -> LoadedModel:
    model, processor = tiny("qwen2_vl")
    model = copy.deepcopy(model)
    overfit(model, Collator(encoder_of("qwen2_vl", processor))(samples))
    return LoadedModel(model.eval(), processor, default_contract("qwen2_vl", processor), False, "taught")


@pytest.fixture
def held(taught) -> HeldDetector:
    return HeldDetector(taught, labels=LABELS, max_new_tokens=40, batch_size=4)


@pytest.fixture(scope="module")
def client(taught) -> Client:
    detector = HeldDetector(taught, labels=LABELS, max_new_tokens=120, batch_size=16)
    detector.gate.set()
    with running(detector) as client:
        yield client
