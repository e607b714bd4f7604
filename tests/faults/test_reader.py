"""A report reads while files are written: each is whole or not there."""

import multiprocessing
import pathlib

import runs
from harness import SETTINGS
from replay import replay

from nss_jax.results.contents import read_contents

_READS_PER_CASE = 4


def _sizes(results):
  """Counts how much there is of each thing that grows."""
  scores, ranks = results.scores.get("evaluate"), results.rank_scores
  return (
    len(results.epochs),
    0 if scores is None else len(scores),
    0 if ranks is None else len(ranks.supernet) + len(ranks.truths),
    len(results.networks),
    len(results.trained),
    len(results.sweep),
  )


def test_a_reader_sees_whole_files(harness, tmp_path):
  """`--cases=2500` makes it 10,000 reads of 20 workdirs."""
  num_workdirs = min(20, max(4, runs.CASES // 12))
  finished = harness.finished("report").workdir
  space = runs.make_job(runs.load_config(**SETTINGS), finished).search_space
  whole = _sizes(read_contents(finished, space))
  context, reads, steps = multiprocessing.get_context("spawn"), 0, set()
  for generation in range(1000):
    folders = [str(tmp_path / f"{generation}_{n}") for n in range(num_workdirs)]
    seen = dict.fromkeys(folders, (0,) * len(whole))
    writer = context.Process(
      target=replay, args=(str(finished), folders, space.to_dict())
    )
    writer.start()
    while writer.is_alive():
      for folder in folders:
        sizes = _sizes(read_contents(pathlib.Path(folder), space))
        # Nothing that was there is gone.
        assert all(a <= b for a, b in zip(seen[folder], sizes, strict=True))
        seen[folder] = sizes
        steps.add(sizes)
        reads += any(sizes)  # nothing is there while the writer starts
    writer.join()
    assert writer.exitcode == 0
    for folder in folders:
      assert _sizes(read_contents(pathlib.Path(folder), space)) == whole
    # Until it has looked in between as well, which is up to the system.
    if reads >= _READS_PER_CASE * runs.CASES and len(steps) > 10:
      break
  else:
    raise AssertionError(f"of {reads} reads only {len(steps)} in between")
