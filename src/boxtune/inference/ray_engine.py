"""A work of many shards on Ray Data: one worker a GPU, on one machine or on all of a Ray cluster.

Ray starts a worker again that has died, and gives its shard to another. The cluster is that of RAY_ADDRESS, or one of
this process alone: Ray listens on all addresses of a machine, so that one takes nobody without its token, made anew
each time. On several machines, model, pictures and output folder must be at the same places on all of them.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from boxtune.data.dataset import OnError
from boxtune.errors import ConfigError, RunError, SaveError
from boxtune.inference.shards import ShardWorker, Work

_OWN: Final = "local"  # Ray's word for a cluster of this process alone
_LONGEST_CALL_S: Final = 10.0
_STORE_BYTES: Final = 200 * 2**20  # nothing but numbers of shards goes through it


def do_on_ray(
    work: Work,
    shards: list[int],
    *,
    device: str = "auto",
    num_workers: int | None = None,
    on_error: OnError = "refuse",
) -> Iterator[int]:
    """Do shards of a work; gives the number of pictures of each as it is done, in no order.

    Args:
        work: that has begun.
        shards: to do.
        device: `auto` takes GPUs where the cluster has any, `cpu` and `cuda` say it; Ray chooses which one.
        num_workers: how many look at the same time; one a GPU by default, or one where there are none.
        on_error: what to do with a picture that cannot be read: end the work, or go on without it.

    Raises:
        ConfigError: another device, no cluster where RAY_ADDRESS says, or more workers than it has room for.
        RunError: a worker failed; the shards that were done are kept.
        SaveError: what a worker has written is not here.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"Device '{device}': Ray chooses the GPU of each worker, say auto, cpu or cuda.")
    with _cluster() as ray:
        on_gpu, num_workers = _share(ray.cluster_resources(), device, num_workers)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        todo = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards)).map_batches(
            _RayWorker,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(num_workers, len(shards))),
            num_cpus=1,
            num_gpus=1 if on_gpu else 0,
            fn_constructor_args=(str(work.folder.absolute()), "cuda" if on_gpu else "cpu", on_error),
        )
        try:
            for row in todo.iter_rows():
                file = work.shard_file(int(row["shard"]))
                if not file.is_file():
                    raise SaveError(
                        f"{file} was written on another machine and is not here: choose an --output-dir that all "
                        "machines of the Ray cluster share."
                    )
                yield int(row["num_pictures"])
        except ray.exceptions.RayError as error:
            raise _failed(error, work) from error


class _RayWorker:
    """A `ShardWorker` as Ray Data calls it: with columns of numbers."""

    def __init__(self, folder: str, device: str, on_error: OnError) -> None:
        self.worker = ShardWorker(folder, device, on_error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"shard": batch["shard"], "num_pictures": np.array([self.worker.do(int(n)) for n in batch["shard"]])}


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected; a cluster that was begun here ends here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of what is done here
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what fails is raised; the rest is about Ray's insides
    address = _address_of_cluster()
    if address is None and "RAY_AUTH_MODE" not in os.environ:  # read when Ray begins, so set before
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray
    import ray.data

    if ray.is_initialized():  # the caller's own
        yield ray
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:  # said, or Ray would join another one that somebody has begun on this machine
        ray.init(_OWN, object_store_memory=_STORE_BYTES, include_dashboard=False, **quiet)
    else:
        try:
            ray.init(address, **quiet)
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise _no_cluster(address, " ".join(str(error).split())) from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is raised, and told in one line
    try:
        yield ray
    finally:
        ray.shutdown()


def _address_of_cluster() -> str | None:
    """What RAY_ADDRESS says; None where Ray is to be begun here.

    Raises:
        ConfigError: nobody answers there; Ray itself would ask for many minutes.
    """
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if address in ("", _OWN):
        return None
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_LONGEST_CALL_S).close()
        except (OSError, OverflowError) as error:
            raise _no_cluster(address, getattr(error, "strerror", None) or str(error)) from None
    return address


def _no_cluster(address: str, reason: str) -> ConfigError:
    return ConfigError(
        f"No Ray cluster at RAY_ADDRESS={address} ({reason.rstrip('.')}): start one there (ray start --head), or unset "
        "RAY_ADDRESS, and one of this machine alone is started."
    )


def _share(resources: dict[str, float], device: str, num_workers: int | None) -> tuple[bool, int]:
    """Whether workers sit on GPUs, and how many there are; Ray would wait for ever for what a cluster has not."""
    num_gpus, num_cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    on_gpu = device == "cuda" or (device == "auto" and num_gpus > 0)
    most, what = (min(num_gpus, num_cpus), "GPUs") if on_gpu else (num_cpus, "CPU cores")
    if most == 0:
        raise ConfigError(f"Device '{device}' asked for, but the Ray cluster has no {what}: use --device cpu.")
    wanted = num_workers or (most if on_gpu else 1)
    if wanted > most:
        raise ConfigError(f"{wanted} workers asked for, but the Ray cluster has {most} {what}: lower --workers.")
    return on_gpu, wanted


def _failed(error: Exception, work: Work) -> RunError:
    """One line of what Ray tells in many: its text holds the worker's traceback, the first error at its end first."""
    ours = re.findall(r"^boxtune\.errors\.\w+: (.+)$", str(error), re.MULTILINE)  # a sentence for users
    first = re.search(r"^(?!ray\b)[A-Za-z_][\w.]*: .+$", str(error), re.MULTILINE)
    said = first[0] if first else str(error).strip().splitlines()[-1]
    done = work.num_shards - len(work.missing)
    return RunError(
        f"{ours[-1] if ours else f'A worker failed ({said}).'} {done} of {work.num_shards} shards are done and kept: "
        "mend it, and give the same command again."
    )
