"""What the web page computes: excerpts, projections, groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decant.embedder import InputError
from decant.service.web.corpus_map import MOST_GROUPS, OTHER, group_names
from decant.service.web.excerpt import excerpt_of
from decant.service.web.projection import Method, project


@given(st.text(max_size=60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 20))
def test_an_excerpt_is_the_text_and_counts_what_it_leaves_out(text: str, one: int, other: int, around: int) -> None:
    start, end = sorted((min(one, len(text)), min(other, len(text))))
    cut = excerpt_of(text, start, end, around)
    assert cut.cited == text[start:end]
    assert text[cut.more_before : len(text) - cut.more_after] == cut.before + cut.cited + cut.after
    assert len(cut.before) == min(around, start) and len(cut.after) == min(around, len(text) - end)
    assert cut.line == 1 + text[:start].count("\n")


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (2, 1), (0, 6)])
def test_a_range_that_is_not_there_is_refused(start: int, end: int) -> None:
    with pytest.raises(InputError, match="5 characters"):
        excerpt_of("abcde", start, end)


def clusters(each: int, width: int = 20) -> np.ndarray:
    """Three tight heaps in random directions."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, width)) * 4
    return np.concatenate([c + rng.standard_normal((each, width)) for c in centres]).astype(np.float32)


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 9])
def test_few_passages_have_a_place_each(method: Method, count: int) -> None:
    places = project(clusters(3)[:count], method)
    assert places.shape == (count, 2) and places.dtype == np.float32
    assert ((places >= 0) & (places <= 1)).all()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_equal_passages_do_no_harm(method: Method) -> None:
    assert np.isfinite(project(np.ones((12, 4), np.float32), method)).all()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_what_is_alike_lies_together_on_every_run(method: Method) -> None:
    vectors = clusters(20)
    places = project(vectors, method)
    assert np.array_equal(places, project(vectors, method))
    heaps = places.reshape(3, 20, 2)
    middles = heaps.mean(axis=1)
    away = np.linalg.norm(heaps[:, :, None] - middles[None, None], axis=-1)
    assert (away.argmin(axis=-1) == np.arange(3)[:, None]).all()


def test_groups_are_the_folders_below_the_shared_one() -> None:
    paths = ["docs/a/x/1.md", "docs/a/2.md", "docs/b/3.md", "docs/readme.md"]
    assert group_names(paths, ["markdown"] * 4) == ["a", "a", "b", "docs"]
    assert group_names(["/srv/docs/a/1.md", "/srv/docs/b/2.md"], ["markdown"] * 2) == ["a", "b"]


def test_groups_are_kinds_where_there_are_no_folders() -> None:
    assert group_names(["1.md", "2.pdf"], ["markdown", "pdf"]) == ["markdown", "pdf"]
    assert group_names(["", ""], ["text", "html"]) == ["text", "html"]
    assert group_names([], []) == []
    assert group_names(["/a/1.md", "b/2.md"], ["markdown", "text"]) == ["top", "b"]


def test_rare_groups_are_put_together() -> None:
    paths = [f"docs/{i}/{j}.md" for i in range(40) for j in range(40 - i)]
    names = group_names(paths, ["markdown"] * len(paths))
    assert len(set(names)) == MOST_GROUPS and names[0] == "0" and names[-1] == OTHER
