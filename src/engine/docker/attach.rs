//! A container's standard streams, byte for byte.
//!
//! One HTTP request, upgraded to a raw connection: the bytes that we write are the process's input,
//! the bytes that we read are its output. With a terminal the output is raw. Without one it comes
//! in frames: eight bytes of header, then up to 4 GiB of payload, which is passed on as it arrives.
//! The container's settings decide between the two forms, not the bytes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bollard::models::ExecConfig;
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};

use super::{
    answer::{detail, refused},
    client::{Docker, failed},
    container::ContainerId,
};
use crate::{
    engine::error::{BadFrame, Call, EngineError, Operation, StartError, chain},
    spec::{Stdin, Stream, Terminal},
};

/// How many bytes are read at once: a Linux pipe's capacity, which a busy process has ready.
const CHUNK: usize = 64 * 1024;

/// With a terminal, engines look for a key sequence that detaches. This cannot be turned off, and
/// they hold the sequence's first key back until the next key is pressed. The default begins with
/// Ctrl-P, which shells and editors use all the time. Users do not type this sequence.
const DETACH_KEYS: &str = "ctrl-%5E%2Cctrl-@%2Cctrl-%5E%2Cctrl-@%2Cctrl-%5E%2Cctrl-@";

/// The streams of a container's process.
#[derive(Debug)]
pub struct Attached {
    /// The process's input; `None` without [`Stdin::Forward`].
    pub input: Option<AttachInput>,
    /// The process's output.
    pub output: AttachOutput,
}

/// The process's standard input. `shutdown` ends it: the process reads end of file, and its output
/// still arrives. Dropping it does not end it; dropping both halves does.
///
/// On Windows's named pipes a half cannot be closed: the input ends only with the connection.
#[derive(Debug)]
pub struct AttachInput(WriteHalf<TokioIo<Upgraded>>);

/// The process's output.
#[derive(Debug)]
pub struct AttachOutput {
    container: String,
    connection: ReadHalf<TokioIo<Upgraded>>,
    received: BytesMut,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Raw,
    Frames(Demux),
}

impl Docker {
    /// Attaches to the container's process. After this has returned, no output of the process is
    /// missed; so attach first, then start.
    ///
    /// `terminal` and `stdin` must be those that the container was made with.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`], [`EngineError::Gone`], and other errors that the engine
    /// answers. Podman prepares the process at this point, so an error in the command shows here
    /// already, as it does in [`Docker::start`].
    pub async fn attach(
        &self,
        id: &ContainerId,
        terminal: Terminal,
        stdin: Stdin,
    ) -> Result<Attached, StartError> {
        match self.attached(id, terminal, stdin).await {
            Err(error @ EngineError::Api { .. }) => Err(self.explain_start(id, error).await),
            other => Ok(other?),
        }
    }

    async fn attached(
        &self,
        id: &ContainerId,
        terminal: Terminal,
        stdin: Stdin,
    ) -> Result<Attached, EngineError> {
        let call = Call::new(Operation::Attach, id);
        let request = attach_request(id, terminal, stdin);
        let (connection, input) = tokio::io::split(self.upgraded(call, request).await?);
        let format = match terminal {
            Terminal::Allocate => Format::Raw,
            Terminal::None => Format::Frames(Demux::default()),
        };
        Ok(Attached {
            input: (stdin == Stdin::Forward).then_some(AttachInput(input)),
            output: AttachOutput { container: id.to_string(), connection, received: BytesMut::new(), format },
        })
    }

    /// Runs another program in a running container, as root and beside its main process, and
    /// attaches to it. The program continues to run when the connection ends.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`], and the errors common to all requests.
    pub async fn exec(&self, id: &ContainerId, command: &[&str]) -> Result<Attached, EngineError> {
        let call = || Call::new(Operation::Exec, id);
        let config = ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            user: Some("0:0".to_owned()),
            cmd: Some(command.iter().map(|&word| word.to_owned()).collect()),
            ..ExecConfig::default()
        };
        let exec = self.client.create_exec(id.as_str(), config).await.map_err(failed(call()))?;
        let body = Full::new(Bytes::from_static(br#"{"Detach":false,"Tty":false}"#));
        let mut request = upgrade_request(&format!("/exec/{}/start", exec.id), body);
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let (connection, input) = tokio::io::split(self.upgraded(call(), request).await?);
        Ok(Attached {
            input: Some(AttachInput(input)),
            output: AttachOutput {
                container: id.to_string(),
                connection,
                received: BytesMut::new(),
                format: Format::Frames(Demux::default()),
            },
        })
    }

    /// Sends a request that turns its connection into the process's streams.
    async fn upgraded(
        &self,
        call: Call,
        request: Request<Full<Bytes>>,
    ) -> Result<TokioIo<Upgraded>, EngineError> {
        let response = match self.wire.send(request).await {
            Ok(response) => response,
            Err(error) => return Err(EngineError::Gone { call, detail: detail(error) }),
        };
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {}
            // Engines that upgrade without a status of 101 are older than [`Docker`] supports.
            status if status.is_success() => {
                let message = format!("status {} in place of a raw connection", status.as_u16());
                return Err(EngineError::BadAnswer { call, message });
            }
            _ => return Err(refused(call, response).await),
        }
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|error| EngineError::Gone { call, detail: chain(&error) })?;
        Ok(TokioIo::new(upgraded))
    }
}

fn attach_request(id: &ContainerId, terminal: Terminal, stdin: Stdin) -> Request<Full<Bytes>> {
    let input = if stdin == Stdin::Forward { "&stdin=1" } else { "" };
    let keys = match terminal {
        Terminal::Allocate => format!("&detachKeys={DETACH_KEYS}"),
        Terminal::None => String::new(),
    };
    let path = format!("/containers/{}/attach?stream=1&stdout=1&stderr=1{input}{keys}", id.as_str());
    upgrade_request(&path, Full::default())
}

fn upgrade_request(path: &str, body: Full<Bytes>) -> Request<Full<Bytes>> {
    let mut request = Request::new(body);
    *request.method_mut() = http::Method::POST;
    // An id that is not valid in a path becomes a request that the engine rejects as unknown.
    *request.uri_mut() = path.parse().unwrap_or_default();
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    request.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    request
}

impl AttachOutput {
    /// The next bytes of the process's output, and their stream; `None` after the last ones. The
    /// future may be dropped and called again without a loss.
    ///
    /// `None` also comes when the engine goes away between two frames; [`Docker::wait`] detects
    /// that.
    ///
    /// # Errors
    /// [`EngineError::Frame`] when the stream is damaged or ends inside a frame,
    /// [`EngineError::Gone`] when the connection breaks.
    pub async fn next(&mut self) -> Result<Option<(Stream, Bytes)>, EngineError> {
        loop {
            if let Some(chunk) = self.take()? {
                return Ok(Some(chunk));
            }
            self.received.reserve(CHUNK);
            match self.connection.read_buf(&mut self.received).await {
                Ok(0) => return self.end().map(|()| None),
                Ok(_) => {}
                // An engine that closes while input is on its way to a process that no longer reads
                // resets the connection. All output has arrived by then, unless a frame is open.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return self.end().map(|()| None);
                }
                Err(error) => {
                    let call = Call::new(Operation::Attach, &self.container);
                    return Err(EngineError::Gone { call, detail: chain(&error) });
                }
            }
        }
    }

    /// The received bytes that can be passed on now.
    fn take(&mut self) -> Result<Option<(Stream, Bytes)>, EngineError> {
        match &mut self.format {
            Format::Raw if self.received.is_empty() => Ok(None),
            Format::Raw => Ok(Some((Stream::Stdout, self.received.split().freeze()))),
            Format::Frames(demux) => demux
                .take(&mut self.received)
                .map_err(|source| EngineError::Frame { container: self.container.clone(), source }),
        }
    }

    fn end(&self) -> Result<(), EngineError> {
        match &self.format {
            Format::Raw => Ok(()),
            Format::Frames(demux) => demux
                .end(&self.received)
                .map_err(|source| EngineError::Frame { container: self.container.clone(), source }),
        }
    }
}

impl AsyncWrite for AttachInput {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Frames -> chunks. Keeps the position in the current frame, and never waits for the rest of one.
#[derive(Debug, Default)]
struct Demux {
    /// The open frame's stream, and how many of its bytes are still to come.
    open: Option<(Stream, u32)>,
}

impl Demux {
    const HEADER: usize = 8;

    /// The next chunk of `received`, however small; `None` when more bytes are needed.
    fn take(&mut self, received: &mut BytesMut) -> Result<Option<(Stream, Bytes)>, BadFrame> {
        loop {
            match self.open {
                None if received.len() < Demux::HEADER => return Ok(None),
                None => self.open = Some(read_header(received)?),
                Some((_, 0)) => self.open = None,
                Some(_) if received.is_empty() => return Ok(None),
                Some((stream, left)) => {
                    let length = received.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    // At most `left`, so it fits.
                    self.open = Some((stream, left - length as u32));
                    return Ok(Some((stream, received.split_to(length).freeze())));
                }
            }
        }
    }

    /// Whether the stream may end here, with `received` left over.
    fn end(&self, received: &BytesMut) -> Result<(), BadFrame> {
        match self.open {
            Some((_, missing @ 1..)) => Err(BadFrame::CutPayload { missing }),
            _ if !received.is_empty() => Err(BadFrame::CutHeader { have: received.len() }),
            _ => Ok(()),
        }
    }
}

/// Takes a header off `received`, which must have at least eight bytes.
fn read_header(received: &mut BytesMut) -> Result<(Stream, u32), BadFrame> {
    let mut header = [0; Demux::HEADER];
    received.copy_to_slice(&mut header);
    let [stream, pad1, pad2, pad3, length @ ..] = header;
    let stream = match stream {
        // The API calls 0 "standard input, written on standard output".
        0 | 1 => Stream::Stdout,
        2 => Stream::Stderr,
        _ => return Err(BadFrame::Header { header }),
    };
    // Always zero. Anything else is not a header, and its length would be read from ordinary text.
    if [pad1, pad2, pad3] != [0; 3] {
        return Err(BadFrame::Header { header });
    }
    Ok((stream, u32::from_be_bytes(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[stream, 0, 0, 0], &length[..], payload].concat()
    }

    /// Feeds `parts` one after the other. Returns the output, joined by stream, and how it ended.
    fn demux(parts: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Result<(), BadFrame>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (mut demux, mut received) = (Demux::default(), BytesMut::new());
        for part in parts {
            received.extend_from_slice(part);
            loop {
                match demux.take(&mut received) {
                    Ok(Some((Stream::Stdout, chunk))) => out.extend_from_slice(&chunk),
                    Ok(Some((Stream::Stderr, chunk))) => err.extend_from_slice(&chunk),
                    Ok(None) => break,
                    Err(error) => return (out, err, Err(error)),
                }
            }
        }
        (out, err, demux.end(&received))
    }

    #[test]
    fn frames_split_at_any_byte_give_the_same_streams() {
        let whole =
            [frame(1, b"\x01\x00\x02out"), frame(2, b""), frame(2, b"err\xff\n"), frame(1, b"!")].concat();
        for first in 0..=whole.len() {
            for second in first..=whole.len() {
                let parts = [&whole[..first], &whole[first..second], &whole[second..]];
                let expected = (b"\x01\x00\x02out!".to_vec(), b"err\xff\n".to_vec(), Ok(()));
                assert_eq!(demux(&parts), expected, "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn part_of_a_frame_is_handed_on_at_once() {
        let huge = [&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], &b"first"[..]].concat();
        let (out, _, end) = demux(&[&huge]);
        assert_eq!(out, b"first");
        assert_eq!(end, Err(BadFrame::CutPayload { missing: u32::MAX - 5 }));
    }

    #[test]
    fn a_stream_cut_inside_of_a_frame_is_no_end() {
        let whole = frame(2, b"four");
        for cut in 1..whole.len() {
            let expected = match cut {
                1..8 => BadFrame::CutHeader { have: cut },
                _ => BadFrame::CutPayload { missing: u32::try_from(whole.len() - cut).unwrap() },
            };
            assert_eq!(demux(&[&whole[..cut]]).2, Err(expected), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_after_what_came_before_it() {
        let hostile: [&[u8; 8]; 5] = [
            &[3, 0, 0, 0, 0, 0, 0, 1],
            &[255; 8],
            b"hello wo",
            &[1, 1, 0, 0, 0, 0, 0, 1],
            &[2, 0, 0, 9, 0, 0, 0, 1],
        ];
        for header in hostile {
            let (out, _, end) = demux(&[&frame(1, b"before"), header]);
            assert_eq!(out, b"before");
            assert_eq!(end, Err(BadFrame::Header { header: *header }));
        }
    }

    #[test]
    fn only_forwarded_input_is_asked_for_and_no_usual_key_detaches() {
        let id = ContainerId::new("abc");
        let quiet = attach_request(&id, Terminal::None, Stdin::Empty);
        assert_eq!(quiet.uri(), "/containers/abc/attach?stream=1&stdout=1&stderr=1");
        let full = attach_request(&id, Terminal::Allocate, Stdin::Forward).uri().to_string();
        assert!(full.contains("&stdin=1&detachKeys=ctrl-%5E%2Cctrl-@"), "{full}");
    }
}
