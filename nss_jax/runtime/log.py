"""What a person sees while a phase runs."""

import rich.console
import rich.progress
import rich.text


class Progress:
  """A bar on a terminal; a line per epoch elsewhere (files, CI, schedulers).

  A context manager. The time left is that of `rich`, from the steps done in
  this process, so a resumed run estimates rightly.
  """

  def __init__(
    self, console: rich.console.Console, num_steps: int, done: int = 0
  ):
    self._console = console
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("{task.description}"),
      rich.progress.BarColumn(bar_width=20),
      rich.progress.TaskProgressColumn(),
      rich.progress.TextColumn("left"),
      rich.progress.TimeRemainingColumn(compact=True),
      console=console,
      disable=not console.is_terminal,
    )
    self._task = self._bar.add_task(
      "compiling", total=num_steps, completed=done
    )

  def __enter__(self) -> "Progress":
    self._bar.start()
    return self

  def __exit__(self, *_):
    self._bar.stop()

  def update(self, step: int, description: str) -> None:
    """Moves the bar to a step."""
    self._bar.update(self._task, completed=step, description=description)

  def line(self, text: str) -> None:
    """A line that stays, where there is no bar."""
    if not self._console.is_terminal:
      say(self._console, text)


def make_console() -> rich.console.Console:
  """A console on standard output; never wraps what a file receives."""
  return rich.console.Console(highlight=False, soft_wrap=True)


def say(console: rich.console.Console, text: str) -> None:
  """Prints a line as it is: no markup and no commands are read from it."""
  text = "".join(c if c.isprintable() else " " for c in text)
  console.print(rich.text.Text(text))


def format_macs(number: float) -> str:
  """Multiply-adds in MF (1e6) or GF (1e9): `598 MF`, `1.6 GF`, `0.34 MF`."""
  unit, scale = ("GF", 1e9) if number >= 999.5e6 else ("MF", 1e6)
  return f"{number / scale:.3g} {unit}"
