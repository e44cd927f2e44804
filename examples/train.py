"""Train nanoGPT's CPU model on a text file: one native call per step.

    python examples/train.py --text FILE --steps 2000 --out nano.safetensors

Without --text, the text is the language reference that every CPython carries.
"""

import argparse

import planish as pl

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--text", help="a UTF-8 file")
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--width", type=int, default=128)
parser.add_argument("--layers", type=int, default=4)
parser.add_argument("--context", type=int, default=64)
parser.add_argument("--out", default="nano.safetensors")
options = parser.parse_args()

text = pl.read_text(options.text) if options.text else pl.default_corpus()
tokenizer = pl.CharTokenizer.from_text(text)
tokens = tokenizer.encode(text)
cut = int(0.9 * len(tokens))

model = pl.TinyGPT(
    vocab_size=len(tokenizer),
    embed_dim=options.width,
    num_layers=options.layers,
    num_heads=4,
    max_seq_len=options.context,
    dropout=0.0,
)
trainer = pl.Trainer(
    model,
    pl.optim.AdamW(betas=(0.9, 0.99), weight_decay=0.1),
    schedule=pl.optim.cosine(1e-3, 1e-4, warmup=options.steps // 20, steps=options.steps),
    batch=12,
    tokenizer=tokenizer,
)
print(f"{model.count_parameters():,} parameters, {len(tokens):,} characters")
losses = trainer.fit(tokens[:cut], steps=options.steps)
print(f"training loss   {losses[0]:.3f} -> {losses[-1]:.3f}")
print(f"validation loss {trainer.evaluate(tokens[cut:][:50_000]):.3f}")
pl.save(model, options.out, tokenizer)
print(f"wrote {options.out}")
