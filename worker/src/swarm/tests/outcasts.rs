//! Who is kept out.

use super::*;
use guard::Rule;

fn entry(text: &str) -> v1::BlockEntry {
    v1::BlockEntry { entry: text.to_owned(), ..Default::default() }
}

async fn pair() -> Vec<Peer> {
    let mut peers = vec![Peer::dev(v1::NodeSpec::default()), Peer::dev(v1::NodeSpec::default())];
    let addr = listen(&mut peers, 0, "/ip4/127.0.0.1/tcp/0").await;
    peers[1].swarm.dial(addr).unwrap();
    eventually(&mut peers, "connected", |peers| peers.iter().all(|p| p.swarm.connected_peers().count() == 1))
        .await;
    peers
}

#[tokio::test]
async fn a_block_ends_what_is_there_and_refuses_what_comes() {
    for range in [false, true] {
        let mut peers = pair().await;
        let (here, there) = (peers[0].id(), peers[1].id());
        let text = if range { "127.0.0.0/8".to_owned() } else { there.to_string() };
        peers[0].swarm.behaviour_mut().blocks.set(&[entry(&text)]).unwrap();
        eventually(&mut peers, "closed", |peers| {
            peers.iter().all(|p| p.swarm.connected_peers().count() == 0)
        })
        .await;
        assert_eq!(peers[0].swarm.behaviour().blocks.hits(), [(text.clone(), 0)]);

        let addr = peers[0].swarm.listeners().next().unwrap().clone();
        peers[1].swarm.dial(addr).unwrap();
        eventually(&mut peers, "refused", |peers| peers[0].swarm.behaviour().blocks.hits()[0].1 == 1).await;

        let back = listen(&mut peers, 1, "/ip4/127.0.0.1/tcp/0").await.with_p2p(there).unwrap();
        let dial = peers[0].swarm.dial(back);
        match (range, dial) {
            (false, Err(error)) => assert_eq!(Rule::of(&error), Some(Rule::Blocked)),
            (true, Ok(())) => {
                eventually(&mut peers, "refused", |peers| peers[0].rules() == [Rule::Blocked]).await;
            }
            (_, other) => panic!("{other:?}"),
        }
        assert_eq!(peers[0].swarm.behaviour().blocks.hits()[0].1, 2);

        peers[0].swarm.behaviour_mut().blocks.set(&[]).unwrap();
        let addr = peers[0].swarm.listeners().next().unwrap().clone();
        peers[1].swarm.dial(addr).unwrap();
        eventually(&mut peers, "let in again", |peers| peers[1].swarm.is_connected(&here)).await;
    }
}

#[tokio::test]
async fn an_entry_ends_by_itself_and_keeps_its_count_over_changes() {
    let list =
        blocks::List::new(&[entry("9.9.9.9"), v1::BlockEntry { hits: 7, ..entry("8.8.8.0/24") }]).unwrap();
    assert!(list.refuses(None, Some(&"9.9.9.9".parse().unwrap())));
    assert!(list.refuses(None, Some(&"::ffff:8.8.8.8".parse().unwrap())));
    assert!(!list.refuses(None, Some(&"9.9.9.8".parse().unwrap())));
    let past = prost_types::Timestamp { seconds: 1, nanos: 0 };
    let over = blocks::List::new(&[v1::BlockEntry { expires_at: Some(past), ..entry("9.9.9.9") }]).unwrap();
    assert!(!over.refuses(None, Some(&"9.9.9.9".parse().unwrap())));

    let mut peer = Peer::dev(v1::NodeSpec::default());
    let blocks = &mut peer.swarm.behaviour_mut().blocks;
    blocks.set(&[v1::BlockEntry { hits: 7, ..entry("8.8.8.0/24") }]).unwrap();
    blocks.set(&[entry("9.9.9.9"), entry("8.8.8.0/24")]).unwrap();
    assert_eq!(blocks.hits(), [("9.9.9.9".to_owned(), 0), ("8.8.8.0/24".to_owned(), 7)]);
    assert!(blocks.set(&[entry("nobody")]).is_err());
    assert_eq!(blocks.hits().len(), 2);
}
