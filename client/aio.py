"""The client for asyncio: the same verbs, awaited.

async with AsyncClient("127.0.0.1:8002") as client:
    async for experiment in client.watch("minilm-int8"):
        print(experiment.phase, experiment.weights)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from anabranch.client import asks, values
from anabranch.client.asks import Ask
from anabranch.client.channel import OPTIONS, metadata_of, tls_of
from anabranch.client.errors import CallFailed, TookTooLong, failed
from anabranch.client.feedback import Outcome, batches
from anabranch.client.target import Credentials, parse_target

T = TypeVar("T")


class AsyncClient:
    """Asks one server from an event loop; see `anabranch.client.sync.Client` for every verb.

    Args:
        server: `HOST:PORT`; `grpcs://` before it asks for TLS, `grpc://` for none.
        credentials: Who calls, and by what the server is known.
        timeout_s: Seconds that a call may take; a watch has no end.

    Raises:
        BadTarget: The text names no server, or the token would leave in plain text.
    """

    def __init__(
        self, server: str, credentials: Credentials | None = None, *, timeout_s: float = 30.0
    ) -> None:
        given = credentials or Credentials()
        self._target = parse_target(server, given)
        self._metadata = metadata_of(given)
        self._timeout_s = timeout_s
        self._channel = (
            grpc.aio.secure_channel(self._target.address, tls_of(given), options=OPTIONS)
            if self._target.is_secure
            else grpc.aio.insecure_channel(self._target.address, options=OPTIONS)
        )

    async def __aenter__(self) -> Self:
        """Use the client in an `async with` statement."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up."""
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()

    async def who_am_i(self) -> values.Caller:
        """Whom the server takes the caller for, and what they may do."""
        return await self._one(asks.who_am_i())

    async def apply(
        self, document: str | Mapping[str, Any], *, dry_run: bool = False, force: bool = False
    ) -> values.Applied:
        """Create an experiment, or begin it anew with a changed document.

        Args:
            document: YAML, JSON, or the mapping itself.
            dry_run: Check everything and change nothing.
            force: Let in candidates that failed the offline gate.
        """
        return await self._one(asks.apply(document, dry_run=dry_run, force=force))

    async def diff(self, document: str | Mapping[str, Any]) -> tuple[str, ...]:
        """The unified difference from the applied document to this one; empty when they are the same."""
        return await self._one(asks.diff(document))

    async def experiments(self, model: str = "", *, with_state: bool = False) -> list[values.Experiment]:
        """Every experiment that the caller may see, by name."""
        return [found async for found in self._many(asks.experiments(model, with_state=with_state))]

    async def get(self, name: str, *, with_state: bool = False) -> values.Experiment:
        """One experiment as it is now."""
        return await self._one(asks.get(name, with_state=with_state))

    def watch(
        self, name: str, *, keep_going: bool = False, timeout_s: float | None = None
    ) -> AsyncIterator[values.Experiment]:
        """One experiment now and after every change, until it is over; an Inconclusive one waits for a person.

        Args:
            name: The experiment.
            keep_going: Go on after that.
            timeout_s: Seconds to watch at most.
        """
        return self._many(asks.watch(name, keep_going=keep_going), timeout_s=timeout_s)

    async def describe(self, name: str, *, decisions: int = 50) -> values.Described:
        """One experiment, its last decisions and its audit log."""
        return await self._one(asks.describe(name, decisions))

    async def decisions(self, name: str, *, after: int = 0) -> list[values.Decision]:
        """The decision log, or what came after a number since the document was applied."""
        return [found async for found in self._many(asks.decisions(name, after))]

    async def events(self, experiment: str = "") -> list[values.Event]:
        """The audit log of one experiment, or of all that the caller may see."""
        return [found async for found in self._many(asks.events(experiment))]

    async def promote(self, name: str, variant: str = "", *, full: bool = False) -> values.Request:
        """Promote a candidate now, whatever the verdicts; the leading one when none is named.

        Args:
            name: The experiment.
            variant: The candidate.
            full: Give it all traffic at once, without the promote step's ramp, gates and bake.
        """
        return await self._one(asks.request(name, "promote-full" if full else "promote", variant))

    async def pause(self, name: str) -> values.Request:
        """Hold the experiment where it is."""
        return await self._one(asks.request(name, "pause", ""))

    async def resume(self, name: str) -> values.Request:
        """Go on after a pause."""
        return await self._one(asks.request(name, "resume", ""))

    async def abort(self, name: str) -> values.Request:
        """End the experiment; the baseline serves all traffic."""
        return await self._one(asks.request(name, "abort", ""))

    async def retry(self, name: str) -> values.Request:
        """Begin an undecided, rolled back or aborted experiment again."""
        return await self._one(asks.request(name, "retry", ""))

    async def approve(self, name: str, gate: str = "") -> values.Request:
        """Let a gate pass that waits for a person; the one that waits when none is named."""
        return await self._one(asks.request(name, "approve", gate))

    async def undo(self, name: str) -> values.Request:
        """Take a promotion back."""
        return await self._one(asks.request(name, "undo", ""))

    async def wait(self, request: values.Request, *, timeout_s: float = 60.0) -> values.Decision:
        """The decision that answers a request, once it is taken; its actions say what was refused.

        Raises:
            TookTooLong: None was, in this time; the request stays.
        """
        seen = self.watch(request.experiment, keep_going=True, timeout_s=timeout_s)
        async for experiment in seen:
            if all(waiting.id != request.id for waiting in experiment.pending):
                for decision in reversed(await self.decisions(request.experiment)):
                    if request.id in decision.handled:
                        return decision
        raise TookTooLong(f"no tick answered {request.verb} of {request.experiment}: the request stays")

    def evidence(self, name: str, *, all_versions: bool = False) -> AsyncIterator[values.Evidence]:
        """What every tick folded in since the document was applied, or ever: what decisions are recomputed from."""
        return self._many(asks.evidence(name, all_versions=all_versions))

    async def specs(self, name: str) -> list[values.Spec]:
        """Every document of an experiment, oldest first."""
        return [found async for found in self._many(asks.specs(name))]

    async def tenures(self, model: str) -> list[values.Tenure]:
        """Who was the model's baseline since when, oldest first."""
        return [found async for found in self._many(asks.tenures(model))]

    async def verify(self, name: str) -> values.Verification:
        """Recompute every decision from the kept evidence, on the server."""
        return await self._one(asks.verify(name))

    async def variants(self, model: str = "") -> tuple[values.Variant, ...]:
        """The variants that are served."""
        return await self._one(asks.variants(model))

    async def feedback(self, outcomes: Iterable[Outcome]) -> list[values.FeedbackResult]:
        """Report outcomes; a result for each, in order. One that is sent twice counts once."""
        return [result for batch in batches(outcomes) for result in await self._one(asks.submit(batch))]

    async def _one(self, ask: Ask[T]) -> T:
        call: grpc.aio.UnaryUnaryMultiCallable[Any, Any] = self._channel.unary_unary(
            ask.method,
            request_serializer=type(ask.request).SerializeToString,
            response_deserializer=ask.response.FromString,
        )
        try:
            return ask.read(await call(ask.request, timeout=self._timeout_s, metadata=self._metadata))
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from None

    async def _many(self, ask: Ask[T], *, timeout_s: float | None = None) -> AsyncIterator[T]:
        call: grpc.aio.UnaryStreamMultiCallable[Any, Any] = self._channel.unary_stream(
            ask.method,
            request_serializer=type(ask.request).SerializeToString,
            response_deserializer=ask.response.FromString,
        )
        answers = call(ask.request, timeout=timeout_s, metadata=self._metadata)
        try:
            async for message in answers:
                yield ask.read(message)
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from None
        finally:
            answers.cancel()

    def _failed(self, error: grpc.aio.AioRpcError) -> CallFailed:
        return failed(error.code(), error.details(), self._target.address)
