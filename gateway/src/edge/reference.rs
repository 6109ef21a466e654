//! What is there to read: the descriptions of the API for programs, and the page that shows them to
//! people. The page brings everything with it, so that it needs no network but this port.

use super::{asyncapi, desc::Registry, negotiate, openapi};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method as Verb, Response, StatusCode, header};
use sha2::{Digest, Sha256};
use std::io::Read;

/// What stands at the root.
const HELLO: &[u8] = br#"{"name":"plexus","docs":"/docs","openapi":"/openapi.json","asyncapi":"/asyncapi.json","api":"/v1","websocket":"/v1/ws"}"#;

const PAGE: &[u8] = include_bytes!("../../assets/docs.html");

/// RapiDoc 9.3.8 of npm, `dist/rapidoc-min.js`, by `gzip -9n`.
const RENDERER: &[u8] = include_bytes!("../../assets/rapidoc-min.js.gz");

/// The page runs its own script and speaks to its own host, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The documents, written once.
pub(crate) struct Reference([Document; 5]);

/// One document.
struct Document {
    path: &'static str,
    media: &'static str,
    body: Bytes,
    /// Whether `body` is compressed.
    gzip: bool,
    /// Marks what it says.
    tag: HeaderValue,
}

impl Reference {
    /// Describes everything that is served.
    pub(crate) fn new(registry: &Registry) -> Self {
        let json = |path, text: String| Document::new(path, "application/json", text.into(), false);
        Self([
            Document::new("/", "application/json", Bytes::from_static(HELLO), false),
            json("/openapi.json", openapi::document(registry).to_string()),
            json("/asyncapi.json", asyncapi::document(registry).to_string()),
            Document::new("/docs", "text/html; charset=utf-8", Bytes::from_static(PAGE), false),
            Document::new("/docs/rapidoc.js", "text/javascript", Bytes::from_static(RENDERER), true),
        ])
    }

    /// Tells whether a path is a document's.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.iter().any(|d| d.path == path)
    }

    /// Answers for the path of a document; `None`: it is none.
    pub(crate) fn answer(&self, verb: &Verb, path: &str, headers: &HeaderMap) -> Option<Answer> {
        let document = self.0.iter().find(|d| d.path == path)?;
        Some(match *verb {
            Verb::GET | Verb::HEAD => Answer::Found(document.answer(headers)),
            _ => Answer::Allow("GET, HEAD, OPTIONS"),
        })
    }
}

/// What a document's path says.
pub(crate) enum Answer {
    /// The document.
    Found(Response<Body>),
    /// Another verb is needed; those that there are.
    Allow(&'static str),
}

impl Document {
    fn new(path: &'static str, media: &'static str, body: Bytes, gzip: bool) -> Self {
        let digest = Sha256::digest(&body);
        let tag: String = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
        let tag = HeaderValue::try_from(format!("\"{tag}\"")).expect("hex is a header");
        Self { path, media, body, gzip, tag }
    }

    fn answer(&self, asked: &HeaderMap) -> Response<Body> {
        let known = asked.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
        let fresh =
            known.zip(self.tag.to_str().ok()).is_some_and(|(known, tag)| negotiate::names(known, tag));
        let mut response = Response::new(Body::empty());
        if fresh {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            *response.body_mut() = self.body(asked, response.headers_mut());
        }
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.tag.clone());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.path.starts_with("/docs") {
            headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
            headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        }
        response
    }

    fn body(&self, asked: &HeaderMap, headers: &mut HeaderMap) -> Body {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media));
        if !self.gzip {
            return Body::from(self.body.clone());
        }
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if negotiate::gzip(asked) {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            return Body::from(self.body.clone());
        }
        let mut plain = Vec::new();
        // It is our own file, so that it reads to its end.
        let _ = flate2::read::GzDecoder::new(&self.body[..]).read_to_end(&mut plain);
        Body::from(plain)
    }
}
