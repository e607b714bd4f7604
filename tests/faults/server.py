"""Runs the command in forks of a process that has imported everything.

To import costs more than to run what these tests run, hundreds of times. What
JAX starts at its first use, threads above all, is started after the fork.

A request is a line of JSON on standard input: `{"flags": [..], "fault": {..},
"out": FILE, "err": FILE, "seen": FILE}` starts a run and is answered by its
process id, `{"wait": PID}` by its exit code.
"""

import gc
import json
import os
import pathlib
import signal
import sys

import injection
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import orbax.checkpoint  # noqa: F401

from nss_jax import data, main
from nss_jax.phases import pipeline  # noqa: F401
from nss_jax.runtime.progress import Progress

_TIMEOUT_SECONDS = 600


def serve() -> dict | None:
  """Answers until the end of the requests; in a fork, returns its request."""
  for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
      _, status = os.waitpid(request["wait"], 0)
      answer = os.waitstatus_to_exitcode(status)
    else:
      answer = os.fork()
      if not answer:
        return request
    print(json.dumps(answer), flush=True)
  return None


def run(request: dict) -> None:
  """Runs the command, with a fault."""
  signal.alarm(_TIMEOUT_SECONDS)
  for number, name in enumerate((os.devnull, request["out"], request["err"])):
    file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, number)
    os.close(file)
  sys.argv = ["nss_jax", *request["flags"]]
  faults = injection.inject(**request["fault"])
  _count_calls(faults)
  try:
    main.run()
  finally:
    seen = (faults.counts, faults.signalled, faults.calls_after)
    pathlib.Path(request["seen"]).write_text(json.dumps(seen))


def _count_calls(faults: injection.Watch) -> None:
  """Counts calls of the device, from the signal on."""
  before_call = Progress.before_call

  def counted(self, *arguments):
    faults.calls_after += faults.signalled is not None
    return before_call(self, *arguments)

  Progress.before_call = counted


if __name__ == "__main__":
  data.load("digits")  # imports what it needs
  # What is there for good is not looked through again in each fork.
  gc.collect()
  gc.freeze()
  if request := serve():
    run(request)
