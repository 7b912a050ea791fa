from pathlib import Path

from anabranch.proto.page import text

PAGE = Path(__file__).parents[3] / "docs" / "messages.md"


def test_the_page_says_what_the_protocol_files_say() -> None:
    assert PAGE.read_text() == text().rstrip("\n") + "\n", "write it again: make proto"
