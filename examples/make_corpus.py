"""Write `examples/corpus/`: a few hundred real files in every format Decant reads, from openly licensed texts.

    DECANT_DATA=<folder with text/ and pairs/> python examples/make_corpus.py

The corpus is checked in; this script is how it came to be, and makes the same bytes again. Sources and licences are in
`corpus/LICENSES.md`, which this script does not write. Needs reportlab besides Decant's own dependencies.
"""

from __future__ import annotations

import gzip
import html
import io
import json
import os
import re
import shutil
import textwrap
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import docx
from reportlab.lib.pagesizes import A5
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer

CORPUS = Path(__file__).parent / "corpus"

PEPS = """
8 20 202 205 234 238 255 257 282 289 308 318 328 343 380 405 435 448 465 471 476 479 498 506 519
525 530 557 572 584 585 604 616 621 654 668
""".split()
RUST_CHAPTERS = re.compile(r"src/ch(04|06|08-0[0-2]|09|10|13|15|16)-?.*\.md")
ETCD = re.compile(r"content/en/docs/v3\.6/(learning|op-guide|tasks|dev-guide|metrics|install|quickstart|faq).*")
KNATIVE = re.compile(
    r"docs/versioned/(serving|getting-started|eventing/(concepts|flows|features|sources/ping|triggers)).*"
)
PROMETHEUS = re.compile(r"docs/(concepts|practices|introduction|tutorials|visualization|guides)/.*")
MOST_CHARS = {
    "python-peps": 16_000,
    "factbook": 15_500,
    "rust-book": 12_000,
    "etcd-docs": 11_000,
    "knative-docs": 4_500,
    "prometheus-docs": 7_600,
}
FACTBOOK = """
africa/sh antarctica/bv australia-oceania/ck australia-oceania/kt australia-oceania/ne australia-
oceania/nr australia-oceania/pc australia-oceania/tl australia-oceania/tv central-america-n-caribbean/aa
europe/an europe/gi europe/jn europe/ls europe/mn europe/sm europe/sv europe/vt north-america/bd north-
america/gl north-america/ip south-america/fk south-asia/bt south-asia/mv
""".split()
OPENSTAX = {
    "psychology": "Sleep and Why We Sleep|Stages of Sleep|Ways to Enhance Memory|Hearing|The Other Senses|"
    "Posttraumatic Stress Disorder",
    "anatomy-physiology": "Homeostasis|The Lungs|Water Balance|Exercise and Muscle Performance|Nutrition and Diet",
    "astronomy": "Colors of Stars|Evidence for Black Holes|Time in General Relativity|Cosmic Rays|Star Clusters",
    "principles-economics-bundle": "Price Ceilings and Price Floors|The Poverty Trap|Defining Money by Its Functions|"
    "Causes of Inflation in Various Countries and Regions",
    "college-success": "Procrastination: The Enemy Within|Savings, Expenses, and Budgeting|"
    "Defending against Attack: Securing Your Identity and Accounts",
    "microbiology": "Spontaneous Generation|Viroids, Virusoids, and Prions|Lichens|Global Public Health",
    "introduction-philosophy": "Free Will|Arguments",
    "university-physics-bundle": "Archimedes’ Principle and Buoyancy|Sources of Musical Sound|Heat Engines",
}
COMMANDS = """
awk base64 bc cal cat chmod chown cmp comm cp crontab curl cut date dd df diff dig du env expand
fallocate file find fold free fuser grep gzip head hostname iconv id ionice jobs join jq kill killall
last less ln locate logger ls lsof make man md5sum mkdir mkfifo mount mv nc nice nl nohup nproc od
openssl passwd paste patch pgrep ping printenv ps pv pwd readlink renice rev rm rsync scp sed seq
sha256sum shred shuf sleep sort split ssh stat strace strings sudo tac tail tar tee time timeout top
touch tr traceroute tree truncate uname uniq unzip uptime watch wc wget which who xargs xxd yes zip zcat
""".split()
STORIES = {
    "The Redheaded League": "A Case of Identity",
    "The Five Orange Pips": "The Man with the Twisted Lip",
    "The Adventure of the Speckled Band": "The Adventure of the Engineer’s Thumb",
}
MARTIANS = {
    "The Eve of the War": "II\nThe Falling Star",
    "The Falling Star": "III\nOn Horsell Common",
    "On Horsell Common": "IV\nThe Cylinder Opens",
    "The Heat-Ray": "VI\nThe Heat-Ray in the Chobham Road",
}
CODE = {"tornadoweb/tornado": "tornado", "spotify/luigi": "luigi", "aio-libs/aiohttp": "aiohttp"}
FUNCTIONS_PER_FILE = 14


def main() -> None:
    """Write the corpus anew; LICENSES.md stays."""
    data = Path(os.environ["DECANT_DATA"])
    for child in CORPUS.iterdir() if CORPUS.exists() else ():
        if child.is_dir():
            shutil.rmtree(child)
    write_documentation(data)
    write_factbook(data)
    write_textbooks(data)
    write_books(data)
    write_commands(data)
    write_code(data)
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files):,} bytes")


def write_documentation(data: Path) -> None:
    """PEPs as .rst, the rest as .md, under their original paths."""
    wanted = {f"peps/pep-{int(number):04}.rst" for number in PEPS}
    for record in records(data / "text/docs/python-peps.jsonl.gz"):
        if record["path"] in wanted and len(record["text"]) <= MOST_CHARS["python-peps"]:
            put(record["path"], record["text"])
    for name, pattern in {
        "rust-book": RUST_CHAPTERS,
        "etcd-docs": ETCD,
        "knative-docs": KNATIVE,
        "prometheus-docs": PROMETHEUS,
    }.items():
        for record in records(data / f"text/docs/{name}.jsonl.gz"):
            if pattern.fullmatch(record["path"]) and 700 < len(record["text"]) <= MOST_CHARS[name]:
                title = record["title"]
                front = (
                    f"---\ntitle: {json.dumps(title)}\n---\n\n" if title and title not in record["text"][:300] else ""
                )
                put(f"{name}/{record['path']}", front + record["text"])


def write_factbook(data: Path) -> None:
    """Country profiles as HTML pages."""
    for record in records(data / "text/docs/factbook.jsonl.gz"):
        if record["path"].removesuffix(".json") in FACTBOOK and len(record["text"]) <= MOST_CHARS["factbook"]:
            title = html.escape(record["title"])
            body = "\n".join(_factbook_line(line) for line in record["text"].splitlines() if line.strip())
            head = f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title></head>\n'
            put(
                f"factbook/{Path(record['path']).with_suffix('.html')}",
                f"{head}<body>\n<article>\n<h1>{title}</h1>\n{body}\n</article>\n</body>\n</html>\n",
            )


def _factbook_line(line: str) -> str:
    if line.startswith("## "):
        return f"<h2>{html.escape(line[3:])}</h2>"
    field, _, value = line.partition(": ")
    if not value:
        return f"<p>{html.escape(line)}</p>"
    return f"<p><strong>{html.escape(field)}:</strong> {html.escape(value)}</p>"


def write_textbooks(data: Path) -> None:
    """OpenStax modules as Markdown."""
    for record in records(data / "text/openstax.jsonl.gz"):
        book = record["source"].removeprefix("openstax:")
        if record["title"] in OPENSTAX.get(book, "").split("|"):
            put(f"openstax/{book}/{slug(record['title'])}.md", f"# {record['title']}\n\n{record['text']}")


def write_books(data: Path) -> None:
    """Public-domain fiction and science: chapters as .txt, one as PDF, one as Word file."""
    books = {record["title"]: record["text"] for record in records(data / "text/books.jsonl.gz")}
    holmes = books["arthur-conan-doyle_the-adventures-of-sherlock-holmes"]
    for title, following in STORIES.items():
        put(f"books/sherlock-holmes/{slug(title)}.txt", title + "\n\n" + between(holmes, title, following))
    martians = books["h-g-wells_the-war-of-the-worlds"]
    for title, following in MARTIANS.items():
        put(f"books/war-of-the-worlds/{slug(title)}.txt", title + "\n\n" + between(martians, title, following))
    darwin = books["charles-darwin_the-origin-of-species"]
    put(
        "books/origin-of-species/struggle-for-existence.txt",
        between(darwin, "III\nStruggle for Existence", "IV\nNatural"),
    )
    machine = between("\n" + books["h-g-wells_the-time-machine"], "I", "IV")
    put_bytes("books/the-time-machine.pdf", pdf("The Time Machine", "H. G. Wells", paragraphs(machine)))
    alice = between(
        books["lewis-carroll_alices-adventures-in-wonderland_john-tenniel"], "I\nDown the Rabbit-Hole", "III\nA Caucus"
    )
    put_bytes(
        "books/alice-in-wonderland.docx", word("Alice’s Adventures in Wonderland", "Lewis Carroll", paragraphs(alice))
    )


def write_commands(data: Path) -> None:
    """Manual pages of everyday commands as JSON lines."""
    pages = {
        record["path"]: {"_id": record["title"], "title": record["title"], "text": record["text"], "platform": platform}
        for record in records(data / "text/docs/tldr-en.jsonl.gz")
        if (platform := record["path"].split("/")[1]) in ("common", "linux") and record["title"] in COMMANDS
    }
    unique = {page["_id"]: page for _, page in sorted(pages.items(), reverse=True)}
    lines = (json.dumps(unique[name], ensure_ascii=False) + "\n" for name in sorted(unique))
    put("tldr/commands.jsonl", "".join(lines))


def write_code(data: Path) -> None:
    """Functions as Python files, what they are documented to do as a comment above each."""
    found: dict[str, list[str]] = {name: [] for name in CODE.values()}
    for record in records(data / "pairs/pydoc-train.jsonl.gz"):
        name = CODE.get(record["source"].removeprefix("pydoc:"))
        if name and record["licence"] == "Apache-2.0" and 200 < len(record["positive"]) < 1500:
            comment = textwrap.fill(record["query"], 100, initial_indent="# ", subsequent_indent="# ")
            found[name].append(f"{comment}\n{record['positive']}\n")
    for name, functions in found.items():
        step = max(len(functions) // FUNCTIONS_PER_FILE, 1)
        put(f"code/{name}_functions.py", "\n\n".join(functions[::step][:FUNCTIONS_PER_FILE]))


def pdf(title: str, author: str, texts: Iterable[str]) -> bytes:
    """Return a typeset PDF, the same bytes on every run."""
    buffer, styles = io.BytesIO(), getSampleStyleSheet()
    story: list[Any] = [Paragraph(title, styles["Title"])]
    for text in texts:
        story += [Paragraph(html.escape(text), styles["Normal"]), Spacer(0, 5)]
    SimpleDocTemplate(buffer, pagesize=A5, title=title, author=author, invariant=1).build(story)
    return buffer.getvalue()


def word(title: str, author: str, texts: Iterable[str]) -> bytes:
    """Return a Word file, the same bytes on every run."""
    document = docx.Document()
    document.core_properties.title, document.core_properties.author = title, author
    document.add_heading(title, level=0)
    for text in texts:
        document.add_paragraph(text)
    written, fixed = io.BytesIO(), io.BytesIO()
    document.save(written)
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(fixed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(zipfile.ZipInfo(name), source.read(name), zipfile.ZIP_DEFLATED)
    return fixed.getvalue()


def between(text: str, start: str, end: str) -> str:
    """Return what stands between two lines, each the last line of its heading's first occurrence."""
    begin = re.search(rf"(?m)^{re.escape(start)}\n", text)
    assert begin is not None, start
    stop = re.search(rf"(?m)^{re.escape(end)}", text[begin.end() :])
    assert stop is not None, end
    return text[begin.end() : begin.end() + stop.start()].strip() + "\n"


def paragraphs(text: str) -> list[str]:
    """Return the lines that hold anything."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def records(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a gzipped JSON-lines file."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def slug(title: str) -> str:
    """Return a title as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower().replace("’", "")).strip("-")


def put(path: str, text: str) -> None:
    """Write one text file of the corpus."""
    put_bytes(path, text.encode())


def put_bytes(path: str, content: bytes) -> None:
    """Write one file of the corpus."""
    (CORPUS / path).parent.mkdir(parents=True, exist_ok=True)
    (CORPUS / path).write_bytes(content)


if __name__ == "__main__":
    main()
