//! An address -> a connected engine, and the wire that carries every request.
//!
//! Each request has its own connection: a build makes some dozen, they last from a millisecond to
//! hours, and a failure of one does not affect the others. Only the greeting has a time limit,
//! because a wait may last as long as a build.

use std::{error::Error as _, future::Future, io, pin::Pin, time::Duration};

use bollard::{BollardRequest, errors::Error as BollardError};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use serde::{Serialize, Serializer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::client::Docker;
use crate::{
    engine::{
        error::{EngineError, chain, plain, socket_address},
        version::ApiVersion,
    },
    spec::Endpoint,
    text::Escaped,
};

/// The oldest API version that has all requests that fastbuild uses (Docker 19.03, Podman 3).
const OLDEST: ApiVersion = ApiVersion { major: 1, minor: 40 };

/// The time limit of the greeting. Docker Desktop needs some seconds just after its start.
const GREETING: Duration = Duration::from_secs(30);

/// bollard ends a request whose answer does not begin in time. Uploads of large trees and waits for
/// long builds must not have such a limit, so it is set to 136 years.
const NO_TIMEOUT: u64 = u32::MAX as u64;

/// How many bytes are read of an answer that is not a greeting.
const MAX_GREETING: usize = 1 << 20;

/// The engine's description of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineFacts {
    /// The kind of engine, in its own words: `Docker`; `Libpod` is Podman.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The API version that is spoken with it: the newest one that both sides know.
    #[serde(serialize_with = "as_text")]
    pub api: ApiVersion,
    /// The operating system of its containers: `linux`, `windows`.
    #[serde(skip)]
    pub os: String,
}

fn as_text<S: Serializer>(version: &ApiVersion, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(version)
}

/// How to reach a program in a container that serves one client after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// By an attach to the main process, which responds at once.
    Attach,
    /// By an exec for each client: this engine closes the main input after the first attach.
    Exec,
}

impl EngineFacts {
    /// How clients of this engine connect one after the other.
    pub fn reach(&self) -> Reach {
        // Podman's conmon passes the end of an attach on to the process, even without `StdinOnce`.
        if self.name.eq_ignore_ascii_case("libpod") { Reach::Exec } else { Reach::Attach }
    }
}

/// The headers of the answer to a ping.
struct Greeting {
    api_version: String,
    server: String,
    os: String,
}

impl Docker {
    /// Connects, and agrees on the API's version, in one round trip.
    ///
    /// # Errors
    /// One kind for each reason that an engine cannot be reached; see [`EngineError::advice`].
    pub async fn connect(endpoint: &Endpoint) -> Result<Docker, EngineError> {
        let wire = Wire { endpoint: endpoint.clone(), api: None };
        let greeting = timeout(GREETING, greet(&wire))
            .await
            .map_err(|_| EngineError::NoAnswer { address: wire.address(), waited: GREETING })??;
        let found = ApiVersion::parse(&greeting.api_version).ok_or_else(|| EngineError::WrongApi {
            address: wire.address(),
            answer: format!("it names {:?} as its API version", plain(&greeting.api_version)),
        })?;
        if found < OLDEST {
            return Err(EngineError::ApiTooOld { address: wire.address(), found, needed: OLDEST });
        }
        let facts = greeting.into_facts(ApiVersion::agreed(found));
        let wire = Wire { api: Some(facts.api), ..wire };
        Ok(Docker { client: wire.client(facts.api)?, wire, facts })
    }
}

impl Greeting {
    /// `None` if the one header that every engine sends is missing.
    fn read(headers: &HeaderMap) -> Option<Greeting> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Some(Greeting {
            api_version: text("api-version")?,
            server: text("server").unwrap_or_default(),
            os: text("ostype").unwrap_or_default(),
        })
    }

    fn into_facts(self, api: ApiVersion) -> EngineFacts {
        // `Docker/20.10.24 (linux)`
        let product = self.server.split_whitespace().next().unwrap_or_default();
        let (name, version) = product.split_once('/').unwrap_or((product, ""));
        EngineFacts { name: name.to_owned(), version: version.to_owned(), api, os: self.os }
    }
}

/// A ping, not `GET /version`, for which engines ask their runtimes (several milliseconds).
async fn greet(wire: &Wire) -> Result<Greeting, EngineError> {
    let not_an_engine = |answer: String| EngineError::WrongApi { address: wire.address(), answer };
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = Uri::from_static("/_ping");
    let response = match wire.send(request).await {
        Ok(response) => response,
        Err(WireError::Dial(error)) => return Err(wire.not_reached(error)),
        Err(WireError::Http(error)) => {
            let broken = error.source().and_then(|source| source.downcast_ref::<io::Error>());
            return Err(match broken.map(io::Error::kind) {
                // The engine is shutting down.
                Some(kind @ (io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)) => {
                    wire.not_reached(DialError::Connect(kind.into()))
                }
                _ => not_an_engine(chain(&error)),
            });
        }
    };
    let status = response.status();
    if let Some(greeting) = Greeting::read(response.headers()).filter(|_| status.is_success()) {
        return Ok(greeting);
    }
    let body = Limited::new(response.into_body(), MAX_GREETING)
        .collect()
        .await
        .map_err(|error| not_an_engine(chain(error.as_ref())))?
        .to_bytes();
    let beginning = &body[..body.len().min(200)];
    Err(not_an_engine(format!("status {}, {:?}", status.as_u16(), Escaped(beginning).to_string())))
}

/// The way to an engine: makes connections and sends one request on each.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    endpoint: Endpoint,
    /// The prefix of each request's path; `None` until it is known.
    api: Option<ApiVersion>,
}

/// Why a request got no answer.
pub(super) enum WireError {
    /// No connection was made.
    Dial(DialError),
    /// The connection broke, or the answer was not HTTP.
    Http(hyper::Error),
}

/// Why there is no connection.
pub(super) enum DialError {
    /// The host's name cannot be resolved.
    Lookup(io::Error),
    /// The address does not accept connections.
    Connect(io::Error),
}

/// A connection of any transport.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Wire {
    /// Sends `request` on a new connection. Its URI may be absolute; only path and query are used.
    /// An answer of 101 can be upgraded.
    pub(super) async fn send<B>(&self, mut request: Request<B>) -> Result<Response<Incoming>, WireError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.address_request(&mut request);
        let stream = self.dial().await.map_err(WireError::Dial)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(WireError::Http)?;
        // The connection lives as long as its answer is read; its errors reach that reader too.
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(WireError::Http)
    }

    async fn dial(&self) -> Result<Box<dyn Duplex>, DialError> {
        match &self.endpoint {
            #[cfg(unix)]
            Endpoint::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await.map_err(DialError::Connect)?;
                Ok(Box::new(stream))
            }
            Endpoint::Tcp(address) => dial_tcp(address).await,
            #[cfg(windows)]
            Endpoint::NamedPipe(name) => dial_pipe(name).await,
            #[allow(unreachable_patterns, reason = "which ones are left depends on the operating system")]
            _ => Err(DialError::Connect(io::Error::new(
                io::ErrorKind::Unsupported,
                "this operating system has no such sockets",
            ))),
        }
    }

    /// Sets the parts that client libraries leave out: path without host, `Host`, API version.
    fn address_request<B>(&self, request: &mut Request<B>) {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        // bollard leaves the version out; an engine then answers as its newest version does.
        let versioned = self.api.map_or_else(|| path.to_owned(), |api| format!("/v{api}{path}"));
        if let Ok(uri) = versioned.parse() {
            *request.uri_mut() = uri;
        }
        let host = match &self.endpoint {
            Endpoint::Tcp(address) => HeaderValue::from_str(address).ok(),
            Endpoint::Unix(_) | Endpoint::NamedPipe(_) => None,
        };
        request.headers_mut().insert(header::HOST, host.unwrap_or(HeaderValue::from_static("localhost")));
        if let Some(auth) = request.headers_mut().get_mut("x-registry-auth") {
            *auth = url_safe(auth);
        }
    }

    /// A bollard client that uses this wire.
    fn client(&self, api: ApiVersion) -> Result<bollard::Docker, EngineError> {
        let wire = self.clone();
        let transport = move |request: BollardRequest| -> Pin<
            Box<dyn Future<Output = Result<Response<Incoming>, BollardError>> + Send>,
        > {
            let wire = wire.clone();
            Box::pin(async move {
                wire.send(request).await.map_err(|error| match error {
                    WireError::Dial(DialError::Lookup(err) | DialError::Connect(err)) => {
                        BollardError::IOError { err }
                    }
                    WireError::Http(err) => BollardError::HyperResponseError { err },
                })
            })
        };
        let version = bollard::ClientVersion { major_version: api.major, minor_version: api.minor };
        bollard::Docker::connect_with_custom_transport(
            transport,
            Some("http://localhost"),
            NO_TIMEOUT,
            &version,
        )
        .map_err(|error| EngineError::WrongApi { address: self.address(), answer: chain(&error) })
    }

    /// The address, as text for people.
    pub(super) fn address(&self) -> String {
        match &self.endpoint {
            Endpoint::Unix(path) => socket_address(path),
            Endpoint::Tcp(address) => format!("tcp://{}", Escaped(address.as_bytes())),
            Endpoint::NamedPipe(name) => format!("npipe://{}", Escaped(name.as_bytes())),
        }
    }

    fn not_reached(&self, error: DialError) -> EngineError {
        let address = self.address();
        let error = match error {
            DialError::Lookup(source) => return EngineError::HostNotFound { address, source },
            DialError::Connect(error) => error,
        };
        match error.kind() {
            io::ErrorKind::NotFound => EngineError::SocketMissing { address },
            io::ErrorKind::PermissionDenied => EngineError::PermissionDenied { address },
            io::ErrorKind::ConnectionRefused => EngineError::Refused { address },
            _ => EngineError::Unreachable { address, source: error },
        }
    }
}

async fn dial_tcp(address: &str) -> Result<Box<dyn Duplex>, DialError> {
    let addresses: Vec<_> = tokio::net::lookup_host(address).await.map_err(DialError::Lookup)?.collect();
    let stream = TcpStream::connect(&*addresses).await.map_err(DialError::Connect)?;
    // A keystroke must not wait for the acknowledgement of the one before it.
    stream.set_nodelay(true).map_err(DialError::Connect)?;
    Ok(Box::new(stream))
}

/// A pipe instance serves one client at a time; between two clients it is busy for a moment.
#[cfg(windows)]
async fn dial_pipe(name: &str) -> Result<Box<dyn Duplex>, DialError> {
    const PIPE_BUSY: i32 = 231;
    loop {
        match tokio::net::windows::named_pipe::ClientOptions::new().open(name) {
            Ok(pipe) => return Ok(Box::new(pipe)),
            // Windows does not notify when an instance is free (its own client library polls too).
            Err(error) if error.raw_os_error() == Some(PIPE_BUSY) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(DialError::Connect(error)),
        }
    }
}

/// Engines read credentials as URL-safe base64, but bollard writes plain base64. Without this, a
/// password with a `?`, `>` or `~` at certain positions would silently make the pull anonymous.
fn url_safe(value: &HeaderValue) -> HeaderValue {
    let bytes: Vec<u8> = value
        .as_bytes()
        .iter()
        .map(|&b| match b {
            b'+' => b'-',
            b'/' => b'_',
            b => b,
        })
        .collect();
    HeaderValue::from_bytes(&bytes).unwrap_or_else(|_| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::version::ApiVersion;

    #[test]
    fn versions_are_compared_as_numbers() {
        let version = |text| ApiVersion::parse(text).unwrap();
        assert!(version("1.9") < version("1.40"));
        assert!(version("2.0") > version("1.40"));
        assert_eq!(ApiVersion::parse("1.x"), None);
        assert_eq!(ApiVersion::parse("latest"), None);
        assert_eq!(ApiVersion::agreed(version("1.41")), version("1.41"));
        assert_eq!(ApiVersion::agreed(version("9.9")).to_string(), bollard::API_DEFAULT_VERSION.to_string());
    }

    #[test]
    fn an_engine_that_ends_the_input_with_the_attach_is_reached_by_exec() {
        let facts = |server: &str| {
            let headers = [("Api-Version", "1.41"), ("Server", server), ("OSType", "linux")];
            let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            Greeting::read(&HeaderMap::from_iter(headers)).unwrap().into_facts(OLDEST)
        };
        let docker = facts("Docker/20.10.24+dfsg1 (linux)");
        assert_eq!((docker.name.as_str(), docker.version.as_str()), ("Docker", "20.10.24+dfsg1"));
        assert_eq!(docker.reach(), Reach::Attach);
        assert_eq!(facts("Libpod/4.3.1 (linux)").reach(), Reach::Exec);
        assert_eq!(facts("").reach(), Reach::Attach);
    }

    #[test]
    fn requests_carry_version_host_and_url_safe_credentials() {
        let wire = Wire { endpoint: Endpoint::Tcp("h:1".to_owned()), api: ApiVersion::parse("1.41") };
        let mut request = Request::get("http://localhost/containers/json?all=true").body(()).unwrap();
        request.headers_mut().insert("x-registry-auth", HeaderValue::from_static("a+b/c="));
        wire.address_request(&mut request);
        assert_eq!(request.uri(), "/v1.41/containers/json?all=true");
        assert_eq!(request.headers()[header::HOST], "h:1");
        assert_eq!(request.headers()["x-registry-auth"], "a-b_c=");
    }

    #[test]
    fn each_way_of_not_being_reached_has_its_own_error() {
        let wire = Wire { endpoint: Endpoint::Unix("/run/engine.sock".into()), api: None };
        let cases = [
            (io::ErrorKind::NotFound, "no engine: unix:///run/engine.sock does not exist"),
            (io::ErrorKind::PermissionDenied, "no engine: permission denied on unix:///run/engine.sock"),
            (io::ErrorKind::ConnectionRefused, "no engine: unix:///run/engine.sock refused the connection"),
            (io::ErrorKind::NetworkUnreachable, "no engine: could not connect to unix:///run/engine.sock"),
        ];
        for (kind, expected) in cases {
            let error = wire.not_reached(DialError::Connect(kind.into()));
            assert_eq!(error.to_string(), expected);
            assert!(error.advice().is_some(), "{kind:?}");
        }
    }
}
