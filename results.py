"""Every number of the paper beside the measured one: python results.py [--model gpt2|standin|PATH] [--check]

Run the experiments first (`make figures` runs them and this). The table is printed, and published in paper-plots as
results.md and results.json. The paper's numbers and the verdicts are for GPT-2 small alone. With --check, the exit
status is 1 where a verdict is not “agrees”.
"""

# %% Whose artifacts? In an interactive window, change the settings below.
import sys
from dataclasses import asdict, dataclass

from paper_claims import CLAIMS
from plots import start_plots
from results_table import NOT_MEASURED, markdown, row_of
from settings import PlotSettings, flag, read_settings
from steps import EXPERIMENTS, read_experiments


@dataclass(frozen=True)
class ResultsSettings(PlotSettings):
    """With what to do where a verdict fails."""

    check: bool = flag(False, "exit with status 1 where a verdict fails")


# %% Which runs are there?
settings = read_settings(__doc__, ResultsSettings())
made = read_experiments(settings.artifact_folder())
summary = start_plots("results", settings, *made.values(), might_read=tuple(EXPERIMENTS))

# %% What did they measure, and what does the paper say?
rows = [row_of(claim, made) for claim in CLAIMS]
table = markdown(rows, summary.titled("The paper's numbers and the measured ones"))
print(table)

# %% Publish the table.
summary.publication.stage("results.md", table.encode())
summary.publish(table=[asdict(row) for row in rows])

# %% Does everything agree?
if settings.check:
    failed = [
        f"{row.section}: {row.what} ({row.measured}, not {row.paper})" for row in rows if row.verdict == "differs"
    ]
    missing = [f"{row.section}: {row.what}" for row in rows if row.paper and row.measured == NOT_MEASURED]
    if not any(row.paper for row in rows):
        print("nothing to check: these are not GPT-2 small's results, and the paper has no others")
    for line in [*failed, *(f"{line} (not measured)" for line in missing)]:
        print(f"failed: {line}", file=sys.stderr)
    if failed or missing:
        sys.exit(1)
