"""A client like a user's: texts over gRPC as they come, and the true labels some time later.

Requests leave at random moments (a Poisson process), whether or not earlier ones were answered.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import Message

from anabranch.proto import feedback_pb2, open_inference_pb2
from anabranch.proto.tensors import encode_inputs

INFER = "/inference.GRPCInferenceService/ModelInfer"
SUBMIT = "/anabranch.v1.FeedbackService/Submit"
ASSIGNMENT = "assignment_id"
TIMEOUT_S = 20.0
FEEDBACK_EVERY_S = 0.5


_Infer = grpc.aio.UnaryUnaryMultiCallable[Message, open_inference_pb2.ModelInferResponse]
_Submit = grpc.aio.UnaryUnaryMultiCallable[Message, feedback_pb2.SubmitResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A text and its true class."""

    text: str
    label: int


class Traffic:
    """Sends labelled texts until it is told to stop.

    Args:
        address: Host and port of the inference port.
        model: What to call.
        texts: What to send, over and over, in a seeded order.
        requests_per_s: Mean rate.
        label_delay_s: Mean time until a label is known.
        seed: Of the order and the moments.

    Attributes:
        counts: Requests by gRPC status, and outcomes accepted or refused.
    """

    def __init__(
        self,
        address: str,
        model: str,
        texts: Sequence[Labelled],
        *,
        requests_per_s: float,
        label_delay_s: float,
        seed: int = 0,
    ) -> None:
        self._address = address
        self._model = model
        self._texts = texts
        self._rate = requests_per_s
        self._delay_s = label_delay_s
        self._random = random.Random(seed)  # moments of requests, not secrets
        self._labels: deque[tuple[float, feedback_pb2.Outcome]] = deque()
        self._stopping = asyncio.Event()
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Send until `stop`, then wait for what is under way and report the last labels."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            infer = channel.unary_unary(
                INFER,
                request_serializer=open_inference_pb2.ModelInferRequest.SerializeToString,
                response_deserializer=open_inference_pb2.ModelInferResponse.FromString,
            )
            submit = channel.unary_unary(
                SUBMIT,
                request_serializer=feedback_pb2.SubmitRequest.SerializeToString,
                response_deserializer=feedback_pb2.SubmitResponse.FromString,
            )
            reporter = asyncio.create_task(self._report(submit))
            async with asyncio.TaskGroup() as under_way:
                await self._send(infer, under_way)
            await reporter
            await self._give(submit, [outcome for _, outcome in self._labels])

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()

    async def _send(self, infer: _Infer, under_way: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self._stopping.is_set():
            for item in self._random.sample(self._texts, len(self._texts)):
                due += self._random.expovariate(self._rate)
                await asyncio.sleep(max(0.0, due - loop.time()))
                if self._stopping.is_set():
                    return
                under_way.create_task(self._ask(infer, item))

    async def _ask(self, infer: _Infer, item: Labelled) -> None:
        request = open_inference_pb2.ModelInferRequest(model_name=self._model)
        encode_inputs(request, {"text": np.array([item.text.encode()], dtype=np.object_)})
        try:
            response = await infer(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            self.counts[error.code().name] += 1
            return
        self.counts["OK"] += 1
        if ASSIGNMENT in response.parameters:
            outcome = feedback_pb2.Outcome(
                assignment_id=response.parameters[ASSIGNMENT].string_param, label=item.label
            )
            known_at = asyncio.get_running_loop().time() + self._random.expovariate(1.0 / self._delay_s)
            self._labels.append((known_at, outcome))

    async def _report(self, submit: _Submit) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            await asyncio.sleep(FEEDBACK_EVERY_S)
            now = loop.time()
            waiting = list(self._labels)
            self._labels = deque(item for item in waiting if item[0] > now)
            await self._give(submit, [outcome for known_at, outcome in waiting if known_at <= now])

    async def _give(self, submit: _Submit, outcomes: Sequence[feedback_pb2.Outcome]) -> None:
        if not outcomes:
            return
        try:
            response = await submit(feedback_pb2.SubmitRequest(outcomes=outcomes), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            self.counts[f"labels {error.code().name}"] += len(outcomes)
            return
        for result in response.results:
            self.counts["labels accepted" if result.accepted else "labels refused"] += 1
