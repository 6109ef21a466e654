"""Publishes, follows, breaks off and resumes over gRPC. Exits with 0 if everything came as promised.

    python3 -m venv .venv && . .venv/bin/activate
    pip install -r requirements.txt && ./generate.sh
    python follow.py                      # with `make run` in another terminal; or follow.py HOST:PORT
"""

import os
import sys
from collections.abc import Generator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "gen"))

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from plexus.v1 import common_pb2, nodes_pb2, nodes_pb2_grpc, topics_pb2, topics_pb2_grpc

PATIENCE_S = 30


def publish(topics: topics_pb2_grpc.TopicServiceStub, topic: str, text: str) -> topics_pb2.Receipt:
    """Publishes once, however often it is called: the request id makes a repeat safe."""
    request = topics_pb2.PublishRequest(topic=topic, text=text, request_id=f"{topic}-{text}")
    return topics.Publish(request, timeout=PATIENCE_S)


def follow(
    topics: topics_pb2_grpc.TopicServiceStub, topic: str, start: topics_pb2.SubscribeRequest
) -> Generator[topics_pb2.Message, None, None]:
    """Yields messages until its reader breaks off. A place that cannot be filled is an error."""
    start.view = common_pb2.TEXT
    stream = topics.Subscribe(start, timeout=PATIENCE_S)
    try:
        for event in stream:
            match event.WhichOneof("event"):
                case "message":
                    yield event.message
                case "gap":
                    raise RuntimeError(f"{topic}: messages are missing after {event.gap.after}")
    finally:
        stream.cancel()


def take(messages: Generator[topics_pb2.Message, None, None], count: int) -> list[topics_pb2.Message]:
    """Reads so many messages, then ends the stream."""
    taken = [next(messages) for _ in range(count)]
    messages.close()
    return taken


def reason(error: grpc.RpcError) -> str:
    """Reads the stable reason of a failed call, a row of docs/errors.md."""
    assert isinstance(error, grpc.Call), error
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else []:
        if detail.Unpack(info):
            return str(info.reason)
    return ""


def main(target: str) -> None:
    topic = f"follow-{os.getpid()}"
    with grpc.insecure_channel(target) as channel:
        topics = topics_pb2_grpc.TopicServiceStub(channel)
        nodes = nodes_pb2_grpc.NodeServiceStub(channel)
        identity = nodes.GetIdentity(nodes_pb2.GetIdentityRequest(node="default"), timeout=PATIENCE_S)
        print(f"node default is {identity.peer_id}")

        for text in ("one", "two", "three"):
            receipt = publish(topics, topic, text)
            assert receipt.level >= topics_pb2.Receipt.LOGGED, receipt
            assert publish(topics, topic, text).duplicate, "a repeat is another message"

        # From the start of what is kept.
        start = topics_pb2.SubscribeRequest(topics=[topic], after="0")
        first = take(follow(topics, topic, start), 2)
        # It comes back with the position that it had last, on any gateway.
        start = topics_pb2.SubscribeRequest(topics=[topic], after=first[-1].position)
        resumed = follow(topics, topic, start)
        rest = [next(resumed)]
        publish(topics, topic, "four")
        rest += take(resumed, 1)
        came = [message.text for message in first + rest]
        print(f"came: {', '.join(came)}")
        assert came == ["one", "two", "three", "four"], came

        try:
            topics.Publish(topics_pb2.PublishRequest(node="no-such-node", topic=topic, text="lost"))
        except grpc.RpcError as error:
            print(f"refused: {reason(error)}")
            assert reason(error) == "NODE_NOT_FOUND", error
        else:
            raise AssertionError("a node that does not exist took a message")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8080")
