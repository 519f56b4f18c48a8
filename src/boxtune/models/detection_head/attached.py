"""A head as part of the model that it is trained with, and not of what that model saves.

Attached to the outermost module it is found by whatever goes through a model's parameters: optimizer, norms, processes
that add their gradients up. The model's own forward does not know it. A folder of weights holds it in files of its own
(see `saving`), so transformers and PEFT open the folder as any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from boxtune.models.detection_head.head import DetectionHead

NAME: Final = "detection_head"
"""Of the attribute, and so what its parameters' names begin with: an area of the families table."""


def attach(model: Any, head: DetectionHead) -> None:
    """Make a head a part of a model, where the model is.

    Args:
        model: of transformers, or the PeftModel around one: the outermost module.
        head: moved to the model's device.
    """
    assert not any(name.split(".")[-1] == NAME for name, _ in model.named_modules()), "a model has one head"
    setattr(model, NAME, head.to(model.device))


def attached_head(model: Any) -> DetectionHead | None:
    """The head of a model, None where it has none."""
    return dict(model.named_children()).get(NAME)


def split_state(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state of a model that a head is attached to: what is the model's own, and what is the head's."""
    prefix = f"{NAME}."
    own = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    return own, {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}


@contextmanager
def detached(model: Any) -> Iterator[DetectionHead | None]:
    """The model without its head inside the `with`, as others know it; gives the head."""
    head = attached_head(model)
    if head is None:
        yield None
        return
    delattr(model, NAME)
    try:
        yield head
    finally:
        setattr(model, NAME, head)
