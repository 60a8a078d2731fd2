"""Speed, side by side with peers: decoding, batches of different mixes, slider moves; each check_all on right answers.

One worker process a runtime (ours, transformers with PEFT, llama.cpp); only one of them works at a time.
"""
