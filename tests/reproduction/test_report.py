"""The report: one file, everything in it, read and used in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from path_patching.files import ROOT
from path_patching.gpt2.names import STANDIN_FOLDER
from reproduction import story
from reproduction.report import Figure, page
from reproduction.run import read_artifacts
from reproduction.steps import read_experiments
from tests.helpers.made import MODEL, draw_figures, publish_experiments
from tests.helpers.scripts import error_line, output, run_script
from tests.helpers.whole import EFFECTS, FIGURES, LONG, labels_of_circuit, make_whole

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def run(word: str, folder: Path):
    flags = ["--artifacts", str(folder / "artifacts"), "--out", str(folder / "plots")]
    return run_script(ROOT / "reproduce.py", word, *flags)


@pytest.fixture
def made(tmp_path):
    """All that a report is made of."""
    publish_experiments(tmp_path / "artifacts")
    draw_figures(tmp_path / "artifacts", tmp_path / "plots", dict.fromkeys(FIGURES, ""))
    output(run("results", tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return make_whole(tmp_path_factory.mktemp("whole"))


def test_one_file_holds_everything(report):
    text = report.read_text()
    outside_scripts = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", outside_scripts), "the page loads nothing"
    assert len(text) < 20e6
    assert outside_scripts.count("data:image/png") == 0, "PNGs of all figures would take 18 MB"
    assert "Not GPT-2 small" in text
    assert "81.7 points [80.7, 82.7]" in text
    assert 'href="#run-big_ds_experiments"' in text
    assert MODEL.fingerprint.partition("(")[0] in text


def test_a_name_is_shown_as_it_was_given_and_runs_nothing(report):
    name = 'R&D <b>"x" | $y$ </script><script>alert(1)</script>'
    seen = Text()
    seen.feed(page_of_model(report, name))
    assert sum(name in each for each in seen.said) >= 2  # the title, and which model it is
    assert "alert" not in "".join(seen.scripts)


def page_of_model(report: Path, name: str) -> str:
    """The page, without figures, as if a model of this name had been run."""
    runs = read_experiments(report.parent.parent / "artifacts")
    for script, made in runs.items():
        runs[script] = replace(made, record=made.record | {"model": made.record["model"] | {"name": name}})
    return page(f"title {name}", "a command", runs, read_artifacts(report.parent, "results"), {}, {})


class Text(HTMLParser):
    """What a page says, and its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.scripts: list[str] = []

    def handle_data(self, data: str) -> None:
        (self.scripts if self.lasttag == "script" and self.cdata_elem else self.said).append(data)


def test_an_effect_names_the_command_that_explains_it(report):
    commands = re.findall(r"python reproduce.py explain ([^<]+) --model [^<]+<", report.read_text())
    assert {"logits-ipp a9.h1", "logits-ipp m10"} < {*commands}
    shown = re.findall(r'<code class="faint">(?:ipp_logits|ipp_mlp9).pt', report.read_text())
    assert len(commands) == len(shown)


def test_the_paper_s_words_and_what_was_measured_are_told_apart(report):
    text = html.unescape(report.read_text())
    panel = text.partition('<article class="evidence" id="a9.h1@END"')[2].partition("</article>")[0]
    assert "The paper (GPT-2 small):</span> One of the heads" in panel
    assert f"Measured here ({MODEL.name}):</span> its largest " in re.sub("<a [^>]*>|</a>", "", panel)


def test_a_figure_stands_under_the_question_that_it_answers(report):
    text = report.read_text()
    places = {name: text.index(f'<figure id="{name.replace("/", "-")}"') for name in FIGURES}
    heading = {name: text.rindex('<h2 id="', 0, place) for name, place in places.items()}
    asked = {name: re.match(r'<h2 id="([\w-]+)"', text[at:])[1] for name, at in heading.items()}
    assert asked == {
        "logits-ipp": "nodes",
        "attn-patterns": "read",
        "appendix/three": "others",
        "mlps-ipp": "nodes",
        "appendix/generalization-probs-1": "prompts",
        "patched-probability-heatmap": "alone",
    }


def test_what_a_figure_shows_already_is_named_and_not_shown_again(report):
    text = report.read_text()
    first = {"appendix/m9-ipp": "mlps-ipp", "late-half-probability-heatmap": "patched-probability-heatmap"}
    for again, by in first.items():
        assert f'<figure id="{again.replace("/", "-")}"' not in text
        assert re.search(rf'<a href="#{by}">[^<]*</a> shows the same as <code>{again}</code>', text)
    assert text.count("<figure id=") == len(FIGURES)
    assert text.count('type="application/json"') == len(FIGURES)


def test_the_commands_of_a_section_stand_once_and_folded(report):
    text = report.read_text()
    of_nodes = text[text.index('<h2 id="nodes"') :].partition("</section>")[0]
    assert of_nodes.count("circuit_discovery_plotting.py") == 1
    assert "circuit_discovery_plotting.py" in of_nodes.partition("<summary>How this section was made</summary>")[2]


def test_what_to_doubt_is_a_list(report):
    (doubts,) = re.findall(r"so that a reader should doubt:</p>\s*<ul>(.*?)</ul>", report.read_text())
    assert doubts.count("<li>whether ") == doubts.count("whether ") > 0


def test_the_box_at_the_top_says_what_the_stand_in_is(report):
    for name, said in {"stand-in": story.words()["stand-in"], "another": "They say nothing of GPT-2."}.items():
        box = page_of_model(report, name).partition('<p class="note" role="note">')[2].partition("</p>")[0]
        assert said in html.unescape(box)
        assert f"the results of {'the ' if name == 'stand-in' else ''}{name}." in box


def test_the_stand_in_is_as_small_as_it_is_said_to_be():
    sizes = json.loads((STANDIN_FOLDER / "config.json").read_text())
    assert f": {sizes['n_layer']} layers of width {sizes['n_embd']}, a sixth of" in story.words()["stand-in"]
    assert round(768 / sizes["n_embd"]) == 6


def test_the_words_of_the_validation_and_of_links_are_explained(report):
    text = report.read_text()
    explained = {*re.findall(r'class="word" href="#word-[^"]*">([^<]+)</a>', text)}
    assert explained >= {"CPR", "CMD", "∅", "α", "→q", "Jaccard index", "consensus", "complement", "KL divergence",
                         "corrected", "counterfactual", "NOUN", "XX1", "residual stream", "queries", "keys", "values",
                         "everything", "task", "the search", "impeded"}  # fmt: skip
    for word in {*re.findall(r'class="word" href="#(word-[^"]*)"', text)}:
        assert text.count(f'<dt id="{word}">') == 1


def test_the_page_says_what_each_number_of_links_counts(report):
    text = report.read_text()
    hidden = text.count(' thin" href="#')
    assert 0 < hidden < len(EFFECTS)
    assert f"{len(EFFECTS)} links were measured, and each has a panel. The drawing hides {hidden} at first:" in text
    assert "The circuit's size counts one from each node below: a word." in text  # what the record of this run says


def test_doubtful_verdicts_come_first_and_open(report):
    text = report.read_text()
    assert re.search(r'href="#verdicts-failed">3 failed</a>.*href="#verdicts-not_judged">1 not judged</a>.*>3 passed<',
                     text, re.DOTALL)  # fmt: skip
    assert re.search(r'<details id="verdicts-failed" open>', text)
    assert re.search(r'<details id="verdicts-passed" >', text)
    assert '<td data-label="bar">80 to 120 %</td><td data-label="corrected">passed</td>' in text
    said = html.unescape(re.sub("</?a[^>]*>", "", text))
    assert "3 have a p or an interval. Corrected for their number by Holm's method, 2 verdicts pass and 4 fail." in said
    smallest = "1 of them passed by themselves, with the smallest p that their draws can give"
    assert f"corrected for their number: 4 failed ({smallest}), 2 passed" in said
    words = "passed by itself, but not surely enough among 3 verdicts: more sentences or draws would tell"
    assert f'<td data-label="corrected">failed<br><span class="faint">{words}</span></td>' in text
    assert "<li><code>stability</code>, searches: is it found again? &lt;none&gt; of it</li>" in text


def test_what_a_circuit_should_be_is_answered_by_its_verdicts_and_leads_to_them(report):
    text = report.read_text()
    (table,) = re.findall(r'<table class="properties".*?</table>', text, re.DOTALL)
    cell = r'<td>(?:<a class="\w+" href="#([\w-]+)">|<abbr title="([^"]+)">)([^<]+)'
    cells = {
        word: re.findall(cell, row) for word, row in re.findall(r'<th scope="row">(\w+)\?(.*?)</tr>', table, re.DOTALL)
    }
    assert {word: [said for *_, said in of] for word, of in cells.items()} == {
        "sufficient": ["yes", "not judged"],
        "necessary": ["no", "–"],
        "specific": ["by 1 of 2 tests", "–"],  # the one that another's circuit fails, too
    }
    assert cells["necessary"][1][1] == "no test of this run asks for it"
    assert "at END" in cells["specific"][1][1]
    beside = re.findall(r'Failed, and in no row above: <a class="failed" href="#([\w-]+)">([^<]+)</a>\.', text)
    assert [said for _, said in beside] == ["does this change leave the answer alone, as it should? (another noun)"]
    assert "another noun" in text.partition(f'<tr id="{beside[0][0]}">')[2].partition("</tr>")[0]
    row = text.partition(f'<tr id="{cells["necessary"][0][0]}">')[2].partition("</tr>")[0]
    assert "is the ability gone without it?" in row


def test_what_is_not_judged_is_not_held_to_a_bar(report):
    unjudged = report.read_text().partition('<details id="verdicts-not_judged"')[2].partition("</details>")[0]
    assert "1 sentence" in unjudged
    assert ">bar<" not in unjudged
    assert 'data-label="bar"' not in unjudged


def test_a_drawing_is_read_from_its_right_end_and_nothing_else_is():
    shown = Figure("id", "title", "short", "", 1, 1, "", "", (), "circuit", frozenset())
    names = {"circuit": True, "validation/circuit": True, "validation/minimality-full-circuit": False}
    assert {name: replace(shown, name=name).is_drawing for name in names} == names


def test_a_remark_that_lists_many_nodes_is_folded(report):
    text = report.read_text()
    assert text.count(f"<summary>which ones</summary>{LONG}</details>") == 1
    assert "<summary>which ones</summary>1 sentence" not in text


@pytest.fixture(scope="module")
def browser() -> Iterator:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


HANGS = 120_000  # milliseconds: beside other programs a browser is slow, and that is no fault of the page


@pytest.fixture(scope="module")
def window(browser, report) -> Iterator:
    """The report in a window, and all that its console complained of and that it asked of a network."""
    page = browser.new_page()
    page.set_default_timeout(HANGS)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("request", lambda asked: complaints.append(asked.url) if asked.url.startswith("http") else None)
    page.goto(report.as_uri())
    yield page, complaints
    page.close()


@pytest.fixture
def opened(window, request):
    """The report without a panel, in a window of a width and in light or dark; a complaint fails the test."""
    page, complaints = window
    width, scheme = getattr(request, "param", (1400, "light"))
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.keyboard.press("Escape")
    yield page
    assert complaints == []


def panel(page) -> str:
    """What the panel is about; empty where it is closed."""
    return page.locator("#panel h3").inner_text() if page.locator("#panel").is_visible() else ""


@needs_browser
def test_a_click_on_a_node_shows_its_evidence_and_escape_closes_it(opened):
    assert panel(opened) == ""
    opened.locator('.drawing a.box[href="#a9.h1@END"]').click()
    assert panel(opened) == "a9.h1@END"
    text = opened.locator("#panel").inner_text()
    assert "−6.2 points" in text
    assert "44.0 % of its attention goes to YY" in text
    assert opened.url.endswith("#a9.h1@END")
    opened.keyboard.press("Escape")
    assert panel(opened) == ""
    assert opened.evaluate("document.activeElement.getAttribute('href')") == "#a9.h1@END"


@needs_browser
def test_the_keyboard_reaches_every_node_from_the_logits_down(opened):
    opened.locator("#circuit-drawing").focus()
    reached: list[str] = []
    for _ in range(len(EFFECTS) + len(labels_of_circuit()) + 2):
        opened.keyboard.press("Tab")
        at = opened.evaluate("document.activeElement.closest('a.box')?.getAttribute('href') ?? ''")
        reached += [at.removeprefix("#")] if at else []
    assert reached[0] == "logits@END"
    assert {*reached} == labels_of_circuit()
    opened.locator('.drawing a.box[href="#logits@END"]').focus()
    opened.keyboard.press("Enter")
    assert panel(opened) == "logits@END"


@needs_browser
def test_a_link_of_the_drawing_and_back_and_forward(opened):
    thickest = opened.locator(".drawing a.link").last
    thickest.focus()
    opened.keyboard.press("Enter")
    assert "−30.0 points" in opened.locator("#panel").inner_text()
    name = panel(opened)
    opened.locator("#panel .links a").first.click()
    node = panel(opened)
    assert node != name
    opened.go_back()
    assert panel(opened) == name
    opened.go_forward()
    assert panel(opened) == node
    opened.locator("#close").click()
    assert panel(opened) == ""


@needs_browser
def test_an_address_with_a_node_opens_its_panel(browser, report):
    page = browser.new_page()
    page.set_default_timeout(HANGS)
    page.goto(f"{report.as_uri()}#m10@END")
    assert panel(page) == "m10@END"
    assert page.locator(".drawing a.chosen").get_attribute("href") == "#m10@END"
    page.close()


@needs_browser
def test_the_slider_hides_thin_links(opened):
    seen = opened.locator(".drawing a.link:not(.thin)").count()
    opened.locator("#least").fill("40")
    assert 0 < opened.locator(".drawing a.link:not(.thin)").count() < seen
    assert "40 % of the strongest" in opened.locator(".controls").inner_text()
    opened.locator("#least").fill("0")
    assert opened.locator(".drawing a.link:not(.thin)").count() == len(EFFECTS)


@needs_browser
def test_a_property_leads_to_its_verdict_though_that_is_folded(opened):
    opened.locator(".properties a.passed").first.click()
    row = opened.locator("tr:target")
    assert row.is_visible()
    assert "does it alone do what the model does" in row.inner_text()


@needs_browser
@pytest.mark.parametrize("opened", [(1400, "light"), (700, "light"), (390, "light")], indirect=True)
def test_nothing_scrolls_sideways(opened):
    opened.locator('.drawing a.box[href="#a9.h1@END"]').focus()
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


@needs_browser
@pytest.mark.parametrize(("opened", "label"), [((1400, "light"), "none"), ((390, "light"), '"measured: "')],
                         indirect=["opened"])  # fmt: skip
def test_a_number_keeps_the_heading_of_its_column_where_a_row_becomes_a_block(opened, label):
    for table in ("verdicts", "results"):
        before = (
            f"getComputedStyle(document.querySelector('table.{table} td[data-label=measured]'), '::before').content"
        )
        assert opened.evaluate(before) == label


@needs_browser
@pytest.mark.parametrize("opened", [(390, "light")], indirect=True)
def test_figures_and_the_drawing_are_not_shrunk_until_they_cannot_be_read(opened):
    sheet = opened.locator('[data-plot="logits-ipp"]')
    sheet.scroll_into_view_if_needed()
    shown, drawn = sheet.evaluate("each => [each.scrollWidth, Number(each.dataset.width)]")
    assert shown >= 0.75 * drawn > 390
    assert sheet.get_attribute("tabindex") == "0", "what scrolls is reached by keyboard"
    pixels = opened.evaluate("document.querySelector('.drawing .box text').getBoundingClientRect().height")
    assert pixels >= 11


@needs_browser
@pytest.mark.parametrize(("opened", "above"), [((390, "light"), True), ((1400, "light"), False)], indirect=["opened"])
def test_on_a_phone_a_figure_s_title_stands_above_it_whole(opened, above):
    figure = opened.locator("figure.plot").first
    caption, sheet = (figure.locator(each).bounding_box() for each in ("figcaption", ".sheet"))
    assert (caption["y"] < sheet["y"]) == above


@needs_browser
@pytest.mark.parametrize(("opened", "open_"), [((390, "light"), False), ((1400, "light"), True)], indirect=["opened"])
def test_the_contents_are_folded_only_where_they_stand_above_the_text(opened, open_):
    assert opened.locator("nav a").first.is_visible() == open_
    assert opened.locator("nav summary").is_visible() != open_
    assert (opened.locator("h1").bounding_box()["y"] < 150) or open_


@needs_browser
@pytest.mark.parametrize("opened", [(1400, "dark"), (390, "dark")], indirect=True)
def test_in_the_dark_a_figure_is_a_card_with_its_own_colours(opened):
    look = "each => [each, each.querySelector('.sheet')].map(getComputedStyle)"
    colours = f"each => ({look})(each).map(style => [style.backgroundColor, style.filter])"
    around, card = opened.locator("figure.plot").first.evaluate(colours)
    assert around[0] != "rgb(255, 255, 255)"
    assert card == ["rgb(255, 255, 255)", "none"]
    assert opened.locator("figure.plot .sheet").first.evaluate("each => getComputedStyle(each).borderRadius") != "0px"


@needs_browser
@pytest.mark.parametrize("opened", [(1400, "light"), (1400, "dark"), (390, "light")], indirect=True)
def test_an_accessibility_checker_finds_nothing(opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the checker is not installed")
    opened.locator('.drawing a.box[href="#a9.h1@END"]').focus()
    opened.keyboard.press("Enter")
    found = axe.Axe().run(opened, options={"resultTypes": ["violations"]}).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found] == []


def word_of(page, word: str):
    """Where a word is explained in the first section."""
    return page.locator(f'#answer a.word[href="#word-{word}"]').first


@needs_browser
def test_a_word_is_explained_where_it_stands_by_keyboard_and_pointer(opened):
    tip = opened.locator("#tip")
    opened.mouse.move(0, 0)  # else a word may scroll below it
    word_of(opened, "END").focus()
    opened.locator("h1").hover()
    assert tip.inner_text() == story.words()["END"], "what has focus is told, whatever is under the pointer"
    assert word_of(opened, "END").get_attribute("aria-describedby") == "tip"
    opened.keyboard.press("Escape")
    assert not tip.is_visible()
    word_of(opened, "MLP").hover()
    assert tip.inner_text() == story.words()["MLP"]
    tip.hover()
    assert tip.is_visible(), "a reader may point at the tip"
    opened.locator("h1").hover()
    assert not tip.is_visible()


@needs_browser
def test_a_word_is_explained_in_the_panel_too_and_the_list_of_words_is_a_click_away(opened):
    opened.locator('.drawing a.box[href="#a9.h1@END"]').click()
    opened.locator('#panel a.word[href="#word-NOUN"]').focus()
    assert opened.locator("#tip").inner_text() == story.words()["NOUN"]
    opened.keyboard.press("Enter")
    assert opened.url.endswith("#word-NOUN")
    assert not opened.locator("#tip").is_visible()


@needs_browser
def test_on_a_phone_a_touch_explains_a_word_and_another_leads_to_the_list(browser, report):
    phone = browser.new_context(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 800})
    page = phone.new_page()
    page.set_default_timeout(HANGS)
    page.goto(report.as_uri())
    logits = page.locator('.drawing a.box[href="#logits@END"]').bounding_box()
    assert 0 <= logits["x"] <= 390 - logits["width"], "the drawing begins with the logits"
    tip = page.locator("#tip")
    for word in page.locator("#answer a.word").all():
        word.tap()
        assert tip.inner_text() == story.words()[word.get_attribute("href").removeprefix("#word-").replace("-", " ")]
        assert "#word" not in page.url
        assert page.evaluate("(({left, right}) => left >= 0 && right <= innerWidth)(tip.getBoundingClientRect())")
        page.locator("h1").tap()
        assert not tip.is_visible()
    word_of(page, "END").tap()
    word_of(page, "END").tap()
    assert page.url.endswith("#word-END")
    phone.close()


@needs_browser
def test_figures_that_are_folded_are_seen_when_they_are_asked_for_and_printed(opened):
    figure = opened.locator("#appendix-generalization-probs-1")
    assert not figure.is_visible()
    opened.locator("#more-prompts summary").click()
    assert figure.is_visible()
    opened.locator("#more-prompts summary").click()
    opened.evaluate("document.getElementById('all-links').open = false")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert figure.is_visible()
    assert opened.locator("#all-links").get_attribute("open") is None, "hundreds of panels are not printed"


@needs_browser
def test_figures_become_interactive_where_there_is_room(opened):
    sheet = opened.locator('[data-plot="logits-ipp"]')
    sheet.scroll_into_view_if_needed()
    opened.wait_for_selector('[data-plot="logits-ipp"][data-drawn]')
    assert sheet.locator(".main-svg").count() > 0


@needs_browser
def test_without_javascript_figures_tables_and_evidence_are_there(browser, report):
    window = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 800})
    page = window.new_page()
    page.set_default_timeout(HANGS)
    page.goto(report.as_uri())
    assert page.locator('article[id="a9.h1@END"]').is_visible()
    logits = page.locator('.drawing a.box[href="#logits@END"]').bounding_box()
    assert 0 <= logits["x"] <= 390 - logits["width"], "the drawing begins with the logits"
    pictures = page.locator("figure.plot img").count()
    assert pictures in (0, len(FIGURES))  # as many as could be rendered
    window.close()


def test_figures_of_an_earlier_run_are_refused(made):
    publish_experiments(made / "artifacts", off_by=0.01)
    assert "run python reproduce.py results again" in error_line(run("report", made))
    output(run("results", made))
    assert "run python circuit_discovery_plotting.py again" in error_line(run("report", made))


def test_figures_of_another_model_are_refused_by_name(made):
    publish_experiments(made / "artifacts", replace(MODEL, name="another", fingerprint="abc+gelu"))
    assert "run python" in error_line(run("report", made))


def test_without_results_one_line_says_what_to_run(tmp_path):
    publish_experiments(tmp_path / "artifacts")
    assert "run python reproduce.py results first" in error_line(run("report", tmp_path))
    assert "run python reproduce.py" in error_line(run("report", tmp_path / "nothing"))
