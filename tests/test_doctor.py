"""`expertchat doctor`: what it finds, what it says about it, and what it never shows."""

import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import slurm_cluster
import yaml
from expertchat.doctor import node
from expertchat.doctor.checks import OK, PROBLEM, WARNING, Check, gather
from expertchat.doctor.gpus import check_nf4
from expertchat.doctor.machine import check_packages, check_resources, check_store
from expertchat.doctor.slurm import check_cluster, check_site, find_cluster, write_site
from expertchat.errors import UserError
from expertchat.pipeline.site import read_site
from quiet_run import quiet_run

ROOT = Path(__file__).resolve().parents[1]
LINE = re.compile(r"(ok|warning|problem) +[^:]+: .+")


def doctor(folder, *arguments, **environment):
    """(exit code, lines) of the command, on a store in `folder`."""
    command = [sys.executable, "-m", "expertchat.cli", "doctor", "--store", str(folder / "results")]
    path = os.pathsep.join([str(ROOT / "workflow"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path} | environment,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def levels(checks) -> dict[str, str]:
    return {check.subject: check.level for check in checks}


@pytest.fixture
def settings(default_config, tmp_path):
    """A function that writes the settings of an experiment with other models, and returns the file."""

    def write(**models):
        path = tmp_path / "settings.yaml"
        config = {
            "name": "x",
            "rounds": 0,
            "models": models,
            "pairs": [list(models)] * (len(models) > 1),
        }
        config["topics"] = {"subjects": ["a", "b", "c"], "held_out_subjects": 1}
        path.write_text(yaml.safe_dump(config))
        return path

    return write


@pytest.mark.slow
def test_one_line_per_check_and_no_secret(tmp_path, settings, llama_folder):
    secret, home = "hf_abcdefghijklmnop", tmp_path / "home"
    home.mkdir()
    file = settings(
        here={"source": "path", "path": str(llama_folder)},
        hub={"source": "hub", "repository": "owner/name", "revision": "main"},
        served={"source": "server", "load": {"server": {"url_env": "MY_URL", "model": "m"}}},
    )
    text = yaml.safe_load(file.read_text())
    text["pairs"] = [["here", "hub"]]
    text["ratings"] = {"third_party": ["served"]}
    file.write_text(yaml.safe_dump(text))
    code, lines = doctor(
        home, "--configfile", file, HF_TOKEN=secret, HOME=str(home), HF_HOME=str(home / "cache")
    )
    assert code == 0, lines
    assert lines[0].startswith("expertchat ") and lines[-1] == "0 problems"
    assert all(LINE.fullmatch(line) for line in lines[1:-1]), lines
    said = "\n".join(lines)
    assert secret not in said and str(home) not in said
    assert "ok       HF_TOKEN: set" in said
    assert f"ok       model here: {llama_folder} is there" in said
    assert (
        "warning  model hub: owner/name at main is not in the cache ~/cache/hub: run `snakemake" in said
    )
    assert "warning  model served: MY_URL not set" in said
    assert "on the disk of ~/results" in said
    assert not (home / "results").exists() and not list(home.glob(".doctor*"))


@pytest.mark.slow
def test_a_problem_is_exit_code_1(tmp_path, settings):
    models = {name: {"source": "path", "path": f"/nowhere/{name}"} for name in ("one", "two")}
    code, lines = doctor(tmp_path, "--configfile", settings(**models))
    found = [line for line in lines if line.startswith("problem")]
    assert code == 1 and lines[-1] == f"{len(found)} problems"
    assert any("models.two.path: /nowhere/two; not a model" in line for line in found)


def test_secrets_and_home_are_replaced(monkeypatch):
    monkeypatch.setenv("HOME", "/home/jane")
    monkeypatch.setenv("SOME_API_KEY", "0123456789")
    line = Check(OK, "x", "/home/jane/a /home/janet/b 0123456789\nmore").line
    assert line == "ok       x: ~/a /home/janet/b (value of SOME_API_KEY) more"


def test_a_check_that_fails_is_a_problem():
    def fail():
        raise OSError("no disk")

    (check,) = gather(("disk", fail))
    assert check == Check(PROBLEM, "disk", "this check failed: OSError: no disk")


def test_packages_are_compared_with_the_lock_file(tmp_path):
    project = 'dependencies = ["pydantic>=2", "not-there>=1"]\n'
    project += 'optional-dependencies = {workflow = ["pytest"]}'
    (tmp_path / "pyproject.toml").write_text(f"[project]\n{project}\n")
    (tmp_path / "requirements.lock").write_text("pydantic==0.1\nnot_there==1.0\nnobody-needs==2\n")
    missing, other = check_packages(tmp_path)
    assert missing.level == PROBLEM and missing.words.startswith("not-there missing")
    assert other.level == WARNING and "(0.1)" in other.words and "nobody" not in other.words
    (tmp_path / "requirements.lock").unlink()
    assert [check.level for check in check_packages(tmp_path)] == [WARNING]


def test_processors_and_memory_are_those_of_this_process():
    found = {check.subject: check.words for check in check_resources()}
    assert found["CPUs"].split()[0] == str(len(os.sched_getaffinity(0)))
    assert "GB free" in found["memory"]


def test_locks_of_the_store(tmp_path):
    assert levels(check_store(tmp_path / "not/yet")) == {"disk": OK, "file locks": OK}
    assert list(tmp_path.iterdir()) == []
    *_, locks = check_store(Path("/proc/self"))  # where nobody can create a file
    assert locks.level == PROBLEM and "/proc/self" in locks.words


def test_a_product_in_4_bit():
    check = check_nf4("cpu")
    assert check.level == OK
    error = float(check.words.split()[-1])
    assert 0.05 < error < 0.15  # normal weights in nf4 are off by about a tenth


def test_two_nodes_that_want_the_same_locks(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        sides = [
            pool.submit(lambda r=rank: list(node.check_locks(tmp_path, r, 2, f"n{r}")))
            for rank in (0, 1)
        ]
    ((check,), others) = (side.result() for side in sides)
    assert others == [] and check.level == OK
    first, second = map(int, re.search(r"n0 and n1 had (\d+), (\d+) of 50", check.words).groups())
    assert first + second == node.RACES


def test_nodes_that_do_not_see_each_others_files(tmp_path, monkeypatch):
    monkeypatch.setattr(node, "SECONDS", 0.3)
    (check,) = node.check_locks(tmp_path, 0, 2, "n0")
    assert (
        check.level == PROBLEM and "put the store on a file system that all nodes share" in check.words
    )
    (check,) = node.check_locks(tmp_path, 0, 1, "n0")
    assert check.level == WARNING


# A cluster, told by programs on PATH

PARTITIONS = """\
PartitionName=cpu AllowAccounts=ALL Default=YES MaxTime=UNLIMITED State=UP
PartitionName=v100 AllowAccounts=abc,def Default=NO MaxTime=20:00:00 State=UP
PartitionName=old AllowAccounts=ALL Default=NO MaxTime=1-00:00:00 State=DOWN
"""
NODES = """\
cpu|10|(null)|64|256000|idle
v100|3|gpu:V100-SXM2-16GB:4(S:0-1)|40|192000|mixed
v100|1|gpu:V100-SXM2-16GB:4(S:0-1)|40|192000|down*
old|9|gpu:k80:8|8|64000|drained
"""
CONFIG = """\
AccountingStorageEnforce = associations,limits
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = fake
SLURM_VERSION           = 23.11.4
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A function that makes the commands of SLURM tell of a cluster: whole scripts by name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/nowhere")
    for name in list(os.environ):
        if name.startswith("EXPERTCHAT_"):
            monkeypatch.delenv(name)

    def make(associations="abc|normal,long\nxyz|normal\n", default="", **others):
        def shown(text):
            return f"printf %s {shlex.quote(text)}"

        scripts = {
            "scontrol": f'case "$2" in config) {shown(CONFIG)};; *) {shown(PARTITIONS)};; esac',
            "sinfo": shown(NODES),
            "sacctmgr": f'case "$4" in user) {shown(default)};; *) {shown(associations)};; esac',
            "sbatch": "true",
            "sacct": "true",
        }
        for name, script in (scripts | others).items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)

    return make


def test_what_a_cluster_has(slurm):
    slurm()
    found = {check.subject: check for check in check_cluster(find_cluster())}
    assert found["SLURM"].words == "23.11.4, cluster fake"
    assert found["partition cpu"].words.startswith("the default, no time limit; 10 x no GPU, 64 CPUs")
    gpus = found["partition v100"]
    assert gpus.level == OK and gpus.words.startswith(
        "at most 20 hours; 3 x gpu:V100-SXM2-16GB:4, 40 CPUs"
    )
    assert "accounts abc, def only" in gpus.words
    assert found["partition old"].level == WARNING and "not up" in found["partition old"].words
    assert "yours: abc (QOS normal, long), xyz (QOS normal); default: none" in found["accounting"].words


def test_a_site_file_from_the_cluster_fits_it(slurm, tmp_path, monkeypatch):
    slurm()
    cluster, path = find_cluster(), tmp_path / "site.yaml"
    site, (check,) = check_site(cluster)  # the default partition has no GPUs
    assert site is None and "no node of the partition cpu has 4 GPUs" in check.words
    (check,) = write_site(cluster, path)
    assert check.level == OK and f"EXPERTCHAT_SITE={path}" in check.words
    values = yaml.safe_load(path.read_text())
    assert values["account"] == "abc"  # xyz may not use the partition
    monkeypatch.setenv("EXPERTCHAT_SITE", str(path))
    site, checks = check_site(cluster)
    assert levels(checks) == {"site": OK, "sbatch": OK}
    assert (site.partition, site.gres, site.cpus) == ("v100", "gpu:V100-SXM2-16GB:4", 16)
    assert read_site() == site
    before = path.read_text()
    (check,) = write_site(cluster, path)
    assert check.level == PROBLEM and "left as it is" in check.words and path.read_text() == before


def test_sbatch_has_the_last_word(slurm, monkeypatch):
    slurm(sbatch='case "$1" in --version) ;; *) echo "sbatch: error: no project" >&2; exit 1;; esac')
    monkeypatch.setenv("EXPERTCHAT_PARTITION", "v100")
    monkeypatch.setenv("EXPERTCHAT_ACCOUNT", "abc")
    site, (_, check) = check_site(find_cluster())
    assert site is None and check.words == "SLURM would refuse such a job: sbatch: error: no project"


MUNGE = """\
scontrol: error: If munged is up, restart with --num-threads=10
scontrol: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file
slurm_load_partitions error: Protocol authentication error
"""
CONTROLLER = "slurm_load_ctl_conf error: Unable to contact slurm controller (connect failure)"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (MUNGE, "its service munged must run here"),
        (CONTROLLER, "SLURM's controller (slurmctld) does not answer"),
    ],
)
def test_a_slurm_that_does_not_answer(slurm, said, words):
    failing = f'case "$1" in --version) ;; *) printf %s {shlex.quote(said)} >&2; exit 1;; esac'
    slurm(scontrol=failing)
    with pytest.raises(UserError) as ended:
        find_cluster()
    assert words in str(ended.value) and "\n" not in str(ended.value)
    with pytest.raises(SystemExit, match=re.escape(words)):
        read_site({})


def test_no_sbatch(slurm, tmp_path):
    slurm()
    (tmp_path / "bin/sbatch").unlink()
    with pytest.raises(UserError, match="there is no sbatch on PATH: go to a machine with SLURM"):
        find_cluster()


# A real SLURM


def why_no_slurm() -> str | None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        return (
            "it uses the SLURM of tests/test_cluster.py: make test-slurm runs both, one after the other"
        )
    return slurm_cluster.why_not()


@pytest.fixture(scope="module")
def real_slurm():
    """The cluster of tests/slurm_cluster.py; it is ended if it did not run before."""
    runs = subprocess.run(["scontrol", "ping"], capture_output=True).returncode == 0
    if not runs:
        slurm_cluster.up()
    yield
    if not runs:
        slurm_cluster.down()


with_slurm = pytest.mark.skipif(why_no_slurm() is not None, reason=str(why_no_slurm()))


@pytest.mark.slow
@with_slurm
def test_a_job_on_two_nodes_checks_them(real_slurm, tmp_path):
    slurm_cluster.wait(lambda: "idle" in slurm_cluster.run("sinfo", "-h", "-p", "gpu", "-o", "%T"), 300)
    options = ("--slurm", "--write", tmp_path / "site.yaml", "--job", "--wait", "5")
    small = {"EXPERTCHAT_CPUS": "2", "EXPERTCHAT_MEMORY_GB": "4", "EXPERTCHAT_DEVICE": "cpu"}
    code, lines = doctor(tmp_path, *options, **small)  # its GPUs do nothing
    said = "\n".join(lines)
    assert code == 0, said
    assert "ok       partition gpu: at most 24 hours; " in said
    assert "ok       sbatch: SLURM would take a job with these values" in said
    assert re.search(r"^warning  node\d, GPU: SLURM gave the GPUs 0,1,2,3 to this job, but", said, re.M)
    assert re.search(r"^ok       node\d, bitsandbytes", said, re.M)
    assert re.search(
        r"^ok       node\d, locks of two nodes: node1 and node2 had \d+, \d+ of 50", said, re.M
    )
    assert yaml.safe_load((tmp_path / "site.yaml").read_text())["gres"] == "gpu:4"
    assert not list((tmp_path / "results").glob(".doctor*"))


@pytest.mark.slow
@with_slurm
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("AuthInfo=.*", "", "its service munged must run here"),
        ("SlurmctldPort=.*", "SlurmctldPort=6999", "SLURM's controller (slurmctld) does not answer"),
    ],
)
def test_what_keeps_slurm_from_answering(real_slurm, tmp_path, monkeypatch, old, new, words):
    text = re.sub(f"(?m)^{old}$", new, (slurm_cluster.CONFIG / "slurm.conf").read_text())
    munge = "" if new else f"AuthInfo=socket={tmp_path}/munge\n"
    (tmp_path / "slurm.conf").write_text(text + munge)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(UserError, match=re.escape(words)):
        find_cluster()


@pytest.mark.slow
@with_slurm
def test_a_cluster_refuses_eight_gpus_on_a_node(real_slurm, tmp_path):
    code, lines = doctor(tmp_path, "--slurm", EXPERTCHAT_PARTITION="gpu", EXPERTCHAT_GRES="gpu:8")
    (line,) = [line for line in lines if line.startswith("problem")]
    assert code == 1 and "no node of the partition gpu has 8 GPUs" in line


SLURM = ["--executor", "slurm", "--slurm-status-command", "squeue"]
SLURM += ["--slurm-init-seconds-before-status-checks", "2"]


@pytest.mark.slow
@with_slurm
def test_snakemake_tells_how_its_jobs_in_slurm_are(real_slurm, tmp_path):
    said = quiet_run(tmp_path, *SLURM, "--default-resources", "slurm_partition=cpu", "runtime=1")
    assert re.search(r"1 are under way; SLURM: 1 running \(the longest for 0:\d\d\)", said), said
