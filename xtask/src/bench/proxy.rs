//! A socket in front of the engine's that counts what passes: bytes on the wire, the same for every contender.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};

/// A running proxy; it stops when dropped.
pub struct Proxy {
    socket: PathBuf,
    passed: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on `socket` and passes everything on to the engine at `engine`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(runtime: &tokio::runtime::Handle, socket: PathBuf, engine: PathBuf) -> Result<Proxy> {
        let _entered = runtime.enter();
        let listener = UnixListener::bind(&socket).with_context(|| format!("cannot listen on {socket:?}"))?;
        let passed = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&passed);
        let task = runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (engine, counter) = (engine.clone(), Arc::clone(&counter));
                // A connection that breaks off is the contender's to notice.
                tokio::spawn(async move { pass_on(client, &engine, &counter).await.ok() });
            }
        });
        Ok(Proxy { socket, passed, task })
    }

    /// The address for `DOCKER_HOST`.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket.to_string_lossy())
    }

    /// Bytes that went either way since the last call.
    pub fn take(&self) -> u64 {
        self.passed.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        fs_err::remove_file(&self.socket).ok();
    }
}

async fn pass_on(client: UnixStream, engine: &Path, counter: &AtomicU64) -> std::io::Result<()> {
    let engine = UnixStream::connect(engine).await?;
    let (from_client, to_client) = client.into_split();
    let (from_engine, to_engine) = engine.into_split();
    tokio::try_join!(one_way(from_client, to_engine, counter), one_way(from_engine, to_client, counter))?;
    Ok(())
}

/// Passes on until the end of the stream, and the end too: hijacked connections close one half at a time.
async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    counter: &AtomicU64,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        counter.fetch_add(read as u64, Ordering::Relaxed);
        to.write_all(&buffer[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_passes_arrives_whole_and_is_counted_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let (engine, socket) = (dir.path().join("engine"), dir.path().join("proxy"));
        let listener = UnixListener::bind(&engine).unwrap();
        let proxy = Proxy::start(&tokio::runtime::Handle::current(), socket.clone(), engine).unwrap();
        let answering = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).await.unwrap();
            stream.write_all(b"seven").await.unwrap();
            asked
        });
        let mut client = UnixStream::connect(&socket).await.unwrap();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"seven");
        assert_eq!(answering.await.unwrap(), b"question");
        assert_eq!((proxy.take(), proxy.take()), (13, 0));
    }
}
