"""What Lance says is one line without paths of the machine that Lance was built on."""

import pytest

from decant.index.errors import StoreDamaged, StoreError, lance_errors


@pytest.mark.parametrize(
    "where",
    [
        ", /rustc/0123/library/core/src/ops.rs:250:5",
        ", /root/.cargo/registry/src/index.crates.io-19/lance-io-13.0.0/src/utils.rs:172:20",
        ", /home/builder/lance/rust/lance/src/dataset.rs:10:3",
    ],
)
def test_an_error_ends_before_the_place_in_lances_source(where):
    with pytest.raises(StoreDamaged) as caught, lance_errors("here"):
        raise RuntimeError(f"LanceError(IO): file size\n is too small{where}")
    assert str(caught.value) == (
        "the store at here cannot be read or written (LanceError(IO): file size is too small): restore a backup, or "
        "index into a new folder"
    )


def test_the_users_own_paths_stay():
    with pytest.raises(StoreDamaged) as caught, lance_errors("here"):
        raise OSError("Not found: /data/s/lance/chunks.lance/data/01.lance, /root/.cargo/registry/src/a.rs:1:2")
    assert "(Not found: /data/s/lance/chunks.lance/data/01.lance)" in str(caught.value)
    with pytest.raises(StoreError, match="disk of here is full"), lance_errors("here"):
        raise OSError("No space left on device, /root/.cargo/registry/src/a.rs:1:2")
