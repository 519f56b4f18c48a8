"""The service: POST /detect, GET /health, GET /metrics, and a page at /docs that needs no network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import boxtune
from boxtune.errors import BoxtuneError, TooLargeError
from boxtune.inference.decoders import detector_by_decoder
from boxtune.inference.detector import Decoder, Detector, Prediction
from boxtune.inference.uploads import UploadLimits, open_upload
from boxtune.serve.asked import Asked, chosen_labels, read_asked, request_body_schema
from boxtune.serve.batching import Answered, Batcher, FullError, Question, StoppedError
from boxtune.serve.metrics import Metrics

_CLIENT_GONE: Final = 499  # nginx's number, in the metrics alone: nobody is there to read it
_DECODED_AT_ONCE: Final = 4  # pictures, each of up to `max_pixels`


@dataclass(frozen=True)
class ServeOptions:
    """How much is taken in, and how long it may take.

    Attributes:
        max_wait_s: how long a picture waits for others to go with it.
        max_requests: taken in at once, waiting or at work; the next is told to come again (429).
        timeout_s: from the first byte of a request to its answer; then 504.
        limits: of a picture.
    """

    max_wait_s: float = 0.02
    max_requests: int = 128
    timeout_s: float = 120.0
    limits: UploadLimits = field(default_factory=UploadLimits)


class Box(BaseModel):
    """One object."""

    label: str
    score: float = Field(description="0 to 1.")
    xyxy: tuple[float, float, float, float] = Field(
        description="x_min, y_min, x_max, y_max in pixels of the upright picture."
    )


class Found(BaseModel):
    """What was found in one picture."""

    width: int = Field(description="Of the upright picture, in pixels.")
    height: int
    labels: list[str] = Field(description="Names that were looked for.")
    decoder: Decoder
    status: str = Field(description="ok, repaired or malformed: how well the model's text could be read.")
    reason: str = Field(description="What was mended or is wrong; empty when ok.")
    truncated: bool = Field(description="Whether the token limit ended the text.")
    boxes: list[Box]
    text: str | None = Field(None, description="The model's raw answer, where it was asked for.")
    num_together: int = Field(description="Pictures in the same forward pass.")
    seconds_waited: float = Field(description="In the queue.")


class Health(BaseModel):
    """Whether the service takes requests, and for what."""

    status: str = Field(description="ok, stopping, or failed.")
    model: str
    labels: list[str]
    decoders: list[str]
    device: str
    queue_length: int
    version: str


class Refusal(BaseModel):
    """Why a request was refused."""

    detail: str


def build_service(detector: Detector, name: str, options: ServeOptions) -> FastAPI:
    """The application; its `state.batcher` lets nobody in once it is closed.

    Args:
        detector: asked from one thread alone, in batches of at most its `batch_size`.
        name: of the model, for /health.
        options: see there.
    """
    detectors = detector_by_decoder(detector)

    def ask(questions: Sequence[Question]) -> list[Prediction]:
        first, images = questions[0], [question.image for question in questions]
        return list(detectors[first.decoder].predict(images, first.labels, num_candidates=0))

    metrics = Metrics(lambda: batcher.num_waiting)
    batcher = Batcher(
        ask,
        batch_size=detector.batch_size,
        max_wait_s=options.max_wait_s,
        max_inside=options.max_requests,
        on_batch=metrics.batch,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await anyio.to_thread.run_sync(batcher.stop)

    app = FastAPIOffline(
        docs_url="/docs",
        redoc_url=None,
        title="boxtune",
        version=boxtune.__version__,
        description="Finds objects in pictures. Boxes are in pixels of the upright picture (EXIF orientation applied).",
        lifespan=lifespan,
    )
    app.state.batcher = batcher
    desk = _Desk(detector, detectors, batcher, options)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("/docs")

    @app.post(
        "/detect",
        response_model=Found,
        responses={code: {"model": Refusal, "description": why} for code, why in _REFUSALS.items()},
        openapi_extra={"requestBody": request_body_schema()},
    )
    async def detect(request: Request) -> Response:
        """Find objects in a picture."""
        with metrics.request() as outcome:
            response = await desk.answer(request)
            outcome.status_code = response.status_code
        return response

    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> Response:
        """200 while requests are taken; 503 when the service stops, or cannot answer any more."""
        status = "stopping" if batcher.is_closed else "ok" if batcher.is_alive else "failed"
        told = Health(
            status=status,
            model=name,
            labels=list(detector.labels),
            decoders=list(detectors),
            device=str(detector.loaded.model.device),
            queue_length=batcher.num_waiting,
            version=boxtune.__version__,
        )
        return JSONResponse(told.model_dump(), 200 if status == "ok" else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def read_metrics() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return app


_REFUSALS: dict[int | str, str] = {
    400: "The body cannot be read.",
    413: "Too many bytes or pixels.",
    415: "Neither a form nor JSON.",
    422: "A field is wrong, or the file is no picture.",
    429: "Too much is waiting: come again after `Retry-After` seconds.",
    500: "The model failed; the server's log has the reason.",
    503: "The service is stopping.",
    504: "The answer took too long.",
}


@dataclass(frozen=True)
class _Desk:
    """Takes one request from its first byte to its answer."""

    detector: Detector
    detectors: dict[Decoder, Detector]
    batcher: Batcher
    options: ServeOptions
    decoding: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_DECODED_AT_ONCE))

    async def answer(self, request: Request) -> Response:
        """Boxes, or the reason why not."""
        try:
            with self.batcher.place():
                async with asyncio.timeout(self.options.timeout_s):
                    return await self._found(request)
        except FullError as error:
            return _refusal(429, str(error), retry_after_s=1)
        except StoppedError as error:
            return _refusal(503, str(error), retry_after_s=5)
        except TimeoutError:
            return _refusal(
                504, f"No answer within {self.options.timeout_s:g} seconds: try again, or a smaller picture."
            )
        except TooLargeError as error:
            return _refusal(413, str(error))
        except HTTPException as error:
            return _refusal(error.status_code, error.detail)
        except BoxtuneError as error:
            return _refusal(422, str(error))
        except ClientDisconnect:
            return Response(status_code=_CLIENT_GONE)

    async def _found(self, request: Request) -> Response:
        asked, content, name = await read_asked(request, self.options.limits)
        question = await self._question(asked, content, name)
        waiting: asyncio.Future[Any] = asyncio.wrap_future(self.batcher.submit(question))
        gone: asyncio.Future[Any] = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait([waiting, gone], return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ClientDisconnect
            return JSONResponse(_told(await waiting, question, asked).model_dump(exclude_none=True))
        except (BoxtuneError, ClientDisconnect):
            raise
        except Exception as error:  # of the model; the worker has logged it
            return _refusal(500, f"The model failed on this picture ({type(error).__name__}); the log has the reason.")
        finally:
            gone.cancel()
            waiting.cancel()  # leaves the queue where nobody waits for it any more; nothing once it is done

    async def _question(self, asked: Asked, content: bytes, name: str) -> Question:
        decoder = asked.decoder or self.detector.decoder
        if decoder not in self.detectors:
            raise HTTPException(422, f"decoder: this model has no detection head, so only {', '.join(self.detectors)}.")
        labels = chosen_labels(asked, self.detector.labels)
        limits = self.options.limits
        image = await anyio.to_thread.run_sync(open_upload, content, name, limits, limiter=self.decoding)
        return Question(image, labels, decoder)


async def _gone(request: Request) -> None:
    """Until the client goes away; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _told(answered: Answered, question: Question, asked: Asked) -> Found:
    result, image = answered.prediction.result, question.image
    boxes, scores = result.detections, result.detections.scores
    assert scores is not None
    return Found(
        width=image.width,
        height=image.height,
        labels=list(question.labels),
        decoder=question.decoder,
        status=result.status,
        reason=result.reason,
        truncated=answered.prediction.truncated,
        boxes=[
            Box(label=label, score=float(score), xyxy=tuple(box.tolist()))
            for label, score, box in zip(boxes.labels, scores, boxes.xyxy, strict=True)
            if score >= asked.min_score
        ],
        text=answered.prediction.text if asked.raw else None,
        num_together=answered.num_together,
        seconds_waited=round(answered.seconds_waited, 4),
    )


def _refusal(status_code: int, detail: str, retry_after_s: int | None = None) -> JSONResponse:
    headers: dict[str, Any] = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    detail = detail.encode(errors="backslashreplace").decode()  # it may name a field by half a character
    return JSONResponse({"detail": detail}, status_code, headers)
