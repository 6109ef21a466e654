//! What an update changes of a spec: exactly the paths of its mask, else the fields that are given. Pure.

use crate::router::Failure;
use plexus_proto::v1::NodeSpec;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value,
};
use std::sync::LazyLock;

fn descriptor() -> MessageDescriptor {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(plexus_proto::DESCRIPTOR).expect("the build wrote this descriptor")
    });
    POOL.get_message_by_name("plexus.v1.NodeSpec").expect("the contract has this message")
}

/// Applies an update. Paths are `spec.kad`, or `kad`, in either spelling; `*` is all of it.
pub(super) fn update(old: &NodeSpec, given: &NodeSpec, paths: &[String]) -> Result<NodeSpec, Failure> {
    let mut spec = dynamic(old);
    let given = dynamic(given);
    if paths.is_empty() {
        merge(&mut spec, &given);
    }
    for path in paths {
        let words: Vec<&str> = path.split('.').collect();
        match words.strip_prefix(&["spec"]).unwrap_or(&words) {
            [] | ["*"] => spec = given.clone(),
            words => set(&mut spec, Some(&given), words, path)?,
        }
    }
    Ok(NodeSpec::decode(spec.encode_to_vec().as_slice()).expect("it was encoded by the same descriptor"))
}

fn dynamic(spec: &NodeSpec) -> DynamicMessage {
    DynamicMessage::decode(descriptor(), spec.encode_to_vec().as_slice())
        .expect("it was encoded by the same contract")
}

/// Takes over what is given; messages field by field, lists and maps whole.
fn merge(spec: &mut DynamicMessage, given: &DynamicMessage) {
    for (field, value) in given.fields() {
        match value {
            Value::Message(inner) if is_group(&field) && spec.has_field(&field) => {
                if let Value::Message(place) = spec.get_field_mut(&field) {
                    merge(place, inner);
                }
            }
            value => spec.set_field(&field, value.clone()),
        }
    }
}

/// Sets one path to what is given, or clears it.
fn set(
    spec: &mut DynamicMessage,
    given: Option<&DynamicMessage>,
    words: &[&str],
    path: &str,
) -> Result<(), Failure> {
    let unknown = || super::wrong("updateMask", format!("`{path}` is no path of a spec"));
    let Some((head, rest)) = words.split_first() else { return unknown() };
    let found =
        spec.descriptor().get_field_by_name(head).or_else(|| spec.descriptor().get_field_by_json_name(head));
    let Some(field) = found else { return unknown() };
    let value = given.filter(|given| given.has_field(&field)).map(|given| given.get_field(&field));
    if rest.is_empty() {
        match value {
            Some(value) => spec.set_field(&field, value.into_owned()),
            None => spec.clear_field(&field),
        }
        return Ok(());
    }
    if !is_group(&field) {
        return unknown();
    }
    let inner = value.as_ref().and_then(|value| value.as_message());
    if inner.is_none() && !spec.has_field(&field) {
        return set(&mut DynamicMessage::new(spec.descriptor()), None, &[head], path); // nothing to clear
    }
    match spec.get_field_mut(&field) {
        Value::Message(place) => set(place, inner, rest, path),
        _ => unknown(),
    }
}

/// A message of ours, not a time or a duration, and not a list or a map of them.
fn is_group(field: &FieldDescriptor) -> bool {
    let ours = |m: &MessageDescriptor| m.package_name() == "plexus.v1";
    !field.is_list() && !field.is_map() && matches!(field.kind(), Kind::Message(m) if ours(&m))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plexus_proto::{
        reason::Reason,
        v1::node_spec::{Kad, Protocols},
    };
    use std::collections::HashMap;

    fn old() -> NodeSpec {
        NodeSpec {
            labels: HashMap::from([("a".into(), "1".into())]),
            stopped: Some(true),
            bootstrap: vec!["/ip4/1.2.3.4/tcp/1".into()],
            kad: Some(Kad { mode: 2, replication: 5, ..Kad::default() }),
            agent_version: "old".into(),
            ..NodeSpec::default()
        }
    }

    #[test]
    fn without_a_mask_only_what_is_given_changes() {
        let given = NodeSpec {
            labels: HashMap::from([("b".into(), "2".into())]),
            kad: Some(Kad { mode: 3, ..Kad::default() }),
            protocols: Some(Protocols { ping: Some(false), ..Protocols::default() }),
            ..NodeSpec::default()
        };
        let new = update(&old(), &given, &[]).unwrap();
        assert_eq!(new.labels, given.labels, "maps are replaced whole");
        assert_eq!(new.kad, Some(Kad { mode: 3, replication: 5, ..Kad::default() }));
        assert_eq!(
            (new.protocols, new.bootstrap, new.stopped),
            (given.protocols, old().bootstrap, Some(true))
        );
    }

    #[test]
    fn with_a_mask_exactly_its_paths_change() {
        let given = NodeSpec { stopped: Some(false), agent_version: "new".into(), ..NodeSpec::default() };
        let paths = |p: &[&str]| p.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        let new = update(&old(), &given, &paths(&["spec.agentVersion", "labels", "spec.kad.mode"])).unwrap();
        assert_eq!((new.agent_version.as_str(), new.stopped), ("new", Some(true)));
        assert!(new.labels.is_empty(), "a path that is not given is cleared");
        assert_eq!(new.kad, Some(Kad { mode: 0, replication: 5, ..Kad::default() }));
        assert_eq!(update(&old(), &given, &paths(&["*"])).unwrap(), given);
        for bad in ["spec.nope", "kad.nope", "labels.a", "stopped.x", ""] {
            assert!(update(&old(), &given, &paths(&[bad])).unwrap_err().is(Reason::FieldInvalid), "{bad}");
        }
    }
}
