"""The forward pass of Llama-shaped models on a CPU, compiled by numba: one call for any tokens of any rows.

Every number is summed in an order of its own, whatever else is in the batch: a row's logits are the same bit for bit
alone or among others, prefilled or decoded, whichever anchors other rows use. `lanes` holds the vector products,
`step` the transformer, `team` the threads, `network` the weights and the cache.
"""
