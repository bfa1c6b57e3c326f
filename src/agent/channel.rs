//! Joins blocking threads and async tasks: a bounded channel of chunks, `Write` or `Read` at one
//! end.
//!
//! Bounded, so that memory does not grow when one side is slower than the other.

use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes};
use futures_util::{Stream, stream};
use tokio::sync::mpsc;

/// How many chunks may wait. Packing and the engine's client both move some 256 KiB at once.
const WAITING: usize = 8;

/// One chunk, or the error that ended the stream.
pub type Chunk = Result<Bytes, io::Error>;

/// The writer for a blocking thread. The async side reads the stream from [`to_async`].
pub struct ChunkWriter(mpsc::Sender<Chunk>);

/// A writer for a blocking thread, and the stream of what it writes.
pub fn to_async() -> (ChunkWriter, impl Stream<Item = Chunk> + Send + 'static) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (
        ChunkWriter(sender),
        stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver))),
    )
}

impl ChunkWriter {
    /// Ends the stream with an error, so that the far end does not take it for complete.
    pub fn fail(self, error: io::Error) {
        // A failure means that the receiver is gone and cannot be misled.
        let _ = self.0.blocking_send(Err(error));
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reader for a blocking thread. The async side holds the sender; dropping it ends the stream.
pub struct ChunkReader {
    receiver: mpsc::Receiver<Chunk>,
    current: Bytes,
}

/// A reader for a blocking thread and the sender that feeds it.
pub fn to_blocking() -> (mpsc::Sender<Chunk>, ChunkReader) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (sender, ChunkReader { receiver, current: Bytes::new() })
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Ok(chunk)) => self.current = chunk,
                Some(Err(error)) => return Err(error),
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}
