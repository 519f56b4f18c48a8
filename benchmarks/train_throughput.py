"""Tokens a second in training: what each way of boxtune's to be fast brings, beside TRL's SFTTrainer on the same files.

    python benchmarks/train_throughput.py --output-dir runs/throughput               # one GPU; about ten minutes
    python benchmarks/train_throughput.py --rows trl,boxtune --output-dir runs/two   # by name, or all that begin so
    python benchmarks/train_throughput.py --tiny --output-dir runs/try               # half a minute, on a CPU
    python benchmarks/train_throughput.py --model embedded --rows trl-plain,boxtune,cached \
        --images 32 --workers 1 --warmup 1 --steps 4 --repeats 3 --output-dir runs/cpu             # two CPU cores

The model is a Qwen2.5-VL of 7 billion random weights (speed does not depend on them) with LoRA on the language model.
The pictures are JPEG files; both trainers read and prepare them with the same number of workers. Each of boxtune's rows
adds one way to the row above. Useful tokens are those that are no padding. Useful work is 4 operations for each weight
of the language model and token (forwards, and backwards to the activations: LoRA needs no gradient of the weights; 6
with `--train full`) and 2 for each weight of the vision tower and patch, whatever was computed; its share is of the
peak that a large matrix product reaches on this machine, measured first. With `--repeats` the rows take turns, so that
a machine which others use too slows all of them alike; a ratio is of two rows of the same turn. The rows with cached
vision features go through the pictures once to fill an empty cache: `cached` is measured after that, `cached-whole`
is all of three epochs, this first one included.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from throughput_meter import Measured, Meter, matmul_peak
from throughput_setup import add_step_arguments, build, fewest_and_most, named, restore, write_pictures

from boxtune.collators.lengths import token_shares
from boxtune.config.load import load_config
from boxtune.data.dataset import load_dataset
from boxtune.models.attention import choose_attention, use_attention
from boxtune.models.contract import set_pixel_limits
from boxtune.models.devices import pick_device
from boxtune.models.load import LoadedModel
from boxtune.training import run as boxtune_run
from boxtune.training.assembly import assemble
from boxtune.training.auto import fit_speed, use_bf16
from boxtune.training.features import open_features
from boxtune.training.sets import RunData
from boxtune.training.speed import speed_up

LANGUAGE_LINEARS = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
WAYS = (
    "label_logits",
    "adapter_arithmetic",
    "joined_adapters",
    "frozen_vision",
    "padded_vision",
    "patch_product",
    "compiled_blocks",
)

COMPILED = ("compiled-blocks", "small")

Facts = dict[str, Any]
Stretch = Callable[["Setting", int], tuple[int, int]]
"""setting, steps an epoch → steps that are not measured, steps that are."""


@dataclass(frozen=True)
class Setting:
    """What all rows have in common."""

    loaded: LoadedModel
    data: Path
    device: torch.device
    workers: int
    budget: int
    warmup: int
    steps: int
    full: bool
    home: Path


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: to choose it by.
        title: for people.
        measure: setting → what was measured.
        steps: how many are measured, as a share of those asked for.
    """

    name: str
    title: str
    measure: Callable[[Setting], Measured]
    steps: float = 1.0


def with_boxtune(
    setting: Setting, *overrides: str, input_gradients: bool = False, stretch: Stretch | None = None
) -> Measured:
    """boxtune's trainer, put together by the functions that `boxtune train` calls, around a model that is there."""
    area = "full" if setting.full else "lora"
    config = load_config(
        None,
        [
            f"data.path={setting.data}",
            f"output_dir={setting.home / 'boxtune'}",
            f"adapter.language={area}",
            f"adapter.vision={'full' if setting.full else 'frozen'}",
            f"adapter.merger={'full' if setting.full else 'frozen'}",
            "adapter.lora.rank=64",
            "adapter.lora.alpha=128",
            f"model.device={setting.device}",
            f"data.num_workers={setting.workers}",
            "data.augment=none",
            "model.vision_cache=none",
            "evaluation.at_end=false",
            "evaluation.every=none",
            "logging.tensorboard=false",
            f"trainer.max_steps={setting.warmup + setting.steps}",
            "trainer.save_steps=100000",
            *overrides,
        ],
    )
    console, loaded, device = Console(quiet=True), setting.loaded, setting.device
    config = fit_speed(config.changed("model", quantize="none"), device)
    limits = loaded.contract.min_pixels, loaded.contract.max_pixels
    set_pixel_limits(loaded.processor, *limits)
    config = config.changed("model", min_pixels=limits[0], max_pixels=limits[1])
    data = RunData(load_dataset(str(setting.data), "train"))
    config, collator, contract = boxtune_run._fit(config, loaded, data.train, device, None)
    model, _ = boxtune_run._prepare(config, loaded)
    speed = speed_up(model, config, device)
    if input_gradients:  # as trainers do for gradient checkpointing
        model.enable_input_require_grads()
    kept, cache_line = open_features(config, model, loaded.processor, len(data.train), device)
    trainer = assemble(config, model, loaded, data, collator, contract, {}, console, speed, kept).trainer
    trainer.say = lambda line: print(f"  {line}", flush=True)
    warmup, steps = setting.warmup, setting.steps
    if stretch is not None:
        warmup, steps = stretch(setting, len(trainer.get_train_dataloader()))
        trainer.args.max_steps = warmup + steps
        trainer.say(cache_line)
    meter = Meter(trainer, warmup, steps)
    print(f"  {str(speed).replace(chr(10), '; ')}; budget {config.collator.token_budget}, checkpointing "
          f"{config.trainer.gradient_checkpointing}", flush=True)  # fmt: skip
    try:
        trainer.train()
        return replace(meter.result(), with_vision=kept is None)
    finally:
        model.disable_input_require_grads()
        restore(model, loaded)


def with_cache(stretch: Stretch, *overrides: str) -> Callable[[Setting], Measured]:
    """boxtune's trainer with a vision cache that is empty at first."""

    def measure(setting: Setting) -> Measured:
        with tempfile.TemporaryDirectory(dir=setting.home) as cache:
            return with_boxtune(setting, f"model.vision_cache={cache}", *overrides, stretch=stretch)

    return measure


def after_an_epoch(setting: Setting, steps_per_epoch: int) -> tuple[int, int]:
    return steps_per_epoch + setting.warmup, setting.steps


def three_epochs(setting: Setting, steps_per_epoch: int) -> tuple[int, int]:
    return 0, 3 * steps_per_epoch


def with_trl(setting: Setting, batch_size: int, *, checkpointing: bool, kernel: bool) -> Measured:
    """TRL's SFTTrainer as its documentation sets it up for vision-language models: its collator, its loss."""
    import datasets
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    loaded = setting.loaded
    bf16 = setting.device.type == "cuda" or use_bf16(load_config(None, []), setting.device)
    if kernel:
        choice = choose_attention("auto", setting.device, bf16=bf16, packed=True)
        use_attention(loaded.model, choice)
        print(f"  Attention: {choice}", flush=True)
    samples = load_dataset(str(setting.data), "train")
    style = boxtune_run.ConversationStyle(loaded.family.codec, samples.labels)
    question = style.question()[-1]["content"][-1]["text"]
    rows = []
    for index, record in enumerate(samples.records):
        image_hw = samples.image_hw(index)
        answer = style.answer(samples.detections(index), image_hw, image_hw)["content"][0]["text"]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({"images": [str(setting.data / f"{record.id}")], "messages": messages})
    rows = datasets.Dataset.from_list(rows).cast_column("images", datasets.List(datasets.Image()))
    lora = LoraConfig(r=64, lora_alpha=128, target_modules=LANGUAGE_LINEARS, task_type="CAUSAL_LM")
    loaded.model.requires_grad_(True)
    trainer = SFTTrainer(
        model=loaded.model,
        args=SFTConfig(
            output_dir=str(setting.home / "trl"),
            max_steps=setting.warmup + setting.steps,
            per_device_train_batch_size=batch_size,
            gradient_checkpointing=checkpointing,
            max_length=None,
            bf16=bf16,
            use_cpu=setting.device.type == "cpu",
            dataloader_num_workers=setting.workers,
            report_to=[],
            save_strategy="no",
            logging_steps=5,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        processing_class=loaded.processor,
        peft_config=None if setting.full else lora,
    )
    meter = Meter(trainer, setting.warmup, setting.steps)
    try:
        trainer.train()
        return meter.result()
    finally:
        model = trainer.model
        model.gradient_checkpointing_disable()
        if hasattr(model, "disable_input_require_grads"):
            model.disable_input_require_grads()
        restore(model, loaded)


def rows_of(full: bool) -> list[Row]:
    """The table, from what others do to everything at once."""

    def ours(*ways: str, **options: Any) -> Callable[[Setting], Measured]:
        chosen = f"model.speedups=[{','.join(way for way in ways if way in WAYS)}]"
        rest = [way for way in ways if way not in WAYS]
        return lambda s: with_boxtune(s, "collator.batching=packed", f"collator.token_budget={s.budget}", chosen, *rest,
                                      **options)  # fmt: skip

    saving, fast = "trainer.gradient_checkpointing=true", "trainer.gradient_checkpointing=false"
    as_trainers = {"input_gradients": not full}
    return [
        Row("trl-defaults", "TRL's SFTTrainer: padded ×8, sdpa, checkpointing",
            lambda s: with_trl(s, 8, checkpointing=True, kernel=False), 0.4),
        Row("trl-plain", "TRL's SFTTrainer: padded ×8, sdpa, no checkpointing",
            lambda s: with_trl(s, 8, checkpointing=False, kernel=False), 0.6),
        Row("trl-fast", "TRL's SFTTrainer: padded ×4, the attention that ours takes, no checkpointing",
            lambda s: with_trl(s, 4, checkpointing=False, kernel=True), 0.6),
        Row("packed", "packed, attention within each sample, checkpointing", ours(saving, **as_trainers)),
        Row("label-logits", "+ logits at labels only", ours(*WAYS[:1], saving, **as_trainers)),
        Row("no-checkpointing", "+ no checkpointing", ours(*WAYS[:1], fast, **as_trainers)),
        Row("adapter-arithmetic", "+ adapters compute in bf16", ours(*WAYS[:2], fast, **as_trainers)),
        Row("joined-adapters", "+ wide adapters as one product", ours(*WAYS[:3], fast, **as_trainers)),
        Row("frozen-vision", "+ frozen vision tower without gradients", ours(*WAYS[:4], fast)),
        Row("padded-vision", "+ vision MLPs as wide as tensor cores like", ours(*WAYS[:5], fast)),
        Row("patch-product", "+ patches projected by a matrix product", ours(*WAYS[:6], fast)),
        Row("compiled-blocks", "+ blocks compiled", ours(*WAYS, fast)),
        Row("small", "  the same with checkpointing", ours(*WAYS, saving)),
        Row("boxtune", "`boxtune train`, everything on auto but the vision cache", with_boxtune),
        *([] if full else [
            Row("cached", "  with cached vision features, from the second epoch on", with_cache(after_an_epoch)),
            Row("cached-long", "  the same in rows of twice as many tokens",
                lambda s: with_cache(after_an_epoch, f"collator.token_budget={2 * s.budget}")(s)),
            Row("cached-whole", "  with cached vision features, three whole epochs", with_cache(three_epochs)),
        ]),
    ]  # fmt: skip


def useful_work(setting: Setting) -> tuple[float, float]:
    """Operations for a token in the language model, and for a patch in the vision tower."""
    model = setting.loaded.model
    size = lambda module: sum(parameter.numel() for parameter in module.parameters())  # noqa: E731
    language = size(model.model.language_model) - size(model.get_input_embeddings()) + size(model.lm_head)
    per_weight = (6, 6) if setting.full else (4, 2)
    return per_weight[0] * language, per_weight[1] * size(model.model.visual.blocks)


def figures_of(
    row: Row, turns: list[Measured], first: list[Measured], setting: Setting, facts: Facts
) -> dict[str, Any]:
    """Figures of a row, of its median turn."""
    rates = [found.tokens / found.seconds for found in turns]

    def ratios(of: str) -> list[float]:
        speed = [[found.tokens / getattr(found, of) for found in each] for each in (turns, first)]
        return [own / other for own, other in zip(*speed, strict=False)]

    rate = statistics.median(rates)
    found = min(turns, key=lambda turn: abs(turn.tokens / turn.seconds - rate))
    language, vision = useful_work(setting)
    work = rate * (language + (vision * 4 * facts["image_share"] if found.with_vision else 0))
    return {
        "row": row.name, "title": row.title, "tokens_per_second": rate, "rates": rates,
        "ratios": ratios("seconds"), "cpu_ratios": ratios("cpu_seconds"),
        "images_per_second": found.images / found.seconds,
        "peak_gib": found.peak_bytes / 2**30, "useful_tflops": work / 1e12,
        "useful_share": work / 1e12 / facts["matmul_tflops"],
        "waiting_share": found.waited_seconds / found.seconds, **asdict(found),
    }  # fmt: skip


def line(figures: dict[str, Any]) -> str:
    """A row of the table, for people."""

    def ratio(of: str) -> str:
        found = figures[of]
        spread = f" ({min(found):.2f}–{max(found):.2f} in {len(found)} turns)" if len(found) > 1 else ""
        return f"{statistics.median(found):.2f}{spread}"

    by_cpu = f", {ratio('cpu_ratios')} by CPU time" if not figures["peak_gib"] else ""
    return (
        f"{figures['title']:68s} {figures['tokens_per_second']:8.0f} tok/s {figures['images_per_second']:7.2f} img/s "
        f"{figures['peak_gib']:6.1f} GiB {figures['useful_tflops']:7.2f} TFLOP/s {figures['useful_share']:5.0%} of "
        f"matmul, {figures['waiting_share']:4.0%} waiting, {ratio('ratios')} × the first row{by_cpu}"
    )


def measure(row: Row, setting: Setting) -> Measured | None:
    """A row; None, and the reason printed, where it fails."""
    print(f"{row.name}:", flush=True)
    scaled = replace(setting, steps=max(2, round(setting.steps * row.steps)))
    try:
        found = row.measure(scaled)
        rate, waiting = found.tokens / found.seconds, found.waited_seconds / found.seconds
        print(f"  {rate:.0f} tok/s, {found.peak_bytes / 2**30:.1f} GiB, {waiting:.1%} waiting", flush=True)
        return found
    except Exception as error:  # the next row may well work
        traceback.print_exc()
        print(f"{row.title:68s} failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
        return None
    finally:
        torch._dynamo.reset()
        gc.collect()
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()


def image_share(setting: Setting) -> float:
    """Of the tokens of a sample."""
    samples = load_dataset(str(setting.data), "train")
    style = boxtune_run.ConversationStyle(setting.loaded.family.codec, samples.labels)
    encoder = boxtune_run.SampleEncoder(setting.loaded.processor, style)
    return token_shares(encoder, samples, "assistant")["image_share"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--model", default="7b", help="7b, tiny, or anything that boxtune train takes")
    parser.add_argument("--rows", default="", help="names or beginnings of names, with commas; all by default")
    parser.add_argument("--train", choices=("lora", "full"), default="lora")
    add_step_arguments(parser, steps=12)
    parser.add_argument("--repeats", type=int, default=1, help="turns that the rows take")
    parser.add_argument("--image-tokens", type=fewest_and_most, default="256,1280", help="fewest and most a picture")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and small pictures, a few steps")
    return parser.parse_args()


def main() -> None:
    args = parse()
    cells = args.image_tokens
    if args.tiny:
        args.model, args.images, args.budget, args.workers = "tiny", 24, 256, 0
        args.steps, args.warmup, cells = min(args.steps, 3), min(args.warmup, 1), (12, 40)
    device = pick_device(args.device)
    by_name = {row.name: row for row in rows_of(args.train == "full")}
    rows = [by_name[name] for name in named(args.rows, by_name)]
    if device.type == "cpu" and not args.rows:  # to compile for a CPU takes minutes, and auto does not do it there
        rows = [row for row in rows if row.name not in COMPILED]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        data = write_pictures(Path(home) / "pictures", args.images, cells)
        setting = Setting(build(args.model, device), data, device, args.workers, args.budget, args.warmup, args.steps,
                          args.train == "full", Path(home))  # fmt: skip
        name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        facts: Facts = {"device": name, "torch": torch.__version__, "model": args.model, "train": args.train,
                        "matmul_tflops": matmul_peak(device) / 1e12, "image_share": image_share(setting)}  # fmt: skip
        said = "{device}, torch {torch}, matmul {matmul_tflops:.2f} TFLOP/s, {image_share:.0%} image tokens"
        print(said.format(**facts))
        measured: dict[str, list[Measured]] = {}
        for _ in range(args.repeats):
            for row in rows:
                if found := measure(row, setting):
                    measured.setdefault(row.name, []).append(found)
                first = next(iter(measured.values()), [])
                facts["rows"] = [
                    figures_of(row, measured[row.name], first, setting, facts) for row in rows if row.name in measured
                ]
                (args.output_dir / "throughput.json").write_text(json.dumps(facts, indent=2) + "\n")
        print(*map(line, facts["rows"]), sep="\n", flush=True)


if __name__ == "__main__":
    main()
