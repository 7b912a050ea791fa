"""The script that runs in Envoy, in the Lua that Envoy has, against the Python that it must equal."""

import hashlib
import itertools
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lupa.luajit21 import LuaRuntime

from anabranch.bandit.assignment import assign, lay_out, unit_point
from anabranch.bandit.snapshot import Snapshot
from anabranch.mesh.access_log import read_assigned
from anabranch.mesh.resources import script
from anabranch.mesh.routes import script_routes
from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.scan import scan
from anabranch.router.assignment_id import Assignment, AssignmentIds
from anabranch.store.records import Flag

KEY = bytes(range(32))
VERSIONS = itertools.count()


@pytest.fixture(scope="session")
def lua(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The script's functions; text is bytes there."""
    # A path with what must be quoted.
    key_file = tmp_path_factory.mktemp('k"e\\y') / "assignment.key"
    key_file.write_bytes(KEY)
    runtime = LuaRuntime(encoding=None)
    functions = runtime.execute(script(key_file).encode())
    return Script(runtime, functions)


class Script:
    """Calls the script with Python's values."""

    def __init__(self, runtime: Any, functions: Any) -> None:
        self._runtime = runtime
        self._functions = functions

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._functions[name.encode()]  # type: ignore[no-any-return]  # a function of Lua

    def table(self, value: Any) -> Any:
        """Python's lists and dicts as Envoy gives them to the script."""
        if isinstance(value, Mapping):
            pairs = {str(key).encode(): self.table(each) for key, each in value.items()}
            return self._runtime.table_from(pairs)
        if isinstance(value, list):
            return self._runtime.table_from([self.table(each) for each in value])
        return value.encode() if isinstance(value, str) else value

    def metadata(self, routes: Mapping[str, Any]) -> Any:
        """The route's metadata, as the script asks for it."""
        values = self.table(routes)
        make = self._runtime.eval(b"function(t) return {get = function(_, key) return t[key] end} end")
        return make(values)


@given(key=st.binary(min_size=1, max_size=64), message=st.binary(min_size=1, max_size=400))
def test_digests_are_blake2b(lua: Script, key: bytes, message: bytes) -> None:
    digest, _word = lua.hasher(key, 16)(message)
    assert digest == hashlib.blake2b(message, digest_size=16, key=key).digest()


@given(
    salt=st.binary(min_size=1, max_size=32).map(lambda raw: raw.hex().encode()),
    unit=st.binary(min_size=1, max_size=200),
    weights=st.lists(st.floats(0, 0.3), max_size=3),
)
def test_units_get_their_arms(lua: Script, salt: bytes, unit: bytes, weights: list[float]) -> None:
    layout = lay_out(weights)
    point = lua.unit_point(lua.hasher(salt, 8), unit)
    assert point == unit_point(salt, unit)
    arm = lua.arm_at(lua.table(list(layout.ends)), lua.table(list(layout.owners)), point)
    assert arm == assign(layout, point)[0]


def test_a_point_on_a_border_belongs_to_the_right(lua: Script) -> None:
    layout = lay_out([0.25, 0.25])
    for point in (0.0, *layout.ends[:-1], 1 - 2**-53):
        arm = lua.arm_at(lua.table(list(layout.ends)), lua.table(list(layout.owners)), point)
        assert arm == assign(layout, point)[0]


@given(
    experiment=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 2**32 - 1),
    arm=st.integers(0, 255),
    flags=st.integers(0, 31),
    lane=st.integers(0, 2**32 - 1),
    thread=st.integers(0, 2**31 - 1),
    number=st.integers(0, 2**32 - 1),
    propensity=st.floats(0, 1, width=32),
)
def test_ids_are_those_of_the_router(
    lua: Script,
    experiment: int,
    epoch: int,
    arm: int,
    flags: int,
    lane: int,
    thread: int,
    number: int,
    propensity: float,
) -> None:
    text = lua.assignment_id(
        lua.hasher(KEY, 8), experiment, epoch, arm, flags, lane, thread, number, propensity
    )
    expected = Assignment(
        experiment=experiment,
        epoch=epoch,
        arm=arm,
        flags=Flag(flags),
        lane=lane,
        sequence=thread << 32 | number,
        top1=-1,
        propensity=propensity,
    )
    assert AssignmentIds(KEY).open(text.decode()) == expected
    assert text.decode() == AssignmentIds(KEY).seal(expected)


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


@given(
    name=st.text(max_size=20),
    version=st.text(max_size=20),
    raw=st.lists(st.binary(max_size=300), max_size=3),
    parameters=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_the_name_and_the_version_of_a_message_are_read_and_replaced(
    lua: Script, name: str, version: str, raw: list[bytes], parameters: dict[str, str]
) -> None:
    request = pb.ModelInferRequest(model_name=name, model_version=version, raw_input_contents=raw)
    for key, value in parameters.items():
        request.parameters[key].string_param = value
    frame = framed(request.SerializeToString())
    assert lua.head(frame) == (name.encode(), version.encode())
    longer = lua.extended(frame, lua.renamed(b"far", b"3"))
    assert int.from_bytes(longer[1:5], "big") == len(longer) - 5
    request.model_name, request.model_version = "far", "3"
    assert pb.ModelInferRequest.FromString(longer[5:]) == request


@given(noise=st.binary(max_size=80))
def test_noise_is_refused_or_read_as_our_own_reader_reads_it(lua: Script, noise: bytes) -> None:
    found, _why = lua.head(framed(noise))
    try:
        head = scan(noise)
    except ValueError:
        return
    if found is not None:
        assert found == head.model_name.encode()


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (b"", b"ends within a message"),
        (b"\1\0\0\0\0", b"compressed"),
        (framed(b"") + b"x", b"not one whole message"),
        (framed(b"\x0a\x05abc"), b"ends within a field"),
        (framed(b"\x3a"), b"ends within a field"),
        (framed(b"\x09abc"), b"ends within a field"),
        (framed(b"\x0b"), b"no protobuf"),
    ],
)
def test_what_is_no_message_is_refused_with_the_reason(lua: Script, frame: bytes, words: bytes) -> None:
    found, why = lua.head(frame)
    assert found is None
    assert words in why


def test_the_answer_tells_who_answered(lua: Script) -> None:
    answer = pb.ModelInferResponse(model_name="far", model_version="3", id="mine")
    more = lua.told(b"m", b"b", b"some-id", b"e")
    told = pb.ModelInferResponse.FromString(lua.extended(framed(answer.SerializeToString()), more)[5:])
    assert (told.model_name, told.model_version, told.id) == ("m", "b", "mine")
    said = {name: value.string_param for name, value in told.parameters.items()}
    assert said == {"invoked_variant": "b", "assignment_id": "some-id", "experiment": "e"}


@pytest.fixture
def known(lua: Script, snapshot: Snapshot, manifests: Any) -> Callable[..., Any]:
    """What the script has made of a snapshot; it keeps the last one, by its version."""

    def make(**options: Any) -> Any:
        made = script_routes(snapshot, manifests, lane=9, version=f"v{next(VERSIONS)}", **options)
        return lua.routes(lua.metadata(made))

    return make


def test_an_assigned_request_says_what_its_record_needs(
    lua: Script, known: Callable[..., Any], snapshot: Snapshot
) -> None:
    routes = known()
    model = routes[b"models"][b"m"]
    for number in range(40):
        unit = f"user-{number}".encode()
        choice = lua.assign(routes, model, unit, 0.0)
        arm, propensity = assign(snapshot.routes["m"].layout, unit_point(b"5a17", unit))
        assert choice[b"variant"] == (b"a", b"b")[arm]
        record = read_assigned(choice[b"record"].decode())
        assert (record.experiment, record.epoch, record.arm, record.lane) == (7, 3, arm, 9)
        assert record.flags == Flag.EVIDENCE | Flag.STICKY
        assert record.propensity == propensity
        assert record.unit == AssignmentIds(KEY).digest(unit)
        said = AssignmentIds(KEY).open(choice[b"id"].decode())
        assert (said.sequence, said.flags, said.arm) == (record.sequence, record.flags, arm)


def test_an_ejected_candidate_is_charged_and_the_baseline_asked(
    lua: Script, known: Callable[..., Any]
) -> None:
    routes = known(ejected=[("m", "b")])
    model = routes[b"models"][b"m"]
    flags = set()
    for number in range(40):
        choice = lua.assign(routes, model, b"user-%d" % number, 0.0)
        assert choice[b"variant"] == b"a"
        record = read_assigned(choice[b"record"].decode())
        flags.add((record.arm, Flag.MASKED in record.flags))
    assert flags == {(0, False), (1, True)}


def test_a_request_without_its_unit_is_the_baselines_and_outside(
    lua: Script, known: Callable[..., Any]
) -> None:
    routes = known()
    for unit in (None, b""):
        choice = lua.assign(routes, routes[b"models"][b"m"], unit, 0.0)
        assert choice[b"variant"] == b"a"
        assert choice[b"record"] is None


def test_without_the_key_nobody_is_assigned(snapshot: Snapshot, manifests: Any, tmp_path: Path) -> None:
    runtime = LuaRuntime(encoding=None)
    lua = Script(runtime, runtime.execute(script(tmp_path / "missing").encode()))
    routes = lua.routes(lua.metadata(script_routes(snapshot, manifests, lane=9, version="1")))
    choice = lua.assign(routes, routes[b"models"][b"m"], b"user-1", 0.0)
    assert (choice[b"variant"], choice[b"record"]) == (b"a", None)


def test_numbers_of_one_state_of_the_script_never_repeat(lua: Script, known: Callable[..., Any]) -> None:
    routes = known()
    model = routes[b"models"][b"m"]
    numbers = [
        read_assigned(lua.assign(routes, model, b"u", 0.0)[b"record"].decode()).sequence for _ in range(100)
    ]
    assert numbers == list(range(numbers[0], numbers[0] + 100))


def test_a_client_names_no_cluster(lua: Script) -> None:
    gone: list[bytes] = []
    path = b"/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
    make = lua._runtime.eval(
        b"function(path, gone) return {headers = function() return {"
        b"get = function() return path end, remove = function(_, name) gone(name) end} end} end"
    )
    lua.on_request(make(path, gone.append))
    assert gone == [b"x-anabranch-cluster"]


def test_the_script_is_shipped_with_the_package() -> None:
    assert resources.files("anabranch.mesh").joinpath("assign.lua").is_file()
