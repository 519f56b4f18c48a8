"""The rules that concern several keys: what is refused, in which words, and what is not."""

from __future__ import annotations

import pytest

from boxtune.config import checks
from boxtune.config.checks import check_config
from boxtune.config.load import load_config
from boxtune.errors import ConfigError

DATA = "data.path=somewhere"

FROZEN = ("adapter.vision=frozen", "adapter.merger=frozen")
UNWATCHED = ("evaluation.every=none",)
PHASE_OF_VISION = "trainer.phases=[{until: 1, factors: {vision: 0.5}}]"
PHASE_OF_LANGUAGE = "trainer.phases=[{until: 0.5, factors: {language: 0}}, {until: 1}]"

ALL_FROZEN = ["adapter.language=frozen", "adapter.vision=frozen", "adapter.merger=frozen"]
ZERO_2, ZERO_3 = (f"trainer.deepspeed={{zero_optimization: {{stage: {stage}}}}}" for stage in (2, 3))
HEAD = "model.detection_head=true"
REFUSED = [
    ("no data", ["data.path=null"], "No data: say --data"),
    ("two ends", ["trainer.minutes=5", "trainer.max_steps=10"], "trainer.minutes and trainer.max_steps"),
    (
        "nothing trained",
        ["adapter.language=frozen", "adapter.vision=frozen", "adapter.merger=frozen"],
        "nothing would be trained",
    ),
    ("size of no head", ["detection_head.num_queries=9"], "detection_head.num_queries=9 does nothing without a head"),
    (
        "loss of no head",
        ["detection_head.loss.matching.box_l1=1"],
        "detection_head.loss.matching.box_l1=1.0 does nothing",
    ),
    (
        "asking no head",
        ["evaluation.decoder=both"],
        "evaluation.decoder=both asks a detection head, and none is trained",
    ),
    ("head in ZeRO-3", [HEAD, ZERO_3], "model.detection_head cannot be combined with ZeRO-3 (trainer.deepspeed)"),
    ("4 bits in ZeRO-3", ["model.quantize=nf4", ZERO_3], "model.quantize cannot be combined with ZeRO-3"),
    ("phases in ZeRO", [ZERO_2, "trainer.phases=[{until: 1}]"], "trainer.phases cannot be combined with trainer.deeps"),
    (
        "snapshots in ZeRO",
        [ZERO_2, "trainer.stability.snapshot_steps=5"],
        "snapshot_steps cannot be combined with trai",
    ),
    ("no file of ZeRO", ["trainer.deepspeed=z.json"], "settings in z.json cannot be read"),
    ("tower outside of shards", ["trainer.fsdp=true", "model.speedups=[frozen_vision]"], "=frozen_vision cannot be"),
    ("head on frozen 4 bits", [HEAD, "model.quantize=nf4", *ALL_FROZEN], "areas that are all frozen"),
    ("lora and full vision", ["adapter.language=lora", "adapter.vision=full"], "an adapter folder holds no full"),
    ("lora and full merger", ["adapter.language=lora", "adapter.merger=full"], "an adapter folder holds no full"),
    ("lora on vision, full language", ["adapter.vision=lora", "adapter.language=full"], "adapter.language=full: an"),
    ("lora on merger, full vision", ["adapter.merger=lora", "adapter.vision=full"], "adapter.vision=full: an adapter"),
    ("full in 4 bits", ["model.quantize=nf4", "adapter.language=full"], "model.quantize=nf4 cannot be combined with"),
    ("full beside 4 bits", ["model.quantize=nf4", "adapter.vision=full"], "with adapter.vision=full: 4-bit weights"),
    ("unknown recipe", ["recipe=r9"], "Unknown recipe 'r9'. Known: r1-llm-only, r2-vision-only, r3-two-stage"),
    ("recipe and area", ["recipe=r1-llm-only", "adapter.merger=full"], "adapter.merger=full contradicts recipe=r1"),
    ("recipe and precision", ["recipe=r4-joint", "model.quantize=none"], "model.quantize=none contradicts recipe=r4"),
    ("two stages, one area", ["recipe=r3-two-stage", "adapter.vision=full"], "where it is full, then frozen: leave"),
    ("checkpointing twice", ["trainer.activation_checkpointing=true"], "use trainer.gradient_checkpointing"),
    ("pixels swapped", ["model.min_pixels=9000", "model.max_pixels=5000"], "model.min_pixels=9000 is more than"),
    (
        "packed and eager",
        ["collator.batching=packed", "model.attention=eager"],
        "does not go with model.attention=eager",
    ),
    (
        "padded and a budget",
        ["collator.batching=padded", "collator.token_budget=512"],
        "token_budget=512 is what a pac",
    ),
    ("small and fast", ["model.memory=small", "trainer.gradient_checkpointing=false"], "ask for opposite things"),
    ("fast and small", ["model.memory=fast", "trainer.gradient_checkpointing=true"], "ask for opposite things"),
    ("best of nothing", ["evaluation.every=none", "evaluation.keep_best=true"], "evaluation.every=none asks for none"),
    ("patience for nothing", ["evaluation.every=none", "trainer.early_stopping_patience=2"], "patience=2 needs evalua"),
    ("split of nothing", ["evaluation.every=none", "evaluation.watch_split=train"], "set evaluation.every=auto, or"),
    ("watched in shards", ["evaluation.every=5", ZERO_2], "trainer.deepspeed spreads the weights"),
    ("chosen in shards", ["evaluation.keep_best=true", "trainer.fsdp=full_shard"], "trainer.fsdp spreads the weights"),
    (
        "cache of a trained tower",
        ["model.vision_cache=c", "adapter.vision=lora"],
        "vision=lora trains the vision tower",
    ),
    ("cache before a trained merger", ["model.vision_cache=c", "adapter.merger=full"], "or adapter.merger=frozen."),
    ("cache and recipe", ["model.vision_cache=c", "recipe=r4"], "adapter.vision=lora trains the vision tower: set mod"),
    ("cache of changed pictures", ["model.vision_cache=c", "data.augment=light"], "=light changes each picture at ev"),
    ("cache of mirrored pictures", ["model.vision_cache=c", "data.flip=[vertical]"], "flip=[vertical] mirrors pictur"),
    (
        "cache of shards",
        ["model.vision_cache=c", "trainer.fsdp=full_shard"],
        "no process with the whole tower: set mod",
    ),
    ("rate of frozen", ["trainer.rates.vision=1e-5", "adapter.vision=frozen"], "vision=1e-05, but vision is frozen"),
    ("rate under LoRA", ["trainer.rates.vision=1e-5", "adapter.vision=lora"], "the group adapter: use that name"),
    ("rate of no adapter", ["trainer.rates.adapter=1", "adapter.language=full", *FROZEN], "no area is trained by LoRA"),
    ("rate of no head", ["trainer.rates.detection_head=0"], "rates.detection_head=0, but there is no detection head"),
    ("all rates 0", ["trainer.rates.language=0", "adapter.language=full", *FROZEN], "rates are 0 for all that is tra"),
    (
        "factor of frozen",
        ["adapter.vision=frozen", PHASE_OF_VISION],
        "phases[0] has a factor for vision, but vision is",
    ),
    ("factor of rate 0", ["trainer.rates.vision=0", PHASE_OF_VISION], "for vision, but trainer.rates.vision is 0"),
    ("all rest", ["adapter.language=full", *FROZEN, PHASE_OF_LANGUAGE], "phases[0] freezes all that is trained (lang"),
    ("no end", ["trainer.phases=[{}]"], "phases[0] must say where it ends"),
    ("two ends", ["trainer.phases=[{until: 1, until_epoch: 3}]"], "phases[0] must say where it ends"),
    (
        "ends before",
        ["trainer.phases=[{until: 0.5}, {until: 0.2}, {until: 1}]"],
        "phases end at 0.5, 0.2, 1 of the run",
    ),
    ("no last end", ["trainer.phases=[{until: 0.5}]"], "phases end at 0.5 of the run"),
    (
        "epochs of steps",
        ["trainer.phases=[{until_epoch: 2}]", "trainer.max_steps=9"],
        "until_epoch=2 needs a run of so",
    ),
    ("epochs of auto", ["trainer.phases=[{until_epoch: 2}]"], "until_epoch=2 needs a run of so many epochs"),
    ("phases of stages", ["recipe=r3-two-stage", "trainer.phases=[{until: 1}]"], "recipe=r3-two-stage makes several"),
    ("scaled by nothing", ["trainer.rate_scaling=linear"], "rate_scaling=linear does nothing without trainer.rate_fo"),
    ("best by another name", ["trainer.load_best_model_at_end=true"], "use evaluation.keep_best"),
    (
        "misspelt argument",
        ["trainer.adam_bet2=0.9"],
        "Unknown key 'trainer.adam_bet2'. Did you mean 'trainer.adam_beta2'?",
    ),
    ("misspelt key", ["trainer.learning_rat=1"], "Did you mean 'trainer.learning_rate'?"),
    ("short key", ["trainer.epochs=1"], "Unknown key 'trainer.epochs'. Did you mean 'trainer.num_train_epochs'?"),
    ("key of elsewhere", ["trainer.max_pixel=1"], "Unknown key 'trainer.max_pixel'. Did you mean 'model.max_pixels'?"),
    ("unheard-of key", ["trainer.zzz=1"], "Unknown key 'trainer.zzz'. Known: early_stopping_patience, "),
]

ALLOWED = [
    ("defaults", []),
    ("a budget alone", ["trainer.minutes=5"]),
    ("rate of what may be trained", ["trainer.rates.vision=1e-5", "trainer.rates.adapter=1e-4"]),
    ("rate 0 of frozen", ["trainer.rates.vision=0", "adapter.vision=frozen"]),
    ("rates of stages", ["recipe=r3-two-stage", "trainer.rates.vision=1e-5", "trainer.rates.adapter=1e-4"]),
    ("phases", ["adapter.language=full", PHASE_OF_LANGUAGE]),
    ("phases by epochs", ["trainer.phases=[{until_epoch: 2}, {until_epoch: 8}]", "trainer.num_train_epochs=8"]),
    ("scaled", ["trainer.rate_for_batch=32", "trainer.rate_scaling=linear"]),
    ("steps alone", ["trainer.max_steps=10"]),
    ("vision alone", ["adapter.language=frozen", "adapter.vision=full", "adapter.merger=frozen"]),
    ("everything", ["adapter.language=full", "adapter.vision=full", "adapter.merger=full"]),
    ("lora, rest frozen", ["adapter.language=lora", "adapter.vision=frozen", "adapter.merger=frozen"]),
    ("lora, rest auto", ["adapter.language=lora"]),
    ("lora everywhere", ["adapter.language=lora", "adapter.vision=lora", "adapter.merger=lora"]),
    ("lora in 4 bits", ["model.quantize=nf4", "adapter.language=lora", "adapter.vision=lora"]),
    ("4 bits alone", ["model.quantize=nf4"]),
    ("head alone", [HEAD, *ALL_FROZEN, "evaluation.decoder=head"]),
    ("head and its settings", [HEAD, "detection_head.queries=learned", "detection_head.loss.weight=1"]),
    ("recipe", ["recipe=r3-two-stage"]),
    ("recipe and what it says", ["recipe=r2-vision-only", "adapter.vision=full", "model.quantize=none"]),
    ("recipe and a rank", ["recipe=r4-joint", "adapter.lora.rank=3", "adapter.lora.use_dora=true"]),
    ("one pixel limit", ["model.min_pixels=9000"]),
    ("equal pixel limits", ["model.min_pixels=9000", "model.max_pixels=9000"]),
    ("packed", ["collator.batching=packed"]),
    ("watched by steps", ["evaluation.every=50", "evaluation.keep_best=true", "trainer.early_stopping_patience=3"]),
    ("watched by shares", ["evaluation.every=0.05", "evaluation.watch_split=val"]),
    ("never watched", ["evaluation.every=none"]),
    ("sharded, watched by default", ["trainer.fsdp=true"]),
    (
        "sharded, everything that goes with it",
        ["trainer.fsdp=true", HEAD, "trainer.rates.language=1", "trainer.phases=[{until: 1}]"],
    ),
    ("ZeRO-2 with a head and rates", [ZERO_2, HEAD, "trainer.rates.language=1"]),
    ("ZeRO-2 in 4 bits", [ZERO_2, "model.quantize=nf4"]),
    ("padded and eager", ["model.attention=eager"]),
    ("an argument of transformers", ["trainer.adam_beta2=0.98", "trainer.optim=adamw_torch"]),
]


@pytest.mark.parametrize(("overrides", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(overrides: list[str], said: str):
    with pytest.raises(ConfigError) as caught:
        check_config(load_config(None, [DATA, *overrides]))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("overrides", [row[1] for row in ALLOWED], ids=[row[0] for row in ALLOWED])
def test_allowed(overrides: list[str]):
    check_config(load_config(None, [DATA, *overrides]))


@pytest.mark.parametrize("name", sorted(checks._ELSEWHERE))
def test_what_has_its_own_place_is_refused_in_the_other(name: str):
    with pytest.raises(ConfigError, match=rf"trainer\.{name} has its own place here: use "):
        check_config(load_config(None, [DATA, f"trainer.{name}=1"]))


def test_the_places_that_are_named_exist():
    config = load_config()
    for place in checks._ELSEWHERE.values():
        section, dot, key = place.split(" ")[0].split("=")[0].partition(".")
        if dot and hasattr(config, section):
            assert hasattr(getattr(config, section), key), place


@pytest.mark.parametrize("every", ["0", "1.5", "-3", "0.0", "never", "true"])
def test_how_often_is_a_number_of_steps_or_a_share(every: str):
    with pytest.raises(ConfigError, match=r"evaluation\.every = .*'auto' or 'none'"):
        load_config(None, [f"evaluation.every={every}"])


@pytest.mark.parametrize(
    ("overrides", "split"),
    [
        ([], "val"),
        (["evaluation.keep_best=true"], "train"),
        (["trainer.early_stopping_patience=1"], "train"),
        (["evaluation.keep_best=true", "evaluation.watch_split=val"], "val"),
        (["evaluation.watch_split=train"], "train"),
    ],
)
def test_where_watched_images_come_from(overrides: list[str], split: str):
    assert load_config(None, overrides).watch_split == split
