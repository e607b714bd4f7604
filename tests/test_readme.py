"""What the README says is what CI runs."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("[a-z]*/*.md"))]


def _one_line(text: str) -> str:
  return re.sub(r"\s+", " ", text.replace("\\\n", " "))


def test_ci_runs_the_commands_of_the_readme():
  readme = _one_line((ROOT / "README.md").read_text())
  ci = _one_line((ROOT / ".ci" / "run").read_text())
  main = "nss --config=configs/quickstart.py"
  assert f"pip install -e . && {main}" in readme
  assert "pip install -e '.[test]' && pytest" in readme
  assert main in ci
  assert "pip install --quiet -e '.[test]'" in ci
  assert " pytest " in ci
  assert "ruff check ." in ci
  assert "ruff format --check ." in ci


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.parent.name)
def test_pages_name_files_that_exist(page):
  text = page.read_text()
  for name in re.findall(r"`((?:configs|tests|nss_jax)/[\w/]+\.\w+)`", text):
    assert (ROOT / name).exists(), name
  links = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", text)
  for link in (link or picture for link, picture in links):
    assert "://" in link or (page.parent / link).exists(), link


def test_a_newcomer_reads_the_readme_to_its_end():
  readme = (ROOT / "README.md").read_text()
  assert len(readme.splitlines()) <= 150
  for page in ("configs", "launch", "tests"):
    assert f"]({page}/README.md)" in readme


def test_badges_open_the_notebooks():
  badge = r"colab-badge\.svg\)\]\(https://colab\.research\.google\.com/github/"
  readme = (ROOT / "README.md").read_text()
  found = re.findall(rf"{badge}([\w.-]+)/nss_jax/blob/main/([\w/.]+)\)", readme)
  notebooks = sorted((ROOT / "colab").glob("*.ipynb"))
  assert sorted(ROOT / name for _, name in found) == notebooks
  (owner,) = {owner for owner, _ in found}
  for path in notebooks:  # one owner in all places
    text = path.read_text()
    assert f'https://github.com/{owner}/nss_jax\\"' in text
    assert f"github/{owner}/nss_jax/blob/main/colab/{path.name})" in text


def test_readme_code_runs():
  readme = (ROOT / "README.md").read_text()
  blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
  assert blocks
  for block in blocks:
    exec(compile(block, "README.md", "exec"), {})
