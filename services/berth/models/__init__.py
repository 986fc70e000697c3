"""Models to serve: portable artefacts, what their programs cost, and the packages that carry them."""
