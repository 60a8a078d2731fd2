"""Write by a formula: arithmetic on the next-token distributions of several mixes.

    python -m examples.formula

A formula adds and subtracts log-probabilities. `base` is the base model; `[polite]` is the base model with one anchor,
a small trained add-on. All terms run in one forward pass. The whole language is in docs/formulas.md.
"""

from mixer import Desk, MixerError, SamplingParams

desk = Desk.load()
params = SamplingParams(max_new_tokens=40, seed=3)
prompt = "The customer said,"

for text in (
    "base",  # the base model alone
    "[polite]",  # the polite anchor at full strength
    "base + 2*([polite] - [rude])",  # the base, pushed by the difference of two anchors
    "base - 0.96*union(base, [rude])",  # the base without the tokens that the rude anchor makes likelier
    "base + 2*judge(polite, k=20)",  # a classifier, the judge, is asked about the 20 likeliest next tokens
):
    formula = desk.formula(text)  # read and checked once; it can be handed to any number of sessions
    out = desk.generate(prompt, formula=formula, params=params)
    print(f"{text}   (weights add up to {round(formula.report.weight or 0, 2)})")
    print(f"    {prompt} {' '.join(out.text.split())}\n")  # on one line

try:
    desk.formula("base + 2*[polight]")
except MixerError as error:  # says what is wrong and where, and names that are near
    print(error)
