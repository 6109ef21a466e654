//! What is served, read from the descriptor: methods, their kinds and their HTTP rules. Every dialect
//! finds its methods here, so none of them knows the name of any.

use super::{auth::ask::Asks, convention::CURSORS};
use crate::{error, metrics::Each};
use plexus_proto::{reason::Reason, v1};
use prometheus_client::metrics::counter::Counter;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, MessageDescriptor, MethodDescriptor, Value,
};
use prost_types::method_options::IdempotencyLevel;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tonic::Status;

/// How many messages go each way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// One and one.
    Unary,
    /// One request, many answers.
    ServerStream,
    /// Many requests, one answer.
    ClientStream,
    /// Many and many.
    Bidi,
}

impl Kind {
    /// Tells whether a call takes exactly one request.
    pub(crate) fn takes_one(self) -> bool {
        matches!(self, Self::Unary | Self::ServerStream)
    }

    /// Tells whether a call may have many answers.
    pub(crate) fn streams(self) -> bool {
        matches!(self, Self::ServerStream | Self::Bidi)
    }
}

/// One rpc.
#[derive(Debug)]
pub(crate) struct Method {
    /// Its path, `/package.Service/Method`.
    pub(crate) path: String,
    /// The same, as a call in memory has it.
    pub(crate) uri: http::Uri,
    /// Its descriptor, with comments and options.
    pub(crate) desc: MethodDescriptor,
    /// Its request.
    pub(crate) input: MessageDescriptor,
    /// Its answer.
    pub(crate) output: MessageDescriptor,
    /// How many messages go each way.
    pub(crate) kind: Kind,
    /// Whether it changes nothing and may be a Connect GET.
    pub(crate) safe: bool,
    /// Whether it is one of the contract: only then refusals tell their reason, which is the contract's word.
    pub(crate) told: bool,
    /// Whether an answer is exactly one field of a oneof: that field then names the event.
    pub(crate) tagged: bool,
    /// Whether it streams from a place that its request can name: one that ends can go on.
    pub(crate) resumes: bool,
    /// Whether everybody may call it, as it tells only what is served and how it is.
    pub(crate) open: bool,
    /// What its calls ask for.
    pub(crate) asks: Asks,
    /// Its HTTP rules, the main one first.
    pub(crate) rules: Vec<Rule>,
    /// Counts calls that went well.
    pub(crate) well: Each<Counter>,
}

/// One `google.api.http` binding.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// The HTTP method; `None` is any.
    pub(crate) verb: Option<http::Method>,
    /// The path template.
    pub(crate) template: String,
    /// The field that the body is, `*` for the request itself, empty for none.
    pub(crate) body: String,
}

/// Everything that is served.
#[derive(Debug)]
pub(crate) struct Registry {
    error: MessageDescriptor,
    methods: Vec<Arc<Method>>,
    by_path: HashMap<String, Arc<Method>>,
    by_call: HashMap<String, Arc<Method>>,
    services: HashSet<String>,
}

/// A descriptor that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptor set cannot be read.
    #[error("the descriptor set cannot be read: {0}")]
    Descriptor(#[from] prost_reflect::DescriptorError),
    /// A service or message that is needed is not in it.
    #[error("the descriptor set has no {0}")]
    Missing(String),
    /// An HTTP rule cannot be read.
    #[error("{method}: cannot read the template {template:?}")]
    Template {
        /// Whose rule it is.
        method: String,
        /// The rule's template.
        template: String,
    },
    /// Two rules take the same requests.
    #[error("{template:?} is taken by {first} and {second}")]
    Conflict {
        /// The template of both.
        template: String,
        /// Who had it first.
        first: String,
        /// Who wants it too.
        second: String,
    },
}

impl Registry {
    /// Reads encoded `FileDescriptorSet`s and keeps the methods of the `services` that are served. Those at
    /// the paths of `open` are there for everybody.
    pub(crate) fn new(sets: &[&[u8]], services: &[&str], open: &[&str]) -> Result<Self, Error> {
        let mut pool = DescriptorPool::new();
        for set in sets {
            pool.decode_file_descriptor_set(*set)?;
        }
        let http = pool.get_extension_by_name("google.api.http");
        let missing = |name: &str| Error::Missing(name.into());
        let error = pool.get_message_by_name("plexus.v1.Error").ok_or_else(|| missing("plexus.v1.Error"))?;
        let mut methods = Vec::new();
        for name in services {
            let service = pool.get_service_by_name(name).ok_or_else(|| missing(name))?;
            let told = service.package_name() == error.package_name();
            let read = |m| method(m, told, http.as_ref());
            methods.extend(service.methods().map(|m| {
                let mut method = read(m);
                method.open |= open.contains(&&*method.path);
                Arc::new(method)
            }));
        }
        let by_path = methods.iter().map(|m| (m.path.clone(), m.clone())).collect();
        let by_call = methods.iter().flat_map(|m| m.calls().map(|c| (c, m.clone()))).collect();
        let services = services.iter().map(|s| (*s).to_owned()).collect();
        Ok(Self { error, methods, by_path, by_call, services })
    }

    /// Lists the methods.
    pub(crate) fn methods(&self) -> &[Arc<Method>] {
        &self.methods
    }

    /// Finds a method by its path, `/package.Service/Method`.
    pub(crate) fn method(&self, path: &str) -> Option<&Arc<Method>> {
        self.by_path.get(path)
    }

    /// Tells whether a service of this name is served.
    pub(crate) fn has_service(&self, name: &str) -> bool {
        self.services.contains(name)
    }

    /// Finds a method as a session calls it: `Service.Method`, or with the package in front.
    pub(crate) fn call(&self, name: &str) -> Option<&Arc<Method>> {
        self.by_call.get(name)
    }

    /// Makes the status of a call that found no method.
    pub(crate) fn missing(&self, path: &str) -> Status {
        let error = v1::Error::new(Reason::MethodNotFound, format!("no method {path:?}"));
        error::refusal(&error, self.tells(path))
    }

    /// Tells whether a path is one of the contract, if only there were such a method.
    pub(crate) fn tells(&self, path: &str) -> bool {
        let rest = path.strip_prefix('/').and_then(|p| p.strip_prefix(self.error.package_name()));
        rest.is_some_and(|rest| rest.starts_with('.'))
    }

    /// Describes the error that every dialect writes.
    pub(crate) fn error(&self) -> &MessageDescriptor {
        &self.error
    }
}

impl Method {
    /// Its full name, `package.Service/Method`.
    pub(crate) fn name(&self) -> &str {
        &self.path[1..]
    }

    /// The full name of its service.
    pub(crate) fn service(&self) -> &str {
        self.name().split_once('/').map_or("", |(service, _)| service)
    }

    /// Makes the status of a refusal of the edge.
    pub(crate) fn refusal(&self, error: &v1::Error) -> Status {
        error::refusal(error, self.told)
    }

    /// The names a session may call it by.
    fn calls(&self) -> impl Iterator<Item = String> + use<> {
        let service = self.desc.parent_service();
        let method = self.desc.name();
        [format!("{}.{method}", service.name()), format!("{}.{method}", service.full_name())].into_iter()
    }
}

fn method(desc: MethodDescriptor, told: bool, http: Option<&ExtensionDescriptor>) -> Method {
    let options = desc.method_descriptor_proto().options.as_ref();
    let safe = options.is_some_and(|o| o.idempotency_level() == IdempotencyLevel::NoSideEffects);
    let rules = http.map(|e| rules(&desc.options(), e)).unwrap_or_default();
    let path = format!("/{}/{}", desc.parent_service().full_name(), desc.name());
    Method {
        uri: path.parse().expect("names make a path"),
        path,
        input: desc.input(),
        output: desc.output(),
        kind: match (desc.is_client_streaming(), desc.is_server_streaming()) {
            (false, false) => Kind::Unary,
            (false, true) => Kind::ServerStream,
            (true, false) => Kind::ClientStream,
            (true, true) => Kind::Bidi,
        },
        safe,
        told,
        tagged: tagged(&desc.output()),
        resumes: desc.is_server_streaming()
            && !desc.is_client_streaming()
            && desc.input().get_field_by_name(CURSORS[0]).is_some(),
        open: super::is_open(desc.parent_service().full_name()),
        asks: Asks::new(&desc, &rules, safe),
        rules,
        desc,
        well: Each::default(),
    }
}

/// Tells whether the message is one oneof and nothing else.
fn tagged(message: &MessageDescriptor) -> bool {
    let mut oneofs = message.oneofs().filter(|o| !o.is_synthetic());
    match (oneofs.next(), oneofs.next()) {
        (Some(only), None) => only.fields().len() == message.fields().len(),
        _ => false,
    }
}

fn rules(options: &DynamicMessage, http: &ExtensionDescriptor) -> Vec<Rule> {
    let mut found = Vec::new();
    let value = options.get_extension(http);
    if let (true, Some(main)) = (options.has_extension(http), value.as_message()) {
        found.extend(rule(main));
        let more = main.get_field_by_name("additional_bindings");
        let more = more.as_deref().and_then(Value::as_list).unwrap_or_default();
        found.extend(more.iter().filter_map(Value::as_message).filter_map(rule));
    }
    found
}

fn rule(message: &DynamicMessage) -> Option<Rule> {
    let text = |message: &DynamicMessage, field: &str| {
        message.get_field_by_name(field).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let body = text(message, "body");
    for verb in
        [http::Method::GET, http::Method::PUT, http::Method::POST, http::Method::DELETE, http::Method::PATCH]
    {
        let field = verb.as_str().to_ascii_lowercase();
        if message.has_field_by_name(&field) {
            return Some(Rule { template: text(message, &field), verb: Some(verb), body });
        }
    }
    let custom = message.get_field_by_name("custom").filter(|_| message.has_field_by_name("custom"))?;
    let custom = custom.as_message()?;
    let kind = text(custom, "kind");
    let verb = if kind == "*" { None } else { Some(kind.parse().ok()?) };
    Some(Rule { verb, template: text(custom, "path"), body })
}

/// Encodes any generated message as the same message by descriptor.
pub(crate) fn reflect(desc: &MessageDescriptor, message: &impl prost::Message) -> DynamicMessage {
    DynamicMessage::decode(desc.clone(), message.encode_to_vec().as_slice())
        .unwrap_or_else(|_| DynamicMessage::new(desc.clone()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, path::Path, sync::LazyLock};

    /// The contract, read once.
    pub(crate) static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(plexus_proto::DESCRIPTOR).unwrap());

    /// Fields that every method may have, by the conventions of the contract.
    const CONVENTIONS: [&str; 10] = [
        "after",
        "data",
        "etag",
        "heartbeat",
        "if_revision",
        "page_size",
        "request_id",
        "resume",
        "revision",
        "traceparent",
    ];
    /// Words of problems, OpenAPI and AsyncAPI, and the fact that goes with a limit.
    const FORMATS: [&str; 8] =
        ["address", "description", "limit", "messages", "status", "summary", "tags", "version"];
    /// Messages that are words of the edge itself.
    const OWN: [&str; 2] = ["plexus.v1.Error", "plexus.v1.SessionFrame"];
    /// A dialect that a method shares its name with.
    const DIALECT: &str = "Connect";
    /// A beat of sessions and sockets that a method shares its name with.
    const BEAT: &str = "Ping";

    /// The words of a file outside its comments and tests: names in code, and whole texts in quotes.
    fn words(text: &str) -> BTreeSet<String> {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().filter(|l| !l.trim_start().starts_with("//"));
        let mut words = BTreeSet::new();
        for line in lines {
            words.extend(line.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned));
            words.extend(line.split('"').skip(1).step_by(2).map(|quoted| format!("{quoted:?}")));
        }
        words
    }

    #[test]
    fn the_edge_names_no_capability() {
        let mut known = BTreeSet::new();
        for service in POOL.services().filter(|s| s.package_name() == "plexus.v1") {
            known.insert(service.name().to_owned());
            for method in service.methods() {
                known.insert(method.name().to_owned());
                for field in method.input().fields().chain(method.output().fields()) {
                    known.insert(format!("{:?}", field.name()));
                    known.insert(format!("{:?}", field.json_name()));
                }
            }
        }
        for field in
            OWN.iter().flat_map(|name| POOL.get_message_by_name(name).unwrap().fields().collect::<Vec<_>>())
        {
            known.remove(&format!("{:?}", field.name()));
            known.remove(&format!("{:?}", field.json_name()));
        }
        let spared = CONVENTIONS.iter().chain(&FORMATS).map(|word| format!("{word:?}")).collect::<Vec<_>>();
        known.retain(|word| word != DIALECT && word != BEAT && !spared.contains(word));
        assert!(known.contains("\"topic\"") && known.contains("Subscribe"));
        let mut named = Vec::new();
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/edge")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let words = words(&fs::read_to_string(&path).unwrap());
                named.extend(words.intersection(&known).map(|w| format!("{}: {w}", path.display())));
            }
        }
        assert!(named.is_empty(), "{named:#?}");
    }

    #[test]
    fn an_event_is_tagged_only_if_its_oneof_is_all_there_is() {
        let is = |name: &str| tagged(&POOL.get_message_by_name(name).unwrap());
        assert!(is("plexus.v1.SubscriptionEvent"));
        assert!(!is("plexus.v1.Message"));
        assert!(!is("plexus.v1.Receipt"));
    }
}
