//! The near end against a simulated far end; `tests/workspace_engine.rs` uses the real one.

use std::io::Read as _;

use futures_util::stream;
use tokio::io::{DuplexStream, ReadHalf, WriteHalf};

use crate::agent::{client::*, protocol::Status};

/// The other end of the pipe, held by a test.
struct Far {
    from: ReadHalf<DuplexStream>,
    to: WriteHalf<DuplexStream>,
    decoder: Decoder,
    session: u32,
}

impl Far {
    async fn hear(&mut self) -> Received {
        loop {
            if let Some(received) = self.decoder.next_received().unwrap() {
                return received;
            }
            let mut bytes = [0; 4096];
            let n = self.from.read(&mut bytes).await.unwrap();
            assert!(n > 0, "the near end has hung up");
            self.decoder.push(&bytes[..n]);
        }
    }

    async fn request(&mut self) -> Request {
        loop {
            let Received::Message(message) = self.hear().await else { panic!("no message") };
            match protocol::decode(&message).unwrap() {
                Request::Heartbeat => {}
                request => return request,
            }
        }
    }

    async fn hello(&mut self) -> Nonce {
        let Received::Hello { nonce, .. } = self.hear().await else { panic!("no Hello") };
        nonce
    }

    async fn welcome(&mut self, nonce: &Nonce, protocol: u32) {
        self.session = frame::session_of(nonce);
        let mut out = Vec::new();
        let welcome = Welcome { protocol, version: "9".to_owned(), clock: Timestamp::default() };
        frame::push_welcome(&mut out, nonce, &protocol::encode(&welcome));
        self.to.write_all(&out).await.unwrap();
    }

    async fn reply(&mut self, reply: &Reply) {
        let mut out = Vec::new();
        frame::push_message(&mut out, self.session, &protocol::encode(reply));
        self.to.write_all(&out).await.unwrap();
    }

    async fn push(&mut self, kind: Kind, payload: &[u8]) {
        let mut out = Vec::new();
        frame::push_frame(&mut out, self.session, kind, payload);
        self.to.write_all(&out).await.unwrap();
    }
}

fn pair(buffer: usize) -> (Duplex, Far) {
    let (near, far) = tokio::io::duplex(buffer);
    let (output, input) = tokio::io::split(near);
    let (from, to) = tokio::io::split(far);
    (Duplex::plain(input, output), Far { from, to, decoder: Decoder::new(End::Far), session: 0 })
}

async fn open(buffer: usize) -> (Session, Far) {
    let (duplex, mut far) = pair(buffer);
    let settings = Settings::default();
    let opening = Session::open(duplex, &settings, &[]);
    let welcoming = async {
        let nonce = far.hello().await;
        far.welcome(&nonce, PROTOCOL).await;
    };
    let (session, ()) = tokio::join!(opening, welcoming);
    (session.unwrap(), far)
}

fn exited(reply: Reply) -> Result<Status, Reply> {
    match reply {
        Reply::Exited { status, .. } => Ok(status),
        other => Err(other),
    }
}

const EXITED: Reply = Reply::Exited { status: Status::Code(3), oom_kills: 0 };

#[tokio::test]
async fn what_was_meant_for_a_dead_client_is_passed_over() {
    let (duplex, mut far) = pair(1 << 20);
    let settings = Settings::default();
    let opening = Session::open(duplex, &settings, &[]);
    let answering = async {
        far.push(Kind::Stdout, b"half of somebody's output").await;
        far.welcome(&[7; NONCE], PROTOCOL).await;
        far.reply(&Reply::Started).await;
        far.to.write_all(&frame::MAGIC[..9]).await.unwrap();
        let nonce = far.hello().await;
        far.welcome(&nonce, PROTOCOL).await;
        far.reply(&EXITED).await;
    };
    let (session, ()) = tokio::join!(opening, answering);
    assert_eq!(session.unwrap().reply("the end", exited).await.unwrap(), Status::Code(3));
}

#[tokio::test]
async fn requests_behind_the_greeting_need_no_round_trip_of_their_own() {
    let (duplex, mut far) = pair(1 << 20);
    let settings = Settings::default();
    let opening = Session::open(duplex, &settings, &[Request::StdinEnd]);
    let answering = async {
        let nonce = far.hello().await;
        let first = far.request().await;
        far.welcome(&nonce, PROTOCOL).await;
        first
    };
    let (session, first) = tokio::join!(opening, answering);
    session.unwrap();
    assert_eq!(first, Request::StdinEnd);
}

#[tokio::test]
async fn a_swallowed_greeting_is_repeated() {
    let (duplex, mut far) = pair(1 << 20);
    let settings = Settings { patience: Duration::from_secs(4), ..Settings::default() };
    let opening = Session::open(duplex, &settings, &[]);
    let answering = async {
        let swallowed = far.hello().await;
        let nonce = far.hello().await;
        far.welcome(&swallowed, PROTOCOL).await;
        far.welcome(&nonce, PROTOCOL).await;
    };
    let (session, ()) = tokio::join!(opening, answering);
    session.unwrap();
}

#[tokio::test]
async fn silence_another_protocol_and_an_end_are_told_apart() {
    let impatient = Settings { patience: Duration::from_millis(20), ..Settings::default() };
    let (duplex, _far) = pair(1 << 20);
    let silent = Session::open(duplex, &impatient, &[]).await.err().unwrap();
    assert!(matches!(silent, SessionError::NoWelcome { .. }), "{silent}");

    let (duplex, mut far) = pair(1 << 20);
    let settings = Settings::default();
    let opening = Session::open(duplex, &settings, &[]);
    let answering = async {
        let nonce = far.hello().await;
        far.welcome(&nonce, PROTOCOL + 1).await;
    };
    let (other, ()) = tokio::join!(opening, answering);
    let other = other.err().unwrap();
    assert!(matches!(other, SessionError::OtherProtocol { theirs, .. } if theirs == PROTOCOL + 1), "{other}");

    let (duplex, far) = pair(1 << 20);
    drop(far);
    let ended = Session::open(duplex, &settings, &[]).await.err().unwrap();
    assert!(matches!(ended, SessionError::Ended { .. } | SessionError::Write { .. }), "{ended}");
}

#[tokio::test]
async fn a_far_end_that_gives_up_stops_the_sending() {
    let (mut session, mut far) = open(64 << 10).await;
    let endless = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 8192])));
    let failing = async {
        let Received::Data(_) = far.hear().await else { panic!("no data") };
        let failed = Failed { why: Failure::DiskFull, detail: "no\nroom".to_owned() };
        far.reply(&Reply::Failed(failed)).await;
    };
    let (sent, ()) = tokio::join!(session.send_data(endless), failing);
    let error = sent.unwrap_err();
    assert_eq!(error.to_string(), "the agent gave up: no\\nroom");
    assert!(error.advice().unwrap().contains("room"));
}

#[tokio::test]
async fn data_that_cannot_be_read_on_is_no_end_of_data() {
    let (mut session, mut far) = open(64 << 10).await;
    let broken = stream::iter([Ok(Bytes::from_static(b"begun")), Err(io::Error::other("gone"))]);
    let error = session.send_data(broken).await.unwrap_err();
    assert!(matches!(error, SessionError::Body { .. }), "{error}");
    assert_eq!(far.hear().await, Received::Data(b"begun".to_vec()));
    assert_eq!(far.hear().await, Received::DataFailed("gone".to_owned()));
}

#[tokio::test]
async fn a_sending_that_is_dropped_leaves_no_half_frame() {
    let (session, mut far) = open(16).await;
    let long = Request::Stdin(protocol::Blob::from(vec![7; 100_000]));
    // No reader yet, so the frame is cut off after its first bytes.
    tokio::select! {
        biased;
        sent = session.sender.send(&long) => panic!("it cannot all be sent: {sent:?}"),
        () = tokio::task::yield_now() => {}
    }
    let sending = session.sender.send(&Request::StdinEnd);
    let hearing = async { [far.request().await, far.request().await] };
    let (sent, heard) = tokio::join!(sending, hearing);
    sent.unwrap();
    assert_eq!(heard, [long, Request::StdinEnd]);
}

#[tokio::test]
async fn an_early_end_is_an_error_on_both_sides_of_the_thread() {
    let (mut session, mut far) = open(64 << 10).await;
    far.push(Kind::Data, b"the beginning").await;
    drop(far);
    let (told, tell) = std::sync::mpsc::channel();
    let received = session.receive_data(move |mut reader| {
        let mut bytes = Vec::new();
        told.send(reader.read_to_end(&mut bytes).map_err(|error| error.kind())).unwrap();
    });
    let error = received.await.unwrap_err();
    assert!(matches!(error, SessionError::Ended { .. }), "{error}");
    assert_eq!(tell.recv().unwrap(), Err(io::ErrorKind::UnexpectedEof));
}

#[tokio::test]
async fn a_reader_that_stops_early_leaves_the_session_usable() {
    let (mut session, mut far) = open(64 << 10).await;
    let feeding = async {
        for _ in 0..100 {
            far.push(Kind::Data, &[1; 1000]).await;
        }
        far.push(Kind::DataEnd, b"").await;
        far.reply(&EXITED).await;
    };
    let reading = async {
        let first = session.receive_data(|mut reader| {
            let mut byte = [0];
            reader.read_exact(&mut byte).map(|()| byte[0])
        });
        assert_eq!(first.await.unwrap().unwrap(), 1);
        session.reply("the end", exited).await.unwrap()
    };
    let ((), status) = tokio::join!(feeding, reading);
    assert_eq!(status, Status::Code(3));
}

#[tokio::test]
async fn nothing_follows_a_goodbye() {
    let (mut session, mut far) = open(64 << 10).await;
    let sender = session.sender.clone();
    let answering = async {
        assert_eq!(far.request().await, Request::Bye);
        far.reply(&Reply::Closing { peak_kib: 42 }).await;
    };
    let (peak, ()) = tokio::join!(session.close(), answering);
    assert_eq!(peak.unwrap(), 42);
    sender.send(&Request::Signal(2)).await.unwrap();
    drop((sender, session));
    let mut rest = Vec::new();
    far.from.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
    assert!(!far.decoder.has_rest());
}

#[tokio::test]
async fn another_answer_than_the_awaited_one_is_named() {
    let (mut session, mut far) = open(64 << 10).await;
    far.reply(&Reply::Applied).await;
    let error = session.reply("the end of the command", exited).await.unwrap_err();
    assert_eq!(error.to_string(), "the agent said Applied in place of the end of the command");
}

#[tokio::test]
async fn traffic_is_counted_both_ways() {
    let (session, mut far) = open(1 << 20).await;
    let before = session.traffic();
    assert!(before.sent > 32 << 10 && before.received > 0, "{before:?}");
    session.sender.send(&Request::StdinEnd).await.unwrap();
    assert_eq!(far.request().await, Request::StdinEnd);
    assert_eq!(session.traffic(), Traffic { sent: before.sent + 13, ..before });
}

#[test]
fn diagnostics_keep_the_last_of_it_in_one_line() {
    let mut diagnostics = Diagnostics::default();
    diagnostics.push(&vec![b'x'; 2 * DIAGNOSTICS]);
    diagnostics.push(b"\nthe\x1bend\n");
    let text = diagnostics.text();
    assert!(text.ends_with("x\\nthe\\u{1b}end"), "{text}");
    assert!(text.len() < DIAGNOSTICS + 16);
}
