"""Write by a formula: arithmetic on the next-token distributions of several mixes.

    python examples/formula.py

Every term in brackets is a mix of its own, and all of them run in one forward pass. See docs/formulas.md.
"""

from mixer import Desk, MixerError, SamplingParams

desk = Desk.load()
params = SamplingParams(max_new_tokens=40, seed=3)
prompt = "The customer said,"

for text in (
    "base",  # the base model alone
    "[polite]",  # one anchor
    "base + 2*([polite] - [rude])",  # the base, pushed along a difference
    "base - 0.96*union(base, [rude])",  # less of what is likely under the base or the rude anchor
    "base + 2*judge(polite, k=20)",  # a judge is asked about the 20 likeliest tokens
):
    formula = desk.formula(text)  # read and checked once; it can be handed to any number of sessions
    out = desk.generate(prompt, formula=formula, params=params)
    print(f"{text}   (weights add up to {round(formula.report.weight or 0, 2)})\n    {prompt}{out.text}\n")

try:
    desk.formula("base + 2*[polight]")
except MixerError as error:  # says where and what, and the nearest names
    print(error)
