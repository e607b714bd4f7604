#!/bin/bash
# One run on a TPU slice: asks for it, waits, and starts the run on every host.
#   ZONE=us-east5-b TYPE=v6e-16 RUNTIME=v2-alpha-tpuv6e NFS=10.0.0.2:/runs \
#     launch/tpu_vm.sh nss --config=configs/cifar100_600mf.py \
#     --workdir=/mnt/runs/cifar100_600mf
# After a preemption run it again; it goes on. See launch/README.md.
set -eu

name=$1
shift
queue=(gcloud compute tpus queued-resources)
vm=(gcloud compute tpus tpu-vm)
zone=(--zone="$ZONE")
state() {
  "${queue[@]}" describe "$name" "${zone[@]}" --format="value(state.state)" \
    2> /dev/null || true
}
on_all_hosts() {
  "${vm[@]}" ssh "$name" "${zone[@]}" --worker=all --command="$1"
}

until [ "$(state)" = ACTIVE ]; do
  case $(state) in
    "")
      "${queue[@]}" create "$name" --node-id="$name" "${zone[@]}" --spot \
        --accelerator-type="$TYPE" --runtime-version="$RUNTIME"
      ;;
    SUSPENDED | FAILED) # preempted, or never had
      "${queue[@]}" delete "$name" "${zone[@]}" --force --quiet
      ;;
    *) sleep 60 ;;
  esac
done

# The workdir must be where all hosts see it: here on an NFS share.
on_all_hosts "sudo apt-get install -y -q nfs-common && mkdir -p nss_jax_run \
  && sudo mkdir -p /mnt/runs \
  && (mountpoint -q /mnt/runs || sudo mount -t nfs $NFS /mnt/runs)"
"${vm[@]}" scp --recurse pyproject.toml README.md nss_jax configs \
  "$name:nss_jax_run/" "${zone[@]}" --worker=all
# The image's own Python may be older than 3.11.
on_all_hosts "cd nss_jax_run && python3 -m pip install -q uv \
  && python3 -m uv venv -q --allow-existing --python 3.12 env \
  && python3 -m uv pip install -q --python env/bin/python '.[tpu]'"
# --take_over: of a slice that was preempted before this one.
on_all_hosts "cd nss_jax_run && env/bin/python -m nss_jax.main \
  --distributed --take_over $(printf '%q ' "$@")"
