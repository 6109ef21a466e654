// One exchange, told once for every transport: follow a topic, publish to it, break off, resume, and read why a
// call failed. Throws where something came otherwise than promised.
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { View } from "./gen/plexus/v1/common_pb.js";
import { type Message, Receipt_Level, TopicService } from "./gen/plexus/v1/topics_pb.js";

/** How long an exchange may take. */
const PATIENCE_MS = 30_000;

/** Follows, publishes and resumes on a topic of its own; answers the texts in the order they came. */
export async function exchange(transport: Transport, node: string, topic: string): Promise<string[]> {
  const topics = createClient(TopicService, transport);
  const sent = ["one", "two", "three"];
  for (const text of sent) {
    // A request id makes it safe to send the same call again after a broken connection.
    const publish = () =>
      topics.publish({
        node, topic, payload: { case: "text", value: text }, requestId: `${topic}-${text}`,
      });
    const receipt = await publish();
    must(receipt.level >= Receipt_Level.LOGGED, `${text} is at level ${Receipt_Level[receipt.level]}`);
    const again = await publish();
    must(again.duplicate && again.position === receipt.position, `${text} repeated is another message`);
  }

  const first = await follow(transport, node, topic, "0", 2);
  // A reader that comes back says which position it had last.
  const last = first.at(-1)?.position ?? "0";
  // What is published while it follows arrives as well.
  const rest = await follow(transport, node, topic, last, 2, async () => {
    await topics.publish({ node, topic, payload: { case: "text", value: "four" } });
  });
  const came = [...first, ...rest].map((message) => String(message.payload.value));
  must(came.join() === [...sent, "four"].join(), `came: ${came.join()}`);

  await refused(transport, topic);
  return came;
}

/** Reads `count` messages after a position, then breaks off. `began` is called once reading begins. */
async function follow(
  transport: Transport, node: string, topic: string, after: string, count: number,
  began?: () => Promise<void>,
): Promise<Message[]> {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(new Error(`${topic}: nothing came`)), PATIENCE_MS);
  const messages: Message[] = [];
  const events = createClient(TopicService, transport).subscribe(
    { node, topics: [topic], after, view: View.TEXT },
    // A stream has no deadline unless it is given one.
    { signal: stop.signal },
  );
  try {
    for await (const { event } of events) {
      if (event.case === "start") await began?.();
      if (event.case === "gap") throw new Error(`${topic}: messages are missing after ${event.value.after}`);
      if (event.case === "message" && messages.push(event.value) === count) break;
    }
  } finally {
    clearTimeout(timer);
    stop.abort();
  }
  return messages;
}

/** A call that cannot work says why by a stable reason; the message is for people. */
async function refused(transport: Transport, topic: string): Promise<void> {
  try {
    await createClient(TopicService, transport).publish({ node: "no-such-node", topic });
  } catch (cause) {
    const error = ConnectError.from(cause);
    const reason = error.findDetails(ErrorInfoSchema)[0]?.reason;
    must(error.code === Code.NotFound && reason === "NODE_NOT_FOUND", `refused with ${error.message}, ${reason}`);
    return;
  }
  throw new Error("a node that does not exist took a message");
}

function must(holds: boolean, otherwise: string): void {
  if (!holds) throw new Error(otherwise);
}
