// A backend: creates a node, then exchanges messages through it in Connect, gRPC and gRPC-Web. Exits with 0 if
// everything came as promised.
//
//     npm ci && npm start                       # with `make run` in another terminal; or PLEXUS_URL=…
import { createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { exchange } from "./exchange.js";
import { NodeService } from "./gen/plexus/v1/nodes_pb.js";

const baseUrl = process.env["PLEXUS_URL"] ?? "http://127.0.0.1:8080";
const node = `backend-${process.pid}`;

const transports: Record<string, Transport> = {
  "Connect, Protobuf, HTTP/2": createConnectTransport({ baseUrl, httpVersion: "2" }),
  "Connect, JSON, HTTP/1.1": createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: false }),
  "Connect with GET": createConnectTransport({ baseUrl, httpVersion: "2", useHttpGet: true }),
  "gRPC": createGrpcTransport({ baseUrl }),
  "gRPC-Web, HTTP/1.1": createGrpcWebTransport({ baseUrl, httpVersion: "1.1" }),
};

const nodes = createClient(NodeService, createGrpcTransport({ baseUrl }));
await nodes.createNode({ id: node, spec: { labels: { example: "backend" } } });
let failed = false;
try {
  for (const [index, [name, transport]] of Object.entries(transports).entries()) {
    try {
      const came = await exchange(transport, node, `backend-${index}`);
      const identity = await createClient(NodeService, transport).getIdentity({ node });
      console.log(`${name}: ${came.join(", ")} through ${identity.peerId}`);
    } catch (error) {
      failed = true;
      console.error(`${name}: ${error}`);
    }
  }
} finally {
  await nodes.deleteNode({ node });
}
process.exit(failed ? 1 : 0);
