"""What the service counts, in Prometheus' text form."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)


@dataclass
class Outcome:
    """The status code that a request ended with; 499 for a client that went away, as nginx counts it."""

    status_code: int = 500


class Metrics:
    """Counters of one service, in a registry of its own.

    Args:
        num_waiting: asked whenever the metrics are read.
    """

    def __init__(self, num_waiting: Callable[[], int]) -> None:
        own = self.registry = CollectorRegistry()
        self._requests = Counter("boxtune_requests", "Requests to /detect that have ended.", ["status"], registry=own)
        self._in_flight = Gauge("boxtune_requests_in_flight", "To /detect: read, waiting or at work.", registry=own)
        self._request_seconds = Histogram(
            "boxtune_request_seconds", "From a request's begin to its answer.", buckets=_SECONDS, registry=own
        )
        self._batch_images = Histogram(
            "boxtune_batch_images", "Pictures asked together.", buckets=_IMAGES, registry=own
        )
        self._batch_seconds = Histogram(
            "boxtune_batch_seconds", "The model's time for a batch.", buckets=_SECONDS, registry=own
        )
        queue = Gauge("boxtune_queue_length", "Pictures that wait for the model.", registry=own)
        queue.set_function(num_waiting)

    @contextmanager
    def request(self) -> Iterator[Outcome]:
        """Count one request; say in the outcome how it ended."""
        outcome, began = Outcome(), time.monotonic()
        self._in_flight.inc()
        try:
            yield outcome
        finally:
            self._in_flight.dec()
            self._request_seconds.observe(time.monotonic() - began)
            self._requests.labels(str(outcome.status_code)).inc()

    def batch(self, num_images: int, seconds: float) -> None:
        """Count one batch."""
        self._batch_images.observe(num_images)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All of it, in the text form of Prometheus, version 0.0.4."""
        return generate_latest(self.registry)
