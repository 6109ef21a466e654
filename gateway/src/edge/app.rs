//! The front desk: every request is measured, its caller known, and then it goes to the dialect that its
//! path and content type name. A refusal is told in that dialect.

use super::{
    auth::{self, Auth},
    compress::{self, Compress},
    connect::Connect,
    crowd::Crowded,
    desc::Error,
    envelope::{Measured, Packing},
    flood::slow::Slow,
    guard,
    intake::{self, Refused},
    limits, native, problem,
    rate::Told,
    reference::{Answer, Reference},
    rest::{self, Rest},
    trunk::Trunk,
    websocket,
};
use crate::{error, frame::TakesFrames, metrics::Dialect};
use axum::body::Body;
use futures::future::BoxFuture;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, Response, StatusCode, Version, header,
};
use plexus_proto::v1;
use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};
use tonic::Code;
use tower::Service;
use tower_http::cors::{AllowHeaders, AllowOrigin, Cors, CorsLayer};

/// What a browser may read of an answer of another origin.
const EXPOSED: [&str; 13] = [
    "accept-encoding",
    "allow",
    "content-encoding",
    "etag",
    "grpc-message",
    "grpc-status",
    "grpc-status-details-bin",
    "location",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "traceparent",
    "www-authenticate",
];

/// Everything behind the port; cheap to clone.
#[derive(Clone)]
pub(crate) struct App {
    desk: Desk,
    /// The same behind the answers that browsers of listed origins need.
    cors: Arc<Cors<Desk>>,
}

/// An answer on its way.
type Answering = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Where requests go.
#[derive(Clone)]
struct Desk(Arc<Parts>);

struct Parts {
    trunk: Trunk,
    connect: Connect,
    rest: Rest,
    reference: Reference,
    compress: Compress,
    /// Whether sessions are echoes.
    echo: bool,
}

/// The kind of answer that a request's content type and path ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Face {
    /// Native gRPC with protobuf.
    Grpc,
    /// Everything else that calls a method by its path.
    Connect,
    /// The rest.
    Plain,
}

impl App {
    /// Puts the dialects in front of the trunk.
    pub(crate) fn new(trunk: Trunk, echo: bool) -> Result<Self, Error> {
        let reference = Reference::new(trunk.registry());
        let compress = Compress::new(trunk.limits().compressed_streams_max);
        let connect = Connect::new(trunk.clone());
        let rest = Rest::new(trunk.clone())?;
        let cors = cors(trunk.auth().clone());
        let desk = Desk(Arc::new(Parts { trunk, connect, rest, reference, compress, echo }));
        Ok(Self { cors: Arc::new(tower::Layer::layer(&cors, desk.clone())), desk })
    }
}

impl Desk {
    /// Sends a request on its way. What each way keeps while it waits is its own, so it is boxed here.
    fn receive(self, mut request: Request<Body>) -> Answering {
        let face = self.face(&request);
        if let Err(refusal) = framed(&request) {
            return Box::pin(async move { Ok(self.unframed(face, request, refusal).await) });
        }
        if let Err(refusal) = self.admit(face, &mut request) {
            return Box::pin(async move { Ok(self.turn_away(face, request, refusal).await) });
        }
        let request = self.timed(face, request);
        match face {
            Face::Grpc => Box::pin(async move { Ok(self.grpc(request).await) }),
            Face::Connect => Box::pin(async move { Ok(self.connect(request).await) }),
            Face::Plain => Box::pin(async move { Ok(self.plain(request).await) }),
        }
    }

    /// Refuses a head that can be read in two ways: nobody knows for certain where the next request begins.
    async fn unframed(&self, face: Face, request: Request<Body>, refusal: Box<v1::Error>) -> Response<Body> {
        self.0.trunk.metrics().refused.inc();
        let two = request.version() >= Version::HTTP_2;
        let mut response = self.refuse(face, request, refusal).await;
        if !two {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Refuses a request that may not come in, or too many of them.
    async fn turn_away(&self, face: Face, request: Request<Body>, refusal: Box<v1::Error>) -> Response<Body> {
        self.0.trunk.metrics().refused.inc();
        let limited = self.0.trunk.rates().attempt(request.extensions()).err();
        let (refusal, told) = match limited {
            Some(limited) => (Box::new(limited.error), limited.told.0),
            None => (refusal, HeaderMap::new()),
        };
        let challenge = auth::challenge(&refusal);
        let mut response = self.refuse(face, request, refusal).await;
        response.headers_mut().extend(told);
        if let Some(challenge) = challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }

    /// Holds a body to its time; a stream of requests may rest between them.
    fn timed(&self, face: Face, request: Request<Body>) -> Request<Body> {
        let streams = || {
            let method = self.0.trunk.registry().method(request.uri().path());
            face != Face::Plain && method.is_some_and(|m| !m.kind.takes_one())
        };
        if http_body::Body::is_end_stream(request.body()) || streams() {
            return request;
        }
        let timeout = self.0.trunk.limits().body_timeout;
        request.map(|body| Body::new(Slow::new(body, timeout)))
    }

    fn face(&self, request: &Request<Body>) -> Face {
        let kind = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let native = kind == b"application/grpc"
            || kind.starts_with(b"application/grpc;")
            || kind.starts_with(b"application/grpc+proto");
        let path = request.uri().path();
        let known = || {
            let service = path.get(1..).and_then(|p| p.split_once('/')).map_or("", |(service, _)| service);
            self.0.trunk.registry().has_service(service)
        };
        match () {
            () if native => Face::Grpc,
            () if kind.starts_with(b"application/grpc") || known() => Face::Connect,
            () => Face::Plain,
        }
    }

    /// Measures the head and notes the caller.
    fn admit(&self, face: Face, request: &mut Request<Body>) -> Result<(), Box<v1::Error>> {
        let (trunk, auth) = (&self.0.trunk, self.0.trunk.auth());
        limits::head(trunk.limits(), request.headers())?;
        // A session is told by itself.
        let session = face == Face::Plain && request.uri().path() == websocket::PATH;
        if let Some(crowded) = request.extensions().get::<Crowded>().filter(|_| !session) {
            return Err(crowded.error());
        }
        auth.origin(request.uri(), request.headers())?;
        match auth.caller(request.headers_mut())? {
            Some(caller) => drop(request.extensions_mut().insert(caller)),
            None if self.is_open(face, request.method(), request.uri().path()) => {}
            None => return Err(auth::missing()),
        }
        Ok(())
    }

    /// Tells whether a path is there for those without credentials too. A session shows its own.
    fn is_open(&self, face: Face, verb: &Verb, path: &str) -> bool {
        match face {
            Face::Grpc | Face::Connect => self.0.trunk.registry().method(path).is_some_and(|m| m.open),
            Face::Plain => {
                path == websocket::PATH || self.0.reference.has(path) || self.0.rest.is_open(verb, path)
            }
        }
    }

    async fn refuse(
        &self,
        face: Face,
        mut request: Request<Body>,
        refusal: Box<v1::Error>,
    ) -> Response<Body> {
        match face {
            Face::Grpc => error::status(&refusal).into_http(),
            Face::Connect => {
                request.extensions_mut().insert(Refused(error::status(&refusal)));
                self.connect(request).await
            }
            Face::Plain => {
                guard::patiently(request, |request| async move {
                    problem::response(self.0.trunk.registry(), request.headers(), &refusal)
                })
                .await
            }
        }
    }

    async fn grpc(&self, request: Request<Body>) -> Response<Body> {
        if request.method() != Verb::POST {
            let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        let trunk = &self.0.trunk;
        let Some(method) = trunk.registry().method(request.uri().path()).cloned() else {
            return trunk.registry().missing(request.uri().path()).into_http();
        };
        let asked = match limits::grpc_timeout(request.headers()) {
            Ok(asked) => asked,
            Err(refusal) => return method.refusal(&refusal).into_http(),
        };
        let packing = match Packing::read(request.headers(), HeaderName::from_static("grpc-encoding")) {
            Ok(packing) => packing,
            Err(refusal) => {
                let mut response = error::coded(&refusal, Code::Unimplemented, method.told).into_http();
                let takes = HeaderValue::from_static("gzip,identity");
                response.headers_mut().insert("grpc-accept-encoding", takes);
                return response;
            }
        };
        let limit = trunk.limits().message_bytes_max;
        guard::patiently(request, |request| async move {
            let request = request.map(|body| Body::new(Measured::new(body, limit, &method, packing.clone())));
            let mut request = match intake::unpacked(request, &method, &packing, limit).await {
                Ok(request) => request,
                Err(refusal) => return refusal.into_http(),
            };
            request.extensions_mut().insert(TakesFrames { ids: false });
            native::answer(Told::write(trunk.serve(Dialect::Grpc, Some(&method), asked, request).await))
        })
        .await
    }

    async fn connect(&self, request: Request<Body>) -> Response<Body> {
        guard::patiently(request, |request| self.0.connect.handle(request)).await
    }

    async fn plain(&self, request: Request<Body>) -> Response<Body> {
        let head = request.method() == Verb::HEAD;
        let packs = compress::takes(request.headers());
        let (verb, path) = (request.method(), request.uri().path());
        let response = match self.0.reference.answer(verb, path, request.headers()) {
            Some(Answer::Found(response)) => response,
            Some(Answer::Allow(verbs)) => {
                rest::allow(self.0.trunk.registry(), verb, request.headers(), verbs)
            }
            None if path == websocket::PATH => return websocket::open(&self.0.trunk, self.0.echo, request),
            None => self.0.rest.handle(request).await,
        };
        let response = self.0.compress.answer(packs, response).await;
        if head { bodiless(response) } else { response }
    }
}

/// Leaves the body of an answer to HEAD out, which only HTTP/1 does by itself, and says how long it is.
fn bodiless(mut response: Response<Body>) -> Response<Body> {
    if let Some(size) = http_body::Body::size_hint(response.body()).exact().filter(|size| *size > 0) {
        response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
    }
    response.map(|_| Body::empty())
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Browsers of other origins need leave for every header; who may come at all is [`Auth`]'s.
fn cors(auth: Auth) -> CorsLayer {
    let listed = AllowOrigin::predicate(move |origin: &HeaderValue, _: &http::request::Parts| {
        auth.names(origin.as_bytes())
    });
    CorsLayer::new()
        .allow_origin(listed)
        .allow_credentials(true)
        .allow_methods([Verb::GET, Verb::POST, Verb::PUT, Verb::PATCH, Verb::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED.map(http::HeaderName::from_static))
        .max_age(std::time::Duration::from_secs(7200))
}

impl Service<Request<Body>> for App {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let origin = request.headers().get(header::ORIGIN);
        if origin.is_some_and(|o| self.desk.0.trunk.auth().names(o.as_bytes())) {
            return Box::pin(Cors::clone(&self.cors).call(request));
        }
        self.desk.call(request)
    }
}

impl Service<Request<Body>> for Desk {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.clone().receive(request)
    }
}

/// Refuses a head that two readers could understand in two ways: hosts that differ or are missing, chunks in
/// words that hyper reads and others do not (RFC 9112, 3.2 and 6.1).
fn framed(request: &Request<Body>) -> Result<(), Box<v1::Error>> {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(Box::new(v1::Error::field("host", "exactly one")));
    }
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Box::new(v1::Error::field("transfer-encoding", "chunked, once, or none"))),
    }
}
