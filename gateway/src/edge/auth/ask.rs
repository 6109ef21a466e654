//! What a call asks for, read from the descriptor: the verb is the method's name and whether it changes
//! anything, the resource is the path of its main HTTP rule, with the request's fields in the places of
//! the variables. Every topic, peer or other thing that a request names is a resource of its own.

use super::super::desc::Rule;
use crate::grant::{Part, Verb};
use bytes::{Buf, Bytes};
use percent_encoding::AsciiSet;
use plexus_proto::text;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_reflect::{Kind, MessageDescriptor, MethodDescriptor};

/// Where the paths of the contract begin.
const ROOT: &str = "v1";
/// What the field of number 1 names when it is left out, by the conventions of the contract.
const DEFAULT: &[u8] = b"default";
/// Bytes of a part that are compared with patterns; no name is that long.
const PART_BYTES_MAX: usize = 4096;
/// What would read as something else in a pattern.
const ESCAPED: &AsciiSet = &percent_encoding::CONTROLS.add(b'/').add(b'*').add(b'%').add(b' ');
/// Resources of one request at most; one that names more asks for all of them.
const RESOURCES_MAX: usize = 4096;

/// What calls of a method ask for.
#[derive(Debug)]
pub(crate) struct Asks {
    name: String,
    safe: bool,
    path: Vec<Piece>,
}

/// A part of a resource before the request is known.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Fixed(Vec<u8>),
    /// The text of a field, or of each entry of the list that goes with it.
    Field {
        one: u32,
        many: Option<u32>,
    },
    /// What no field tells.
    Every,
}

/// A request whose fields cannot be found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

impl Asks {
    /// Reads what a method says of itself.
    pub(crate) fn new(method: &MethodDescriptor, rules: &[Rule], safe: bool) -> Self {
        let input = method.input();
        let path = match rules.first() {
            Some(rule) => path(&rule.template, &input),
            // Without a path it is the service itself.
            None => vec![Piece::Fixed(method.parent_service().full_name().into())],
        };
        Self { name: method.name().into(), safe, path }
    }

    /// What is to be done.
    pub(crate) fn verb(&self) -> Verb<'_> {
        Verb { name: &self.name, safe: self.safe }
    }

    /// The resources that an encoded request names; `None` is a request that is not known yet.
    pub(crate) fn resources(&self, request: Option<&Bytes>) -> Result<Vec<Vec<Part>>, Unreadable> {
        let mut resources = vec![Vec::new()];
        for piece in &self.path {
            let parts = match (piece, request) {
                (Piece::Fixed(text), _) => vec![Part::Named(text.clone())],
                (Piece::Field { one, many }, Some(request)) => named(request.clone(), *one, *many)?,
                (Piece::Field { .. } | Piece::Every, _) => vec![Part::Every],
            };
            let too_many = parts.len() * resources.len() > RESOURCES_MAX;
            let parts = if too_many { vec![Part::Every] } else { parts };
            let longer = |resource: Vec<Part>| {
                let join = move |part: &Part| [&resource[..], std::slice::from_ref(part)].concat();
                parts.iter().map(join).collect::<Vec<_>>()
            };
            resources = resources.into_iter().flat_map(longer).collect();
        }
        Ok(resources)
    }
}

/// Reads a template: `/v1/things/{thing}:deed` is the thing, whatever the deed.
fn path(template: &str, input: &MessageDescriptor) -> Vec<Piece> {
    let pieces = template.split('/').filter(|piece| !piece.is_empty()).enumerate();
    let pieces = pieces.filter(|(i, piece)| *i > 0 || *piece != ROOT);
    pieces
        .map(|(_, piece)| match piece.strip_prefix('{') {
            Some(rest) => variable(rest.split(['}', '=']).next().unwrap_or_default(), input),
            None => Piece::Fixed(piece.split(':').next().unwrap_or_default().into()),
        })
        .collect()
}

fn variable(name: &str, input: &MessageDescriptor) -> Piece {
    let text = |name: &str| input.get_field_by_name(name).filter(|f| f.kind() == Kind::String && !f.is_map());
    let many = text(&format!("{name}s")).filter(|f| f.is_list()).map(|f| f.number());
    match text(name).filter(|f| !f.is_list()) {
        Some(one) => Piece::Field { one: one.number(), many },
        None => Piece::Every,
    }
}

/// The parts that a field and its list name. The last of a field counts, as for who decodes it.
fn named(mut request: Bytes, one: u32, many: Option<u32>) -> Result<Vec<Part>, Unreadable> {
    let (mut last, mut parts) = (Bytes::new(), Vec::new());
    while request.has_remaining() {
        let (number, wire) = decode_key(&mut request).map_err(|_| Unreadable)?;
        if number != one && Some(number) != many {
            skip_field(wire, number, &mut request, DecodeContext::default()).map_err(|_| Unreadable)?;
            continue;
        }
        let len = decode_varint(&mut request).map_err(|_| Unreadable)?;
        let len = usize::try_from(len).ok().filter(|len| *len <= request.remaining());
        let text = match (wire, len) {
            (WireType::LengthDelimited, Some(len)) => request.split_to(len),
            _ => return Err(Unreadable),
        };
        if number == one {
            last = text;
        } else if parts.len() < RESOURCES_MAX {
            parts.push(part(&text));
        } else {
            parts = vec![Part::Every];
        }
    }
    if !last.is_empty() {
        parts.push(part(&last));
    }
    if parts.is_empty() {
        parts.push(if one == 1 { Part::Named(DEFAULT.into()) } else { Part::Every });
    }
    Ok(parts)
}

/// A part in the one spelling that is compared, as names of any bytes have two.
fn part(text: &[u8]) -> Part {
    if text.is_empty() || text.len() > PART_BYTES_MAX {
        return Part::Every;
    }
    let spelled = std::str::from_utf8(text).ok().and_then(text::bytes_from_text);
    Part::Named(spelled.map_or_else(|| text.to_vec(), |bytes| bytes.to_vec()))
}

/// Spells a resource as patterns do, for who is refused.
pub(crate) fn spell(resource: &[Part]) -> String {
    let spell = |part: &Part| match part {
        Part::Every => "*".into(),
        Part::Named(name) => percent_encoding::percent_encode(name, ESCAPED).to_string(),
    };
    resource.iter().map(spell).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::super::super::desc::{Registry, tests::POOL};
    use super::*;
    use plexus_proto::v1;
    use prost::Message as _;

    fn registry() -> Registry {
        let services: Vec<String> = POOL.services().map(|s| s.full_name().to_owned()).collect();
        let services: Vec<&str> =
            services.iter().map(String::as_str).filter(|s| s.starts_with("plexus.v1.")).collect();
        Registry::new(&[plexus_proto::DESCRIPTOR], &services, &[]).unwrap()
    }

    fn asked(call: &str, request: &impl prost::Message) -> Vec<String> {
        let bytes = Bytes::from(request.encode_to_vec());
        let registry = registry();
        let asks = &registry.call(call).unwrap().asks;
        asks.resources(Some(&bytes)).unwrap().iter().map(|r| spell(r)).collect()
    }

    #[test]
    fn every_method_of_the_contract_says_what_it_asks_for() {
        for method in registry().methods() {
            let asks = &method.asks;
            assert!(!asks.path.contains(&Piece::Every), "{}: a variable is no field", method.path);
            assert!(matches!(asks.path.first(), Some(Piece::Fixed(_))), "{}", method.path);
            assert!(asks.resources(None).unwrap().len() == 1, "{}", method.path);
        }
    }

    #[test]
    fn a_request_names_its_resources_by_its_fields() {
        let publish = v1::PublishRequest { node: "a".into(), topic: "t".into(), ..Default::default() };
        assert_eq!(asked("TopicService.Publish", &publish), ["nodes/a/topics/t/messages"]);
        let publish = v1::PublishRequest { topic: "/a*%".into(), ..Default::default() };
        assert_eq!(asked("TopicService.Publish", &publish), ["nodes/default/topics/%2Fa%2A%25/messages"]);
        let several = v1::SubscribeRequest {
            topic: "a".into(),
            topics: vec!["b".into(), "".into()],
            ..Default::default()
        };
        assert_eq!(
            asked("TopicService.Subscribe", &several),
            [
                "nodes/default/topics/b/messages",
                "nodes/default/topics/*/messages",
                "nodes/default/topics/a/messages"
            ]
        );
        let resumed = v1::SubscribeRequest { resume: "token".into(), ..Default::default() };
        assert_eq!(asked("TopicService.Subscribe", &resumed), ["nodes/default/topics/*/messages"]);
        let start = v1::StartNodeRequest { node: "a".into(), ..Default::default() };
        assert_eq!(asked("NodeService.StartNode", &start), ["nodes/a"]);
        assert_eq!(asked("NodeService.ListNodes", &v1::ListNodesRequest::default()), ["nodes"]);
    }

    #[test]
    fn both_spellings_of_a_topic_are_one_resource() {
        let request = |topic: &str| v1::GetTopicRequest { topic: topic.into(), ..Default::default() };
        assert_eq!(asked("TopicService.GetTopic", &request("~ZGVtbw")), ["nodes/default/topics/demo"]);
        assert_eq!(asked("TopicService.GetTopic", &request("demo")), ["nodes/default/topics/demo"]);
    }

    #[test]
    fn the_last_of_a_field_counts_as_it_does_for_the_service() {
        let one = v1::GetTopicRequest { topic: "a".into(), ..Default::default() }.encode_to_vec();
        let two = v1::GetTopicRequest { topic: "b".into(), ..Default::default() }.encode_to_vec();
        let both = Bytes::from([one, two].concat());
        assert_eq!(v1::GetTopicRequest::decode(both.clone()).unwrap().topic, "b");
        let registry = registry();
        let resources = registry.call("TopicService.GetTopic").unwrap().asks.resources(Some(&both)).unwrap();
        assert_eq!(spell(&resources[0]), "nodes/default/topics/b");
    }

    #[test]
    fn what_cannot_be_read_names_nothing() {
        let registry = registry();
        let asks = &registry.call("TopicService.GetTopic").unwrap().asks;
        for bad in [&[0x12, 5, b'a'][..], &[0x10, 1], &[0x12], &[0xff]] {
            assert_eq!(asks.resources(Some(&Bytes::copy_from_slice(bad))), Err(Unreadable), "{bad:?}");
        }
    }
}
