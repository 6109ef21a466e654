// The same exchange as a page does it, with fetch: Connect and gRPC-Web by connect-web. `npm run build` makes
// `dist/web.bundle.js` of it, which gives a page `web.run`.
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { exchange } from "./exchange.js";

/** Runs the exchange by both protocols; answers a line for each. */
export async function run(baseUrl: string, topic: string): Promise<string[]> {
  const transports = {
    "Connect": createConnectTransport({ baseUrl }),
    "gRPC-Web": createGrpcWebTransport({ baseUrl }),
  };
  const lines: string[] = [];
  for (const [name, transport] of Object.entries(transports)) {
    const came = await exchange(transport, "", `${topic}-${name}`);
    lines.push(`${name}: ${came.join(", ")}`);
  }
  return lines;
}
