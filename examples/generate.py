"""Write text with a model that examples/train.py (or `planish train`) made.

    python examples/generate.py nano.safetensors --prompt "The " -n 300

Prompt and new tokens together fit into the model's context, unless `sliding_window` lets the
beginning go.
"""

import argparse
import time

import planish as pl

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model")
parser.add_argument("--prompt", default="The ")
parser.add_argument("-n", type=int, default=300, help="new characters")
parser.add_argument("--temperature", type=float, default=0.8)
parser.add_argument("--top-k", type=int, default=20)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

model, tokenizer = pl.load_model(options.model)
print(options.prompt, end="")
started = time.perf_counter()
pl.generate_text(
    model,
    tokenizer,
    options.prompt,
    options.n,
    temperature=options.temperature,
    top_k=options.top_k,
    seed=options.seed,
    sliding_window=True,
    stream=lambda text: print(text, end="", flush=True),
)
print(f"\n\n{options.n} characters in {time.perf_counter() - started:.2f} s with compilation")
