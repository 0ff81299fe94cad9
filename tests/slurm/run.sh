#!/bin/bash
# Studies on a real Slurm: two nodes of one core on this machine, for as long as the test lasts (about six minutes).
#
#     bash tests/slurm/run.sh
#
# Wants root and Debian or Ubuntu, and installs slurm-wlm and munge where they are missing (they stay installed; nothing of them
# is left running). Everything else is in a folder of its own that is removed at the end. Skipped where it cannot install.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() { echo "skipped: $1"; exit 0; }

python=${PYTHON:-.venv/bin/python}
[ "$(id -u)" -eq 0 ] || skip "only root can start Slurm's daemons"
"$python" -c 'import submitit' 2> /dev/null || skip "submitit is not installed: pip install -c constraints.txt -e '.[slurm]'"
export PATH=$PATH:/usr/sbin
if ! command -v slurmctld slurmd munged srun > /dev/null; then
    command -v apt-get > /dev/null || skip "slurm-wlm and munge are not installed, and there is no apt-get"
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1  # at run level 1 no package starts its daemon
    { apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge; } > /tmp/wingspan-apt.$$ 2>&1 \
        || { tail -5 /tmp/wingspan-apt.$$; rm -f /tmp/wingspan-apt.$$; skip "apt-get could not install slurm-wlm and munge"; }
    rm -f /tmp/wingspan-apt.$$
fi

home=$(mktemp -d /tmp/wingspan-slurm.XXXXXX)
chmod 755 "$home"  # munge's clients must reach its socket
export SLURM_CONF=$home/slurm.conf OMP_NUM_THREADS=1 WINGSPAN_CACHE=$home/cache

ended() {  # wait for the process in a pid file to be gone
    [ -f "$1" ] || return 0
    local pid; pid=$(cat "$1")
    kill "$pid" 2> /dev/null || return 0
    for _ in $(seq 100); do kill -0 "$pid" 2> /dev/null || return 0; sleep 0.1; done
    kill -9 "$pid"
}

clean() {
    status=$?
    set +e
    if [ "$status" -ne 0 ] && [ -n "${KEEP:-}" ]; then cp -r "$home" "$KEEP"; echo "kept: $KEEP"; fi
    [ -z "${scenario:-}" ] || kill "$scenario" 2> /dev/null
    scancel --user root --full 2> /dev/null
    for _ in $(seq 60); do [ -z "$(squeue --noheader 2> /dev/null)" ] && break; sleep 1; done
    for pid in "$home"/slurmd-*.pid "$home"/slurmctld.pid "$home"/munged.pid; do ended "$pid"; done
    rm -rf "$home"
    [ "$status" -eq 0 ] && echo "passed; daemons stopped, $home removed" || echo "FAILED (status $status); daemons stopped, $home removed"
    exit "$status"
}
trap clean EXIT
trap 'exit 130' INT TERM

free() { "$python" -c 'import socket
each = [socket.socket() for _ in range(3)]
[one.bind(("127.0.0.1", 0)) for one in each]
print(*(one.getsockname()[1] for one in each))'; }
read -r control first second <<< "$(free)"
mkdir "$home"/{state,log,spool-one,spool-two,work}
dd if=/dev/urandom of="$home/munge.key" bs=1 count=1024 2> /dev/null
chmod 400 "$home/munge.key"
cat > "$SLURM_CONF" <<CONF
ClusterName=wingspan
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$control
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A job that is queued again waits for its old credential to expire: two minutes, were it not for this.
AuthInfo=socket=$home/munge.socket,cred_expire=6
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool-%n
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd-%n.pid
SlurmctldLogFile=$home/log/slurmctld
SlurmdLogFile=$home/log/slurmd-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=one NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$first CPUs=1 RealMemory=4000
NodeName=two NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$second CPUs=1 RealMemory=4000
PartitionName=low Nodes=one,two Default=YES PriorityTier=1 State=UP
PartitionName=high Nodes=one,two PriorityTier=10 PreemptMode=OFF State=UP
CONF

munged --force --key-file="$home/munge.key" --socket="$home/munge.socket" --pid-file="$home/munged.pid" \
    --log-file="$home/log/munged" --seed-file="$home/munge.seed"
slurmctld -c
for node in one two; do slurmd -c -N "$node"; done
for _ in $(seq 60); do [ "$(sinfo --noheader --format %T --partition low 2> /dev/null)" = idle ] && break; sleep 0.5; done
echo "$(slurmctld -V): $(sinfo --noheader --format '%P %D nodes %T' | paste -sd ';')"

"$python" tests/slurm/scenario.py "$home/work" &
scenario=$!
wait "$scenario"  # in this way a signal to the script is heeded at once
