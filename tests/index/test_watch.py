"""The newest version without asking Lance: never an old one, whoever commits."""

from decant.index import Store
from decant.index.testing import HashEncoder, indexed
from decant.index.watch import VERSIONS, VersionWatch

ENCODER = HashEncoder()


def test_lance_is_asked_again_only_when_the_files_have_changed(tmp_path):
    asked = []

    def ask():
        asked.append(1)
        return len(asked)

    watch = VersionWatch(tmp_path)
    assert [watch.version(ask), watch.version(ask)] == [1, 2], "a folder that cannot be listed proves nothing"
    versions = tmp_path / VERSIONS
    versions.mkdir()
    (versions / "9.manifest").touch()
    assert [watch.version(ask), watch.version(ask)] == [3, 3]
    (versions / "8.manifest").touch()
    assert [watch.version(ask), watch.version(ask)] == [4, 4]
    (versions / "9.manifest").unlink()
    assert watch.version(ask) == 5


def test_a_commit_between_listing_and_asking_is_not_missed(tmp_path):
    versions = tmp_path / VERSIONS
    versions.mkdir()
    (versions / "9.manifest").touch()

    def ask_late():
        (versions / "8.manifest").touch()
        return 1

    watch = VersionWatch(tmp_path)
    assert (watch.version(ask_late), watch.version(lambda: 2)) == (1, 2)


def test_every_commit_of_another_handle_is_seen_at_once(tmp_path):
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store, Store.open(tmp_path / "s") as reader:
        for number in range(20):
            store.replace([indexed(f"d{number}", "one line\n", ENCODER)])
            assert len(reader.snapshot()) == number + 1
        store.optimize()
        assert reader.snapshot().version == store.snapshot().version
