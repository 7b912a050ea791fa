"""What an hour of a variant's hardware costs: said by a person, kept in the manifest."""

from dataclasses import replace
from pathlib import Path

from anabranch.bandit.spec import LEAST_PRICE, MOST_PRICE
from anabranch.variants.errors import ManifestError, VariantError
from anabranch.variants.manifest import MANIFEST, Manifest, read_manifest, save_manifest


def check_hourly_price(hourly_price: float) -> None:
    """Refuse what cannot be a price.

    Raises:
        VariantError: With what is allowed.
    """
    if not LEAST_PRICE <= hourly_price <= MOST_PRICE:
        raise VariantError(
            f"price {hourly_price:g} of an hour must be from {LEAST_PRICE:g} to {MOST_PRICE:g}: give it in another currency"
        )


def set_hourly_price(folder: Path, hourly_price: float) -> Manifest:
    """Write the price into the manifest of a variant; every other field stays.

    Args:
        folder: The variant's.
        hourly_price: Of an hour of the hardware that answers one batch at a time, in any currency, the same for all.

    Raises:
        VariantError: The price is out of range, or there is no manifest.
    """
    check_hourly_price(hourly_price)
    manifest = replace(read_manifest(folder), hourly_price=hourly_price)
    draft = folder / ".pricing"
    draft.mkdir(exist_ok=True)
    save_manifest(manifest, draft)
    # A server that reads the manifest meanwhile reads the old one or the new one.
    (draft / MANIFEST).replace(folder / MANIFEST)
    draft.rmdir()
    return manifest


def keep_price(manifest: Manifest, older: Path) -> Manifest:
    """A manifest that is about to replace another one, with the price that a person said of that one.

    Args:
        manifest: The new one; a price of its own comes first.
        older: The folder of the variant that it replaces, where there is one.
    """
    if manifest.hourly_price is not None:
        return manifest
    try:
        return replace(manifest, hourly_price=read_manifest(older).hourly_price)
    except ManifestError:
        return manifest
