// Opens examples/browser.html in a real Chromium and sees messages arrive by each of its three ways, then runs
// the typed clients of connect-web in it. A line for each promise, `PASS` or `FAIL`; exits with 1 after a FAIL.
//
//     node browser.mjs CHROMIUM GATEWAY PORT
//
// GATEWAY lets pages of http://localhost:PORT call.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { connect, createServer as createRelay } from "node:net";
import { chromium } from "playwright-core";

const [program, gateway, port] = process.argv.slice(2);
const examples = new URL("../../examples/", import.meta.url);
const topic = `page-${process.pid}`;
const ways = ["eventsource", "websocket", "grpcweb"];
let failed = 0;

async function promise(name, kept) {
  try {
    await kept();
    console.log(`PASS ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}: ${error.message}`);
  }
}

function equal(found, wanted) {
  if (JSON.stringify(found) !== JSON.stringify(wanted))
    throw new Error(`found ${JSON.stringify(found)}, wanted ${JSON.stringify(wanted)}`);
}

/** Hands the page out, as the file server of the docs does. */
async function serve(at) {
  const server = createServer(async (request, answer) => {
    const here = request.url.startsWith("/browser.html");
    answer.writeHead(here ? 200 : 404, { "content-type": "text/html; charset=utf-8" });
    answer.end(here ? await readFile(new URL("browser.html", examples)) : "");
  });
  await new Promise((done) => server.listen(at, "127.0.0.1", done));
  return server.address().port;
}

/** A way to the gateway that can be cut. */
async function relay() {
  const open = new Set();
  const server = createRelay((inside) => {
    const outside = connect(new URL(gateway).port, new URL(gateway).hostname);
    inside.pipe(outside).pipe(inside);
    for (const [socket, other] of [[inside, outside], [outside, inside]]) {
      open.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => open.delete(socket) && other.destroy());
    }
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const cut = () => open.forEach((socket) => socket.destroy());
  return { url: `http://127.0.0.1:${server.address().port}`, cut };
}

async function open(at, through = gateway) {
  const page = await browser.newPage();
  page.problems = [];
  page.hosts = new Set();
  page.on("pageerror", (error) => page.problems.push(error.message));
  page.on("request", (request) => page.hosts.add(new URL(request.url()).host));
  page.on("websocket", (socket) => page.hosts.add(new URL(socket.url()).host));
  const query = new URLSearchParams({ gateway: through, topic });
  await page.goto(`http://localhost:${at}/browser.html?${query}`);
  return page;
}

async function publish(page, text) {
  await page.getByLabel("message").fill(text);
  await page.getByRole("button", { name: "Publish" }).click();
}

/** Waits until a way shows so many messages, and answers them. */
async function shown(page, way, count) {
  const items = page.locator(`#${way} li`);
  await items.nth(count - 1).waitFor({ timeout: 20_000 });
  return items.allTextContents();
}

async function publishOutside(text) {
  const answer = await fetch(`${gateway}/v1/topics/${topic}/messages`, { method: "POST", body: text });
  if (!answer.ok) throw new Error(await answer.text());
}

const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox"] });
console.log(`Chromium ${browser.version()}`);
try {
  await serve(port);
  await publishOutside("before");
  const page = await open(port);
  const wanted = ["before", "<b>from the page</b>", "from outside"];
  for (const way of ways)
    await promise(`${way}: what was kept is shown`, async () => equal(await shown(page, way, 1), wanted.slice(0, 1)));
  await promise("the page publishes and shows the receipt", async () => {
    await publish(page, wanted[1]);
    await page.locator("output", { hasText: "LOGGED at" }).waitFor({ timeout: 20_000 });
  });
  for (const way of ways)
    await promise(`${way}: what the page published arrives`, async () =>
      equal(await shown(page, way, 2), wanted.slice(0, 2)));
  await promise("a message comes from outside", () => publishOutside(wanted[2]));
  for (const way of ways)
    await promise(`${way}: what others published arrives, each once and in order`, async () =>
      equal(await shown(page, way, 3), wanted));
  await promise("the page talks to the gateway alone", async () =>
    equal([...page.hosts].sort(), [`localhost:${port}`, new URL(gateway).host].sort()));
  await promise("nothing in the page fails", async () => equal(page.problems, []));

  await promise("connect-web follows, publishes and resumes in Connect and gRPC-Web", async () => {
    await page.addScriptTag({ path: new URL("typescript/dist/web.bundle.js", examples).pathname });
    const lines = await page.evaluate(([url, name]) => web.run(url, name), [gateway, `${topic}-web`]);
    equal(lines, ["Connect: one, two, three, four", "gRPC-Web: one, two, three, four"]);
  });

  const line = await relay();
  const cut = await open(port, line.url);
  for (const way of ways) await shown(cut, way, wanted.length);
  line.cut();
  wanted.push("after the cut");
  await publishOutside(wanted.at(-1));
  for (const way of ways)
    await promise(`${way}: goes on after its connection was cut, without gap or repeat`, async () =>
      equal(await shown(cut, way, wanted.length), wanted));
  await cut.close();

  await promise("/docs shows every operation, and talks to the gateway alone", async () => {
    const { paths } = await (await fetch(`${gateway}/openapi.json`)).json();
    const verbs = ["get", "put", "post", "patch", "delete"];
    const wanted = Object.values(paths).reduce((sum, path) => sum + verbs.filter((verb) => path[verb]).length, 0);
    const reference = await browser.newPage();
    const problems = [];
    const hosts = new Set();
    reference.on("pageerror", (error) => problems.push(error.message));
    // What its own policy forbids is an error of the console as well.
    reference.on("console", (line) => line.type() === "error" && problems.push(line.text()));
    reference.on("request", (request) => request.url().startsWith("data:") || hosts.add(new URL(request.url()).host));
    await reference.goto(`${gateway}/docs`);
    const entries = reference.locator(".nav-bar-path[data-content-id]");
    await entries.nth(wanted - 1).waitFor({ state: "attached", timeout: 20_000 });
    equal(await entries.count(), wanted);
    await entries.first().click();
    await reference.locator(".request-panel, api-request").first().waitFor({ timeout: 20_000 });
    equal([[...hosts], problems], [[new URL(gateway).host], []]);
    await reference.close();
  });

  const stranger = await open(await serve(0));
  await promise("a page of an origin that is not listed may not publish", async () => {
    await publish(stranger, "from a stranger");
    await stranger.locator("output", { hasText: "does not let" }).waitFor({ timeout: 20_000 });
    const kept = await (await fetch(`${gateway}/v1/topics/${topic}/messages?view=TEXT`)).json();
    equal(kept.messages.map((message) => message.text), wanted);
  });
  for (const way of ways)
    await promise(`${way}: a page of an origin that is not listed sees nothing`, async () => {
      await stranger.locator(`#${way} > small`, { hasText: /refused|closed|comes back/ }).waitFor({ timeout: 20_000 });
      equal(await stranger.locator(`#${way} li`).count(), 0);
    });
} finally {
  await browser.close();
}
process.exit(failed ? 1 : 0);
