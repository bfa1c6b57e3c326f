//! Writes to a stdout that another process has set to non-blocking.
//!
//! `O_NONBLOCK` belongs to the open file, not to the descriptor, so any program that shares the
//! pipe or terminal (CI runners on Node do it) can set it while fastbuild runs. When the pipe is
//! full, a write then answers "would block", which would cut the build's output. This writer waits
//! instead, as a blocking write does.

use std::io::Write;

/// Wraps one of the process's own streams.
#[cfg(unix)]
pub(super) fn patient<W: Write + std::os::fd::AsFd + Send + 'static>(writer: W) -> Box<dyn Write + Send> {
    Box::new(unix::Patient(writer))
}

/// Wraps one of the process's own streams.
#[cfg(not(unix))]
pub(super) fn patient<W: Write + Send + 'static>(writer: W) -> Box<dyn Write + Send> {
    Box::new(writer)
}

#[cfg(unix)]
mod unix {
    use std::{
        io::{self, Write},
        os::fd::AsFd,
    };

    use rustix::event::{PollFd, PollFlags, poll};

    pub(super) struct Patient<W>(pub(super) W);

    impl<W: Write + AsFd> Patient<W> {
        fn until_done<T>(&mut self, mut step: impl FnMut(&mut W) -> io::Result<T>) -> io::Result<T> {
            loop {
                match step(&mut self.0) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(&self.0)?,
                    other => return other,
                }
            }
        }
    }

    impl<W: Write + AsFd> Write for Patient<W> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.until_done(|writer| writer.write(bytes))
        }

        fn flush(&mut self) -> io::Result<()> {
            self.until_done(Write::flush)
        }
    }

    fn wait(writer: &impl AsFd) -> io::Result<()> {
        match poll(&mut [PollFd::new(writer, PollFlags::OUT)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{io::Read, os::unix::net::UnixStream, thread};

    use super::*;

    #[test]
    fn a_full_non_blocking_pipe_loses_no_byte() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        // More than any socket's buffers, so that the writer must get "would block".
        let sent: Vec<u8> = (0..4_000_000u32).map(|n| n as u8).collect();
        let copy = sent.clone();
        let thread = thread::spawn(move || patient(writer).write_all(&copy));
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        thread.join().unwrap().unwrap();
        assert_eq!(got, sent);
    }
}
