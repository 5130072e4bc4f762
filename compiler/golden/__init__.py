"""The golden graphs that come with the source tree: models, weights, references, sidecars."""
