from dataclasses import replace
from pathlib import Path

import pytest

from anabranch.router.settings import InvalidSettings, Settings, assignment_key
from anabranch.router.shared_key import KeyMismatch, check_key, fingerprint
from anabranch.store.memory import MemoryStore


def replica(folder: Path, name: str) -> Settings:
    (folder / name).mkdir()
    return Settings(models=folder, state=folder / name)


def test_the_first_servers_key_is_the_stores_and_one_that_has_it_may_join(tmp_path: Path) -> None:
    replicas = MemoryStore().replicas
    first, second = replica(tmp_path, "first"), replica(tmp_path, "second")
    check_key(first, replicas)
    check_key(first, replicas)
    joining = replace(second, assignment_key_file=first.key_file)
    check_key(joining, replicas)
    assert assignment_key(joining) == assignment_key(first)
    assert not (second.state / "assignment.key").exists()


def test_another_key_is_refused_with_where_the_right_one_is(tmp_path: Path) -> None:
    replicas = MemoryStore().replicas
    first, second = replica(tmp_path, "first"), replica(tmp_path, "second")
    check_key(first, replicas)
    with pytest.raises(
        KeyMismatch, match=r"copy assignment\.key from the state folder of one of them"
    ) as caught:
        check_key(second, replicas)
    assert fingerprint(assignment_key(first)) in str(caught.value)


def test_the_store_learns_nothing_of_the_key(tmp_path: Path) -> None:
    replicas = MemoryStore().replicas
    first = replica(tmp_path, "first")
    check_key(first, replicas)
    kept = replicas.pin("assignment key", "")
    assert len(kept) == 16
    assert bytes.fromhex(kept) not in assignment_key(first)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "cannot be read: No such file"), (b"short", "holds 5 bytes")]
)
def test_a_given_key_that_is_none_is_refused_and_not_made_up(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    given = tmp_path / "given.key"
    if content is not None:
        given.write_bytes(content)
    with pytest.raises(InvalidSettings, match=reason):
        assignment_key(replace(replica(tmp_path, "first"), assignment_key_file=given))
    assert given.exists() is (content is not None)
