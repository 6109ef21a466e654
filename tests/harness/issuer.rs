//! An issuer of tokens: keys of its own, tokens as a test wants them, and an address that tells the keys or
//! misbehaves.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{net::TcpListener, task::JoinSet};

/// What `iss` and `aud` are.
pub const ISSUER: &str = "https://id.example";
/// See [`ISSUER`].
pub const AUDIENCE: &str = "plexus";

/// A key pair for ES256.
pub struct Key {
    /// How tokens name it.
    pub id: String,
    pair: rcgen::KeyPair,
}

/// What the address does.
#[derive(Clone, Debug)]
pub enum Mood {
    /// Tells this.
    Tells(Bytes),
    /// Answers with this status.
    Fails(StatusCode),
    /// Says nothing.
    Silent,
}

/// The address.
pub struct Issuer {
    /// Where it is.
    pub address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Key {
    /// Makes a key.
    pub fn new(id: &str) -> Self {
        Self { id: id.into(), pair: rcgen::KeyPair::generate().unwrap() }
    }

    /// Its public half as a JSON Web Key.
    pub fn jwk(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key_raw();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kid": self.id, "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
            "x": part(&point[1..33]), "y": part(&point[33..])})
    }

    /// Its public half in PEM.
    pub fn pem(&self) -> String {
        self.pair.public_key_pem()
    }

    /// The head of its tokens.
    pub fn head(&self) -> Header {
        Header { kid: Some(self.id.clone()), typ: Some("JWT".into()), ..Header::new(Algorithm::ES256) }
    }

    /// A token of these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&self.head(), claims)
    }

    /// The same with another head.
    pub fn sign(&self, head: &Header, claims: &Value) -> String {
        let key = EncodingKey::from_ec_der(self.pair.serialized_der());
        jsonwebtoken::encode(head, claims, &key).unwrap()
    }
}

/// A set of keys as an issuer tells it.
pub fn set(keys: &[&Key]) -> String {
    json!({"keys": keys.iter().map(|k| k.jwk()).collect::<Vec<_>>()}).to_string()
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Claims of a subject that may do everything in a namespace, for ten minutes.
pub fn claims(subject: &str, namespace: &str) -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "jti": format!("of-{subject}"),
        "iat": now(), "exp": now() + 600,
        "plexus": {"namespace": namespace, "grants": [{"verbs": ["*"], "resources": ["**"]}]},
    })
}

impl Issuer {
    /// Starts one that tells these keys.
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mood = Arc::new(Mutex::new(Mood::Tells(set(keys).into())));
        let asked = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, mood.clone(), asked.clone()));
        Self { address, mood, asked, _tasks: tasks }
    }

    /// Where its keys are.
    pub fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Changes what it does.
    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }
}

async fn serve(listener: TcpListener, mood: Arc<Mutex<Mood>>, asked: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        let (mood, asked) = (mood.clone(), asked.clone());
        let answer = service_fn(move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            let mood = mood.lock().unwrap().clone();
            async move {
                let (status, body) = match mood {
                    Mood::Tells(body) => (StatusCode::OK, body),
                    Mood::Fails(status) => (status, Bytes::new()),
                    Mood::Silent => {
                        tokio::time::sleep(Duration::from_secs(3600)).await;
                        (StatusCode::OK, Bytes::new())
                    }
                };
                let mut response = Response::new(Full::new(body));
                *response.status_mut() = status;
                if status.is_redirection() {
                    response.headers_mut().insert("location", "/elsewhere".parse().unwrap());
                }
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        connections.spawn(async move {
            let served =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer);
            let _ = served.await;
        });
    }
}
