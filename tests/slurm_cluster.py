"""A SLURM of two nodes with four GPUs each, on this machine: the real programs; the GPUs do nothing.

python tests/slurm_cluster.py up      starts it, as root; `PACKAGES` of Debian are needed
python tests/slurm_cluster.py down    ends it
python tests/slurm_cluster.py packages    the names of Debian's packages
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

CONFIG = Path("/etc/slurm")
RUN = Path("/run/slurm")
GPUS = Path("/run/expertchat-gpu")  # device files, four of them
NODES = ("node1", "node2")
MARK = "ClusterName=expertchat"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol", "squeue")
PACKAGES = "slurmctld slurmd slurm-client munge"

SLURM_CONF = """\
{mark}
SlurmctldHost={host}(127.0.0.1)
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1,requeue_delay=1
GresTypes=gpu
SlurmdParameters=config_overrides
SlurmctldPidFile={run}/slurmctld.pid
SlurmdPidFile={run}/slurmd-%n.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd-%n.log
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd/%n
SlurmctldPort=6817
SlurmctldTimeout=30
SlurmdTimeout=20
KillWait=5
MinJobAge=600
ReturnToService=2
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=DEFAULT CPUs=16 Sockets=1 CoresPerSocket=16 ThreadsPerCore=1 RealMemory=200000 Gres=gpu:4
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port=17001
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port=17002
PartitionName=gpu Nodes=node[1-2] Default=NO MaxTime=1-0 State=UP
PartitionName=cpu Nodes=node[1-2] Default=YES MaxTime=1-0 State=UP
"""
GRES_CONF = f"AutoDetect=off\nNodeName=node[1-2] Name=gpu File={GPUS}/gpu[0-3]\n"


def why_not() -> str | None:
    """Why no cluster can be started on this machine, None if one can."""
    if os.geteuid() != 0:
        return "SLURM is started by root only"
    missing = [
        name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None
    ]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install {PACKAGES}"
    conf = CONFIG / "slurm.conf"
    if conf.exists() and MARK not in conf.read_text():
        return f"{conf} is that of another cluster"
    return None


def run(*command: str) -> str:
    """What a command prints. Raises an error with its messages if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def up() -> None:
    """Starts the cluster, and waits until both nodes are idle."""
    host = socket.gethostname().split(".")[0]
    spool = [f"/var/spool/slurmd/{node}" for node in NODES]
    for folder in (CONFIG, RUN, GPUS, "/var/log/slurm", "/var/spool/slurmctld", "/run/munge", *spool):
        Path(folder).mkdir(parents=True, exist_ok=True)
    for number in range(4):
        device = GPUS / f"gpu{number}"
        if not device.exists():
            run("mknod", str(device), "c", "1", "3")
    (CONFIG / "slurm.conf").write_text(SLURM_CONF.format(mark=MARK, host=host, run=RUN))
    (CONFIG / "gres.conf").write_text(GRES_CONF)
    shutil.chown("/run/munge", "munge", "munge")
    if not Path("/run/munge/munged.pid").exists():
        run("runuser", "-u", "munge", "--", "/usr/sbin/munged")
    run("/usr/sbin/slurmctld", "-c")
    for node in NODES:
        start_node(node)
    wait(lambda: run("sinfo", "--noheader", "--partition=gpu", "--format=%T").split() == ["idle"], 30)


def start_node(node: str) -> None:
    run("/usr/sbin/slurmd", "-N", node)


def kill_node(node: str, job: str) -> None:
    """Ends the program of a node and all processes of its job at once, as if it had lost its power."""
    os.kill(int((RUN / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
    for pid in _processes_of(job):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _processes_of(job: str) -> list[int]:
    """The ids of the processes that have the job in their environment or their name."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"SLURM_JOB_ID={job}".encode() in environment or f"slurmstepd: [{job}." in command:
            found.append(int(process.name))
    return found


def down() -> None:
    """Cancels all jobs and ends the programs, each by its process id."""
    subprocess.run(["scancel", "--user=root"], capture_output=True)
    for path in (
        *sorted(RUN.glob("slurmd-*.pid")),
        RUN / "slurmctld.pid",
        Path("/run/munge/munged.pid"),
    ):
        if path.exists():
            try:
                os.kill(int(path.read_text()), signal.SIGTERM)
            except (ProcessLookupError, ValueError):
                path.unlink(missing_ok=True)
    wait(lambda: not any(RUN.glob("*.pid")), 30)


def wait(condition, seconds: float) -> None:
    """Waits until the condition holds. Raises TimeoutError if it does not in this time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} seconds")
        time.sleep(0.3)


def jobs() -> list[dict[str, str]]:
    """What SLURM knows of all jobs, the ended ones too, by the fields of `scontrol show job`."""
    found = []
    for text in run("scontrol", "show", "job", "--detail", "--oneliner").splitlines():
        if "JobId=" in text:
            found.append(dict(part.partition("=")[::2] for part in text.split() if "=" in part))
    return found


if __name__ == "__main__":
    if sys.argv[1] == "packages":
        sys.exit(print(PACKAGES))
    reason = why_not()
    if reason:
        sys.exit(reason)
    {"up": up, "down": down}[sys.argv[1]]()
