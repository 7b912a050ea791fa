"""The controller: ingest, tick every experiment, save, then publish. Restartable at any point.

A tick that dies between save and publish is repeated harmlessly: what is published is built from what is saved. Of
several controllers over one store one leads, and ticks; the others ingest and publish what that one has saved.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

# Loaded where a root is sought; a tick must not load it, for half a second, under traffic.
import scipy.optimize  # noqa: F401

from anabranch.bandit.decision import Command, Decision, Verb
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.routing import plain_route, route_of
from anabranch.bandit.snapshot import Route, Snapshot
from anabranch.bandit.spec import Experiment
from anabranch.bandit.step import tick
from anabranch.router.admission import problems
from anabranch.router.journal_upkeep import JournalUpkeep
from anabranch.router.leadership import Alone, Leadership
from anabranch.router.reading import JournalReader
from anabranch.router.upkeep import Upkeep
from anabranch.router.webhooks.bodies import messages_of
from anabranch.router.webhooks.runner import Webhooks
from anabranch.store.catalog_check import host_problems
from anabranch.store.document import parse
from anabranch.store.ingest import Ingested
from anabranch.store.lease import Lease, LeaseLost
from anabranch.store.ledger_port import Catalog
from anabranch.store.overview import Overview
from anabranch.store.port import Conflict, Revision, Store, StoredExperiment
from anabranch.store.windows import LabelWindows
from anabranch.variants.manifest import Manifest

_log = logging.getLogger(__name__)


class Controller:
    """Moves every experiment of a store on.

    Args:
        store: Where experiments and evidence are.
        journal: Folder of the workers' journals; None where others read them.
        manifests: The served variants, by model and name.
        baselines: By model, what serves until a promotion says otherwise.
        wall_clock: Seconds since 1970.
        publish: Takes every new snapshot; may be called from any thread.
        decided: Told of every saved decision, with its experiment and model; must not raise.
        leadership: Whether it leads; by default there is no other.
        upkeep: Keeps the store small while this one leads; None where nobody shall.
        journal_upkeep: Keeps the journal small that this one reads; None where nobody shall.
        webhooks: Asks gates and tells of phases while this one leads; None where nobody shall.

    Attributes:
        ingested: What the last round read.
        experiments: All experiments, as the last routes were made of them.
        refuses: What the data plane cannot do of an experiment, with the reason.
    """

    def __init__(
        self,
        store: Store,
        journal: Path | None,
        *,
        manifests: Mapping[str, Mapping[str, Manifest]],
        baselines: Mapping[str, str],
        wall_clock: Callable[[], float],
        publish: Callable[[Snapshot], None],
        decided: Callable[[str, str, Decision], None] | None = None,
        leadership: Leadership | None = None,
        upkeep: Upkeep | None = None,
        journal_upkeep: JournalUpkeep | None = None,
        refuses: Callable[[Experiment], list[str]] = lambda _experiment: [],
        webhooks: Webhooks | None = None,
        class_targets_ms: Mapping[str, float] | None = None,
    ) -> None:
        self._store = store
        self._reader = None if journal is None else JournalReader(store, journal)
        self._windows = LabelWindows(store)
        self._manifests = manifests
        self._baselines = baselines
        self._wall_clock = wall_clock
        self._publish = publish
        self._decided = decided or (lambda _experiment, _model, _decision: None)
        self._leadership = leadership or Alone()
        self._upkeep = upkeep
        self._journal_upkeep = journal_upkeep
        self._refuses = refuses
        self._published: Mapping[str, Route] | None = None
        # Experiments on variants that other replicas have, and this one does not.
        self._unroutable: set[str] = set()
        self._version = 0
        self._webhooks = webhooks
        self._class_targets_ms = class_targets_ms
        self._webhook_hosts = () if webhooks is None else webhooks.hosts
        self._has_told = False
        self._has_saved = False
        self._parsed: dict[int, tuple[int, Experiment]] = {}
        self._lock = threading.Lock()
        self.ingested = Ingested()
        self.experiments: tuple[StoredExperiment, ...] = ()

    def run_once(self) -> list[Decision]:
        """One round over everything; answers what was decided."""
        with self._lock:
            if self._reader is not None:
                self.ingested = self._reader.read()
                if self._journal_upkeep is not None:
                    self._journal_upkeep.run()
            leads = self._leadership.hold()
            seen = self._store.overview()
            # A label that waits to be read must not find its request's window closed.
            is_read = not self.ingested.waiting_bytes
            if leads and is_read and self._windows.close(seen.experiments, self._wall_clock()):
                seen = self._store.overview()
            decided = self._tick_all(seen) if leads else []
            self._publish_routes(self._store.overview() if self._has_saved else seen)
            if self._webhooks is not None and leads:
                self._webhooks.look(self.experiments)
            return decided

    def finish_webhooks(self) -> None:
        """Wait for the webhooks that were begun: whoever does one round only would end before they do."""
        if self._webhooks is not None:
            self._webhooks.finish()

    @property
    def lease(self) -> Lease | None:
        """What it leads by; None while another does."""
        return self._leadership.lease

    def step_down(self) -> None:
        """Let another controller lead from now on."""
        with self._lock:
            self._leadership.step_down()

    def serve(self, manifests: Mapping[str, Mapping[str, Manifest]], baselines: Mapping[str, str]) -> None:
        """Go on with other variants; see `Controller` for what they are."""
        with self._lock:
            self._manifests = manifests
            self._baselines = baselines
            self._has_told = False
            self.publish()

    def publish(self) -> None:
        """Publish the routes that the store says, if they differ from the published ones."""
        self._publish_routes(self._store.overview())

    def _publish_routes(self, seen: Overview) -> None:
        routes = self._routes(seen)
        if routes == self._published:
            return
        now = self._wall_clock()
        # Versions grow over restarts too: workers ignore a version below their own.
        self._version = max(self._version + 1, int(now * 1000))
        self._publish(Snapshot(version=self._version, published_s=now, routes=routes))
        self._published = routes

    def _tick_all(self, seen: Overview) -> list[Decision]:
        self._tell_what_is_served()
        self._has_saved = False
        decided: list[Decision] = []
        for kept in seen.experiments:
            try:
                if decision := self._tick(kept, seen):
                    decided.append(decision)
            except LeaseLost as lost:
                _log.warning("a tick of %s is dropped, and the round ends: %s", kept.name, lost)
                return decided
        if self._upkeep is not None:
            self._upkeep.run(self._leadership.lease)
        return decided

    def _tick(self, kept: StoredExperiment, seen: Overview) -> Decision | None:
        asked = seen.pending.get(kept.name, ())
        if kept.state.phase.is_over and not asked:
            return None
        experiment = self._experiment(kept)
        if kept.state.phase is Phase.PENDING:
            asked = self._refuse(kept.name, self._refusals(experiment), asked)
        commands = tuple(_with_document(command) for command in asked)
        now = self._wall_clock()
        evidence = replace(self._evidence(kept, seen), at_s=now)
        result = tick(experiment, kept.state, evidence, commands, now)
        if result.decision is None and evidence.is_empty and result.state == kept.state:
            return None
        revision = None
        if result.revised is not None:
            [taken] = (command for command in commands if command.revision is result.revised)
            revision = Revision(document=json.loads(taken.argument), actor=taken.actor)
        new_baseline = None
        if result.promoted is not None:
            new_baseline = (experiment.model, result.promoted)
        elif result.reverted:
            new_baseline = (experiment.model, experiment.baseline)
        try:
            self._store.save(
                kept.name,
                expected=kept.state_version,
                state=result.state,
                evidence=evidence,
                decision=result.decision,
                new_baseline=new_baseline,
                revision=revision,
                messages=messages_of(
                    experiment, kept.state.phase, result.state, result.decision, kept.spec_version
                ),
                lease=self._leadership.lease,
            )
        except Conflict as conflict:
            _log.warning("a tick of %s is dropped: %s", kept.name, conflict)
            return None
        self._has_saved = True
        if result.decision is not None:
            _log.info(
                "%s: %s",
                kept.name,
                result.decision.summary,
                extra={
                    "experiment": kept.name,
                    "model": experiment.model,
                    "decision": result.decision.number,
                    "phase": str(result.decision.phase),
                },
            )
            self._decided(kept.name, experiment.model, result.decision)
        return result.decision

    def _tell_what_is_served(self) -> None:
        """Let a document be checked before it is applied, by what this server has."""
        if self._has_told:
            return
        variants = {
            model: {name: f"{manifest.signatures} → {manifest.outputs}" for name, manifest in served.items()}
            for model, served in self._manifests.items()
        }
        told = Catalog(
            variants=variants,
            webhook_hosts=self._webhook_hosts,
            at_s=self._wall_clock(),
            class_targets_ms=self._known_targets(),
        )
        self._store.ledger.save_catalog(told)
        self._has_told = True

    def _known_targets(self) -> Mapping[str, float]:
        """What this one was told, or else what another said before it."""
        if self._class_targets_ms is not None:
            return dict(self._class_targets_ms)
        before = self._store.ledger.catalog()
        return {} if before is None else before.class_targets_ms

    def _refusals(self, experiment: Experiment) -> list[str]:
        found = [*problems(experiment, self._manifests), *self._refuses(experiment)]
        return [*found, *host_problems(experiment, self._webhook_hosts)]

    def _refuse(self, name: str, found: list[str], asked: tuple[Command, ...]) -> tuple[Command, ...]:
        """Abort what cannot begin on what is served, by a request like any other: what happened can be taken again."""
        if not found or any(command.verb is Verb.ABORT for command in asked):
            return asked
        actor = f"admission: {'; '.join(found)}"
        return (*asked, self._store.request(name, Verb.ABORT, "", actor, self._wall_clock()))

    def _evidence(self, kept: StoredExperiment, seen: Overview) -> Evidence:
        """What is new of an experiment; nothing is read where nothing is."""
        if kept.state.phase.is_over or seen.has_news(kept):
            return self._store.load_evidence(kept.name, kept.state.cursor)
        return Evidence(experiment=kept.name)

    def _experiment(self, kept: StoredExperiment) -> Experiment:
        """The parsed document; a version of it is parsed once."""
        known = self._parsed.get(kept.id)
        if known is None or known[0] != kept.spec_version:
            known = self._parsed[kept.id] = (kept.spec_version, parse(kept.document))
        return known[1]

    def _routes(self, seen: Overview) -> dict[str, Route]:
        routes = {
            model: plain_route(model, seen.baselines.get(model) or baseline)
            for model, baseline in self._baselines.items()
        }
        self.experiments = seen.experiments
        for kept in self.experiments:
            if kept.state.phase.is_over or kept.state.phase is Phase.PENDING:
                continue
            experiment = self._experiment(kept)
            if experiment.model not in routes:
                continue
            missing = problems(experiment, self._manifests)
            if missing and kept.name not in self._unroutable:
                _log.error(
                    "%s is left out here, its model's baseline serves: %s", kept.name, "; ".join(missing)
                )
            (self._unroutable.add if missing else self._unroutable.discard)(kept.name)
            if not missing:
                routes[experiment.model] = route_of(experiment, kept.state, kept.id, kept.salt.hex())
        return routes


def _with_document(command: Command) -> Command:
    """A request with the document that it asks to go on with."""
    if command.verb is not Verb.REVISE:
        return command
    return replace(command, revision=parse(json.loads(command.argument)))
