use super::*;
use crate::config;
use plexus_bus::Event;
use plexus_proto::{
    bus::SealedKey,
    v1::{PrivateKey, private_key::Form},
};

async fn maker() -> Maker {
    let bus = Bus::open(&plexus_bus::Config { strict: true, ..Default::default() }).await.unwrap();
    let keys = config::Keys { key: Some("07".repeat(32)), ..Default::default() };
    Maker { bus, seal: Arc::new(Seal::load(&keys).unwrap()) }
}

fn request(id: &str) -> CreateNodeRequest {
    CreateNodeRequest { id: id.into(), ..Default::default() }
}

fn labelled(id: &str, request_id: &str, value: &str) -> CreateNodeRequest {
    let labels = ["a", "b", "c", "d"].map(|key| (key.to_owned(), value.to_owned())).into();
    let spec = NodeSpec { labels, ..Default::default() };
    CreateNodeRequest { spec: Some(spec), request_id: request_id.into(), ..request(id) }
}

fn import(id: &str, key: &Keypair) -> CreateNodeRequest {
    let form = Some(Form::Protobuf(key.to_protobuf_encoding().unwrap().into()));
    CreateNodeRequest { key: Some(PrivateKey { form }), ..request(id) }
}

async fn create(maker: &Maker, request: &CreateNodeRequest) -> Result<Made, Refusal> {
    maker.create("ns", CallId::now_v7(), request).await
}

async fn refused(maker: &Maker, request: &CreateNodeRequest, reason: Reason) {
    match create(maker, request).await {
        Err(error) => assert!(error.is(reason), "{error:?}"),
        Ok(made) => panic!("made {:?}", made.node),
    }
}

async fn sealed(maker: &Maker, name: &NodeName) -> Keypair {
    let value = maker.bus.get(Key::Sealed(name.clone())).await.unwrap().unwrap();
    maker.seal.open(name, &SealedKey::from_bytes(value.data).unwrap()).unwrap()
}

#[tokio::test]
async fn a_repeat_answers_the_same_and_other_content_is_refused() {
    let maker = maker().await;
    let first = create(&maker, &labelled("n", "r1", "x")).await.unwrap();
    // Maps are written in another order each time; the content is the same.
    for _ in 0..8 {
        let again = create(&maker, &labelled("n", "r1", "x")).await.unwrap();
        assert!(again.repeated);
        assert_eq!(again.node, first.node);
    }
    refused(&maker, &labelled("n", "r1", "y"), Reason::RequestIdReused).await;
    refused(&maker, &labelled("m", "r1", "x"), Reason::RequestIdReused).await;
    refused(&maker, &labelled("n", "r2", "x"), Reason::NodeExists).await;
    refused(&maker, &request("n"), Reason::NodeExists).await;
}

#[tokio::test]
async fn an_identity_is_hosted_once() {
    let maker = maker().await;
    let key = Keypair::generate_secp256k1();
    let made = create(&maker, &import("n", &key)).await.unwrap();
    assert_eq!(made.node.peer_id, key.public().to_peer_id().to_string());
    refused(&maker, &import("m", &key), Reason::PeerIdInUse).await;
    assert!(maker.bus.owner(&NodeName::new("ns", "m").unwrap()).await.unwrap().is_none());
}

#[tokio::test]
async fn validation_alone_creates_nothing() {
    let maker = maker().await;
    let only = CreateNodeRequest { validate_only: true, ..request("n") };
    let made = create(&maker, &only).await.unwrap();
    assert_eq!((made.node.id.as_str(), made.node.revision), ("n", 0));
    assert!(maker.bus.owners().await.unwrap().is_empty());
    assert!(maker.bus.get(Key::Record(NodeName::new("ns", "n").unwrap())).await.unwrap().is_none());
    create(&maker, &request("n")).await.unwrap();
    refused(&maker, &only, Reason::NodeExists).await;
}

#[tokio::test]
async fn a_wrong_request_is_refused_before_anything_is_written() {
    let maker = maker().await;
    refused(&maker, &request("N"), Reason::FieldInvalid).await;
    refused(&maker, &CreateNodeRequest { request_id: "a\n".into(), ..request("n") }, Reason::FieldInvalid)
        .await;
    let off = NodeSpec { private_network: Some(Default::default()), ..Default::default() };
    refused(&maker, &CreateNodeRequest { spec: Some(off), ..request("n") }, Reason::FeatureOff).await;
    let key = PrivateKey { form: Some(Form::Pem("x".into())) };
    refused(&maker, &CreateNodeRequest { key: Some(key), ..request("n") }, Reason::BadKey).await;
    assert!(maker.bus.list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_creation_that_broke_off_is_written_over() {
    let maker = maker().await;
    let name = NodeName::new("ns", "n").unwrap();
    let lost = maker.seal.seal(&name, &Keypair::generate_ed25519()).unwrap();
    maker.put(Key::Sealed(name.clone()), lost.to_bytes()).await.unwrap();
    maker.put(Key::Record(name.clone()), NodeRecord::default().to_bytes()).await.unwrap();
    let made = create(&maker, &request("n")).await.unwrap();
    assert_eq!(sealed(&maker, &name).await.public().to_peer_id().to_string(), made.node.peer_id);
    let (record, revision) = maker.record(&name).await.unwrap().unwrap();
    assert_eq!(record.node.unwrap().peer_id, made.node.peer_id);
    assert_eq!(revision, made.node.revision);
}

#[tokio::test]
async fn of_many_at_once_one_makes_the_node_and_key_and_record_belong_together() {
    let maker = maker().await;
    let wanted = request("n");
    let results = futures::future::join_all((0..8).map(|_| create(&maker, &wanted))).await;
    let made: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert_eq!(made.len(), 1);
    assert!(
        results.iter().filter_map(|result| result.as_ref().err()).all(|error| error.is(Reason::NodeExists))
    );
    let key = sealed(&maker, &NodeName::new("ns", "n").unwrap()).await;
    assert_eq!(key.public().to_peer_id().to_string(), made[0].node.peer_id);
}

#[tokio::test]
async fn of_two_workers_one_answers_a_call_and_either_its_repeat() {
    let maker = maker().await;
    let mut replies = maker.bus.subscribe(Subject::Replies("g".into())).await.unwrap();
    let call = |attempt: u32| {
        Box::new(Call {
            method: METHOD.into(),
            payload: Payload::of(request("n")),
            node: None,
            namespace: "ns".into(),
            reply_to: "g".into(),
            deadline: None,
            caller: Default::default(),
            idempotency_key: String::new(),
            epoch_seen: 0,
            attempt,
            idempotent: false,
            credit: 0,
        })
    };
    let id = CallId::now_v7();
    let [a, b] = ["a.1", "b.1"].map(Incarnation::from);
    let (one, other) =
        tokio::join!(maker.clone().answer(a, id, call(0)), maker.clone().answer(b.clone(), id, call(0)));
    assert_eq!(usize::from(one.is_some()) + usize::from(other.is_some()), 1);
    assert_eq!(maker.clone().answer(b, id, call(1)).await, None);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let Some(Event::Frame(frame)) = replies.recv().await else { panic!() };
        let Body::Outcome(outcome) = frame.take::<Envelope>().unwrap().body else { panic!() };
        answers.push((outcome.from_window, outcome.result.unwrap().take::<Node>().unwrap()));
    }
    assert_eq!((answers[0].0, answers[1].0), (false, true));
    assert_eq!(answers[0].1, answers[1].1);
}
