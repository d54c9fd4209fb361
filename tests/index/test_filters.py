"""The filter language against a plain Python reading of the same documents, in every mode."""

import pytest

from decant.index import Searcher, Store
from decant.index.errors import FilterError
from decant.index.filters import MAX_DEPTH, MAX_LENGTH, parse_filter
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder()
N = 40


def metadata(i):
    fields = {"n": i, "lang": "de" if i % 3 else "en", "ratio": i / 4, "a b": f"v{i % 5}", "it's": i % 2 == 0}
    fields["mixed"] = i if i % 2 else f"text {i}"  # a number here, text there
    if i % 4 == 0:
        fields["rare"] = "yes"
        fields["dotted.name"] = i
    return fields


DOCUMENTS = {
    f"guide/{i}'s" if i % 2 else f"api/{i}": {
        "title": f"Title {i}",
        "path": f"/root/{i}.md",
        "media": ["text", "markdown", "code:python"][i % 3],
        "metadata": metadata(i),
    }
    for i in range(N)
}


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("f") / "s", encoder=ENCODER, create=True) as store:
        store.replace([indexed(name, f"shared words {name}\n", ENCODER, **f) for name, f in DOCUMENTS.items()])
        yield Searcher(store, ENCODER)


CASES = {
    "doc_id = 'guide/7''s'": lambda name, d: name == "guide/7's",
    "DOC_ID like 'api/%' and media != 'text'": lambda name, d: name.startswith("api/") and d["media"] != "text",
    "media in ('text', 'markdown')": lambda name, d: d["media"] in ("text", "markdown"),
    "media NOT IN ('text')": lambda name, d: d["media"] != "text",
    "title ILIKE 'tITLE 1_'": lambda name, d: len(d["title"]) == 8 and d["title"].startswith("Title 1"),
    "path not like '%3.md'": lambda name, d: not d["path"].endswith("3.md"),
    "title > 'Title 5'": lambda name, d: d["title"] > "Title 5",
    "metadata.n < 10": lambda name, d: d["metadata"]["n"] < 10,
    "metadata.n = 7.0": lambda name, d: d["metadata"]["n"] == 7,
    "metadata.n between 3 and 5": lambda name, d: 3 <= d["metadata"]["n"] <= 5,
    "metadata.n NOT BETWEEN 3 AND 35": lambda name, d: not 3 <= d["metadata"]["n"] <= 35,
    "metadata.n in (1, 2, -3, 1e1)": lambda name, d: d["metadata"]["n"] in (1, 2, -3, 10),
    "metadata.ratio >= .75 and metadata.ratio<=+2.5e0": lambda name, d: 0.75 <= d["metadata"]["ratio"] <= 2.5,
    "metadata.lang = 'en' or metadata.lang = 'fr'": lambda name, d: d["metadata"]["lang"] == "en",
    "not metadata.lang == 'en'": lambda name, d: d["metadata"]["lang"] != "en",
    "metadata.`a b` <> 'v3'": lambda name, d: d["metadata"]["a b"] != "v3",
    "metadata.`it's` = true": lambda name, d: d["metadata"]["it's"],
    "metadata.`it's` != TRUE": lambda name, d: not d["metadata"]["it's"],
    "metadata.mixed > 30": lambda name, d: isinstance(d["metadata"]["mixed"], int) and d["metadata"]["mixed"] > 30,
    "metadata.mixed = 'text 8'": lambda name, d: d["metadata"]["mixed"] == "text 8",
    "metadata.mixed LIKE 'text%'": lambda name, d: isinstance(d["metadata"]["mixed"], str),
    "metadata.rare is null": lambda name, d: "rare" not in d["metadata"],
    "metadata.rare IS NOT NULL AND metadata.n>8": lambda n, d: "rare" in d["metadata"] and d["metadata"]["n"] > 8,
    "metadata.rare != 'no'": lambda name, d: "rare" in d["metadata"],
    "metadata.dotted.name >= 20": lambda name, d: d["metadata"].get("dotted.name", -1) >= 20,
    "metadata.n < 5 or metadata.n > 30 and media = 'text'": lambda name, d: (
        d["metadata"]["n"] < 5 or (d["metadata"]["n"] > 30 and d["media"] == "text")
    ),
    "(metadata.n < 5 or metadata.n > 30) and not (media = 'text')": lambda name, d: (
        (d["metadata"]["n"] < 5 or d["metadata"]["n"] > 30) and d["media"] != "text"
    ),
}


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
@pytest.mark.parametrize("source", CASES)
def test_a_filter_finds_what_it_says_in_every_mode(searcher, source, mode):
    wanted = {name for name, fields in DOCUMENTS.items() if CASES[source](name, fields)}
    assert wanted and len(wanted) < N, "a case that tells nothing apart"
    hits = searcher.search("shared words", mode=mode, k=N, filter=source)
    assert {hit.chunk.doc_id for hit in hits} == wanted


WRONG = {
    "": "empty",
    "   ": "empty",
    "media": "expected =, !=, <",
    "media =": "character 8, found the end",
    "media = = 'x'": "character 9, found '='",
    "media = 'x": "cannot read",
    'media = "x"': "single quotes",
    "media = x": "in single quotes, a number",
    "media = 3": "write '3' in single quotes",
    "path = true": "path is text",
    "medium = 'x'": "no field 'medium'",
    "metadata = 'x'": "no field 'metadata'",
    "doc_id.x = 'x'": "no field 'doc_id.x'",
    "metadata.lnag = 'en'": "no document has the metadata field 'lnag'; fields found: a b, dotted.name",
    "metadata.n < 5 or metadata.lnag = 'en'": "'lnag'",
    "media = 'text' media = 'x'": "expected AND, OR or the end at character 16",
    "(media = 'text'": "expected ')'",
    "media = 'text')": "found ')'",
    "media in ()": "in single quotes",
    "media in 'x'": "expected '('",
    "media like 3": "pattern in single quotes",
    "media is 3": "expected NULL",
    "media not = 'x'": "expected =, !=, <, >, IN",
    "1 = 1": "expected a field",
    "media = 'a'; DROP TABLE chunks": "cannot read ';'",
    "media = 'a' -- comment": "cannot read '--'",
    "media = lower('A')": "in single quotes, a number",
    "media = (select media)": "in single quotes, a number",
    "media = 'a' union select": "expected AND, OR or the end",
    "metadata.n = 12abc": "cannot read '12abc'",
    "not " * (MAX_DEPTH + 5) + "media = 'x'": "nested more than",
    "(" * (MAX_DEPTH + 5) + "media = 'x'" + ")" * (MAX_DEPTH + 5): "nested more than",
    "media = '" + "x" * MAX_LENGTH + "'": "at most 10,000",
}


@pytest.mark.parametrize("source", WRONG, ids=range(len(WRONG)))
def test_a_filter_that_makes_no_sense_is_a_one_line_error(searcher, source):
    for mode in ("dense", "lexical", "hybrid"):
        with pytest.raises(FilterError) as caught:
            searcher.search("shared", mode=mode, filter=source)
        assert WRONG[source] in str(caught.value)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_an_injection_is_only_text():
    assert parse_filter("title = 'x'' OR true OR title = '''").sql == "(title = 'x'' OR true OR title = ''')"


def test_a_filter_on_an_empty_store_finds_nothing(tmp_path):
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        for mode in ("dense", "lexical", "hybrid"):
            assert Searcher(store, ENCODER).search("x", mode=mode, filter="metadata.any = 'x'") == []
