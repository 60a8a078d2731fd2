"""Formulas: arithmetic on next-token distributions.

A formula passes through these stages: text -> tokens (`lexer`) -> tree (`parser`) -> checked (`check`) -> bound
(`bind`).
`compile` runs all of them. `mixer.decoding.evaluate` computes a bound formula.

Source: Dekoninck et al., "Controlled Text Generation via Language Model Arithmetic", arXiv 2311.14479.
"""
