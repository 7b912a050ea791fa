"""What can go wrong with a variant, in the domain's words; the edges map these to statuses and exit codes."""


class VariantError(Exception):
    """A variant cannot be fetched, built, loaded or run."""


class FetchError(VariantError):
    """A pinned package could not be fetched, or its bytes are not the pinned ones."""


class RecipeError(VariantError):
    """A recipe is unknown, or this machine or this model cannot run it."""


class BuildError(VariantError):
    """An artifact was built, but is not what its recipe promises."""


class ManifestError(VariantError):
    """A manifest is missing, unreadable, or does not match the bytes beside it."""


class VariantInputError(VariantError):
    """A request's inputs do not fit the variant's signatures: the client's mistake, not the variant's."""


class VariantRunError(VariantError):
    """The engine failed on inputs that fit the signatures: the variant's mistake."""
