"""The product that folds adapters into packed weights, compiled. Knows no mixes."""

from __future__ import annotations

from mixer.kernels.simd import WIDTH, append, entry


@entry
def add_products(delta, first, factors, b):
    """`delta += factors @ b` for the panels of one module in all layers.

    Args:
        delta: `(L, panels of the group, depth, 64)`, of which the module's begin at `first`.
        factors: `(L, depth, n)`, the transposed A times the changes of the n coefficients.
        b: `(L, panels, n, 64)`.
    """
    layers, panels, count, _ = b.shape
    depth = factors.shape[1]
    for layer in range(layers):
        for panel in range(panels):
            to, at = delta[layer, first + panel], (layer * panels + panel) * count * WIDTH
            append(to, 0, WIDTH, factors, layer * depth * count, count, depth, b, at, count)
