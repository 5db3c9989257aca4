"""What a server tells Prometheus about itself."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from vlm.engine import Engine

_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 3, 5, 10, 20, 30, 60)


class Measures:
    """Counters, times and gauges of one server, in a registry of its own."""

    def __init__(self, engine: Engine) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "vlm_requests",
            "Requests, by what they ask for and the status of the reply; 499 where the client left before it.",
            ("endpoint", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "vlm_request_seconds",
            "From a request's arrival to the end of the reply, in seconds, of those that were let in.",
            ("endpoint",),
            registry=registry,
            buckets=_SECONDS,
        )
        self.running = Gauge(
            "vlm_requests_running", "Requests that are worked on or wait.", registry=registry
        )
        self.tokens = Counter("vlm_tokens", "Tokens written.", registry=registry)
        waiting = Gauge(
            "vlm_engine_waiting",
            "Pieces of work, of pages and programs, that wait for the model.",
            registry=registry,
        )
        waiting.set_function(lambda: engine.waiting)
        self._registry = registry

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
