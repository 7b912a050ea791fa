"""When does a test that gathers evidence at a steady rate decide? The time of a walk's first passage.

Around the mean the time varies like the first passage of a walk whose steps have a variance of twice their mean, as log
likelihood ratios of small effects do: an inverse Gaussian distribution.

Source:
    Siegmund: Sequential Analysis (1985), chapter 3; the distribution function: Chhikara, Folks (1974).
"""

import math

from scipy import special

_HALVINGS = 60


def needed_nats(evidence: float, overhead: float, level: float) -> float:
    """The information at which a share of the runs has decided.

    Args:
        evidence: log evidence that is needed, above 0.
        overhead: what the method needs on top of it on average, at least 0.
        level: share of the runs, in (0, 1).
    """
    mean = evidence + overhead
    shape = mean * mean / 2.0
    # Not scipy.stats: it takes longer to load than everything else that a look at an experiment needs.
    low, high = 0.0, mean
    while passed_by(high, mean=mean, shape=shape) < level:
        low, high = high, 2.0 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if passed_by(middle, mean=mean, shape=shape) < level:
            low = middle
        else:
            high = middle
    return high


def passed_by(time: float, *, mean: float, shape: float) -> float:
    """The share of walks that have passed: the inverse Gaussian distribution function.

    Args:
        time: at least 0.
        mean: of the passage, above 0.
        shape: of the distribution, above 0.
    """
    if time <= 0.0:
        return 0.0
    root = math.sqrt(shape / time)
    straight = float(special.ndtr(root * (time / mean - 1.0)))
    reflected = 2.0 * shape / mean + float(special.log_ndtr(-root * (time / mean + 1.0)))
    return min(1.0, straight + math.exp(min(0.0, reflected)))
