"""The filter language: SQL's conditions over a document's fields, parsed here and handed to Lance as SQL.

    path LIKE 'guide/%' AND metadata.year >= 2020 AND NOT media IN ('pdf', 'docx')
    metadata.`publish date` IS NOT NULL OR (metadata.draft = true AND title ILIKE '%notes%')

Fields: `doc_id`, `path`, `title`, `media` (all text) and `metadata.<name>`; a name that is no plain word goes in
backticks. Operators: = != <> < <= > >=, [NOT] IN, [NOT] LIKE, [NOT] ILIKE, [NOT] BETWEEN, IS [NOT] NULL, AND, OR, NOT.
Literals: 'text' (a quote is doubled), numbers, true, false. As in SQL, a document that lacks a field fails every
comparison with it, `!=` included.

Parsing rather than passing the string on gives one-line errors that point at the place, typed comparisons with
JSON fields of mixed types, and nothing a filter could do but filter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import FilterError

TEXT_FIELDS = ("doc_id", "path", "title", "media")
MAX_LENGTH = 10_000
MAX_DEPTH = 50
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w))
    |(?P<name>[^\W\d]\w*(?:\.(?:\w+|`[^`]+`))*)|(?P<sign><=|>=|<>|!=|==|[=<>(),]))""",
    re.VERBOSE,
)
_COMPARISONS = {"=": "=", "==": "=", "!=": "<>", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_WORDS = {"and", "or", "not", "in", "like", "ilike", "between", "is", "null", "true", "false"}


@dataclass(frozen=True)
class Filter:
    """A parsed filter: SQL for Lance, and the metadata fields it names."""

    sql: str
    metadata_fields: frozenset[str]


@dataclass(frozen=True)
class _Token:
    kind: str  # text, number, name, sign, word (a keyword, in lower case) or end
    value: str
    start: int


def parse_filter(source: str) -> Filter:
    """Parse a filter.

    Raises:
        FilterError: naming the character where the filter stops making sense.
    """
    if not source.strip():
        raise FilterError("the filter is empty: leave it out, or write a condition such as media = 'pdf'")
    if len(source) > MAX_LENGTH:
        raise FilterError(f"the filter has {len(source):,} characters, at most {MAX_LENGTH:,} are allowed")
    parser = _Parser(source)
    sql = parser.either(0)
    parser.expect("end", "", "AND, OR or the end")
    return Filter(sql, frozenset(parser.metadata_fields))


def metadata_sql(field: str) -> str:
    """SQL for a metadata field's value as text, NULL where a document has none."""
    return f"json_get_string(metadata, {quoted(field)})"


class _Parser:
    """Recursive descent, one method per level of precedence; each returns SQL."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = _tokenize(source)
        self._next = 0
        self.metadata_fields: set[str] = set()

    def either(self, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise FilterError(f"the filter is nested more than {MAX_DEPTH} deep: simplify it")
        parts = [self._both(depth)]
        while self._accept("word", "or"):
            parts.append(self._both(depth))
        return f"({' OR '.join(parts)})"

    def expect(self, kind: str, value: str, wanted: str) -> _Token:
        token = self._tokens[self._next]
        if token.kind != kind or (value and token.value != value):
            raise self._error(wanted)
        self._next += 1
        return token

    def _both(self, depth: int) -> str:
        parts = [self._unary(depth)]
        while self._accept("word", "and"):
            parts.append(self._unary(depth))
        return " AND ".join(parts)

    def _unary(self, depth: int) -> str:
        if self._accept("word", "not"):
            if depth > MAX_DEPTH:
                raise FilterError(f"the filter is nested more than {MAX_DEPTH} deep: simplify it")
            return f"(NOT {self._unary(depth + 1)})"
        if self._accept("sign", "("):
            inner = self.either(depth + 1)
            self.expect("sign", ")", "')'")
            return inner
        return self._condition()

    def _condition(self) -> str:
        field = self._field()
        token = self._tokens[self._next]
        if token.kind == "sign" and token.value in _COMPARISONS:
            self._next += 1
            left, right = self._typed(field, self._literal())
            return f"{left} {_COMPARISONS[token.value]} {right}"
        if self._accept("word", "is"):
            negated = "NOT " if self._accept("word", "not") else ""
            self.expect("word", "null", "NULL")
            return f"{self._text(field)} IS {negated}NULL"
        negated = "NOT " if self._accept("word", "not") else ""
        if self._accept("word", "in"):
            return self._membership(field, negated)
        if self._accept("word", "between"):
            left, low = self._typed(field, self._literal())
            self.expect("word", "and", "AND")
            other, high = self._typed(field, self._literal())
            return f"({left} {'<' if negated else '>='} {low} {'OR' if negated else 'AND'} {other} " + (
                f"{'>' if negated else '<='} {high})"
            )
        for word in ("like", "ilike"):
            if self._accept("word", word):
                pattern = self.expect("text", "", "a pattern in single quotes")
                return f"{self._text(field)} {negated}{word.upper()} {pattern.value}"
        raise self._error("=, !=, <, >, IN, LIKE, BETWEEN or IS NULL")

    def _membership(self, field: str, negated: str) -> str:
        self.expect("sign", "(", "'('")
        tests: list[str] = []
        while not tests or self._accept("sign", ","):
            left, right = self._typed(field, self._literal())
            tests.append(f"{left} = {right}")
        self.expect("sign", ")", "',' or ')'")
        joined = " OR ".join(tests)
        return f"(NOT ({joined}))" if negated else f"({joined})"

    def _field(self) -> str:
        token = self.expect("name", "", "a field: doc_id, path, title, media or metadata.<name>")
        head, dot, tail = token.value.replace("`", "").partition(".")
        if head.lower() in TEXT_FIELDS and not dot:
            return head.lower()
        if head.lower() == "metadata" and dot:
            self.metadata_fields.add(tail)
            return f"metadata.{tail}"
        raise FilterError(
            f"filter: there is no field {token.value!r} (character {token.start + 1}); "
            "fields are doc_id, path, title, media and metadata.<name>"
        )

    def _literal(self) -> _Token:
        token = self._tokens[self._next]
        truth = token.kind == "word" and token.value in ("true", "false")
        if not truth and token.kind not in ("text", "number"):
            raise self._error("'text' in single quotes, a number, true or false")
        self._next += 1
        return token

    def _typed(self, field: str, literal: _Token) -> tuple[str, str]:
        """Both sides of a comparison, in the literal's type."""
        if literal.kind == "text":
            return self._text(field), literal.value
        if not field.startswith("metadata."):
            raise FilterError(f"filter: {field} is text; write '{literal.value}' in single quotes")
        if literal.kind == "number":
            return f"TRY_CAST({self._text(field)} AS DOUBLE)", f"CAST('{literal.value}' AS DOUBLE)"
        return self._text(field), quoted(literal.value)

    def _text(self, field: str) -> str:
        return metadata_sql(field.removeprefix("metadata.")) if field.startswith("metadata.") else field

    def _accept(self, kind: str, value: str) -> bool:
        token = self._tokens[self._next]
        if token.kind != kind or token.value != value:
            return False
        self._next += 1
        return True

    def _error(self, wanted: str) -> FilterError:
        token = self._tokens[self._next]
        found = "the end" if token.kind == "end" else repr(self._source[token.start :].split()[0][:30])
        return FilterError(f"filter: expected {wanted} at character {token.start + 1}, found {found}")


def _tokenize(source: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    end = len(source.rstrip())
    while position < end:
        match = _TOKEN.match(source, position)
        if match is None:
            rest = source[position:].lstrip()
            start = end - len(rest.rstrip())
            hint = "; write text in single quotes" if rest[0] in "\"'" else ""
            raise FilterError(f"filter: cannot read {rest.split()[0][:30]!r} at character {start + 1}{hint}")
        kind = str(match.lastgroup)
        value = match.group(kind)
        if kind == "name" and value.lower() in _WORDS:
            kind, value = "word", value.lower()
        tokens.append(_Token(kind, value, match.start(str(match.lastgroup))))
        position = match.end()
    return [*tokens, _Token("end", "", end)]


def quoted(text: str) -> str:
    """Text as SQL's literal."""
    return "'" + text.replace("'", "''") + "'"
