"""Report the true class of earlier answers, by their assignment ids.

    python examples/send_feedback.py 127.0.0.1:8001 1 ASSIGNMENT_ID [ASSIGNMENT_ID ...]

Labels may come hours after the answers; one that is sent twice counts once. This is a program of its own because
`tritonclient` and Anabranch's message types cannot be loaded into one process: both register the same protocol.
"""

import sys

import grpc

from anabranch.proto.feedback_pb2 import Outcome, SubmitRequest, SubmitResponse


def main(address: str, label: int, assignment_ids: list[str]) -> int:
    with grpc.insecure_channel(address) as channel:
        submit: grpc.UnaryUnaryMultiCallable[SubmitRequest, SubmitResponse] = channel.unary_unary(
            "/anabranch.v1.FeedbackService/Submit",
            request_serializer=SubmitRequest.SerializeToString,
            response_deserializer=SubmitResponse.FromString,
        )
        outcomes = [Outcome(assignment_id=given, label=label) for given in assignment_ids]
        results = submit(SubmitRequest(outcomes=outcomes), timeout=30).results
    for given, result in zip(assignment_ids, results, strict=True):
        print("accepted" if result.accepted else f"refused: {result.problem}", given, sep="\t")
    return 0 if all(result.accepted for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
