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
from nss_jax.results import overview
from nss_jax.results import trained as trained_lib
from nss_jax.results.contents import is_empty, read_contents
from nss_jax.results.network_tables import paper_row, read_paper
from nss_jax.results.networks import Network

# A name of a folder and of a network, so it has no "/".
HOSTILE = "<td><script>alert(1)<script>\n\a<b>\"$x$ & 'y'|"
PHASES = {"search", "evaluate", "rank_check", "nas", "train"}
ELITE_SPACE, EVALUATED = "search/elite_space.json", "evaluate/summary.json"
RANKED, ORDERED = "rank_check/summary.json", "principles/summary.json"
LARGER, SWEPT = "complexity/summary.json", "sweep/0.16mf/config.json"
NAS = "nas/elite/architecture.json"
TRAIN = "train/elite/seed_0/result.json"
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


def without(job, *names):
  """Takes files and folders out of a workdir."""
  for name in names:
    path = job.workdir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def changed(job, finished, tmp_path_factory):
  """The job of a copy with a report, of files that others have changed, and of
  what has not ended."""
  workdir = tmp_path_factory.mktemp("changed") / "run"
  shutil.copytree(finished, workdir)
  fields = {
    "data.source": "cifar10_binary",
    "objective.target_flops": 600e6,
    "data.path": f"</td>{HOSTILE}",
    "name": HOSTILE,
  }
  done = job.vary(
    fields,
    workdir=workdir,
    search_space=job.search_space,
    config_flags=(f"--config.data.path=</td>{HOSTILE}",),
  )
  without(done, "search/metrics.jsonl", "evaluate/scores.csv")
  without(done, "nas/expanded", "train/elite")
  for name in ("rank_check", *EXPERIMENTS):
    without(done, f"{name}/summary.json")
  # Networks of another arch, and of a name that nobody has given them.
  for name, text in (("elite", EXPANDED), (HOSTILE, ELITE)):
    one = written.trained(job.search_space, text, name, 0, test_error=0.5)
    one.write(written.made(workdir / "train" / name / "seed_0" / "result.json"))
  path = workdir / NAS
  fields = Network.read(path).to_json()
  del fields["runs"], fields["learning_rate"]
  Network(**fields, method="evaluator").write(path)
  path = workdir / "rank_check" / "truths.csv"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(lines[:40]))  # a seed of one group is not whole
  report.run(done)
  return done


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


def assert_same(row, found):
  """The fields of a row that a file has too are the file's."""
  shared = [key for key in row if key in found]
  assert len(shared) >= 3
  for key in shared:
    value = "-" if found[key] is None else str(found[key])
    assert row[key] == value, (row, key)


def test_numbers_of_networks_are_those_of_the_files(reported):
  trained = read_contents(reported.workdir, reported.search_space).trained
  table = {row["source"]: row for row in rows(reported, "nas")}
  controls = read(reported, "nas", "controls", "architecture.json")
  for name, row in table.items():
    file = ("nas", name, "architecture.json")
    assert_same(row, controls.get(name) or read(reported, *file))
    errors = [one.test_error for one in trained.get(name, [])]
    expected = str(statistics.fmean(errors)) if errors else "not run"
    assert row["test_error"] == expected
    assert row["paper_flops"] == "-"
  assert table["expanded"]["num_samples_mean"] == "119.0"
  assert table["expanded_uniform"]["num_samples_low"] == "90.5"
  assert table["elite"]["num_samples_mean"] == "-"
  noise = statistics.stdev(r.test_error for r in trained["elite"]) / 3**0.5
  assert table["elite"]["test_error_standard_error"] == str(noise)
  assert "regnet" not in table  # the rule may give none
  first, second = rows(reported, "race")
  assert (first["arch"], first["rounds"]) == (ELITE, "2")
  assert (first["mean_error"], first["errors"]) == ("0.1875", "25.00, 12.50")
  assert (second["arch"], second["mean_error"]) == (CONTROL, "0.5")
  found = rows(reported, "targets_nas")
  assert [row["arch"] for row in found] == [ELITE, EXPANDED]
  assert {float(row["target_flops"]) for row in found} == {TARGET}


def test_numbers_of_scores_are_those_of_the_files(reported):
  found = read(reported, "evaluate", "summary.json")
  for row in rows(reported, "groups"):
    assert_same(row, found["groups"][row["group"]])
  for row in rows(reported, "spaces"):
    against = found["elite_against"][row["against"]]
    assert_same(row, {"percentile": None, **against[row["measure"]]})
  found, table = read(reported, RANKED), rows(reported, "rank_check")
  assert len(table) == 2 * 8  # seven predictors and the ceiling
  for row in table:
    told = found[row["archs"]]
    number = {"ceiling": told["ceiling"], **told["predictors"]}
    number = number[row["predictor"]]
    low, high = number["interval"]
    count = {"count": told["count"], "tau_low": low, "tau_high": high}
    assert_same(row, {"share": None, **number, **count})


def test_numbers_of_experiments_are_those_of_the_files(reported):
  found, table = read(reported, ORDERED), rows(reported, "principles")
  # Three kinds at two costs, one missing, and two pairs of populations.
  assert len(table) == 3 * 2 + 1 + 2 * 2
  for row in table[:7]:
    source = f"{row['kind']}_{row['cost']}"
    if source in found["missing"]:
      assert row["count"] == "-"
    else:
      against = found["against_principles"].get(source, {})
      assert_same(row, {**found["groups"][source], **against})
  found = read(reported, LARGER)
  for row in rows(reported, "complexity"):
    assert_same(row, {**found["spaces"], "elite": found["elite"]}[row["space"]])
  table = rows(reported, "targets")
  assert [float(row["target_flops"]) for row in table] == [TARGET / 2, TARGET]
  assert {row["elite_mean_error"] for row in table} == {"not run"}


def test_numbers_of_the_page_are_those_of_the_tables(reported):
  texts = Checker(page(reported)).texts
  markdown = (reported.workdir / "report" / "tables.md").read_text()
  tables = read(reported, "report", "report.json")["tables"]
  cells = ["25.00, 12.50"]  # of the race
  for record in tables["train"]:
    if record["test_error"] is not None:
      error = f"{100 * record['test_error']:.2f}"
      if record["test_error_standard_error"] is not None:
        error += f" ± {100 * record['test_error_standard_error']:.2f}"
      cells += [record["arch"], error, f"{record['params']:,}"]
    if record["above_found"] is not None:
      cells.append(f"{100 * record['above_found']:+.2f}")
  for record in tables["rank_check"]:
    tau = record["tau"]
    cells.append("undefined" if tau is None else f"{tau:+.2f}")
  for cell in cells:
    assert cell in texts
    assert f"| {cell} |" in markdown


def test_words_of_the_page(reported):
  text, texts = page(reported), Checker(page(reported)).texts
  # Targets after what was found, as this run has a search of its own.
  assert re.findall("<h2>(.*?)</h2>", text)[-2] == "Targets"
  assert f"How it was chosen: {CHOSEN}." in text
  # No columns for what the paper has not done.
  assert "paper: " not in text and "and the paper's" not in text
  found = read(reported, EVALUATED)["elite_against"]["random_spaces"]["loss"]
  assert f"{found['percentile']:.3g} % of 4 random spaces" in text
  for told in read(reported, RANKED).values():
    assert told["verdict"] in texts
  assert "Not drawn: regnet in window: only 0 of 20 archs." in text
  assert "searched for another target, 0.32 MF" in text
  assert "Warning: a stage is &lt;narrow&gt;." in text
  # The mode of this file is the same space: which one is more probable?
  assert "gives it a probability 0.25, the most probable space" in text


def test_the_choice_and_the_draws_are_shown(reported):
  tables = read(reported, "report", "report.json")["tables"]
  assert [row["loss"] for row in tables["choice"]] == [0.5, 0.5]
  names = ["draw 1", "draw 2", "draw 3", "most probable"]
  assert [row["which"] for row in tables["candidates"]] == names
  chances = [row["probability"] for row in tables["candidates"]]
  assert chances == [0.25, 0.25, 0.25, 0.5]


def test_no_network_is_missed_that_the_evaluator_does_not_search(changed):
  found = [row["source"] for row in rows(changed, "nas")]
  assert found == ["elite", "elite_uniform", "expanded_uniform", "handmade"]
  section = page(changed).partition('id="nas"')[2].partition("</section>")[0]
  assert "Not all of it has run." not in section


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


def test_paper_beside_what_was_measured(changed):
  elite, control, *_ = rows(changed, "nas")
  assert (elite["paper_error_percent"], elite["dataset"]) == ("4.57", "cifar10")
  assert control["paper_flops"] == "-"
  assert "swapped" in page(changed)
  assert "on cifar10, and the paper's" in page(changed).replace("&#39;", "'")
  markdown = (changed.workdir / "report" / "tables.md").read_text()
  assert "| paper: error (%) |" in markdown


def test_text_of_files_is_escaped(changed):
  text = page(changed)
  assert "<b>" not in text and "<script" not in text
  assert any(HOSTILE in part for part in Checker(text).texts)
  markdown = (changed.workdir / "report" / "tables.md").read_text()
  assert "\\|" in markdown
  assert "<b>" not in markdown and "<script>" not in markdown


def test_weights_of_another_arch_are_not_shown(changed):
  assert rows(changed, "nas")[0]["test_error"] == "not run"
  assert f"train/elite holds {EXPANDED}" in page(changed)


# What may be missing.


@pytest.mark.parametrize(
  ("kept", "drawn", "whole"),
  [
    ("search/metrics.jsonl", {"trajectory"}, set()),
    ("search/elite_space.json", {"elite_space"}, {"search"}),
    ("evaluate/scores.csv", {"pareto", "spaces"}, set()),
    ("nas/elite/architecture.json", set(), {"nas"}),
    ("train/elite/seed_1/result.json", {"trained"}, {"train"}),
    ("rank_check/scores.csv", set(), set()),
  ],
)
def test_one_file_is_enough(job, finished, tmp_path, kept, drawn, whole):
  workdir = tmp_path / "run"
  shutil.copy(finished / kept, written.made(workdir / kept))
  alone = dataclasses.replace(job, workdir=workdir)
  result = report.run(alone)
  # A sweep is missed only where there are targets.
  missing = (PHASES | EXPERIMENTS) - whole - {"sweep"}
  assert set(result["not_run"]) == missing
  assert "<h2>Targets</h2>" not in page(alone)
  checker = Checker(page(alone))
  assert len(pictures(checker)) == len(drawn)
  folder = workdir / "report"
  assert {path.stem for path in folder.glob("*.png")} == drawn
  for phase in missing:
    assert any(text.endswith(f"--phases={phase}") for text in checker.texts)
  lines = report.show(result, alone.workdir / "report")
  assert any("not run yet" in line for line in lines)
  if kept.startswith("nas"):
    swept = alone.vary({"sweep.targets": (TARGET,)})
    assert "sweep" in report.run(swept)["not_run"]
    assert "--phases=sweep</pre>" in page(swept)


def test_what_has_not_ended_says_so(changed):
  missing = set(read(changed, "report", "report.json")["not_run"])
  assert missing >= {"rank_check", *EXPERIMENTS}
  text, folder = page(changed), changed.workdir / "report"
  assert "Not ended: 39 trainings alone so far, of 30 archs." in text
  assert "Not ended: 120 archs are scored so far." in text
  assert "Not ended: 80 archs are scored so far." in text
  assert "Not ended: 2 targets have begun." in text
  for name in EXPERIMENTS:
    assert f"--phases={name}</pre>" in text
  # What is scored is drawn.
  names = {path.stem for path in folder.glob("*.png")}
  assert names >= {"rank_check", "principles", "complexity", "targets"}
  assert not (folder / "table_complexity.csv").exists()
  # First, where no search of this run is on its way.
  titles = re.findall("<h2>(.*?)</h2>", text)
  assert titles[:2] == ["Targets", "What was found"]


def test_a_ring_of_links_ends(copied):
  folder = copied.workdir / "sweep" / "0.16mf"
  (folder / "sweep").mkdir()
  (folder / "sweep" / "again").symlink_to(folder)
  results = read_contents(copied.workdir, copied.search_space)
  assert [target for target, _ in results.sweep] == [TARGET / 2, TARGET]
  assert results.sweep[1][1].sweep == []
  assert not is_empty(copied.workdir)


def test_a_report_is_replaced_whole_or_not_at_all(
  copied, reported, monkeypatch
):
  # Without what takes longest to draw.
  without(copied, "search/metrics.jsonl", "evaluate/scores.csv", *EXPERIMENTS)
  report.run(copied)
  folder = copied.workdir / "report"
  # Equal results, equal bytes.
  for name in ("elite_space", "rank_check", "trained"):
    for path in (f"{name}.png", f"{name}.svg", "table_nas.csv"):
      other = reported.workdir / "report" / path
      assert (folder / path).read_bytes() == other.read_bytes()
  # It always runs; what is gone leaves no picture behind.
  without(copied, "train")
  (folder / "mine.txt").write_text("stays")
  assert pipeline.run(copied.config, copied.workdir, ["report"]) == 0
  before = {path.name: path.read_bytes() for path in folder.iterdir()}
  assert "trained.png" not in before
  assert {"rank_check.png", "mine.txt"} <= before.keys()
  assert rows(copied, "nas")[0]["test_error"] == "not run"
  without(copied, "nas")

  def fail(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(overview, "numbers", fail)
  with pytest.raises(OSError, match="No space"):
    report.run(copied)
  after = {path.name: path.read_bytes() for path in folder.iterdir()}
  assert after == before


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

WRONG = [
  (ELITE_SPACE, ["mean_flops"], "many", "mean_flops: expected"),
  (ELITE_SPACE, ["candidates"], {}, "candidates: expected a"),
  (ELITE_SPACE, ["candidates", 0], 1, r"candidates\[0\]: exp"),
  (ELITE_SPACE, ["space", "depth", 0], [9, 9], "is not a bin"),
  (EVALUATED, ["groups", "elite", "count"], 1.5, "a whole"),
  (EVALUATED, ["groups", "<b>"], {}, "groups: expected one of"),
  (EVALUATED, ["bootstrap"], None, "bootstrap: expected an"),
  (RANKED, ["spread", "ceiling", "tau"], 2, "from -1 to 1"),
  (RANKED, ["spread", "predictors", "x"], {}, "one of err"),
  (RANKED, ["spread", "predictors"], {}, "error: this fi"),
  (RANKED, ["extra"], {}, "expected one of spread"),
  *(
    (EVALUATED, ["elite_against", "random_spaces", "loss", x], ..., "loss." + x)
    for x in ("percentile", "bootstrap_interval", "exact_interval")
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
  (ORDERED, ["groups", "elite_trend_any_cost", "count"], 0, "count: exp"),
  (ORDERED, ["groups", "<b>"], {}, "expected one of design_principles"),
  (ORDERED, ["matched", "own_trend", "pairs_won"], 2, "from 0 to 1"),
  (ORDERED, ["missing"], [], "missing: expected an object"),
  (ORDERED, ["window"], [3, 1], "window: expected"),
  (LARGER, ["spaces", "w4_d2", "near_share"], None, "near_share: exp"),
  (LARGER, ["spaces", "large"], {}, "a name like w128_d4"),
  (SWEPT, ["objective", "target_flops"], 0, "target_flops: exp"),
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


def test_scores_of_another_search_space(copied):
  path = copied.workdir / "complexity" / "scores.csv"
  path.write_text(path.read_text().replace("w4_d1,,1,", "w4_d1,,7,", 1))
  with pytest.raises(UserError, match="not in the search space"):
    report.run(copied)


def test_other_archs_alone(copied):
  path = copied.workdir / "rank_check" / "truths.csv"
  lines = path.read_text().splitlines(keepends=True)
  lines[-1], lines[-2] = lines[-2], lines[-1]
  path.write_text("".join(lines))
  with pytest.raises(UserError, match="near_target_1: expected the 6 archs"):
    report.run(copied)


# How it looks.

# A window is not narrower than 500 pixels, a frame is.
WIDTHS = (1280, 390)
_FRAME = """<iframe srcdoc="{page}"
style="border: 0; width: {width}px; height: 900px"></iframe>"""
_SCRIPT = """<script>window.onload = () => { document.body.dataset.found =
[...document.querySelectorAll("iframe")].map(frame => {
const page = frame.contentDocument, root = page.documentElement;
const drawn = [...page.images].filter(image => image.naturalWidth);
return [root.scrollWidth, root.clientWidth, drawn.length].join(); }).join();
}</script>"""


def test_page_fits_the_window(reported, tmp_path):
  names = ("chromium", "chromium-browser", "google-chrome")
  browser = next(filter(None, map(shutil.which, names)), None)
  if browser is None:
    pytest.skip(f"none of {', '.join(names)} is installed")
  path, text = tmp_path / "frames.html", html.escape(page(reported))
  frames = [_FRAME.format(page=text, width=width) for width in WIDTHS]
  body = "".join([*frames, _SCRIPT])
  path.write_text(f"<!doctype html><html><body>{body}</body></html>", "utf-8")
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
  found = re.search(r'data-found="([\d,]+)"', done.stdout)[1].split(",")
  for row, width in enumerate(WIDTHS):
    scroll_width, visible, drawn = map(int, found[3 * row : 3 * row + 3])
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
