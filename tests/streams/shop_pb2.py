"""The message class that protoc would generate for shop.Order; made here without protoc."""

from __future__ import annotations

import base64

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto

_FILE = descriptor_pb2.FileDescriptorProto(
    name="shop.proto",
    package="shop",
    syntax="proto3",
    message_type=[
        descriptor_pb2.DescriptorProto(
            name="Order",
            field=[
                _FIELD(name="owner_id", number=1, type=_FIELD.TYPE_STRING, label=1),
                _FIELD(name="total", number=2, type=_FIELD.TYPE_INT64, label=1),
                _FIELD(name="tags", number=3, type=_FIELD.TYPE_STRING, label=3),
            ],
        )
    ],
)

Order = message_factory.GetMessageClass(
    descriptor_pool.Default()
    .AddSerializedFile(_FILE.SerializeToString())
    .message_types_by_name["Order"]
)

SCHEMA = base64.b64encode(_FILE.SerializeToString()).decode()
"""The file as a registry keeps it."""
