"""Compiles `native/` where there is a C compiler; without one, everything runs on Python alone."""

import hashlib
from pathlib import Path

from setuptools import Extension, setup

SOURCES = sorted(Path("native").glob("*.[ch]"))

digest = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()
setup(
    ext_modules=[
        Extension(
            "anabranch._native",
            sources=[str(source) for source in SOURCES if source.suffix == ".c"],
            depends=[str(source) for source in SOURCES],
            # What was compiled says from what, so that it is not used beside newer sources.
            define_macros=[("SOURCE_DIGEST", f'"{digest}"')],
            extra_compile_args=["-O3", "-Wall", "-Wextra", "-Wno-missing-field-initializers"],
            libraries=["dl"],
            optional=True,
        )
    ]
)
