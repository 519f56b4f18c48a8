"""Move a stopped pretraining between machines: `state.pt` ⇄ safetensors of at most 14 MB, without the optimizer.

python pretraining/carry.py pack runs/pretrain FOLDER        python pretraining/carry.py unpack FOLDER runs/pretrain
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_LIMIT_BYTES = 14_000_000


def pack(run: Path, folder: Path) -> None:
    """Write the training weights in shards, and the step beside them; the average follows the weights again."""
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    folder.mkdir(parents=True, exist_ok=True)
    shard: dict[str, torch.Tensor] = {}
    size = number = 0
    heads = {f"heads.{name}": value for name, value in state["heads"].items()}
    for name, value in {**state["model"], **heads}.items():
        if name == "lm_head.weight":  # tied to the embedding
            continue
        if size + value.nbytes > _LIMIT_BYTES:
            save_file(shard, folder / f"weights-{number}.safetensors")
            shard, size, number = {}, 0, number + 1
        shard[name] = value.contiguous()
        size += value.nbytes
    save_file(shard, folder / f"weights-{number}.safetensors")
    rest = {key: state[key] for key in ("step", "sitting", "decay_from", "num_drawn")}
    (folder / "state.json").write_text(json.dumps(rest))


def unpack(folder: Path, run: Path) -> None:
    """Make a `state.pt` that goes on from the carried weights with a fresh optimizer."""
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("weights-*.safetensors")):
        weights |= {name: value.float() for name, value in load_file(path).items()}
    heads = {name.removeprefix("heads."): weights.pop(name) for name in list(weights) if name.startswith("heads.")}
    weights["lm_head.weight"] = weights["model.language_model.embed_tokens.weight"].clone()
    run.mkdir(parents=True, exist_ok=True)
    state = {"model": weights, "average": weights, "heads": heads, **json.loads((folder / "state.json").read_text())}
    torch.save(state, run / "state.pt")


if __name__ == "__main__":
    {"pack": pack, "unpack": unpack}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
