//! One trace follows a publish through the processes: real ones, over a real Redis, exporting to a
//! collector over OTLP.

use http::Method;
use plexus_tests::{
    Http, eventually,
    otlp::{Collector, Span},
    process::Plexus,
    redis::Server,
};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
const PATH: &str = "/v1/topics/demo/messages";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

fn named<'a>(spans: &'a [Span], name: &str) -> Option<&'a Span> {
    spans.iter().find(|s| s.name == name)
}

async fn publish(client: &Http, text: &str, parent: &str) -> serde_json::Value {
    let headers = [("content-type", "text/plain"), ("traceparent", parent)];
    client.send(Method::POST, PATH, &headers, text.to_owned()).await.unwrap().ok().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_follows_a_publish_through_gateway_bus_and_node_to_the_reader() {
    plexus_tests::log();
    let (collector, redis) = (Collector::start().await, Server::start());
    let url = collector.url();
    let traces = [("PLEXUS__TELEMETRY__OTLP_ENDPOINT", url.as_str())];
    // So long that only the flush of a shutdown can have sent what arrives below in time.
    let late = [traces[0], ("PLEXUS__TELEMETRY__SEND_INTERVAL", "1h")];
    let worker = Plexus::worker_with(&redis.url(), "w1", &late).await;
    let gateway = Plexus::start("gateway", &redis.url(), &traces).await;
    let client = gateway.client();
    let mut reader = client.events(PATH, None).await.unwrap();
    reader.next("start").await.unwrap();

    let receipt = publish(&client, "traced", &format!("00-{TRACE}-{CLIENT}-01")).await;
    let unsampled =
        publish(&client, "kept to itself", "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").await;
    let event = reader.next("message").await.unwrap();
    let history = client.get(PATH).await.unwrap().ok().unwrap();

    assert_eq!(tokio::task::spawn_blocking(|| worker.terminate()).await.unwrap(), Some(0));
    let spans = eventually(PATIENCE, || async {
        let spans = collector.trace(TRACE);
        let whole =
            ["gateway.call", "bus.send", "node.command"].iter().all(|name| named(&spans, name).is_some());
        if whole { Ok(spans) } else { Err(spans) }
    })
    .await;
    let (call, send, command) = (
        named(&spans, "gateway.call").unwrap(),
        named(&spans, "bus.send").unwrap(),
        named(&spans, "node.command").unwrap(),
    );
    assert_eq!(call.parent, CLIENT, "the client's span is the parent");
    assert_eq!(send.parent, call.id);
    assert_eq!(command.parent, send.id);
    assert_eq!(
        [&*call.service, &*send.service, &*command.service],
        ["plexus-gateway", "plexus-gateway", "plexus-worker"]
    );
    assert!(command.resource["service.instance.id"].starts_with("w1."), "{command:?}");
    assert_eq!(command.resource["service.version"], env!("CARGO_PKG_VERSION"));

    // The log entry, the receipt and what the reader gets name the span that wrote it.
    let parent = format!("00-{TRACE}-{}-01", command.id);
    assert_eq!(event.data["traceparent"], parent.as_str());
    assert_eq!(receipt["traceparent"], parent.as_str());
    assert_eq!(history["messages"][0]["traceparent"], parent.as_str(), "{history}");

    // A caller that does not record is obeyed, and its trace goes on all the same.
    assert!(unsampled["traceparent"].as_str().unwrap().starts_with("00-1af7651916cd43dd8448eb211c80319c-"));
    assert!(unsampled["traceparent"].as_str().unwrap().ends_with("-00"), "{unsampled}");
    assert!(collector.trace("1af7651916cd43dd8448eb211c80319c").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_holds_nothing_up() {
    plexus_tests::log();
    let nobody = format!("http://127.0.0.1:{}", plexus_tests::redis::free_port());
    let settings =
        [("PLEXUS__TELEMETRY__OTLP_ENDPOINT", nobody.as_str()), ("PLEXUS__TELEMETRY__SEND_INTERVAL", "10ms")];
    let up = Plexus::start("up", "memory:", &settings).await;
    for n in 0..20 {
        publish(&up.client(), &format!("m{n}"), &format!("00-{TRACE}-{CLIENT}-01")).await;
    }
    assert_eq!(tokio::task::spawn_blocking(|| up.terminate()).await.unwrap(), Some(0));
}
