from __future__ import annotations

from pathlib import Path

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from decant.service.proto import generate
from decant.service.proto.decant.v1 import decant_pb2
from decant.service.proto.tei.v1 import tei_pb2


def test_the_checked_in_code_is_what_the_proto_files_give() -> None:
    folder = Path(generate.__file__).parent
    made = generate.generate()
    kept = {str(p.relative_to(folder)): p.read_text("utf-8") for p in folder.rglob("*_pb2*.py*") if p.suffix != ".pyc"}
    assert made == {name: text for name, text in kept.items() if "__pycache__" not in name}


def layout(message: type[Message]) -> list[tuple[int, str, int, bool]]:
    return [(f.number, f.name, f.type, f.is_repeated) for f in message.DESCRIPTOR.fields]


def test_tei_messages_have_the_numbers_and_types_that_clients_send() -> None:
    text, flag, whole, real = (
        FieldDescriptor.TYPE_STRING,
        FieldDescriptor.TYPE_BOOL,
        FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_FLOAT,
    )
    assert layout(tei_pb2.EmbedRequest) == [
        (1, "inputs", text, False),
        (2, "truncate", flag, False),
        (3, "normalize", flag, False),
        (4, "truncation_direction", FieldDescriptor.TYPE_ENUM, False),
        (5, "prompt_name", text, False),
        (6, "dimensions", whole, False),
    ]
    assert layout(tei_pb2.EmbedResponse)[0] == (1, "embeddings", real, True)
    # What a client of another make puts on the wire: tag, then value.
    request = tei_pb2.EmbedRequest.FromString(b"\x0a\x02hi\x10\x01\x18\x00\x2a\x05query\x30\x40")
    assert (request.inputs, request.truncate, request.normalize, request.prompt_name, request.dimensions) == (
        "hi", True, False, "query", 64,
    )  # fmt: skip
    assert request.HasField("normalize") and not tei_pb2.EmbedRequest().HasField("normalize")


def test_no_number_used_by_every_call_needs_two_bytes() -> None:
    for message in (decant_pb2.EmbedRequest, decant_pb2.Embedding, decant_pb2.EmbedResponse, decant_pb2.Hit):
        assert max(field.number for field in message.DESCRIPTOR.fields) <= 15
