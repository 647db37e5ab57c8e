"""What profiles/slurm asks of SLURM is read from the environment or a file, and checked first."""

import pytest
from expertchat.pipeline.site import read_site

PARTITIONS = """\
PartitionName=gpu AllowGroups=ALL Default=NO MaxTime=1-00:00:00 Nodes=node[1-2]
PartitionName=long AllowGroups=ALL Default=YES MaxTime=UNLIMITED Nodes=node[1-2]
"""
NODES = "gpu|2|gpu:V100-SXM2-16GB:4(S:0-1)|64|256000|idle\ngpu|1|(null)|32|128000|down\n"
NODES += NODES.replace("gpu|", "long|")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A function that makes the commands of SLURM tell of a cluster."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def make(
        partitions=PARTITIONS,
        nodes=NODES,
        accounting="accounting_storage/slurmdbd",
        enforced="none",
        associations=None,
        default="",
    ):
        config = f'echo "AccountingStorageType = {accounting}"'
        config += f'; echo "AccountingStorageEnforce = {enforced}"'
        own = f'case "$4" in user) echo "{default}";; *) printf "{associations}";; esac'
        answers = {
            "sacctmgr": "exit 1" if associations is None else own,
            "scontrol": f'case "$2" in config) {config};; *) cat {tmp_path}/partitions;; esac',
            "sinfo": f"cat {tmp_path}/nodes",
            "sacct": "",
        }
        (tmp_path / "partitions").write_text(partitions)
        (tmp_path / "nodes").write_text(nodes)
        for name, script in answers.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)

    return make


def test_defaults_are_those_of_a_node_with_four_gpus(cluster):
    cluster()
    site = read_site({"EXPERTCHAT_DATA": "/data", "HOME": "/root"})
    assert (site.minutes, site.cpus, site.memory_mb, site.nodes) == (720, 16, 120_000, 1)
    assert (site.plain_gres, site.gpu_extra, site.partition) == ("gpu:4", "", None)


def test_values_of_a_site(cluster):
    cluster()
    site = read_site(
        {
            "EXPERTCHAT_PARTITION": "gpu",
            "EXPERTCHAT_HOURS": "0.05",
            "EXPERTCHAT_GRES": "gpu:V100-SXM2-16GB:4",
            "EXPERTCHAT_MEMORY_GB": "200",
            "EXPERTCHAT_EXTRA": "--exclude=node9",
        }
    )
    assert (site.partition, site.minutes, site.memory_mb) == ("gpu", 3, 200_000)
    # the plugin refuses types with hyphens, but not this option
    assert site.plain_gres is None
    assert site.gpu_extra == "--gpus-per-node=V100-SXM2-16GB:4 --exclude=node9"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HOURS", "x", "EXPERTCHAT_HOURS=x: must be a number of hours"),
        ("HOURS", "0", "at least one minute"),
        ("HOURS", "nan", "must be a number of hours"),
        ("CPUS", "-1", "EXPERTCHAT_CPUS=-1: must be a whole number from 1"),
        ("MEMORY_GB", "1.5", "must be a whole number from 1"),
        ("GRES", "4", "must be gpu:NUMBER or gpu:TYPE:NUMBER"),
        ("PARTITION", "", "EXPERTCHAT_PARTITION=: is empty"),
        ("PARTITON", "gpu", "EXPERTCHAT_PARTITON is unknown: did you mean EXPERTCHAT_PARTITION"),
        ("WWWWWWWW", "1", "EXPERTCHAT_WWWWWWWW is unknown; there are EXPERTCHAT_PARTITION, "),
        ("PARTITION", "gpus", "gpus does not exist; there are gpu, long"),
        ("PARTITION", "gpu,fast", "fast does not exist"),
        ("GRES", "gpu:8", "no node of the partition long has 8 GPUs, 16 CPUs and 120 GB of memory"),
        ("CPUS", "128", "nodes with 0 GPUs, 32 CPUs, 128 GB; 4 GPUs, 64 CPUs, 256 GB"),
        ("MEMORY_GB", "300", "set EXPERTCHAT_GRES, EXPERTCHAT_CPUS and EXPERTCHAT_MEMORY_GB"),
    ],
)
def test_a_wrong_value_is_one_sentence(cluster, variable, value, words):
    cluster()
    with pytest.raises(SystemExit) as ended:
        read_site({f"EXPERTCHAT_{variable}": value})
    message = str(ended.value)
    assert message.startswith("profiles/slurm: ") and words in message and "\n" not in message


@pytest.fixture
def site_file(tmp_path):
    """A function that writes a site's file, and returns the environment that names it."""

    def write(text):
        (tmp_path / "site.yaml").write_text(text)
        return {"EXPERTCHAT_SITE": str(tmp_path / "site.yaml")}

    return write


def test_values_of_a_file(cluster, site_file):
    cluster()
    text = "partition: gpu\ngres: gpu:V100-SXM2-16GB:4\nhours: 0.5\ncpus: 32\nmemory_gb: 200\nnodes: 2\n"
    site = read_site(site_file(text + "extra: --exclude=node9\n"))
    assert (site.partition, site.minutes, site.cpus, site.memory_mb) == ("gpu", 30, 32, 200_000)
    assert site.gpu_extra == "--gpus-per-node=V100-SXM2-16GB:4 --exclude=node9" and site.nodes == 2
    both = read_site(site_file(text) | {"EXPERTCHAT_CPUS": "8"})
    assert (both.cpus, both.minutes) == (8, 30)  # variables win


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partitions: gpu", "site.yaml: partitions: unknown key: did you mean partition?"),
        ("xxxxxx: 1", "site.yaml: xxxxxx: unknown key; there are partition, account, "),
        ("EXPERTCHAT_HOURS: 1", "site.yaml: EXPERTCHAT_HOURS: unknown key"),
        ("hours: long", "site.yaml: hours: long: must be a number of hours"),
        ("cpus: 1.5", "site.yaml: cpus: 1.5: must be a whole number from 1"),
        ("nodes: true", "site.yaml: nodes: must be one value"),
        ("account:", "site.yaml: account: must be one value, a text or a number"),
        ("partition: [gpu, long]", "site.yaml: partition: must be one value"),
        ("account: 0123", "site.yaml: account: must be a text: put it in quotes"),
        ("gres: 4", "site.yaml: gres: must be a text: put it in quotes"),
        ("partition: gpus", "site.yaml: partition: gpus: gpus does not exist"),
        ("{partition: gpu, hours: 48}", "site.yaml: hours: 48: jobs of the partition gpu may run"),
        ("gres: gpu:8", "site.yaml)"),
        ("{gres: gpu:4, nodes: 3}", "nodes: 3: the partition long has 2 with 4 GPUs"),
        ("cpus: 1\ncpus: 2", "site.yaml, line 2: cpus: this key is already given in line 1"),
        ("- a", "site.yaml: the file must have keys"),
        ("", "site.yaml: the file is empty; EXPERTCHAT_SITE names it"),
    ],
)
def test_a_wrong_file_is_one_sentence(cluster, site_file, text, words):
    cluster()
    with pytest.raises(SystemExit) as ended:
        read_site(site_file(text))
    message = str(ended.value)
    assert message.startswith("profiles/slurm: ") and words in message and "\n" not in message


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "/nowhere/site.yaml",
            "/nowhere/site.yaml: No such file or directory; EXPERTCHAT_SITE names it",
        ),
        ("/", "/: it is not a file"),
        ("", "EXPERTCHAT_SITE=: is empty"),
    ],
)
def test_a_file_that_cannot_be_read(cluster, path, words):
    cluster()
    with pytest.raises(SystemExit, match=words):
        read_site({"EXPERTCHAT_SITE": path})


def test_gpus_of_a_type_that_no_node_has(cluster):
    cluster()
    with pytest.raises(SystemExit, match=r"has 4 a100 GPUs.*4 GPUs \(gpu:V100-SXM2-16GB:4\)"):
        read_site({"EXPERTCHAT_GRES": "gpu:a100:4"})


OWN = "abc|normal,long\\nxyz|normal\\n"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "jobs of the partition long need an account: set EXPERTCHAT_ACCOUNT to one of abc, xyz"),
        ({"ACCOUNT": "abcd"}, "EXPERTCHAT_ACCOUNT=abcd: abcd is not one of your accounts abc, xyz"),
        ({"ACCOUNT": "abc", "QOS": "fast"}, "EXPERTCHAT_QOS=fast: you may use long, normal"),
    ],
)
def test_accounts_where_jobs_need_one(cluster, given, words):
    cluster(enforced="associations,qos", associations=OWN)
    with pytest.raises(SystemExit) as ended:
        read_site({f"EXPERTCHAT_{name}": value for name, value in given.items()})
    assert words in str(ended.value)


def test_accounts_that_suffice(cluster):
    cluster(enforced="limits", associations=OWN)
    assert read_site({"EXPERTCHAT_ACCOUNT": "ABC", "EXPERTCHAT_QOS": "long"}).account == "ABC"
    cluster(enforced="limits", associations=OWN, default="xyz")
    read_site({})
    cluster(enforced="limits", associations=None)  # sacctmgr does not tell
    with pytest.raises(SystemExit, match=r"need an account: set EXPERTCHAT_ACCOUNT$"):
        read_site({})
    read_site({"EXPERTCHAT_ACCOUNT": "abc"})
    cluster(enforced="limits", associations="")
    with pytest.raises(SystemExit, match="only of users with an account, and you have none"):
        read_site({"EXPERTCHAT_ACCOUNT": "abc"})


def test_a_partition_for_certain_accounts(cluster):
    cluster(PARTITIONS.replace("AllowGroups=ALL", "AllowAccounts=abc,def"), associations=OWN)
    with pytest.raises(SystemExit, match="need an account: set EXPERTCHAT_ACCOUNT to one of abc"):
        read_site({})
    read_site({"EXPERTCHAT_ACCOUNT": "abc"})


def test_a_limit_that_the_partition_does_not_give(cluster):
    cluster()
    assert read_site({"EXPERTCHAT_HOURS": "48"}).minutes == 48 * 60
    with pytest.raises(SystemExit, match="jobs of the partition gpu may run for at most 24 hours"):
        read_site({"EXPERTCHAT_HOURS": "48", "EXPERTCHAT_PARTITION": "gpu"})


def test_without_a_default_a_partition_must_be_named(cluster):
    cluster(PARTITIONS.replace("YES", "NO"))
    with pytest.raises(SystemExit, match="set EXPERTCHAT_PARTITION to one of gpu, long"):
        read_site({})


@pytest.mark.parametrize(
    ("accounting", "command"),
    [
        ("accounting_storage/slurmdbd", "sacct"),
        ("accounting_storage/none", "squeue"),  # sacct would never answer
        ("(null)", "squeue"),
    ],
)
def test_jobs_are_watched_by_what_answers(cluster, accounting, command):
    cluster(accounting=accounting)
    assert read_site({}).status_command == command


def test_without_slurm_a_run_can_be_planned(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_site({"EXPERTCHAT_PARTITION": "gpu"}).partition == "gpu"


def test_a_dry_run_goes_on_without_a_slurm_that_answers(cluster, tmp_path, monkeypatch, capsys):
    cluster()
    (tmp_path / "scontrol").write_text(
        "#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n"
    )
    monkeypatch.setattr("sys.argv", ["snakemake", "--profile", "profiles/slurm"])
    with pytest.raises(SystemExit, match="does not answer"):
        read_site({})
    monkeypatch.setattr("sys.argv", ["snakemake", "--profile", "profiles/slurm", "--dry-run"])
    assert read_site({"EXPERTCHAT_PARTITION": "anything"}).partition == "anything"
    assert "the site's values are not checked: SLURM's controller" in capsys.readouterr().err
