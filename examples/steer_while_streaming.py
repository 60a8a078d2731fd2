"""Move a slider while a text is being written.

    python -m examples.steer_while_streaming

A `Mix` says where all sliders stand, such as formality at 1. It is a value that never changes: to move a slider, give
the running session another mix. The very next token is drawn under it.
"""

from mixer import Desk, SamplingParams

desk = Desk.load()  # the shipped base model, and its anchors: a small trained add-on for each end of each slider
print(f"Sliders: {', '.join(desk.attributes)}\n")

session = desk.session(
    "Dear neighbour,",
    mix=desk.mix(formality=1),  # from -1, casual, to 1, formal; sliders that are not named stay at rest
    params=SamplingParams(max_new_tokens=80, min_new_tokens=80, seed=7),
    on_mix_change="refill",  # after a move, read the text again under the new mix, so that every step is exact
)
for step in session:
    print(step.text, end="", flush=True)
    if step.index == 30:
        session.mix = desk.mix(formality=-1)
        print(" | formality -1 | ", end="")

print("\n")
for segment in session.segments:  # the finished text, divided where the mix changed
    print(f"{len(segment.token_ids):3} tokens under: {segment.mix}")
# Judges are small classifiers: each scores a text from 0 to 1.
print("Scores of the judges:", {name: round(score, 2) for name, score in desk.scores(session.text).items()})
