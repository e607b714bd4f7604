# shellcheck shell=bash
# Sourced by the batch scripts of Slurm: runs the step, and puts the job back
# into the queue when the program has saved itself.

# USR1 comes before the time limit, to this shell only (--signal=B:USR1@120).
# srun would end the step on SIGTERM; scancel only passes it on. Once: a second
# would end the program while it leaves.
told=""
trap 'told=1; trap "" USR1; scancel --signal=TERM "$SLURM_JOB_ID.0"' USR1

# Since Slurm 22.05 srun does not take this over from sbatch.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

run_step() {
  local step code=138
  echo "job $SLURM_JOB_ID, restart ${SLURM_RESTART_COUNT:-0}: $*"
  srun "$@" &
  step=$!
  # The trap ends a wait with 128 + USR1; the step goes on until it has saved.
  while [ "$code" -eq 138 ]; do
    wait "$step"
    code=$?
  done
  # 75: saved. 143: told to stop before there was anything to save.
  if [ "$code" -eq 75 ] || [ "$told$code" = 1143 ]; then
    # The last task of an array has the number of the array for its own, and by
    # that number all tasks would be requeued.
    scontrol requeue \
      "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
  fi
  exit "$code"
}
