"""Prices of an hour of variants' hardware, for the command line."""

from __future__ import annotations

from pathlib import Path

from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.variants.errors import VariantError
from anabranch.variants.manifest import Manifest
from anabranch.variants.pricing import check_hourly_price, set_hourly_price


def check_price(hourly_price: float | None) -> None:
    """Refuse what cannot be a price, before anything long is done."""
    try:
        if hourly_price is not None:
            check_hourly_price(hourly_price)
    except VariantError as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error


def price_variant(models: Path, model: str, variant: str, hourly_price: float) -> Manifest:
    """Keep the price in a variant's manifest."""
    try:
        return set_hourly_price(models / model / variant, hourly_price)
    except VariantError as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error
