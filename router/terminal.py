"""Whether a person's terminal controls this process: a hang-up means another thing where one did and is gone."""

import os


def has_terminal() -> bool:
    """Tell whether this process has a controlling terminal now."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
