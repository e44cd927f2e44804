"""Draw a model as it was traced, and as its kernels.

    python examples/draw.py --layers 2 --out graphs

.dot needs nothing; .svg and .png need Graphviz's `dot`, or pip install 'planish[viz]'.
"""

import argparse
from pathlib import Path

import planish as pl

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--format", default="svg", choices=["dot", "svg", "png"])
parser.add_argument("--out", type=Path, default=Path("graphs"))
options = parser.parse_args()
options.out.mkdir(exist_ok=True)

model = pl.TinyGPT(
    vocab_size=65, embed_dim=128, num_layers=options.layers, num_heads=4, max_seq_len=64
)
graph = pl.trace(model.last_logits, pl.spec(("B", pl.Dim("T", max=64)), "i32"))
for name, pipeline in {"traced": None, "kernels": pl.PIPELINES["O2"]}.items():
    path = options.out / f"{name}.{options.format}"
    graph.draw(path, after=pipeline)
    print(f"wrote {path}")
