#!/usr/bin/env bash
# A SLURM on this machine, to try profiles/slurm:
#     tools/slurm.sh start [FOLDER [NODES]]    # FOLDER keeps its state and logs; one node
#     tools/slurm.sh stop
# It needs root and Debian's packages: apt-get install -y --no-install-recommends slurm-wlm munge
# The nodes share the processors of this machine; each has 100 GB of memory on paper, and a GPU that
# is /dev/null. A job that takes more memory than it asked for is ended.
# Status 3 says that there is a SLURM already, which is left alone.
set -euo pipefail
conf=/etc/slurm/slurm.conf  # jobs look for it there alone
gres=/etc/slurm/gres.conf
ours="# made by tools/slurm.sh in "

fail() {  # STATUS MESSAGE
  echo "error: $2" >&2
  exit "$1"
}

folder() {  # that the configuration names, if it is ours
  local line=""
  [ -e "$conf" ] || [ -e "$gres" ] || return 0
  [ ! -e "$conf" ] || IFS= read -r line <"$conf" || true
  [[ "$line" == "$ours"* ]] || fail 3 "${conf%/*} is not of this script: this machine has a SLURM"
  echo "${line#"$ours"}"
}

running() {  # whether the daemon NAME of a PIDFILE is there
  local pid
  pid=$(cat "$2" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ]
}

start() {
  local there new=${1:-} nodes=${2:-1} host name i each
  [[ "$nodes" =~ ^[1-9][0-9]?$ ]] || fail 2 "$nodes is not a number of nodes, 1 to 99"
  there=$(folder)
  if [ -n "$there" ] && running slurmctld "$there/slurmctld.pid"; then
    fail 3 "it runs in $there; stop it first: tools/slurm.sh stop"
  fi
  for name in slurmd slurmctld munged; do
    command -v "$name" >/dev/null ||
      fail 2 "$name is not installed: apt-get install -y --no-install-recommends slurm-wlm munge"
  done
  [ "$(id -u)" = 0 ] || fail 2 "only root can start it: it needs $conf"
  [ -n "$new" ] || new=$(mktemp -d /tmp/slurm.XXXXXX)
  mkdir -p "$new/state" /etc/slurm
  new=$(cd "$new" && pwd)
  host=$(hostname -s)
  each=$(($(nproc) / nodes))
  cat >"$conf" <<END
$ours$new
ClusterName=mupkit
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$new/state
SlurmdSpoolDir=$new/%n
SlurmctldPidFile=$new/slurmctld.pid
SlurmdPidFile=$new/%n.pid
SlurmctldLogFile=$new/slurmctld.log
SlurmdLogFile=$new/%n.log
AuthType=auth/munge
# A requeued job starts again after so many seconds, not after two minutes.
AuthInfo=socket=$new/munge.socket,cred_expire=5
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SchedulerParameters=batch_sched_delay=1,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill
JobAcctGatherFrequency=task=1
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=600
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[26818-$((26817 + nodes))] \
CPUs=$((each > 0 ? each : 1)) RealMemory=100000 Gres=gpu:1 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP
END
  echo "Name=gpu File=/dev/null" >"$gres"
  (umask 077 && head -c 128 /dev/urandom >"$new/munge.key")
  munged --force --key-file="$new/munge.key" --socket="$new/munge.socket" \
    --pid-file="$new/munged.pid" --log-file="$new/munged.log" --seed-file="$new/munge.seed"
  slurmctld
  for i in $(seq "$nodes"); do
    mkdir -p "$new/node$i"
    slurmd -N "node$i"
  done
  for _ in $(seq 100); do
    [ "$(sinfo --noheader --partition=debug --states=idle --format=%D 2>/dev/null)" = "$nodes" ] &&
      echo "$new" && return
    sleep 0.1
  done
  stop
  fail 2 "not all nodes came up; see the logs in $new"
}

stop() {
  local there name pid file
  there=$(folder)
  [ -n "$there" ] || return 0
  if running slurmctld "$there/slurmctld.pid" && scancel --user=root; then  # slurmd has to end them
    for _ in $(seq 100); do [ -z "$(squeue --noheader)" ] && break || sleep 0.1; done
  fi
  for file in "$there"/node*.pid "$there"/{slurmctld,munged}.pid; do
    name=$(basename "$file" .pid)
    running "${name/node*/slurmd}" "$file" || continue
    pid=$(cat "$file")
    kill "$pid"
    while [ -e "/proc/$pid" ]; do sleep 0.1; done
  done
  rm -f "$conf" "$gres"
}

case "${1:-}" in
  start) start "${2:-}" "${3:-}" ;;
  stop) stop ;;
  *) fail 2 "tools/slurm.sh start [FOLDER [NODES]], or tools/slurm.sh stop" ;;
esac
