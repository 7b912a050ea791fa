"""The verbs of the control service over a store: who may do what to which model, and nothing of gRPC.

They block, and are called on threads. Names of models that the caller may not touch are never told, nor whether there
is an experiment on them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from anabranch.bandit.costs import unpriced_text
from anabranch.bandit.decision import Verb
from anabranch.bandit.spec import Experiment
from anabranch.proto import control_pb2 as pb
from anabranch.router.access.authenticator import printable
from anabranch.router.access.guard import NotAllowed
from anabranch.router.admission import problems
from anabranch.router.applying import (
    check_applicable,
    gate_failures,
    outcome_of,
    override_remark,
    priced,
    stale_baseline,
    unified,
)
from anabranch.router.control import messages
from anabranch.router.control.errors import BadRequest, Busy, Refused
from anabranch.store.access import GRANTS, Permission, Principal
from anabranch.store.catalog_check import catalog_problems, host_problems
from anabranch.store.codec import evidence_text
from anabranch.store.document import parse, read_document
from anabranch.store.hidden import hide_webhooks
from anabranch.store.port import NotFound, Store, StoredExperiment
from anabranch.store.verify import first_of_document, verify
from anabranch.variants.manifest import Manifest

ASKABLE: Final = (
    Verb.PROMOTE,
    Verb.PROMOTE_FULL,
    Verb.PAUSE,
    Verb.RESUME,
    Verb.ABORT,
    Verb.RETRY,
    Verb.UNDO,
    Verb.APPROVE,
)
"""What a caller may ask; what a gate answers is its webhook's to say, and a changed document goes through `Apply`."""
_DECISIONS_SHOWN: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What is served, where the control service runs beside it.

    Attributes:
        manifests: By model and variant.
        baselines: By model, what serves until a promotion says otherwise.
    """

    manifests: Mapping[str, Mapping[str, Manifest]]
    baselines: Mapping[str, str]


class Verbs:
    """What callers ask.

    Args:
        store: Where experiments are.
        served: What is served now; None where nothing is known of it, as in a controller on its own.
        wall_clock: Seconds since 1970.
        version: The program's own.
    """

    def __init__(
        self,
        store: Store,
        *,
        served: Callable[[], Served | None],
        wall_clock: Callable[[], float],
        version: str,
    ) -> None:
        self._store = store
        self._served = served
        self._wall_clock = wall_clock
        self._version = version
        self._verifying = threading.Lock()

    def who_am_i(self, principal: Principal, _request: pb.WhoAmIRequest) -> pb.WhoAmIResponse:
        """Whom the server takes the caller for."""
        return pb.WhoAmIResponse(
            actor=principal.actor,
            role=principal.role.value,
            models=sorted(principal.models),
            permissions=sorted(GRANTS[principal.role]),
            version=self._version,
        )

    def apply(self, principal: Principal, request: pb.ApplyRequest) -> pb.ApplyResponse:
        """Create an experiment, or begin it anew with a changed document."""
        document = read_document(request.document)
        experiment = parse(document)
        self._require(principal, Permission.CHANGE, experiment.model)
        if request.force:
            self._require(principal, Permission.OVERRIDE, experiment.model)
        kept = self._store.experiments()
        for other in kept:
            # A name that is taken for another model must not become a way to that model's traffic.
            if other.name == experiment.name and not principal.sees(_model(other)):
                raise NotAllowed(f"the name {experiment.name} is taken: choose another name")
        served = self._served()
        variants = {} if served is None else served.manifests.get(experiment.model, {})
        document = priced(document, kept, variants)
        experiment = parse(document)
        if unpriced := unpriced_text(experiment):
            raise Refused(unpriced)
        failed = self._check_served(experiment, is_forced=request.force)
        outcome = outcome_of(experiment.name, document, kept)
        stale = stale_baseline(experiment, outcome, self._store.baseline(experiment.model))
        if stale and not request.force:
            raise Refused(f"{stale}; or force")
        if request.dry_run:
            check_applicable(experiment, document, kept)
            found = next((other for other in kept if other.name == experiment.name), None)
            shown = None if found is None else self._message(found, principal)
            return pb.ApplyResponse(name=experiment.name, outcome=outcome.value, experiment=shown)
        remark = override_remark(failed, stale)
        stored = self._store.apply(document, principal.actor, self._wall_clock(), remark=remark)
        return pb.ApplyResponse(
            name=experiment.name, outcome=outcome.value, experiment=self._message(stored, principal)
        )

    def diff(self, principal: Principal, request: pb.DiffRequest) -> pb.DiffResponse:
        """Compare a document with the one that is applied."""
        document = read_document(request.document)
        experiment = parse(document)
        self._require(principal, Permission.READ, experiment.model)
        applied = next((each for each in self._seen(principal) if each.name == experiment.name), None)
        before = None if applied is None else applied.document
        if before is not None and _hides(principal):
            before, document = hide_webhooks(before), hide_webhooks(document)
        lines = unified(before, document, experiment.name, "given")
        return pb.DiffResponse(name=experiment.name, lines=lines)

    def experiments(self, principal: Principal, request: pb.ListRequest) -> Iterator[pb.Experiment]:
        """Every experiment that the caller may see."""
        for stored in self._seen(principal):
            if request.model in ("", _model(stored)):
                yield self._message(stored, principal, with_state=request.with_state)

    def get(self, principal: Principal, request: pb.GetRequest | pb.WatchRequest) -> pb.Experiment:
        """One experiment."""
        return self._message(self._find(principal, request.name), principal, with_state=request.with_state)

    def describe(self, principal: Principal, request: pb.DescribeRequest) -> pb.DescribeResponse:
        """One experiment with its last decisions and its audit log."""
        stored = self._find(principal, request.name)
        if request.decisions < 0:
            raise BadRequest(
                f"decisions is {request.decisions}: how many of the last, 0 means {_DECISIONS_SHOWN}"
            )
        last = request.decisions or _DECISIONS_SHOWN
        decisions = self._store.decisions(stored.name)[-last:]
        return pb.DescribeResponse(
            experiment=self._message(stored, principal),
            decisions=[messages.decision_message(decision) for decision in decisions],
            events=[
                messages.event_message(event, hides=_hides(principal))
                for event in self._store.events(stored.name)
            ],
        )

    def decisions(self, principal: Principal, request: pb.DecisionsRequest) -> Iterator[pb.Decision]:
        """The decision log."""
        if request.after < 0:
            raise BadRequest(f"after is {request.after}: a decision's number, 0 means all")
        stored = self._find(principal, request.name)
        found = self._store.decisions(stored.name)
        if request.after:
            # Numbers count on over documents that are taken while it goes on.
            since = found[first_of_document(found, stored) :]
            found = [kept for kept in since if kept.decision.number > request.after]
        yield from map(messages.decision_message, found)

    def events(self, principal: Principal, request: pb.EventsRequest) -> Iterator[pb.Event]:
        """The audit log."""
        if request.experiment:
            found = self._store.events(self._find(principal, request.experiment).name)
        else:
            # What belongs to no experiment, such as tokens and refused attempts, is for those who watch over everybody.
            sees_all = principal.may(Permission.AUDIT) and not principal.models
            seen = {stored.name for stored in self._seen(principal)}
            found = [event for event in self._store.events() if sees_all or event.experiment in seen]
        for event in found:
            yield messages.event_message(event, hides=_hides(principal))

    def request(self, principal: Principal, request: pb.CommandRequest) -> pb.Command:
        """Ask something of an experiment."""
        stored = self._find(principal, request.name)
        self._require(principal, Permission.CHANGE, _model(stored))
        verb = next((each for each in ASKABLE if each == request.verb), None)
        if verb is None:
            known = ", ".join(ASKABLE)
            raise BadRequest(f"verb {printable(request.verb)!r} must be one of {known}")
        argument = request.argument
        if verb in (Verb.PROMOTE, Verb.PROMOTE_FULL) and argument:
            candidates = parse(stored.document).candidates
            if argument not in candidates:
                raise BadRequest(
                    f"{printable(argument)!r} is no candidate; the candidates are {', '.join(candidates)}"
                )
        elif argument and verb is not Verb.APPROVE:
            raise BadRequest(f"{verb} takes no argument, given {printable(argument)!r}: leave it out")
        command = self._store.request(
            stored.name, verb, printable(argument), principal.actor, self._wall_clock()
        )
        return messages.command_message(command, hides=_hides(principal))

    def evidence(self, principal: Principal, request: pb.EvidenceRequest) -> Iterator[pb.EvidenceBody]:
        """What every tick folded in."""
        stored = self._find(principal, request.name)
        if request.all_versions:
            for kept in self._store.ledger.evidence(stored.name):
                yield pb.EvidenceBody(body_json=kept.body, spec_version=kept.spec_version)
            return
        for evidence in self._store.evidence_log(stored.name):
            yield pb.EvidenceBody(body_json=evidence_text(evidence))

    def specs(self, principal: Principal, request: pb.SpecsRequest) -> Iterator[pb.Spec]:
        """Every document of an experiment."""
        stored = self._find(principal, request.name)
        for spec in self._store.ledger.specs(stored.name):
            yield messages.spec_message(spec, hides=_hides(principal))

    def tenures(self, principal: Principal, request: pb.TenuresRequest) -> Iterator[pb.Tenure]:
        """Who served a model when, and why."""
        self._require(principal, Permission.READ, request.model)
        yield from map(messages.tenure_message, self._store.ledger.tenures(request.model))

    def verify(self, principal: Principal, request: pb.VerifyRequest) -> pb.Verification:
        """Recompute every decision."""
        stored = self._find(principal, request.name)
        # It takes a core for as long as it takes, beside the controller: one at a time, whoever asks.
        if not self._verifying.acquire(blocking=False):
            raise Busy("another record is being recomputed: try again in a moment, or use `anabranch verify`")
        try:
            return messages.verification_message(verify(self._store, stored.name))
        finally:
            self._verifying.release()

    def variants(self, principal: Principal, request: pb.VariantsRequest) -> pb.VariantsResponse:
        """The variants that are served."""
        served = self._served()
        if served is None:
            raise Refused("this server serves no variants: ask one that runs `anabranch serve`")
        response = pb.VariantsResponse()
        for model, manifests in served.manifests.items():
            if not principal.sees(model) or request.model not in ("", model):
                continue
            baseline = self._store.baseline(model) or served.baselines.get(model)
            for name, manifest in manifests.items():
                message = messages.variant_message(
                    manifest, model=model, name=name, is_baseline=name == baseline
                )
                response.variants.append(message)
        return response

    def _check_served(self, experiment: Experiment, *, is_forced: bool) -> Mapping[str, str]:
        """Refuse what cannot begin on what is served; answers the candidates let in against the gate."""
        served, catalog = self._served(), self._store.ledger.catalog()
        found = [] if catalog is None else host_problems(experiment, catalog.webhook_hosts)
        if served is not None:
            found = [*problems(experiment, served.manifests), *found]
        elif catalog is not None:
            found = catalog_problems(experiment, catalog)
        if found:
            raise Refused("\n".join(found))
        if served is None:
            return {}
        failed = gate_failures(experiment, served.manifests[experiment.model])
        if failed and not is_forced:
            listed = [f"{variant} failed the offline gate: {why}" for variant, why in failed.items()]
            raise Refused("\n".join([*listed, "leave these candidates out, or force"]))
        return failed

    def _message(
        self, stored: StoredExperiment, principal: Principal, *, with_state: bool = False
    ) -> pb.Experiment:
        return messages.experiment_message(
            stored, self._store.pending(stored.name), with_state=with_state, hides=_hides(principal)
        )

    def _seen(self, principal: Principal) -> list[StoredExperiment]:
        return [stored for stored in self._store.experiments() if principal.sees(_model(stored))]

    def _find(self, principal: Principal, name: str) -> StoredExperiment:
        seen = self._seen(principal)
        for stored in seen:
            if stored.name == name:
                return stored
        known = ", ".join(stored.name for stored in seen) or "none"
        raise NotFound(f"no experiment {printable(name)!r}; there are: {known}")

    def _require(self, principal: Principal, permission: Permission, model: str) -> None:
        if not principal.may(permission, model):
            mine = f" for {', '.join(sorted(principal.models))}" if principal.models else ""
            raise NotAllowed(
                f"{principal.actor} is {principal.role}{mine}: that does not allow to {permission} on model {printable(model)}"
            )


def _model(stored: StoredExperiment) -> str:
    return str(stored.document["spec"]["model"])


def _hides(principal: Principal) -> bool:
    """Whether somebody sees documents without the addresses of webhooks: whoever may not write any."""
    return not principal.may(Permission.CHANGE)
