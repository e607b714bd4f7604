"""What the README says is what CI runs."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent


def _one_line(text: str) -> str:
  return re.sub(r"\s+", " ", text.replace("\\\n", " "))


def test_ci_runs_the_commands_of_the_readme():
  readme = _one_line((ROOT / "README.md").read_text())
  ci = _one_line((ROOT / ".ci" / "run").read_text())
  main = "python -m nss_jax.main --config=configs/quickstart.py"
  assert f"pip install -e . && {main}" in readme
  assert "pip install -e '.[test]' && pytest" in readme
  assert main in ci
  assert "pip install --quiet -e '.[test]'" in ci
  assert " pytest " in ci
  assert "ruff check ." in ci
  assert "ruff format --check ." in ci


def test_readme_names_files_that_exist():
  readme = (ROOT / "README.md").read_text()
  for name in re.findall(r"`((?:configs|tests|nss_jax)/[\w/]+\.\w+)`", readme):
    assert (ROOT / name).exists(), name


def test_readme_code_runs():
  readme = (ROOT / "README.md").read_text()
  blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
  assert blocks
  for block in blocks:
    exec(compile(block, "README.md", "exec"), {})
