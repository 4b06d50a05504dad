"""What a service counts, in the text form of Prometheus."""

from __future__ import annotations


class Metrics:
    """Counters of one front.

    ``jpmap_requests_total`` by status, ``jpmap_working`` requests accepted and not yet answered,
    ``jpmap_seconds`` from acceptance to answer, ``jpmap_together`` images of the batch that an
    answer comes from, ``jpmap_retries_total`` requests sent to another replica as theirs had ended.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = own = CollectorRegistry()
        self._answers = Counter("jpmap_requests", "Answers by status.", ["status"], registry=own)
        self.working = Gauge(
            "jpmap_working", "Requests accepted and not yet answered.", registry=own
        )
        self.seconds = Histogram(
            "jpmap_seconds",
            "From acceptance to answer.",
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
            registry=own,
        )
        self.together = Histogram(
            "jpmap_together",
            "Images of the batch that an answer comes from.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=own,
        )
        self.retries = Counter(
            "jpmap_retries",
            "Requests sent again, as the replica at work on them ended.",
            registry=own,
        )

    def answered(self, status: int) -> None:
        """One more answer of a status."""
        self._answers.labels(str(status)).inc()

    def text(self) -> tuple[bytes, str]:
        """All of them, and the media type of that."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST
