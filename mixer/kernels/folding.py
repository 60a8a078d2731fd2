"""The product that folds adapters into packed weights, compiled. Knows arrays alone, no mixes. Shapes: see `layout`."""

from __future__ import annotations

from mixer.kernels.simd import PANEL, accumulate, entry


@entry
def add_products(delta, first, factors, b):
    """`delta += factors @ b` for the panels of one module in all layers.

    Args:
        delta: `(L, panels of the group, depth, 64)`; the module's panels begin at `first`.
        factors: `(L, depth, n)`, n columns of the transposed A, each times the change of its coefficient.
        b: `(L, panels, n, 64)`, the same n columns of B.
    """
    layers, panels, count, _ = b.shape
    depth = factors.shape[1]
    for layer in range(layers):
        for panel in range(panels):
            to, at = delta[layer, first + panel], (layer * panels + panel) * count * PANEL
            accumulate(to, 0, PANEL, factors, layer * depth * count, count, depth, b, at, count)
