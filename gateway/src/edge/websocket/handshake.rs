//! The upgrade to a WebSocket, over HTTP/1.1 (RFC 6455 §4.2) and HTTP/2 (RFC 8441). Origins were
//! checked before, as on every dialect.

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Subprotocols in our order of preference when both are offered.
const PROTOCOLS: [&str; 2] = [super::form::JSON, super::form::PROTO];

/// Why a handshake is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// Not a WebSocket handshake, or one without its key.
    Malformed,
    /// Another version than 13.
    Version,
    /// Offers subprotocols, but none that is spoken here.
    Protocol,
}

impl Refusal {
    /// Says it; 426 names the version that is spoken.
    pub(super) fn response(self) -> Response<Body> {
        let (status, text) = match self {
            Self::Malformed => (StatusCode::BAD_REQUEST, "this path takes WebSocket handshakes"),
            Self::Version => (StatusCode::UPGRADE_REQUIRED, "this path speaks WebSocket version 13"),
            Self::Protocol => {
                (StatusCode::BAD_REQUEST, "the subprotocols are plexus.v1.json and plexus.v1.proto")
            }
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if self == Self::Version {
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        response
    }
}

/// Answers a handshake: the response, the subprotocol, and the connection to come.
pub(super) fn accept(
    request: &mut Request<Body>,
) -> Result<(Response<Body>, Option<&'static str>, OnUpgrade), Refusal> {
    let headers = request.headers();
    let mut response = Response::new(Body::empty());
    if request.version() == Version::HTTP_2 {
        let protocol = request.extensions().get::<hyper::ext::Protocol>();
        if request.method() != Method::CONNECT || protocol.is_none_or(|p| p.as_str() != "websocket") {
            return Err(Refusal::Malformed);
        }
    } else {
        let asks =
            has(headers, &header::CONNECTION, "upgrade") && has(headers, &header::UPGRADE, "websocket");
        let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| asks && request.method() == Method::GET);
        let key = key.ok_or(Refusal::Malformed)?;
        let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).expect("base64 is ASCII");
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let answer = response.headers_mut();
        answer.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
        return Err(Refusal::Version);
    }
    let protocol = protocol(headers)?;
    if let Some(protocol) = protocol {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok((response, protocol, hyper::upgrade::on(request)))
}

/// The first of the client's offers that is spoken here; none offered is fine.
fn protocol(headers: &HeaderMap) -> Result<Option<&'static str>, Refusal> {
    let mut offers = tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).peekable();
    if offers.peek().is_none() {
        return Ok(None);
    }
    offers.find_map(|o| PROTOCOLS.into_iter().find(|p| *p == o)).map(Some).ok_or(Refusal::Protocol)
}

fn has(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|t| t.eq_ignore_ascii_case(token))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&'static str, &'static str)]) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request
    }

    const FULL: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];

    #[test]
    fn the_example_of_the_rfc_is_answered_as_there() {
        let (response, protocol, _) = accept(&mut request(&FULL)).unwrap();
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(protocol, None);
    }

    #[test]
    fn the_clients_order_of_subprotocols_decides() {
        let mut offers = FULL.to_vec();
        offers.push(("sec-websocket-protocol", "other, plexus.v1.proto, plexus.v1.json"));
        assert_eq!(accept(&mut request(&offers)).unwrap().1, Some("plexus.v1.proto"));
        let mut none = FULL.to_vec();
        none.push(("sec-websocket-protocol", "other"));
        assert_eq!(accept(&mut request(&none)).err(), Some(Refusal::Protocol));
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        for missing in 0..3 {
            let mut headers = FULL.to_vec();
            headers.remove(missing);
            assert_eq!(accept(&mut request(&headers)).err(), Some(Refusal::Malformed), "{missing}");
        }
        assert_eq!(accept(&mut request(&FULL[..3])).err(), Some(Refusal::Version));
        assert_eq!(Refusal::Version.response().status(), 426);
    }
}
