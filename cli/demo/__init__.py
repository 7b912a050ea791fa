"""The main job, from nothing to a promoted variant: what `make demo` runs."""
