"""JSON that was edited by hand: one line and exit code 2, or it goes on."""

import json
import shutil
import sys
import time

import harness as harness_lib
import pytest
import runs
from command import ACCEPTED, assert_answered, call, fuzzed
from hypothesis import given
from hypothesis import strategies as st
from strategies import ANY_JSON, change, places

from nss_jax.errors import UserError
from nss_jax.phases import report
from nss_jax.results import overview, page
from nss_jax.results.contents import read_contents

SEARCHED = "search/elite_space.json"
# (file, phase that reads it, results without which the phase goes on)
READ_BY = (
  ("config.json", "search", ()),
  (SEARCHED, "search", ()),
  (SEARCHED, "evaluate", ("evaluate/summary.json",)),
  (SEARCHED, "nas", ("nas",)),
  (SEARCHED, "complexity", ("complexity",)),
  ("search/metrics.jsonl", "search", (SEARCHED,)),
  ("evaluate/summary.json", "evaluate", ()),
  ("rank_check/summary.json", "rank_check", ()),
  ("nas/summary.json", "nas", ()),
  ("nas/summary.json", "train", ("train",)),  # without --arch
  ("nas/elite/lr_0.01/architecture.json", "nas", ("nas/summary.json",)),
  (
    "nas/expanded/lr_0.01/logits.json",
    "complexity",
    ("complexity/summary.json",),
  ),
  ("complexity/summary.json", "complexity", ()),
  ("train/d1_w4/seed_0/result.json", "train", ()),
  ("sweep/summary.json", "sweep", ()),
)
# What only the report reads of a phase.
REPORTED = (
  SEARCHED,
  "search/metrics.jsonl",
  "evaluate/summary.json",
  "rank_check/summary.json",
  "nas/elite/architecture.json",
  "nas/controls/architecture.json",
  "complexity/summary.json",
  "train/d1_w4/seed_0/result.json",
  "sweep/0.06mf/config.json",
  "sweep/0.06mf/search/elite_space.json",
)
_MOST_SECONDS = 2  # for an answer


@pytest.fixture(scope="module")
def config():
  return runs.load_config(**harness_lib.SETTINGS)


@pytest.fixture(scope="module")
def finished(harness):
  return harness.finished("report").workdir


@pytest.fixture
def workdir(finished, tmp_path):
  return tmp_path / "run"


def edited(draw, path):
  """Draws the text of a file with a value replaced or removed, or any other."""
  lines = path.read_text().splitlines() if path.suffix == ".jsonl" else []
  content = json.loads(lines[0] if lines else path.read_text())
  if draw(st.integers(0, 9)):
    where = draw(st.sampled_from(places(content)))
    content = change(content, where, draw(ANY_JSON | st.just(...)))
  else:
    content = draw(ANY_JSON)
  return "\n".join([json.dumps(content), *lines[1:], ""])


def copy(finished, workdir, removed=()):
  """Makes a workdir as it was when all had run, without checkpoints."""
  shutil.rmtree(workdir, ignore_errors=True)
  ignored = shutil.ignore_patterns("checkpoints", "*.png", "*.svg", "report")
  shutil.copytree(finished, workdir, ignore=ignored)
  for name in removed:
    path = workdir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
  "reader", READ_BY, ids=[f"{r[1]}-{r[0]}" for r in READ_BY]
)
def test_edited_file(reader, config, finished, workdir):
  """The answer comes soon; nothing is imported for what the file says."""
  file, phase, removed = reader
  copy(finished, workdir, removed)
  code, err = run(config, workdir, phase)
  assert code in (0, ACCEPTED), err
  copy(finished, workdir, removed)
  (workdir / file).write_text("{\n{\n")
  assert run(config, workdir, phase)[0] == 2
  seconds = []

  @fuzzed(runs.CASES_OF_A_FILE)
  @given(data=st.data())
  def try_one(data):
    copy(finished, workdir, removed)
    (workdir / file).write_text(edited(data.draw, finished / file))
    before, began = set(sys.modules), time.monotonic()
    answer = run(config, workdir, phase)
    seconds.append(time.monotonic() - began)
    assert seconds[-1] < _MOST_SECONDS
    assert set(sys.modules) == before
    assert_answered(answer)
    assert [path.name for path in workdir.parent.iterdir()] == ["run"]

  try_one()
  print(f"{len(seconds)} cases, {max(seconds):.2f} s at most")  # by -rP


def run(config, workdir, phase):
  archs = ["d1_w4"] if (workdir / "train").exists() else []
  return call(config, workdir, [phase], archs=archs)


def test_edited_file_in_a_report(config, finished, workdir):
  job = runs.make_job(config, workdir)

  @fuzzed(runs.CASES)
  @given(data=st.data(), file=st.sampled_from(REPORTED))
  def try_one(data, file):
    copy(finished, workdir)
    (workdir / file).write_text(edited(data.draw, finished / file))
    try:
      contents = read_contents(workdir, job.search_space)
    except UserError as error:
      assert str(error).startswith(str(workdir)) and str(error).isprintable()
      return
    # What passes must be of use.
    facts = report.facts(job, contents)
    assert page.render(facts, contents, overview.make_tables(facts, contents))

  try_one()
