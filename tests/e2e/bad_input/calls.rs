//! Requests that can be said in every dialect: the same error in each.

use super::{cell, expand, rows};
use crate::dialects::{Client, Dialect, rpc::Rpc};
use futures::{StreamExt, stream};
use plexus_tests::Cluster;
use serde_json::{Value, json};

/// Calls at once.
const CALLS: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_means_nothing_gets_the_same_error_in_every_dialect() {
    let cluster = Cluster::one().await;
    let http = cluster.client();
    http.post("/v1/nodes", &json!({"id": "taken"})).await.unwrap().ok().unwrap();
    http.post("/v1/topics/t/messages", &json!({"text": "x"})).await.unwrap().ok().unwrap();
    let cells = rows("calls").into_iter().flat_map(|row| {
        let [method, request, reason, field] = row[..] else { panic!("{row:?}") };
        let rpc = Rpc::named(method);
        let request = expand(serde_json::from_str(request).unwrap_or_else(|e| panic!("{row:?}: {e}")));
        let dialects = Dialect::ALL.into_iter().filter(|d| d.takes(&rpc) && can_say(*d, &rpc, &request));
        let cell = |dialect| (dialect, rpc.clone(), request.clone(), reason, cell(field));
        dialects.map(cell).collect::<Vec<_>>()
    });
    let cells: Vec<_> = cells.collect();
    let count = cells.len();
    let address = http.address;
    let wrong: Vec<String> = stream::iter(cells)
        .map(|(dialect, rpc, request, reason, field)| async move {
            let wanted = (reason.to_owned(), field.map(str::to_owned));
            let told = match Client::new(address, dialect).call(&rpc, &request, 1).await {
                Ok(answer) => (format!("answered {answer:?}"), None),
                Err(failure) => (failure.reason, failure.fields.first().cloned()),
            };
            let mut said = request.to_string();
            said.truncate(said.char_indices().nth(100).map_or(said.len(), |(at, _)| at));
            (told != wanted).then(|| format!("{} {dialect:?} {said}: {told:?}, not {wanted:?}", rpc.name))
        })
        .buffer_unordered(CALLS)
        .filter_map(|wrong| async { wrong })
        .collect()
        .await;
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 1000, "{count}");
}

/// Tells whether a request has a form in the dialect.
fn can_say(dialect: Dialect, rpc: &Rpc, request: &Value) -> bool {
    let fields = request.as_object().unwrap();
    match dialect {
        Dialect::Rest | Dialect::Sse | Dialect::Ndjson => {
            // A variable of a path has one character at least, and maps and numbers of enums have no place
            // in a query.
            let rule = rpc.rules.iter().find(|r| {
                let variables = r.template.split('{').skip(1).map(|v| v.split_once('}').unwrap().0);
                variables.clone().all(|v| fields.contains_key(v))
            });
            let Some(rule) = rule else { return false };
            let empty = |(name, value): (&String, &Value)| {
                value == "" && rule.template.contains(&format!("{{{name}}}"))
            };
            let map = ["positions", "state"].iter().any(|name| fields.contains_key(*name));
            !fields.iter().any(empty) && (rule.has_body || !map)
        }
        // A head holds 16 KiB.
        Dialect::ConnectGet => request.to_string().len() < 4 << 10,
        _ => true,
    }
}
