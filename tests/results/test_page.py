"""The report: from files alone, whole or not at all, readable anywhere."""

import base64
import csv
import dataclasses
import html
import html.parser
import json
import re
import shutil
import statistics
import subprocess

import pytest
import runs
import written
from PIL import Image
from written import CHOSEN, CONTROL, ELITE, EXPANDED, TARGET

from nss_jax.errors import UserError
from nss_jax.phases import pipeline, report
from nss_jax.phases import workdir as workdirs
from nss_jax.results import page as pages
from nss_jax.results import trained as trained_lib
from nss_jax.results.contents import read_contents
from nss_jax.results.network_tables import paper_row, read_paper
from nss_jax.results.networks import Network

HOSTILE = "</td><script>alert(1)</script>\n\a<b>\"$x$ & 'y'|"
EXPERIMENTS = {"principles", "complexity", "sweep"}
PICTURES = (
  *("elite_space", "trajectory", "pareto", "spaces", "trained", "rank_check"),
  *("principles", "complexity", "targets"),
)
TABLES = (
  *("choice", "candidates", "spaces", "groups", "nas", "nas_runs", "race"),
  *("train", "rank_check", "principles", "complexity", "targets"),
  "targets_nas",
)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
  """A tiny search that is not run; the workdir is replaced by each test."""
  overrides = {**runs.TINY, "objective.target_flops": TARGET}
  config = runs.load_config(**overrides)
  workdir = tmp_path_factory.mktemp("none")
  return runs.make_job(config, workdir, phases=("report",))


@pytest.fixture(scope="module")
def finished(job, tmp_path_factory):
  """A workdir that holds everything; not to be written to."""
  workdir = tmp_path_factory.mktemp("finished") / "run"
  workdirs.claim(job.config, workdir)
  written.write_all(job.search_space, workdir)
  return workdir


@pytest.fixture(scope="module")
def reported(job, finished, tmp_path_factory):
  """The job of a copy with a report."""
  workdir = tmp_path_factory.mktemp("reported") / "run"
  shutil.copytree(finished, workdir)
  done = dataclasses.replace(job, workdir=workdir)
  report.run(done)
  return done


@pytest.fixture
def copied(job, finished, tmp_path):
  """A job on a copy that may be changed."""
  workdir = tmp_path / "run"
  shutil.copytree(finished, workdir)
  return dataclasses.replace(job, workdir=workdir)


@pytest.fixture
def light(copied):
  """The same without what takes longest to draw."""
  (copied.workdir / "search" / "metrics.jsonl").unlink()
  (copied.workdir / "evaluate" / "scores.csv").unlink()
  for name in EXPERIMENTS:
    shutil.rmtree(copied.workdir / name)
  return copied


def page(job):
  return (job.workdir / "report" / "index.html").read_text("utf-8")


def rows(job, name):
  path = job.workdir / "report" / f"table_{name}.csv"
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def read(job, *path):
  return json.loads(job.workdir.joinpath(*path).read_text())


class Checker(html.parser.HTMLParser):
  """Every tag is closed in order; collects attributes, text and cells."""

  VOID = ("meta", "img", "br")

  def __init__(self, text):
    super().__init__(convert_charrefs=True)
    self.open, self.attributes, self.texts = [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.attributes += [(tag, *pair) for pair in attrs]
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open[-1:] != ["style"]:
      self.texts.append(data)


def pictures(checker):
  """The SVG documents that the page carries, decoded."""
  sources = [v for _, name, v in checker.attributes if name == "src"]
  assert all(v.startswith("data:image/svg+xml;base64,") for v in sources)
  return [base64.b64decode(v.partition(",")[2]).decode() for v in sources]


# What is in it.


def test_files_of_a_whole_report(reported):
  folder = reported.workdir / "report"
  names = {path.name for path in folder.iterdir()}
  made = {f"{x}.{kind}" for x in PICTURES for kind in ("png", "svg")}
  made |= {f"table_{name}.csv" for name in TABLES}
  assert names == made | {"tables.md", "index.html", "report.json"}
  assert not read(reported, "report", "report.json")["not_run"]
  for name in PICTURES:
    with Image.open(folder / f"{name}.png") as image:
      assert min(image.size) > 200
    assert (folder / f"{name}.svg").read_text().startswith("<svg")


def test_page_is_whole_and_needs_nothing_else(reported):
  text = page(reported)
  checker = Checker(text)
  drawn = pictures(checker)
  assert len(drawn) == len(PICTURES)
  for part in (text, *drawn):
    for url in re.findall(r"\b(?:https?|file|ftp):[^\s\"'<>)]*", part):
      assert url.startswith("http://www.w3.org/"), url  # names, not places
    assert "<script" not in part and "@import" not in part
    assert "<!DOCTYPE" not in part and "<metadata" not in part
  for tag, name, value in checker.attributes:
    if name in ("href", "src"):
      assert value.startswith(("#", "data:")), (tag, value)
  targets = {v[1:] for _, name, v in checker.attributes if name == "href"}
  assert targets == {v for _, name, v in checker.attributes if name == "id"}
  assert "not run" in "".join(checker.texts)  # expanded_uniform has no weights


def test_same_files_same_report(copied, reported):
  report.run(copied)
  folders = [job.workdir / "report" for job in (copied, reported)]
  for path in folders[0].iterdir():
    first, second = (folder / path.name for folder in folders)
    if path.name != "index.html":  # it names the workdir
      assert first.read_bytes() == second.read_bytes(), path.name


def test_numbers_of_nas_are_those_of_the_files(reported):
  trained = read_contents(reported.workdir, reported.search_space).trained
  table = {row["source"]: row for row in rows(reported, "nas")}
  controls = read(reported, "nas", "controls", "architecture.json")
  for name, row in table.items():
    found = controls.get(name) or read(
      reported, "nas", name, "architecture.json"
    )
    for key in ("arch", "flops", "params", "deviation", "num_samples"):
      assert row[key] == str(found[key]), (name, key)
    errors = [one.test_error for one in trained.get(name, [])]
    expected = str(statistics.fmean(errors)) if errors else "not run"
    assert row["test_error"] == expected
    assert row["paper_flops"] == "-"
  # No columns for what the paper has not done.
  assert "paper: " not in page(reported)
  assert "and the paper's" not in page(reported)
  assert table["expanded"]["num_samples_mean"] == "119.0"
  assert table["expanded_uniform"]["num_samples_low"] == "90.5"
  assert table["elite"]["num_samples_mean"] == "-"
  noise = statistics.stdev(r.test_error for r in trained["elite"]) / 3**0.5
  assert table["elite"]["test_error_standard_error"] == str(noise)
  assert "regnet" not in table  # the rule may give none
  text = page(reported)
  assert f"How it was chosen: {CHOSEN}." in text


def test_no_network_is_missed_that_the_evaluator_does_not_search(light):
  path = light.workdir / "nas" / "elite" / "architecture.json"
  fields = Network.read(path).to_json()
  del fields["runs"], fields["learning_rate"]
  Network(**fields, method="evaluator").write(path)
  shutil.rmtree(light.workdir / "nas" / "expanded")
  report.run(light)
  found = [row["source"] for row in rows(light, "nas")]
  assert found == ["elite", "elite_uniform", "expanded_uniform", "handmade"]
  assert (
    "Not all of it has run. This makes it:"
    not in page(light)
    .replace("\n", " ")
    .partition('id="trained"')[0]
    .partition('id="nas"')[2]
  )


def test_the_race_is_shown(reported):
  first, second = rows(reported, "race")
  assert (first["arch"], first["rounds"]) == (ELITE, "2")
  assert (first["mean_error"], first["errors"]) == ("0.1875", "25.00, 12.50")
  assert (second["arch"], second["mean_error"]) == (CONTROL, "0.5")
  assert "25.00, 12.50" in Checker(page(reported)).texts


def test_differences_to_the_network_found(reported):
  trained = read_contents(reported.workdir, reported.search_space).trained
  table = {row["name"]: row for row in rows(reported, "train")}
  means = {
    name: statistics.fmean(r.test_error for r in seeds)
    for name, seeds in trained.items()
  }
  assert table["elite"]["above_found"] == "-"
  for name in ("elite_uniform", "expanded"):
    difference = means[name] - means["elite"]
    assert float(table[name]["above_found"]) == pytest.approx(difference)
    assert table[name]["above_found_standard_error"] == "-"  # of one seed
    assert f"{100 * difference:+.2f}" in Checker(page(reported)).texts


def test_the_choice_is_shown_with_how_sure_it_is(reported):
  folder = reported.workdir / "report"
  tables = json.loads((folder / "report.json").read_text())["tables"]
  assert [row["loss"] for row in tables["choice"]] == [0.5, 0.5]
  assert [row["which"] for row in tables["candidates"]] == [
    *("draw 1", "draw 2", "draw 3"),
    "most probable",
  ]
  chances = [row["probability"] for row in tables["candidates"]]
  assert chances == [0.25, 0.25, 0.25, 0.5]
  text = page(reported)
  assert "Warning: a stage is &lt;narrow&gt;." in text
  # The mode of this file is the same space: which one is more probable?
  assert "gives it a probability 0.25, the most probable space" in text


def test_networks_of_all_targets(reported):
  # After what was found, as this run has a search of its own.
  assert re.findall("<h2>(.*?)</h2>", page(reported))[-2] == "Targets"
  found = rows(reported, "targets_nas")
  assert [row["arch"] for row in found] == [ELITE, EXPANDED]
  assert {float(row["target_flops"]) for row in found} == {TARGET}


def test_numbers_of_evaluation_are_those_of_the_files(reported):
  result = read(reported, "evaluate", "summary.json")
  for row in rows(reported, "groups"):
    for key, value in result["groups"][row["group"]].items():
      assert row[key] == str(value)
  for row in rows(reported, "spaces"):
    found = result["elite_against"][row["against"]][row["measure"]]
    for key in ("elite", "best", "regret"):
      assert row[key] == str(found[key])
    assert row["percentile"] == str(found.get("percentile", "-"))
  found = result["elite_against"]["random_spaces"]["loss"]["percentile"]
  assert f"{found:.3g} % of 4 random spaces" in page(reported)


def test_numbers_of_the_page_are_those_of_the_tables(reported):
  texts = Checker(page(reported)).texts
  markdown = (reported.workdir / "report" / "tables.md").read_text()
  for record in read(reported, "report", "report.json")["tables"]["train"]:
    if record["test_error"] is None:
      continue
    error = f"{100 * record['test_error']:.2f}"
    if record["test_error_standard_error"] is not None:
      error += f" ± {100 * record['test_error_standard_error']:.2f}"
    for cell in (record["arch"], error, f"{record['params']:,}"):
      assert cell in texts
      assert f"| {cell} |" in markdown


def test_numbers_of_the_rank_check_are_those_of_the_file(reported):
  result = read(reported, "rank_check", "summary.json")
  found = {
    (r["archs"], r["predictor"]): r for r in rows(reported, "rank_check")
  }
  assert len(found) == 2 * 8  # seven predictors and the ceiling
  texts = Checker(page(reported)).texts
  for (group, kind), row in found.items():
    told = result[group]
    number = told["ceiling"] if kind == "ceiling" else told["predictors"][kind]
    assert row["tau"] == ("-" if number["tau"] is None else str(number["tau"]))
    assert row["tau_low"] == str(number["interval"][0])
    assert row["share"] == str(number.get("share", "-"))
    assert row["count"] == str(told["count"])
    assert number["tau"] is None or f"{number['tau']:+.2f}" in texts
  for told in result.values():
    assert told["verdict"] in texts


def test_rank_check_that_has_not_ended(light):
  (light.workdir / "rank_check" / "summary.json").unlink()
  path = light.workdir / "rank_check" / "truths.csv"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(lines[:40]))  # a seed of one group is not whole
  report.run(light)
  assert "Not ended: 39 trainings alone so far, of 30 archs." in page(light)
  assert (light.workdir / "report" / "rank_check.png").exists()


def test_rows_of_the_paper():
  assert paper_row("cifar10", 600e6, "elite")["error_percent"] == 4.57
  assert paper_row("cifar100", 32e9, "expanded")["num_samples"] == 9
  # Table 1's, of the two that are swapped.
  assert paper_row("cifar10", 8e9, "elite")["error_percent"] == 4.09
  for row in (
    ("cifar10", 601e6, "elite"),
    ("digits", 600e6, "elite"),
    ("cifar10", 600e6, "elite_uniform"),
  ):
    assert paper_row(*row) is None
  assert len(read_paper()["table2"]) == 48


def test_paper_beside_what_was_measured(light):
  fields = {"data.source": "cifar10_binary", "objective.target_flops": 600e6}
  report.run(light.vary(fields, search_space=light.search_space))
  elite, control, expanded, *_ = rows(light, "nas")
  assert (elite["paper_error_percent"], elite["dataset"]) == ("4.57", "cifar10")
  assert expanded["paper_num_samples"] == "117"
  assert control["paper_flops"] == "-"
  assert "swapped" in page(light)
  assert any(
    "on cifar10, and the paper's" in x for x in Checker(page(light)).texts
  )
  assert (
    "| paper: error (%) |"
    in (light.workdir / "report" / "tables.md").read_text()
  )


def test_text_of_files_is_escaped(light):
  name = HOSTILE.replace("/", "")
  fields = {"data.path": HOSTILE, "data.name": HOSTILE, "name": name}
  one = written.trained(light.search_space, ELITE, name, 0, test_error=0.5)
  path = light.workdir / "train" / name / "seed_0" / "result.json"
  one.write(written.made(path))
  flags = (f"--config.data.path={HOSTILE}",)
  report.run(light.vary(fields, config_flags=flags))
  text = page(light)
  assert "<b>" not in text and "alert(1)</script>" not in text
  assert any(name in part for part in Checker(text).texts)
  markdown = (light.workdir / "report" / "tables.md").read_text()
  assert "\\|" in markdown
  assert "<b>" not in markdown and "<script>" not in markdown


# What may be missing.


@pytest.mark.parametrize(
  ("kept", "drawn", "missing"),
  [
    (
      "search/metrics.jsonl",
      {"trajectory"},
      {"search", "evaluate", "rank_check", "nas", "train"},
    ),
    (
      "search/elite_space.json",
      {"elite_space"},
      {"evaluate", "rank_check", "nas", "train"},
    ),
    (
      "evaluate/scores.csv",
      {"pareto", "spaces"},
      {"search", "evaluate", "rank_check", "nas", "train"},
    ),
    (
      "nas/elite/architecture.json",
      set(),
      {"search", "evaluate", "rank_check", "train"},
    ),
    (
      "train/elite/seed_1/result.json",
      {"trained"},
      {"search", "evaluate", "rank_check", "nas"},
    ),
    (
      "rank_check/scores.csv",
      set(),
      {"search", "evaluate", "rank_check", "nas", "train"},
    ),
  ],
)
def test_one_file_is_enough(job, finished, tmp_path, kept, drawn, missing):
  workdir = tmp_path / "run"
  (workdir / kept).parent.mkdir(parents=True)
  shutil.copy(finished / kept, workdir / kept)
  alone = dataclasses.replace(job, workdir=workdir)
  result = report.run(alone)
  missing = missing | (EXPERIMENTS - {"sweep"})
  assert set(result["not_run"]) == missing
  checker = Checker(page(alone))
  assert len(pictures(checker)) == len(drawn)
  folder = workdir / "report"
  assert {path.stem for path in folder.glob("*.png")} == drawn
  for phase in missing:
    assert any(text.endswith(f"--phases={phase}") for text in checker.texts)
  lines = report.report(result, alone)
  assert any("not run yet" in line for line in lines)


def test_searched_anew_is_reported_anew(light):
  """The report always runs; what is gone leaves no picture behind."""
  report.run(light)
  shutil.rmtree(light.workdir / "train")
  (light.workdir / "report" / "mine.txt").write_text("stays")
  assert pipeline.run(light.config, light.workdir, ["report"]) == 0
  names = {path.name for path in (light.workdir / "report").iterdir()}
  assert "trained.png" not in names and {"rank_check.png", "mine.txt"} <= names
  assert rows(light, "nas")[0]["test_error"] == "not run"


def test_weights_of_another_arch_are_not_shown(light):
  shutil.rmtree(light.workdir / "train" / "elite")
  path = light.workdir / "train" / "elite" / "seed_0" / "result.json"
  parts = light.search_space, EXPANDED, "elite", 0
  written.trained(*parts, test_error=0.5).write(written.made(path))
  report.run(light)
  assert rows(light, "nas")[0]["test_error"] == "not run"
  assert f"train/elite holds {EXPANDED}" in page(light)


def test_nothing_to_report(job, tmp_path):
  with pytest.raises(UserError, match="nothing to report") as error:
    report.run(
      dataclasses.replace(job, workdir=tmp_path, config_flags=("--config=a b",))
    )
  command = (
    f"python -m nss_jax.main '--config=a b' --workdir={tmp_path} "
    "--phases=search"
  )
  assert str(error.value).endswith(command)
  with pytest.raises(UserError, match=r"--config=CONFIG\.py"):
    pipeline.run(job.config, tmp_path / "new", ["report"])
  assert not list(tmp_path.iterdir())


# What may be wrong.

NAS = "nas/elite/architecture.json"
TRAIN = "train/elite/seed_0/result.json"
WRONG = [
  ("search/elite_space.json", ["mean_flops"], "many", "mean_flops: expected"),
  ("search/elite_space.json", ["deviation"], ..., "deviation: this field"),
  ("search/elite_space.json", ["candidates"], {}, "candidates: expected a"),
  ("search/elite_space.json", ["candidates", 0], 1, r"candidates\[0\]: exp"),
  ("search/elite_space.json", ["space", "depth", 0], [9, 9], "is not a bin"),
  ("evaluate/summary.json", ["groups", "elite", "count"], 1.5, "a whole"),
  ("evaluate/summary.json", ["groups"], ..., "groups: this field"),
  ("evaluate/summary.json", ["groups", "<b>"], {}, "groups: expected one of"),
  ("evaluate/summary.json", ["bootstrap"], None, "bootstrap: expected an"),
  ("rank_check/summary.json", ["spread", "ceiling", "tau"], 2, "from -1 to 1"),
  ("rank_check/summary.json", ["spread", "predictors", "x"], {}, "one of err"),
  ("rank_check/summary.json", ["extra"], {}, "expected one of spread"),
  ("rank_check/summary.json", ["spread", "predictors"], {}, "error: this fi"),
  *(
    (
      "evaluate/summary.json",
      ["elite_against", "random_spaces", measure, name],
      ...,
      f"{measure}.{name}: this field is missing",
    )
    for measure in ("loss", "error")
    for name in ("percentile", "bootstrap_interval", "exact_interval")
  ),
  (NAS, ["flops"], 7, "flops: 7 is not that of the arch"),
  (NAS, ["arch"], "d1_w1", "arch: "),
  (NAS, ["arch"], "resnet", "not an arch"),
  (NAS, ["depth"], [1, 2], "depth: "),
  (NAS, ["num_samples"], True, "num_samples: expected"),
  (NAS, ["within_tolerance"], 1, "expected true or false"),
  (NAS, ["runs", 0, "params"], 10**400, r"runs\[0\].params: expected"),
  (NAS, ["learning_rate"], ..., "learning_rate: this field is missing"),
  (NAS, ["race", 0, "errors"], 2, "expected a list"),
  (NAS, ["method"], "chance", "expected one of evaluator, gradient"),
  ("nas/controls/architecture.json", ["elite_uniform"], ..., "missing"),
  ("nas/controls/architecture.json", ["handmade", "flops"], 7, "is not that"),
  (TRAIN, ["test_error"], 1.2, "test_error: expected a number from 0 to 1"),
  (TRAIN, ["name"], "other", "name: expected elite as its folder"),
  (TRAIN, ["seed"], 5, "seed: expected 0 as its folder"),
  (TRAIN, ["epochs"], [], "epochs: expected a whole number"),
]


@pytest.mark.parametrize(("file", "keys", "value", "words"), WRONG, ids=str)
def test_hand_edited_file(copied, file, keys, value, words):
  path = copied.workdir / file
  content = json.loads(path.read_text())
  parent = content
  for key in keys[:-1]:
    parent = parent[key]
  if value is ...:
    del parent[keys[-1]]
  else:
    parent[keys[-1]] = value
  # json itself refuses to write such a number again.
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match=words) as error:
    report.run(copied)
  assert str(error.value).startswith(str(path))
  assert str(error.value).isprintable() and len(str(error.value)) <= 1000
  assert not (copied.workdir / "report").exists()


@pytest.mark.parametrize(
  "file", ["search/metrics.jsonl", "evaluate/scores.csv", NAS, TRAIN]
)
@pytest.mark.parametrize("content", [b"{}\n" * 3, b"\xff\0\n" * 3])
def test_corrupt_file(copied, file, content):
  (copied.workdir / file).write_bytes(content)
  with pytest.raises(UserError, match=file):
    report.run(copied)
  assert not (copied.workdir / "report").exists()


def test_probabilities_of_another_search_space(copied):
  path = copied.workdir / "search" / "metrics.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  lines[1]["probabilities"]["width"][0].pop()
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  with pytest.raises(UserError, match=r"line 2: probabilities.width"):
    report.run(copied)


def test_other_archs_alone(copied):
  path = copied.workdir / "rank_check" / "truths.csv"
  lines = path.read_text().splitlines(keepends=True)
  lines[-1], lines[-2] = lines[-2], lines[-1]
  path.write_text("".join(lines))
  with pytest.raises(UserError, match="near_target_1: expected the 6 archs"):
    report.run(copied)


def test_failed_drawing_leaves_the_old_report(light, monkeypatch):
  report.run(light)
  folder = light.workdir / "report"
  before = {path.name: path.read_bytes() for path in folder.iterdir()}
  shutil.rmtree(light.workdir / "nas")

  def fail(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(pages, "numbers", fail)
  with pytest.raises(OSError, match="No space"):
    report.run(light)
  after = {path.name: path.read_bytes() for path in folder.iterdir()}
  assert after == before


# How it looks.

# A window is not narrower than 500 pixels, a frame is.
_FRAME = """<!doctype html><html><body><iframe srcdoc="{page}"
style="border: 0; width: {width}px; height: 900px"></iframe><script>
document.querySelector("iframe").onload = (event) => {{
const page = event.target.contentDocument, root = page.documentElement;
const broken = [...page.images].filter(image => !image.naturalWidth);
document.body.dataset.found = [root.scrollWidth, root.clientWidth,
page.images.length - broken.length].join(); }}
</script></body></html>"""


@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_the_window(reported, tmp_path, width):
  names = ("chromium", "chromium-browser", "google-chrome")
  browser = next(filter(None, map(shutil.which, names)), None)
  if browser is None:
    pytest.skip(f"none of {', '.join(names)} is installed")
  path = tmp_path / "frame.html"
  text = html.escape(page(reported))
  path.write_text(_FRAME.format(page=text, width=width), "utf-8")
  done = subprocess.run(
    [
      browser,
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      f"--user-data-dir={tmp_path / 'profile'}",
      "--window-size=1400,1000",
      "--dump-dom",
      path.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=60,
    check=True,
  )
  found = re.search(r'data-found="(\d+),(\d+),(\d+)"', done.stdout)
  scroll_width, visible, drawn = map(int, found.groups())
  # A scroll bar may take some of it.
  assert width - 20 <= visible <= width
  assert scroll_width <= visible
  assert drawn == len(PICTURES)


def test_differences_in_words(job):
  seeds = {
    "elite": [0.02, 0.04],
    "expanded": [0.03, 0.05],
    "handmade": [0.01],
    "elite_uniform": [0.03000001],
    "other": [0.5],
  }
  found = {
    name: [
      written.trained(job.search_space, ELITE, name, seed, test_error=error)
      for seed, error in enumerate(errors)
    ]
    for name, errors in seeds.items()
  }
  table = trained_lib.table(found)
  expanded, handmade, uniform = trained_lib.sentences(table.records)
  assert "has 1.00 (± 1.41) points less test error than the one" in expanded
  assert "has 2.00 points more test error than the hand-made" in handmade
  assert "has the same test error as a uniform draw from the Elite" in uniform
