"""A small model for `own_task.py`, trained in a minute: it has learned to repeat a colour, and nothing else.

python examples/colour_model.py FOLDER
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

# The repository's modules are one folder above; they are not installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

from reproduction.command_line import prepare

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from path_patching.gpt2.tokenizer import EOS, load_tokenizer
from path_patching.progress import progress

THINGS = ("ball", "book", "bag", "car", "chair", "coat", "cup", "door", "flag", "hat", "house", "lamp")
COLOURS = ("red", "blue", "green", "black", "brown", "pink", "orange", "purple", "gold", "yellow", "white")
TEMPLATE = "{eos} The {thing} is {colour}, so its color is"
STEPS, BATCH = 150, 64


def sentence(thing: str, colour: str) -> str:
    """A sentence whose next token is the colour again."""
    return TEMPLATE.format(eos=EOS, thing=thing, colour=colour)


def train(folder: Path) -> None:
    """Train a GPT-2 of four layers on sentences drawn at random, and save it as a checkpoint."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer()
    sizes = {"n_layer": 4, "n_head": 8, "n_embd": 64, "n_positions": 32, "vocab_size": 50257}
    model = GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    # Much weight decay: without it, nearly all of such a small model takes part in everything.
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1.0)
    every = list(itertools.product(THINGS, COLOURS))
    tokens = torch.tensor([tokenizer(sentence(*each)).input_ids for each in every])
    answers = torch.tensor([tokenizer(f" {colour}").input_ids[0] for _, colour in every])
    for _ in progress(range(STEPS), "training"):
        drawn = torch.randint(len(every), (BATCH,))
        logits = model(tokens[drawn], logits_to_keep=1).logits[:, -1]
        loss = torch.nn.functional.cross_entropy(logits, answers[drawn])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss at the end: {loss.item():.4f}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as partial:  # so that the folder appears whole or not at all
        model.save_pretrained(Path(partial) / folder.name)
        (Path(partial) / folder.name).replace(folder)


if __name__ == "__main__":
    prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the checkpoint; it must not exist yet")
    train(parser.parse_args().folder)
