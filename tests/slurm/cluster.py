"""A real SLURM on this machine: munge, slurmctld and slurmd from the distribution's packages, two fake GPUs.

    python tests/slurm/cluster.py FOLDER          # up; says how to use it, down again on Ctrl-C

Needs root (slurmd starts jobs of any user) and the Debian packages slurm-wlm and munge. The GPUs are
/dev/null and /dev/zero: SLURM counts and hands them out like any, sets CUDA_VISIBLE_DEVICES, and no more.
With slurmdbd and mariadb-server it can keep accounts too (`sacct`).
"""

import argparse
import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

# Where SLURM's commands look: a job step has no SLURM_CONF, the executor plugin takes it away.
SYSTEM_CONFIGURATION = Path("/etc/slurm/slurm.conf")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "sinfo")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacctmgr")

CONFIGURATION = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=30
CredType=cred/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
# a busy machine is no broken one
MessageTimeout=60
TCPTimeout=30
BatchStartTimeout=120
UnkillableStepTimeout=120
SchedulerType=sched/backfill
# decide at once and often, so that tests are quick (cred_expire above: a requeued job waits that long)
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,requeue_setup_env_fail,max_script_size=67108864
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
KillWait=10
MinJobAge=3600
MaxArraySize=2001
MaxJobCount=20000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
{accounting}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:2 State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=lost Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
"""

ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge/socket
JobCompType=jobcomp/none"""

DATABASE_DAEMON = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StorageLoc=slurm
"""


def unavailable(accounting=False):
    """Why no cluster can be started here, or None."""
    absent = [
        name
        for name in PROGRAMS + ACCOUNTING_PROGRAMS * accounting
        if shutil.which(name, path=_path()) is None
    ]
    if absent:
        return f"SLURM is not installed ({', '.join(absent)} not found)"
    if os.geteuid() != 0:
        return "starting SLURM needs root"
    if SYSTEM_CONFIGURATION.exists():
        return f"this machine has a SLURM of its own ({SYSTEM_CONFIGURATION})"
    return None


def _path():
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    """SLURM daemons in a folder of their own; use as a context manager.

    Args:
        folder (Path): for configuration, state and logs; must not exist.
        cpus (int): how many the node claims to have (it may claim more than there are).
        accounting (bool): with slurmdbd and MariaDB, so that `sacct` works.
    """

    def __init__(self, folder, cpus=8, memory_mb=64_000, accounting=False):
        self.folder, self.cpus, self.memory_mb, self.accounting = Path(folder), cpus, memory_mb, accounting
        self.host = socket.gethostname().partition(".")[0]
        self.name = f"test{os.getpid()}"
        self.processes = {}
        self.environment = {**os.environ, "PATH": _path()}

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if "slurmctld" in self.processes and self.processes["slurmctld"].poll() is None:
            self.run("scancel", "--user=root", check=False)
            self.until(
                lambda: not self.run("squeue", "-h", check=False).strip(),
                "the queue to empty",
                30,
                check=False,
            )
        for name in reversed(self.processes):
            self.stop(name)
        for pid in self._left_processes():
            os.kill(pid, signal.SIGKILL)
        if (
            SYSTEM_CONFIGURATION.is_symlink()
            and SYSTEM_CONFIGURATION.readlink() == self.folder / "slurm.conf"
        ):
            SYSTEM_CONFIGURATION.unlink()

    def _left_processes(self):
        """What jobs left behind: a process that was stopped may outlive its job."""
        wanted = f"SLURM_CLUSTER_NAME={self.name}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    yield int(folder.name)

    def _start(self):
        (self.folder / "state").mkdir(parents=True)
        (self.folder / "spool").mkdir()
        self._start_munge()
        ports = _free_ports(4)
        accounting = ""
        if self.accounting:
            self._start_database(*ports[2:])
            accounting = ACCOUNTING.format(port=ports[2], folder=self.folder)
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                name=self.name,
                host=self.host,
                ports=ports,
                folder=self.folder,
                cpus=self.cpus,
                memory=self.memory_mb,
                accounting=accounting,
            )
        )
        SYSTEM_CONFIGURATION.parent.mkdir(exist_ok=True)
        SYSTEM_CONFIGURATION.unlink(
            missing_ok=True
        )  # a link that points to nothing: of a test that was killed
        SYSTEM_CONFIGURATION.symlink_to(self.folder / "slurm.conf")
        if self.accounting:
            self.run("sacctmgr", "--immediate", "add", "cluster", self.name)
        self.start("slurmctld", "slurmctld", "-D", "-c", "-f", self.folder / "slurm.conf")
        self.start("slurmd", "slurmd", "-D", "-N", self.host, "-f", self.folder / "slurm.conf")
        self.until(
            lambda: "idle" in self.run("sinfo", "-h", "-o", "%T", check=False), "the node to be idle", 60
        )

    def _start_munge(self):
        """The key service, as the user that owns its files (it refuses others)."""
        folder = self.folder / "munge"
        folder.mkdir()
        (folder / "key").write_bytes(os.urandom(1024))
        owner = pwd.getpwnam("munge")
        for path in (folder, folder / "key"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        (folder / "key").chmod(0o400)
        folder.chmod(0o755)
        files = {name: folder / name for name in ("socket", "pid", "log", "seed")}
        self.start(
            "munged",
            *("munged", "--foreground", f"--socket={files['socket']}", f"--key-file={folder / 'key'}"),
            *(f"--pid-file={files['pid']}", f"--log-file={files['log']}", f"--seed-file={files['seed']}"),
            user=owner.pw_uid,
            group=owner.pw_gid,
        )
        self.until(files["socket"].exists, "munge", 60)

    def _start_database(self, port, database_port):
        data = self.folder / "database"
        owner = pwd.getpwnam("mysql")
        data.mkdir()
        os.chown(data, owner.pw_uid, owner.pw_gid)
        install = [
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={data}",
            "--user=mysql",
            "--skip-test-db",
        ]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, env=self.environment)
        self.start(
            "mariadbd",
            *(
                "mariadbd",
                "--no-defaults",
                f"--datadir={data}",
                f"--socket={data}/socket",
                f"--port={database_port}",
            ),
            *("--bind-address=127.0.0.1", "--user=mysql", f"--pid-file={data}/pid"),
        )
        client = ["mariadb", "--no-defaults", f"--socket={data}/socket"]
        ready = ["mariadb-admin", "--no-defaults", f"--socket={data}/socket", "ping"]
        self.until(lambda: subprocess.run(ready, capture_output=True).returncode == 0, "MariaDB", 60)
        grant = (
            "CREATE DATABASE slurm; CREATE USER slurm@'127.0.0.1'; GRANT ALL ON slurm.* TO slurm@'127.0.0.1'"
        )
        subprocess.run([*client, "-e", grant], check=True)
        configuration = self.folder / "slurmdbd.conf"
        configuration.write_text(
            DATABASE_DAEMON.format(host=self.host, port=port, folder=self.folder, database_port=database_port)
        )
        configuration.chmod(0o600)
        self.start("slurmdbd", "slurmdbd", "-D", environment={"SLURM_CONF": str(self.folder / "slurm.conf")})
        self.until(lambda: _listens(port), "slurmdbd", 60)

    def start(self, name, *command, user=None, group=None, environment=None):
        """Starts a daemon, its output in FOLDER/name.out."""
        with open(self.folder / f"{name}.out", "ab") as output:
            self.processes[name] = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self.environment, **(environment or {})},
                user=user,
                group=group,
                start_new_session=True,
            )

    def stop(self, name, signal_number=signal.SIGTERM):
        process = self.processes[name]
        if process.poll() is None:
            process.send_signal(signal_number)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def power_off(self):
        """The node is gone from one moment to the next: its daemon, what watches the jobs, and the jobs."""
        self.stop("slurmd", signal.SIGKILL)
        subprocess.run(["pkill", "-KILL", "-x", "slurmstepd"])
        for pid in self._left_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def restart_slurmctld(self):
        """The controller comes back (after it was killed) and remembers the jobs."""
        self.start("slurmctld", "slurmctld", "-D", "-f", self.folder / "slurm.conf")
        self.until(lambda: self.run("sinfo", "-h", check=False), "slurmctld", 60)

    def restart_slurmd(self):
        """The node's daemon comes back (after it was killed)."""
        self.start("slurmd", "slurmd", "-D", "-N", self.host, "-f", self.folder / "slurm.conf")
        self.until(
            lambda: "idle" in self.run("sinfo", "-h", "-o", "%T") or "mix" in self.run("sinfo", "-h"),
            "slurmd",
            60,
        )

    def run(self, *command, check=True):
        """The output of one of SLURM's commands."""
        result = subprocess.run(
            list(map(str, command)), env=self.environment, capture_output=True, text=True, timeout=60
        )
        if check and result.returncode != 0:
            raise RuntimeError(f"{command}: {result.stderr}")
        return result.stdout

    def jobs(self, states="all"):
        """The jobs in the queue: their id (of an array's task: the task's), state and GPUs."""
        lines = self.run("squeue", "-h", "-r", f"--states={states}", "-o", "%i|%T|%b|%k").splitlines()
        return [dict(zip(("id", "state", "gres", "comment"), line.split("|"), strict=True)) for line in lines]

    def job(self, number):
        """What SLURM says of a job or of an array's task, finished ones too."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.run("scontrol", "show", "job", number)))

    def until(self, condition, what, seconds, check=True):
        """Waits for `condition`; an error with the daemons' last words when it does not come."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.1)
        if check:
            logs = "\n".join(
                f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}"
                for path in self.folder.glob("*.[ol]*[ug]*")
            )
            raise TimeoutError(f"waited {seconds} s for {what}\n{logs}")
        return False


def _listens(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpus", type=int, default=8)
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB")
    arguments = parser.parse_args()
    reason = unavailable(arguments.accounting)
    if reason:
        raise SystemExit(f"error: {reason}")
    with Cluster(arguments.folder.resolve(), arguments.cpus, accounting=arguments.accounting) as cluster:
        print(f"ready: sinfo, sbatch; logs in {cluster.folder}; Ctrl-C or kill ends it", flush=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.pause()


if __name__ == "__main__":
    main()
