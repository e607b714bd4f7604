"""What does it cost to read the images of each step from their files?

Run `python tests/benchmarks/streaming.py`; it takes some minutes. Synthetic
images are written as files. A step is that of the phase train (batch 128,
32x32x3), eight of them in a call. Blocks of calls take turns, with all images
on the device and with images that threads read. The first calls of a block,
which compile or find a call read ahead, do not count.

* read: the images that the threads read in a second, when nothing else runs;
* ratio: the time of a step, streamed over resident, where one means no cost;
* of CPU: the same for the CPU time of all threads, which depends less on other
  jobs.

On a CPU the threads take their time from the step. On an accelerator the step
leaves them the cores, so streaming costs nothing up to `read` images a second.
"""

import argparse
import os
import pathlib
import tempfile
import time

import jax
import numpy as np
from PIL import Image

from nss_jax import config as config_lib
from nss_jax import data
from nss_jax.phases import train
from nss_jax.phases.job import Job
from nss_jax.runtime import sharding
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.spaces.text import parse_arch

ARCHS = ("d1-1-1_w4-8-8", "d1-1-1_w16-32-64")
# Kind and pixels of the files; larger ones are cut and resized to 32.
FILES = (("png", 32), ("jpg", 256))
BATCH, STEPS, SKIPPED, COUNTED, BLOCKS = 128, 8, 2, 3, 3


def write_folder(root, suffix, size, count):
  """Writes files of made-up images, `count` of them for training."""
  numbers = data.Synthetic(num_train=count, num_test=10)
  made = data.load(
    "synthetic", image_size=size, synthetic=numbers, stream="never"
  )
  for part in ("train", "test"):
    images, labels = (
      getattr(made, f"{part}_{kind}") for kind in ("images", "labels")
    )
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
      folder = root / part / str(label)
      folder.mkdir(parents=True, exist_ok=True)
      Image.fromarray(image).save(folder / f"{row:05}.{suffix}")


def images_read_per_second(dataset):
  """Reads the whole set, by the threads alone."""
  began = time.perf_counter()
  dataset.train_images[:]
  return len(dataset.train_images) / (time.perf_counter() - began)


def make_block(config, text, dataset):
  """Returns a function that runs some calls, and returns the seconds of each by
  the clock and by the CPU."""
  space = SearchSpace.expanded(
    max_depth=4, max_width=64, image_shape=(32, 32, 3), num_classes=10
  ).only(parse_arch(text))
  job = Job.open(
    config,
    pathlib.Path(),
    dataset=dataset,
    search_space=space,
    mesh=sharding.make_mesh(1),
  )
  built = train.build(job)
  state, step, epoch_steps = built.init(), 0, built.schedule.steps_per_epoch

  def block():
    nonlocal state, step
    times = []
    for _ in range(SKIPPED + COUNTED):
      epoch, first = divmod(step, epoch_steps)
      began = np.array([time.perf_counter(), time.process_time()])
      state, losses = built.dispatch(state, epoch, first, STEPS, True)
      jax.block_until_ready(losses)
      ended = np.array([time.perf_counter(), time.process_time()])
      times.append(ended - began)
      step += STEPS
    return times[SKIPPED:]

  return block


def measure(config, text, sets):
  """Returns median milliseconds of a step, by clock and CPU, of either way."""
  blocks = {way: make_block(config, text, one) for way, one in sets.items()}
  times = {way: [] for way in sets}
  for _ in range(BLOCKS):
    for way, block in blocks.items():
      times[way] += block()
  return [1e3 / STEPS * np.median(found, axis=0) for found in times.values()]


def main():
  argparse.ArgumentParser(description=__doc__).parse_args()
  config = config_lib.base()
  config.train.batch_size, config.search.steps_per_dispatch = BATCH, STEPS
  config.data.crop_padding, config.data.flip = 4, True
  count = STEPS * BATCH
  print(
    f"jax {jax.__version__}, {os.cpu_count()} cores, "
    f"{jax.devices()[0].device_kind}"
  )
  print(
    f"{'files':10} {'read':>8} {'arch':18} resident ms  streamed ms  ratio  "
    "of CPU"
  )
  for suffix, size in FILES:
    with tempfile.TemporaryDirectory() as folder:
      write_folder(pathlib.Path(folder), suffix, size, count)
      sets = {
        way: data.load("folder", path=folder, image_size=32, stream=way)
        for way in ("never", "always")
      }
      speed = np.round(images_read_per_second(sets["always"]), -1)
      for text in ARCHS:
        resident, streamed = measure(config, text, sets)
        ratio, of_cpu = streamed / resident
        print(
          f"{suffix} {size:<6} {speed:8.0f} {text:18} {resident[0]:11.1f} "
          f"{streamed[0]:12.1f} {ratio:6.2f} {of_cpu:7.2f}",
          flush=True,
        )


if __name__ == "__main__":
  main()
