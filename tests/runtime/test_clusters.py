"""What `--distributed` finds by itself, in the environments of schedulers.

jax reads the environment and asks servers; the servers are stand-ins. Two
processes of this machine really come together, as under `srun` and `mpirun`.
"""

import os
import re
import socket
import subprocess
import sys
import types

import jax
import pytest
import runs
import yaml
from jax._src import distributed
from jax._src.clusters import cloud_tpu_cluster, cluster, k8s_cluster

from nss_jax.errors import UserError
from nss_jax.runtime import processes

# Ports that jax takes, from its documentation.
TPU_PORT, KUBERNETES_PORT = 8482, 55527
NAMES = re.compile(
  "SLURM|OMPI|TPU|MEGASCALE|KUBERNETES|JAX_(COORD|LOCAL|PROC)|.*_proxy",
  re.IGNORECASE,
)


@pytest.fixture
def found(monkeypatch):
  """Calls `processes.join`; returns what jax would start with."""
  for name in filter(NAMES.match, list(os.environ)):
    monkeypatch.delenv(name)
  calls = {}

  def service(address, count, **_):
    calls.update(service=(address, count))

  def client(address, index, **fields):
    calls.update(
      coordinator=address, index=index, heartbeat=fields["heartbeat_timeout"]
    )
    return types.SimpleNamespace(connect=lambda: None)

  def initialize(**fields):
    # gRPC would ask the proxies for the way; downloads may need them later.
    assert not {"http_proxy", "HTTPS_PROXY"} & set(os.environ)
    # Of this test alone: jax has one for the whole process.
    state = distributed.State()
    state.initialize(**fields)
    calls.update(count=state.num_processes)

  lib = types.SimpleNamespace(
    get_distributed_runtime_service=service,
    get_distributed_runtime_client=client,
  )
  monkeypatch.setattr(distributed, "_jax", lib)
  # Which devices are visible is told to jax for good.
  monkeypatch.setattr(distributed.config, "update", calls.__setitem__)
  monkeypatch.setattr(
    distributed.State, "initialize_preemption_sync_manager", lambda _: None
  )
  monkeypatch.setattr(jax.distributed, "initialize", initialize)

  def join(**environment):
    for name, value in environment.items():
      monkeypatch.setenv(name, str(value))
    proxies = {"http_proxy": "http://a:9", "HTTPS_PROXY": "http://b:9"}
    for name, value in proxies.items():
      monkeypatch.setenv(name, value)
    processes.join(heartbeat_seconds=77)
    assert proxies.items() <= os.environ.items()
    return calls

  return join


def _slurm(nodes="host", *, tasks=4, index=0, local=0, job=4100):
  return {
    "SLURM_JOB_ID": job,
    "SLURM_STEP_NODELIST": nodes,
    "SLURM_NTASKS": tasks,
    "SLURM_PROCID": index,
    "SLURM_LOCALID": local,
  }


def _open_mpi(address="tcp://10.96.0.1,10.148.0.1:34911", *, index=0, tasks=2):
  return {
    "OMPI_MCA_orte_hnp_uri": f"{7 * 2**12}.0;{address}",
    "OMPI_COMM_WORLD_SIZE": tasks,
    "OMPI_COMM_WORLD_RANK": index,
    "OMPI_COMM_WORLD_LOCAL_RANK": index,
  }


@pytest.mark.parametrize(
  "nodes, first",
  [
    ("one", "one"),
    ("one,two", "one"),
    ("gpu[003-004]", "gpu003"),
    ("gpu[003,007-009],big1", "gpu003"),
  ],
)
def test_slurm(nodes, first, found):
  calls = found(**_slurm(nodes, index=3, local=1))
  # The port goes with the job: two jobs on a node do not meet.
  assert calls["coordinator"] == f"{first}:{61440 + 4100 % 4096}"
  assert (calls["index"], calls["count"]) == (3, 4)
  assert calls["heartbeat"] == 77
  # The GPU of its number on the node, as launch/README.md says.
  assert calls["jax_cuda_visible_devices"] == "1"
  assert "service" not in calls


def test_first_process_of_slurm_serves_the_others(found):
  calls = found(**_slurm("one,two"))
  assert calls["service"] == ("[::]:61444", 4)
  assert calls["index"] == 0


@pytest.mark.parametrize("missing", _slurm())
def test_slurm_outside_of_srun_is_refused(missing, found):
  environment = {k: v for k, v in _slurm().items() if k != missing}
  with pytest.raises(UserError, match="started by srun") as e:
    found(**environment)
  assert str(e.value).isprintable()


def test_open_mpi(found):
  calls = found(**_open_mpi(index=1))
  assert calls["coordinator"] == f"10.96.0.1:{61440 + 7}"
  assert (calls["index"], calls["count"]) == (1, 2)


@pytest.mark.skipif("mpi4py" in sys.modules, reason="mpi4py would start MPI")
def test_open_mpi_5_does_not_say_where_the_first_is(found):
  environment = _open_mpi()
  del environment["OMPI_MCA_orte_hnp_uri"]
  with pytest.raises(UserError, match="--coordinator"):
    found(**environment)


@pytest.fixture
def tpu(monkeypatch):
  """Stands for a TPU VM, whose metadata are the returned dict."""
  metadata = {}
  for module in (cluster, cloud_tpu_cluster):
    monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
  monkeypatch.setattr(
    cloud_tpu_cluster,
    "get_metadata",
    lambda key: (metadata.get(key, ""), 200 if key in metadata else 404),
  )
  monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.1")
  return metadata


@pytest.mark.parametrize(
  "name", ["TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"]
)
def test_tpu_slice_of_gke(name, found, tpu):
  calls = found(**{name: "pod-0.svc,pod-1.svc"}, TPU_WORKER_ID=1)
  assert calls["coordinator"] == f"pod-0.svc:{TPU_PORT}"
  assert (calls["index"], calls["count"]) == (1, 2)
  # All chips of a host are one process's.
  assert "jax_cuda_visible_devices" not in calls


def test_several_tpu_slices_of_gke(found, tpu):
  calls = found(
    TPU_WORKER_HOSTNAMES="b-0,b-1",
    TPU_WORKER_ID=1,
    MEGASCALE_COORDINATOR_ADDRESS="a-0:8080",
    MEGASCALE_NUM_SLICES=2,
    MEGASCALE_SLICE_ID=1,
  )
  assert calls["coordinator"] == f"a-0:{TPU_PORT}"
  assert (calls["index"], calls["count"]) == (3, 4)


def test_tpu_vm(found, tpu):
  tpu["agent-worker-number"] = "2"
  tpu["worker-network-endpoints"] = "h-0,h-1,h-2,h-3"
  calls = found()
  assert calls["coordinator"] == f"h-0:{TPU_PORT}"
  assert (calls["index"], calls["count"]) == (2, 4)


def _object(**fields):
  return types.SimpleNamespace(**fields)


@pytest.fixture
def pod(monkeypatch):
  """Makes the pod of our JobSet, named and labelled as by its controller."""
  text = (runs.ROOT / "launch" / "kubernetes_search.yaml").read_text()
  *_, jobset = yaml.safe_load_all(text)
  (part,) = jobset["spec"]["replicatedJobs"]
  name = jobset["metadata"]["name"]
  job_name = f"{name}-{part['name']}-0"
  job = _object(
    metadata=_object(
      name=job_name, labels={"jobset.sigs.k8s.io/jobset-name": name}
    ),
    spec=_object(parallelism=part["template"]["spec"]["parallelism"]),
  )
  pod = _object(
    metadata=_object(
      name=f"{job_name}-1-abcde",
      labels={"job-name": job_name},
      owner_references=[_object(kind="Job", controller=True)],
    ),
    spec=_object(subdomain=name),
  )
  core = _object(
    list_namespaced_pod=lambda **_: _object(items=[pod]),
    list_namespaced_service=lambda *_: _object(items=[]),
  )
  batch = _object(read_namespaced_job=lambda **_: job)
  package = types.ModuleType("kubernetes")
  package.config = _object(load_incluster_config=lambda: None)
  package.client = _object(
    CoreV1Api=lambda: core,
    BatchV1Api=lambda: batch,
    exceptions=_object(ApiException=KeyError),
  )
  monkeypatch.setitem(sys.modules, "kubernetes", package)
  kind = k8s_cluster.K8sCluster
  monkeypatch.setattr(kind, "_namespace", lambda: "default")
  monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.1")
  cached = [vars(kind)[n].__func__ for n in ("_pod", "_job", "_controller")]
  yield {"KUBERNETES_SERVICE_HOST": "10.0.0.0", "HOSTNAME": "a-pod"}
  for function in cached:
    function.cache_clear()


def test_jobset(found, pod):
  calls = found(**pod, JOB_COMPLETION_INDEX=1)
  host = "nss-search-search-0-0.nss-search"
  assert calls["coordinator"] == f"{host}:{KUBERNETES_PORT}"
  assert (calls["index"], calls["count"]) == (1, 2)


def test_nothing_is_found(found):
  with pytest.raises(UserError, match="srun, mpirun or on a TPU"):
    found()


_JOIN = """
import jax
from nss_jax.runtime import processes
processes.join(heartbeat_seconds=10)
print(jax.process_index(), jax.process_count())
"""


def _free_job(start):
  """Finds the number of a job whose port is free."""
  for job in range(start, start + 4000):
    with socket.socket() as free:
      try:
        free.bind(("localhost", 61440 + job % 4096))
      except OSError:
        continue
      return job
  raise AssertionError("no port is free")


@pytest.mark.parametrize(
  "scheduler", ["slurm", pytest.param("open_mpi", marks=pytest.mark.slow)]
)
def test_two_processes_come_together(scheduler):
  job = _free_job(os.getpid())
  started = []
  for index in range(2):
    if scheduler == "slurm":
      told = _slurm("localhost", tasks=2, index=index, local=index, job=job)
    else:
      told = _open_mpi("tcp://127.0.0.1:1", index=index)
      told["OMPI_MCA_orte_hnp_uri"] = f"{job * 2**12}.0;tcp://127.0.0.1:1"
    inherited = {k: v for k, v in os.environ.items() if not NAMES.match(k)}
    started.append(
      subprocess.Popen(
        [sys.executable, "-c", _JOIN],
        env={
          **inherited,
          **{name: str(value) for name, value in told.items()},
          # Asked for the way, it would be waited for.
          "http_proxy": "http://localhost:9",
          "HTTPS_PROXY": "http://localhost:9",
          "JAX_PLATFORMS": "cpu",
          "PYTHONPATH": str(runs.ROOT),
        },
        stdout=subprocess.PIPE,
        text=True,
      )
    )
  try:
    ends = [process.communicate(timeout=300)[0] for process in started]
  finally:
    for process in started:
      process.kill()
      process.stdout.close()
  assert ends == ["0 2\n", "1 2\n"]
