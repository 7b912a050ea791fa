"""A model that a person's own code makes: an import path to a function that returns its source."""

from anabranch.variants.datasets import imported
from anabranch.variants.errors import VariantError
from anabranch.variants.llm.models import LanguageSource
from anabranch.variants.models import ModelSource


def source_from_factory(path: str) -> ModelSource | LanguageSource:
    """Call the factory at `module:function`, without arguments.

    Raises:
        VariantError: It cannot be imported, or returns something else.
    """
    factory = imported(path)
    if not callable(factory):
        raise VariantError(
            f"{path} is a {type(factory).__name__}, must be a function that returns a ModelSource or a LanguageSource"
        )
    source = factory()
    if not isinstance(source, ModelSource | LanguageSource):
        raise VariantError(
            f"{path}() returns a {type(source).__name__}, must return an anabranch.variants.models.ModelSource "
            "or an anabranch.variants.llm.models.LanguageSource"
        )
    return source
