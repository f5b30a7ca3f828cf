"""Everything in one command: the model, every experiment, every figure.

python reproduce.py [--model gpt2|standin|PATH] [--help]

Without --model this is GPT-2 small where it can be had. Where it cannot, it is the stand-in, and a banner says so.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from settings import ENGINES, ROOT
from tensor_cache import ModelUnavailable, load_model
from utils import UserError, exit_on_user_error

EXPERIMENTS = (
    "circuit_discovery",
    "big_ds_experiments",
    "neuron_investigations",
    "sequence_generalization",
    "pca_experiments",
    "random_circuit_ablation",
    "random_years",
    "topk_years",
)
PLOTS = ("circuit_discovery_plotting", "big_ds_plotting", "neuron_plots", "appendix_plots", "pca_plots")
STEPS = (*EXPERIMENTS, *PLOTS)
BANNER = """
{line}
  NOT GPT-2. This run uses the stand-in, a small model that comes with the repository.
  Its numbers and figures are its own and say nothing of the paper's.
  Why: {reason}
{line}
"""


def choose_model(asked: str | None) -> str:
    """The model asked for, else gpt2 where it can be had, else the stand-in after a banner that says why."""
    if asked is not None:
        load_model(asked)
        return asked
    try:
        load_model("gpt2")
    except ModelUnavailable as reason:
        print(BANNER.format(line="!" * 100, reason=reason), flush=True)
        load_model("standin")
        return "standin"
    return "gpt2"


def run_script(script: str, arguments: list[str]) -> None:
    """Run one script as a user would. Raises `UserError` if it fails; it has said why."""
    print(f"\n== python {script}.py {' '.join(arguments)}", flush=True)
    start = time.monotonic()
    code = subprocess.run([sys.executable, str(ROOT / f"{script}.py"), *arguments]).returncode
    if code != 0:
        raise UserError(f"{script}.py failed (exit {code}); what earlier steps made is in place")
    print(f"== {script}.py took {time.monotonic() - start:.0f} s", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run every step in order; the first that fails ends the run."""
    sys.excepthook = exit_on_user_error
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="gpt2, standin, or a folder with a GPT-2 checkpoint")
    parser.add_argument("--engine", default="auto", choices=ENGINES)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    parser.add_argument("--n", type=int, help="sentences of each experiment, instead of its own number")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random draw")
    parser.add_argument("--as-published", action="store_true", help="the published erf GELU and 768 years")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS, metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--skip", nargs="+", choices=STEPS, default=(), metavar="STEP", help="steps to leave out")
    options = parser.parse_args(arguments)

    model = choose_model(options.model)
    flags = ["--engine", options.engine, "--device", options.device, "--seed", str(options.seed)]
    flags += ["--n", str(options.n)] if options.n is not None else []
    flags += ["--as-published"] if options.as_published else []
    for script in STEPS:
        if script in options.only and script not in options.skip:
            run_script(script, ["--model", model, *(flags if script in EXPERIMENTS else [])])


if __name__ == "__main__":
    main()
