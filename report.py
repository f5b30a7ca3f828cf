"""Everything on one page: python report.py [--model gpt2|standin|PATH]

Run the experiments, the plotting scripts and results.py first (`make figures` runs them and this). The page,
report.html in paper-plots, holds the results table, every figure, interactive, and what made each of them. It needs
no network and no other file.
"""

# %% Whose artifacts? In an interactive window, change the settings below.
from artifacts import read_artifacts
from plots import check_up_to_date, start_plots
from provenance import command
from publication import record_path
from report_page import SECTIONS, page, section_of
from settings import PlotSettings, read_settings
from steps import EXPERIMENTS, read_experiments

# %% What was made, and of which model? Everything must be of the same one, and every figure of the runs as they are.
settings = read_settings(__doc__, PlotSettings())
folder = settings.artifact_folder()
runs = list(read_experiments(folder).values())
plot_folder = settings.plot_folder(runs[0].record["settings"]["model"])
drawn = [read_artifacts(plot_folder, name) for name in SECTIONS if record_path(plot_folder, name).is_file()]
results = read_artifacts(plot_folder, "results")
for made in (results, *drawn):
    check_up_to_date(made, folder)
report = start_plots("report", settings, *runs, results, *drawn, might_read=(*EXPERIMENTS, *SECTIONS))

# %% What does the page show? The results, and the figures by the scripts that draw them.
by_record = {record_path(folder, run.script).name: run for run in runs}
sections = [section_of(figures, by_record) for figures in drawn]
html = page(report.titled("How does GPT-2 compute greater-than?"), command("report"), runs, results, sections)

# %% Publish it.
report.publication.stage("report.html", html.encode())
report.publish()
print(f"{sum(len(section.figures) for section in sections)} figures are in {plot_folder / 'report.html'}")
