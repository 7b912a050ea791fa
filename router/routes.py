"""The routes a worker uses: the last snapshot it was given, swapped whole; too old a one serves baselines only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from anabranch.bandit.routing import plain_route
from anabranch.bandit.snapshot import Route, Snapshot


class Follower(Protocol):
    """What was decided by the routes, and is not looked up again."""

    def forget(self) -> None:
        """They are others now."""

    def trust(self, until: float) -> None:
        """They may be relied on until a time, on the event loop's clock."""


class Routes:
    """The current snapshot of one worker.

    Attributes:
        express: Is told of every change.

    Args:
        baselines: By model, what serves before the first snapshot comes.
        loop_time: The event loop's clock, in seconds.
        max_age_s: Without news for this long, experiments are left and baselines serve.
    """

    def __init__(
        self, baselines: Mapping[str, str], *, loop_time: Callable[[], float], max_age_s: float = 60.0
    ) -> None:
        self._plain = {model: plain_route(model, baseline) for model, baseline in baselines.items()}
        self._routes: Mapping[str, Route] = self._plain
        self._loop_time = loop_time
        self._max_age_s = max_age_s
        self._heard_at = loop_time()
        self.version = 0
        self.express: Follower | None = None

    def publish(self, snapshot: Snapshot) -> None:
        """Route by a snapshot from now on; an older one than the current is ignored."""
        if snapshot.version < self.version:
            self.heard()
            return
        self.version = snapshot.version
        self._routes = {**self._plain, **snapshot.routes}
        self._plain = {model: plain_route(model, route.baseline) for model, route in self._routes.items()}
        if self.express is not None:
            self.express.forget()
        self.heard()

    def heard(self) -> None:
        """The publisher is alive: the current snapshot is fresh."""
        self._heard_at = self._loop_time()
        if self.express is not None:
            self.express.trust(self._heard_at + self._max_age_s)

    @property
    def age_s(self) -> float:
        """Time since the publisher was heard of."""
        return self._loop_time() - self._heard_at

    @property
    def is_stale(self) -> bool:
        """Whether the publisher was silent for too long."""
        return self._loop_time() - self._heard_at > self._max_age_s

    def route(self, model: str) -> Route:
        """How a served model is routed now."""
        is_stale = (
            self._loop_time() - self._heard_at > self._max_age_s
        )  # as the property says, without its call
        return self._plain[model] if is_stale else self._routes[model]

    def active(self) -> Mapping[int, Route]:
        """The routes with an experiment, by its number."""
        return {route.experiment_id: route for route in self._routes.values() if route.experiment_id}
