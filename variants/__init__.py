"""Turn one model into variants: recipes, builders, manifests, runtimes and the batcher."""
