"""Everything that numba compiles: the forward pass of Llama-shaped models on a CPU, folding, sampling and steering.

One call of the forward pass takes any tokens of any rows. Each sum is added up in a fixed order, whatever else is in
the batch: a row's logits are the same bit for bit alone or among others, prefilled or decoded, whichever anchors other
rows use. `simd` has the vector products, `layers` and `forward` the transformer, `threads` the threads, `layout` the
arrays.
"""
