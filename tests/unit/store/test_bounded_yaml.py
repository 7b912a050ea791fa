"""What a hostile document does: nothing."""

import contextlib
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.store.bounded_yaml import MOST_BYTES, MOST_DEPTH, UnreadableYaml, load_yaml
from anabranch.store.document import InvalidDocument, parse, read_document

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


def test_a_billion_laughs_is_refused_at_its_first_alias() -> None:
    with pytest.raises(UnreadableYaml, match=r"line 2 uses the alias \*a: .* write the value out"):
        load_yaml(LAUGHS)


def test_a_document_that_contains_itself_is_refused() -> None:
    with pytest.raises(UnreadableYaml, match="alias"):
        load_yaml("a: &a [*a]")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_a_deep_document_is_refused_before_it_is_built(opening: str) -> None:
    with pytest.raises(UnreadableYaml, match=f"nested more than {MOST_DEPTH} deep|not valid YAML"):
        load_yaml(opening * 10_000)


def test_a_document_at_the_depth_limit_is_read() -> None:
    assert load_yaml("[" * MOST_DEPTH + "]" * MOST_DEPTH) is not None


def test_a_large_document_is_refused_by_its_size() -> None:
    with pytest.raises(UnreadableYaml, match=f"at most {MOST_BYTES}"):
        load_yaml("a" * (MOST_BYTES + 1))


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "!!python/object/new:type [x]",
        "a: !!python/module:os",
    ],
)
def test_a_tag_that_would_run_code_is_no_yaml_of_ours(text: str) -> None:
    with pytest.raises(UnreadableYaml, match="not valid YAML"):
        load_yaml(text)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=20,
    )
)
def test_what_is_dumped_without_aliases_is_read_again(value: Any) -> None:
    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    assert load_yaml(yaml.dump(value, Dumper=Plain)) == value


@settings(deadline=None)
@given(st.text(max_size=400))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    with contextlib.suppress(InvalidDocument):
        assert isinstance(read_document(text), dict)


NAMES = ["../secrets", "/etc", "a/b", "..", ".hidden", "a\nb", "a\x1b[31m", "", "a" * 129, "a\u202eb"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["model", "baseline", "candidates"])
def test_a_name_that_leaves_its_folder_or_forges_a_log_line_is_refused(name: str, field: str) -> None:
    document: dict[str, Any] = {
        "apiVersion": "anabranch/v1",
        "kind": "Experiment",
        "metadata": {"name": "x"},
        "spec": {
            "model": "m",
            "baseline": "b",
            "candidates": ["c"],
            "metrics": [{"name": "errors", "source": "error", "role": "guardrail", "max": 0.1}],
            "steps": [{"setWeight": 5}, {"analysis": {}}],
        },
    }
    parse(document)
    document["spec"][field] = [name] if field == "candidates" else name
    with pytest.raises(InvalidDocument) as refused:
        parse(document)
    assert any(f"spec.{field}" in problem for problem in refused.value.problems)
    assert all(problem.isprintable() for problem in refused.value.problems)
