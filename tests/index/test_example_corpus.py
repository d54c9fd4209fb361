"""The example corpus: every file is read, in every format, and every chunk is its document's text."""

from pathlib import Path

from decant.index.chunking import Chunker
from decant.index.readers.isolated import Isolated
from decant.index.sources import Source, sources_of
from decant.index.testing import HashEncoder
from decant.index.walk import Findings, walk

CORPUS = Path(__file__).parents[2] / "examples" / "corpus"


def test_every_file_of_the_corpus_is_read_and_cut():
    findings = Findings()
    walk(CORPUS, "corpus", findings, leave_out=())
    assert (findings.failed, findings.ignored) == ({}, [])
    chunker, media, chunks = Chunker(HashEncoder(max_tokens=512)), set(), 0
    with Isolated() as isolated:
        for file in findings.files:
            for source in sources_of(file, "", isolated):
                assert isinstance(source, Source), source
                document = source.read()
                assert document.title, file.path
                media.add(file.format.media)
                cut = chunker.chunk(document)
                assert all(document.text[c.start_char : c.end_char] == c.text for c in cut)
                chunks += len(cut)
    assert media == {"code:python", "docx", "html", "jsonl", "markdown", "pdf", "rst", "text"}
    assert chunks > 1000


def test_every_folder_of_the_corpus_names_its_licence():
    named = (CORPUS / "LICENSES.md").read_text()
    for entry in CORPUS.iterdir():
        assert f"`{entry.name}/" in named or entry.name == "LICENSES.md"
