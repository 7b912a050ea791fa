"""Messages of which every field counts."""

import pytest
from google.protobuf.message import DecodeError

from anabranch.proto import control_pb2, feedback_pb2
from anabranch.proto.strict import UnknownField, read_strictly

NEWER = bytes([0x98, 0x06, 1])  # field 99, a varint


def test_what_is_known_is_read() -> None:
    asked = control_pb2.ApplyRequest(document="a", dry_run=True)
    assert read_strictly(control_pb2.ApplyRequest, asked.SerializeToString()) == asked


def test_a_field_of_a_newer_release_is_refused_by_its_number() -> None:
    text = control_pb2.ApplyRequest(document="a").SerializeToString() + NEWER
    with pytest.raises(UnknownField, match="ApplyRequest has field 99, which this server does not know"):
        read_strictly(control_pb2.ApplyRequest, text)


def test_a_field_within_a_message_is_refused_too() -> None:
    outcome = feedback_pb2.Outcome(assignment_id="x", correct=True).SerializeToString() + NEWER
    with pytest.raises(UnknownField, match="a field within one of its messages"):
        read_strictly(feedback_pb2.SubmitRequest, bytes([0x0A, len(outcome)]) + outcome)


def test_a_value_that_is_sent_though_it_is_the_default_is_no_unknown_field() -> None:
    assert read_strictly(control_pb2.ApplyRequest, bytes([0x10, 0])) == control_pb2.ApplyRequest()


def test_what_is_no_message_is_an_error_of_its_own() -> None:
    with pytest.raises(DecodeError):
        read_strictly(control_pb2.ApplyRequest, b"\xff\xff")
