"""The files of launch/: valid, with flags that exist, and requeued on 75."""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import time

import jsonschema
import kubernetes_validate
import launch_schemas
import pytest
import runs
import yaml

from nss_jax import command
from nss_jax import config as config_lib
from nss_jax.runtime.preemption import EXIT_SAVED

LAUNCH = runs.ROOT / "launch"
SCRIPTS = sorted(p for p in LAUNCH.iterdir() if p.suffix in (".sh", ".sbatch"))
KUBERNETES = sorted(LAUNCH.glob("kubernetes_*.yaml"))
EXPECTED = {
  "slurm_sweep.sbatch": {
    *("config", "config.seed", "workdir", "phases", "sweep_index"),
    "take_over",
  },
  "slurm_search.sbatch": {"distributed", "take_over"},
  "kubernetes_search.yaml": {
    *("config", "config.data.cache_dir", "workdir", "distributed"),
    "take_over",
  },
  "kubernetes_sweep.yaml": {
    *("config", "config.data.cache_dir", "workdir", "phases", "sweep_index"),
    "take_over",
  },
  "skypilot.yaml": {
    *("config", "workdir", "coordinator", "num_processes", "process_id"),
    "take_over",
  },
  "tpu_vm.sh": {"distributed", "take_over"},
}


def _load(path: pathlib.Path) -> list[dict]:
  return list(yaml.safe_load_all(path.read_text()))


def _jobs(path: pathlib.Path) -> list[dict]:
  """Every Job of a file, those of a JobSet too."""
  found = []
  for resource in _load(path):
    if resource["kind"] == "Job":
      found.append(resource)
    for part in resource.get("spec", {}).get("replicatedJobs", ()):
      metadata = {"name": part["name"]}
      job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata}
      found.append({**job, **part["template"]})
  return found


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_files_have_the_schema(path):
  for resource in [*_load(path), *_jobs(path)]:
    if resource["kind"] == "JobSet":
      jsonschema.validate(resource, launch_schemas.JOBSET)
    else:
      kubernetes_validate.validate(resource, "1.37", strict=True)


def test_names_that_jobset_makes_are_short_enough():
  jobset = _load(LAUNCH / "kubernetes_search.yaml")[-1]
  (part,) = jobset["spec"]["replicatedJobs"]
  last = part["template"]["spec"]["completions"] - 1
  name = jobset["metadata"]["name"]
  assert len(f"{name}-{part['name']}-0-{last}-abcde") <= 63


def test_skypilot_file_has_the_schema():
  (sky,) = _load(LAUNCH / "skypilot.yaml")
  jsonschema.validate(sky, launch_schemas.SKYPILOT)


# Mistakes that an engine would find late or never: the path and the value.
MISTAKES = [
  ("kubernetes_search", "spec/failurePolicy/maxRestart", 2),
  ("kubernetes_search", "spec/failurePolicy/rules/0/action", "Restart"),
  ("kubernetes_search", "spec/failurePolicy/rules/0/name", "saved-75"),
  ("kubernetes_search", "spec/replicatedJobs", []),
  ("skypilot", "resources/job_recovery/recover_on_exit_codes", ["75"]),
  ("skypilot", "file_mounts//runs", {"name": "x", "mode": "CACHED"}),
  ("skypilot", "envs/2X", ""),
  ("skypilot", "env", {}),
]


@pytest.mark.parametrize("name, path, value", MISTAKES)
def test_schemas_find_mistakes(name, path, value):
  resource = _load(LAUNCH / f"{name}.yaml")[-1]
  *parents, last = path.split("/", 1 if "//" in path else -1)
  place = resource
  for key in parents:
    place = place[int(key) if key.isdigit() else key]
  place[last] = value
  schema = {"skypilot": launch_schemas.SKYPILOT}
  with pytest.raises(jsonschema.ValidationError):
    jsonschema.validate(resource, schema.get(name, launch_schemas.JOBSET))


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_pods_are_not_root_and_have_time_to_save(path):
  (job,) = _jobs(path)
  pod = job["spec"]["template"]["spec"]
  (container,) = pod["containers"]
  assert pod["restartPolicy"] == "Never"  # or there is no podFailurePolicy
  assert pod["terminationGracePeriodSeconds"] >= 60
  assert pod["securityContext"]["runAsNonRoot"]
  assert container["securityContext"]["allowPrivilegeEscalation"] is False
  rules = job["spec"]["podFailurePolicy"]["rules"]
  names = [rule["onExitCodes"]["containerName"] for rule in rules[1:]]
  assert set(names) == {container["name"]}
  volumes = {volume["name"] for volume in pod["volumes"]}
  assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_saved_is_started_again_and_only_saved():
  """Without limit on 75 and evictions; other codes a few times, or never."""
  actions = {}
  for path in KUBERNETES:
    (job,) = _jobs(path)
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
      codes = rule.get("onExitCodes", {}).get("values", ["evicted"])
      actions[path.stem, *codes] = rule["action"]
  assert actions == {
    ("kubernetes_search", "evicted"): "FailJob",
    ("kubernetes_search", EXIT_SAVED): "FailJob",
    ("kubernetes_sweep", "evicted"): "Ignore",
    ("kubernetes_sweep", EXIT_SAVED): "Ignore",
    ("kubernetes_sweep", 2): "FailIndex",
  }
  jobset = _load(LAUNCH / "kubernetes_search.yaml")[-1]
  (rule,) = jobset["spec"]["failurePolicy"]["rules"]
  assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  assert 0 < jobset["spec"]["failurePolicy"]["maxRestarts"] <= 3
  (sky,) = _load(LAUNCH / "skypilot.yaml")
  recovery = sky["resources"]["job_recovery"]
  assert recovery == {"recover_on_exit_codes": [EXIT_SAVED]}
  # The program's code is that of the task: nothing comes after it.
  assert "nss_jax.main" in sky["run"].replace("\\\n", "").splitlines()[-1]


def test_processes_of_a_search_in_kubernetes():
  """jax counts those of one Job, and asks the cluster for them."""
  account, role, binding, jobset = _load(LAUNCH / "kubernetes_search.yaml")
  (job,) = _jobs(LAUNCH / "kubernetes_search.yaml")
  assert jobset["spec"]["replicatedJobs"][0]["replicas"] == 1
  assert job["spec"]["completionMode"] == "Indexed"
  assert job["spec"]["parallelism"] == job["spec"]["completions"] > 1
  name = account["metadata"]["name"]
  assert job["spec"]["template"]["spec"]["serviceAccountName"] == name
  assert binding["subjects"][0]["name"] == name
  assert binding["roleRef"]["name"] == role["metadata"]["name"]
  allowed = {r for rule in role["rules"] for r in rule["resources"]}
  assert allowed == {"pods", "services", "jobs"}
  assert all({"get", "list", "watch"} == set(r["verbs"]) for r in role["rules"])


def test_image():
  lines = (LAUNCH / "Dockerfile").read_text().splitlines()
  words = [line.split(maxsplit=1) for line in lines if line[:1].isupper()]
  (base,) = [rest for word, rest in words if word == "FROM"]
  assert re.fullmatch(r"python:3\.1[1-3]\.\d+-\S+@sha256:[0-9a-f]{64}", base)
  assert [rest for word, rest in words if word == "USER"] == ["1000"]
  copied = [r.split()[:-1] for word, r in words if word == "COPY"]
  assert all((runs.ROOT / name).exists() for part in copied for name in part)
  # A list: a shell in between would keep SIGTERM for itself.
  (entry,) = [rest for word, rest in words if word == "ENTRYPOINT"]
  assert entry == '["python", "-m", "nss_jax.main"]'


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(path):
  subprocess.run(["bash", "-n", path], check=True)


def test_script_of_skypilot_parses():
  (sky,) = _load(LAUNCH / "skypilot.yaml")
  for part in ("setup", "run"):
    subprocess.run(["bash", "-n"], input=sky[part], text=True, check=True)


def _flags(text: str) -> set[str]:
  """Names of the flags after each `nss_jax.main` of a script or a page."""
  lines = re.findall(r"nss_jax\.main(.*)", text.replace("\\\n", " "))
  return {
    name for line in lines for name in re.findall(r"(?<!\S)--([\w.]+)", line)
  }


def _flags_of(path: pathlib.Path) -> set[str]:
  if path in KUBERNETES:
    (job,) = _jobs(path)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {a[2:].partition("=")[0] for a in container["args"]}
  if path.name == "skypilot.yaml":  # some are put together before
    return set(re.findall(r"(?<!\S)--([\w.]+)[ =]", _load(path)[0]["run"]))
  return _flags(path.read_text())


def _check_flags(names: set[str]) -> None:
  fields = config_lib.base().to_dict()
  for name in names - {*command.flags.FLAGS}:
    assert name.startswith("config.")
    assert not config_lib.missing_field(fields, name)


@pytest.mark.parametrize("name", EXPECTED)
def test_flags_of_the_files_exist(name):
  found = _flags_of(LAUNCH / name)
  assert found == EXPECTED[name]
  _check_flags(found)


def test_flags_and_files_of_the_page_exist():
  page = (LAUNCH / "README.md").read_text()
  found = _flags(page)
  assert {"dry_run", "phases", "workdir"} <= found
  _check_flags(found)
  for path in LAUNCH.iterdir():
    assert path.name == "README.md" or f"`{path.name}`" in page
  for name in re.findall(r"(?:launch|configs)/[\w.]+\w", page):
    assert (runs.ROOT / name).exists(), name


# Slurm's commands: srun stands for the program, which says that it runs, saves
# on SIGTERM and exits; scancel passes the signal on; all tell how they were
# called.
_SRUN = """
echo "srun $*" >> "$CALLS"
[ -n "$CODE" ] && exit "$CODE"
trap 'sleep 0.5; echo saved >> "$CALLS"; exit "$SAVED"' TERM
echo $$ > "$CALLS.pid"
while :; do sleep 0.05; done
"""
_SCANCEL = 'echo "scancel $*" >> "$CALLS"; kill -TERM "$(cat "$CALLS.pid")"\n'
_SCONTROL = 'echo "scontrol $*" >> "$CALLS"\n'


@pytest.fixture
def start(tmp_path):
  """Starts a batch script as Slurm does; `(process, calls)`."""
  (tmp_path / "bin").mkdir()
  fakes = {"srun": _SRUN, "scancel": _SCANCEL, "scontrol": _SCONTROL}
  for name, text in fakes.items():
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/bash\n{text}")
    path.chmod(0o755)
  calls, started = tmp_path / "calls", []

  def start(name, *arguments, code="", saved=EXIT_SAVED, **variables):
    calls.write_text("")
    environment = {
      "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
      "CALLS": str(calls),
      "CODE": str(code),
      "SAVED": str(saved),
      "SLURM_JOB_ID": "8",
      "SLURM_SUBMIT_DIR": str(runs.ROOT),
      **{name: str(value) for name, value in variables.items()},
    }
    if "sweep" in name:
      environment["SLURM_ARRAY_JOB_ID"] = "7"
    process = subprocess.Popen(
      ["bash", LAUNCH / name, *arguments],
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    return process, calls

  yield start
  for process in started:
    process.kill()
    process.wait()
    process.stderr.close()


# The script, and the number of the job as `scontrol requeue` must get it: a
# task of an array by its own, never the job's, which may be the array's.
JOBS = {"slurm_sweep.sbatch": "7_3", "slurm_search.sbatch": "8"}


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("code", [0, 1, 2, EXIT_SAVED, 137, 143])
def test_slurm_requeues_what_has_saved_itself(start, name, code):
  task = {"SLURM_ARRAY_TASK_ID": 3} if "sweep" in name else {}
  process, calls = start(name, code=code, **task)
  assert process.wait(timeout=120) == code
  called = calls.read_text().splitlines()
  assert called[0].startswith("srun ")
  requeued = [f"scontrol requeue {JOBS[name]}"] if code == EXIT_SAVED else []
  assert called[1:] == requeued


@pytest.mark.parametrize("saved", [EXIT_SAVED, 143, 0])
def test_slurm_passes_the_time_limit_on(start, saved, tmp_path):
  """USR1 to the shell, SIGTERM to the program; the shell waits for it."""
  process, calls = start(
    "slurm_sweep.sbatch", saved=saved, SLURM_ARRAY_TASK_ID=3
  )
  deadline = time.monotonic() + 120
  while not (tmp_path / "calls.pid").exists():
    assert time.monotonic() < deadline
    time.sleep(0.05)
  process.send_signal(signal.SIGUSR1)
  while "scancel" not in calls.read_text():
    assert time.monotonic() < deadline
    time.sleep(0.05)
  process.send_signal(signal.SIGUSR1)  # as when an administrator is impatient
  assert process.wait(timeout=120) == saved
  called = calls.read_text().splitlines()[1:]
  requeued = ["scontrol requeue 7_3"] if saved else []
  # 143: before the program could save, there was nothing to be saved.
  assert called == ["scancel --signal=TERM 8.0", "saved", *requeued]


def _arguments(calls: pathlib.Path) -> list[str]:
  """What the program was given."""
  words = shlex.split(calls.read_text().splitlines()[0])
  return words[words.index("nss_jax.main") + 1 :]


def test_tasks_of_a_sweep_are_all_different(start):
  fields = {
    "CONFIGS": "configs/cifar.py:cifar10_600mf configs/quickstart.py",
    "SEEDS": "0 5 7",
    "TARGETS": 2,
  }
  seen = []
  for task in range(12):
    process, calls = start(
      "slurm_sweep.sbatch", "--verbosity=0", code=0, SLURM_ARRAY_TASK_ID=task,
      **fields,
    )  # fmt: skip
    assert process.wait(timeout=120) == 0
    config, seed, workdir, phases, index, *last = _arguments(calls)
    assert phases == "--phases=sweep"
    assert last == ["--take_over", "--verbosity=0"]
    name = "quickstart" if "quickstart" in config else "cifar10_600mf"
    number = seed.removeprefix("--config.seed=")
    assert workdir == f"--workdir=runs/{name}_seed_{number}"
    seen.append((config, seed, index))
  assert len(set(seen)) == 12
  assert seen[0] == (
    "--config=configs/cifar.py:cifar10_600mf",
    "--config.seed=0",
    "--sweep_index=0",
  )
  # Targets of a run are neighbours; then seeds, then configs.
  assert [index for *_, index in seen[:4]] == [
    f"--sweep_index={k}" for k in (0, 1, 0, 1)
  ]
  assert {config for config, *_ in seen[6:]} == {
    "--config=configs/quickstart.py"
  }
  process, calls = start(
    "slurm_sweep.sbatch", code=0, SLURM_ARRAY_TASK_ID=12, **fields
  )
  assert process.wait(timeout=120) == 2
  assert process.stderr.read() == "error: task 12; expected --array=0-11\n"
  assert calls.read_text() == ""


def test_search_of_slurm_lets_every_process_save(start):
  process, calls = start("slurm_search.sbatch", "--config=a b.py", code=0)
  assert process.wait(timeout=120) == 0
  assert calls.read_text() == (
    "srun --kill-on-bad-exit=0 python -m nss_jax.main --distributed "
    "--take_over --config=a b.py\n"
  )


@pytest.mark.parametrize("name", JOBS)
def test_slurm_options(name):
  """Each has its reason in operations: requeue, one log, a warning in time."""
  text = (LAUNCH / name).read_text()
  options = shlex.split(" ".join(re.findall(r"#SBATCH (.*)", text)))
  assert {"--requeue", "--open-mode=append"} <= set(options)
  assert "--signal=B:USR1@120" in options
  (output,) = [o for o in options if o.startswith("--output=")]
  assert ("%A_%a" if "sweep" in name else "%j") in output
