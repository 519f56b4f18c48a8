"""What a client sends: a form with a file, or JSON with the picture in base64."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from boxtune.config.wording import in_words
from boxtune.documents import DocumentError, RefusedError, parse_json
from boxtune.errors import DataError, TooLargeError, nearest
from boxtune.inference.detector import Decoder
from boxtune.inference.uploads import UploadLimits

FORM: Final = "multipart/form-data"
JSON: Final = "application/json"

_MOST_LABELS = 200
_FIELDS_BYTES = 100_000
"""Of everything but the picture."""

_DRAINED = 4
"""Times the limit that is read and thrown away, so that a client hears why it was refused; then it is cut off."""

Label = Annotated[str, Field(min_length=1, max_length=200)]


class Asked(BaseModel):
    """How a picture is to be looked at."""

    model_config = ConfigDict(extra="forbid")

    labels: list[Label] | None = Field(
        None, min_length=1, max_length=_MOST_LABELS, description="Names to look for; by default the model's own."
    )
    decoder: Decoder | None = Field(None, description="Who names the boxes; by default as the service was started.")
    min_score: float = Field(0.0, ge=0, le=1, description="Leave out boxes below.")
    raw: bool = Field(False, description="Answer with the model's text as well.")


class AskedInJson(Asked):
    """The same with the picture."""

    image: str = Field(min_length=1, description="The picture's file in base64; a data URI is taken as well.")


def request_body_schema() -> dict[str, Any]:
    """Both forms of the body, for the OpenAPI page."""
    form = Asked.model_json_schema()
    form["properties"] = {
        "image": {"type": "string", "format": "binary", "description": "The picture's file."},
        **form["properties"],
        "labels": {"type": "string", "description": "Names to look for, with commas; by default the model's own."},
    }
    return {
        "required": True,
        "content": {
            FORM: {"schema": {**form, "required": ["image"]}},
            JSON: {"schema": AskedInJson.model_json_schema()},
        },
    }


async def read_asked(request: Request, limits: UploadLimits) -> tuple[Asked, bytes, str]:
    """What is asked, the picture's bytes, and what to call it.

    Raises:
        HTTPException: 400 for a body that is neither form nor JSON, 415 for another type, 422 for a wrong field.
        TooLargeError: more bytes than are taken; the body has been read and thrown away.
        starlette.requests.ClientDisconnect: the client went away.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (FORM, JSON):
        raise HTTPException(415, f"Send the picture as {FORM} or {JSON}, not as '{kind}'.")
    share = 1 if kind == FORM else 4 / 3  # base64
    limited = Request(request.scope, _limited(request.receive, round(limits.max_bytes * share) + _FIELDS_BYTES, limits))
    return await (_read_form(limited) if kind == FORM else _read_json(limited))


def _limited(receive: Receive, max_bytes: int, limits: UploadLimits) -> Receive:
    """Receive a body of at most so many bytes."""
    num_read = 0

    async def limited() -> Message:
        nonlocal num_read
        message = await receive()
        num_read += len(message.get("body", b""))
        if num_read <= max_bytes:
            return message
        while num_read <= _DRAINED * max_bytes and message.get("more_body", False):
            message = await receive()
            num_read += len(message.get("body", b""))
        raise TooLargeError(f"The request is larger than a picture of {limits.max_bytes:,} bytes: send a smaller one.")

    return limited


async def _read_form(request: Request) -> tuple[Asked, bytes, str]:
    try:
        form = await request.form(max_files=1, max_fields=_MOST_LABELS + 10, max_part_size=_FIELDS_BYTES)
    except (KeyError, UnicodeDecodeError) as error:  # of starlette's parser, on a form without boundary or charset
        raise HTTPException(400, f"The form cannot be read ({error}).") from None
    try:
        picture = form.get("image")
        if not isinstance(picture, UploadFile):
            raise HTTPException(422, "image: send the picture as a file in the field 'image'.")
        fields: dict[str, Any] = {name: value for name, value in form.items() if name != "image"}
        if "labels" in fields:
            texts = [value for value in form.getlist("labels") if isinstance(value, str)]
            fields["labels"] = [label.strip() for text in texts for label in text.split(",") if label.strip()]
        return _checked(Asked, fields), await picture.read(), picture.filename or "image"
    finally:
        await form.close()


async def _read_json(request: Request) -> tuple[Asked, bytes, str]:
    body = await request.body()
    try:
        fields = parse_json(body)
    except RefusedError as error:
        raise HTTPException(400, f"The body has what is not taken here: {error}.") from None
    except DocumentError as error:
        raise HTTPException(400, f"The body is not JSON ({error}).") from None
    if not isinstance(fields, dict):
        raise HTTPException(422, "The body must be a JSON object with the picture in 'image'.")
    asked = _checked(AskedInJson, fields)
    assert isinstance(asked, AskedInJson)
    text = asked.image
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        # many encoders break lines, as mails want them
        return asked, base64.b64decode("".join(text.split()), validate=True), "image"
    except (binascii.Error, ValueError):
        raise HTTPException(422, "image: this is not base64.") from None


def _checked(model: type[Asked], fields: Mapping[str, Any]) -> Asked:
    """The fields, or a sentence on the first that is wrong."""
    if unknown := fields.keys() - model.model_fields.keys():
        name = min(unknown)
        raise HTTPException(422, f"Unknown field '{name[:50]}'. {nearest(name, model.model_fields)}")
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        problems = error.errors()
        name = str(problems[0]["loc"][0])
        of_field = [problem for problem in problems if str(problem["loc"][0]) == name]
        raise HTTPException(422, f"{name}: {in_words(of_field)}.") from None


def chosen_labels(asked: Asked, own: tuple[str, ...]) -> tuple[str, ...]:
    """Names to look for, each once.

    Raises:
        DataError: none are given and the model has none.
    """
    labels = tuple(dict.fromkeys(label.strip() for label in asked.labels or () if label.strip())) or own
    if asked.labels is not None and not any(label.strip() for label in asked.labels):
        raise DataError("labels: these name nothing: write them as a, b.")
    if not labels:
        raise DataError("labels: this model was saved with none, so name what to look for.")
    return labels
