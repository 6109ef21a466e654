"""Reflection as Python's gRPC sees it: v1alpha, by the client that comes with grpcio."""
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1])
database = ProtoReflectionDescriptorDatabase(channel)
pool = DescriptorPool(database)
passed, failed = 0, 0


def check(what, holds):
    global passed, failed
    passed, failed = passed + bool(holds), failed + (not holds)
    if not holds:
        print(f"FAILED: {what}", file=sys.stderr)


services = sorted(database.get_services())
check("every service is listed", services == sorted(sys.argv[2:]))
for name in services:
    check(f"{name} is described", pool.FindServiceByName(name).methods)

# A call that knows nothing but what reflection said.
method = pool.FindServiceByName("grpc.testing.TestService").FindMethodByName("UnaryCall")
request = GetMessageClass(method.input_type)(response_size=5)
call = channel.unary_unary(
    "/grpc.testing.TestService/UnaryCall",
    request_serializer=type(request).SerializeToString,
    response_deserializer=GetMessageClass(method.output_type).FromString,
)
check("a call by its description", len(call(request, timeout=10).payload.body) == 5)
try:
    pool.FindServiceByName("no.Such")
    check("an unknown service is refused", False)
except KeyError:
    check("an unknown service is refused", True)
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
