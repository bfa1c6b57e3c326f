//! A terminal for tests: a pseudo-terminal whose other side is read by a thread, and just enough of a screen to tell
//! what a person would see on it.

use std::{
    ffi::OsStr,
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, process::ExitStatusExt as _},
    },
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use rustix::{
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{ControlModes, InputModes, LocalModes, OutputModes, Winsize},
};

use super::process::Watchdog;

/// How long a test waits for something to appear.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both sides of a pseudo-terminal.
pub struct Pty {
    keyboard: File,
    line: File,
    shown: Arc<(Mutex<Shown>, Condvar)>,
}

#[derive(Default)]
struct Shown {
    bytes: Vec<u8>,
    /// What [`Pty::until`] has passed.
    passed: usize,
}

/// What `tcgetattr` tells, to be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modes {
    /// Input.
    pub input: InputModes,
    /// Output.
    pub output: OutputModes,
    /// Line control.
    pub control: ControlModes,
    /// Echo, signals, whole lines.
    pub local: LocalModes,
}

impl Pty {
    /// A fresh terminal of 24 rows and 80 columns.
    pub fn new() -> Pty {
        let pty = Pty::unread();
        pty.read_along();
        pty
    }

    /// One that is read only by [`Pty::keyboard`], so that dropping it hangs it up.
    pub fn unread() -> Pty {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        // Nextest's test processes lead no session, so this does not become the controlling terminal of any process.
        let line = File::options().read(true).write(true).open(OsStr::from_bytes(name.as_bytes())).unwrap();
        let pty = Pty { keyboard: File::from(keyboard), line, shown: Arc::default() };
        pty.resize(24, 80);
        pty
    }

    /// The side of keyboard and screen.
    pub fn keyboard(&self) -> &File {
        &self.keyboard
    }

    fn read_along(&self) {
        let (mut screen, shown) = (self.keyboard.try_clone().unwrap(), Arc::clone(&self.shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error is the end: all users of the line are gone.
            while let Ok(n @ 1..) = screen.read(&mut buffer) {
                shown.0.lock().unwrap().bytes.extend_from_slice(&buffer[..n]);
                shown.1.notify_all();
            }
        });
    }

    /// The line as a stream of a process.
    pub fn stream(&self) -> Stdio {
        OwnedFd::from(self.line.try_clone().unwrap()).into()
    }

    /// Starts a command that has this terminal, and gives up its handles of it.
    pub fn spawn(&self, mut command: Command) -> Session {
        let child = command.spawn().unwrap();
        Session { _watchdog: Watchdog::over(&child), child, shown: Arc::clone(&self.shown) }
    }

    /// Presses keys.
    pub fn types(&self, keys: &[u8]) {
        (&self.keyboard).write_all(keys).unwrap();
    }

    /// Pulls at the window's corner.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.keyboard, size).unwrap();
    }

    /// How the line is set now.
    pub fn modes(&self) -> Modes {
        let now = rustix::termios::tcgetattr(&self.line).unwrap();
        Modes {
            input: now.input_modes,
            output: now.output_modes,
            control: now.control_modes,
            local: now.local_modes,
        }
    }

    /// Waits until `needle` appears after what an earlier call waited for; panics after a minute.
    #[track_caller]
    pub fn until(&self, needle: &str) {
        let until = Instant::now() + PATIENCE;
        let mut shown = self.shown.0.lock().unwrap();
        loop {
            let fresh = &shown.bytes[shown.passed..];
            if let Some(at) = fresh.windows(needle.len()).position(|window| window == needle.as_bytes()) {
                shown.passed += at + needle.len();
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seen = String::from_utf8_lossy(&shown.bytes).into_owned();
                drop(shown);
                panic!("{needle:?} did not appear: {seen:?}");
            }
            shown = self.shown.1.wait_timeout(shown, left).unwrap().0;
        }
    }

    /// All that was written so far, escape codes included.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.shown.0.lock().unwrap().bytes).into_owned()
    }
}

/// A process at a terminal, in a session of its own; killed when the test fails.
pub struct Session {
    child: Child,
    _watchdog: Watchdog,
    shown: Arc<(Mutex<Shown>, Condvar)>,
}

impl Session {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end.
    pub fn ends(mut self) {
        self.child.wait().unwrap();
    }

    /// Waits for the end, and asserts the exit code, which is 128 + n after signal n; on failure shows what was on the terminal.
    #[track_caller]
    pub fn exits(mut self, code: i32) {
        let status = self.child.wait().unwrap();
        let ended = status.code().or(status.signal().map(|signal| 128 + signal));
        let seen = String::from_utf8_lossy(&self.shown.0.lock().unwrap().bytes).into_owned();
        assert_eq!(ended, Some(code), "{seen}");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines that are on a screen, without empty ones at its end, after `written` was written to it. Knows what bars
/// use: carriage return, line feed, cursor up and down, and clearing of lines and of all below; anything else fails.
#[track_caller]
pub fn screen(written: &str) -> Vec<String> {
    let mut lines = vec![Vec::new()];
    let (mut row, mut column) = (0usize, 0usize);
    let mut chars = written.chars();
    while let Some(c) = chars.next() {
        match c {
            '\r' => column = 0,
            '\n' => row += 1,
            '\x1b' => {
                assert_eq!(chars.next(), Some('['), "an escape sequence that bars do not use: {written:?}");
                let sequence: String = chars.by_ref().take_while_inclusive(|c| !c.is_ascii_alphabetic());
                let (number, letter) = sequence.split_at(sequence.len() - 1);
                let n: usize = number.parse().unwrap_or(0);
                match letter {
                    "A" => row = row.saturating_sub(n.max(1)),
                    "B" => row += n.max(1),
                    "C" => column += n.max(1),
                    "D" => column = column.saturating_sub(n.max(1)),
                    "G" => column = n.max(1) - 1,
                    "K" if n == 2 => lines[row].clear(),
                    "K" if n == 0 => lines[row].truncate(column),
                    "J" if n == 0 => {
                        lines[row].truncate(column);
                        lines.truncate(row + 1);
                    }
                    "m" | "h" | "l" => {}
                    _ => panic!("unknown to this screen: {sequence:?}"),
                }
            }
            c => {
                let line: &mut Vec<char> = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                column += 1;
            }
        }
        lines.resize(lines.len().max(row + 1), Vec::new());
    }
    let mut text: Vec<_> =
        lines.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned()).collect();
    while text.last().is_some_and(String::is_empty) {
        text.pop();
    }
    text
}

trait TakeWhileInclusive: Iterator<Item = char> {
    /// Up to the first character that is not taken, and that one too.
    fn take_while_inclusive(&mut self, taken: impl Fn(&char) -> bool) -> String {
        let mut text = String::new();
        for c in self {
            text.push(c);
            if !taken(&c) {
                break;
            }
        }
        text
    }
}

impl<I: Iterator<Item = char>> TakeWhileInclusive for I {}
