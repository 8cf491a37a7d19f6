#!/bin/bash
# One run over several nodes of a Slurm cluster:  sbatch notebooks/cluster/slurm.sh /shared/run/run.json
#
# run.json is written by `RankRun(...).write()`; its world_size is nodes x GPUs per node, and the
# folder, rows and model it names are on a file system that all nodes share. After a failure submit
# the same line again: the run continues from its last checkpoint.
#SBATCH --job-name=sft-lora
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log
set -euo pipefail

export RUN=${1:?usage: sbatch slurm.sh /shared/run/run.json}
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
LOGS=$(dirname "$RUN")/logs
export HEAD LOGS

# One task per node; a node whose command fails ends all others (--kill-on-bad-exit).
srun --kill-on-bad-exit=1 bash -c '
  python -m torch.distributed.run \
    --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --node-rank "$SLURM_NODEID" --master-addr "$HEAD" --master-port 29400 \
    --max-restarts 0 --shutdown-timeout 10 --redirects 3 --log-dir "$LOGS" \
    -m sft_utils.ranks.ranktrain "$RUN"
'
