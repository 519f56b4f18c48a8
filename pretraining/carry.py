"""Move a stopped pretraining between machines: `state.pt` ⇄ safetensors of at most 14 MB, without the optimizer.

python pretraining/carry.py pack runs/pretrain FOLDER        python pretraining/carry.py unpack FOLDER runs/pretrain
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_LIMIT_BYTES = 14_000_000


def pack(run: Path, folder: Path) -> None:
    """Write the training weights in shards, and the step beside them; the average follows the weights again."""
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    heads = {f"heads.{name}": value for name, value in state["heads"].items()}
    own = {name: value for name, value in state["model"].items() if name != "lm_head.weight"}  # tied to the embedding
    write_shards({**own, **heads}, {key: state[key] for key in ("step", "sitting", "decay_from", "num_drawn")}, folder)


def write_shards(weights: Mapping[str, torch.Tensor], rest: Mapping[str, Any], folder: Path) -> None:
    """Weights in files of at most 14 MB, and what else there is as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    shard: dict[str, torch.Tensor] = {}
    size = number = 0
    for name, value in weights.items():
        if size + value.nbytes > _LIMIT_BYTES:
            save_file(shard, folder / f"weights-{number}.safetensors")
            shard, size, number = {}, 0, number + 1
        shard[name] = value.contiguous()
        size += value.nbytes
    save_file(shard, folder / f"weights-{number}.safetensors")
    (folder / "state.json").write_text(json.dumps(rest))


def read_shards(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `write_shards` wrote, in fp32."""
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("weights-*.safetensors")):
        weights |= {name: value.float() for name, value in load_file(path).items()}
    return weights, json.loads((folder / "state.json").read_text())


def unpack(folder: Path, run: Path) -> None:
    """Make a `state.pt` that goes on from the carried weights with a fresh optimizer."""
    weights, rest = read_shards(folder)
    heads = {name.removeprefix("heads."): weights.pop(name) for name in list(weights) if name.startswith("heads.")}
    weights["lm_head.weight"] = weights["model.language_model.embed_tokens.weight"].clone()
    run.mkdir(parents=True, exist_ok=True)
    state = {"model": weights, "average": weights, "heads": heads, **rest}
    torch.save(state, run / "state.pt")


if __name__ == "__main__":
    {"pack": pack, "unpack": unpack}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
