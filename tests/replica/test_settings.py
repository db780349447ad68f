"""`[replica]` as an operator writes it: each fault names the target, the option and the mend."""

import pytest

from edgegw.config.replica import ReplicaTable, ReplicaTarget, faults_of

DISK = ReplicaTarget(name="disk", kind="file", copy_dir="/mnt/copy")


def test_what_is_right_has_no_fault() -> None:
    """A check that objects to good settings is switched off."""
    store = ReplicaTarget(
        name="store", kind="sftp", host="store:2022", user="box", path="/copies", host_key_file="store.pub"
    )
    objects = ReplicaTarget(name="objects", kind="s3", bucket="copies", endpoint="https://objects.bank")
    assert faults_of(ReplicaTable(targets=(DISK, store, objects)), data_dir="data") == []


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        (ReplicaTarget(name="a", kind="file"), "replica.targets[a].copy_dir: it is missing"),
        (ReplicaTarget(name="a", kind="file", copy_dir="data"), "it is data_dir"),
        (
            ReplicaTarget(name="a", kind="file", copy_dir="x", bucket="b"),
            "bucket: a target of kind file has no",
        ),
        (
            ReplicaTarget(name="a", kind="sftp", host="h", user="u", path="p"),
            "replica.targets[a].host_key_file: it is missing",
        ),
        (
            ReplicaTarget(name="a", kind="sftp", host="sftp://h", user="u", path="p", host_key_file="k"),
            "write it as host or host:port",
        ),
        (ReplicaTarget(name="a", kind="s3"), "replica.targets[a].bucket: it is missing"),
        (ReplicaTarget(name="a", kind="s3", bucket="b", endpoint="objects"), "write it as http://"),
        (ReplicaTarget(name="disk", kind="s3", bucket="b"), "name = disk: it stands there 2 times"),
    ],
)
def test_what_is_wrong_is_named_with_its_mend(target: ReplicaTarget, fault: str) -> None:
    """A target that cannot work is found on the day of the fire."""
    (found,) = faults_of(ReplicaTable(targets=(DISK, target)), data_dir="data")
    assert fault in found


def test_a_whole_copy_stays_until_there_is_a_newer_one() -> None:
    """With a shorter retention the target would hold nothing to begin a restore with."""
    (found,) = faults_of(
        ReplicaTable(targets=(DISK,), snapshot_hours=48, retention_hours=24), data_dir="data"
    )
    assert "retention_hours = 24" in found
