"""Prompts of a chat model: turns between special tokens, which no text can forge."""

from anabranch.variants.errors import VariantError
from anabranch.variants.llm.byte_pairs import BytePairs
from anabranch.variants.llm.description import ChatFormat

_NEWLINE = "\n"


def prompt_tokens(pieces: BytePairs, chat: ChatFormat | None, message: str) -> list[int]:
    """The tokens that make the model answer a message.

    Args:
        pieces: The tokenizer.
        chat: How turns are marked; None takes the message as it is.
        message: What the user says.

    Raises:
        VariantError: The vocabulary lacks a mark.
    """
    if chat is None:
        return pieces.encode(message)
    try:
        start, end = pieces.special(chat.start), pieces.special(chat.end)
    except KeyError as error:
        raise VariantError(f"the vocabulary has no special token {error}: it is of another model") from None
    newline = pieces.encode(_NEWLINE)
    turns = [("system", chat.system)] if chat.system is not None else []
    turns.append(("user", message))
    tokens: list[int] = []
    for who, text in turns:
        tokens += [start, *pieces.encode(f"{who}{_NEWLINE}{text}"), end, *newline]
    return [*tokens, start, *pieces.encode(f"assistant{_NEWLINE}")]
