"""The web page over HTTP: its files, its headers, and what it fetches."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from decant.embedder import Encoder
from decant.service.keys import hash_key

WEB = Path(__file__).parents[2] / "service" / "web"
FILES = sorted(file.name for suffix in ("html", "css", "js", "svg") for file in WEB.glob(f"*.{suffix}"))
SCRIPT = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def writable(run_server: Callable[..., Any], tmp_path: Path) -> Any:
    return run_server(stores=[{"name": "notes", "path": str(tmp_path / "notes"), "writable": True}])


def put(server: Any, *documents: dict[str, Any], **fields: Any) -> None:
    assert server.http("/documents", {"documents": list(documents), **fields}).status == 200


def source(server: Any, doc_id: str, start: int, end: int) -> Any:
    return server.http(f"/ui/api/source?doc_id={quote(doc_id, safe='')}&start={start}&end={end}")


def test_the_page_is_whole_and_small(running: Any) -> None:
    page = running.http("/")
    assert page.status == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    sent = {name: running.http(f"/ui/{name}").body for name in FILES}
    assert all(body == (WEB / name).read_bytes() for name, body in sent.items())
    assert page.body == sent["index.html"] and sum(map(len, sent.values())) < 100_000
    named = set(re.findall(r'(?:src|href)="ui/([^"]+)"', page.body.decode()))
    for name in FILES:
        if name.endswith(".js"):
            named |= {file for file in re.findall(r'from "\./([^"]+)"', sent[name].decode())}
    assert named | {"index.html"} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_elsewhere_or_runs_from_a_string(name: str) -> None:
    text = (WEB / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in text and "https:" not in text and "//cdn" not in text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc", text)
    if name.endswith(".html"):
        assert not re.search(r"\sstyle=|\son\w+=|<style|<script>(?!</)|<base|javascript:", text)


def test_only_this_servers_scripts_may_run(running: Any) -> None:
    for path in ("/", "/ui/main.js", "/ui/app.css"):
        headers = running.http(path).headers
        rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
        assert rules["default-src"] == "'none'" and rules["script-src"] == "'self'" and rules["style-src"] == "'self'"
        assert rules["frame-ancestors"] == "'none'" and rules["require-trusted-types-for"] == "'script'"
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


def test_an_unchanged_file_is_not_sent_again(running: Any) -> None:
    first = running.http("/ui/app.css")
    again = running.http("/ui/app.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("name", ["assets.py", "nothing.js", "..%2fassets.py", "%2e%2e/keys.py", "__init__.py"])
def test_other_files_are_not_served(running: Any, name: str) -> None:
    assert running.http(f"/ui/{name}").status == 404


def test_status_names_what_is_missing_and_no_place_on_this_machine(running: Any, store: Path) -> None:
    answer = running.http("/ui/api/status")
    body = answer.json
    assert (body["store"], body["stores"], body["info"]["documents"], body["info"]["chunks"]) == (
        "default",
        ["default"],
        3,
        3,
    )
    modes = {mode["name"]: mode for mode in body["modes"]}
    assert {name for name, mode in modes.items() if mode["available"]} == {"hybrid", "dense", "lexical"}
    assert "tiny makes none" in modes["sparse"]["reason"] and not body["terms"]["available"]
    assert body["models"][0]["fingerprint"] == body["info"]["fingerprint"]
    assert str(store.parent) not in answer.body.decode()


def test_a_server_without_a_store_says_so(run_server: Callable[..., Any]) -> None:
    bare = run_server()
    body = bare.http("/ui/api/status").json
    assert body["info"] is None and body["models"][0]["name"] == "tiny"
    assert all("--store" in mode["reason"] for mode in body["modes"]) and not body["ask"]["available"]
    assert "--store" in bare.http("/ui/api/map").json["error"]["message"]


def test_search_finds_what_the_public_route_finds_and_marks_it(running: Any) -> None:
    for mode in ("dense", "lexical", "hybrid"):
        question = {"query": "committee budget", "mode": mode, "k": 3}
        shown, public = running.http("/ui/api/search", question).json, running.http("/search", question).json
        keys = ("rank", "score", "doc_id", "start_char", "end_char")
        assert [[hit[key] for key in keys] for hit in shown["hits"]] == [
            [hit[key] for key in keys] for hit in public["hits"]
        ]
    [hit] = running.http("/ui/api/search", {"query": "committee budget", "mode": "lexical"}).json["hits"]
    assert (
        "".join(text for text, _ in hit["snippet"])
        == "The committee met on Tuesday and discussed the budget for three hours."
    )
    assert [text for text, marked in hit["snippet"] if marked] == ["committee", "budget"]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"query": " ", "mode": "dense"}, "empty"),
        ({"query": "a", "mode": "sparse"}, "sparse"),
        ({"query": "a", "mode": "psychic"}, "mode"),
        ({"query": "a", "mode": "dense", "filter": "path ="}, "filter"),
        ({"query": "a", "mode": "dense", "k": 1000}, "k"),
        ({"query": "a", "mode": "dense", "store": "other"}, "default"),
    ],
    ids=str,
)
def test_what_cannot_be_searched_says_why(running: Any, body: dict[str, Any], word: str) -> None:
    answer = running.http("/ui/api/search", body)
    assert 400 <= answer.status < 500 and word in answer.json["error"]["message"]


def test_a_source_is_cut_where_python_counts(writable: Any) -> None:
    text = f"First 🍷🍷 line.\nÜber {SCRIPT} done."
    put(writable, {"doc_id": "a/b?c#d", "text": text, "title": SCRIPT, "metadata": {"year": 1999}})
    start = text.index("Über")
    answer = source(writable, "a/b?c#d", start, start + 4)
    found = answer.json
    assert answer.headers["content-type"] == "application/json" and "text/html" not in str(answer.headers)
    assert (found["before"], found["cited"], found["after"]) == (text[:start], "Über", text[start + 4 :])
    assert (found["title"], found["line"], found["metadata"], found["characters"]) == (
        SCRIPT,
        2,
        {"year": 1999},
        len(text),
    )
    assert source(writable, "a/b?c#d", 5, len(text) + 1).status == 400
    assert source(writable, "a/b?c#d", 5, 4).status == 400
    assert source(writable, "absent", 0, 1).status == 404


def test_terms_of_a_query_come_heaviest_first(
    run_server: Callable[..., Any], sparse_encoder: Encoder, tmp_path: Path, running: Any
) -> None:
    server = run_server(of=sparse_encoder, stores=[{"name": "s", "path": str(tmp_path / "s"), "writable": True}])
    put(server, {"doc_id": "one", "text": "Rivers carry water."}, {"doc_id": "two", "text": "The budget."})
    status = server.http("/ui/api/status").json
    assert all(mode["available"] for mode in status["modes"]) and status["terms"]["available"]
    terms = server.http("/ui/api/terms", {"query": "water rivers"}).json["terms"]
    expected = sparse_encoder.encode(["water rivers"], kind="query", outputs=("sparse",)).sparse
    [known] = sparse_encoder.terms(expected, len(terms))
    assert [term for term, _ in terms] == [term for term, _ in known]
    assert [weight for _, weight in terms] == pytest.approx([weight for _, weight in known], abs=1e-5)
    for mode in ("hybrid", "dense", "sparse", "lexical"):
        assert server.http("/ui/api/search", {"query": "water", "mode": mode}).json["hits"]
    refused = running.http("/ui/api/terms", {"query": "water"})
    assert 400 <= refused.status < 500 and "sparse" in refused.json["error"]["message"]


def test_the_map_has_every_passage_and_follows_the_store(writable: Any) -> None:
    assert writable.http("/ui/api/map").json["x"] == []
    documents = [
        {
            "doc_id": f"{group}/{i}",
            "path": f"docs/{group}/{i}.txt",
            "text": f"{word} {i} {word}",
            "title": f"{word} {i}",
        }
        for group, word in (("sea", "water"), ("law", "budget"))
        for i in range(6)
    ]
    put(writable, *documents)
    for method in ("pca", "tsne"):
        first = writable.http(f"/ui/api/map?method={method}")
        body = first.json
        assert len(body["x"]) == len(body["y"]) == len(body["doc"]) == body["total"] == 12
        assert {entry["doc_id"] for entry in body["docs"]} == {document["doc_id"] for document in documents}
        assert sorted(body["groups"]) == ["law", "sea"]
        assert {body["groups"][entry["group"]] for entry in body["docs"] if entry["path"].startswith("docs/sea")} == {
            "sea"
        }
        assert [body["docs"][body["doc"][at]]["group"] for at in body["labels"]] == [0, 1]
        assert writable.http(f"/ui/api/map?method={method}").body == first.body
    put(writable, {"doc_id": "new", "text": "One more."})
    assert writable.http("/ui/api/map").json["total"] == 13
    assert writable.http("/ui/api/map?method=astrology").status == 400


def test_what_the_page_shows_needs_a_key_and_stays_with_its_tenant(
    run_server: Callable[..., Any], tmp_path: Path
) -> None:
    keys = [
        {"sha256": hash_key(name), "tenant": name, "scopes": ["embed", "search", "ask", "index"]}
        for name in ("alpha", "beta")
    ]
    stores = [{"name": "notes", "path": str(tmp_path / "{tenant}"), "writable": True}]
    server = run_server(stores=stores, api_keys=keys)
    alpha, beta = ({"authorization": f"Bearer {name}"} for name in ("alpha", "beta"))
    body = {"documents": [{"doc_id": "secret", "text": "The whale is white."}]}
    assert server.http("/documents", body, alpha).status == 200
    assert server.http("/").status == 200 and server.http("/ui/main.js").status == 200
    place = "/ui/api/source?doc_id=secret&start=0&end=9"
    for path in ("/ui/api/status", "/ui/api/map", place):
        assert server.http(path).status == 401
        assert server.http(path, headers=alpha).status == 200
    question = {"query": "whale", "mode": "lexical"}
    assert server.http("/ui/api/search", question).status == 401
    assert len(server.http("/ui/api/search", question, alpha).json["hits"]) == 1
    assert server.http("/ui/api/search", question, beta).json["hits"] == []
    assert server.http("/ui/api/status", headers=beta).json["info"]["documents"] == 0
    assert server.http("/ui/api/map", headers=beta).json["x"] == []
    assert server.http(place, headers=beta).status == 404
