"""Nonsense at every door: a status each convention knows, never a fault, and the server goes on."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from decant.service.proto.decant.v1 import decant_pb2
from decant.service.proto.decant.v1 import decant_pb2 as pb
from decant.service.proto.decant.v1 import decant_pb2_grpc as stubs
from decant.service.proto.tei.v1 import tei_pb2

# What a client may be told for its own mistake; INTERNAL, UNKNOWN and UNAVAILABLE would be ours.
OURS = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS}
METHODS = [
    method
    for module in (decant_pb2, tei_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
FEW = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def messages(descriptor: Any, depth: int = 2) -> st.SearchStrategy[Any]:
    """Any message of a type: some fields set, to values that are typical, extreme or empty."""
    fields = {field.name: value_of(field, depth) for field in descriptor.fields if depth or field.message_type is None}
    kind = message_factory.GetMessageClass(descriptor)
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: kind(**values))


def value_of(field: Any, depth: int) -> st.SearchStrategy[Any]:
    one = scalar(field, depth)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return st.dictionaries(scalar(key, 0), scalar(value, depth - 1), max_size=2)
    return st.lists(one, max_size=3) if field.is_repeated else one


def scalar(field: Any, depth: int) -> st.SearchStrategy[Any]:
    match field.cpp_type:
        case field.CPPTYPE_STRING if field.type == field.TYPE_BYTES:
            return st.binary(max_size=20)
        case field.CPPTYPE_STRING:
            known = ["", "tiny", "query", "document", "a text", "metadata.year = 1", "' OR 1=1 --", "\x00", "x" * 3000]
            return st.sampled_from(known) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
        case field.CPPTYPE_BOOL:
            return st.booleans()
        case field.CPPTYPE_DOUBLE | field.CPPTYPE_FLOAT:
            return st.floats(width=32)
        case field.CPPTYPE_ENUM:
            return st.integers(0, 9)
        case field.CPPTYPE_MESSAGE:
            return messages(field.message_type, depth - 1)
        case field.CPPTYPE_INT32 | field.CPPTYPE_INT64:
            return st.integers(-(2**31), 2**31 - 1)
        case _:
            return st.sampled_from([0, 1, 16, 32, 2**31, 2**32 - 1])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_any_message_gets_an_answer_or_a_reason(running: Any, method: MethodDescriptor) -> None:
    service = method.containing_service.full_name
    reply = message_factory.GetMessageClass(method.output_type)
    with running.channel() as channel:
        kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
        call = getattr(channel, kind)(
            f"/{service}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )

        @FEW
        @given(st.lists(messages(method.input_type), min_size=1, max_size=3 if method.client_streaming else 1))
        def answered(sent: list[Any]) -> None:
            try:
                answer = call(iter(sent) if method.client_streaming else sent[0], timeout=30)
                if method.server_streaming:
                    list(answer)
            except grpc.RpcError as error:
                assert error.code() not in OURS, error.details()
                assert "a fault in Decant" not in error.details(), error.details()

        answered()
        assert stubs.EncoderStub(channel).Embed(pb.EmbedRequest(texts=["fine"])).embeddings[0].dense


@FEW
@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused(running: Any, sent: bytes) -> None:
    with running.channel() as channel:
        for method in ("decant.v1.Encoder/Embed", "decant.v1.Searcher/Search", "tei.v1.Rerank/Rerank"):
            try:
                channel.unary_unary(f"/{method}")(sent, timeout=20)
            except grpc.RpcError as error:
                assert error.code() is not grpc.StatusCode.UNAVAILABLE
