"""Tables of scored archs, of which only some columns are of interest."""

import numpy as np

from nss_jax.results.scores import NO_SPACE, Scores


def table(source, error, *, rng=None, **columns):
  """Archs with given errors; the rest is plain, or random with an `rng`."""
  error = np.asarray(error, float)
  count = len(error)

  def drawn(most, *shape):
    return (
      np.ones((count, *shape), int)
      if rng is None
      else (rng.integers(1, most, (count, *shape)))
    )

  kept = {
    "source": np.full(count, source),
    "space": np.full(count, NO_SPACE),
    "depth": drawn(9, 3),
    "width": drawn(65, 3),
    "flops": 100 * drawn(10_000),
    "params": drawn(1_000_000),
    "error": error,
    "loss": 2 * error if rng is None else rng.uniform(size=count),
  }
  for name, values in columns.items():
    shape, kind = kept[name].shape, kept[name].dtype
    kept[name] = np.broadcast_to(np.asarray(values, kind), shape).copy()
  return Scores(**kept)


def join(*tables):
  """One table after the other."""
  return Scores(
    **{k: np.concatenate([vars(t)[k] for t in tables]) for k in vars(tables[0])}
  )
