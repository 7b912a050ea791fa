from pathlib import Path

from anabranch.router.metrics.document import text

PAGE = Path(__file__).parents[4] / "docs" / "metrics.md"


def test_the_page_says_what_the_code_exposes() -> None:
    assert PAGE.read_text() == text(), "write it again: make reference"
