"""Every setting of a run, with its default, its meaning and its limits. Unknown keys are refused.

`"auto"` stands for a value that is fitted to the model, the data and the machine when the run starts (see
`boxtune.training.auto`); the fitted value is the one that is saved with the run.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
OnDisk = Annotated[
    str, Field(min_length=1), BeforeValidator(lambda value: "none" if value in (False, "off") else value)
]
"""`auto`, `none` (`off`, which YAML reads as false, too), or a folder."""


class Section(BaseModel):
    """A part of the configuration: frozen after it is made, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class ModelConfig(Section):
    """Which model, and how it is loaded."""

    name: str = Field("embedded", description="Folder, hub id, adapter folder, `embedded`, or `tiny:FAMILY`.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of frozen weights and of the arithmetic; trained weights are fp32."
    )
    quantize: Literal["auto", "none", "nf4"] = Field(
        "auto", description="`nf4`: the language model's linears in 4 bits (LoRA only). auto: none, or the recipe's."
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda`, `cuda:1` …")
    attention: Literal[
        "auto", "eager", "sdpa", "varlen", "flash_attention_2", "flash_attention_3", "flash_attention_4"
    ] = Field(
        "auto", description="What attends; auto: the fastest exact kernel that runs here, said when the run starts."
    )
    speedups: (
        tuple[
            Literal[
                "label_logits",
                "patch_product",
                "adapter_arithmetic",
                "joined_adapters",
                "frozen_vision",
                "padded_vision",
                "compiled_blocks",
            ],
            ...,
        ]
        | Auto
    ) = Field("auto", description="Ways to the same numbers in less time; auto: those that pay on this machine.")
    vision_cache: OnDisk = Field(
        "auto",
        description="Folder that keeps the features of a frozen vision tower, which sees no picture twice then; or "
        "`none`; auto: one in the user's folder of caches, where that changes nothing and there are several rounds.",
    )
    vision_cache_gb: Positive | Auto = Field(
        "auto", description="Most that is kept there, in GB; auto: a third of what is free, at most 50."
    )
    memory: Literal["auto", "fast", "small"] = Field(
        "auto", description="Spend memory for speed, or save it; auto: as fast as an estimate says that fits the GPU."
    )
    min_pixels: Count | Auto = Field("auto", description="Smaller images are enlarged to this area (px of the input).")
    max_pixels: Count | Auto = Field("auto", description="Larger images are reduced to this area (px of the input).")
    trust_remote_code: bool = Field(False, description="Run code that a model folder brings. Off unless you say so.")
    detection_head: bool = Field(
        False,
        description="Train a head beside the text that finds all boxes in one pass; its settings: detection_head.",
    )


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), as PEFT implements them."""

    rank: int = Field(16, ge=1, description="Width of the update; more can learn more.")
    alpha: int = Field(32, ge=1, description="Scale of the update: alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of the adapter's inputs left out at random.")
    use_dora: bool = Field(False, description="Also train the length of each output's weights (DoRA); slower.")
    use_rslora: bool = Field(False, description="Scale by alpha / √rank instead (rsLoRA), for high ranks.")


class AdapterConfig(Section):
    """What is trained, area by area."""

    language: Literal["auto", "frozen", "lora", "full"] = Field("auto", description="Language model and its head.")
    vision: Literal["auto", "frozen", "lora", "full"] = Field("auto", description="Blocks of the vision tower.")
    merger: Literal["auto", "frozen", "lora", "full"] = Field(
        "auto", description="From vision tower to language model."
    )
    lora: LoraConfig = LoraConfig()


class DataConfig(Section):
    """Where the samples come from."""

    path: str | None = Field(None, description="Folder or file of any supported format, hub id, or `synthetic:NAME`.")
    format: Literal["auto", "coco", "yolo", "voc", "jsonl", "hub"] = Field("auto", description="Found out by looking.")
    train_split: str = Field("train", description="Split to train on.")
    val_split: str = Field("val", description="Split to evaluate on at the end.")
    val_fraction: float = Field(0.1, ge=0, lt=1, description="Held out of train where the data has no val split.")
    on_error: Literal["refuse", "skip"] = Field("refuse", description="What to do with a bad record.")
    max_train_images: int | None = Field(None, ge=1, description="Train on the first so many images only.")
    augment: Literal["auto", "none", "light", "strong"] = Field(
        "auto", description="Changes of each image, boxes included; auto: light below a thousand images."
    )
    flip: tuple[Literal["horizontal", "vertical"], ...] = Field(
        (), description="Mirror images at random; only where neither text nor sides matter."
    )
    examples: int = Field(
        0, ge=0, description="Other training images that each is shown with first, with their answers; drawn anew."
    )
    num_workers: Annotated[int, Field(ge=0)] | Auto = Field("auto", description="Processes that decode images.")


class GroundingConfig(Section):
    """How the model is asked and in which order it answers."""

    prompt: str | None = Field(None, description="Template with `{labels}`; the family's own prompt where not given.")
    system: str | None = Field(None, description="System message; the chat template's own where not given.")
    box_order: Literal["raster", "size", "as_given"] = Field("raster", description="Order of the boxes in an answer.")


class CollatorConfig(Section):
    """How samples become a batch, and which tokens are trained."""

    batching: Literal["auto", "padded", "packed"] = Field(
        "auto", description="Packed: one row without padding; auto: packed, but padded on a GPU that computes in fp32."
    )
    token_budget: Count | Auto | None = Field(
        "auto",
        description="Packed: longest row in tokens, filled with as many samples as fit, instead of a number of images; "
        "auto: what memory allows on a GPU, none on a CPU.",
    )
    labels: Literal["assistant", "all_text"] = Field("assistant", description="Train the answer, or prompt and answer.")
    max_length: int | None = Field(None, ge=16, description="Longest sample allowed, in tokens; a longer one is named.")


class LossesConfig(Section):
    """Weights of the language loss where there are worked examples (data.examples)."""

    student_weight: Positive = Field(1.0, description="Of the question in hand and its answer, a mean over its tokens.")
    teacher_weight: float = Field(
        1.0, ge=0, description="Of the examples, a mean over their tokens; with 0 nothing is learned without examples."
    )


class MatchingConfig(Section):
    """What a pair of query and true box costs when they are matched."""

    box_l1: float = Field(5.0, ge=0, description="L1 of the four numbers.")
    box_giou: float = Field(2.0, ge=0, description="−GIoU.")
    objectness: float = Field(2.0, ge=0, description="−p(object).")


class HeadLossConfig(Section):
    """Weights of the detection head's losses."""

    weight: Positive = Field(0.2, description="Of all of them, against the language loss, which has 1.")
    box_l1: float = Field(5.0, ge=0, description="L1 of matched boxes, a true box.")
    box_giou: float = Field(2.0, ge=0, description="1 − GIoU of matched boxes, a true box.")
    objectness: float = Field(2.0, ge=0, description="Focal loss of all queries, an image.")
    captions: float = Field(1.0, ge=0, description="Cross-entropy of the labels of matched queries, a token.")
    auxiliary: bool = Field(True, description="Train the decoder's earlier layers too, each by losses of its own.")
    focal_alpha: float = Field(0.25, ge=0, le=1, description="Weight of objects; that of the others is 1 − alpha.")
    focal_gamma: float = Field(2.0, ge=0, description="How little an easy query weighs; 0 is cross-entropy.")
    matching: MatchingConfig = MatchingConfig()


class HeadConfig(Section):
    """The detection head. auto: fitted to the model, or as the head was that is trained further."""

    num_queries: Count | Auto = Field("auto", description="Most objects of an image; auto: 100.")
    queries: Literal["auto", "tokens", "learned"] = Field(
        "auto", description="Start from an image's strongest vision tokens, or from learned places; auto: tokens."
    )
    positions: Literal["auto", "learned", "sine", "none"] = Field(
        "auto", description="How the head is told where an image token lies; auto: learned, beginning as sines."
    )
    decoder_layers: Count | Auto = Field("auto", description="Of the decoder that finds objects; auto: 2.")
    caption_layers: Count | Auto = Field("auto", description="Of the decoder that writes their labels; auto: 4.")
    width: Count | Auto = Field("auto", description="Of its layers; auto: the language model's, up to 512.")
    num_heads: Count | Auto = Field("auto", description="Attention heads a layer; auto: one for each 32 of the width.")
    ffn_width: Count | Auto = Field("auto", description="Inner width of each layer's MLP; auto: four widths.")
    adapter_ratio: Count | Auto = Field(
        "auto", description="Width of the model by inner width of the adapters behind it; auto: 8."
    )
    max_label_tokens: Count | Auto = Field("auto", description="Longest label in tokens, its end included; auto: 32.")
    dropout: Annotated[float, Field(ge=0, lt=1)] | Auto = Field("auto", description="In every layer; auto: 0.")
    language_layers: Annotated[int, Field(ge=0)] | Auto | None = Field(
        "auto",
        description="Layers of the language model that the head reads behind; fewer are faster where the head alone is "
        "asked. 0: none, but the vision tower's tokens; auto: all, null.",
    )
    loss: HeadLossConfig = HeadLossConfig()


class GroupRates(Section):
    """Learning rates of the parameter groups; 0 freezes a group, one that is not given has `trainer.learning_rate`."""

    vision: Rate | None = Field(None, description="Vision tower.")
    merger: Rate | None = Field(None, description="From vision tower to language model.")
    language: Rate | None = Field(None, description="Language model and its head.")
    detection_head: Rate | None = Field(None, description="Detection head.")
    adapter: Rate | None = Field(None, description="LoRA matrices, wherever they sit.")


class GroupFactors(Section):
    """What the learning rates of the parameter groups are multiplied by; 0 freezes a group for the time."""

    vision: Rate = Field(1.0, description="Vision tower.")
    merger: Rate = Field(1.0, description="From vision tower to language model.")
    language: Rate = Field(1.0, description="Language model and its head.")
    detection_head: Rate = Field(1.0, description="Detection head.")
    adapter: Rate = Field(1.0, description="LoRA matrices, wherever they sit.")


class PhaseConfig(Section):
    """A part of the run with learning rates of its own: until a share of the run, or until an epoch is over."""

    until: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="Share of the run at its end.")
    until_epoch: Positive | None = Field(None, description="Epochs at its end, in a run that is counted in epochs.")
    factors: GroupFactors = GroupFactors()


class StabilityConfig(Section):
    """What happens where a loss, a gradient or a weight is not finite: the step is dropped, and the run goes on."""

    snapshot_steps: Count | Auto | None = Field(
        "auto",
        description="Steps between two copies of what is trained, with the optimizer's state, in the machine's memory; "
        "null: none. auto: 50, none where a copy would take a quarter of the memory.",
    )
    rate_factor: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="What a fault multiplies the learning rate of its group by."
    )
    recover_steps: Count | None = Field(
        5, description="Good steps after which one such factor is taken back; null: never."
    )
    stop_after: Count = Field(5, description="Faults in a row after which the run ends, with a checkpoint.")
    anomaly_mode: bool = Field(
        False,
        description="End at the first NaN of a backward pass, and name the operation; a step takes twice as long.",
    )


class TrainerConfig(BaseModel):
    """Settings of the run. Any other name that `transformers.TrainingArguments` knows is passed on to it."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    minutes: float | None = Field(None, gt=0, description="Budget of time that the schedule ends within.")
    num_train_epochs: Positive | Auto = Field("auto", description="Rounds through the images.")
    max_steps: int | None = Field(None, ge=1, description="Number of steps; wins over epochs.")
    per_device_train_batch_size: Count | Auto = Field("auto", description="Images a forward pass and device.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Forward passes a step.")
    learning_rate: Positive | Auto = Field("auto", description="Highest learning rate.")
    rates: GroupRates = GroupRates()
    rate_for_batch: int | None = Field(
        None, ge=1, description="Images a step that the rates are meant for; they are scaled to those that really come."
    )
    rate_scaling: Literal["sqrt", "linear"] = Field(
        "sqrt", description="How the rates grow with the images a step, given rate_for_batch; sqrt suits Adam."
    )
    phases: tuple[PhaseConfig, ...] = Field(
        (),
        description="Parts of the run, in order, each `{until: 0.25, factors: {language: 0}}`: factors of the rates.",
    )
    weight_decay: float = Field(0.01, ge=0, description="Of AdamW.")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Share of the run in which the rate rises.")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="How the rate falls afterwards.")
    max_grad_norm: float = Field(1.0, gt=0, description="Longer gradients are shortened to this.")
    gradient_checkpointing: bool | Auto = Field("auto", description="Less memory, about a third more time.")
    oom: Literal["stop", "retry"] = Field(
        "stop",
        description="Where memory runs out: end with a checkpoint, or halve the batches (of rows, the token budget) "
        "and do the step again; the gradient stays that of the whole batch.",
    )
    save_steps: Count | Auto = Field("auto", description="Steps between checkpoints; auto: ten a run.")
    save_total_limit: int = Field(2, ge=1, description="Checkpoints that stay, the newest; a best one stays too.")
    early_stopping_patience: int | None = Field(
        None, ge=1, description="End after so many evaluations without a gain in AP, counted once AP is above 0."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Of the order of images and of new weights.")
    stability: StabilityConfig = StabilityConfig()

    @property
    def passed_on(self) -> dict[str, Any]:
        """Names that are not ours, for `transformers.TrainingArguments`."""
        return dict(self.model_extra or {})


class EvaluationConfig(Section):
    """The evaluation at the end of a training run, and the short ones on a few watched images in its course."""

    at_end: bool = Field(True, description="Evaluate on the val split when training is over.")
    every: Literal["auto", "none"] | Annotated[int, Field(ge=1, strict=True)] | Share = Field(
        "auto",
        description="Watch: every so many steps, or each such share of the run (0.1). auto: ten a run, within a tenth "
        "of its time.",
    )
    watch_images: int = Field(16, ge=1, description="Images that are watched, always the same ones for a seed.")
    watch_split: Literal["auto", "train", "val"] = Field(
        "auto",
        description="Split of the watched images; those of train are not trained on. auto: val, but train where they "
        "choose a model (keep_best, early stopping).",
    )
    keep_best: bool = Field(False, description="Save the weights with the best AP on the watched images, not the last.")
    batch_size: Count | Auto = Field("auto", description="Images a forward pass.")
    max_new_tokens: Count | Auto = Field("auto", description="Longest answer; fitted to the training set's longest.")
    max_images: int | None = Field(None, ge=1, description="Evaluate on the first so many images only.")
    decoder: Literal["auto", "text", "head", "both"] = Field(
        "auto", description="Who names the boxes; auto: the text, but the detection head where it alone is trained."
    )


class LoggingConfig(Section):
    """Where the curves go."""

    tensorboard: bool = Field(True, description="Curves in the output folder.")
    wandb: bool = Field(False, description="Needs `wandb login` or WANDB_API_KEY; no key is read from our files.")
    steps: Count | Auto = Field("auto", description="Steps between two points of a curve.")
    pictures: int = Field(4, ge=0, description="Watched images that are shown with their boxes beside the curves.")
    first_samples: int = Field(
        0, ge=0, description="Samples that are shown before the first step, token by token, as the model will see them."
    )


class Config(Section):
    """The whole run."""

    output_dir: str = Field("runs/train", description="New or empty folder for the run.")
    recipe: str | None = Field(None, description="What is trained, by name: see `boxtune recipes`.")
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    data: DataConfig = DataConfig()
    grounding: GroundingConfig = GroundingConfig()
    collator: CollatorConfig = CollatorConfig()
    losses: LossesConfig = LossesConfig()
    detection_head: HeadConfig = HeadConfig()
    trainer: TrainerConfig = TrainerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    logging: LoggingConfig = LoggingConfig()

    @property
    def chooses_by_watching(self) -> bool:
        """Whether the evaluations in the course of the run decide which weights are saved, or when it ends."""
        return self.evaluation.keep_best or self.trainer.early_stopping_patience is not None

    @property
    def watch_split(self) -> Literal["train", "val"]:
        """The split that the watched images are taken from, `auto` resolved."""
        if self.evaluation.watch_split == "auto":
            return "train" if self.chooses_by_watching else "val"
        return self.evaluation.watch_split

    @property
    def must_watch(self) -> bool:
        """Whether watching is asked for, so that having nothing to watch is an error."""
        return self.evaluation.every not in ("auto", "none") or self.chooses_by_watching

    @property
    def decoder(self) -> Literal["text", "head", "both"]:
        """Who names the boxes in evaluations, `auto` resolved; the areas are fitted."""
        if self.evaluation.decoder != "auto":
            return self.evaluation.decoder
        return "head" if self.trains_head_alone else "text"

    @property
    def trains_head_alone(self) -> bool:
        """Whether a detection head is trained beside a model that is frozen; the areas are fitted."""
        areas = {self.adapter.language, self.adapter.vision, self.adapter.merger}
        return self.model.detection_head and areas == {"frozen"}

    def changed(self, section: str, **values: Any) -> Config:
        """A copy with other values in one section; they are not validated again."""
        part = getattr(self, section)
        return self.model_copy(update={section: part.model_copy(update=values)})
