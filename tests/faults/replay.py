"""Writes the files of a finished run again, a bit at a time, as runs do."""

import json
import pathlib

from nss_jax.runtime import files, scores
from nss_jax.spaces.search_space import SearchSpace

_ORDER = {".jsonl": 0, ".csv": 1, ".json": 2}


def replay(finished: str, folders: list[str], search_space: dict) -> None:
  """Writes to many workdirs in turns, one line or one file at a time.

  Args:
    finished: workdir of the run.
    folders: workdirs; they are made.
    search_space: of the run, as JSON.
  """
  space = SearchSpace.from_dict(search_space)
  finished = pathlib.Path(finished)
  paths = [p for p in finished.rglob("*") if p.suffix in _ORDER]
  paths = [p for p in paths if "run/report" not in str(p)]
  paths = [p for p in paths if "checkpoints" not in p.parts]
  for path in sorted(paths, key=lambda p: (_ORDER[p.suffix], p)):
    for write in _writes(path, space):
      for folder in folders:
        copy = pathlib.Path(folder) / path.relative_to(finished)
        copy.parent.mkdir(parents=True, exist_ok=True)
        write(copy)


def _writes(path, space):
  if path.suffix == ".json":
    content = json.loads(path.read_text())
    yield lambda copy: files.write_json(copy, content)
  elif path.suffix == ".jsonl":
    for line in files.read_lines(path):
      yield lambda copy, line=line: files.append_line(copy, line)
  else:
    table = scores.read_scores(path, space)
    for row in range(0, len(table), 5):
      part = table.select(slice(row, row + 5))
      yield lambda copy, part=part: scores.append_scores(copy, space, part)
