import numpy as np
import pytest

from anabranch.variants.errors import VariantInputError
from anabranch.variants.llm.sampling import Sampling, choose, read_sampling

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def test_temperature_zero_takes_the_most_likely_token() -> None:
    assert {choose(LOGITS, Sampling(), u) for u in (0.0, 0.5, 0.999)} == {0}


@pytest.mark.parametrize(
    ("u", "token"), [(0.0, 0), (0.49, 0), (0.51, 1), (0.79, 1), (0.81, 2), (0.999999, 3)]
)
def test_a_draw_falls_where_the_probabilities_say(u: float, token: int) -> None:
    assert choose(LOGITS, Sampling(temperature=1.0), u) == token


def test_tokens_beyond_the_share_are_never_drawn() -> None:
    sampling = Sampling(temperature=1.0, top_p=0.7)
    drawn = [choose(LOGITS, sampling, u) for u in np.linspace(0, 1, 1000, endpoint=False)]
    assert set(drawn) == {0, 1}
    assert drawn.count(0) == pytest.approx(625, abs=1)


def test_a_low_temperature_sharpens_and_a_high_one_flattens() -> None:
    u = np.linspace(0, 1, 1000, endpoint=False)
    shares = {
        t: np.mean([choose(LOGITS, Sampling(temperature=t), x) == 0 for x in u]) for t in (0.5, 1.0, 100.0)
    }
    assert shares[0.5] > shares[1.0] > shares[100.0]
    assert shares[100.0] == pytest.approx(0.25, abs=0.01)


def test_parameters_are_read_from_json_with_numbers_as_numbers_or_strings() -> None:
    given = b'{"max_tokens": "7", "temperature": 0.5, "top_p": "0.9", "seed": 3}'
    assert read_sampling(given) == Sampling(max_tokens=7, temperature=0.5, top_p=0.9, seed=3)
    assert read_sampling(b'{"seed": null}') == Sampling()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"{", "is no JSON"),
        (b"[]", "is a list, must be a JSON object"),
        (b'{"top_k": 3}', "has \\['top_k'\\], allowed are"),
        (b'{"max_tokens": 0}', "max_tokens is 0, must be at least 1"),
        (b'{"max_tokens": 1.5}', "max_tokens is 1.5, must be a whole number"),
        (b'{"max_tokens": true}', "max_tokens is True, must be a whole number"),
        (b'{"temperature": -1}', "temperature is -1, must be in 0..100"),
        (b'{"temperature": "nan"}', "temperature is 'nan', must be a number"),
        (b'{"temperature": "hot"}', "temperature is 'hot', must be a number"),
        (b'{"top_p": 0}', "top_p is 0, must be above 0"),
        (b'{"seed": -1}', "seed is -1, must be at least 0"),
    ],
)
def test_what_no_answer_could_meet_is_refused(given: bytes, message: str) -> None:
    with pytest.raises(VariantInputError, match=message):
        read_sampling(given)
