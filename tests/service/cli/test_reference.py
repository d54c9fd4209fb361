"""docs/cli.md says what the commands say."""

from __future__ import annotations

from pathlib import Path

from decant.service.cli.reference import reference

ROOT = Path(__file__).parents[3]


def test_the_reference_is_up_to_date():
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == reference(), "run `make docs`"


def test_every_command_and_option_is_explained():
    lines = [line for line in reference().splitlines() if line.startswith("* ")]
    assert [line for line in lines if not line.partition(": ")[2].strip()] == []
